//! SVG to PNG by resvg. The drawing holds no text: see [`super::letters`].

use anyhow::Context as _;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// Pixels for a unit of the drawing, so that it is sharp on dense screens.
const SCALE: f32 = 2.0;

/// A drawing as a PNG file.
///
/// # Errors
/// A drawing that resvg cannot read.
pub fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let tree = Tree::from_str(svg, &Options::default()).context("cannot read the drawing")?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("a drawing without a size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("a drawing without a size")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().context("cannot encode the picture")
}
