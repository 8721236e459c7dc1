//! What every drawing must be: whole, readable, small.

use super::*;
use crate::pages::figure::Name;
use crate::pages::figure::pdf::pdf;
use crate::pages::figure::png::png;

fn curve(points: Vec<(f64, f64)>) -> Figure {
    let series = vec![
        Series::new("one <b>", 0, Style::Faint, points.clone()),
        Series::new("two", 1, Style::Dotted, points),
    ];
    let plot =
        Plot::Lines(Lines::new(Axis::linear("step", "step"), Axis::log("loss, nats", "loss_nats"), series));
    Figure { name: "loss".into(), title: "Loss & <i>".into(), description: "falls".into(), plot }
}

fn heat_map() -> Figure {
    let rows =
        vec![("q_proj".to_owned(), vec![Some(0.1), None]), ("v".to_owned(), vec![Some(0.2), Some(0.3)])];
    let columns = vec!["0".to_owned(), "1".to_owned()];
    let name = |name: &str| Name::new(name, name);
    let map =
        HeatMap { x: name("layer"), y: name("module"), columns, rows, value: name("norm"), range: None };
    Figure { name: "m".into(), title: "Map".into(), description: "d".into(), plot: Plot::HeatMap(map) }
}

fn parallel() -> Figure {
    let axis = |label, names: &[&str]| ParallelAxis {
        axis: Axis::linear(label, label),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    };
    let lines = vec![("a".to_owned(), vec![Some(0.0), Some(2.0)]), ("b".to_owned(), vec![Some(1.0), None])];
    let axes = vec![axis("optimizer", &["adamw", "adamw-8bit"]), axis("loss", &[])];
    let plot = Plot::Parallel(Parallel { axes, lines, best: Some(0) });
    Figure { name: "p".into(), title: "P".into(), description: "d".into(), plot }
}

fn stacked_bars() -> Figure {
    let bars = vec![("full".to_owned(), vec![2.0, 0.5]), ("nothing".to_owned(), vec![0.0, 0.0])];
    let x = Axis { marks: vec![1.0, 2.0, 400.0], ..Axis::linear("GB", "memory_gb") };
    let parts = ["weights", "rest"].map(str::to_owned).to_vec();
    let plot = Plot::StackedBars(StackedBars { x, y: Name::new("method", "method"), parts, bars });
    Figure { name: "b".into(), title: "B".into(), description: "d".into(), plot }
}

#[test]
fn every_kind_of_figure_is_a_picture_with_ink_in_it() {
    let all = [curve(vec![(1.0, 2.0), (2.0, 1.0)]), curve(vec![]), heat_map(), parallel(), stacked_bars()];
    for figure in all {
        let picture = png(&figure.svg(Place::Picture)).expect("a picture");
        let pixels = resvg::tiny_skia::Pixmap::decode_png(&picture).expect("a PNG");
        let dark = pixels.pixels().iter().filter(|pixel| pixel.red() < 128).count();
        assert!(pixels.width() == 880 && dark > 100, "{}: {dark} dark pixels", figure.name);
        for place in PAGE {
            assert!(figure.svg(place).contains("var(--ink)"));
        }
        assert!(!figure.svg(Place::File).contains("var("));
    }
}

/// The drawings of a page.
const PAGE: [Place; 2] = [Place::Page(Width::Narrow), Place::Page(Width::Wide)];

/// Units that a drawing is wide and high.
fn size(svg: &str) -> [f64; 2] {
    let numbers = attribute(svg, "viewBox").unwrap().split(' ');
    let numbers: Vec<f64> = numbers.map(|number| number.parse().unwrap()).collect();
    [numbers[2], numbers[3]]
}

/// A box: left, top, right, bottom.
type Bounds = [f64; 4];
/// Both its ends.
type Line = ((f64, f64), (f64, f64));

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    tag.split_once(&format!(" {name}=\""))?.1.split('"').next()
}

fn number(tag: &str, name: &str) -> f64 {
    attribute(tag, name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} of {tag}"))
}

