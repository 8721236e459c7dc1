//! Text of a figure: as SVG text where a browser sets it, as outlines of letters where a picture is made of the drawing.
//!
//! The outlines are those of DejaVu Sans, a part of which is in the binary (its licence lies beside it), so that pictures
//! look alike on every machine, those without fonts among them. There is one weight and no kerning.

use std::fmt::Write as _;
use std::sync::LazyLock;

use ttf_parser::{Face, OutlineBuilder};

use super::Place;
use crate::pages::shell::escape;

/// Latin, Greek and the signs that figures use, of DejaVu Sans.
const FONT: &[u8] = include_bytes!("DejaVuSans-subset.ttf");

static FACE: LazyLock<Face<'_>> =
    LazyLock::new(|| Face::parse(FONT, 0).expect("the font of the binary is whole"));

/// Which part of a text stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Colour of the letters.
    pub(super) fill: &'static str,
    /// Units of the drawing, if it is not the drawing's own size.
    pub(super) size: Option<f64>,
    pub(super) bold: bool,
    /// Colour of a plate below the letters, which hides the lines behind them.
    pub(super) plate: Option<&'static str>,
}

/// The size of letters where nothing else is said, in units of the drawing.
pub(super) const SIZE: f64 = 13.0;

/// How much wider bold letters are than those that are measured.
pub(super) const BOLD: f64 = 1.12;

/// Units that `text` is wide. Fonts of systems are hardly ever wider than the one that is measured.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let advance = |letter| FACE.glyph_hor_advance(FACE.glyph_index(letter).unwrap_or_default()).unwrap_or(0);
    text.chars().map(|letter| f64::from(advance(letter))).sum::<f64>() * size / f64::from(FACE.units_per_em())
}

/// `text`, or both its ends around dots where it is wider than `room`.
pub(super) fn fitted(text: &str, room: f64, size: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let cut = |kept: usize| {
        let (start, end) = (kept.div_ceil(2), letters.len() - kept / 2);
        letters[..start].iter().chain(&['…']).chain(&letters[end..]).collect::<String>()
    };
    (0..letters.len()).rev().map(cut).find(|short| width(short, size) <= room).unwrap_or_default()
}

/// `text` in lines that are not wider than `room`, broken between words. A word without room keeps its ends.
pub(super) fn lines(text: &str, room: f64, size: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= room => *line += &format!(" {word}"),
            _ => lines.push(fitted(word, room, size)),
        }
    }
    lines
}

/// `text` with its baseline at `(x, y)`, as a line of SVG.
pub(super) fn element(place: Place, (x, y): (f64, f64), anchor: Anchor, look: Look, text: &str) -> String {
    let mut attributes = format!(" fill=\"{}\"", look.fill);
    let mut plate = String::new();
    if let Some(paper) = look.plate {
        let size = look.size.unwrap_or(SIZE);
        let more = if look.bold { (BOLD - 1.0) * width(text, size) } else { 0.0 };
        let (left, width) = (left(text, x, anchor, size) - 2.0, width(text, size) + more + 4.0);
        let (top, height) = (y - 0.85 * size, 1.15 * size);
        let _ = writeln!(
            plate,
            "<rect class=\"plate\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{paper}\"/>"
        );
    }
    match place {
        Place::Page(_) | Place::File => {
            if let Some(size) = look.size {
                let _ = write!(attributes, " font-size=\"{size}\"");
            }
            if look.bold {
                attributes.push_str(" font-weight=\"600\"");
            }
            let (anchor, text) = (anchor.name(), escape(text));
            format!(
                "{plate}<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{attributes}>{text}</text>\n"
            )
        }
        Place::Picture => {
            let outline = outline(text, (x, y), anchor, look.size.unwrap_or(SIZE));
            format!("{plate}<path d=\"{outline}\"{attributes}/>\n")
        }
    }
}

/// Where `text` begins whose anchor stands at `x`.
fn left(text: &str, x: f64, anchor: Anchor, size: f64) -> f64 {
    match anchor {
        Anchor::Start => x,
        Anchor::Middle => x - width(text, size) / 2.0,
        Anchor::End => x - width(text, size),
    }
}

