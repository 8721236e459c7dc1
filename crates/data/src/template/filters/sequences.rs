//! Filters of sequences and dicts.

use std::collections::HashSet;

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::{TAKE_TEXT, known_filter, known_test, like, soft, text::string, truth};
use crate::template::arguments::{bind, given, split};
use crate::template::objects::{Generator, Group};
use crate::template::operators::{self, undefined_or};
use crate::template::python::{
    as_text, error, integer, is_generator, is_hashable, items, order, sorted, type_name,
};

pub(super) fn batch(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("batch", &["linecount", "fill_with"], 1, args)?;
    let count = args[0].as_ref().and_then(integer).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let count = count.ok_or_else(|| error("batch wants a count above 0"))?;
    let all = items(state, value)?;
    let mut rows: Vec<Vec<Value>> = all.chunks(count).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (given(&args[1]), rows.last_mut()) {
        state.consume_fuel((count - last.len()) as u64)?;
        last.resize(count, fill.clone());
    }
    Ok(Generator::of(rows.into_iter().map(Value::from).collect()))
}

pub(super) fn slice(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("slice", &["slices", "fill_with"], 1, args)?;
    let count = args[0].as_ref().and_then(integer).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let count = count.ok_or_else(|| error("slice wants a count above 0"))?;
    let all = items(state, value)?;
    state.consume_fuel(count as u64)?;
    let (each, more) = (all.len() / count, all.len() % count);
    let mut at = 0;
    let columns = (0..count).map(|i| {
        let end = at + each + usize::from(i < more);
        let mut column = all[at..end].to_vec();
        at = end;
        column.extend(given(&args[1]).filter(|_| i >= more).cloned());
        Value::from(column)
    });
    Ok(Generator::of(columns.collect()))
}

pub(super) fn list(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("list", &[], 0, args)?;
    items(state, value).map(Value::from)
}

pub(super) fn items_filter(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("items", &[], 0, args)?;
    match value.kind() {
        ValueKind::Undefined => Ok(Generator::of(Vec::new())),
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten();
            Ok(Generator::of(pairs.map(Value::from).collect()))
        }
        _ => Err(error("can only get item pairs from a mapping")),
    }
}

pub(super) fn first(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("first", &[], 0, args)?;
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Ok(generator.next().unwrap_or_default());
    }
    match value.kind() {
        ValueKind::String | ValueKind::Seq => Ok(value.try_iter()?.next().unwrap_or_default()),
        _ => Ok(items(state, value)?.into_iter().next().unwrap_or_default()),
    }
}

pub(super) fn last(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("last", &[], 0, args)?;
    match is_generator(value) {
        true => Err(error("'generator' object is not reversible")),
        false => Ok(items(state, value)?.pop().unwrap_or_default()),
    }
}

pub(super) fn reverse(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("reverse", &[], 0, args)?;
    if let Some(text) = value.as_str() {
        return Ok(like(value, text.chars().rev().collect()));
    }
    let mut all = items(state, value)?;
    all.reverse();
    Ok(Generator::of(all))
}

/// What an attribute such as `a.b.0` of an item is; the whole item without one.
struct Getter {
    parts: Vec<Value>,
    default: Option<Value>,
    ignore_case: bool,
}

impl Getter {
    fn new(attribute: Option<&Value>, ignore_case: bool) -> Result<Self, Error> {
        let parts = match attribute {
            None => Vec::new(),
            Some(place) if place.is_integer() => vec![place.clone()],
            Some(path) => as_text(path, "the attribute")?
                .split('.')
                .map(|part| match !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
                    true => part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from),
                    false => Value::from(part),
                })
                .collect(),
        };
        Ok(Self { parts, default: None, ignore_case })
    }

    fn of(&self, state: &State, item: &Value) -> Result<Value, Error> {
        let (first, rest) = match self.parts.split_first() {
            Some((first, rest)) => (operators::item(state, item, first)?, rest),
            None => (item.clone(), [].as_slice()),
        };
        let default = |value: Value| self.default.clone().filter(|_| value.is_undefined()).unwrap_or(value);
        let mut value = if self.parts.is_empty() { first } else { default(first) };
        for part in rest {
            value = default(operators::item(state, &value, part)?);
        }
        match value.as_str().filter(|_| self.ignore_case) {
            Some(text) => Ok(Value::from(text.to_lowercase())),
            None => Ok(value),
        }
    }
}

