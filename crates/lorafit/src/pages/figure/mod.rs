//! Figures: one description, drawn as SVG for a page (in its colours) or for a file, as PNG and PDF, and its numbers as CSV.

pub mod colour;
mod draw;
mod letters;
mod numbers;
mod pdf;
mod png;
mod scale;

pub use colour::Colour;
pub use numbers::table;
pub use scale::{measured, short};

use std::path::Path;

use lorafit_remedy::amounts::counted;

use crate::pages::shell::escape;
use crate::terminal::error::CliError;
use crate::terminal::output;

/// What makes the figures of a page larger, tells values under the pointer, and shows a part of a curve.
pub const SCRIPT: &str = include_str!("figure.js");

/// A figure.
pub struct Figure {
    /// Its name as a file, without an ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// How it is read, in a sentence or two.
    pub description: String,
    /// What is drawn.
    pub plot: Plot,
}

/// The kinds of figures.
pub enum Plot {
    /// Curves, points and bars over two axes.
    Lines(Lines),
    /// A value for each row and column.
    HeatMap(HeatMap),
    /// A line for each thing across many axes.
    Parallel(Parallel),
    /// Bars of several parts.
    StackedBars(StackedBars),
}

/// Curves, points and bars.
pub struct Lines {
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// What is drawn, the first below.
    pub series: Vec<Series>,
    /// Names of the first and the last series, where their shades are those of an order: the legend is a bar of these.
    pub order: Option<[String; 2]>,
}

impl Lines {
    /// Series without an order.
    pub fn new(x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Lines { x, y, series, order: None }
    }
}

/// What something is called: for people, and as a column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Name and unit.
    pub label: String,
    /// The same in lower case with underscores, the unit last.
    pub column: String,
}

impl Name {
    /// For people and for tables.
    pub fn new(label: &str, column: &str) -> Self {
        Name { label: label.to_owned(), column: column.to_owned() }
    }
}

/// What an axis is called and its scale.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Name and unit.
    pub name: Name,
    /// Whether equal ratios have equal lengths.
    pub log: bool,
    /// Whether its values are counts, so that only whole numbers are marked.
    pub whole: bool,
    /// The values to mark, in place of round ones.
    pub marks: Vec<f64>,
    /// Whether it begins at zero, for amounts.
    pub from_zero: bool,
}

impl Axis {
    /// With even steps.
    pub fn linear(label: &str, column: &str) -> Self {
        Axis { name: Name::new(label, column), log: false, whole: false, marks: Vec::new(), from_zero: false }
    }

    /// With even ratios.
    pub fn log(label: &str, column: &str) -> Self {
        Axis { log: true, ..Axis::linear(label, column) }
    }

    /// Of amounts, beginning at zero.
    pub fn with_zero(self) -> Self {
        Axis { from_zero: true, ..self }
    }

    /// Of counts.
    pub fn whole(self) -> Self {
        Axis { whole: true, ..self }
    }

    /// Its label, which says if it is logarithmic.
    fn label(&self) -> String {
        format!("{}{}", self.name.label, if self.log { " (log scale)" } else { "" })
    }
}

/// Points that belong together.
pub struct Series {
    /// What it is.
    pub name: String,
    /// Which of several things, such as runs, it is of: the legend names each of them once by its colour, and each name once by its
    /// style.
    pub group: Option<String>,
    /// Its colour.
    pub colour: Colour,
    /// How it is drawn.
    pub style: Style,
    /// By `x`; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A series in the colour of its number: grey from the ninth on.
    pub fn new(name: &str, number: usize, style: Style, points: Vec<(f64, f64)>) -> Self {
        Series { name: name.to_owned(), group: None, colour: Colour::Number(number), style, points }
    }