/// Whether any part of the line from `a` to `b` lies inside (Liang and Barsky 1984).
fn crosses([left, top, right, bottom]: Bounds, (a, b): &Line) -> bool {
    let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
    for (low, high, from, to) in [(left, right, a.0, b.0), (top, bottom, a.1, b.1)] {
        let step = to - from;
        if step == 0.0 {
            if from <= low || from >= high {
                return false;
            }
            continue;
        }
        let (one, other) = ((low - from) / step, (high - from) / step);
        (enters, leaves) = (enters.max(one.min(other)), leaves.min(one.max(other)));
    }
    enters < leaves
}

/// The corners of path data of lines.
fn corners(data: &str) -> Vec<Vec<(f64, f64)>> {
    let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut rest = data;
    while let Some(command) = rest.chars().next() {
        let end = rest[1..].find(|c: char| c.is_ascii_alphabetic()).map_or(rest.len(), |at| at + 1);
        let numbers: Vec<f64> = rest[1..end].split_whitespace().map(|text| text.parse().unwrap()).collect();
        let last = lines.last().and_then(|line| line.last()).copied();
        match command {
            'M' => lines.push(vec![(numbers[0], numbers[1])]),
            'L' => lines.last_mut().unwrap().push((numbers[0], numbers[1])),
            'V' => lines.last_mut().unwrap().push((last.unwrap().0, numbers[0])),
            'h' => lines.last_mut().unwrap().push((last.unwrap().0 + numbers[0], last.unwrap().1)),
            other => panic!("{other} in {data}"),
        }
        rest = &rest[end..];
    }
    lines
}

/// Texts that overlap, are struck by a line that no plate or bar hides, or leave the drawing.
fn faults(svg: &str) -> Vec<String> {
    let (mut texts, mut lines): (Vec<(String, Bounds)>, Vec<Line>) = (Vec::new(), Vec::new());
    // Plates and bars, each with the number of lines that it was drawn over.
    let mut plates: Vec<(Bounds, usize)> = Vec::new();
    let mut faults = Vec::new();
    let [width, height] = size(svg);
    let mut struck = |(name, bounds): &(String, Bounds), line: &Line| {
        if crosses(*bounds, line) {
            faults.push(format!("{name} is struck by {line:?}"));
        }
    };
    for tag in svg.split('<').skip(1) {
        if tag.starts_with("rect ") && !tag.contains("100%") {
            let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| number(tag, name));
            plates.push(([x, y, x + width, y + height], lines.len()));
        } else if tag.starts_with("text ") {
            let name = tag.split('>').nth(1).unwrap().replace("&lt;", "<").replace("&gt;", ">");
            let size = attribute(tag, "font-size").map_or(letters::SIZE, |size| size.parse().unwrap());
            let bold = if tag.contains("font-weight") { BOLD } else { 1.0 };
            let (x, y, width) = (number(tag, "x"), number(tag, "y"), bold * letters::width(&name, size));
            let left = match attribute(tag, "text-anchor").unwrap() {
                "start" => x,
                "middle" => x - width / 2.0,
                _ => x - width,
            };
            // Where letters are: most have no part below the line.
            let bounds = [left, y - 0.72 * size, left + width, y];
            let holds = |[l, t, r, b]: Bounds| l <= left && t <= bounds[1] && r >= bounds[2] && b >= y;
            let hidden = plates.iter().rev().find(|(plate, _)| holds(*plate)).map_or(0, |(_, lines)| *lines);
            let text = (name, bounds);
            lines[hidden..].iter().for_each(|line| struck(&text, line));
            texts.push(text);
        } else if tag.starts_with("path ") {
            for line in corners(attribute(tag, "d").unwrap()) {
                for ends in line.windows(2) {
                    let line = (ends[0], ends[1]);
                    texts.iter().for_each(|text| struck(text, &line));
                    lines.push(line);
                }
            }
        }
    }
    for (i, (name, [left, top, right, bottom])) in texts.iter().enumerate() {
        if *left < 0.0 || *top < 0.0 || *right > width + 0.5 || *bottom > height {
            faults.push(format!("{name} leaves the drawing: {left} to {right}, {top} to {bottom}"));
        }
        for (other, [l, t, r, b]) in &texts[i + 1..] {
            if left < r && l < right && top < b && t < bottom {
                faults.push(format!("{name} overlaps {other}"));
            }
        }
    }
    faults
}