pub(super) fn join(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("join", &["d", "attribute"], 0, args)?;
    let getter = Getter::new(given(&args[1]), false)?;
    let between =
        args[0].as_ref().map_or(Ok(std::borrow::Cow::Borrowed("")), |between| soft(state, between))?;
    let mut out = String::new();
    for (i, item) in items(state, value)?.iter().enumerate() {
        let item = getter.of(state, item)?;
        let part = soft(state, &item)?;
        state.consume_fuel((part.len() + between.len()) as u64 / 64)?;
        out.push_str(if i > 0 { &between } else { "" });
        out.push_str(&part);
    }
    Ok(Value::from(out))
}

pub(super) fn map(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    // jinja2 takes any false value for an empty list.
    if !value.is_true() {
        return Ok(Generator::of(Vec::new()));
    }
    let (by_place, by_name) = split(args);
    let all = items(state, value)?;
    let results = match by_place {
        [] => {
            let args = bind("map", &["attribute", "default"], 0, args)?;
            let attribute = given(&args[0]).ok_or_else(|| error("map requires a filter argument"))?;
            let getter = Getter { default: args[1].clone(), ..Getter::new(Some(attribute), false)? };
            all.iter().map(|item| getter.of(state, item)).collect::<Result<Vec<_>, _>>()?
        }
        [filter, rest @ ..] => {
            let filter = as_text(filter, "map: the filter")?;
            known_filter(filter)?;
            let mut call: Vec<Value> = [Value::UNDEFINED].into_iter().chain(rest.iter().cloned()).collect();
            if !by_name.is_empty() {
                call.extend(args.last().cloned());
            }
            let mut results = Vec::with_capacity(all.len());
            for item in all {
                call[0] = if TAKE_TEXT.contains(&filter) { string(state, &item, &[])? } else { item };
                results.push(state.apply_filter(filter, &call)?);
            }
            results
        }
    };
    Ok(Generator::of(results))
}

fn chosen(
    state: &mut State,
    value: &Value,
    args: &[Value],
    by_attribute: bool,
    wanted: bool,
) -> Result<Value, Error> {
    if !value.is_true() {
        return Ok(Generator::of(Vec::new()));
    }
    let (mut by_place, by_name) = split(args);
    let mut getter = Getter::new(None, false)?;
    if by_attribute {
        let (attribute, rest) = by_place.split_first().ok_or_else(|| error("an attribute is missing"))?;
        getter = Getter::new(Some(attribute), false)?;
        by_place = rest;
    }
    let test = by_place.split_first();
    let name = test.map(|(name, _)| as_text(name, "the test")).transpose()?;
    name.map_or(Ok(()), known_test)?;
    let mut call = vec![Value::UNDEFINED];
    call.extend(test.into_iter().flat_map(|(_, rest)| rest.iter().cloned()));
    if !by_name.is_empty() {
        call.extend(args.last().cloned());
    }
    let mut kept = Vec::new();
    for item in items(state, value)? {
        call[0] = getter.of(state, &item)?;
        let fits = match name {
            Some(name) => state.perform_test(name, &call)?,
            None => call[0].is_true(),
        };
        if fits == wanted {
            kept.push(item);
        }
    }
    Ok(Generator::of(kept))
}

pub(super) fn select(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, false, true)
}

pub(super) fn reject(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, false, false)
}

pub(super) fn selectattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, true, true)
}

pub(super) fn rejectattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, true, false)
}

fn keyed(state: &State, all: Vec<Value>, getter: &Getter) -> Result<Vec<(Value, Value)>, Error> {
    // Sorting compares each about so often.
    state.consume_fuel(
        (all.len() as u64).saturating_mul(u64::from(usize::BITS - all.len().leading_zeros())),
    )?;
    all.into_iter().map(|item| Ok((getter.of(state, &item)?, item))).collect()
}

