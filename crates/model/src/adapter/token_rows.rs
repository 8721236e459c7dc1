//! Rows of the embedding and of the head that are trained by themselves, PEFT's `trainable_token_indices`: of a few tokens, new ones
//! most often. The adapter has these rows in f32, `[tokens, hidden]`, and they stand in for the model's, so that of the matrix
//! nothing else is copied.
//!
//! A list is of the embedding; where the head is the embedding, its rows are the same ones. An object names each side. Of a tied head
//! PEFT takes equal lists of both sides as one, and other lists as rows that are trained apart.

use std::collections::{BTreeMap, HashMap};

use lorafit_kernels::{Device, Tensor, Weight};

use super::lora::LoraConfig;
use super::targets::TargetError;
use crate::shape::{Config, HEAD};

/// The option of an adapter's configuration.
pub(super) const KEY: &str = "trainable_token_indices";

/// Which tokens have rows of their own, as PEFT's option has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIndices {
    /// The ids by the names of modules; of a list under no name.
    pub(super) modules: Vec<(Option<String>, Vec<u32>)>,
    /// Ids of added tokens, each with those whose mean its rows begin with. Any other row begins as the model has it.
    pub(super) starts: BTreeMap<u32, Vec<u32>>,
}

impl TokenIndices {
    /// The tokens `ids` of a model of shape `config`: of its embedding and, where that is another matrix, of its head.
    pub fn of_both_sides(config: &Config, ids: &[u32]) -> Self {
        let modules = match config.tie_word_embeddings {
            true => vec![(None, ids.to_vec())],
            false => {
                let embedding = last(config.names.embedding).to_owned();
                [embedding, HEAD.to_owned()].map(|name| (Some(name), ids.to_vec())).to_vec()
            }
        };
        TokenIndices { modules, starts: BTreeMap::new() }
    }

    /// The same, where the rows of token `id` begin as the mean of those of `pieces`.
    pub fn with_start(mut self, id: u32, pieces: Vec<u32>) -> Self {
        self.starts.insert(id, pieces);
        self
    }

    /// Adds rows of the tokens `ids` of the head to those of the embedding.
    pub(super) fn add_head(&mut self, config: &Config, ids: Vec<u32>) {
        for (name, _) in &mut self.modules {
            name.get_or_insert_with(|| last(config.names.embedding).to_owned());
        }
        self.modules.push((Some(HEAD.to_owned()), ids));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// All ids, those of both sides twice.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.modules.iter().flat_map(|(_, ids)| ids).copied()
    }

    /// Rows that the embedding has to have.
    pub fn rows_needed(&self) -> usize {
        self.ids().max().map_or(0, |id| id as usize + 1)
    }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The ids of each side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenSides {
    pub embedding: Vec<u32>,
    /// Of a head that has rows of its own.
    pub head: Vec<u32>,
    /// Whether the rows of the embedding are those of the head, too.
    pub ties: bool,
}

impl TokenSides {
    /// Tokens that the head has rows of.
    pub(crate) fn in_head(&self) -> usize {
        if self.ties { self.embedding.len() } else { self.head.len() }
    }
}

impl LoraConfig {
    /// The tokens whose rows are trained, of each side of a model.
    ///
    /// # Errors
    /// A name of another module, an id that the model has no row of, one that is there twice, and what rows do not go together with.
    pub(crate) fn token_sides(&self, config: &Config) -> Result<TokenSides, TargetError> {
        let mut sides = TokenSides::default();
        for (name, ids) in &self.tokens.modules {
            let embedding = config.names.embedding;
            let is = |path: &str| {
                name.as_ref().is_none_or(|name| path == name || path.ends_with(&format!(".{name}")))
            };
            let (side, path) = match (is(embedding), is(HEAD)) {
                (true, _) => (&mut sides.embedding, embedding),
                (false, true) if config.labels.is_some() => {
                    let text = format!("{HEAD} has no rows of tokens in a model that scores texts");
                    return Err(TargetError::new(text, "leave it out, or train replies"));
                }
                (false, true) => (&mut sides.head, HEAD),
                (false, false) => {
                    let name = name.as_deref().unwrap_or_default();
                    let text = format!("`{name}` is neither the embedding of the model nor its head");
                    return Err(TargetError::new(text, format!("they are {} and {HEAD}", last(embedding))));
                }
            };
            check_ids(path, ids, config.vocab_size)?;
            self.check_tokens(config, path)?;
            side.clone_from(ids);
        }
        let both = !sides.embedding.is_empty() && !sides.head.is_empty();
        let same = sides.head.is_empty() || sides.head == sides.embedding;
        if config.tie_word_embeddings && both && !same && self.ensure_weight_tying {
            let text = "embedding and head are one (`ensure_weight_tying`), and their lists of tokens differ";
            return Err(TargetError::new(
                text,
                "give both the same list, or set `ensure_weight_tying` to false",
            ));
        }
        sides.ties = config.tie_word_embeddings && !sides.embedding.is_empty() && same;
        if sides.ties {
            sides.head.clear();
        }
        Ok(sides)
    }

