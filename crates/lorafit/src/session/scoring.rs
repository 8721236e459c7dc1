//! A head that scores texts, in the place of the one that gives logits of tokens: what its numbers are, and where that is written.
//!
//! An adapter's files have the head, and nothing of what it says. That stands in `labels.json` beside them, by the names that
//! configurations of transformers have, and in the `config.json` of a model.

use std::path::Path;

use lorafit_data::Tokenizer;
use lorafit_kernels::Device;
use lorafit_model::weights::ModelFiles;
use lorafit_remedy::amounts::counted;
use lorafit_train::{FolderFile, ModelFolder};
use serde_json::{Map, Value, json};

use crate::args::preference::CLASSIFY;
use crate::args::train::TrainArgs;
use crate::terminal::error::CliError;

/// The file beside an adapter.
pub const LABELS: &str = "labels.json";
/// A longer one is not of this program.
const MAX_BYTES: u64 = 1 << 22;
/// The objective of a head that gives rewards.
pub const REWARD: &str = "reward";

/// What a head gives of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// A number, which is higher for better replies.
    Reward,
    /// A number for each of these labels.
    Classes(Vec<String>),
}

impl Scoring {
    /// What a run with `args` trains a head to give; `None` where it trains none.
    ///
    /// # Errors
    /// Rows whose labels cannot be read.
    pub fn of_run(args: &TrainArgs) -> anyhow::Result<Option<Self>> {
        if args.preference.objective().is_some_and(|objective| objective.is_scored()) {
            return Ok(Some(Scoring::Reward));
        }
        if !args.preference.is_classifier() {
            return Ok(None);
        }
        // An adapter knows its labels, and what it was trained on is not in these rows.
        let brought =
            args.adapter.as_deref().filter(|dir| dir.exists()).map(|dir| Scoring::beside(dir, None));
        match brought.transpose()?.flatten() {
            Some(scoring) => Ok(Some(scoring)),
            None => Ok(Some(Scoring::Classes(args.labels_of_rows()?))),
        }
    }

    /// What a head of so many labels gives that nobody says more of: a reward where it is one number, else labels that are called
    /// by their numbers, or by `names`.
    pub fn of_labels(labels: usize, names: Option<&[String]>) -> Self {
        match (labels, names) {
            (1, _) => Scoring::Reward,
            (_, Some(names)) => Scoring::Classes(names.to_vec()),
            (labels, None) => Scoring::Classes((0..labels).map(|label| label.to_string()).collect()),
        }
    }

    /// What the file beside the adapter in `dir` says of its head, which has so many labels if that is known; `None` without a file.
    ///
    /// # Errors
    /// A file that is damaged, or of another head.
    pub fn beside(dir: &Path, labels: Option<usize>) -> anyhow::Result<Option<Self>> {
        let path = dir.join(LABELS);
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
        let wrong = |what: &str| {
            CliError::new(format!("{}: {what}", path.display())).hint(
                "take it from where the adapter came from; without it labels are called by their numbers",
            )
        };
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(wrong("not the labels of an adapter").into());
        }
        let text =
            std::fs::read_to_string(&path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| wrong(&format!("not JSON: {error}")))?;
        let by_id =
            json.get("id2label").and_then(Value::as_object).ok_or_else(|| wrong("it has no `id2label`"))?;
        let name = |id: usize| by_id.get(&id.to_string())?.as_str().map(str::to_owned);
        let names: Option<Vec<String>> = (0..by_id.len()).map(name).collect();
        let names = names.filter(|names| !names.is_empty());
        let names = names.ok_or_else(|| wrong("`id2label` has not a text for each number from 0"))?;
        match labels.filter(|labels| *labels != names.len()) {
            None => Ok(Some(Scoring::of_labels(names.len(), Some(&names)))),
            Some(labels) => {
                let found = counted(names.len(), "label", "labels");
                Err(wrong(&format!("it has {found}, and the head of the adapter {labels}")).into())
            }
        }
    }

    /// The labels of the head.
    pub fn labels(&self) -> usize {
        match self {
            Scoring::Reward => 1,
            Scoring::Classes(labels) => labels.len(),
        }
    }

    /// What a run is the same by: its labels, where it has some.
    pub fn identity(&self) -> Option<Value> {
        match self {
            Scoring::Reward => None,
            Scoring::Classes(labels) => Some(json!(labels)),
        }
    }

    /// The objective that trains such a head.
    pub fn objective(&self) -> &'static str {
        match self {
            Scoring::Reward => REWARD,
            Scoring::Classes(_) => CLASSIFY,
        }
    }

    /// What transformers' configurations say of it, and the token that texts of a batch are filled up with.
    fn keys(&self, filler: Option<u32>) -> Map<String, Value> {
        // That of one is what transformers calls it.
        let names = match self {
            Scoring::Reward => vec!["LABEL_0".to_owned()],
            Scoring::Classes(labels) => labels.clone(),
        };
        let by_id: Map<String, Value> =
            names.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let by_name: Map<String, Value> =
            names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
        let mut keys = Map::from_iter([
            ("num_labels".to_owned(), json!(names.len())),
            ("id2label".to_owned(), by_id.into()),
            ("label2id".to_owned(), by_name.into()),
        ]);
        keys.extend(filler.map(|id| ("pad_token_id".to_owned(), json!(id))));
        keys
    }

    /// Adds the file that says it to what goes beside an adapter.
    pub fn beside_adapter(&self, folder: &mut ModelFolder, tokenizer: &Tokenizer) {
        let mut content = Map::from_iter([("objective".to_owned(), json!(self.objective()))]);
        content.extend(self.keys(tokenizer.filler()));
        let content = serde_json::to_vec_pretty(&content).expect("plain values");
        folder.files.push((LABELS.to_owned(), FolderFile::Content(content)));
    }

    /// Says it in the `config.json` of a model's folder.
    pub fn in_config(&self, folder: &mut ModelFolder, tokenizer: &Tokenizer) {
        for (name, file) in &mut folder.files {
            let FolderFile::Content(content) = file else { continue };
            if name != "config.json" {
                continue;
            }
            let mut config: Map<String, Value> =
                serde_json::from_slice(content).expect("it was written here");
            config.extend(self.keys(tokenizer.filler()));
            *content = serde_json::to_vec_pretty(&config).expect("plain values");
        }
    }
}

/// Refuses a head that scores texts over a base that has no such class in transformers, or on a GPU.
///
/// # Errors
/// As it says.
pub fn check(files: &ModelFiles, device: Device) -> Result<(), CliError> {
    let config = files.config();
    if config.labels.is_none() {
        return Ok(());
    }
    let path = files.path().display();
    if config.score_class().is_none() {
        let text = format!(
            "{path}: transformers has no sequence classification of `{}`, so that nobody could load the result",
            config.arch
        );
        return Err(CliError::new(text).hint("take a base of another architecture, such as llama or qwen3"));
    }
    if let Device::Cuda(_) = device {
        let text = format!("{path}: heads that score texts are computed on the processor alone");
        return Err(CliError::new(text).hint("leave --device out"));
    }
    Ok(())
}