pub(super) fn sort(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("sort", &["reverse", "case_sensitive", "attribute"], 0, args)?;
    let ignore_case = !truth(&args[1], false);
    let all = items(state, value)?;
    let pairs = match given(&args[2]).map(|by| (by, by.as_str().unwrap_or_default())) {
        Some((_, names)) if names.contains(',') => {
            let getters = names.split(',').map(|name| Getter::new(Some(&Value::from(name)), ignore_case));
            let getters = getters.collect::<Result<Vec<_>, _>>()?;
            let key = |item: Value| {
                let key =
                    getters.iter().map(|getter| getter.of(state, &item)).collect::<Result<Vec<_>, _>>()?;
                Ok::<_, Error>((Value::from(key), item))
            };
            all.into_iter().map(key).collect::<Result<Vec<_>, _>>()?
        }
        by => keyed(state, all, &Getter::new(by.map(|(by, _)| by), ignore_case)?)?,
    };
    sorted(state, pairs, truth(&args[0], false)).map(Value::from)
}

pub(super) fn dictsort(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("dictsort", &["case_sensitive", "by", "reverse"], 0, args)?;
    let by = match args[1].as_ref().map_or(Some("key"), Value::as_str) {
        Some("key") => 0,
        Some("value") => 1,
        _ => return Err(error("you can only sort by either \"key\" or \"value\"")),
    };
    if value.kind() != ValueKind::Map {
        return Err(undefined_or(value, || error(format!("'{}' object has no items", type_name(value)))));
    }
    let pairs = value.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten();
    let all = pairs.map(Value::from).collect();
    let getter = Getter::new(Some(&Value::from(by)), !truth(&args[0], false))?;
    sorted(state, keyed(state, all, &getter)?, truth(&args[2], false)).map(Value::from)
}

pub(super) fn groupby(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("groupby", &["attribute", "default", "case_sensitive"], 1, args)?;
    let getter = |ignore_case| {
        Ok::<_, Error>(Getter { default: args[1].clone(), ..Getter::new(args[0].as_ref(), ignore_case)? })
    };
    let (by, plain) = (getter(!truth(&args[2], false))?, getter(false)?);
    let all = sorted(state, keyed(state, items(state, value)?, &by)?, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in all {
        let key = by.of(state, &item)?;
        match groups.last_mut() {
            Some((last, list)) if *last == key => list.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let group = |(_, list): (Value, Vec<Value>)| {
        let grouper = plain.of(state, &list[0])?;
        Ok::<_, Error>(Value::from_object(Group { grouper, list: Value::from(list) }))
    };
    groups.into_iter().map(group).collect::<Result<Vec<_>, _>>().map(Value::from)
}

pub(super) fn unique(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("unique", &["case_sensitive", "attribute"], 0, args)?;
    let getter = Getter::new(given(&args[1]), !truth(&args[0], false))?;
    let (mut seen, mut kept) = (HashSet::new(), Vec::new());
    for item in items(state, value)? {
        let key = getter.of(state, &item)?;
        if !is_hashable(&key) {
            return Err(error(format!("unhashable type: '{}'", type_name(&key))));
        }
        if seen.insert(key) {
            kept.push(item);
        }
    }
    Ok(Generator::of(kept))
}

fn extreme(state: &State, value: &Value, args: &[Value], what: &str) -> Result<Value, Error> {
    let args = bind(what, &["case_sensitive", "attribute"], 0, args)?;
    let getter = Getter::new(given(&args[1]), !truth(&args[0], false))?;
    let wanted = if what == "min" { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
    let mut best: Option<(Value, Value)> = None;
    for item in items(state, value)? {
        let key = getter.of(state, &item)?;
        let better = match &best {
            Some((best, _)) => order(state, &key, best)? == Some(wanted),
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

pub(super) fn min(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    extreme(state, value, args, "min")
}

pub(super) fn max(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    extreme(state, value, args, "max")
}

pub(super) fn sum(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("sum", &["attribute", "start"], 0, args)?;
    let getter = Getter::new(given(&args[0]), false)?;
    let mut total = args[1].clone().unwrap_or_else(|| Value::from(0));
    if total.as_str().is_some() {
        return Err(error("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in items(state, value)? {
        total = operators::add(state, &total, &getter.of(state, &item)?)?;
    }
    Ok(total)
}