    /// Whether the embedding or the head is trained whole.
    pub fn saves_tables(&self, config: &Config) -> bool {
        let is_table = |path: &str| [config.names.embedding, HEAD].contains(&path);
        let saved = self.saved_weights(config).unwrap_or_default();
        saved.iter().any(|weight| is_table(weight.path()))
    }

    /// Refuses what rows of the matrix at `path` do not go together with.
    fn check_tokens(&self, config: &Config, path: &str) -> Result<(), TargetError> {
        let problem = if self.saves_tables(config) {
            "embedding or head are trained whole (`modules_to_save`)"
        } else if self.adapts_outside(config) {
            "embedding or head have factors (target modules)"
        } else {
            return Ok(());
        };
        let text = format!("no rows of tokens of {} are trained by themselves where {problem}", last(path));
        Err(TargetError::new(text, "leave one of the two out"))
    }

    /// Whether rows of one side of a tied head are trained, and not of the other.
    pub(super) fn tokens_untie(&self, config: &Config) -> bool {
        let sides = self.token_sides(config).unwrap_or_default();
        config.tie_word_embeddings && !self.tokens.is_empty() && !sides.ties
    }
}

/// Refuses ids without a row, ids that are there twice, and none at all.
fn check_ids(path: &str, ids: &[u32], rows: usize) -> Result<(), TargetError> {
    let name = last(path);
    let hint = "the adapter was made for another model, or its tokens were changed";
    if ids.is_empty() {
        return Err(TargetError::new(format!("no tokens of {name} are given"), "give their ids"));
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    if let Some(id) = sorted.last().filter(|id| **id as usize >= rows) {
        return Err(TargetError::new(
            format!("token {id} of {name} is outside the {rows} rows of the model"),
            hint,
        ));
    }
    match sorted.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(TargetError::new(
            format!("token {} of {name} is there twice", two[0]),
            "name each token once",
        )),
        None => Ok(()),
    }
}

/// The rows of one side.
#[derive(Debug)]
pub(crate) struct TokenRows {
    /// The token of each row.
    pub ids: Vec<u32>,
    /// `[tokens, hidden]`.
    pub values: Weight,
    /// The row of each token.
    places: HashMap<u32, u32>,
}

/// Tokens whose ids and rows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenRun {
    pub row: usize,
    pub id: usize,
    pub len: usize,
}

impl TokenRows {
    fn zeros(ids: &[u32], config: &Config, device: Device) -> Self {
        TokenRows {
            ids: ids.to_vec(),
            values: Weight::trained_zeros(device, ids.len(), config.hidden_size),
            places: (0..).zip(ids).map(|(row, id)| (*id, row)).collect(),
        }
    }

    /// The values.
    pub(crate) fn tensor(&self) -> &Tensor {
        self.values.trained().expect("rows that are trained")
    }

    /// As [`TokenRows::tensor`], writable.
    pub(crate) fn tensor_mut(&mut self) -> &mut Tensor {
        self.values.trained_mut().expect("rows that are trained")
    }

    /// Of the tokens of a stream those that have a row: their places in the stream, and their rows.
    pub(crate) fn found(&self, ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
        (0..).zip(ids).filter_map(|(at, id)| Some((at, *self.places.get(id)?))).unzip()
    }

