//! The head of a model that scores texts, in the place of the one that gives logits of tokens: `score.weight` `[labels, hidden]`, as
//! the classes `...ForSequenceClassification` of transformers have it. It is the files' own, or begins random, as there.

use lorafit_kernels::quant::Format;
use lorafit_kernels::{FrozenWeight, SharedBytes, random};
use serde_json::Value;

use super::{ModelFiles, Source};
use crate::error::FileError;
use crate::shape::SCORE;

/// More labels than anybody has: what a file says of them takes memory.
pub const MOST_LABELS: usize = 1 << 16;

/// What the `architectures` of such a model end with.
const CLASS: &str = "ForSequenceClassification";

/// The checkpoint name of the head.
fn tensor_name() -> String {
    format!("{SCORE}.weight")
}

impl ModelFiles {
    /// Has the model score texts by so many labels. A head that the files have is taken; a new one is normally distributed, by the
    /// random seed `seed`, with the standard deviation that transformers has.
    ///
    /// # Errors
    /// A head of the files with another number of labels; more than [`MOST_LABELS`].
    pub fn score(&mut self, labels: usize, seed: u64) -> Result<(), FileError> {
        if labels > MOST_LABELS {
            return Err(self.error(format!("{labels} labels, expected {MOST_LABELS} at most")));
        }
        if let Some(stored) = self.stored_labels()?.filter(|stored| *stored != labels) {
            let problem = format!("its {} scores {stored} labels, and {labels} are asked for", tensor_name());
            return Err(self.error(problem).with_hint(
                "give the plain model, whose head begins new, or rows with the labels that the head knows",
            ));
        }
        let scoring = self.config.scoring(labels);
        let stored = std::mem::replace(&mut self.config, scoring);
        self.unscored.get_or_insert(stored);
        self.score_seed = seed;
        Ok(())
    }

    /// Has the model of a folder score texts, if the folder says so.
    pub(super) fn score_as_stored(&mut self, config: Option<&Value>) -> Result<(), FileError> {
        let classes = config.and_then(|config| config.get("architectures")?.as_array());
        let is_scoring = |class: &Value| class.as_str().is_some_and(|class| class.ends_with(CLASS));
        if !classes.is_some_and(|classes| classes.iter().any(is_scoring)) {
            return Ok(());
        }
        let Some(labels) = self.stored_labels()? else { return Ok(()) };
        self.label_names = config.and_then(|config| names_of(config, labels));
        self.score(labels, 0)
    }

    /// The labels of the head that the files have, if they have one.
    ///
    /// # Errors
    /// A head that is no matrix.
    pub fn stored_labels(&self) -> Result<Option<usize>, FileError> {
        let Source::Folder { shards, .. } = &self.source else { return Ok(None) };
        let Some(tensor) = shards.raw(&tensor_name())? else { return Ok(None) };
        match tensor.shape[..] {
            [labels, _] if labels > 0 => Ok(Some(labels)),
            _ => {
                Err(self.error(format!("{} is {:?}, expected [labels, hidden]", tensor_name(), tensor.shape)))
            }
        }
    }

    /// Whether the weight `name` is a head that the files do not have.
    pub(super) fn makes(&self, name: &str) -> bool {
        self.config.labels.is_some()
            && name.strip_suffix(".weight") == Some(SCORE)
            && !matches!(self.stored_labels(), Ok(Some(_)))
    }

    /// The head that begins random.
    pub(super) fn made_score(&self, labels: usize) -> FrozenWeight {
        let (cols, std) = (self.config.hidden_size, self.config.initializer_range);
        let stream = tensor_name().bytes().fold(self.score_seed, |s, b| random::mix(s ^ u64::from(b)));
        let values = (0..labels * cols).map(|i| std * random::normal(stream, i as u64));
        let bytes = SharedBytes::from_vec(values.flat_map(f32::to_le_bytes).collect());
        FrozenWeight::new(labels, cols, Format::F32, bytes).expect("sizes agree")
    }

    /// The names of the labels that the folder's `config.json` has, by their ids; `None` where it has none, or only numbers them.
    pub fn label_names(&self) -> Option<&[String]> {
        self.label_names.as_deref()
    }
}

/// The names in `id2label` of a configuration, if there is one for each label and not all are what transformers calls labels that
/// nobody named.
fn names_of(config: &Value, labels: usize) -> Option<Vec<String>> {
    let by_id = config.get("id2label")?.as_object()?;
    let name = |id: usize| by_id.get(&id.to_string())?.as_str().map(str::to_owned);
    let names: Vec<String> = (0..labels).map(name).collect::<Option<_>>()?;
    let is_named = names.iter().enumerate().any(|(id, name)| *name != format!("LABEL_{id}"));
    is_named.then_some(names)
}
