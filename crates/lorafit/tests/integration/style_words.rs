//! One term for one thing: what `docs/style-words.md` replaces stands in no help, error, output or page of the documentation.

use std::collections::BTreeSet;
use std::fs;

use crate::reference::{pages, root, sources};

/// The words that the table replaces, with what is written instead: what is bold in its last column.
fn replaced() -> Vec<(String, String)> {
    let table = fs::read_to_string(root().join("docs/style-words.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains("**"));
    let mut words = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [term, _, not] = cells[..] else { panic!("three columns: {row}") };
        let bold = not.split("**").skip(1).step_by(2);
        words.extend(bold.map(|word| (word.to_owned(), term.to_owned())));
    }
    words
}

/// The literals of a source's text, without what `{...}` puts into them.
fn literals(code: &str) -> Vec<String> {
    let (mut literals, mut literal, mut depth) = (Vec::new(), None::<String>, 0);
    let mut letters = code.chars();
    while let Some(letter) = letters.next() {
        match (&mut literal, letter) {
            (None, '"') => literal = Some(String::new()),
            // A letter between quotes is none.
            (None, '\'') => drop(letters.clone().nth(1).filter(|end| *end == '\'').map(|_| letters.nth(1))),
            (None, _) => {}
            (Some(_), '"') => {
                literals.extend(literal.take());
                depth = 0;
            }
            (Some(_), '\\') => drop(letters.next()),
            (Some(_), '{') => depth += 1,
            (Some(_), '}') => depth -= i32::from(depth > 0),
            (Some(text), _) if depth == 0 => text.push(letter),
            (Some(_), _) => {}
        }
    }
    literals
}

/// Whether `text` has `words`, in any case and as whole words.
fn has(text: &str, words: &str) -> bool {
    let text = text.to_lowercase();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(words).any(|(at, _)| {
        !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + words.len()..].chars().next())
    })
}

#[test]
fn replaced_words_stand_nowhere() {
    let replaced = replaced();
    assert!(replaced.len() >= 15, "{replaced:?}");
    let mut texts: Vec<(String, String)> = Vec::new();
    for (path, text) in pages().into_iter().filter(|(path, _)| !path.ends_with("style-words.md")) {
        texts.push((path.display().to_string(), text));
    }
    for (file, code) in sources() {
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("///")).collect();
        texts.extend(literals(&code).into_iter().map(|text| (file.display().to_string(), text)));
    }
    assert!(texts.len() > 3000, "{}", texts.len());
    let mut wrong = BTreeSet::new();
    for (place, text) in &texts {
        // A line that goes on in the next is one text.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for (word, instead) in replaced.iter().filter(|(word, _)| has(&text, word)) {
            let at = text.to_lowercase().find(word.as_str()).unwrap_or(0);
            let near: String = text.chars().skip(at.saturating_sub(40)).take(100).collect();
            wrong.insert(format!("{place}: \"{word}\" in \"{near}\": write {instead}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn words_are_found_in_what_is_printed_and_not_in_names() {
    let code = r#"let told = format!("a {told} b \" told"); let c = '"'; call("untold, Told")"#;
    assert_eq!(literals(code), ["a  b  told", "untold, Told"]);
    assert_eq!(
        ["a told b", "Told", "untold", "told_x"].map(|text| has(text, "told")),
        [true, true, false, false]
    );
}