    /// The row of token `id`.
    pub(crate) fn row_of(&self, id: usize) -> Option<usize> {
        self.places.get(&u32::try_from(id).ok()?).map(|row| *row as usize)
    }

    /// All tokens, in runs.
    pub(crate) fn runs(&self) -> Vec<TokenRun> {
        let mut runs: Vec<TokenRun> = Vec::new();
        for (row, id) in self.ids.iter().map(|id| *id as usize).enumerate() {
            match runs.last_mut() {
                Some(run) if run.id + run.len == id => run.len += 1,
                _ => runs.push(TokenRun { row, id, len: 1 }),
            }
        }
        runs
    }
}

/// The rows of an adapter.
#[derive(Debug, Default)]
pub(crate) struct TokenAdapter {
    pub embedding: Option<TokenRows>,
    /// Those of a head that has rows of its own.
    own_head: Option<TokenRows>,
    /// Whether the rows of the embedding are those of the head, too.
    pub ties: bool,
    /// What rows begin with, as long as they are to be made of the model's; none of rows that were read.
    pub starts: Option<BTreeMap<u32, Vec<u32>>>,
}

impl TokenAdapter {
    /// Zeros for the tokens that `lora` names.
    pub(super) fn zeros(config: &Config, lora: &LoraConfig, device: Device) -> Result<Self, TargetError> {
        let sides = lora.token_sides(config)?;
        let rows = |ids: &[u32]| (!ids.is_empty()).then(|| TokenRows::zeros(ids, config, device));
        Ok(TokenAdapter {
            embedding: rows(&sides.embedding),
            own_head: rows(&sides.head),
            ties: sides.ties,
            starts: None,
        })
    }

    /// As [`TokenAdapter::zeros`], to be made of the model's.
    pub(super) fn fresh(config: &Config, lora: &LoraConfig, device: Device) -> Result<Self, TargetError> {
        let zeros = TokenAdapter::zeros(config, lora, device)?;
        let starts = zeros.sides().next().is_some().then(|| lora.tokens.starts.clone());
        Ok(TokenAdapter { starts, ..zeros })
    }

    /// The rows of the head.
    pub(crate) fn head(&self) -> Option<&TokenRows> {
        if self.ties { self.embedding.as_ref() } else { self.own_head.as_ref() }
    }

    /// The rows of a head that has some of its own.
    pub(crate) fn own_head(&self) -> Option<&TokenRows> {
        self.own_head.as_ref()
    }

    /// The rows of the weight `name` of a model.
    pub(crate) fn of_weight(&self, config: &Config, name: &str) -> Option<&TokenRows> {
        let path = name.strip_suffix(".weight")?;
        match path == HEAD {
            true => self.head(),
            false => self.embedding.as_ref().filter(|_| path == config.names.embedding),
        }
    }

    /// The first of the rows behind the `stored` ones of the model's files that a side has not: the embedding or the head, of which
    /// `is_whole` says whether the adapter has all of it.
    pub(crate) fn lacking(
        &self,
        config: &Config,
        stored: usize,
        is_whole: impl Fn(&str) -> bool,
    ) -> Option<usize> {
        let has = |rows: Option<&TokenRows>, row: usize| rows.is_some_and(|rows| rows.row_of(row).is_some());
        let sides = [(config.names.embedding, self.embedding.as_ref()), (HEAD, self.head())];
        let in_part = sides.into_iter().filter(|(path, _)| !is_whole(path)).map(|(_, rows)| rows);
        let in_part: Vec<Option<&TokenRows>> = in_part.collect();
        (stored..config.vocab_size).find(|row| in_part.iter().any(|rows| !has(*rows, *row)))
    }

