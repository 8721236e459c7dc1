//! Objects of Python that the template engine has not, or has otherwise.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};

use super::python;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is whole: each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What filters such as `map` give: it is always true, has no length and no places, and ends when it was read once.
#[derive(Debug)]
pub(super) struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Generator {
    pub(super) fn of(items: Vec<Value>) -> Value {
        Value::from_object(Self(Mutex::new(items.into_iter())))
    }

    pub(super) fn next(&self) -> Option<Value> {
        locked(&self.0).next()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(locked(&self.0).by_ref().collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Which part of a dict a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
    Items,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keys => "dict_keys",
            Self::Values => "dict_values",
            Self::Items => "dict_items",
        }
    }
}

/// What `keys`, `values` and `items` of a dict give.
#[derive(Debug)]
pub(super) struct View {
    pub(super) dict: Value,
    pub(super) part: Part,
}

impl View {
    pub(super) fn of(dict: &Value, part: Part) -> Value {
        Value::from_object(Self { dict: dict.clone(), part })
    }

    fn items(&self) -> Vec<Value> {
        let pairs = self.dict.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten();
        let show = |(key, value)| match self.part {
            Part::Keys => key,
            Part::Values => value,
            Part::Items => Value::from((key, value)),
        };
        pairs.map(show).collect()
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.dict.len()
    }
}

/// `range`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
    len: usize,
}

impl Range {
    /// As many as the sandbox of jinja2 allows.
    const LONGEST: u64 = 100_000;

    pub(super) fn of(start: i64, stop: i64, step: i64) -> Result<Value, Error> {
        let distance = if step > 0 {
            i128::from(stop) - i128::from(start)
        } else {
            i128::from(start) - i128::from(stop)
        };
        let count = match (step, distance) {
            (0, _) => return Err(python::error("range() arg 3 must not be zero")),
            (_, ..=0) => 0,
            (step, distance) => (distance - 1) / i128::from(step).abs() + 1,
        };
        match u64::try_from(count) {
            Ok(len @ 0..=Self::LONGEST) => {
                Ok(Value::from_object(Self { start, stop, step, len: len as usize }))
            }
            _ => Err(python::error(format!("a range has {count} items, more than {}", Self::LONGEST))),
        }
    }
}

impl Range {
    /// The range of some of its items, by Python's `slice.indices`.
    pub(super) fn slice(&self, [start, stop, step]: [i64; 3]) -> Result<Value, Error> {
        let at = |i: i64| i.checked_mul(self.step).and_then(|far| self.start.checked_add(far));
        match (at(start), at(stop), self.step.checked_mul(step)) {
            (Some(start), Some(stop), Some(step)) => Self::of(start, stop, step),
            _ => Err(python::unsupported("a range of integers this large")),
        }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let i = key.as_usize().filter(|i| *i < self.len)?;
        Some(Value::from(self.start + self.step * i as i64))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }
}

/// `namespace`, in the order in which names were given.
#[derive(Debug, Default)]
pub(super) struct Namespace(Mutex<Vec<(Arc<str>, Value)>>);

impl Namespace {
    pub(super) fn set(&self, name: &str, value: Value) -> Result<(), Error> {
        if name.starts_with('_') {
            return Err(python::error(format!(
                "a namespace cannot have {name}, which begins with an underscore"
            )));
        }
        let mut all = locked(&self.0);
        match all.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, old)) => *old = value,
            None => all.push((name.into(), value)),
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        locked(&self.0).iter().find(|(known, _)| &**known == name).map(|(_, value)| value.clone())
    }

    pub(super) fn pairs(&self) -> Vec<(Arc<str>, Value)> {
        locked(&self.0).clone()
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.get(key)
    }
}

/// An item of what `groupby` gives: a pair whose halves have names.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) grouper: Value,
    pub(super) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (None, Some(0)) => Some(self.grouper.clone()),
            (Some("list"), _) | (None, Some(1)) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// `cycler`.
#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: Mutex<usize>,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        (key == "current").then(|| self.items[*locked(&self.at)].clone())
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn call_method(self: &Arc<Self>, _: &mut State, name: &str, args: &[Value]) -> Result<Value, Error> {
        let mut at = locked(&self.at);
        match (name, args) {
            ("next", []) => {
                let now = self.items[*at].clone();
                *at = (*at + 1) % self.items.len();
                Ok(now)
            }
            ("reset", []) => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `joiner`: nothing at first, then what stands between.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) between: Value,
    pub(super) used: Mutex<bool>,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        match (args.is_empty(), std::mem::replace(&mut *locked(&self.used), true)) {
            (false, _) => Err(python::error("a joiner takes no arguments")),
            (true, false) => Ok(Value::from("")),
            (true, true) => Ok(self.between.clone()),
        }
    }
}

/// A method that is named and not called: `d.items`.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) of: Value,
    pub(super) name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.of.call_method(state, &self.name, args)
    }
}
