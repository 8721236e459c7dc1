//! What goes beside the weights of a model that is written, whatever its base was.

use lorafit_data::Tokenizer;
use lorafit_model::weights::{ModelFiles, SaveDtype, SpecialTokens, companions, is_tokenizer_file};
use lorafit_train::{FolderFile, ModelFolder};

use crate::args::base::TemplateArgs;

/// The configuration, tokenizer, template and generation settings of `files`, for weights in `dtype`: a folder's own, or
/// those that a GGUF file says; with the chat template of `tokenizer` where `template` asks for another.
pub fn beside_weights(
    files: &ModelFiles,
    tokenizer: Option<&Tokenizer>,
    template: &TemplateArgs,
    dtype: SaveDtype,
) -> anyhow::Result<ModelFolder> {
    let id = |of: fn(&Tokenizer) -> Option<u32>| tokenizer.and_then(of);
    let special = SpecialTokens { bos: id(Tokenizer::bos), eos: id(Tokenizer::eos), pad: id(Tokenizer::pad) };
    let config = files.plain_config(dtype, special)?;
    let mut beside = vec![("config.json".to_owned(), FolderFile::Content(config.into_bytes()))];
    beside.extend(companion_files(files, tokenizer, template)?);
    Ok(ModelFolder { dtype, files: beside })
}

/// The tokenizer and template of `files` as [`beside_weights`] has them: what an adapter is handed on with.
pub fn beside_adapter(
    files: &ModelFiles,
    tokenizer: &Tokenizer,
    template: &TemplateArgs,
) -> anyhow::Result<ModelFolder> {
    let mut beside = companion_files(files, Some(tokenizer), template)?;
    beside.retain(|(name, _)| is_tokenizer_file(name));
    Ok(ModelFolder { files: beside, ..ModelFolder::default() })
}

/// Everything beside the weights but the configuration.
fn companion_files(
    files: &ModelFiles,
    tokenizer: Option<&Tokenizer>,
    template: &TemplateArgs,
) -> anyhow::Result<Vec<(String, FolderFile)>> {
    let mut beside = Vec::new();
    match files.gguf() {
        None => {
            let new = tokenizer.filter(|tokenizer| tokenizer.has_new_tokens());
            for (name, path) in companions(files.path())? {
                let edited = match new.filter(|_| is_tokenizer_file(&name)) {
                    Some(tokenizer) => tokenizer.with_new_tokens(&name, &std::fs::read(&path)?)?,
                    None => None,
                };
                beside.push((name, edited.map_or(FolderFile::Copy(path), FolderFile::Content)));
            }
            let asked = template.template.as_ref().and(tokenizer).and_then(Tokenizer::chat_template);
            if let Some(template) = asked {
                beside.retain(|(name, _)| !name.ends_with(".jinja"));
                let content = FolderFile::Content(template.as_bytes().to_vec());
                beside.push(("chat_template.jinja".to_owned(), content));
            }
        }
        Some(_) => {
            let content = |(name, bytes)| (name, FolderFile::Content(bytes));
            let of_tokenizer = tokenizer.map(Tokenizer::folder_files).transpose()?.unwrap_or_default();
            beside.extend(of_tokenizer.into_iter().map(content));
        }
    }
    Ok(beside)
}
