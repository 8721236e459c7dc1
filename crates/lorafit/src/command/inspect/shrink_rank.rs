//! `lorafit inspect ADAPTER --shrink-rank R --out DIR`: an adapter with its strongest directions only, and what it lacks.

use std::path::Path;

use lorafit_model::adapter::{AdapterFile, CONFIG_FILE, ShrunkLayer, WEIGHTS_FILE, shrink};
use lorafit_model::weights::tokenizer_files;
use lorafit_remedy::amounts::{counted, percent};
use lorafit_train::{FolderFile, ModelFolder, median, write_adapter_folder};
use serde_json::json;

use crate::args::require;
use crate::session::merge_inputs::new_folder;
use crate::terminal::output;

/// Writes the smaller adapter, with the tokenizer that lies beside the larger one.
pub fn run(adapter: &AdapterFile, rank: usize, out: &Path, as_json: bool) -> anyhow::Result<()> {
    require(rank > 0, "shrink-rank", rank, "must be 1 or more")?;
    let whole = new_folder(out, &[&adapter.path])?;
    let shrunk = shrink(adapter, rank)?;
    let mut files = vec![(CONFIG_FILE.to_owned(), FolderFile::Content(shrunk.config.clone()))];
    let beside = tokenizer_files(&adapter.path)?.into_iter();
    files.extend(beside.map(|(name, path)| (name, FolderFile::Copy(path))));
    let folder = ModelFolder { files, ..ModelFolder::default() };
    write_adapter_folder(&whole, WEIGHTS_FILE, &|| shrunk.sources(), &folder)?;
    let worst = shrunk.layers.iter().max_by(|a, b| a.relative_error().total_cmp(&b.relative_error()));
    let worst = worst.map_or((0.0, ""), |layer| (layer.relative_error(), layer.path.as_str()));
    let middle = median(shrunk.layers.iter().map(ShrunkLayer::relative_error)).unwrap_or(0.0);
    if as_json {
        let layer = |layer: &ShrunkLayer| {
            let ShrunkLayer { path, rank, norm, left_out } = layer;
            let error = layer.relative_error();
            json!({"path": path, "rank": rank, "norm": norm, "left_out": left_out, "relative_error": error})
        };
        let object = json!({
            "out": out,
            "rank": shrunk.rank,
            "relative_error": shrunk.relative_error(),
            "median_relative_error": middle,
            "worst_relative_error": worst.0,
            "worst_layer": worst.1,
            "layers": shrunk.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        return Ok(output::line(object.to_string())?);
    }
    let ranks = || shrunk.layers.iter().map(|layer| layer.rank);
    let before = match (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0)) {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let layers = counted(shrunk.layers.len(), "layer", "layers");
    output::line(format!("rank {before} made {} in {layers}, written to {}", shrunk.rank, out.display()))?;
    output::line(format!(
        "left out of dW, in parts of ||dW||_F: {} of all, {} in the median layer, {} at most ({})",
        in_words(shrunk.relative_error()),
        in_words(middle),
        in_words(worst.0),
        worst.1
    ))?;
    Ok(())
}

/// A share; what is only rounding counts as nothing.
fn in_words(share: f64) -> String {
    match share {
        share if share < 1e-7 => "0 %".to_owned(),
        share if share < 1e-3 => format!("{:.1e}", share),
        share => percent(share, 2),
    }
}