/// Two series, of training and of evaluations, for each of so many runs.
fn of_groups(count: usize) -> Vec<Series> {
    let points = |run: usize| (1..40).map(|x| (f64::from(x), (run + 1) as f64 / f64::from(x))).collect();
    let of = |run: usize, name, style| Series {
        group: Some(format!("runs/{run}")),
        ..Series::new(name, run, style, points(run))
    };
    (0..count)
        .flat_map(|run| [of(run, "every step", Style::Faint), of(run, "held-out rows", Style::Dotted)])
        .collect()
}

/// Series in an order.
fn one_by_one(count: usize) -> Vec<Series> {
    let points = |i: usize| (1..9).map(|x| (f64::from(x), (i + 1) as f64 / f64::from(x))).collect();
    let colour = |i: usize| Colour::Shade(i as f64 / (count - 1) as f64);
    (0..count)
        .map(|i| Series {
            colour: colour(i),
            ..Series::new(&format!("layer {i}"), 0, Style::Solid, points(i))
        })
        .collect()
}

/// Figures with what is hard to fit: long names, many series, values of every size.
fn crowded() -> Vec<Figure> {
    let long = "runs/smollm2-135m-instruct-lora-rank-8-alpha-16-lr-2e-4-seed-";
    let figure =
        |plot| Figure { name: "n".into(), title: format!("{long} of {long}"), description: "d".into(), plot };
    let points =
        |i: usize| (1..40).map(|x| (f64::from(x), 10f64.powi(-(i as i32 % 5)) * f64::from(x))).collect();
    let series: Vec<Series> =
        (0..20).map(|i| Series::new(&format!("{long}{i}"), i, Style::Dotted, points(i))).collect();
    let lines = |x, y, series| Plot::Lines(Lines::new(x, y, series));
    let one = |low: f64, high: f64| vec![Series::new("a", 0, Style::Solid, vec![(1.0, low), (2.0, high)])];
    let axis = || Axis::linear("optimizer step", "optimizer_step").whole();
    let mut all = vec![figure(lines(axis(), Axis::log("loss", "loss"), series))];
    all.push(figure(lines(axis(), Axis::log("loss", "loss"), of_groups(9))));
    let order = Some([format!("{long}0"), "29".to_owned()]);
    all.push(figure(Plot::Lines(Lines { order, ..Lines::new(axis(), axis(), one_by_one(30)) })));
    for (low, high) in [(-1e-7, 3e-7), (0.0, 0.0), (123_456.0, 123_457.0), (1e-12, 1e12), (0.99999, 1.00001)]
    {
        all.push(figure(lines(axis(), Axis::linear("a", "a"), one(low, high))));
        all.push(figure(lines(Axis::linear("a", "a"), Axis::log("a", "a"), one(low, high))));
    }
    let columns: Vec<String> = (0..80).map(|column| column.to_string()).collect();
    let row =
        |i: usize| (format!("model.layers.{i}.{long}"), (0..80).map(|j| Some((i * j) as f64)).collect());
    let name = |name: &str| Name::new(name, "name");
    let rows: Vec<(String, Vec<Option<f64>>)> = (0..40).map(row).collect();
    let map = HeatMap { x: name(long), y: name(long), columns, rows, value: name("norm"), range: None };
    all.push(figure(Plot::HeatMap(map)));
    let outliers: Vec<Option<f64>> =
        (0..30).map(|i| Some(if i == 7 { 98.7 } else { 0.275 + f64::from(i) / 60.0 })).collect();
    let map = HeatMap {
        x: name("layer"),
        y: name("module"),
        columns: (0..30).map(|column| column.to_string()).collect(),
        rows: vec![("down_proj".to_owned(), outliers)],
        value: name("‖dW‖ / ‖W‖, %"),
        range: None,
    };
    all.push(figure(Plot::HeatMap(map)));
    let axes = |count: usize| {
        (0..count).map(|i| ParallelAxis {
            axis: Axis {
                log: i % 2 == 0,
                ..Axis::linear(["rank", "gradient-accumulation", "lr"][i % 3], "a")
            },
            names: Vec::new(),
        })
    };
    for count in [2, 5, 9] {
        let values = |i: usize| (0..count).map(|j| Some((i * 7 + j) as f64 % 11.0 + 0.5)).collect();
        let things = (0..30).map(|i| (format!("{long}{i}"), values(i))).collect();
        all.push(figure(Plot::Parallel(Parallel {
            axes: axes(count).collect(),
            lines: things,
            best: Some(3),
        })));
    }
    let bars = (0..6).map(|i| (format!("{long}{i}"), vec![f64::from(i) * 30.0, 0.01, 17.0])).collect();
    let x = Axis {
        marks: vec![8.0, 12.0, 16.0, 24.0, 40.0, 48.0, 80.0, 141.0],
        ..Axis::linear("GB", "memory_gb")
    };
    let parts = ["weights", "gradients", "optimizer"].map(str::to_owned).to_vec();
    all.push(figure(Plot::StackedBars(StackedBars { x, y: name(long), parts, bars })));
    all
}

