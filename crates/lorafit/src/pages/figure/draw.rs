//! Figures as SVG 1.1.
//!
//! A page has two drawings of each figure, about as many units wide as the room that each is shown in has pixels, so that letters
//! are 12 to 17 pixels high on a telephone and on a laptop. A curve is thinned to what its pixels can show, so that a page stays
//! small however long a run is.

use std::fmt::Write as _;

use super::colour::{Colour, SHADES, viridis};
use super::letters::{self, Anchor, BOLD, Look};
use super::scale::{Scale, short, three_digits, with_texts};
use super::{
    Axis, Figure, HeatMap, Lines, Parallel, ParallelAxis, Place, Plot, Series, StackedBars, Style, Width,
};
use crate::pages::shell::escape;
use lorafit_remedy::amounts::counted;

const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
/// Height of the area with the curves.
const HEIGHT: f64 = 210.0;
/// From a line of the legend to the next.
const LINE: f64 = 18.0;
/// The part of the legend before a name.
const KEY: f64 = 30.0;
/// Least distance of upright axes: names and values have room between them.
const LEAST_STEP: f64 = 66.0;
/// Height that the name of a row takes.
const ROW_NAME: f64 = 13.0;
/// Height of a stacked bar, and from one to the next with the name between.
const BAR: f64 = 22.0;
const BAR_STEP: f64 = 48.0;

/// A drawing as it grows downwards.
struct Canvas {
    svg: String,
    place: Place,
    width: f64,
    /// Where the next part begins.
    top: f64,
}

/// The figure as a drawing.
pub fn svg(figure: &Figure, place: Place) -> String {
    let mut canvas = Canvas { svg: String::new(), place, width: place.width(), top: 0.0 };
    if !place.is_page() {
        canvas.top = 24.0;
        let look = Look { size: Some(15.0), bold: true, ..canvas.plain() };
        let title = letters::fitted(&figure.title, (canvas.width - 16.0) / BOLD, 15.0);
        canvas.text(8.0, canvas.top, Anchor::Start, look, &title);
        canvas.top += 10.0;
    }
    match &figure.plot {
        Plot::Lines(lines) => canvas.lines(lines),
        Plot::HeatMap(map) => canvas.heat_map(map),
        Plot::Parallel(parallel) => canvas.parallel(parallel),
        Plot::StackedBars(bars) => canvas.stacked_bars(bars),
    }
    let Canvas { svg, top: height, width, .. } = canvas;
    let (title, description) = (escape(&figure.title), escape(&figure.caption()));
    let (size, background) = match place {
        // What needs more room than most is scrolled.
        Place::Page(of) if width > place.width() => {
            (format!(" class=\"{}\" style=\"min-width: {width:.0}px\"", of.class()), String::new())
        }
        Place::Page(of) => (format!(" class=\"{}\"", of.class()), String::new()),
        Place::File | Place::Picture => (
            format!(" width=\"{width:.0}\" height=\"{height:.0}\""),
            "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n".to_owned(),
        ),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\"{size} role=\"img\" \
         font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" font-size=\"{}\">\n\
         <title>{title}</title><desc>{description}</desc>\n{background}{svg}</svg>\n",
        letters::SIZE
    )
}

impl Width {
    /// By which the style of a page shows one of its two drawings.
    fn class(self) -> &'static str {
        match self {
            Width::Narrow => "for-narrow",
            Width::Wide => "for-wide",
        }
    }
}

impl Place {
    /// Units that a drawing is wide, if it needs no more.
    fn width(self) -> f64 {
        match self {
            Place::Page(Width::Narrow) => 372.0,
            Place::Page(Width::Wide) => 520.0,
            Place::File | Place::Picture => 440.0,
        }
    }

    fn is_page(self) -> bool {
        match self {
            Place::Page(_) => true,
            Place::File | Place::Picture => false,
        }
    }
}

/// An entry of a legend: a name, and the sign before it.
struct Key<'a> {
    name: &'a str,
    style: Style,
    colour: String,
}

