//! What is done to a template's text before it is parsed: where jinja2 and the engine's parser read the same characters
//! otherwise, the text is changed so that the parser reads what jinja2 does.
//!
//! CRLF and CR become LF; a raw block keeps the line break that it begins with; strings are written with the value that
//! Python's escapes give; `{% generation %}` becomes an include of [`MARKS`] and a scope, as in transformers, where it is
//! a call block. Line numbers stay what they were.

use super::{MARKS, TemplateError};

/// A template's text as the parser is to read it.
pub(super) struct Prepared {
    pub text: String,
    /// Whether something is marked with `{% generation %}`.
    pub marked: bool,
    /// Whether the template may make text that counts as escaped, which `+` treats otherwise.
    pub escapes: bool,
}

/// Prepares a template.
///
/// # Errors
/// When a tag holds what jinja2 has not or what is not supported.
pub(super) fn prepare(source: &str) -> Result<Prepared, TemplateError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let prepared = Prepared { text: String::with_capacity(source.len()), marked: false, escapes: false };
    let mut scanner = Scanner { source: &source, at: 0, out: prepared, open_marks: 0 };
    scanner.scan()?;
    match scanner.open_marks {
        0 => Ok(scanner.out),
        _ => Err(TemplateError::Syntax { line: None, message: "generation without endgeneration".into() }),
    }
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    out: Prepared,
    open_marks: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Copies so many bytes.
    fn copy(&mut self, bytes: usize) {
        self.out.text.push_str(&self.rest()[..bytes]);
        self.at += bytes;
    }

    fn error(&self, message: impl Into<String>) -> TemplateError {
        let line = 1 + self.source[..self.at].matches('\n').count();
        TemplateError::Syntax { line: Some(line), message: message.into() }
    }

    fn scan(&mut self) -> Result<(), TemplateError> {
        while let Some(found) = self.rest().find('{') {
            self.copy(found);
            let rest = self.rest();
            if rest.starts_with("{#") {
                self.copy(rest.find("#}").map_or(rest.len(), |end| end + 2));
            } else if rest.starts_with("{{") {
                self.tag("}}")?;
            } else if let Some(tag) = basic_tag(rest, "raw") {
                self.raw(tag);
            } else if let Some(tag) = basic_tag(rest, "generation") {
                self.open_marks += 1;
                self.mark(tag, 0);
            } else if let Some(tag) = basic_tag(rest, "endgeneration") {
                let open = self.open_marks.checked_sub(1);
                self.open_marks = open.ok_or_else(|| self.error("endgeneration without generation"))?;
                self.mark(tag, 1);
            } else if rest.starts_with("{%") {
                self.tag("%}")?;
            } else {
                self.copy(1);
            }
        }
        self.copy(self.rest().len());
        Ok(())
    }

    /// A raw block. The engine drops a line break behind `{% raw %}`, Python keeps it; with a plus both do.
    fn raw(&mut self, tag: Tag) {
        let begin = self.rest();
        let Tag { bytes, left, right, lines } = tag;
        self.out.text.push_str(&format!(
            "{{%{left}{} raw {}%}}",
            "\n".repeat(lines),
            if right.is_empty() { "+" } else { right }
        ));
        self.at += bytes;
        let rest = &begin[bytes..];
        let end =
            rest.match_indices("{%").find_map(|(at, _)| Some(at + basic_tag(&rest[at..], "endraw")?.bytes));
        self.copy(end.unwrap_or(rest.len()));
    }

    fn mark(&mut self, tag: Tag, which: usize) {
        let Tag { bytes, left, right, lines } = tag;
        let (mark, lines) = (MARKS[which], "\n".repeat(lines));
        self.out.text.push_str(&match which {
            0 => format!("{{%{left}{lines} include '{mark}' %}}{{% with {right}%}}"),
            _ => format!("{{%{left}{lines} endwith %}}{{% include '{mark}' {right}%}}"),
        });
        self.out.marked = true;
        self.at += bytes;
    }

    /// A tag with an expression in it, to its end.
    fn tag(&mut self, end: &str) -> Result<(), TemplateError> {
        self.copy(2);
        // A sign there is about white space.
        self.copy(usize::from(self.rest().starts_with(['+', '-'])));
        let mut depth = 0_usize;
        // How much of `is [not] NAME` was read before.
        let mut test = 0;
        let mut dotted = false;
        // Whether a value stands before, of which a plus makes a sum.
        let mut valued = false;
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else { return Ok(()) };
            if depth == 0 && rest.starts_with(end) {
                self.copy(end.len());
                return Ok(());
            }
            if c.is_whitespace() {
                self.copy(c.len_utf8());
                continue;
            }
            let after_test = test == 2;
            let after_dot = std::mem::replace(&mut dotted, c == '.');
            let after_value = std::mem::replace(&mut valued, !OPERATORS.contains(c));
            match c {
                '\'' | '"' => self.string(c)?,
                '_' | 'a'..='z' | 'A'..='Z' => {
                    let word = &rest
                        [..rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len())];
                    self.out.escapes |= matches!(word, "e" | "escape" | "forceescape" | "safe");
                    if word == "is" && after_test {
                        return Err(self.error("tests cannot be chained with is"));
                    }
                    test = match (word, test) {
                        _ if after_dot => 0,
                        ("is", _) => 1,
                        ("not", 1) => 1,
                        (_, 1) => 2,
                        _ => 0,
                    };
                    self.copy(word.len());
                    valued = after_dot || !BEFORE_VALUES.contains(&word);
                    continue;
                }
                '0'..='9' => self.number(after_dot)?,
                '+' if end == "}}" && rest[1..].starts_with(end) && depth == 0 => {
                    return Err(self.error("unexpected end of print statement after +"));
                }
                // What ends the tag is no sign.
                '-' | '+' if depth == 0 && rest[1..].starts_with(end) => self.copy(1),
                '-' | '+' if after_test => {
                    return Err(
                        self.error("a sign after a test is not supported; put the number into brackets")
                    );
                }
                // The parser has no such sign; two of the other are the same.
                '+' if !after_value => {
                    self.at += 1;
                    self.out.text.push_str("- -");
                }
                _ => {
                    match c {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    self.copy(c.len_utf8());
                }
            }
            test = 0;
        }
    }

    /// A number, if Jinja has such.
    fn number(&mut self, after_dot: bool) -> Result<(), TemplateError> {
        let rest = self.rest();
        let word = |text: &'a str| {
            &text[..text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len())]
        };
        let whole = word(rest);
        let behind = &rest[whole.len()..];
        let has_radix =
            whole.len() > 1 && matches!(whole.as_bytes()[1], b'x' | b'X' | b'o' | b'O' | b'b' | b'B');
        let leading_zero = whole.starts_with('0') && whole.bytes().any(|b| (b'1'..=b'9').contains(&b));
        let is_float = behind.starts_with('.') && behind[1..].starts_with(|c: char| c.is_ascii_digit())
            || whole.contains(['e', 'E']);
        if !after_dot && !has_radix && !is_float {
            if leading_zero {
                return Err(self.error(format!("the number {whole} begins with a zero")));
            }
            if let Some(next) = behind.strip_prefix('.')
                && !next.starts_with(|c: char| c == '_' || c.is_alphabetic())
            {
                return Err(self.error(format!("the number {whole}. has no digits after the point")));
            }
        }
        self.copy(whole.len());
        if !after_dot && is_float && behind.starts_with('.') {
            self.copy(1 + word(&behind[1..]).len());
        }
        // The sign of an exponent and its digits.
        let rest = self.rest();
        let exponent =
            is_float && self.source[..self.at].ends_with(['e', 'E']) && rest.starts_with(['+', '-']);
        if !after_dot && !has_radix && exponent {
            self.copy(1 + word(&rest[1..]).len());
        }
        Ok(())
    }

    /// A string with Python's escapes, written with those that the engine has too.
    fn string(&mut self, quote: char) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mut value = String::new();
        let mut chars = rest[1..].chars();
        // Line breaks are written as escapes, and stand before the string so that the lines keep their numbers.
        let mut lost_lines = 0;
        loop {
            match chars.next() {
                // The parser tells that the string has no end.
                None => {
                    self.copy(rest.len());
                    return Ok(());
                }
                Some(c) if c == quote => break,
                Some('\n') => {
                    lost_lines += 1;
                    value.push('\n');
                }
                Some('\\') => lost_lines += self.escape(&mut chars, &mut value)?,
                Some(c) => value.push(c),
            }
        }
        self.out.text.push_str(&"\n".repeat(lost_lines));
        self.out.text.push('\'');
        for c in value.chars() {
            match c {
                '\\' => self.out.text.push_str("\\\\"),
                '\'' => self.out.text.push_str("\\'"),
                '\n' => self.out.text.push_str("\\n"),
                c => self.out.text.push(c),
            }
        }
        self.out.text.push('\'');
        self.out.escapes |= matches!(value.as_str(), "e" | "escape" | "forceescape" | "safe");
        self.at += rest.len() - chars.as_str().len();
        Ok(())
    }

    /// What an escape stands for (Python's codec `unicode-escape`); gives how many line breaks it hides.
    fn escape(&self, chars: &mut std::str::Chars, value: &mut String) -> Result<usize, TemplateError> {
        let Some(c) = chars.next() else { return Ok(0) };
        let digits = |chars: &mut std::str::Chars, count: usize, radix: u32, so_far: String| {
            let mut text = so_far;
            while text.len() < count {
                let Some(digit) = chars.as_str().chars().next().filter(|c| c.is_digit(radix)) else { break };
                text.push(digit);
                chars.next();
            }
            text
        };
        match c {
            '\n' => return Ok(1),
            '\\' | '\'' | '"' => value.push(c),
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            'v' => value.push('\u{b}'),
            '0'..='7' => {
                let text = digits(chars, 3, 8, c.to_string());
                value.extend(u32::from_str_radix(&text, 8).ok().and_then(char::from_u32));
            }
            'x' | 'u' | 'U' => {
                let count = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let text = digits(chars, count, 16, String::new());
                let code = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == count);
                let code =
                    code.ok_or_else(|| self.error(format!("the escape \\{c}{text} needs {count} digits")))?;
                value.push(char::from_u32(code).ok_or_else(|| {
                    self.error(format!(
                        "the escape \\{c}{text} stands for no character (half of a surrogate pair is not supported)"
                    ))
                })?);
            }
            'N' => return Err(self.error("characters by name (\\N{...}) are not supported")),
            // The codec sees what is not ASCII as escapes, so that a backslash before it is escaped itself.
            c if !c.is_ascii() => {
                value.push('\\');
                let mut text = String::new();
                super::printing::escape(&mut text, c);
                value.push_str(&text[1..]);
            }
            c => {
                value.push('\\');
                value.push(c);
            }
        }
        Ok(0)
    }
}

/// What values stand behind.
const OPERATORS: &str = "+-*/%~=<>!,:|([{";
/// Words that values stand behind, or that a tag begins with.
const BEFORE_VALUES: [&str; 10] = ["and", "elif", "else", "if", "in", "is", "not", "or", "print", "with"];

/// A tag without arguments.
struct Tag<'a> {
    bytes: usize,
    left: &'a str,
    right: &'a str,
    /// Line breaks in it.
    lines: usize,
}

/// Reads `{% name %}`.
fn basic_tag<'a>(text: &'a str, name: &str) -> Option<Tag<'a>> {
    let sign = |text: &'a str| {
        let end = usize::from(text.starts_with(['-', '+']));
        text.split_at(end)
    };
    let (left, rest) = sign(text.strip_prefix("{%")?);
    let rest = rest.trim_start().strip_prefix(name)?;
    let (right, rest) = sign(rest.trim_start());
    let rest = rest.strip_prefix("%}")?;
    let bytes = text.len() - rest.len();
    Some(Tag { bytes, left, right, lines: text[..bytes].matches('\n').count() })
}
