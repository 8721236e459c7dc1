//! Help text as blocks, so that whatever shows it breaks the lines itself: a terminal, a man page, a page of Markdown.
//!
//! In the sources lines are as long as those of code. Lines that are not indented are one text; indented ones, with what is
//! blank between them, stay as they are.

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A paragraph, in one line.
    Text(String),
    /// Lines that stay as they are: examples and tables.
    Lines(Vec<String>),
}

/// The blocks of a text.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut blank = 0;
    for line in text.lines() {
        if line.trim().is_empty() {
            blank += 1;
            continue;
        }
        match (line.starts_with(' '), blocks.last_mut()) {
            (true, Some(Block::Lines(lines))) => {
                lines.extend(std::iter::repeat_n(String::new(), blank));
                lines.push(line.to_owned());
            }
            (true, _) => blocks.push(Block::Lines(vec![line.to_owned()])),
            (false, Some(Block::Text(text))) if blank == 0 => *text += &format!(" {line}"),
            (false, _) => blocks.push(Block::Text(line.to_owned())),
        }
        blank = 0;
    }
    blocks
}

/// A text whose paragraphs are one line each, for a terminal that breaks them. A blank line is before each paragraph but the
/// first; lines follow what introduces them.
pub fn flowed(text: &str) -> String {
    let mut flowed = String::new();
    for block in blocks(text) {
        let (before, block) = match block {
            Block::Text(text) => ("\n\n", text),
            Block::Lines(lines) => ("\n", lines.join("\n")),
        };
        if !flowed.is_empty() {
            flowed += before;
        }
        flowed += &block;
    }
    flowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_one_line_and_examples_stay() {
        let text = "Examples:\n  a b\n\n  c\n    d\n\nOne that\ngoes on.\n\nAnother.";
        let lines = ["  a b", "", "  c", "    d"].map(str::to_owned).to_vec();
        let expected = [
            Block::Text("Examples:".into()),
            Block::Lines(lines),
            Block::Text("One that goes on.".into()),
            Block::Text("Another.".into()),
        ];
        assert_eq!(blocks(text), expected);
        assert_eq!(flowed(text), "Examples:\n  a b\n\n  c\n    d\n\nOne that goes on.\n\nAnother.");
        assert_eq!(flowed(&flowed(text)), flowed(text));
    }
}
