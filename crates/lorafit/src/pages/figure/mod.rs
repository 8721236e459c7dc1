//! Figures: one description, drawn as SVG for a page (in its colours) or for a file, as PNG, and told as CSV.

mod draw;
mod letters;
mod numbers;
mod png;
mod scale;

pub use numbers::table;
pub use scale::{line_colour, short};

use std::path::Path;

use crate::pages::shell::escape;
use crate::terminal::error::CliError;
use crate::terminal::output;

/// Colours that people with any colour vision tell apart (Okabe and Ito 2008), those with enough contrast on white and on
/// black first.
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];

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
}

/// What an axis is called, with its unit, and its scale.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Name and unit.
    pub label: String,
    /// Whether equal ratios have equal lengths.
    pub log: bool,
    /// The values to mark, in place of round ones.
    pub marks: Vec<f64>,
}

impl Axis {
    /// With even steps.
    pub fn linear(label: &str) -> Self {
        Axis { label: label.to_owned(), log: false, marks: Vec::new() }
    }

    /// With even ratios.
    pub fn log(label: &str) -> Self {
        Axis { label: label.to_owned(), log: true, marks: Vec::new() }
    }
}

/// Points that belong together.
pub struct Series {
    /// For the legend and the CSV; a series without a mark in the legend has one, too.
    pub name: String,
    /// A colour of SVG.
    pub colour: String,
    /// How it is drawn.
    pub style: Style,
    /// Whether the legend names it.
    pub in_legend: bool,
    /// By `x`; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A series in the colour of its number.
    pub fn new(name: &str, number: usize, style: Style, points: Vec<(f64, f64)>) -> Self {
        let colour = COLOURS[number % COLOURS.len()].to_owned();
        Series { name: name.to_owned(), colour, style, in_legend: true, points }
    }

    /// Without a place in the legend.
    pub fn unnamed(self) -> Self {
        Series { in_legend: false, ..self }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq)]
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
    /// A bar for every point, so wide.
    Bars(f64),
}

/// A value for each row and column.
pub struct HeatMap {
    /// What columns are.
    pub x_label: String,
    /// What rows are.
    pub y_label: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows and their values, one for each column where there is one.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
    /// What the colours tell, with the unit.
    pub value_label: String,
    /// What the colours span, if that is not the values' own range.
    pub range: Option<[f64; 2]>,
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
    pub y_label: String,
    /// Names of the parts.
    pub parts: Vec<String>,
    /// Names of the bars and the lengths of their parts.
    pub bars: Vec<(String, Vec<f64>)>,
}

/// Where a figure stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a page: in its colours, its title beside it.
    Page,
    /// In a file: on white, with its title.
    File,
    /// As in a file, for a program without fonts: letters are outlines.
    Picture,
}

impl Figure {
    /// The figure as SVG.
    pub fn svg(&self, place: Place) -> String {
        draw::svg(self, place)
    }

    /// The figure as part of a page.
    pub fn html(&self) -> String {
        format!(
            "<figure>\n<h3>{}</h3>\n{}<figcaption>{}</figcaption>\n</figure>\n",
            escape(&self.title),
            self.svg(Place::Page),
            escape(&self.description)
        )
    }

    /// The numbers behind the figure, all of them.
    pub fn csv(&self) -> String {
        numbers::csv(&self.plot)
    }

    /// Writes it as PNG or CSV, where the name ends so, else as SVG.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        match FileKind::of(path)? {
            FileKind::Png => output::file(path, &png::png(&self.svg(Place::Picture))?),
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
    /// A picture.
    Png,
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
            Some("csv") => Ok(FileKind::Csv),
            Some(other) => {
                let text = format!("{}: a figure cannot be written as .{other}", path.display());
                Err(CliError::usage(text).hint("name it .svg, .png or .csv; browsers print SVG to PDF"))
            }
        }
    }
}