impl Canvas {
    /// A colour of the page's style, or its value on white.
    fn of_page(&self, variable: &'static str, on_white: &'static str) -> &'static str {
        if self.place.is_page() { variable } else { on_white }
    }

    fn ink(&self) -> &'static str {
        self.of_page("var(--ink)", "#1d1f21")
    }

    fn faint(&self) -> &'static str {
        self.of_page("var(--faint)", "#5c6166")
    }

    fn grid(&self) -> &'static str {
        self.of_page("var(--line)", "#d8dbde")
    }

    fn paper(&self) -> &'static str {
        self.of_page("var(--paper)", "#fff")
    }

    fn colour(&self, colour: Colour) -> String {
        match self.place {
            Place::Page(_) => format!("var(--{})", colour.variable()),
            Place::File | Place::Picture => colour.on_white().to_owned(),
        }
    }

    /// Letters as most are.
    fn plain(&self) -> Look {
        Look { fill: self.ink(), size: None, bold: false, plate: None }
    }

    /// Letters of what an axis shows, which are not taken for those of the legend.
    fn of_axis(&self) -> Look {
        Look { fill: self.faint(), bold: true, ..self.plain() }
    }

    /// Letters where lines would cross them.
    fn plated(&self) -> Look {
        Look { plate: Some(self.paper()), ..self.plain() }
    }

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, look: Look, text: &str) {
        self.svg.push_str(&letters::element(self.place, (x, y), anchor, look, text));
    }

    /// What the upright axis shows, above it.
    fn heading(&mut self, text: &str) {
        for line in letters::lines(text, (self.width - 16.0) / BOLD, letters::SIZE) {
            self.text(8.0, self.top + 18.0, Anchor::Start, self.of_axis(), &line);
            self.top += 16.0;
        }
        self.top += 16.0;
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
        let Lines { x, y, series, order } = lines;
        match order {
            Some(ends) => self.shades(ends),
            None => self.legend(series),
        }
        let points = || series.iter().flat_map(|one| &one.points);
        let bars = series.iter().find_map(|one| match one.style {
            Style::Bars(width) | Style::Outline(width) => Some(width),
            Style::Solid | Style::Faint | Style::Dashed | Style::Dotted => None,
            Style::Points | Style::Specks | Style::Whiskers => None,
        });
        let half = bars.unwrap_or(0.0) / 2.0;
        let xs = Scale::of(points().flat_map(|p| [p.0 - half, p.0 + half]), x.log);
        let ys = Scale::of(points().map(|p| p.1), y.log);
        let ys = if bars.is_some() || y.from_zero { ys.with_zero() } else { ys.roomy() };
        let is_of_dots = |one: &Series| matches!(one.style, Style::Points | Style::Specks | Style::Whiskers);
        let xs = if series.iter().all(is_of_dots) { xs.roomy() } else { xs };
        self.heading(&y.label());
        let (top, bottom) = (self.top, self.top + HEIGHT);
        let right = self.width - RIGHT;
        let width = right - LEFT;
        let at_x = |value: f64| Some(LEFT + xs.place(value)? * width);
        let at_y = |value: f64| Some(bottom - ys.place(value)? * HEIGHT);
        self.svg.push_str("<g class=\"grid\">\n");
        for (value, text) in ticks(y, &ys, 5) {
            if let Some(y) = at_y(value) {
                self.rule((LEFT, y), (right, y));
                self.text(LEFT - 6.0, y + 4.0, Anchor::End, self.plain(), &text);
            }
        }
        self.x_axis(x, &xs, (LEFT, right), (bottom, bottom));
        self.svg.push_str("</g>\n");
        // The script of a page shows a part of what is in here.
        let range = |axis: &Axis, scale: &Scale| {
            let (low, high) = scale.ends();
            format!("{low} {high} {} {}", u8::from(axis.log), u8::from(axis.whole))
        };
        if self.place.is_page() {
            let area = format!("{LEFT} {top:.0} {width} {HEIGHT}");
            let _ = writeln!(
                self.svg,
                "<svg class=\"plot\" x=\"{LEFT}\" y=\"{top:.0}\" width=\"{width}\" height=\"{HEIGHT}\" viewBox=\"{area}\" \
                 preserveAspectRatio=\"none\" data-x=\"{}\" data-y=\"{}\" data-names=\"{}\">",
                range(x, &xs),
                range(y, &ys),
                escape(&format!("{}\n{}", x.name.label, y.name.label)),
            );
        }
        for one in series {
            let places: Vec<(f64, f64)> =
                one.points.iter().filter_map(|&(x, y)| Some((at_x(x)?, at_y(y)?))).collect();
            let name = escape(&one.full_name());
            let _ = writeln!(self.svg, "<g class=\"series\" data-name=\"{name}\"><title>{name}</title>");
            let half = half * width / (xs.ends().1 - xs.ends().0);
            self.styled(one.style, &self.colour(one.colour), &places, bottom, half);
            self.svg.push_str("</g>\n");
        }
        if self.place.is_page() {
            self.svg.push_str("</svg>\n");
        }
        self.top = top + HEIGHT + 46.0;
    }

    /// An axis at `bottom` from `left` to `right`, whose marks begin at `top`.
    fn x_axis(&mut self, axis: &Axis, scale: &Scale, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
        let at = |value: f64| Some(left + scale.place(value)? * (right - left)).filter(|x| *x <= right + 0.1);
        let mut free_from = 0.0;
        for (value, text) in ticks(axis, scale, 6) {
            let Some(x) = at(value) else { continue };
            let room = letters::width(&text, letters::SIZE) / 2.0;
            let is_named = x - room >= free_from && x + room <= self.width;
            if is_named || top < bottom {
                self.rule((x, top), (x, bottom + 4.0));
            }
            if is_named {
                self.text(x, bottom + 18.0, Anchor::Middle, self.plain(), &text);
                free_from = x + room + 8.0;
            }
        }
        self.rule((left, bottom), (right, bottom));
        let label = letters::fitted(&axis.label(), (self.width - 16.0) / BOLD, letters::SIZE);
        // In the middle of the axis, unless it would end beyond the drawing there.
        let room = BOLD * letters::width(&label, letters::SIZE) / 2.0;
        let middle = ((left + right) / 2.0).min(self.width - 4.0 - room);
        self.text(middle, bottom + 37.0, Anchor::Middle, self.of_axis(), &label);
    }

    fn stacked_bars(&mut self, stacked: &StackedBars) {
        let StackedBars { x, y, parts, bars } = stacked;
        let part = |(i, name): (usize, &String)| Series::new(name, i, Style::Bars(BAR), Vec::new());
        let parts: Vec<Series> = parts.iter().enumerate().map(part).collect();
        self.legend(&parts);
        self.heading(&y.label);
        // Beside the longest bar there is room for its sum.
        let (left, right) = (8.0, self.width - 62.0);
        let sum = |lengths: &[f64]| lengths.iter().sum::<f64>();
        let scale = Scale::of(bars.iter().map(|(_, lengths)| sum(lengths)), false).with_zero();
        let bottom = self.top + BAR_STEP * bars.len() as f64 + 6.0;
        self.x_axis(x, &scale, (left, right), (self.top, bottom));
        let at = |length: f64| left + scale.place(length).unwrap_or(0.0) * (right - left);
        for (name, lengths) in bars {
            let name = letters::fitted(name, right - left, letters::SIZE);
            self.text(left, self.top + 14.0, Anchor::Start, self.plated(), &name);
            let (top, middle) = (self.top + 20.0, self.top + 20.0 + BAR / 2.0 + 4.0);
            let mut before = 0.0;
            for (part, length) in parts.iter().zip(lengths) {
                let (from, to, text) = (at(before), at(before + length), short_length(*length));
                let _ = writeln!(
                    self.svg,
                    "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"><title>{} \
                     {text}</title></rect>",
                    to - from,
                    self.colour(part.colour),
                    escape(&part.name)
                );
                if to - from > letters::width(&text, letters::SIZE) + 6.0 {
                    let look = Look { fill: self.paper(), ..self.plain() };
                    self.text((from + to) / 2.0, middle, Anchor::Middle, look, &text);
                }
                before += length;
            }
            let text = short_length(before);
            let look = Look { bold: true, ..self.plated() };
            self.text(at(before) + 6.0, middle, Anchor::Start, look, &text);
            self.top += BAR_STEP;
        }
        self.top = bottom + 46.0;
    }

    /// Places in a style; bars stand on `bottom` and reach `half` their width to each side.
    fn styled(&mut self, style: Style, colour: &str, places: &[(f64, f64)], bottom: f64, half: f64) {
        match style {
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
            Style::Outline(_) => {
                let corners = |&(x, y): &(f64, f64)| [(x - half, y), (x + half, y)];
                let ends = [places.first().map(|p| p.0 - half), places.last().map(|p| p.0 + half)];
                let [first, last] = ends.map(|x| x.map(|x| (x, bottom)));
                let all: Vec<(f64, f64)> =
                    first.into_iter().chain(places.iter().flat_map(corners)).chain(last).collect();
                self.curve(colour, &all, " stroke-width=\"2\"");
            }
            Style::Points => self.dots(colour, places, 3.5),
            Style::Specks => self.dots(colour, places, 2.0),
            Style::Whiskers => self.whiskers(colour, places),
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
        for (i, (x, y)) in thinned(places, self.width).into_iter().enumerate() {
            let _ = write!(path, "{}{x:.2} {y:.2}", if i == 0 { 'M' } else { 'L' });
        }
        let _ = writeln!(
            self.svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\"{more}/>"
        );
    }

    fn whiskers(&mut self, colour: &str, places: &[(f64, f64)]) {
        const HALF: f64 = 4.0;
        let (pairs, _) = places.as_chunks::<2>();
        let path: String = pairs
            .iter()
            .map(|[(x, from), (_, to)]| {
                let end = |y: f64| format!("M{:.2} {y:.2}L{:.2} {y:.2}", x - HALF, x + HALF);
                format!("M{x:.2} {from:.2}L{x:.2} {to:.2}{}{}", end(*from), end(*to))
            })
            .collect();
        let _ = writeln!(
            self.svg,
            "<path class=\"whiskers\" d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
    }

    fn dots(&mut self, colour: &str, places: &[(f64, f64)], radius: f64) {
        if self.place.is_page() {
            // Lines without a length, whose ends stay round however the drawing is stretched.
            let path: String =
                thinned(places, self.width).iter().map(|(x, y)| format!("M{x:.2} {y:.2}h0")).collect();
            let width = 2.0 * radius;
            let _ = writeln!(
                self.svg,
                "<path class=\"dots\" d=\"{path}\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linecap=\"round\"/>"
            );
            return;
        }
        for (x, y) in thinned(places, self.width) {
            let _ =
                write!(self.svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
        }
        self.svg.push('\n');
    }

    /// What series are called: those of groups once by the colour of each group and once by the style of each name.
    fn legend(&mut self, series: &[Series]) {
        let mut keys: Vec<Key> = Vec::new();
        let mut others: Vec<(&str, Style)> = Vec::new();
        for one in series {
            let (name, style) = match &one.group {
                Some(group) => (group.as_str(), Style::Solid),
                None => (one.name.as_str(), one.style),
            };
            let is_new =
                keys.iter().all(|key| key.name != name) && others.iter().all(|(known, _)| *known != name);
            if is_new && one.colour.is_other() {
                others.push((name, style));
            } else if is_new {
                keys.push(Key { name, style, colour: self.colour(one.colour) });
            }
        }
        let counted = counted(others.len(), "other, in grey", "others, in grey");
        let other = others.first().map(|(_, style)| Key {
            name: &counted,
            style: *style,
            colour: self.colour(Colour::Other),
        });
        keys.extend(other);
        let mut styles: Vec<Key> = Vec::new();
        for one in series.iter().filter(|one| one.group.is_some()) {
            if styles.iter().all(|key| key.name != one.name) {
                styles.push(Key { name: &one.name, style: one.style, colour: self.ink().to_owned() });
            }
        }
        self.keys(&keys);
        self.keys(&styles);
    }

    /// Names behind their marks, in lines. One name alone tells nothing.
    fn keys(&mut self, keys: &[Key<'_>]) {
        if keys.len() < 2 {
            return;
        }
        let mut x = 8.0;
        self.top += LINE;
        for Key { name, style, colour } in keys {
            let name = letters::fitted(name, self.width - KEY - 16.0, letters::SIZE);
            let width = KEY + letters::width(&name, letters::SIZE) + 14.0;
            if x > 8.0 && x + width > self.width {
                x = 8.0;
                self.top += LINE;
            }
            let middle = self.top - 4.0;
            match style {
                Style::Points => self.dots(colour, &[(x + 12.0, middle)], 4.0),
                Style::Bars(_) => self.square((x + 12.0, middle), &format!("fill=\"{colour}\"")),
                Style::Outline(_) => {
                    self.square(
                        (x + 12.0, middle),
                        &format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\""),
                    );
                }
                Style::Specks => self.dots(colour, &[(x + 12.0, middle)], 2.5),
                Style::Whiskers => {
                    self.whiskers(colour, &[(x + 12.0, middle - 6.0), (x + 12.0, middle + 6.0)])
                }
                Style::Dotted => {
                    self.styled(*style, colour, &[(x + 2.0, middle), (x + 22.0, middle)], middle, 0.0);
                }
                Style::Solid | Style::Faint | Style::Dashed => {
                    self.styled(*style, colour, &[(x, middle), (x + 24.0, middle)], middle, 0.0);
                }
            }
            self.text(x + KEY, self.top, Anchor::Start, self.plain(), &name);
            x += width;
        }
        self.top += 6.0;
    }

    /// A small square around a place, for bars.
    fn square(&mut self, (x, y): (f64, f64), look: &str) {
        const SIDE: f64 = 10.0;
        let (left, top) = (x - SIDE / 2.0, y - SIDE / 2.0);
        let _ = writeln!(
            self.svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{SIDE}\" height=\"{SIDE}\" {look}/>"
        );
    }

    /// The shades of an order between the names of its ends, as a legend.
    fn shades(&mut self, [first, last]: &[String; 2]) {
        const STEP: f64 = 14.0;
        self.top += LINE;
        let room = (self.width - SHADES.len() as f64 * STEP) / 2.0 - 16.0;
        let [first, last] = [first, last].map(|name| letters::fitted(name, room, letters::SIZE));
        self.text(8.0, self.top, Anchor::Start, self.plain(), &first);
        let left = 8.0 + letters::width(&first, letters::SIZE) + 8.0;
        self.svg.push_str("<g shape-rendering=\"crispEdges\">\n");
        for number in 0..SHADES.len() {
            let place = number as f64 / (SHADES.len() - 1) as f64;
            let _ = write!(
                self.svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{STEP}\" height=\"10\" fill=\"{}\"/>",
                left + number as f64 * STEP,
                self.top - 9.5,
                self.colour(Colour::Shade(place))
            );
        }
        self.svg.push_str("\n</g>\n");
        let right = left + SHADES.len() as f64 * STEP;
        self.text(right + 8.0, self.top, Anchor::Start, self.plain(), &last);
        self.top += 6.0;
    }

    fn heat_map(&mut self, map: &HeatMap) {
        let HeatMap { x, y, columns, rows, value, range } = map;
        let measured = |text: &str| letters::width(text, letters::SIZE);
        let longest = rows.iter().map(|(name, _)| measured(name)).fold(0.0, f64::max);
        let (left, right) = ((longest + 14.0).clamp(LEFT, self.width / 3.0), self.width - RIGHT);
        let without_outliers = map.without_outliers().map(|(ends, _)| ends);
        let scale = match range.or(without_outliers) {
            Some(ends) => Scale::of(ends.iter().copied(), false),
            None => Scale::of(map.values().into_iter(), false),
        };
        self.heading(&y.label);
        let width = (right - left) / columns.len().max(1) as f64;
        let height = (HEIGHT / rows.len().max(1) as f64).clamp(8.0, 26.0);
        let mut named_to = 0.0;
        // Without blurred edges, which would look like lines.
        self.svg.push_str("<g shape-rendering=\"crispEdges\">\n");
        for (i, (name, values)) in rows.iter().enumerate() {
            let y = self.top + i as f64 * height;
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
        self.svg.push_str("</g>\n");
        for (i, (name, _)) in rows.iter().enumerate() {
            let middle = self.top + (i as f64 + 0.5) * height;
            if middle - ROW_NAME / 2.0 >= named_to {
                let name = letters::fitted(name, left - 10.0, letters::SIZE);
                self.text(left - 6.0, middle + 4.0, Anchor::End, self.plain(), &name);
                named_to = middle + ROW_NAME / 2.0;
            }
        }
        let bottom = self.top + rows.len() as f64 * height;
        let widest = columns.iter().map(|column| measured(column)).fold(0.0, f64::max);
        for j in (0..columns.len()).step_by(stride((widest + 8.0) / width)) {
            let x = left + (j as f64 + 0.5) * width;
            self.text(x, bottom + 16.0, Anchor::Middle, self.plain(), &columns[j]);
        }
        let label = letters::fitted(&x.label, (right - left) / BOLD, letters::SIZE);
        self.text((left + right) / 2.0, bottom + 35.0, Anchor::Middle, self.of_axis(), &label);
        self.top = bottom + 50.0;
        let beyond = map.without_outliers().map_or([false; 2], |(_, counts)| counts.map(|count| count > 0));
        self.colour_bar(&scale, &value.label, (left, right), beyond);
    }

    /// The colours with the values at their ends, what they tell, and at which ends there is more beyond.
    fn colour_bar(&mut self, scale: &Scale, label: &str, (left, right): (f64, f64), beyond: [bool; 2]) {
        const STEPS: usize = 48;
        let step = (right - left) / STEPS as f64;
        self.svg.push_str("<g shape-rendering=\"crispEdges\">\n");
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
        self.svg.push_str("\n</g>\n");
        let (low, high) = scale.ends();
        let or = |value, is_beyond, more: &str| match is_beyond {
            true => format!("{} or {more}", short(three_digits(value))),
            false => short(three_digits(value)),
        };
        let (low, high) = (or(low, beyond[0], "less"), or(high, beyond[1], "more"));
        self.text(left, self.top + 25.0, Anchor::Start, self.plain(), &low);
        self.text(right, self.top + 25.0, Anchor::End, self.plain(), &high);
        // Between the values, or below where there is no room.
        let taken =
            [&low, &high].map(|text| letters::width(text, letters::SIZE)).into_iter().fold(0.0, f64::max);
        if taken + 10.0 + BOLD * letters::width(label, letters::SIZE) / 2.0 > (right - left) / 2.0 {
            self.top += 17.0;
        }
        self.text((left + right) / 2.0, self.top + 25.0, Anchor::Middle, self.of_axis(), label);
        self.top += 36.0;
    }

    /// The names of upright axes, above them.
    fn axis_names(&mut self, axes: &[ParallelAxis], at: impl Fn(usize) -> f64) {
        let names: Vec<String> = axes.iter().map(|axis| axis.axis.label()).collect();
        let widths: Vec<f64> = names.iter().map(|name| BOLD * letters::width(name, letters::SIZE)).collect();
        let places = name_rows(&widths, self.width, at);
        for (name, (left, row)) in names.iter().zip(&places) {
            self.text(*left, self.top + 16.0 + 15.0 * *row as f64, Anchor::Start, self.of_axis(), name);
        }
        let rows = places.iter().map(|(_, row)| row + 1).max().unwrap_or(1);
        self.top += 15.0 * rows as f64 + 15.0;
    }

    fn parallel(&mut self, parallel: &Parallel) {
        let Parallel { axes, lines, best } = parallel;
        let scale = |i: usize, axis: &ParallelAxis| match axis.names.is_empty() {
            true => Scale::of(lines.iter().filter_map(|(_, values)| values[i]), axis.axis.log),
            false => Scale::of([0.0, (axis.names.len() - 1) as f64].into_iter(), false),
        };
        let scales: Vec<Scale> = axes.iter().enumerate().map(|(i, axis)| scale(i, axis)).collect();
        let marks: Vec<Vec<(f64, String)>> =
            axes.iter().zip(&scales).map(|(axis, scale)| marks(axis, scale)).collect();
        let room = |marks: &Vec<(f64, String)>| {
            marks.iter().map(|(_, text)| letters::width(text, letters::SIZE)).fold(30.0, f64::max) + 14.0
        };
        let between = axes.len().saturating_sub(1).max(1) as f64;
        let (left, beside) = (marks.first().map_or(44.0, room), marks.last().map_or(44.0, room));
        let (left, beside) = (left.min(self.width / 3.0), beside.min(self.width / 3.0));
        self.width = self.width.max(left + beside + LEAST_STEP * between);
        let step = (self.width - left - beside) / between;
        self.axis_names(axes, |i| left + i as f64 * step);
        let (top, bottom) = (self.top, self.top + HEIGHT);
        for i in 0..axes.len() {
            let (x, faint) = (left + i as f64 * step, self.faint());
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
                (true, _) => (Colour::Number(1), 3.5),
                (false, Some(place)) => (Colour::Shade(place), 1.5),
                (false, None) => (Colour::Other, 1.0),
            };
            let colour = self.colour(colour);
            let _ = writeln!(
                self.svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"><title>{}</title></path>",
                escape(name)
            );
        }
        for (i, (marks, scale)) in marks.iter().zip(&scales).enumerate() {
            let x = left + i as f64 * step;
            // Before the first axis and behind the last there are no lines.
            let (x, anchor, room, look) = match i {
                0 => (x - 6.0, Anchor::End, left - 8.0, self.plain()),
                _ if i == last => (x + 6.0, Anchor::Start, beside - 8.0, self.plain()),
                _ => (x + 6.0, Anchor::Start, step - 14.0, self.plated()),
            };
            let mut free_below = f64::INFINITY;
            for (value, text) in marks {
                let Some(y) = scale.place(*value).map(|place| bottom - place * HEIGHT + 4.0) else {
                    continue;
                };
                if y <= free_below {
                    self.text(x, y, anchor, look, &letters::fitted(text, room, letters::SIZE));
                    free_below = y - 1.2 * letters::SIZE;
                }
            }
        }
        self.top = bottom + 14.0;
    }
}

/// Which columns are named: each, every second, fifth, tenth and so on, so that names that take the width of `columns` columns
/// have room.
fn stride(columns: f64) -> usize {
    let strides = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_usize.pow(power)));
    strides.take(18).find(|stride| *stride as f64 >= columns).unwrap_or(usize::MAX)
}

