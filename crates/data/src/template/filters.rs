//! Jinja's filters, where the template engine has them otherwise or not at all (jinja2, `filters.py`; `tojson` is
//! transformers').

use std::collections::HashSet;
use std::sync::LazyLock;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use regex::Regex;

use super::arguments::{bind, given, split};
use super::objects::{Generator, Group};
use super::operators::{self, undefined_or};
use super::python::{
    Number, as_integer, as_text, error, integer, is_generator, items, lines, order, sorted, type_name,
    unsupported,
};
use super::{format, json, methods, printing};

/// Every filter of Jinja that is supported.
pub(super) const NAMES: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
];
/// Those of the engine's own that make text of what they are given.
pub(super) const TAKE_TEXT: [&str; 6] = ["capitalize", "lower", "replace", "title", "trim", "upper"];
/// The rest of them.
pub(super) const MORE_NAMES: [&str; 3] = ["urlencode", "wordcount", "xmlattr"];
/// Filters of Jinja that are not supported.
pub(super) const MISSING: [&str; 4] = ["pprint", "random", "urlize", "wordwrap"];

type Filter = fn(&mut State, &Value, &[Value]) -> Result<Value, Error>;

/// Makes the filters known to an environment, and takes out what Jinja has not.
pub(super) fn add_to(environment: &mut Environment) {
    for name in ["split", "lines", "zip", "chain", "bool", "pprint"] {
        environment.remove_filter(name);
    }
    let all: [(&'static str, Filter); 44] = [
        ("abs", abs),
        ("attr", attr),
        ("batch", batch),
        ("center", center),
        ("d", default),
        ("default", default),
        ("dictsort", dictsort),
        ("e", escape),
        ("escape", escape),
        ("filesizeformat", filesizeformat),
        ("first", first),
        ("float", float),
        ("forceescape", forceescape),
        ("format", format_filter),
        ("groupby", groupby),
        ("indent", indent),
        ("int", int),
        ("items", items_filter),
        ("join", join),
        ("last", last),
        ("list", list),
        ("map", map),
        ("max", max),
        ("min", min),
        ("reject", reject),
        ("rejectattr", rejectattr),
        ("reverse", reverse),
        ("round", round),
        ("select", select),
        ("selectattr", selectattr),
        ("slice", slice),
        ("sort", sort),
        ("string", string),
        ("striptags", striptags),
        ("sum", sum),
        ("tojson", tojson),
        ("trim", trim),
        ("truncate", truncate),
        ("unique", unique),
        ("urlencode", urlencode),
        ("wordcount", wordcount),
        ("xmlattr", xmlattr),
        ("length", length),
        ("count", length),
    ];
    for (name, filter) in all {
        environment.add_filter(name, move |state: &mut State, value: &Value, args: Rest<ValueOrKwargs>| {
            filter(state, value, &args.into_values())
        });
    }
}

/// A result that is as safe as what it was made of.
fn like(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// `str(value)`; text is not copied.
fn soft<'a>(state: &State, value: &'a Value) -> Result<std::borrow::Cow<'a, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(text.into()),
        None => Ok(printing::text(state, value)?.into()),
    }
}

fn truth(value: &Option<Value>, otherwise: bool) -> bool {
    value.as_ref().map_or(otherwise, Value::is_true)
}

fn length(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("length", &[], 0, args)?;
    match (value.kind(), value.len()) {
        (ValueKind::Undefined, _) => Ok(Value::from(0)),
        (ValueKind::Plain, _) | (_, None) => {
            Err(error(format!("object of type '{}' has no len()", type_name(value))))
        }
        (_, Some(length)) => Ok(Value::from(length)),
    }
}

fn abs(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("abs", &[], 0, args)?;
    match Number::of(value) {
        Some(Number::Integer(x)) => {
            x.checked_abs().map(Value::from).ok_or_else(|| unsupported("an integer this large"))
        }
        Some(Number::Float(x)) => Ok(Value::from(x.abs())),
        None => {
            Err(undefined_or(value, || error(format!("bad operand type for abs(): '{}'", type_name(value)))))
        }
    }
}

fn attr(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("attr", &["name"], 1, args)?;
    operators::attribute_only(value, as_text(args[0].as_ref().unwrap_or(value), "attr: the name")?)
}

