//! SVG to PDF: the paths that usvg makes of a drawing, as one page of the drawing's size. The drawing holds no text: see
//! [`super::letters`].

use std::io::Write as _;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::types::{LineCapStyle, LineJoinStyle};
use pdf_writer::{Content, Filter, Finish as _, Name, Pdf, Rect, Ref, TextStr};
use resvg::tiny_skia::{PathSegment, Point, Transform};
use resvg::usvg::{FillRule, Group, LineCap, LineJoin, Node, Options, Paint, Path, Stroke, Tree};

/// The state of the page in which lines are so opaque, in hundredths.
type Opacities = std::collections::BTreeSet<u8>;

/// A drawing as a PDF file, with its title.
///
/// # Errors
/// A drawing that usvg cannot read.
pub fn pdf(svg: &str, title: &str) -> anyhow::Result<Vec<u8>> {
    let tree = Tree::from_str(svg, &Options::default()).context("cannot read the drawing")?;
    let (width, height) = (tree.size().width(), tree.size().height());
    let mut content = Content::new();
    // A unit of the drawing is a point; those of PDF point up.
    content.transform([1.0, 0.0, 0.0, -1.0, 0.0, height]);
    let mut opacities = Opacities::new();
    draw(tree.root(), &mut content, &mut opacities);
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&content.finish())?;
    let packed = packed.finish()?;

    let [catalog, pages, page, stream, info] = [1, 2, 3, 4, 5].map(Ref::new);
    let state = |opacity: u8| Ref::new(10 + i32::from(opacity));
    let mut file = Pdf::new();
    file.catalog(catalog).pages(pages);
    file.pages(pages).kids([page]).count(1);
    let mut sheet = file.page(page);
    sheet.parent(pages).media_box(Rect::new(0.0, 0.0, width, height)).contents(stream);
    let mut resources = sheet.resources();
    let mut states = resources.ext_g_states();
    for opacity in &opacities {
        states.pair(Name(name(*opacity).as_bytes()), state(*opacity));
    }
    states.finish();
    resources.finish();
    sheet.finish();
    for opacity in &opacities {
        let share = f32::from(*opacity) / 100.0;
        file.ext_graphics(state(*opacity)).stroking_alpha(share).non_stroking_alpha(share);
    }
    file.document_info(info).title(TextStr(title));
    file.stream(stream, &packed).filter(Filter::FlateDecode);
    Ok(file.finish())
}

fn name(opacity: u8) -> String {
    format!("o{opacity}")
}

fn draw(group: &Group, content: &mut Content, opacities: &mut Opacities) {
    for node in group.children() {
        match node {
            Node::Group(group) => draw(group, content, opacities),
            Node::Path(path) => draw_path(path, content, opacities),
            // Figures have neither.
            Node::Image(_) | Node::Text(_) => {}
        }
    }
}

fn draw_path(path: &Path, content: &mut Content, opacities: &mut Opacities) {
    let opacity = |share: f32| (share * 100.0).round() as u8;
    let fill = path
        .fill()
        .and_then(|fill| Some((colour(fill.paint())?, fill.rule(), opacity(fill.opacity().get()))));
    let stroke = path.stroke().and_then(|stroke| Some((colour(stroke.paint())?, stroke)));
    let mut state = |content: &mut Content, hundredths: u8| {
        opacities.insert(hundredths);
        content.set_parameters(Name(name(hundredths).as_bytes()));
    };
    if let Some(([red, green, blue], rule, hundredths)) = fill {
        state(content, hundredths);
        content.set_fill_rgb(red, green, blue);
        outline(path, content);
        match rule {
            FillRule::NonZero => content.fill_nonzero(),
            FillRule::EvenOdd => content.fill_even_odd(),
        };
    }
    if let Some(([red, green, blue], stroke)) = stroke {
        state(content, opacity(stroke.opacity().get()));
        content.set_stroke_rgb(red, green, blue);
        pen(stroke, content);
        outline(path, content);
        content.stroke();
    }
}

fn pen(stroke: &Stroke, content: &mut Content) {
    content.set_line_width(stroke.width().get());
    content.set_line_cap(match stroke.linecap() {
        LineCap::Butt => LineCapStyle::ButtCap,
        LineCap::Round => LineCapStyle::RoundCap,
        LineCap::Square => LineCapStyle::ProjectingSquareCap,
    });
    content.set_line_join(match stroke.linejoin() {
        LineJoin::Miter | LineJoin::MiterClip => LineJoinStyle::MiterJoin,
        LineJoin::Round => LineJoinStyle::RoundJoin,
        LineJoin::Bevel => LineJoinStyle::BevelJoin,
    });
    let dashes = stroke.dasharray().unwrap_or_default();
    content.set_dash_pattern(dashes.iter().copied(), stroke.dashoffset());
}

fn colour(paint: &Paint) -> Option<[f32; 3]> {
    match paint {
        Paint::Color(colour) => {
            Some([colour.red, colour.green, colour.blue].map(|part| f32::from(part) / 255.0))
        }
        // Figures have none.
        Paint::LinearGradient(_) | Paint::RadialGradient(_) | Paint::Pattern(_) => None,
    }
}

fn outline(path: &Path, content: &mut Content) {
    let transform: Transform = path.abs_transform();
    let at = |mut point: Point| {
        transform.map_point(&mut point);
        point
    };
    let mut last = Point::zero();
    for segment in path.data().segments() {
        match segment {
            PathSegment::MoveTo(to) => {
                content.move_to(at(to).x, at(to).y);
                last = to;
            }
            PathSegment::LineTo(to) => {
                content.line_to(at(to).x, at(to).y);
                last = to;
            }
            // PDF has curves of the third degree only.
            PathSegment::QuadTo(bend, to) => {
                let toward = |end: Point| {
                    Point::from_xy(end.x + (bend.x - end.x) * 2.0 / 3.0, end.y + (bend.y - end.y) * 2.0 / 3.0)
                };
                let (one, two, end) = (at(toward(last)), at(toward(to)), at(to));
                content.cubic_to(one.x, one.y, two.x, two.y, end.x, end.y);
                last = to;
            }
            PathSegment::CubicTo(one, two, to) => {
                let (one, two, end) = (at(one), at(two), at(to));
                content.cubic_to(one.x, one.y, two.x, two.y, end.x, end.y);
                last = to;
            }
            PathSegment::Close => {
                content.close_path();
            }
        }
    }
}