/// The outlines of `text` as path data of SVG. A letter that the font lacks leaves a gap.
fn outline(text: &str, (x, y): (f64, f64), anchor: Anchor, size: f64) -> String {
    let scale = size / f64::from(FACE.units_per_em());
    let glyphs: Vec<_> = text.chars().map(|letter| FACE.glyph_index(letter).unwrap_or_default()).collect();
    let advance = |glyph| f64::from(FACE.glyph_hor_advance(glyph).unwrap_or(0)) * scale;
    let mut pen = Pen { path: String::new(), left: left(text, x, anchor, size), baseline: y, scale };
    for glyph in glyphs {
        if glyph.0 != 0 {
            FACE.outline_glyph(glyph, &mut pen);
        }
        pen.left += advance(glyph);
    }
    pen.path
}

/// Writes the outline of a glyph, whose units point up, as path data.
struct Pen {
    path: String,
    left: f64,
    baseline: f64,
    /// Units of the drawing for one of the font.
    scale: f64,
}

impl Pen {
    fn write(&mut self, command: char, points: &[(f32, f32)]) {
        self.path.push(command);
        for (x, y) in points {
            let (x, y) = (self.left + f64::from(*x) * self.scale, self.baseline - f64::from(*y) * self.scale);
            let _ = write!(self.path, "{x:.2} {y:.2} ");
        }
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.write('M', &[(x, y)]);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.write('L', &[(x, y)]);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.write('Q', &[(x1, y1), (x, y)]);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.write('C', &[(x1, y1), (x2, y2), (x, y)]);
    }
    fn close(&mut self) {
        self.path.push('Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leftmost and rightmost coordinate of path data.
    fn span(path: &str) -> (f64, f64) {
        let numbers: Vec<f64> = path
            .split(|c: char| c.is_ascii_alphabetic() || c == ' ')
            .filter_map(|number| number.parse().ok())
            .collect();
        let x = || numbers.iter().step_by(2).copied();
        (x().fold(f64::INFINITY, f64::min), x().fold(f64::NEG_INFINITY, f64::max))
    }

    #[test]
    fn outlines_begin_end_or_stand_around_their_place() {
        let of = |anchor| span(&outline("loss", (100.0, 50.0), anchor, 12.0));
        let (start, middle, end) = (of(Anchor::Start), of(Anchor::Middle), of(Anchor::End));
        // Letters keep a little distance from their edges, so half a unit is allowed for.
        assert!((0.0..1.5).contains(&(start.0 - 100.0)) && start.1 > 115.0, "{start:?}");
        assert!((0.0..1.5).contains(&(100.0 - end.1)), "{end:?}");
        assert!((middle.0 + middle.1 - 200.0).abs() < 1.0, "{middle:?}");
    }

    #[test]
    fn a_text_without_room_keeps_its_ends() {
        assert_eq!(fitted("loss", 100.0, 12.0), "loss");
        let short = fitted("runs/a-very-long-name-of-a-run-42", 100.0, 12.0);
        assert!(short.starts_with("runs/") && short.ends_with("-42") && short.contains('…'), "{short}");
        assert!((80.0..=100.0).contains(&width(&short, 12.0)), "{short}");
        assert_eq!(fitted("loss", 1.0, 12.0), "");
    }

    #[test]
    fn a_text_without_room_is_broken_between_words() {
        assert_eq!(lines("loss, nats per token", 300.0, 12.0), ["loss, nats per token"]);
        let broken = lines("loss, nats per token", 80.0, 12.0);
        assert!(broken.len() == 2 && broken.join(" ") == "loss, nats per token", "{broken:?}");
        assert!(lines("runs/a-very-long-name", 80.0, 12.0)[0].contains('…'));
    }

    #[test]
    fn every_letter_that_figures_use_has_an_outline() {
        for letter in "azAZ09 .,:;()%/|<>=+-_'\"×·…²αβλ→".chars().filter(|letter| *letter != ' ') {
            assert!(FACE.glyph_index(letter).is_some(), "{letter}");
        }
        assert!(outline("a b", (0.0, 0.0), Anchor::Start, 12.0).len() > 50);
        assert!(outline(" ", (0.0, 0.0), Anchor::Start, 12.0).is_empty());
    }
}
