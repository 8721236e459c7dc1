//! One JSON object around the rows: `{"version": "1.0", "data": [{...}, {...}]}`.
//!
//! A file that begins with `{` is lines of JSON where its first line is an object by itself; else its outline is read, which
//! keeps the names of the outermost object's values and nothing else. Exactly one of them must be a list of objects.

use std::io::{self, BufRead};

use super::LONGEST_ROW_BYTES;

/// So much of a name is kept, and so many names.
const LONGEST_NAME: usize = 80;
const MOST_NAMES: usize = 64;
/// Lists that a row has, so that the object is a row.
const OF_A_ROW: [&str; 14] = [
    "messages",
    "conversations",
    "conversation",
    "dialogue",
    "dialog",
    "turns",
    "chat",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "tools",
    "functions",
    "history",
];

/// What a file that begins with `{` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outline {
    /// Objects, one after the other.
    Objects,
    /// One object, and the rows are the list of this name, the first value of so many.
    List(String),
    /// One object with several lists of objects.
    Lists(Vec<String>),
    /// One object with none; its names.
    None(Vec<String>),
    /// One object that has the lists of a row.
    Row,
    /// It ends inside the object.
    Cut,
}

/// Whether the text begins with an object on a line of its own and another follows; `None` where `beginning` does not tell.
pub(super) fn first_line_is_object(beginning: &[u8]) -> Option<bool> {
    let start = beginning.iter().position(|&byte| byte == b'{')?;
    let (mut depth, mut string) = (0usize, InString::default());
    for (at, &byte) in beginning.iter().enumerate().skip(start) {
        match byte {
            _ if string.takes(byte) => {}
            b'\n' => return Some(false),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !string.inside {
            // An object alone may hold the rows, on one line too.
            let next = beginning[at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
            return Some(next.is_some_and(|next| *next == b'{'));
        }
    }
    None
}

/// Whether a byte is inside a string.
#[derive(Default)]
struct InString {
    inside: bool,
    escaped: bool,
}

impl InString {
    /// Takes the next byte; whether it belongs to a string, its quotes included.
    fn takes(&mut self, byte: u8) -> bool {
        match (self.inside, byte) {
            (true, _) => {
                self.inside = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                true
            }
            (false, b'"') => {
                self.inside = true;
                true
            }
            (false, _) => false,
        }
    }
}

/// Reads a file's outline. A value that is longer than a row may be ends it, as the file's end would: what unfolds to
/// more than anyone reads is not gone through.
///
/// # Errors
/// When it cannot be read.
pub(super) fn outline(reader: impl BufRead) -> io::Result<Outline> {
    outline_with_longest(reader, LONGEST_ROW_BYTES)
}

fn outline_with_longest(mut reader: impl BufRead, longest: usize) -> io::Result<Outline> {
    let mut scan = Scan::default();
    // Since a value of the object, or of a list in it, began.
    let mut length = 0;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() || length > longest {
            return Ok(scan.finish());
        }
        let read = chunk.len();
        for &byte in chunk {
            if scan.byte(byte) {
                return Ok(Outline::Objects);
            }
            let between = byte == b',' && scan.depth <= 2 && !scan.string.inside;
            length = if between { 0 } else { length + 1 };
        }
        reader.consume(read);
    }
}

#[derive(Default)]
struct Scan {
    string: InString,
    depth: usize,
    /// The name of the value that comes, or is there.
    name: Vec<u8>,
    in_name: bool,
    /// The value is a list, and its first item still comes.
    opened: bool,
    names: Vec<String>,
    lists: Vec<String>,
    closed: bool,
}

impl Scan {
    /// Takes a byte; whether another object follows the first.
    fn byte(&mut self, byte: u8) -> bool {
        let was_inside = self.string.inside;
        if self.string.takes(byte) {
            if self.depth == 1 && !was_inside && self.in_name {
                self.name.clear();
            } else if self.depth == 1 && self.in_name && self.string.inside && self.name.len() < LONGEST_NAME
            {
                self.name.push(byte);
            }
            self.opened = false;
            return false;
        }
        if byte.is_ascii_whitespace() || (self.depth == 0 && b"\xEF\xBB\xBF".contains(&byte)) {
            return false;
        }
        if self.closed {
            return true;
        }
        let first_item = std::mem::take(&mut self.opened);
        match byte {
            b'{' | b'[' => {
                self.opened = byte == b'[' && self.depth == 1;
                if byte == b'{' && self.depth == 2 && first_item {
                    self.keep(true);
                }
                self.depth += 1;
                self.in_name = self.depth == 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.closed = self.depth == 0;
            }
            b':' if self.depth == 1 => {
                self.in_name = false;
                self.keep(false);
            }
            b',' if self.depth == 1 => self.in_name = true,
            _ => {}
        }
        false
    }

    fn keep(&mut self, is_list: bool) {
        let kept = if is_list { &mut self.lists } else { &mut self.names };
        if kept.len() < MOST_NAMES {
            kept.push(String::from_utf8_lossy(&self.name).into_owned());
        }
    }

    fn finish(self) -> Outline {
        let Self { names, lists, closed, .. } = self;
        if !closed {
            return Outline::Cut;
        }
        if names.iter().any(|name| OF_A_ROW.contains(&name.as_str()))
            || names.iter().any(|name| name == "text")
        {
            return Outline::Row;
        }
        match <[String; 1]>::try_from(lists) {
            Ok([list]) => Outline::List(list),
            Err(lists) if lists.is_empty() => Outline::None(names),
            Err(lists) => Outline::Lists(lists),
        }
    }
}

/// Reads up to the list of that name, so that its `[` comes next.
///
/// # Errors
/// When it cannot be read, or the list is no longer there.
pub(super) fn skip_to(reader: &mut impl BufRead, list: &str) -> io::Result<()> {
    let mut scan = Scan::default();
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut read = 0;
        let mut found = false;
        for &byte in chunk {
            let is_name = !scan.in_name && scan.depth == 1 && !scan.string.inside;
            if byte == b'[' && is_name && scan.name == list.as_bytes() {
                found = true;
                break;
            }
            scan.byte(byte);
            read += 1;
        }
        reader.consume(read);
        if found {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_names_the_list_of_rows() {
        let of = |text: &str| outline(text.as_bytes()).expect("memory");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (text, want) in [
            (
                r#"{"version": "1.0", "data": [ {"prompt": "["}, {"a": {}}], "n": [1]}"#,
                Outline::List("data".into()),
            ),
            (r#"{"a": "[{", "rows": [{"x": "\"}]"}]}"#, Outline::List("rows".into())),
            (r#"{"train": [{}], "test": [{}]}"#, Outline::Lists(names(&["train", "test"]))),
            (
                r#"{"prompts": ["a"], "completions": ["b"]}"#,
                Outline::None(names(&["prompts", "completions"])),
            ),
            ("{\n\"messages\": [{}]\n}", Outline::Row),
            ("{\"a\": 1}\n{\"a\": 2}", Outline::Objects),
            (r#"{"data": [{"#, Outline::Cut),
            (r#"{"data": {"rows": [{}]}}"#, Outline::None(names(&["data"]))),
        ] {
            assert_eq!(of(text), want, "{text}");
        }
        let values = r#"{"a": "12345", "data": [{"b": 1}, {"b": 2}]}"#.as_bytes();
        let within = |longest| outline_with_longest(io::BufReader::with_capacity(4, values), longest);
        assert_eq!(within(24).expect("memory"), Outline::List("data".into()));
        assert_eq!(within(8).expect("memory"), Outline::Cut);

        let text = r#"{"a": "[", "b": {"data": [1]}, "c": "data", "data": [{"x": 1}]}"#;
        let mut reader = text.as_bytes();
        skip_to(&mut reader, "data").expect("it is there");
        assert_eq!(reader, br#"[{"x": 1}]}"#);
    }

    #[test]
    fn the_first_line_tells_lines_of_json() {
        for (text, want) in [
            ("{\"a\": \"}\\n\"}\n{", Some(true)),
            ("{\"a\": 1}{\"a\": 2}", Some(true)),
            ("{\n\"a\": 1}", Some(false)),
            ("{\"a\": 1}", Some(false)),
            ("{\"rows\": [{}]}\n", Some(false)),
            ("{\"a\": [1", None),
        ] {
            assert_eq!(first_line_is_object(text.as_bytes()), want, "{text}");
        }
    }
}