    /// Its name with that of its group, for whoever does not see the others.
    pub fn full_name(&self) -> String {
        self.group.as_ref().map_or_else(|| self.name.clone(), |group| format!("{group}: {}", self.name))
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Style {
    /// A line.
    Solid,
    /// A line behind others.
    Faint,
    /// A broken line.
    Dashed,
    /// A line with a dot at every point.
    Dotted,
    /// Dots alone.
    Points,
    /// Small dots, behind others.
    Specks,
    /// An upright line with bars at its ends from each point to the next, which is above or below it: intervals.
    Whiskers,
    /// A bar for every point, so wide.
    Bars(f64),
    /// The outline of bars beside each other, each so wide: over the bars of another series.
    Outline(f64),
}

/// A value for each row and column.
pub struct HeatMap {
    /// What columns are.
    pub x: Name,
    /// What rows are.
    pub y: Name,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows and their values, one for each column where there is one.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
    /// What the colours say, with the unit.
    pub value: Name,
    /// What the colours span, if that is not the values' own range without outliers.
    pub range: Option<[f64; 2]>,
}

impl HeatMap {
    fn values(&self) -> Vec<f64> {
        self.rows.iter().flat_map(|(_, values)| values).filter_map(|value| *value).collect()
    }

    /// What the colours span where there are outliers, and how many lie below and above.
    fn without_outliers(&self) -> Option<([f64; 2], [usize; 2])> {
        let values = self.values();
        let [low, high] = self.range.map_or_else(|| scale::without_outliers(&values), |_| None)?;
        let below = values.iter().filter(|value| **value < low).count();
        let above = values.iter().filter(|value| **value > high).count();
        Some(([low, high], [below, above]))
    }
}

/// A line for each thing across many axes.
pub struct Parallel {
    /// The axes, the last of which decides the colour.
    pub axes: Vec<ParallelAxis>,
    /// The things: a name, and a value for each axis where there is one.
    pub lines: Vec<(String, Vec<Option<f64>>)>,
    /// Which of them is drawn above all.
    pub best: Option<usize>,
}

/// An upright axis.
pub struct ParallelAxis {
    /// Its name and scale.
    pub axis: Axis,
    /// Names of the values 0, 1, 2 and so on, if they are no numbers.
    pub names: Vec<String>,
}

/// Bars of several parts, one below the other.
pub struct StackedBars {
    /// What lengths are, with the unit; its marks are lines across all bars.
    pub x: Axis,
    /// What bars are.
    pub y: Name,
    /// Names of the parts.
    pub parts: Vec<String>,
    /// Names of the bars and the lengths of their parts.
    pub bars: Vec<(String, Vec<f64>)>,
}

/// Where a figure stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a page: in its colours, its title beside it.
    Page(Width),
    /// In a file: on white, with its title.
    File,
    /// As in a file, for a program without fonts: letters are outlines.
    Picture,
}

/// The drawings of a page, of which the style shows the one that suits the room: letters of a drawing that shrinks with the window
/// could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// For a telephone, and for narrow columns.
    Narrow,
    /// For columns of half a laptop's window.
    Wide,
}

impl Figure {
    /// The figure as SVG.
    pub fn svg(&self, place: Place) -> String {
        draw::svg(self, place)
    }

    /// The figure as part of a page, its title a heading of that level.
    pub fn html(&self, level: u8) -> String {
        format!(
            "<figure>\n<h{level}>{}</h{level}>\n{}{}<figcaption>{}</figcaption>\n</figure>\n",
            escape(&self.title),
            self.svg(Place::Page(Width::Wide)),
            self.svg(Place::Page(Width::Narrow)),
            escape(&self.caption())
        )
    }

    /// How it is read, and what the drawing leaves out.
    fn caption(&self) -> String {
        let outliers = match &self.plot {
            Plot::HeatMap(map) => map.without_outliers(),
            Plot::Lines(_) | Plot::Parallel(_) | Plot::StackedBars(_) => None,
        };
        match outliers {
            Some(([low, high], [below, above])) => format!(
                "{} The colours cover {} to {}; {}, more than three interquartile ranges from the quartiles, {} the colour of the nearer \
                 end.",
                self.description,
                short(scale::three_digits(low)),
                short(scale::three_digits(high)),
                counted(below + above, "outlier", "outliers"),
                if below + above == 1 { "has" } else { "have" },
            ),
            None => self.description.clone(),
        }
    }

    /// The numbers behind the figure, all of them.
    pub fn csv(&self) -> String {
        numbers::csv(&self.plot)
    }

    /// Writes it as PNG, PDF or CSV, where the name ends so, else as SVG.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        match FileKind::of(path)? {
            FileKind::Png => output::file(path, &png::png(&self.svg(Place::Picture))?),
            FileKind::Pdf => output::file(path, &pdf::pdf(&self.svg(Place::Picture), &self.title)?),
            FileKind::Csv => output::file(path, self.csv().as_bytes()),
            FileKind::Svg => output::file(path, self.svg(Place::File).as_bytes()),
        }
    }
}

/// A kind of file that a figure is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Letters and lines; a name without an ending, too.
    Svg,
    /// A picture of pixels.
    Png,
    /// A page of lines, for LaTeX and print.
    Pdf,
    /// The numbers behind it.
    Csv,
}

impl FileKind {
    /// By the ending of the file's name.
    ///
    /// # Errors
    /// Another ending.
    pub fn of(path: &Path) -> Result<Self, CliError> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            None | Some("svg") => Ok(FileKind::Svg),
            Some("png") => Ok(FileKind::Png),
            Some("pdf") => Ok(FileKind::Pdf),
            Some("csv") => Ok(FileKind::Csv),
            Some(other) => {
                let text = format!("{}: a figure cannot be written as .{other}", path.display());
                Err(CliError::usage(text).hint("name it .svg, .png, .pdf or .csv"))
            }
        }
    }
}
