//! Figures as SVG 1.1.
//!
//! A drawing is 480 units wide: at that size its letters are read on a telephone and, twice beside each other, on a
//! laptop. A curve is thinned to what its pixels can show, so that a page stays small however long a run is.

use std::fmt::Write as _;

use super::letters::{self, Anchor, Look};
use super::scale::{Scale, line_colour, short, viridis};
use super::{Axis, Figure, HeatMap, Lines, Parallel, ParallelAxis, Place, Plot, Series, StackedBars, Style};
use crate::pages::shell::escape;

const WIDTH: f64 = 480.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
/// Height of the area with the curves.
const HEIGHT: f64 = 210.0;
const LETTER: f64 = 6.6;
const LINE: f64 = 18.0;
/// Height that the name of a row takes.
const ROW_NAME: f64 = 13.0;
/// Height of a stacked bar, and from one to the next with the name between.
const BAR: f64 = 22.0;
const BAR_STEP: f64 = 48.0;

/// A drawing as it grows downwards.
struct Canvas {
    svg: String,
    place: Place,
    /// Where the next part begins.
    top: f64,
}

/// The figure as a drawing.
pub fn svg(figure: &Figure, place: Place) -> String {
    let mut canvas = Canvas { svg: String::new(), place, top: 8.0 };
    if place != Place::Page {
        canvas.top += 16.0;
        let look = Look { size: Some(15.0), bold: true, ..canvas.plain() };
        canvas.text(8.0, canvas.top, Anchor::Start, look, &figure.title);
        canvas.top += 10.0;
    }
    match &figure.plot {
        Plot::Lines(lines) => canvas.lines(lines),
        Plot::HeatMap(map) => canvas.heat_map(map),
        Plot::Parallel(parallel) => canvas.parallel(parallel),
        Plot::StackedBars(bars) => canvas.stacked_bars(bars),
    }
    let Canvas { svg, top: height, .. } = canvas;
    let (title, description) = (escape(&figure.title), escape(&figure.description));
    let (size, background) = match place {
        Place::Page => (String::new(), String::new()),
        Place::File | Place::Picture => (
            format!(" width=\"{WIDTH}\" height=\"{height:.0}\""),
            "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n".to_owned(),
        ),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\"{size} role=\"img\" \
         font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" font-size=\"{}\">\n\
         <title>{title}</title><desc>{description}</desc>\n{background}{svg}</svg>\n",
        letters::SIZE
    )
}