fn batch(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn slice(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn center(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("center", &["width"], 0, args)?;
    let width = args[0].clone().unwrap_or_else(|| Value::from(80));
    let text = Value::from(soft(state, value)?);
    methods::call(state, &text, "center", &[width])
}

fn default(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("default", &["default_value", "boolean"], 0, args)?;
    match value.is_undefined() || truth(&args[1], false) && !value.is_true() {
        true => Ok(args[0].clone().unwrap_or_else(|| Value::from(""))),
        false => Ok(value.clone()),
    }
}

fn string(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("string", &[], 0, args)?;
    match value.kind() {
        ValueKind::String => Ok(value.clone()),
        _ => printing::text(state, value).map(Value::from),
    }
}

/// Text with the characters that HTML gives a meaning replaced.
pub(super) fn escaped(text: &str) -> String {
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

fn escape(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("escape", &[], 0, args)?;
    match value.is_safe() {
        true => Ok(value.clone()),
        false => Ok(Value::from_safe_string(escaped(&soft(state, value)?))),
    }
}

fn forceescape(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("forceescape", &[], 0, args)?;
    Ok(Value::from_safe_string(escaped(&soft(state, value)?)))
}

fn striptags(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    static TAGS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?s)<!--.*?-->|<.*?>").ok());
    bind("striptags", &[], 0, args)?;
    let text = soft(state, value)?;
    if text.contains('&') {
        return Err(unsupported("striptags of text with entities"));
    }
    let text = TAGS.as_ref().map_or(text.clone(), |tags| tags.replace_all(&text, ""));
    Ok(Value::from(text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn filesizeformat(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("filesizeformat", &["binary"], 0, args)?;
    let bytes = match (Number::of(value), value.as_str().and_then(read_float)) {
        (Some(number), _) => number.to_float(),
        (None, Some(number)) => number,
        _ => return Err(error("filesizeformat wants a number")),
    };
    let (base, names) = match truth(&args[0], false) {
        true => (1024.0_f64, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes < base {
        return Ok(Value::from(if bytes == 1.0 {
            "1 Byte".into()
        } else {
            format!("{} Bytes", bytes.trunc())
        }));
    }
    let at = (0..names.len() - 1).find(|i| bytes < base.powi(*i as i32 + 2)).unwrap_or(names.len() - 1);
    Ok(Value::from(format!("{:.1} {}", base * bytes / base.powi(at as i32 + 2), names[at])))
}

fn format_filter(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn indent(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

/// Python's `float(text)`.
fn read_float(text: &str) -> Option<f64> {
    let text = methods::stripped(text, None, true, true);
    let digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let in_place = |(at, _)| at > 0 && digit(at - 1) && digit(at + 1);
    if !text.match_indices('_').all(in_place) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Python's `int(text, base)`.
fn read_int(text: &str, base: i64) -> Option<i128> {
    let text = methods::stripped(text, None, true, true).to_ascii_lowercase();
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text.as_str()),
    };
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, of)| digits.starts_with(prefix) && (base == *of || base == 0));
    let (digits, base) = prefix.map_or((digits, base), |(_, base)| (&digits[2..], base));
    let base =
        u32::try_from(if base == 0 { 10 } else { base }).ok().filter(|base| (2..=36).contains(base))?;
    if digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let size = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if negative { -size } else { size })
}

fn int(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("int", &["default", "base"], 0, args)?;
    let base = args[1].as_ref().map_or(Ok(10), as_integer)?;
    let otherwise = || args[0].clone().unwrap_or_else(|| Value::from(0));
    let whole = |x: f64| match x.is_finite() && x.abs() < 1e38 {
        true => Ok(Value::from(x.trunc() as i128)),
        false if x.is_nan() => Ok(otherwise()),
        false => Err(error("cannot convert a float this large to an integer")),
    };
    match (value.kind(), Number::of(value)) {
        (ValueKind::Undefined, _) => Err(undefined_or(value, || error(""))),
        (ValueKind::String, _) => {
            let text = value.as_str().unwrap_or_default();
            if text.len() > 36 && text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(unsupported("an integer of this many digits"));
            }
            match (read_int(text, base), read_float(text)) {
                (Some(x), _) => Ok(Value::from(x)),
                (None, Some(x)) => whole(x),
                (None, None) => Ok(otherwise()),
            }
        }
        (_, Some(Number::Integer(x))) => Ok(Value::from(x)),
        (_, Some(Number::Float(x))) => whole(x),
        (_, None) => Ok(otherwise()),
    }
}

fn float(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("float", &["default"], 0, args)?;
    let otherwise = || args[0].clone().unwrap_or_else(|| Value::from(0.0));
    match (value.kind(), Number::of(value)) {
        (ValueKind::Undefined, _) => Err(undefined_or(value, || error(""))),
        (ValueKind::String, _) => Ok(value.as_str().and_then(read_float).map_or_else(otherwise, Value::from)),
        (_, Some(number)) => Ok(Value::from(number.to_float())),
        (_, None) => Ok(otherwise()),
    }
}

fn round(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("round", &["precision", "method"], 0, args)?;
    let precision = args[0].as_ref().map_or(Ok(0), as_integer)?;
    let method = args[1].as_ref().map_or(Ok("common"), |method| as_text(method, "round: the method"))?;
    let number = Number::of(value)
        .ok_or_else(|| undefined_or(value, || error(format!("a {} cannot be rounded", type_name(value)))))?;
    if !(-30..=30).contains(&precision) {
        return Err(unsupported("a precision beyond 30"));
    }
    let scale = 10_f64.powi(precision as i32);
    match (method, number) {
        ("common", Number::Integer(x)) if precision >= 0 => Ok(Value::from(x)),
        ("common", Number::Float(x)) if precision >= 0 && x.is_finite() => {
            // Written and read again: the nearest decimal, and of two the even one, as Python rounds.
            let text = format!("{x:.*}", precision as usize);
            Ok(Value::from(text.parse::<f64>().unwrap_or(x)))
        }
        // To tens and the like, of two the even one.
        ("common", Number::Integer(x)) if (-15..0).contains(&precision) && x.abs() < 1 << 52 => {
            let rounded = (x as f64 * scale).round_ties_even() / scale;
            Ok(Value::from(rounded.round() as i128))
        }
        ("common", Number::Float(x)) if x.is_finite() => {
            Ok(Value::from((x * scale).round_ties_even() / scale))
        }
        ("common", _) => Err(unsupported("rounding a number this large")),
        ("ceil", x) => Ok(Value::from((x.to_float() * scale).ceil() / scale)),
        ("floor", x) => Ok(Value::from((x.to_float() * scale).floor() / scale)),
        _ => Err(error("method must be common, ceil or floor")),
    }
}

fn trim(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    if let (true, false, Some(text)) = (args.is_empty(), value.is_safe(), value.as_str()) {
        return Ok(Value::from(methods::stripped(text, None, true, true)));
    }
    let args = bind("trim", &["chars"], 0, args)?;
    let text = soft(state, value)?;
    let chars = given(&args[0]).map(|chars| as_text(chars, "trim: chars")).transpose()?;
    Ok(like(value, methods::stripped(&text, chars, true, true).to_string()))
}

fn truncate(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn wordcount(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn urlencode(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn xmlattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn tojson(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"], 0, args)?;
    let style =
        json::Style::new(given(&args[1]), given(&args[2]), truth(&args[3], false), truth(&args[0], false))?;
    json::dumps(state, value, &style).map(Value::from)
}

// Sequences.

fn list(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("list", &[], 0, args)?;
    items(state, value).map(Value::from)
}

fn items_filter(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn first(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("first", &[], 0, args)?;
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Ok(generator.next().unwrap_or_default());
    }
    match value.kind() {
        ValueKind::String | ValueKind::Seq => Ok(value.try_iter()?.next().unwrap_or_default()),
        _ => Ok(items(state, value)?.into_iter().next().unwrap_or_default()),
    }
}

fn last(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    bind("last", &[], 0, args)?;
    match is_generator(value) {
        true => Err(error("'generator' object is not reversible")),
        false => Ok(items(state, value)?.pop().unwrap_or_default()),
    }
}

fn reverse(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn join(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn map(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    // What is false has no items, whatever it is.
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

/// # Errors
/// When there is no such filter.
pub(super) fn known_filter(name: &str) -> Result<(), Error> {
    match NAMES.contains(&name) || MORE_NAMES.contains(&name) {
        true => Ok(()),
        false if MISSING.contains(&name) => Err(unsupported(&format!("the filter {name}"))),
        false => Err(Error::new(ErrorKind::UnknownFilter, format!("there is no filter {name}"))),
    }
}

/// # Errors
/// When there is no such test.
pub(super) fn known_test(name: &str) -> Result<(), Error> {
    match super::tests::NAMES.contains(&name) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::UnknownTest, format!("there is no test {name}"))),
    }
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

fn select(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, false, true)
}

fn reject(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, false, false)
}

fn selectattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, true, true)
}

fn rejectattr(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    chosen(state, value, args, true, false)
}

fn keyed(state: &State, all: Vec<Value>, getter: &Getter) -> Result<Vec<(Value, Value)>, Error> {
    // Sorting compares each about so often.
    state.consume_fuel(
        (all.len() as u64).saturating_mul(u64::from(usize::BITS - all.len().leading_zeros())),
    )?;
    all.into_iter().map(|item| Ok((getter.of(state, &item)?, item))).collect()
}

fn sort(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn dictsort(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn groupby(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

fn unique(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("unique", &["case_sensitive", "attribute"], 0, args)?;
    let getter = Getter::new(given(&args[1]), !truth(&args[0], false))?;
    let (mut seen, mut kept) = (HashSet::new(), Vec::new());
    for item in items(state, value)? {
        let key = getter.of(state, &item)?;
        if !super::python::is_hashable(&key) {
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

fn min(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    extreme(state, value, args, "min")
}

fn max(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    extreme(state, value, args, "max")
}

fn sum(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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
