//! Filters that read numbers and write them.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::truth;
use crate::template::arguments::bind;
use crate::template::methods;
use crate::template::operators::undefined_or;
use crate::template::python::{Number, as_integer, as_text, error, type_name, unsupported};

pub(super) fn abs(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

pub(super) fn filesizeformat(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

pub(super) fn int(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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

pub(super) fn float(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let args = bind("float", &["default"], 0, args)?;
    let otherwise = || args[0].clone().unwrap_or_else(|| Value::from(0.0));
    match (value.kind(), Number::of(value)) {
        (ValueKind::Undefined, _) => Err(undefined_or(value, || error(""))),
        (ValueKind::String, _) => Ok(value.as_str().and_then(read_float).map_or_else(otherwise, Value::from)),
        (_, Some(number)) => Ok(Value::from(number.to_float())),
        (_, None) => Ok(otherwise()),
    }
}

pub(super) fn round(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
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
