//! The numbers behind a figure as CSV: a line a point.

use super::{HeatMap, Lines, Parallel, Plot, StackedBars};

/// The table of `plot`, with a line of names.
pub fn csv(plot: &Plot) -> String {
    let mut lines: Vec<Vec<String>> = Vec::new();
    match plot {
        Plot::Lines(Lines { x, y, series, .. }) => {
            lines.push(vec!["series".to_owned(), x.name.column.clone(), y.name.column.clone()]);
            for one in series {
                let name = one.full_name();
                let point = |(x, y): &(f64, f64)| vec![name.clone(), x.to_string(), y.to_string()];
                lines.extend(one.points.iter().map(point));
            }
        }
        Plot::HeatMap(HeatMap { x, y, columns, rows, value, .. }) => {
            lines.push(vec![y.column.clone(), x.column.clone(), value.column.clone()]);
            for (name, values) in rows {
                let cells =
                    columns.iter().zip(values).filter_map(|(column, value)| Some((column, (*value)?)));
                lines.extend(
                    cells.map(|(column, value)| vec![name.clone(), column.clone(), value.to_string()]),
                );
            }
        }
        Plot::StackedBars(StackedBars { x, y, parts, bars }) => {
            lines.push(vec![y.column.clone(), "part".to_owned(), x.name.column.clone()]);
            for (name, lengths) in bars {
                let part =
                    |(part, length): (&String, &f64)| vec![name.clone(), part.clone(), length.to_string()];
                lines.extend(parts.iter().zip(lengths).map(part));
            }
        }
        Plot::Parallel(Parallel { axes, lines: things, .. }) => {
            lines.push(
                std::iter::once("name".to_owned())
                    .chain(axes.iter().map(|a| a.axis.name.column.clone()))
                    .collect(),
            );
            for (name, values) in things {
                let value = |(axis, value): (&super::ParallelAxis, &Option<f64>)| match value {
                    Some(value) => {
                        axis.names.get(*value as usize).cloned().unwrap_or_else(|| value.to_string())
                    }
                    None => String::new(),
                };
                let values = axes.iter().zip(values).map(value);
                lines.push(std::iter::once(name.clone()).chain(values).collect());
            }
        }
    }
    table(&lines)
}

/// Lines of cells as CSV (RFC 4180).
pub fn table(lines: &[Vec<String>]) -> String {
    let cell = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    lines.iter().map(|line| line.iter().map(cell).collect::<Vec<_>>().join(",") + "\n").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_with_signs_of_the_format_are_quoted() {
        let line = ["a", "b,c", "d \"e\"", ""].map(str::to_owned).to_vec();
        assert_eq!(super::table(&[line]), "a,\"b,c\",\"d \"\"e\"\"\",\n");
    }
}
