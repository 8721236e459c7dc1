//! SVG to PNG by resvg, with letters of its own: figures look alike on every machine, those without fonts among them.

use std::sync::Arc;

use anyhow::Context as _;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Latin, Greek and the signs that figures use, of DejaVu Sans; see its licence beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans-subset.ttf");
/// Pixels for a unit of the drawing, so that it is sharp on dense screens.
const SCALE: f32 = 2.0;

/// A drawing as a PNG file.
///
/// # Errors
/// A drawing that resvg cannot read.
pub fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options =
        Options { fontdb: Arc::new(fonts), font_family: "DejaVu Sans".to_owned(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).context("cannot read the drawing")?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("a drawing without a size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("a drawing without a size")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().context("cannot encode the picture")
}
