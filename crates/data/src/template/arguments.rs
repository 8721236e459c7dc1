//! Arguments by place or by name, as Python binds them.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::python::error;

/// The arguments of a call in the order of `names`; a name that begins with a blank is given by place only.
///
/// # Errors
/// When one is missing (the first `required` must be there), given twice or unknown.
pub(super) fn bind(
    what: &str,
    names: &[&str],
    required: usize,
    args: &[Value],
) -> Result<Vec<Option<Value>>, Error> {
    let (by_place, by_name) = split(args);
    if by_place.len() > names.len() {
        return Err(error(format!("{what} takes at most {} arguments, not {}", names.len(), by_place.len())));
    }
    let mut bound: Vec<Option<Value>> = by_place.iter().cloned().map(Some).collect();
    bound.resize(names.len(), None);
    for (name, value) in by_name {
        let place = names.iter().position(|known| *known == name);
        let Some(place) = place else { return Err(error(format!("{what} has no argument {name}"))) };
        if bound[place].replace(value).is_some() {
            return Err(error(format!("{what}: {name} is given twice")));
        }
    }
    match bound.iter().take(required).position(Option::is_none) {
        Some(missing) => Err(error(format!("{what}: {} is missing", names[missing].trim()))),
        None => Ok(bound),
    }
}

/// Arguments by place and by name.
pub(super) fn split(args: &[Value]) -> (&[Value], Vec<(String, Value)>) {
    let Some((last, before)) = args.split_last().filter(|(last, _)| last.is_kwargs()) else {
        return (args, Vec::new());
    };
    let Ok(named) = Kwargs::try_from(last.clone()) else { return (args, Vec::new()) };
    let pairs = named.args().filter_map(|name| Some((name.to_string(), named.peek(name).ok()?)));
    (before, pairs.collect())
}

/// An argument that counts as not given when it is none.
pub(super) fn given(value: &Option<Value>) -> Option<&Value> {
    value.as_ref().filter(|value| !value.is_none())
}
