//! Filters of text.

use std::sync::LazyLock;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};
use regex::Regex;

use super::{like, soft, truth};
use crate::template::arguments::{bind, given, split};
use crate::template::operators::undefined_or;
use crate::template::python::{as_integer, as_text, error, items, lines, type_name, unsupported};
use crate::template::{format, methods, printing};

pub(super) fn center(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("center", &["width"], 0, args)?;
    let width = args[0].clone().unwrap_or_else(|| Value::from(80));
    let text = Value::from(soft(state, value)?);
    methods::call(state, &text, "center", &[width])
}

pub(super) fn string(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("string", &[], 0, args)?;
    match value.kind() {
        ValueKind::String => Ok(value.clone()),
        _ => printing::text(state, value).map(Value::from),
    }
}

/// Text with the characters that HTML gives a meaning replaced.
pub(in crate::template) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn escape(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("escape", &[], 0, args)?;
    match value.is_safe() {
        true => Ok(value.clone()),
        false => Ok(Value::from_safe_string(escaped(&soft(state, value)?))),
    }
}

pub(super) fn forceescape(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("forceescape", &[], 0, args)?;
    Ok(Value::from_safe_string(escaped(&soft(state, value)?)))
}

pub(super) fn striptags(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    static TAGS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?s)<!--.*?-->|<.*?>").ok());
    bind("striptags", &[], 0, args)?;
    let text = soft(state, value)?;
    if text.contains('&') {
        return Err(unsupported("striptags of text with entities"));
    }
    let text = TAGS.as_ref().map_or(text.clone(), |tags| tags.replace_all(&text, ""));
    Ok(Value::from(text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

pub(super) fn format_filter(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    if value.is_safe() {
        return Err(unsupported("format of escaped text"));
    }
    let (by_place, by_name) = split(args);
    let pattern = soft(state, value)?;
    let args = match (by_place, by_name.is_empty()) {
        (_, true) => Value::from(minijinja::value::Tuple::from(by_place)),
        ([], false) => Value::from_pairs(by_name),
        _ => return Err(error("format takes arguments by place or by name, not both")),
    };
    format::percent(state, &pattern, &args).map(Value::from)
}

pub(super) fn indent(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("indent", &["width", "first", "blank"], 0, args)?;
    let by = match &args[0] {
        Some(text) if text.kind() == ValueKind::String => text.as_str().unwrap_or_default().to_string(),
        Some(count) => {
            let count = usize::try_from(as_integer(count)?).unwrap_or(0);
            state.consume_fuel(count as u64 / 64)?;
            " ".repeat(count)
        }
        None => " ".repeat(4),
    };
    let text = as_text(value, "indent: the value").map_err(|e| undefined_or(value, || e))?;
    // Jinja adds a line break first, so that one at the end is kept.
    let text = format!("{text}\n");
    let all = lines(&text, false);
    state.consume_fuel(all.len().saturating_mul(by.len()) as u64 / 64)?;
    let mut out = String::new();
    for (i, line) in all.iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        let indented =
            if i == 0 { truth(&args[1], false) } else { truth(&args[2], false) || !line.is_empty() };
        out.push_str(if indented { &by } else { "" });
        out.push_str(line);
    }
    Ok(like(value, out))
}

pub(super) fn trim(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    if let (true, false, Some(text)) = (args.is_empty(), value.is_safe(), value.as_str()) {
        return Ok(Value::from(methods::stripped(text, None, true, true)));
    }
    let args = bind("trim", &["chars"], 0, args)?;
    let text = soft(state, value)?;
    let chars = given(&args[0]).map(|chars| as_text(chars, "trim: chars")).transpose()?;
    Ok(like(value, methods::stripped(&text, chars, true, true).to_string()))
}

pub(super) fn truncate(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("truncate", &["length", "killwords", "end", "leeway"], 0, args)?;
    let number = |arg: &Option<Value>, otherwise: i64| given(arg).map_or(Ok(otherwise), as_integer);
    let (length, leeway) = (number(&args[0], 255)?, number(&args[3], 5)?);
    let end = args[2].as_ref().map_or(Ok("..."), |end| as_text(end, "truncate: end"))?;
    let text = soft(state, value)?;
    let (has, ends) = (text.chars().count() as i64, end.chars().count() as i64);
    if length < ends || leeway < 0 {
        return Err(error(format!("expected length >= {ends}, got {length}")));
    }
    if has <= length.saturating_add(leeway) {
        return Ok(like(value, text.into_owned()));
    }
    let kept: String = text.chars().take((length - ends) as usize).collect();
    let kept = match truth(&args[1], false) {
        true => kept.as_str(),
        false => kept.rsplit_once(' ').map_or(kept.as_str(), |(before, _)| before),
    };
    Ok(like(value, format!("{kept}{end}")))
}

pub(super) fn wordcount(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());
    bind("wordcount", &[], 0, args)?;
    let text = soft(state, value)?;
    Ok(Value::from(WORD.as_ref().map_or(0, |word| word.find_iter(&text).count())))
}

fn quoted(text: &str, safe: &str, plus: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' if plus => out.push('+'),
            b if b.is_ascii_alphanumeric() || b"_.-~".contains(&b) || safe.as_bytes().contains(&b) => {
                out.push(b.into())
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

pub(super) fn urlencode(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("urlencode", &[], 0, args)?;
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            value.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten().collect()
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair = |item: Value| match items(state, &item)?.as_slice() {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => Err(error("urlencode wants pairs")),
            };
            items(state, value)?.into_iter().map(pair).collect::<Result<_, _>>()?
        }
        _ => return Ok(Value::from(quoted(&soft(state, value)?, "/", false))),
    };
    let mut all = Vec::new();
    for (key, value) in &pairs {
        all.push(format!(
            "{}={}",
            quoted(&soft(state, key)?, "", true),
            quoted(&soft(state, value)?, "", true)
        ));
    }
    Ok(Value::from(all.join("&")))
}

