//! Tables of plain text.

use lorafit_remedy::printable;

use crate::terminal::output;

/// The columns of a table without as many of the last as do not fit beside each other in `width`; `first` are those that go first,
/// by their places, the least important one first. The first column stays.
pub fn fitting(lines: &[Vec<String>], first: &[usize], width: usize) -> Vec<Vec<String>> {
    let columns = lines.first().map_or(0, Vec::len);
    let is_wide = |kept: &[usize]| {
        let cut = take(lines, kept);
        aligned(&cut).lines().any(|line| line.chars().count() > width)
    };
    let mut kept: Vec<usize> = (0..columns).collect();
    for column in first {
        if !is_wide(&kept) {
            break;
        }
        kept.retain(|other| other != column);
    }
    take(lines, &kept)
}

/// A table on standard output: of a terminal that is narrow without the columns that `first` names ([`fitting`]). A file or a program
/// has room for all.
pub fn shown(lines: &[Vec<String>], first: &[usize]) -> String {
    match output::width() {
        Some(width) => aligned(&fitting(lines, first, width)),
        None => aligned(lines),
    }
}

fn take(lines: &[Vec<String>], kept: &[usize]) -> Vec<Vec<String>> {
    lines.iter().map(|line| kept.iter().filter_map(|&column| line.get(column).cloned()).collect()).collect()
}

/// Columns beside each other, each as wide as its widest cell: words to the left, numbers to the right. The first line is
/// the head.
/// A name with a line break stays in its line.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let lines: Vec<Vec<String>> = lines
        .iter()
        .map(|line| line.iter().map(|cell| printable::name(cell).into_owned()).collect())
        .collect();
    let lines = &lines;
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
        let lines = [["run", "loss"], ["a\nb\u{1b}[2J", "1"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines), "run            loss\na\\nb\\u{1b}[2J     1");
    }

    #[test]
    fn columns_that_do_not_fit_go_in_their_order() {
        let lines = [["run", "state", "loss", "time"], ["runs/a", "finished", "1.25", "3 s"]];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec());
        let head = |width| fitting(&lines, &[3, 1], width)[0].join(" ");
        assert_eq!(
            [40, 25, 15, 3].map(head),
            ["run state loss time", "run state loss", "run loss", "run loss"]
        );
    }
}