impl Canvas {
    fn ink(&self) -> &'static str {
        if self.place == Place::Page { "var(--ink)" } else { "#1d1f21" }
    }

    fn faint(&self) -> &'static str {
        if self.place == Place::Page { "var(--faint)" } else { "#5c6166" }
    }

    fn grid(&self) -> &'static str {
        if self.place == Place::Page { "var(--line)" } else { "#d8dbde" }
    }

    /// Letters as most are.
    fn plain(&self) -> Look {
        Look { fill: self.ink(), size: None, bold: false, halo: None }
    }

    /// Letters that are read where lines cross them.
    fn haloed(&self) -> Look {
        let paper = if self.place == Place::Page { "var(--paper)" } else { "#fff" };
        Look { halo: Some(paper), ..self.plain() }
    }

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, look: Look, text: &str) {
        self.svg.push_str(&letters::element(self.place, (x, y), anchor, look, text));
    }

    fn rule(&mut self, from: (f64, f64), to: (f64, f64)) {
        let grid = self.grid();
        let _ = writeln!(
            self.svg,
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{grid}\" fill=\"none\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn lines(&mut self, lines: &Lines) {
        let Lines { x, y, series } = lines;
        self.legend(series);
        let points = || series.iter().flat_map(|one| &one.points);
        let bars = series.iter().find_map(|one| match one.style {
            Style::Bars(width) => Some(width),
            Style::Solid | Style::Faint | Style::Dashed | Style::Dotted | Style::Points => None,
        });
        let half = bars.unwrap_or(0.0) / 2.0;
        let xs = Scale::of(points().flat_map(|p| [p.0 - half, p.0 + half]), x.log);
        let ys = Scale::of(points().map(|p| p.1), y.log);
        let ys = if bars.is_some() { ys.with_zero() } else { ys.roomy() };
        let xs = if series.iter().all(|one| one.style == Style::Points) { xs.roomy() } else { xs };
        self.text(8.0, self.top + 12.0, Anchor::Start, self.plain(), &y.label);
        self.top += 22.0;
        let (top, bottom) = (self.top, self.top + HEIGHT);
        let at_x = |value: f64| Some(LEFT + xs.place(value)? * (WIDTH - LEFT - RIGHT));
        let at_y = |value: f64| Some(bottom - ys.place(value)? * HEIGHT);
        for (value, text) in ticks(y, &ys, 5) {
            if let Some(y) = at_y(value) {
                self.rule((LEFT, y), (WIDTH - RIGHT, y));
                self.text(LEFT - 6.0, y + 4.0, Anchor::End, self.plain(), &text);
            }
        }
        self.x_axis(x, &xs, (LEFT, WIDTH - RIGHT), (bottom, bottom));
        for one in series {
            let places: Vec<(f64, f64)> =
                one.points.iter().filter_map(|&(x, y)| Some((at_x(x)?, at_y(y)?))).collect();
            self.series(one, &places, bottom, half * (WIDTH - LEFT - RIGHT) / (xs.ends().1 - xs.ends().0));
        }
        self.top = top + HEIGHT + 46.0;
    }

    /// An axis at `bottom` from `left` to `right`, whose marks begin at `top`.
    fn x_axis(&mut self, axis: &Axis, scale: &Scale, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
        let at = |value: f64| Some(left + scale.place(value)? * (right - left)).filter(|x| *x <= right + 0.1);
        let mut free_from = 0.0;
        for (value, text) in ticks(axis, scale, 6) {
            let Some(x) = at(value) else { continue };
            let room = LETTER * text.len() as f64 / 2.0 + 4.0;
            let is_named = x - room >= free_from && x + room <= WIDTH;
            if is_named || top < bottom {
                self.rule((x, top), (x, bottom + 4.0));
            }
            if is_named {
                self.text(x, bottom + 18.0, Anchor::Middle, self.plain(), &text);
                free_from = x + room;
            }
        }
        self.rule((left, bottom), (right, bottom));
        self.text((left + right) / 2.0, bottom + 36.0, Anchor::Middle, self.plain(), &axis.label);
    }

    fn stacked_bars(&mut self, stacked: &StackedBars) {
        let StackedBars { x, y_label, parts, bars } = stacked;
        let part = |(i, name): (usize, &String)| Series::new(name, i, Style::Points, Vec::new());
        let parts: Vec<Series> = parts.iter().enumerate().map(part).collect();
        self.legend(&parts);
        self.text(8.0, self.top + 12.0, Anchor::Start, self.plain(), y_label);
        self.top += 22.0;
        // Beside the longest bar there is room for its sum.
        let (left, right) = (8.0, WIDTH - 62.0);
        let sum = |lengths: &[f64]| lengths.iter().sum::<f64>();
        let scale = Scale::of(bars.iter().map(|(_, lengths)| sum(lengths)), false).with_zero();
        let bottom = self.top + BAR_STEP * bars.len() as f64 + 6.0;
        self.x_axis(x, &scale, (left, right), (self.top, bottom));
        let at = |length: f64| left + scale.place(length).unwrap_or(0.0) * (right - left);
        for (name, lengths) in bars {
            self.text(left, self.top + 14.0, Anchor::Start, self.haloed(), name);
            let (top, middle) = (self.top + 20.0, self.top + 20.0 + BAR / 2.0 + 4.0);
            let mut before = 0.0;
            for (part, length) in parts.iter().zip(lengths) {
                let (from, to, text) = (at(before), at(before + length), short_length(*length));
                let _ = writeln!(
                    self.svg,
                    "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"><title>{} \
                     {text}</title></rect>",
                    to - from,
                    part.colour,
                    escape(&part.name)
                );
                if to - from > LETTER * text.len() as f64 + 6.0 {
                    let look = Look { fill: ink_on(&part.colour), ..self.plain() };
                    self.text((from + to) / 2.0, middle, Anchor::Middle, look, &text);
                }
                before += length;
            }
            let text = short_length(before);
            let look = Look { bold: true, ..self.haloed() };
            self.text(at(before) + 6.0, middle, Anchor::Start, look, &text);
            self.top += BAR_STEP;
        }
        self.top = bottom + 46.0;
    }

    fn series(&mut self, series: &Series, places: &[(f64, f64)], bottom: f64, half: f64) {
        let colour = &series.colour;
        match series.style {
            Style::Bars(_) => {
                for (x, y) in places {
                    let (left, width, height) = (x - half + 0.5, (2.0 * half - 1.0).max(0.5), bottom - y);
                    let _ = write!(
                        self.svg,
                        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                         fill=\"{colour}\"/>"
                    );
                }
                self.svg.push('\n');
            }
            Style::Points => self.dots(colour, places, 3.5),
            Style::Solid => self.curve(colour, places, " stroke-width=\"2\""),
            Style::Faint => self.curve(colour, places, " stroke-opacity=\".55\""),
            Style::Dashed => self.curve(colour, places, " stroke-width=\"1.5\" stroke-dasharray=\"6 4\""),
            Style::Dotted => {
                self.curve(colour, places, " stroke-width=\"1.5\"");
                self.dots(colour, places, 2.5);
            }
        }
    }

    fn curve(&mut self, colour: &str, places: &[(f64, f64)], more: &str) {
        let mut path = String::new();
        for (i, (x, y)) in thinned(places).into_iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        let _ = writeln!(
            self.svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\"{more}/>"
        );
    }

    fn dots(&mut self, colour: &str, places: &[(f64, f64)], radius: f64) {
        for (x, y) in thinned(places) {
            let _ =
                write!(self.svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
        }
        self.svg.push('\n');
    }

    fn legend(&mut self, series: &[Series]) {
        let named: Vec<&Series> = series.iter().filter(|one| one.in_legend).collect();
        if named.len() < 2 {
            return;
        }
        let mut x = 8.0;
        self.top += LINE;
        for one in named {
            let width = 30.0 + LETTER * one.name.chars().count() as f64 + 14.0;
            if x > 8.0 && x + width > WIDTH {
                x = 8.0;
                self.top += LINE;
            }
            let middle = self.top - 4.0;
            match one.style {
                Style::Points | Style::Bars(_) => self.dots(&one.colour, &[(x + 12.0, middle)], 4.0),
                Style::Solid | Style::Faint | Style::Dashed | Style::Dotted => {
                    self.series(one, &[(x, middle), (x + 24.0, middle)], middle, 0.0);
                }
            }
            self.text(x + 30.0, self.top, Anchor::Start, self.plain(), &one.name);
            x += width;
        }
        self.top += 8.0;
    }

    fn heat_map(&mut self, map: &HeatMap) {
        let HeatMap { x_label, y_label, columns, rows, value_label, range } = map;
        let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let left = (LETTER * longest as f64 + 14.0).clamp(LEFT, WIDTH / 3.0);
        let values = rows.iter().flat_map(|(_, values)| values).filter_map(|v| *v);
        let scale = match range {
            Some(ends) => Scale::of(ends.iter().copied(), false),
            None => Scale::of(values, false),
        };
        self.text(8.0, self.top + 12.0, Anchor::Start, self.plain(), y_label);
        self.top += 22.0;
        let width = (WIDTH - left - RIGHT) / columns.len().max(1) as f64;
        let height = (HEIGHT / rows.len().max(1) as f64).clamp(8.0, 26.0);
        let mut named_to = 0.0;
        for (i, (name, values)) in rows.iter().enumerate() {
            let y = self.top + i as f64 * height;
            let middle = y + height / 2.0;
            if middle - ROW_NAME / 2.0 >= named_to {
                self.text(left - 6.0, middle + 4.0, Anchor::End, self.plain(), name);
                named_to = middle + ROW_NAME / 2.0;
            }
            for (j, value) in values.iter().enumerate() {
                let Some((value, place)) = value.and_then(|v| Some((v, scale.place(v)?))) else { continue };
                let _ = write!(
                    self.svg,
                    "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"><title>{} {}: {}\
                     </title></rect>",
                    left + j as f64 * width,
                    width + 0.2,
                    viridis(place),
                    escape(name),
                    escape(&columns[j]),
                    short(value)
                );
            }
            self.svg.push('\n');
        }
        let bottom = self.top + rows.len() as f64 * height;
        let mut free_from = 0.0;
        for (j, column) in columns.iter().enumerate() {
            let (x, room) = (left + (j as f64 + 0.5) * width, LETTER * column.len() as f64 / 2.0 + 4.0);
            if x - room >= free_from {
                self.text(x, bottom + 16.0, Anchor::Middle, self.plain(), column);
                free_from = x + room;
            }
        }
        self.text((left + WIDTH - RIGHT) / 2.0, bottom + 34.0, Anchor::Middle, self.plain(), x_label);
        self.top = bottom + 48.0;
        self.colour_bar(&scale, value_label, left);
    }

    /// The colours with the values at their ends, and what they tell.
    fn colour_bar(&mut self, scale: &Scale, label: &str, left: f64) {
        const STEPS: usize = 48;
        let step = (WIDTH - RIGHT - left) / STEPS as f64;
        for i in 0..STEPS {
            let _ = write!(
                self.svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" fill=\"{}\"/>",
                left + i as f64 * step,
                self.top,
                step + 0.3,
                viridis(i as f64 / (STEPS - 1) as f64)
            );
        }
        self.svg.push('\n');
        let (low, high) = scale.ends();
        self.text(left, self.top + 25.0, Anchor::Start, self.plain(), &short(low));
        self.text((left + WIDTH - RIGHT) / 2.0, self.top + 25.0, Anchor::Middle, self.plain(), label);
        self.text(WIDTH - RIGHT, self.top + 25.0, Anchor::End, self.plain(), &short(high));
        self.top += 36.0;
    }

    fn parallel(&mut self, parallel: &Parallel) {
        let Parallel { axes, lines, best } = parallel;
        let scale = |i: usize, axis: &ParallelAxis| match axis.names.is_empty() {
            true => Scale::of(lines.iter().filter_map(|(_, values)| values[i]), axis.axis.log),
            false => Scale::of([0.0, (axis.names.len() - 1) as f64].into_iter(), false),
        };
        let scales: Vec<Scale> = axes.iter().enumerate().map(|(i, axis)| scale(i, axis)).collect();
        let (left, right) = (44.0, WIDTH - 50.0);
        let step = (right - left) / axes.len().saturating_sub(1).max(1) as f64;
        let (top, bottom) = (self.top + 34.0, self.top + 34.0 + HEIGHT);
        for (i, axis) in axes.iter().enumerate() {
            let x = left + i as f64 * step;
            // Names of neighbours stand in two lines.
            let y = self.top + if i % 2 == 0 { 12.0 } else { 26.0 };
            self.text(x, y, Anchor::Middle, Look { bold: true, ..self.plain() }, &axis.axis.label);
            let faint = self.faint();
            let _ = writeln!(self.svg, "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"{faint}\"/>");
        }
        let last = axes.len().saturating_sub(1);
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by_key(|i| Some(*i) == *best);
        for i in order {
            let (name, values) = &lines[i];
            let places = scales.iter().zip(values).enumerate().filter_map(|(i, (scale, value))| {
                Some((left + i as f64 * step, bottom - scale.place((*value)?)? * HEIGHT))
            });
            let mut path = String::new();
            for (n, (x, y)) in places.enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
            }
            let place = values.get(last).copied().flatten().and_then(|value| scales[last].place(value));
            let (colour, width) = match (Some(i) == *best, place) {
                (true, _) => ("#d55e00".to_owned(), 3.5),
                (false, Some(place)) => (line_colour(place), 1.5),
                (false, None) => (self.faint().to_owned(), 1.0),
            };
            let _ = writeln!(
                self.svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"><title>{}</title></path>",
                escape(name)
            );
        }
        // Above the lines, which would cross them out.
        let look = Look { size: Some(11.0), ..self.haloed() };
        for (i, (axis, scale)) in axes.iter().zip(&scales).enumerate() {
            let x = left + i as f64 * step;
            let marks = match axis.names.is_empty() {
                true => ticks(&axis.axis, scale, 4),
                false => axis.names.iter().enumerate().map(|(i, n)| (i as f64, n.clone())).collect(),
            };
            for (value, text) in marks {
                if let Some(place) = scale.place(value) {
                    self.text(x + 4.0, bottom - place * HEIGHT + 4.0, Anchor::Start, look, &text);
                }
            }
        }
        self.top = bottom + 14.0;
    }
}

