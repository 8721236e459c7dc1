//! Tables of plain text.

/// Columns beside each other, each as wide as its widest cell: words to the left, numbers to the right. The first line is
/// the head.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| lines.iter().filter_map(move |line| line.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    // A path is a word, a dash for what is missing is none.
    let is_word = |column: usize| {
        cells(column)
            .skip(1)
            .any(|cell| cell.starts_with(|first: char| first.is_alphabetic() || "/.~".contains(first)))
    };
    let words: Vec<bool> = (0..columns).map(is_word).collect();
    let cell = |(i, cell): (usize, &String)| match words[i] {
        true => format!("{cell:<width$}", width = widths[i]),
        false => format!("{cell:>width$}", width = widths[i]),
    };
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let lines = [["run", "loss", "state"], ["/a", "-", "running"], ["/runs/b", "12.25", ""]];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines), "run       loss  state\n/a           -  running\n/runs/b  12.25");
        assert_eq!(aligned(&[]), "");
    }
}