    /// The rows of each side, those that both have once.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &TokenRows> {
        self.embedding.iter().chain(&self.own_head)
    }

    /// As [`TokenAdapter::sides`], writable.
    pub(crate) fn sides_mut(&mut self) -> impl Iterator<Item = &mut TokenRows> {
        self.embedding.iter_mut().chain(&mut self.own_head)
    }

    /// As [`TokenAdapter::sides`], each with the path of its matrix.
    pub(crate) fn named(&self, embedding: &'static str) -> impl Iterator<Item = (&'static str, &TokenRows)> {
        self.embedding
            .iter()
            .map(move |rows| (embedding, rows))
            .chain(self.own_head.iter().map(|rows| (HEAD, rows)))
    }

    /// The rows of the embedding and of a head of its own, to be made of the model's.
    pub(crate) fn both_mut(&mut self) -> [Option<&mut TokenRows>; 2] {
        [self.embedding.as_mut(), self.own_head.as_mut()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora(modules: Vec<(Option<&str>, Vec<u32>)>) -> LoraConfig {
        let modules = modules.into_iter().map(|(name, ids)| (name.map(str::to_owned), ids)).collect();
        let tokens = TokenIndices { modules, starts: BTreeMap::new() };
        LoraConfig { tokens, ..LoraConfig::new("q_proj".parse().expect("targets")) }
    }

    #[test]
    fn sides_are_one_or_two_as_peft_has_them() {
        let tied = Config::named("smollm2-135m").expect("a name");
        let apart = Config { tie_word_embeddings: false, ..tied.clone() };
        let (list, both) = (
            lora(vec![(None, vec![7, 3])]),
            lora(vec![(Some("model.embed_tokens"), vec![7, 3]), (Some("lm_head"), vec![7, 3])]),
        );
        let sides = |lora: &LoraConfig, config: &Config| {
            let found = lora.token_sides(config).expect("fits");
            (found.embedding, found.head, found.ties, lora.unties(config))
        };
        assert_eq!(sides(&list, &tied), (vec![7, 3], vec![], true, false));
        assert_eq!(sides(&list, &apart), (vec![7, 3], vec![], false, false));
        assert_eq!(sides(&both, &tied), (vec![7, 3], vec![], true, false));
        assert_eq!(sides(&both, &apart), (vec![7, 3], vec![7, 3], false, false));
        let differing = lora(vec![(Some("embed_tokens"), vec![7]), (Some("lm_head"), vec![3])]);
        assert_eq!(sides(&differing, &tied), (vec![7], vec![3], false, true));
        let head = lora(vec![(Some("lm_head"), vec![3])]);
        assert_eq!(sides(&head, &tied), (vec![], vec![3], false, true));
        let refused = LoraConfig { ensure_weight_tying: true, ..differing };
        assert!(refused.token_sides(&tied).expect_err("refused").to_string().contains("ensure_weight_tying"));
    }

    #[test]
    fn what_has_no_row_or_is_trained_in_another_way_is_refused() {
        let config = Config::named("smollm2-135m").expect("a name");
        let told = |lora: LoraConfig| lora.token_sides(&config).expect_err("refused").to_string();
        assert!(told(lora(vec![(None, vec![])])).contains("no tokens"));
        assert!(told(lora(vec![(None, vec![3, 49_152])])).contains("token 49152 of embed_tokens is outside"));
        assert!(told(lora(vec![(None, vec![5, 3, 5])])).contains("token 5 of embed_tokens is there twice"));
        assert!(told(lora(vec![(Some("wte"), vec![5])])).contains("`wte` is neither"));
        let saved = LoraConfig { save_modules: vec!["lm_head".to_owned()], ..lora(vec![(None, vec![5])]) };
        assert!(told(saved).contains("modules_to_save"));
        let targets = "q_proj,embed_tokens".parse().expect("targets");
        assert!(told(LoraConfig { targets, ..lora(vec![(None, vec![5])]) }).contains("have factors"));
    }

    #[test]
    fn runs_are_of_neighbours_in_both_orders() {
        let config = Config::named("smollm2-135m").expect("a name");
        let rows = TokenRows::zeros(&[90, 91, 5, 92, 93, 94], &config, Device::Cpu);
        let run = |row, id, len| TokenRun { row, id, len };
        assert_eq!(rows.runs(), [run(0, 90, 2), run(2, 5, 1), run(3, 92, 3)]);
        assert_eq!(rows.found(&[1, 5, 90, 94, 5]), (vec![1, 2, 3, 4], vec![2, 0, 5, 2]));
        assert_eq!((rows.row_of(93), rows.row_of(6)), (Some(4), None));
    }
}
