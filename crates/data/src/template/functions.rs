//! The functions that a template can call by name.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::Raised;
use super::arguments::{bind, split};
use super::objects::{Cycler, Joiner, Namespace, Range};
use super::python::{as_integer, error, is_hashable, items, type_name};

/// Makes the functions known to an environment, and takes out what Jinja has not.
pub(super) fn add_to(environment: &mut Environment) {
    environment.remove_global("debug");
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_string);
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    environment.add_function("range", range);
    environment
        .add_function("dict", |state: &State, args: Rest<ValueOrKwargs>| dict(state, &args.into_values()));
    environment.add_function("namespace", |state: &State, args: Rest<ValueOrKwargs>| {
        let namespace = Namespace::default();
        for (name, value) in pairs(state, "namespace", &args.into_values())? {
            let name = name.as_str().ok_or_else(|| error("names of a namespace are text"))?;
            namespace.set(name, value)?;
        }
        Ok::<_, Error>(Value::from_object(namespace))
    });
    environment.add_function("cycler", |args: Rest<Value>| match args.is_empty() {
        true => Err(error("at least one item has to be provided")),
        false => Ok(Value::from_object(Cycler { items: args.0, at: 0.into() })),
    });
    environment.add_function("joiner", |args: Rest<ValueOrKwargs>| {
        let args = bind("joiner", &["sep"], 0, &args.into_values())?;
        let between = args[0].clone().unwrap_or_else(|| Value::from(", "));
        Ok::<_, Error>(Value::from_object(Joiner { between, used: false.into() }))
    });
}

fn range(first: &Value, second: Option<&Value>, step: Option<&Value>) -> Result<Value, Error> {
    let step = step.map_or(Ok(1), as_integer)?;
    match second {
        Some(second) => Range::of(as_integer(first)?, as_integer(second)?, step),
        None => Range::of(0, as_integer(first)?, step),
    }
}

/// `dict.fromkeys(keys, value)`, of the class or of a dict.
pub(super) fn from_keys(state: &State, of: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    if !matches!(type_name(of), "function" | "dict") {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    let args = bind("fromkeys", &[" keys", " value"], 1, &args.into_values())?;
    let value = args[1].clone().unwrap_or_else(|| Value::from(()));
    let pair = |key: Value| match is_hashable(&key) {
        true => Ok((key, value.clone())),
        false => Err(error(format!("unhashable type: '{}'", type_name(&key)))),
    };
    let keys = items(state, args[0].as_ref().unwrap_or(of))?.into_iter().map(pair);
    Ok(Value::from_pairs(keys.collect::<Result<Vec<_>, _>>()?))
}

fn dict(state: &State, args: &[Value]) -> Result<Value, Error> {
    Ok(Value::from_pairs(pairs(state, "dict", args)?))
}

/// What `dict` makes of its arguments: a dict or pairs by place, further pairs by name.
fn pairs(state: &State, what: &str, args: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    let (by_place, by_name) = split(args);
    let mut all = match by_place {
        [] => Vec::new(),
        [dict] if dict.kind() == ValueKind::Map => {
            dict.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten().collect()
        }
        [list] => {
            let pair = |item: Value| match items(state, &item)?.as_slice() {
                [key, _] if !is_hashable(key) => Err(error(format!("unhashable type: '{}'", type_name(key)))),
                [key, value] => Ok((key.clone(), value.clone())),
                other => Err(error(format!("{what}: an item has length {}; 2 is required", other.len()))),
            };
            items(state, list)?.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?
        }
        _ => return Err(error(format!("{what} expected at most 1 argument, got {}", by_place.len()))),
    };
    all.extend(by_name.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(all)
}
