//! Calls as Gemma writes them, `call:f{place:<|"|>Ulm<|"|>,days:2}`, where a token of its own stands on both sides of a text.

use serde_json::{Map, Value};

use super::super::Call;
use super::{Cursor, Read, Stop};

/// Values in values, at most.
const MOST_LEVELS: usize = 64;

/// The marks of a family.
pub(in super::super) struct Marks {
    /// What stands on both sides of a text.
    pub quote: &'static str,
    /// What ends a call.
    pub end: &'static str,
}

/// Gemma 4.
pub(super) const GEMMA_4: Marks = Marks { quote: "<|\"|>", end: "<tool_call|>" };
/// FunctionGemma.
pub(super) const FUNCTION_GEMMA: Marks = Marks { quote: "<escape>", end: "<end_function_call>" };

impl Cursor<'_> {
    /// Behind what begins a call.
    pub(super) fn gemma(&mut self, marks: &Marks) -> Read<Call> {
        self.blank();
        self.take("call:")?;
        let name = self.name()?.to_owned();
        self.blank();
        let arguments = self.entries(marks, MOST_LEVELS)?;
        self.close(marks.end)?;
        Ok(Call { name, arguments })
    }

    /// Takes `{key:value,...}`.
    fn entries(&mut self, marks: &Marks, levels: usize) -> Read<Value> {
        self.take("{")?;
        let mut entries = Map::new();
        self.parts('}', |cursor| {
            let key = match cursor.begins(marks.quote)? {
                true => cursor.until(marks.quote)?,
                false => cursor.key()?,
            };
            let key = key.to_owned();
            cursor.blank();
            cursor.take(":")?;
            entries.insert(key, cursor.marked_value(marks, levels)?);
            Ok(())
        })?;
        Ok(Value::Object(entries))
    }

    /// Takes a key without marks: up to the colon.
    fn key(&mut self) -> Read<&str> {
        let is_end = |c: char| c == ':' || c.is_whitespace() || "{}[],<>".contains(c);
        match self.rest().find(is_end).ok_or(Stop::More)? {
            0 => Err(Stop::No),
            length => {
                let from = self.at;
                self.at += length;
                Ok(&self.text[from..self.at])
            }
        }
    }

    fn marked_value(&mut self, marks: &Marks, levels: usize) -> Read<Value> {
        let levels = levels.checked_sub(1).ok_or(Stop::No)?;
        self.blank();
        if self.begins(marks.quote)? {
            return Ok(Value::String(self.until(marks.quote)?.to_owned()));
        }
        match self.peek()? {
            '{' => self.entries(marks, levels),
            '[' => self.items(|cursor| cursor.marked_value(marks, levels)),
            // Some texts come with the quotes of JSON.
            '"' => self.python_value(levels),
            _ => self.word_value(),
        }
    }
}