/// White or nearly black, whichever is read better on `colour`, of the form `#rrggbb`.
fn ink_on(colour: &str) -> &'static str {
    let part = |from: usize| colour.get(from..from + 2).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let [red, green, blue] = [1, 3, 5].map(|from| part(from).unwrap_or(0));
    // The brightness of ITU-R BT.601, of 255,000.
    if 299 * red + 587 * green + 114 * blue > 100_000 { "#1d1f21" } else { "#fff" }
}

/// The length of a bar, with three digits.
fn short_length(length: f64) -> String {
    match length {
        100.0.. => format!("{length:.0}"),
        10.0.. => format!("{length:.1}"),
        _ => format!("{length:.2}"),
    }
}

/// The values that an axis marks, with their texts.
fn ticks(axis: &Axis, scale: &Scale, wanted: usize) -> Vec<(f64, String)> {
    match axis.marks.is_empty() {
        true => scale.ticks(wanted),
        false => axis.marks.iter().map(|&value| (value, short(value))).collect(),
    }
}

/// What a pixel column can show of a curve: its first, lowest, highest and last place.
fn thinned(places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if places.len() as f64 <= 2.0 * WIDTH {
        return places.to_vec();
    }
    let mut kept = Vec::new();
    for column in places.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends =
            [column.first(), column.iter().min_by(by_height), column.iter().max_by(by_height), column.last()];
        let mut ends: Vec<(f64, f64)> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        kept.extend(ends);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::figure::png::png;

    fn curve(points: Vec<(f64, f64)>) -> Figure {
        let series = vec![
            Series::new("one <b>", 0, Style::Faint, points.clone()),
            Series::new("two", 1, Style::Dotted, points),
        ];
        let plot = Plot::Lines(Lines { x: Axis::linear("step"), y: Axis::log("loss"), series });
        Figure { name: "loss".into(), title: "Loss & <i>".into(), description: "falls".into(), plot }
    }

    fn heat_map() -> Figure {
        let rows =
            vec![("q_proj".to_owned(), vec![Some(0.1), None]), ("v".to_owned(), vec![Some(0.2), Some(0.3)])];
        let columns = vec!["0".to_owned(), "1".to_owned()];
        let map = HeatMap {
            x_label: "layer".into(),
            y_label: "module".into(),
            columns,
            rows,
            value_label: "norm".into(),
            range: None,
        };
        Figure { name: "m".into(), title: "Map".into(), description: "d".into(), plot: Plot::HeatMap(map) }
    }

    fn parallel() -> Figure {
        let axis = |label, names: &[&str]| ParallelAxis {
            axis: Axis::linear(label),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let lines =
            vec![("a".to_owned(), vec![Some(0.0), Some(2.0)]), ("b".to_owned(), vec![Some(1.0), None])];
        let axes = vec![axis("optimizer", &["adamw", "adamw-8bit"]), axis("loss", &[])];
        let plot = Plot::Parallel(Parallel { axes, lines, best: Some(0) });
        Figure { name: "p".into(), title: "P".into(), description: "d".into(), plot }
    }

    fn stacked_bars() -> Figure {
        let bars = vec![("full".to_owned(), vec![2.0, 0.5]), ("nothing".to_owned(), vec![0.0, 0.0])];
        let x = Axis { marks: vec![1.0, 2.0, 400.0], ..Axis::linear("GB") };
        let parts = ["weights", "rest"].map(str::to_owned).to_vec();
        let plot = Plot::StackedBars(StackedBars { x, y_label: "method".into(), parts, bars });
        Figure { name: "b".into(), title: "B".into(), description: "d".into(), plot }
    }

    #[test]
    fn every_kind_of_figure_is_a_picture_with_ink_in_it() {
        let all =
            [curve(vec![(1.0, 2.0), (2.0, 1.0)]), curve(vec![]), heat_map(), parallel(), stacked_bars()];
        for figure in all {
            let picture = png(&figure.svg(Place::Picture)).expect("a picture");
            let pixels = resvg::tiny_skia::Pixmap::decode_png(&picture).expect("a PNG");
            let dark = pixels.pixels().iter().filter(|pixel| pixel.red() < 128).count();
            assert!(pixels.width() == 960 && dark > 100, "{}: {dark} dark pixels", figure.name);
            assert!(
                figure.svg(Place::Page).contains("var(--ink)") && !figure.svg(Place::File).contains("var(")
            );
        }
    }

    #[test]
    fn names_are_text_in_a_figure() {
        let svg = curve(vec![(1.0, 1.0)]).svg(Place::Page);
        assert!(svg.contains("one &lt;b&gt;") && svg.contains("<title>Loss &amp; &lt;i&gt;</title>"));
    }

    #[test]
    fn a_long_curve_keeps_its_peaks_and_little_else() {
        let mut points: Vec<(f64, f64)> = (1..=1_000_000).map(|i| (f64::from(i), 1.0)).collect();
        points[700_123].1 = 50.0;
        let places: Vec<(f64, f64)> = points.iter().map(|p| (p.0 / 1e6 * WIDTH, p.1)).collect();
        let kept = thinned(&places);
        assert!(kept.len() <= 4 * 481 && kept.iter().any(|p| p.1 == 50.0), "{}", kept.len());
        assert!(curve(points).svg(Place::Page).len() < 200_000);
    }
}
