//! Calls that are written as Python writes them, `f(place="Ulm", days=2)`, and values of Python.

use serde_json::{Map, Number, Value};

use super::super::Call;
use super::{Cursor, Read, Stop};

/// Values in values, at most.
const MOST_LEVELS: usize = 64;

impl Cursor<'_> {
    /// Takes a call with its arguments by their names.
    pub(super) fn python_call(&mut self) -> Read<Call> {
        let name = self.name()?.to_owned();
        self.blank();
        self.take("(")?;
        let mut arguments = Map::new();
        self.parts(')', |cursor| {
            let key = cursor.name()?.to_owned();
            cursor.blank();
            cursor.take("=")?;
            arguments.insert(key, cursor.python_value(MOST_LEVELS)?);
            Ok(())
        })?;
        Ok(Call { name, arguments: Value::Object(arguments) })
    }

    /// Takes a value: text, a number, a constant, a list or a dictionary, of Python or of JSON.
    pub(super) fn python_value(&mut self, levels: usize) -> Read<Value> {
        let levels = levels.checked_sub(1).ok_or(Stop::No)?;
        self.blank();
        match self.peek()? {
            '"' | '\'' => self.python_text().map(Value::String),
            '[' => self.items(|cursor| cursor.python_value(levels)),
            '{' => {
                self.at += 1;
                let mut entries = Map::new();
                self.parts('}', |cursor| {
                    let key = cursor.python_text()?;
                    cursor.blank();
                    cursor.take(":")?;
                    entries.insert(key, cursor.python_value(levels)?);
                    Ok(())
                })?;
                Ok(Value::Object(entries))
            }
            _ => self.word_value(),
        }
    }

    /// Takes a list from its bracket on, whose items `item` takes.
    pub(super) fn items(&mut self, mut item: impl FnMut(&mut Self) -> Read<Value>) -> Read<Value> {
        self.take("[")?;
        let mut items = Vec::new();
        self.parts(']', |cursor| {
            items.push(item(cursor)?);
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    /// Takes what `part` takes, with commas between, up to and with `close`. A comma may stand before it.
    pub(super) fn parts(&mut self, close: char, mut part: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        loop {
            self.blank();
            if self.peek()? == close {
                self.at += 1;
                return Ok(());
            }
            part(self)?;
            self.blank();
            match self.peek()? {
                ',' => self.at += 1,
                found if found == close => {}
                _ => return Err(Stop::No),
            }
        }
    }

    /// Takes a number or a constant, behind which something else stands.
    pub(super) fn word_value(&mut self) -> Read<Value> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '.');
        let length = self.rest().find(|c| !is_part(c)).ok_or(Stop::More)?;
        let word = &self.rest()[..length];
        let value = match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            number => Value::Number(number.parse::<Number>().map_err(|_| Stop::No)?),
        };
        self.at += length;
        Ok(value)
    }

    /// Takes a text between quotes.
    fn python_text(&mut self) -> Read<String> {
        let quote = self.peek()?;
        if !matches!(quote, '"' | '\'') {
            return Err(Stop::No);
        }
        let three = quote.to_string().repeat(3);
        let close = if self.begins(&three)? {
            three
        } else {
            self.at += 1;
            quote.to_string()
        };
        let mut text = String::new();
        loop {
            if self.rest().starts_with(&close) {
                self.at += close.len();
                return Ok(text);
            }
            let next = self.peek()?;
            self.at += next.len_utf8();
            match next {
                '\\' => self.escaped(&mut text)?,
                // A text between single quotes is one line.
                '\n' if close.len() == 1 => return Err(Stop::No),
                other => text.push(other),
            }
        }
    }

    /// Takes what stands behind a backslash.
    fn escaped(&mut self, text: &mut String) -> Read<()> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        let letter = match next {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            '\\' | '\'' | '"' | '/' => next,
            '\n' => return Ok(()),
            'x' => char::from_u32(self.digits(2)?).ok_or(Stop::No)?,
            'U' => char::from_u32(self.digits(8)?).ok_or(Stop::No)?,
            'u' => match self.digits(4)? {
                // A letter beyond the first 65,536 is written as two of these in JSON.
                first @ 0xd800..0xdc00 => {
                    self.take("\\u")?;
                    let second = self.digits(4)?;
                    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or(Stop::No)?;
                    char::from_u32(0x10000 + ((first - 0xd800) << 10) + low).ok_or(Stop::No)?
                }
                code => char::from_u32(code).ok_or(Stop::No)?,
            },
            // Python leaves others as they are.
            other => {
                text.push('\\');
                other
            }
        };
        text.push(letter);
        Ok(())
    }

    /// Takes hexadecimal digits.
    fn digits(&mut self, count: usize) -> Read<u32> {
        let length = self.rest().chars().take_while(char::is_ascii_hexdigit).take(count).count();
        if length < count {
            return Err(if length == self.rest().len() { Stop::More } else { Stop::No });
        }
        let digits = u32::from_str_radix(&self.rest()[..count], 16).map_err(|_| Stop::No)?;
        self.at += count;
        Ok(digits)
    }
}

/// The list or dictionary that a text is as a whole, as Python writes it.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut cursor = Cursor::new(text, true);
    let value = cursor.python_value(MOST_LEVELS).ok()?;
    cursor.blank();
    (cursor.rest().is_empty() && (value.is_array() || value.is_object())).then_some(value)
}
