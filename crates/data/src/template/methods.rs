//! The methods of Python's `str`, `dict`, `list`, `tuple`, `int` and `float` that a template may call.
//!
//! What changes its object (`append`, `update`) is not here: transformers runs templates in an immutable sandbox.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, given};
use super::letters;
use super::objects::{Part, View};
use super::python::{
    as_integer, as_text, error, integer, is_space, items, lines, slice, type_name, unsupported,
};
use super::{format, python};

const OF_TEXT: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "zfill",
];
const OF_TEXT_TOO: [&str; 2] = ["upper", "maketrans"];
const OF_DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const OF_LIST: [&str; 3] = ["copy", "count", "index"];
/// What changes a dict or a list: the sandbox hides it.
const CHANGES_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const CHANGES_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// Whether some value of Python has a method of that name.
pub(super) fn is_name(name: &str) -> bool {
    OF_TEXT.contains(&name)
        || OF_TEXT_TOO.contains(&name)
        || OF_DICT.contains(&name)
        || OF_LIST.contains(&name)
        || CHANGES_DICT.contains(&name)
        || CHANGES_LIST.contains(&name)
}

/// Whether a value has a method of that name in Python that the sandbox hides, as it changes the value.
pub(super) fn changes(value: &Value, name: &str) -> bool {
    match type_name(value) {
        "dict" => CHANGES_DICT.contains(&name),
        "list" => CHANGES_LIST.contains(&name),
        _ => false,
    }
}

/// Whether a value has a method of that name in Python.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match type_name(value) {
        "str" => OF_TEXT.contains(&name) || OF_TEXT_TOO.contains(&name),
        "dict" => OF_DICT.contains(&name),
        "list" => OF_LIST.contains(&name),
        "tuple" => matches!(name, "count" | "index"),
        "range" => matches!(name, "count" | "index" | "start" | "stop" | "step"),
        _ => false,
    }
}