#[test]
fn no_text_is_struck_by_a_line_or_overlaps_another() {
    let simple = [curve(vec![(1.0, 2.0), (2.0, 1.0)]), curve(vec![]), heat_map(), parallel(), stacked_bars()];
    for figure in crowded().iter().chain(&simple) {
        for place in PAGE.into_iter().chain([Place::File]) {
            let found = faults(&figure.svg(place));
            assert!(found.is_empty(), "{}:\n{}", figure.svg(place), found.join("\n"));
        }
    }
}

#[test]
fn faults_of_a_drawing_are_found() {
    let text = |x: f64| format!("<text x=\"{x}\" y=\"20\" text-anchor=\"start\">loss</text>");
    let line = "<path d=\"M0 16L440 16\"/>";
    let drawn = |parts: &[&str]| format!("<svg viewBox=\"0 0 440 100\">{}</svg>", parts.concat());
    assert!(faults(&drawn(&[&text(10.0), &text(100.0)])).is_empty());
    assert_eq!(faults(&drawn(&[&text(10.0), &text(20.0)])).len(), 1);
    assert_eq!(faults(&drawn(&[&text(430.0)])).len(), 1);
    assert_eq!(faults(&drawn(&[line, &text(10.0)])).len(), 1);
    assert_eq!(faults(&drawn(&[&text(10.0), line])).len(), 1);
    assert!(
        faults(&drawn(&[line, "<rect x=\"8\" y=\"5\" width=\"90\" height=\"20\"/>", &text(10.0)])).is_empty()
    );
}

