//! Text by a pattern: `'%s' % x`, the filter `format`, and `str.format`.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::python::{Number, error, type_name};
use super::{arguments, operators, printing};

/// The widest field. What is wider asks for memory and nothing else.
const WIDEST: usize = 10_000;

/// How a value is laid out.
struct Spec {
    fill: char,
    align: Option<char>,
    sign: Option<char>,
    alternative: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `'%s' % value`.
pub(super) fn percent(state: &State, pattern: &str, value: &Value) -> Result<String, Error> {
    let is_tuple = type_name(value) == "tuple";
    let by_place = if is_tuple { value.try_iter()?.collect() } else { vec![value.clone()] };
    let mut next = 0;
    let mut named = false;
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        state.consume_fuel(4)?;
        let mut name = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let end = inside.find(')').ok_or_else(|| error("incomplete format key"))?;
            name = Some(&inside[..end]);
            rest = &inside[end + 1..];
        }
        let flags: &str = &rest[..rest.len() - rest.trim_start_matches(['-', '+', ' ', '0', '#']).len()];
        rest = &rest[flags.len()..];
        let width = digits(&mut rest)?;
        let precision = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                Some(digits(&mut rest)?.unwrap_or(0))
            }
            None => None,
        };
        let kind = rest.chars().next().ok_or_else(|| error("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let item = match name {
            Some(name) => {
                named = true;
                if value.kind() != ValueKind::Map {
                    return Err(error("format requires a mapping"));
                }
                value
                    .as_object()
                    .and_then(|dict| dict.get_value(&Value::from(name)))
                    .ok_or_else(|| error(format!("no key {name}")))?
            }
            None => {
                next += 1;
                by_place
                    .get(next - 1)
                    .cloned()
                    .ok_or_else(|| error("not enough arguments for format string"))?
            }
        };
        let has = |flag| flags.contains(flag);
        let spec = Spec {
            fill: if has('0') && !has('-') { '0' } else { ' ' },
            align: Some(if has('-') { '<' } else { '>' }),
            sign: [('+', has('+')), (' ', has(' '))].into_iter().find(|(_, has)| *has).map(|(sign, _)| sign),
            alternative: has('#'),
            width: width.unwrap_or(0),
            grouping: None,
            precision,
            kind: Some(kind),
        };
        out.push_str(&percent_field(state, &item, spec)?);
    }
    out.push_str(rest);
    if !named && next < by_place.len() && (is_tuple || value.kind() != ValueKind::Map) {
        return Err(error("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn percent_field(state: &State, value: &Value, mut spec: Spec) -> Result<String, Error> {
    let kind = spec.kind.unwrap_or('s');
    match kind {
        's' | 'r' | 'a' => {
            let text =
                if kind == 's' { printing::text(state, value)? } else { printing::repr(state, value)? };
            if kind == 'a' && !text.is_ascii() {
                return Err(error("%a of text that is not ASCII is not supported"));
            }
            spec.fill = ' ';
            spec.kind = Some('s');
            laid_out_text(&text, &spec)
        }
        'c' if value.kind() == ValueKind::String => match value.as_str().map(|text| text.chars().count()) {
            Some(1) => laid_out_text(
                value.as_str().unwrap_or_default(),
                &Spec { kind: Some('s'), fill: ' ', ..spec },
            ),
            _ => Err(error("%c requires int or char")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'c' => {
            let number = match Number::of(value) {
                Some(Number::Integer(x)) => x,
                Some(Number::Float(x)) if x.is_finite() && matches!(kind, 'd' | 'i' | 'u') => {
                    x.trunc() as i128
                }
                _ => {
                    return Err(error(format!(
                        "%{kind} format: a number is required, not {}",
                        type_name(value)
                    )));
                }
            };
            spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
            if spec.fill == '0' {
                spec.align = Some('=');
            }
            if let Some(digits) = spec.precision.take() {
                let inner = Spec {
                    fill: '0',
                    align: Some('='),
                    sign: None,
                    alternative: false,
                    width: digits,
                    grouping: None,
                    precision: None,
                    kind: spec.kind,
                };
                let text = laid_out_integer(number.abs(), &inner)?;
                let sign =
                    if number < 0 { "-" } else { spec.sign.map_or("", |s| if s == '+' { "+" } else { " " }) };
                return laid_out_text(&format!("{sign}{text}"), &Spec { fill: ' ', kind: Some('s'), ..spec });
            }
            laid_out_integer(number, &spec)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = Number::of(value)
                .ok_or_else(|| error(format!("must be real number, not {}", type_name(value))))?;
            if spec.fill == '0' {
                spec.align = Some('=');
            }
            laid_out_float(number.to_float(), &spec)
        }
        other => Err(error(format!("unsupported format character '{other}'"))),
    }
}

/// A number at the beginning of `rest`, taken from it.
fn digits(rest: &mut &str) -> Result<Option<usize>, Error> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    *rest = after;
    match number.parse::<usize>() {
        Ok(number) if number <= WIDEST => Ok(Some(number)),
        _ if number.is_empty() => Ok(None),
        _ => Err(error(format!("a width or precision of {number} is more than {WIDEST}"))),
    }
}

fn padded(text: &str, spec: &Spec, default: char) -> String {
    let missing = spec.width.saturating_sub(text.chars().count());
    let fill = |n| std::iter::repeat_n(spec.fill, n).collect::<String>();
    match spec.align.unwrap_or(default) {
        '<' => text.to_string() + &fill(missing),
        '^' => fill(missing / 2) + text + &fill(missing - missing / 2),
        '=' => {
            // Behind the sign and what tells the base.
            let signed = usize::from(text.starts_with(['-', '+', ' ']));
            let based = text[signed..].starts_with("0x")
                || text[signed..].starts_with("0X")
                || text[signed..].starts_with("0o")
                || text[signed..].starts_with("0b");
            let (head, tail) = text.split_at(signed + if based && spec.alternative { 2 } else { 0 });
            head.to_string() + &fill(missing) + tail
        }
        _ => fill(missing) + text,
    }
}

fn laid_out_text(text: &str, spec: &Spec) -> Result<String, Error> {
    if spec.sign.is_some() && spec.kind.is_none() || spec.align == Some('=') || spec.grouping.is_some() {
        return Err(error("signs and groups of digits are for numbers"));
    }
    let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    Ok(padded(&text, spec, '<'))
}

fn signed(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

fn grouped(digits: &str, by: usize, mark: Option<char>) -> String {
    let Some(mark) = mark else { return digits.to_string() };
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(by) {
            out.push(mark);
        }
        out.push(c);
    }
    out
}

fn laid_out_integer(number: i128, spec: &Spec) -> Result<String, Error> {
    if spec.precision.is_some() {
        return Err(error("precision not allowed in integer format specifier"));
    }
    if spec.grouping.is_some() && spec.fill == '0' && spec.width > 0 {
        return Err(error("groups of digits filled with zeros are not supported"));
    }
    let size = number.unsigned_abs();
    let (prefix, text) = match spec.kind {
        None | Some('d' | 'n') => ("", grouped(&size.to_string(), 3, spec.grouping)),
        Some('x') => ("0x", grouped(&format!("{size:x}"), 4, spec.grouping)),
        Some('X') => ("0X", grouped(&format!("{size:X}"), 4, spec.grouping)),
        Some('o') => ("0o", grouped(&format!("{size:o}"), 4, spec.grouping)),
        Some('b') => ("0b", grouped(&format!("{size:b}"), 4, spec.grouping)),
        Some('c') => {
            let c = u32::try_from(number)
                .ok()
                .and_then(char::from_u32)
                .ok_or_else(|| error("%c arg not in range(0x110000)"))?;
            return Ok(padded(&c.to_string(), spec, '<'));
        }
        Some(kind) => return Err(error(format!("unknown format code '{kind}' for an integer"))),
    };
    let prefix = if spec.alternative { prefix } else { "" };
    Ok(padded(&format!("{}{prefix}{text}", signed(number < 0, spec)), spec, '>'))
}

/// `%e` of Python: two digits at least in the exponent.
fn exponent(x: f64, precision: usize) -> String {
    let text = format!("{x:.precision$e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g` of Python.
fn general(x: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = format!("{x:.*e}", precision - 1);
    let exp: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let (text, tail) = if (-4..precision as i64).contains(&exp) {
        (format!("{x:.*}", usize::try_from(precision as i64 - 1 - exp).unwrap_or(0)), String::new())
    } else {
        let text = exponent(x, precision - 1);
        let (digits, tail) = text.split_once('e').unwrap_or((&text, ""));
        (digits.to_string(), format!("e{tail}"))
    };
    let text = match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    text + &tail
}

fn laid_out_float(x: f64, spec: &Spec) -> Result<String, Error> {
    let size = x.abs();
    let precision = spec.precision.unwrap_or(6);
    if spec.alternative {
        return Err(error("an alternative form of floats is not supported"));
    }
    let text = match spec.kind {
        _ if !x.is_finite() => printing::float(size),
        Some('f' | 'F') => format!("{size:.precision$}"),
        Some('e' | 'E') => exponent(size, precision),
        Some('g' | 'G' | 'n') => general(size, precision, false),
        Some('%') => format!("{:.precision$}%", size * 100.0),
        None if spec.precision.is_none() => printing::float(size),
        None => return Err(error("a precision without a kind such as f is not supported")),
        Some(kind) => return Err(error(format!("unknown format code '{kind}' for a float"))),
    };
    let text = match spec.kind {
        Some('E' | 'F' | 'G') => text.to_uppercase(),
        _ => text,
    };
    let text = match spec.grouping {
        Some(_) if spec.fill == '0' && spec.width > 0 => {
            return Err(error("groups of digits filled with zeros are not supported"));
        }
        Some(mark) => {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            grouped(&text[..end], 3, Some(mark)) + &text[end..]
        }
        None => text,
    };
    let negative = x.is_sign_negative() && !x.is_nan();
    Ok(padded(&format!("{}{text}", signed(negative, spec)), spec, '>'))
}

/// `str.format`.
pub(super) fn format(state: &State, pattern: &str, args: &[Value]) -> Result<String, Error> {
    let (by_place, by_name) = arguments::split(args);
    let mut fields = Fields { state, by_place, by_name: &by_name, next: Some(0) };
    fields.fill(pattern, 2)
}

/// `str.format_map`.
pub(super) fn format_map(state: &State, pattern: &str, dict: &Value) -> Result<String, Error> {
    let pairs =
        dict.as_object().filter(|_| dict.kind() == ValueKind::Map).and_then(|dict| dict.try_iter_pairs());
    let pairs = pairs.ok_or_else(|| error("format_map wants a dict"))?;
    let by_name: Vec<(String, Value)> =
        pairs.filter_map(|(k, v)| Some((k.as_str()?.to_string(), v))).collect();
    Fields { state, by_place: &[], by_name: &by_name, next: Some(0) }.fill(pattern, 2)
}

struct Fields<'a, 's> {
    state: &'a State<'s, 's>,
    by_place: &'a [Value],
    by_name: &'a [(String, Value)],
    /// The next field without a name; `None` once one had a number.
    next: Option<usize>,
}

impl Fields<'_, '_> {
    fn fill(&mut self, pattern: &str, depth: usize) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let (mark, after) = rest[at..].split_at(1);
            if after.starts_with(mark) {
                out.push_str(mark);
                rest = &after[1..];
                continue;
            }
            if mark == "}" {
                return Err(error("single '}' encountered in format string"));
            }
            if depth == 0 {
                return Err(error("max string recursion exceeded"));
            }
            let end = closing(after).ok_or_else(|| error("expected '}' before end of string"))?;
            self.state.consume_fuel(4)?;
            out.push_str(&self.field(&after[..end], depth)?);
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String, Error> {
        let end = field.find(['!', ':']).unwrap_or(field.len());
        let (name, rest) = field.split_at(end);
        let (conversion, spec) = match rest.strip_prefix('!') {
            Some(rest) => {
                let c = rest
                    .chars()
                    .next()
                    .ok_or_else(|| error("end of string while looking for conversion specifier"))?;
                (Some(c), rest[c.len_utf8()..].strip_prefix(':').unwrap_or_default())
            }
            None => (None, rest.strip_prefix(':').unwrap_or_default()),
        };
        let value = self.value(name)?;
        let value = match conversion {
            None => value,
            Some('s') => Value::from(printing::text(self.state, &value)?),
            Some('r') => Value::from(printing::repr(self.state, &value)?),
            Some(other) => return Err(error(format!("conversion !{other} is not supported"))),
        };
        let spec = self.fill(spec, depth - 1)?;
        with_spec(self.state, &value, &spec)
    }

    fn value(&mut self, path: &str) -> Result<Value, Error> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, mut rest) = path.split_at(end);
        let by_place = match (name.is_empty(), name.parse::<usize>(), self.next) {
            (true, _, Some(next)) => {
                self.next = Some(next + 1);
                Some(next)
            }
            (false, Ok(place), None | Some(0)) => {
                self.next = None;
                Some(place)
            }
            (true, ..) | (_, Ok(_), _) => return Err(error("cannot mix numbered and unnumbered fields")),
            (false, Err(_), _) => None,
        };
        let found = match by_place {
            Some(place) => self.by_place.get(place),
            None => self.by_name.iter().find(|(known, _)| known == name).map(|(_, value)| value),
        };
        let mut value = found.cloned().ok_or_else(|| error(format!("format has no argument '{name}'")))?;
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let end = inside.find(']').ok_or_else(|| error("missing ']' in format string"))?;
                let key = &inside[..end];
                let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                value = operators::item(self.state, &value, &key)?;
                if value.is_undefined() {
                    return Err(error(format!("format: there is no item {key}")));
                }
                rest = &inside[end + 1..];
            } else {
                return Err(error("attributes in a pattern of format are not supported"));
            }
        }
        Ok(value)
    }
}

/// Where the bracket that was opened before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(i),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn with_spec(state: &State, value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return printing::text(state, value);
    }
    let mut spec = read_spec(spec)?;
    let wrong = || error(format!("a format of this kind is not for {}", type_name(value)));
    match (value.kind(), Number::of(value)) {
        (ValueKind::String, _) => match spec.kind {
            None | Some('s') => {
                spec.kind = None;
                laid_out_text(value.as_str().unwrap_or_default(), &spec)
            }
            _ => Err(wrong()),
        },
        (ValueKind::Number | ValueKind::Bool, Some(number)) => match (number, spec.kind) {
            (Number::Integer(_), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                laid_out_float(number.to_float(), &spec)
            }
            (Number::Integer(_), None) if value.kind() == ValueKind::Bool => Err(wrong()),
            (Number::Integer(x), _) => laid_out_integer(x, &spec),
            (Number::Float(x), _) => laid_out_float(x, &spec),
        },
        _ => Err(wrong()),
    }
}