/// Calls a method.
///
/// # Errors
/// When the value has no such method, or Python refuses the arguments.
pub(super) fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match type_name(value) {
        "str" if value.is_safe() => match args.is_empty() {
            true => Ok(match text(state, value.as_str().unwrap_or_default(), name, args)? {
                result if result.kind() == ValueKind::String => Value::from_safe_string(result.to_string()),
                result => result,
            }),
            false => Err(unsupported(&format!("{name} of escaped text"))),
        },
        "str" => text(state, value.as_str().unwrap_or_default(), name, args),
        "dict" => dict(value, name, args),
        "list" | "tuple" | "range" => sequence(state, value, name, args),
        "float" => match (name, f64::try_from(value.clone())) {
            ("is_integer", Ok(x)) => Ok(Value::from(x.fract() == 0.0)),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        "int" | "bool" => match (name, i128::try_from(value.clone())) {
            ("bit_length", Ok(x)) => Ok(Value::from(128 - x.unsigned_abs().leading_zeros())),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn dict(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let found = |key: &Value| value.as_object().and_then(|dict| dict.get_value(key));
    match name {
        "get" => {
            let args = bind("get", &[" key", " default"], 1, args)?;
            let key = args[0].clone().unwrap_or_default();
            if !python::is_hashable(&key) {
                return Err(error(format!("unhashable type: '{}'", type_name(&key))));
            }
            Ok(found(&key).unwrap_or_else(|| args[1].clone().unwrap_or_else(|| Value::from(()))))
        }
        "items" => bind(name, &[], 0, args).map(|_| View::of(value, Part::Items)),
        "keys" => bind(name, &[], 0, args).map(|_| View::of(value, Part::Keys)),
        "values" => bind(name, &[], 0, args).map(|_| View::of(value, Part::Values)),
        "copy" => bind(name, &[], 0, args).map(|_| value.clone()),
        name if CHANGES_DICT.contains(&name) => {
            Err(error(format!("dict.{name} is not for templates, which change nothing")))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn sequence(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "count" => {
            let args = bind(name, &[" value"], 1, args)?;
            Ok(Value::from(items(state, value)?.iter().filter(|item| args[0].as_ref() == Some(item)).count()))
        }
        "index" => {
            let args = bind(name, &[" value", " start", " stop"], 1, args)?;
            let all = items(state, value)?;
            let (from, count) = part(all.len(), &args[1], &args[2])?;
            let at = all[from..from + count].iter().position(|item| args[0].as_ref() == Some(item));
            at.map(|at| Value::from(from + at)).ok_or_else(|| error("the value is not in the list"))
        }
        "copy" if python::is_list(value) => bind(name, &[], 0, args).map(|_| value.clone()),
        name if CHANGES_LIST.contains(&name) => {
            Err(error(format!("list.{name} is not for templates, which change nothing")))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Where the part of a text or list from `start` to `stop` begins, and how long it is.
fn part(length: usize, start: &Option<Value>, stop: &Option<Value>) -> Result<(usize, usize), Error> {
    let none = Value::from(());
    let bounds = [start.as_ref().unwrap_or(&none), stop.as_ref().unwrap_or(&none), &none];
    let found = slice(length, bounds)?.ok_or_else(|| error("slice indices must be integers or None"))?;
    Ok((found.0 as usize, found.2))
}

fn text(state: &State, of: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    if args.is_empty()
        && let Some(result) = letters::plain(of, name)?
    {
        return Ok(result);
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let args = bind(name, &[" chars"], 0, args)?;
            let chars = given(&args[0]).map(|chars| as_text(chars, "strip arg")).transpose()?;
            Ok(Value::from(stripped(of, chars, name != "rstrip", name != "lstrip")))
        }
        "split" | "rsplit" => split(state, of, name == "rsplit", args),
        "splitlines" => {
            let args = bind(name, &["keepends"], 0, args)?;
            let keep = args[0].as_ref().is_some_and(Value::is_true);
            Ok(Value::from(lines(of, keep).into_iter().map(Value::from).collect::<Vec<_>>()))
        }
        "partition" | "rpartition" => {
            let args = bind(name, &[" sep"], 1, args)?;
            let mark = as_text(args[0].as_ref().unwrap_or(&Value::UNDEFINED), "sep")?.to_string();
            if mark.is_empty() {
                return Err(error("empty separator"));
            }
            let found = if name == "partition" { of.split_once(&*mark) } else { of.rsplit_once(&*mark) };
            let parts = match (found, name) {
                (Some((before, after)), _) => [before, &*mark, after],
                (None, "partition") => [of, "", ""],
                (None, _) => ["", "", of],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "removeprefix" | "removesuffix" => {
            let args = bind(name, &[" affix"], 1, args)?;
            let affix = as_text(args[0].as_ref().unwrap_or(&Value::UNDEFINED), "the argument")?;
            let rest = if name == "removeprefix" { of.strip_prefix(affix) } else { of.strip_suffix(affix) };
            Ok(Value::from(rest.unwrap_or(of)))
        }
        "startswith" | "endswith" => affixed(state, of, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => found(of, name, args),
        "replace" => replaced(state, of, args),
        "join" => {
            let args = bind(name, &[" iterable"], 1, args)?;
            let all = items(state, args[0].as_ref().unwrap_or(&Value::UNDEFINED))?;
            let mut out = String::new();
            for (i, item) in all.iter().enumerate() {
                let part = as_text(item, "sequence item")?;
                state.consume_fuel((part.len() + of.len()) as u64 / 64)?;
                out.push_str(if i > 0 { of } else { "" });
                out.push_str(part);
            }
            Ok(Value::from(out))
        }
        "format" => format::format(state, of, args).map(Value::from),
        "format_map" => {
            let args = bind(name, &[" mapping"], 1, args)?;
            format::format_map(state, of, args[0].as_ref().unwrap_or(&Value::UNDEFINED)).map(Value::from)
        }
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => filled(state, of, name, args),
        "translate" => translated(of, args),
        name if OF_TEXT.contains(&name) || OF_TEXT_TOO.contains(&name) => match args.is_empty() {
            true => Err(unsupported(&format!("str.{name}"))),
            false => Err(unsupported(&format!("str.{name} with these arguments"))),
        },
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Text without what stands at its ends: given characters, or white space.
pub(super) fn stripped<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let outside = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(outside) } else { text };
    if right { text.trim_end_matches(outside) } else { text }
}

fn split(state: &State, of: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let args = bind("split", &["sep", "maxsplit"], 0, args)?;
    let most = args[1].as_ref().map(as_integer).transpose()?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1);
    state.consume_fuel(of.len() as u64 / 64)?;
    let parts: Vec<&str> = match given(&args[0]) {
        Some(mark) => match as_text(mark, "sep")? {
            "" => return Err(error("empty separator")),
            mark if from_right => {
                let mut parts: Vec<_> = of.rsplitn(most + 1, mark).collect();
                parts.reverse();
                parts
            }
            mark => of.splitn(most + 1, mark).collect(),
        },
        None => words(of, from_right, most),
    };
    state.consume_fuel(parts.len() as u64)?;
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

fn words(of: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = stripped(of, None, !from_right, from_right);
    while !rest.is_empty() && parts.len() < most {
        let at = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = at else { break };
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (before, after) = (&rest[..at], &rest[at + width..]);
        parts.push(if from_right { after } else { before });
        rest =
            if from_right { before.trim_end_matches(is_space) } else { after.trim_start_matches(is_space) };
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn affixed(state: &State, of: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let args = bind(name, &[" affix", " start", " end"], 1, args)?;
    let chars: Vec<usize> = match args[1].is_some() || args[2].is_some() {
        true => of.char_indices().map(|(at, _)| at).chain([of.len()]).collect(),
        false => Vec::new(),
    };
    let of = match chars.is_empty() {
        true => of,
        false => {
            let (from, count) = part(chars.len() - 1, &args[1], &args[2])?;
            &of[chars[from]..chars[from + count]]
        }
    };
    let affix = args[0].clone().unwrap_or_default();
    let fits = |affix: &str| if name == "startswith" { of.starts_with(affix) } else { of.ends_with(affix) };
    match type_name(&affix) {
        "str" => Ok(Value::from(fits(affix.as_str().unwrap_or_default()))),
        "tuple" => {
            for affix in items(state, &affix)? {
                if fits(as_text(&affix, "tuple item")?) {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        other => Err(error(format!("{name} first arg must be str or a tuple of str, not {other}"))),
    }
}

fn found(of: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let args = bind(name, &[" sub", " start", " end"], 1, args)?;
    let what = as_text(args[0].as_ref().unwrap_or(&Value::UNDEFINED), "the argument")?;
    let chars: Vec<usize> = of.char_indices().map(|(at, _)| at).chain([of.len()]).collect();
    let length = chars.len() - 1;
    // A place behind the end finds nothing, not even empty text.
    let behind = args[1].as_ref().and_then(integer).is_some_and(|start| start > length as i64);
    let (from, count) = part(length, &args[1], &args[2])?;
    let within = &of[chars[from]..chars[from + count]];
    if name == "count" {
        let found = if what.is_empty() { count + 1 } else { within.matches(what).count() };
        return Ok(Value::from(if behind { 0 } else { found }));
    }
    let at = if name.starts_with('r') { within.rfind(what) } else { within.find(what) }.filter(|_| !behind);
    match (at, name.ends_with("index")) {
        (Some(at), _) => Ok(Value::from(from + within[..at].chars().count())),
        (None, false) => Ok(Value::from(-1)),
        (None, true) => Err(error("substring not found")),
    }
}

fn replaced(state: &State, of: &str, args: &[Value]) -> Result<Value, Error> {
    let args = bind("replace", &[" old", " new", " count"], 2, args)?;
    let undefined = Value::UNDEFINED;
    let old = as_text(args[0].as_ref().unwrap_or(&undefined), "replace argument 1")?;
    let new = as_text(args[1].as_ref().unwrap_or(&undefined), "replace argument 2")?;
    let most = args[2].as_ref().map(as_integer).transpose()?.and_then(|most| usize::try_from(most).ok());
    if new.len() > old.len() {
        let most = most.unwrap_or(usize::MAX).min(of.len() / old.len().max(1) + 1);
        state.consume_fuel(most.saturating_mul(new.len() - old.len()) as u64 / 64)?;
    }
    Ok(Value::from(match most {
        Some(most) => of.replacen(old, new, most),
        None => of.replace(old, new),
    }))
}

fn filled(state: &State, of: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    if name == "expandtabs" {
        let args = bind(name, &["tabsize"], 0, args)?;
        let size = usize::try_from(args[0].as_ref().map_or(Ok(8), as_integer)?).unwrap_or(0);
        state.consume_fuel(of.matches('\t').count().saturating_mul(size) as u64 / 64)?;
        let (mut out, mut column) = (String::new(), 0);
        for c in of.chars() {
            match c {
                '\t' => {
                    let wanted = if size == 0 { 0 } else { size - column % size };
                    out.extend(std::iter::repeat_n(' ', wanted));
                    column += wanted;
                }
                c => {
                    out.push(c);
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
        }
        return Ok(Value::from(out));
    }
    let names: &[&str] = if name == "zfill" { &[" width"] } else { &[" width", " fillchar"] };
    let args = bind(name, names, 1, args)?;
    let width = usize::try_from(args[0].as_ref().map_or(Ok(0), as_integer)?).unwrap_or(0);
    let fill = match args.get(1).and_then(Option::as_ref) {
        Some(fill) => {
            let mut chars = as_text(fill, "the fill character")?.chars();
            match (chars.next(), chars.next()) {
                (Some(fill), None) => fill,
                _ => return Err(error("the fill character must be exactly one character long")),
            }
        }
        None => ' ',
    };
    let missing = width.saturating_sub(of.chars().count());
    state.consume_fuel(missing as u64 / 16)?;
    let (left, right) = match name {
        "ljust" => (0, missing),
        // Where it is uneven CPython puts the odd one at the left if the width is odd too.
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            (left, missing - left)
        }
        _ => (missing, 0),
    };
    if name == "zfill" {
        let signed = usize::from(of.starts_with(['+', '-']));
        return Ok(Value::from(format!("{}{}{}", &of[..signed], "0".repeat(missing), &of[signed..])));
    }
    let fill = |n| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(Value::from(format!("{}{of}{}", fill(left), fill(right))))
}

fn translated(of: &str, args: &[Value]) -> Result<Value, Error> {
    let args = bind("translate", &[" table"], 1, args)?;
    let table = args[0].clone().unwrap_or_default();
    let table = table
        .as_object()
        .filter(|_| table.kind() == ValueKind::Map)
        .ok_or_else(|| unsupported("translate by what is not a dict"))?;
    let mut out = String::new();
    for c in of.chars() {
        match table.get_value(&Value::from(u32::from(c))) {
            None => out.push(c),
            Some(value) if value.is_none() => {}
            Some(value) => match (
                value.as_str(),
                integer(&value).and_then(|code| char::from_u32(u32::try_from(code).ok()?)),
            ) {
                (Some(text), _) => out.push_str(text),
                (None, Some(c)) => out.push(c),
                _ => return Err(error("character mapping must return integer, None or str")),
            },
        }
    }
    Ok(Value::from(out))
}