pub(super) fn xmlattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("xmlattr", &["autospace"], 0, args)?;
    let pairs =
        value.as_object().filter(|_| value.kind() == ValueKind::Map).and_then(|dict| dict.try_iter_pairs());
    let mut all = Vec::new();
    for (key, item) in pairs.ok_or_else(|| error("xmlattr wants a dict"))? {
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let key = soft(state, &key)?.into_owned();
        if key.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(error(format!("invalid character in attribute name: '{key}'")));
        }
        all.push(format!("{}=\"{}\"", escaped(&key), escaped(&soft(state, &item)?)));
    }
    let space = if truth(&args[0], true) && !all.is_empty() { " " } else { "" };
    Ok(Value::from(format!("{space}{}", all.join(" "))))
}

/// Lines of at most so many characters (Python's `textwrap.wrap`), of text without hyphens, which have rules of their own.
pub(super) fn wordwrap(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("wordwrap", &["width", "break_long_words", "wrapstring", "break_on_hyphens"], 0, args)?;
    let width = given(&args[0]).map_or(Ok(79), as_integer)?;
    let width = usize::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| error("invalid width (must be > 0)"))?;
    let (breaks, hyphens) = (truth(&args[1], true), truth(&args[3], true));
    let wrap = given(&args[2]).map_or(Ok("\n"), |wrap| as_text(wrap, "wordwrap: wrapstring"))?;
    let text = as_text(value, "wordwrap: the value").map_err(|e| undefined_or(value, || e))?;
    state.consume_fuel(text.len() as u64 / 16)?;
    if hyphens && text.contains('-') {
        return Err(unsupported("wordwrap of text with hyphens"));
    }
    let all = lines(text, false).into_iter().map(|line| wrapped(line, width, breaks).join(wrap));
    Ok(like(value, all.collect::<Vec<_>>().join(wrap)))
}

/// The lines of a line: words with the room between them, and none at the end or, but for the first, at the beginning.
fn wrapped(line: &str, width: usize, breaks_words: bool) -> Vec<String> {
    const ROOM: [char; 6] = ['\t', '\n', '\u{b}', '\u{c}', '\r', ' '];
    let is_room = |chunk: &[char]| chunk.iter().all(|c| c.is_whitespace());
    let chars: Vec<char> = line.chars().collect();
    let mut chunks = chars.chunk_by(|a, b| ROOM.contains(a) == ROOM.contains(b)).peekable();
    let mut found: Vec<String> = Vec::new();
    let mut long: &[char] = &[];
    loop {
        // A line, its length, and its last chunk.
        let (mut now, mut last): (Vec<char>, &[char]) = (Vec::new(), &[]);
        if !found.is_empty() && long.is_empty() && chunks.peek().is_some_and(|chunk| is_room(chunk)) {
            chunks.next();
        }
        loop {
            let chunk = if long.is_empty() { chunks.peek().copied().unwrap_or_default() } else { long };
            if chunk.is_empty() || now.len() + chunk.len() > width {
                // A word that fits no line fills this one.
                if chunk.len() > width && (breaks_words || now.is_empty()) {
                    let room = if breaks_words { width - now.len() } else { chunk.len() };
                    if long.is_empty() {
                        chunks.next();
                    }
                    now.extend(&chunk[..room]);
                    (last, long) = (&chunk[..room], &chunk[room..]);
                }
                break;
            }
            if long.is_empty() {
                chunks.next();
            }
            long = &[];
            now.extend(chunk);
            last = chunk;
        }
        if is_room(last) {
            now.truncate(now.len() - last.len());
        }
        if !now.is_empty() {
            found.push(now.into_iter().collect());
        }
        if long.is_empty() && chunks.peek().is_none() {
            return found;
        }
    }
}

/// Python's `pprint.pformat`, of what fits a line: `repr` with the keys of dicts in order.
pub(super) fn pprint(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    const WIDTH: usize = 80;
    bind("pprint", &[], 0, args)?;
    let text = printing::repr(state, &in_order(state, value)?)?;
    match text.chars().count() <= WIDTH {
        true => Ok(Value::from(text)),
        false => Err(unsupported("pprint of what is longer than a line")),
    }
}

/// A value with the keys of its dicts in order.
fn in_order(state: &State, value: &Value) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    match type_name(value) {
        "dict" => {
            let pairs = value.as_object().and_then(|dict| dict.try_iter_pairs()).into_iter().flatten();
            let mut pairs: Vec<(Value, Value)> = pairs.collect();
            if !pairs.iter().all(|(key, _)| key.as_str().is_some()) {
                return Err(unsupported("pprint of a dict with keys that are not text"));
            }
            pairs.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            let pairs = pairs.into_iter().map(|(key, item)| Ok((key, in_order(state, &item)?)));
            Ok(Value::from_pairs(pairs.collect::<Result<Vec<_>, Error>>()?))
        }
        "list" => {
            let all =
                items(state, value)?.iter().map(|item| in_order(state, item)).collect::<Result<Vec<_>, _>>();
            Ok(Value::from(all?))
        }
        "tuple" => {
            let all =
                items(state, value)?.iter().map(|item| in_order(state, item)).collect::<Result<Vec<_>, _>>();
            Ok(Value::from(Tuple::new(all?)))
        }
        _ => Ok(value.clone()),
    }
}