/// The rows that names of axes stand in, in a drawing that is `of` units wide, so that none overlaps its neighbour: of each its left
/// edge and its row.
fn name_rows(widths: &[f64], of: f64, middle: impl Fn(usize) -> f64) -> Vec<(f64, usize)> {
    const GAP: f64 = 8.0;
    let mut ends: Vec<f64> = Vec::new();
    let place = |(i, width): (usize, &f64)| {
        let left = (middle(i) - width / 2.0).min(of - 4.0 - width).max(4.0);
        let free = ends.iter().position(|end| end + GAP <= left).unwrap_or(ends.len());
        ends.resize(ends.len().max(free + 1), 0.0);
        ends[free] = left + width;
        (left, free)
    };
    widths.iter().enumerate().map(place).collect()
}

/// The length of a bar, with three digits.
fn short_length(length: f64) -> String {
    match length {
        100.0.. => format!("{length:.0}"),
        10.0.. => format!("{length:.1}"),
        _ => format!("{length:.2}"),
    }
}

/// The values that an upright axis marks, with their texts, from below.
fn marks(ParallelAxis { axis, names }: &ParallelAxis, scale: &Scale) -> Vec<(f64, String)> {
    match names.is_empty() {
        true => ticks(axis, scale, 4),
        false => names.iter().enumerate().map(|(place, name)| (place as f64, name.clone())).collect(),
    }
}

/// The values that an axis marks, with their texts.
fn ticks(axis: &Axis, scale: &Scale, wanted: usize) -> Vec<(f64, String)> {
    match axis.marks.is_empty() {
        true if axis.whole => scale.whole_ticks(wanted),
        true => scale.ticks(wanted),
        false => with_texts(axis.marks.clone()),
    }
}

/// What a pixel column of a drawing of that width can show of a curve: its first, lowest, highest and last place.
fn thinned(places: &[(f64, f64)], width: f64) -> Vec<(f64, f64)> {
    if places.len() as f64 <= 2.0 * width {
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
mod tests;
