//! What the pages of data and of runs both show of the rows: their lengths, and what of their tokens is computed.

use lorafit_data::statistics::Bar;
use lorafit_remedy::amounts::counted;

use crate::pages::figure::{Axis, Figure, Lines, Plot, Series, Style};
use crate::pages::shell::{Cards, percent};

/// Rows by their length; nothing of no rows.
pub fn lengths(bars: &[Bar]) -> Option<Figure> {
    let width = bars.first().map(|bar| (bar.to + 1 - bar.from) as f64)?;
    let middle = |bar: &Bar| (bar.from + bar.to + 1) as f64 / 2.0;
    let points = bars.iter().map(|bar| (middle(bar), bar.samples as f64)).collect();
    let series = vec![Series::new("rows", 0, Style::Bars(width), points)];
    let (x, y) = (Axis::linear("tokens in a row", "tokens").whole(), Axis::linear("rows", "rows").whole());
    Some(Figure {
        name: "lengths".to_owned(),
        title: "Rows by length".to_owned(),
        description: "The rows that are trained on, by their number of tokens.".to_owned(),
        plot: Plot::Lines(Lines::new(x, y, series)),
    })
}

/// Adds the share of the tokens that is computed in batches of so many rows. It depends on these: in a larger batch more rows share
/// a prefix.
pub fn add_computed(cards: &mut Cards, share: f64, batch_size: usize) {
    let batches = format!("of the tokens, in batches of {}", counted(batch_size, "row", "rows"));
    cards.add("computed with shared prefixes", &percent(share), &batches);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stands_over_the_lengths_of_its_rows() {
        let bars = [Bar { from: 50, to: 54, samples: 19 }, Bar { from: 55, to: 59, samples: 25 }];
        let Some(Figure { plot: Plot::Lines(lines), .. }) = lengths(&bars) else { panic!("no bars") };
        assert_eq!(lines.series[0].points, [(52.5, 19.0), (57.5, 25.0)]);
        assert_eq!(lines.series[0].style, Style::Bars(5.0));
        assert!(lengths(&[]).is_none());
    }

    #[test]
    fn a_share_says_the_batches_that_it_is_of() {
        let card = |rows| {
            let mut cards = Cards::default();
            add_computed(&mut cards, 0.598, rows);
            cards.html()
        };
        assert!(card(8).contains("59.8 %") && card(8).contains("in batches of 8 rows"), "{}", card(8));
        assert!(card(1).contains("in batches of 1 row<"), "{}", card(1));
    }
}
