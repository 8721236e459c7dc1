//! Whether an adapter belongs to another base of the same shape, as far as the tokenizer beside it tells.

use std::path::Path;

use lorafit_data::Tokenizer;
use lorafit_model::weights::ModelFiles;
use lorafit_train::open_tokenizer;

/// Letters of several kinds, digits, blanks and marks: vocabularies that differ cut it differently.
const SAMPLE: &str = "The quick brown fox jumps; 12345 + 67 = ?\n\n  def f(x): return 'ünïcödé' # 你好, мир";

/// A sentence, where the tokenizer beside the adapter in `dir` gives a text other ids than that of the model does. Nothing where
/// one of them is missing or cannot be read.
pub fn note(files: &ModelFiles, dir: &Path) -> Option<String> {
    if !dir.join("tokenizer.json").is_file() {
        return None;
    }
    let ids = |tokenizer: Tokenizer| tokenizer.encode(SAMPLE, false).ok();
    let of_adapter = ids(Tokenizer::from_folder(dir).ok()?)?;
    let of_model = ids(open_tokenizer(files).ok()?)?;
    let (dir, model) = (dir.display(), files.path().display());
    (of_adapter != of_model).then(|| {
        format!(
            "{dir} has the tokenizer of another model beside it: {model} gives a text other ids, so the adapter was probably \
             trained over another base"
        )
    })
}