fn read_spec(text: &str) -> Result<Spec, Error> {
    let mut spec = Spec {
        fill: ' ',
        align: None,
        sign: None,
        alternative: false,
        width: 0,
        grouping: None,
        precision: None,
        kind: None,
    };
    let mut rest = text;
    let is_align = |c: Option<char>| c.is_some_and(|c| matches!(c, '<' | '>' | '^' | '='));
    let mut chars = rest.chars();
    let (first, second) = (chars.next(), chars.next());
    if is_align(second) {
        (spec.fill, spec.align) = (first.unwrap_or(' '), second);
        rest = chars.as_str();
    } else if is_align(first) {
        spec.align = first;
        rest = &rest[1..];
    }
    let mut take = |marks: &[char]| {
        let found = rest.chars().next().filter(|c| marks.contains(c));
        rest = &rest[found.map_or(0, char::len_utf8)..];
        found
    };
    spec.sign = take(&['+', '-', ' ']);
    if take(&['z']).is_some() {
        return Err(error("the flag z of a format is not supported"));
    }
    spec.alternative = take(&['#']).is_some();
    if take(&['0']).is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = ('0', Some('='));
    }
    spec.width = digits(&mut rest)?.unwrap_or(0);
    if let Some(mark) = rest.chars().next().filter(|c| matches!(c, ',' | '_')) {
        spec.grouping = Some(mark);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(digits(&mut rest)?.ok_or_else(|| error("format specifier missing precision"))?);
    }
    let mut kind = rest.chars();
    spec.kind = kind.next();
    match kind.next() {
        None => Ok(spec),
        Some(_) => Err(error(format!("invalid format specifier '{text}'"))),
    }
}