#[test]
fn a_figure_has_eight_colours_and_the_rest_is_grey() {
    let figure = &crowded()[0];
    let colours = |svg: &str| {
        let strokes = svg.split(" stroke=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        strokes
            .filter(|colour| colour.starts_with("var(--c") || colour == "var(--other)")
            .collect::<std::collections::BTreeSet<_>>()
    };
    let svg = figure.svg(PAGE[1]);
    assert_eq!(colours(&svg).len(), 9);
    assert!(svg.contains("12 others, in grey") && svg.contains("(log scale)"));
    assert_eq!(svg.matches("data-name=").count(), 20, "each is named under the pointer");
}

#[test]
fn a_heat_map_says_what_its_colours_leave_out() {
    let mut figure = heat_map();
    let Plot::HeatMap(map) = &mut figure.plot else { unreachable!() };
    map.columns = (0..20).map(|column| column.to_string()).collect();
    map.rows = vec![("a".into(), (0..20).map(|i| Some(if i == 7 { 1e6 } else { f64::from(i) })).collect())];
    let html = figure.html(3);
    assert!(html.contains("19 or more") && html.contains("The colours cover 0 to 19; 1 outlier,"), "{html}");
    assert!(!html.contains("or less"), "nothing is below");
    assert!(!heat_map().html(3).contains("outlier"));
}

/// The texts of a drawing with their tags.
fn texts(svg: &str) -> Vec<(&str, &str)> {
    svg.split("<text ").skip(1).map(|rest| rest.split('<').next().unwrap().split_once('>').unwrap()).collect()
}

#[test]
fn letters_of_a_page_are_read_on_a_telephone_and_not_large_on_a_laptop() {
    for figure in &crowded() {
        for (place, pixels) in PAGE.into_iter().zip([368.0, 544.0]) {
            let svg = figure.svg(place);
            // What needs more room is scrolled.
            let least =
                attribute(&svg, "style").and_then(|style| style.split(['\u{20}', 'p']).nth(1)?.parse().ok());
            let shown = least.unwrap_or(0.0_f64).max(pixels);
            for (tag, text) in texts(&svg) {
                let units = attribute(&format!(" {tag}"), "font-size")
                    .map_or(letters::SIZE, |size| size.parse().unwrap());
                let height = units * shown / size(&svg)[0];
                assert!((12.0..=18.0).contains(&height), "{text}: {height} pixels in {place:?}");
            }
        }
    }
}

#[test]
fn what_an_axis_shows_is_not_taken_for_the_legend() {
    let figure = curve(vec![(1.0, 2.0), (2.0, 1.0)]);
    for place in PAGE.into_iter().chain([Place::File]) {
        let svg = figure.svg(place);
        let look = |text: &str| {
            let (tag, _) = *texts(&svg)
                .iter()
                .find(|(_, found)| *found == text)
                .unwrap_or_else(|| panic!("{text} in {svg}"));
            (attribute(&format!(" {tag}"), "fill").unwrap().to_owned(), tag.contains("font-weight"))
        };
        let (axis, legend) = (look("loss, nats (log scale)"), look("two"));
        assert!(axis.0 != legend.0 && axis.1 && !legend.1, "{axis:?} {legend:?}");
        assert_eq!(look("step"), axis);
    }
}

#[test]
fn runs_are_named_once_by_their_colours_and_curves_once_by_their_styles() {
    let mut figure = curve(vec![]);
    let Plot::Lines(lines) = &mut figure.plot else { unreachable!() };
    lines.series = of_groups(3);
    let svg = figure.svg(PAGE[1]);
    let count = |name: &str| texts(&svg).iter().filter(|(_, text)| *text == name).count();
    for name in ["runs/0", "runs/1", "runs/2", "every step", "held-out rows"] {
        assert_eq!(count(name), 1, "{name}");
    }
    assert!(svg.contains("data-name=\"runs/1: held-out rows\""), "{svg}");
    assert!(figure.csv().contains("runs/1: held-out rows,"));
}

#[test]
fn the_legend_of_an_order_has_all_its_shades() {
    let mut figure = curve(vec![]);
    let Plot::Lines(lines) = &mut figure.plot else { unreachable!() };
    (lines.series, lines.order) = (one_by_one(30), Some(["layer 0".to_owned(), "layer 29".to_owned()]));
    let svg = figure.svg(PAGE[0]);
    for shade in 0..SHADES.len() {
        assert!(svg.contains(&format!("fill=\"var(--s{shade})\"")), "{shade}");
    }
    let names: Vec<&str> =
        texts(&svg).into_iter().map(|(_, text)| text).filter(|text| text.contains("layer")).collect();
    assert_eq!(names, ["layer 0", "layer 29"]);
}

#[test]
fn a_pdf_is_a_page_of_the_size_of_the_drawing() {
    for figure in [curve(vec![(1.0, 2.0), (2.0, 1.0)]), heat_map(), parallel(), stacked_bars()] {
        let svg = figure.svg(Place::Picture);
        let file = pdf(&svg, &figure.title).expect("a page");
        let text = String::from_utf8_lossy(&file);
        let height = attribute(&svg, "height").unwrap();
        assert!(text.contains(&format!("/MediaBox [0 0 440 {height}]")), "{text}");
        assert!(file.starts_with(b"%PDF-1") && file.len() > 1500, "{}", file.len());
    }
}

#[test]
fn names_are_text_in_a_figure() {
    let svg = curve(vec![(1.0, 1.0)]).svg(PAGE[0]);
    assert!(svg.contains("one &lt;b&gt;") && svg.contains("<title>Loss &amp; &lt;i&gt;</title>"));
}

#[test]
fn a_long_curve_keeps_its_peaks_and_little_else() {
    let mut points: Vec<(f64, f64)> = (1..=1_000_000).map(|i| (f64::from(i), 1.0)).collect();
    points[700_123].1 = 50.0;
    let places: Vec<(f64, f64)> = points.iter().map(|p| (p.0 / 1e6 * 440.0, p.1)).collect();
    let kept = thinned(&places, 440.0);
    assert!(kept.len() <= 4 * 441 && kept.iter().any(|p| p.1 == 50.0), "{}", kept.len());
    assert!(curve(points).svg(PAGE[1]).len() < 200_000);
}
