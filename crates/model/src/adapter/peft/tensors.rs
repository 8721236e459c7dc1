//! Reading `adapter_model.safetensors` for a model: which tensors its configuration asks for, and what the others are.

use std::path::{Path, PathBuf};

use lorafit_kernels::quant::Format;
use lorafit_kernels::{Device, Half, SharedBytes, Tensor};
use lorafit_remedy::Remedy;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::super::lora::{Adapter, LoraConfig, PartShape};
use super::super::names::{
    self, EMBEDDING_A, EMBEDDING_B, FileNames, MAGNITUDES, tensor_name, tokens_name, whole_name,
};
use super::super::saved::Saved;
use super::super::targets::TargetError;
use super::super::token_rows::{KEY as TOKENS, TokenAdapter, TokenSides};
use super::super::{embeddings, marks};
use super::config::{read_config, unknown_keys};
use super::{CONFIG_FILE, WEIGHTS_FILE};
use crate::error::FileError;
use crate::files::{header_error, inside, map, read_header};
use crate::shape::{Config, HEAD, WeightShape, module_shape};
use crate::weights::ModelFiles;

/// Values of a whole weight that are decoded at once.
const READ_VALUES: usize = 1 << 18;

/// The bytes of the factors of the adapter in `dir`.
pub(in crate::adapter) fn map_weights(dir: &Path) -> Result<SharedBytes, FileError> {
    marks::of_weights(dir)?;
    inside(dir, WEIGHTS_FILE).and_then(|path| map(&path))
}

/// The tensors in the file `path` with the content `bytes`.
pub(in crate::adapter) fn parse_weights<'a>(
    path: &Path,
    bytes: &'a SharedBytes,
) -> Result<SafeTensors<'a>, FileError> {
    let damaged = |problem: String| header_error(path, bytes.as_slice(), problem);
    read_header(bytes.as_slice()).map_err(damaged)?;
    SafeTensors::deserialize(bytes.as_slice()).map_err(|e| damaged(e.to_string()))
}

/// How the numbers of a tensor are stored, if it is one of floats that factors may have.
pub(in crate::adapter) fn format_of(view: &TensorView<'_>) -> Option<Format> {
    match view.dtype() {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::BF16),
        _ => None,
    }
}

/// The type of 16 bits that all factors of blocks have, if it is one.
fn half_of(parts: &[OfPart<'_>]) -> Option<Half> {
    let mut all = parts.iter().flat_map(|part| [&part.a, &part.b]).map(|view| match format_of(view) {
        Some(Format::F16) => Some(Half::F16),
        Some(Format::BF16) => Some(Half::Bf16),
        _ => None,
    });
    let first = all.next()??;
    all.all(|half| half == Some(first)).then_some(first)
}

/// The values of a tensor that has a [`format_of`].
pub(in crate::adapter) fn decode(view: &TensorView<'_>) -> Vec<f32> {
    let format = format_of(view).expect("looked at when the tensor was found");
    let mut values = vec![0.0; view.data().len() / format.block_bytes()];
    format.decode(view.data(), &mut values);
    values
}

/// The matrix `name` of factors, with its rows and columns; the text says what is wrong with it.
pub(in crate::adapter) fn matrix<'f>(
    file: &SafeTensors<'f>,
    name: &str,
) -> Result<([usize; 2], TensorView<'f>), String> {
    let view = file.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
    let &[rows, cols] = view.shape() else {
        return Err(format!("{name} is {:?}, expected two dimensions", view.shape()));
    };
    match format_of(&view) {
        Some(_) => Ok(([rows, cols], view)),
        None => Err(other_format(name, &view)),
    }
}

fn other_format(name: &str, view: &TensorView<'_>) -> String {
    format!("{name} is stored as {:?}, expected F32, F16 or BF16", view.dtype())
}

/// Letters of an unknown value that are shown.
const MOST_SHOWN: usize = 60;

/// An adapter's folder, and the model that it is read for.
pub(super) struct Folder<'a> {
    config_path: PathBuf,
    weights_path: PathBuf,
    json: &'a Map<String, Value>,
    model: &'a Config,
    /// The files of the model, where they are known.
    base: Option<&'a ModelFiles>,
}

impl<'a> Folder<'a> {
    /// The folder `dir` with the configuration `json`.
    pub(super) fn new(
        dir: &Path,
        json: &'a Map<String, Value>,
        model: &'a Config,
        base: Option<&'a ModelFiles>,
    ) -> Self {
        let (config_path, weights_path) = (dir.join(CONFIG_FILE), dir.join(WEIGHTS_FILE));
        Folder { config_path, weights_path, json, model, base }
    }

    /// The adapter. `weights` are looked at after the configuration, whose errors come first.
    pub(super) fn read(
        &self,
        weights: Result<SharedBytes, FileError>,
        device: Device,
    ) -> Result<Adapter, FileError> {
        let mut lora = read_config(self.json).map_err(|e| e.at(&self.config_path))?;
        let mut parts = match lora.unmatched() {
            Some(_) => Vec::new(),
            None => self.selected(&lora)?,
        };
        let bytes = weights?;
        let file = parse_weights(&self.weights_path, &bytes)?;
        let names =
            FileNames::sort(file.names().into_iter(), self.model).map_err(|e| e.at(&self.weights_path))?;
        let of_config = |e: TargetError| {
            let error = FileError::new(&self.config_path, format!("`modules_to_save`: {e}"));
            match e.hint() {
                Some(hint) => error.with_hint(names::merged_in_peft().or(hint)),
                None => error,
            }
        };
        let saved = lora.saved_weights(self.model).map_err(of_config)?;
        let mut notes = self.passed_over(&lora);
        if let Some(pattern) = lora.unmatched() {
            let sites = names.sites();
            notes.push(format!(
                "{}: the pattern `{pattern}` was not checked (it has what only Python's re knows); the {} projections are those \
                 that the file has tensors of",
                self.config_path.display(),
                sites.len()
            ));
            lora.sites = Some(sites);
            parts = self.selected(&lora)?;
        }
        let tensors = Tensors { folder: self, file: &file, names };
        // Memory is taken only for factors that the file has: the rank alone is anybody's word.
        let views = tensors.factors(&parts, lora.use_dora)?;
        let of_head = lora.head().map(|head| tensors.of_head(head.rank)).transpose()?;
        let of_embedding =
            lora.embedding(self.model).map(|shape| tensors.of_embedding(shape.rank)).transpose()?;
        let whole = tensors.whole(&saved)?;
        let rows = tensors.of_tokens(&mut lora, &mut notes)?;
        notes.extend(tensors.others(&parts, &lora, (&saved, &whole), &rows)?);
        let mut adapter = Adapter::zeros(self.model, &lora, &parts, device);
        adapter.saved = Saved::zeros(self.model, &lora, device).map_err(of_config)?;
        if let (Some(head), Some([a, b])) = (&mut adapter.head, &of_head) {
            head.a.write(0, &tensors.finite(HEAD, "A", a)?);
            let b_t = transposed(&tensors.finite(HEAD, "B", b)?, head.rank);
            head.parts[0].b_t.write(0, &b_t);
        }
        let path = self.model.names.embedding;
        if let (Some(factors), Some([a, b])) = (&mut adapter.embedding, &of_embedding) {
            let (rank, a_t) = (factors.rank, factors.a_t.trained_mut().expect("rows that are trained"));
            a_t.write(0, &transposed(&tensors.finite(path, EMBEDDING_A, a)?, self.model.vocab_size));
            factors.b_t.write(0, &transposed(&tensors.finite(path, EMBEDDING_B, b)?, rank));
        }
        let copies: Vec<f32> = adapter.saved.weights.iter().map(|weight| weight.less).collect();
        for ((values, less), (stored, view)) in adapter.saved.tensors_mut().zip(copies).zip(&whole) {
            tensors.read_whole(stored, view, less, values)?;
        }
        adapter.tokens = TokenAdapter::zeros(self.model, &lora, device).map_err(|e| self.of_tokens(&e))?;
        for (of_side, (stored, view)) in adapter.tokens.sides_mut().zip(&rows.own) {
            tensors.read_whole(stored, view, 0.0, of_side.tensor_mut())?;
        }
        for (part, OfPart { a, b, magnitudes }) in parts.iter().zip(&views) {
            let (outputs, inputs) = module_shape(self.model, part.module);
            adapter.write_a(part, inputs, &tensors.values(part, "A", a)?);
            adapter.write_b(part, outputs, &tensors.values(part, "B", b)?);
            if let Some(magnitudes) = magnitudes {
                adapter.write_magnitudes(part, &tensors.values(part, MAGNITUDES, magnitudes)?);
            }
        }
        adapter.stored = half_of(&views);
        adapter.notes = notes;
        Ok(adapter)
    }

    /// What the configuration says and nothing comes of, in words.
    fn passed_over(&self, lora: &LoraConfig) -> Vec<String> {
        let path = self.config_path.display();
        let of_no_module = lora.saved_by_no_module(self.model).map(|name| {
            format!("{path}: `modules_to_save` names {name}, which no module of the model is called; it was passed over")
        });
        let unknown = unknown_keys(self.json).map(|(key, value)| {
            let value = value.to_string();
            let shown: String = value.chars().take(MOST_SHOWN).collect();
            let more = if shown.len() < value.len() { "..." } else { "" };
            format!("{path}: `{key}` is {shown}{more}, which is not known here and was passed over")
        });
        of_no_module.chain(unknown).collect()
    }

    /// An error of the tokens that the configuration names.
    fn of_tokens(&self, e: &TargetError) -> FileError {
        FileError::new(&self.config_path, format!("`{TOKENS}`: {e}")).with_hint_of(e.hint())
    }

    /// Refuses tokens that the model's files have no row of, and of which the adapter has one side alone.
    fn check_added(&self, sides: &TokenSides) -> Result<(), FileError> {
        let Some(base) = self.base.filter(|_| !sides.ties) else { return Ok(()) };
        let is_added = |id: &&u32| **id as usize >= base.stored_rows();
        let named = [(HEAD, &sides.embedding, &sides.head), ("the embedding", &sides.head, &sides.embedding)];
        for (path, has, lacks) in named {
            if let Some(id) = has.iter().filter(is_added).find(|id| !lacks.contains(id)) {
                let problem = format!(
                    "token {id} was added to the model, and {path} has no row of it: `{TOKENS}` names one side"
                );
                return Err(FileError::new(&self.config_path, problem).with_hint(
                    "name it on both sides, {\"embed_tokens\": [...], \"lm_head\": [...]}, or save whole matrices beside it: \
                     save_pretrained(DIR, save_embedding_layers=True)",
                ));
            }
        }
        Ok(())
    }

    /// The projections of the model that get an adapter.
    fn selected(&self, lora: &LoraConfig) -> Result<Vec<PartShape>, FileError> {
        // In PEFT a text is a pattern for the whole path.
        let hint = || {
            match self.json.get("target_modules") {
            Some(Value::String(name)) if self.model.modules().iter().any(|module| module.name() == name) => {
                format!(
                    "PEFT takes a text for a pattern of the whole path, which `{name}` matches nowhere: write [\"{name}\"]"
                )
                .into()
            }
            _ => self.made_for(),
        }
        };
        let of_config = |e| FileError::new(&self.config_path, format!("{e}")).with_hint(hint());
        // Said of its own key.
        lora.token_sides(self.model).map_err(|e| self.of_tokens(&e))?;
        lora.parts(self.model).map_err(of_config)
    }

    /// What the adapter was made for, to who meant another model; of this very model, what helps whatever is in the way.
    fn made_for(&self) -> Remedy {
        let whole_path = |path: &Path| path.canonicalize().ok();
        let is_base =
            |name: &str| self.base.is_some_and(|base| whole_path(base.path()) == whole_path(Path::new(name)));
        match self.json.get("base_model_name_or_path").and_then(Value::as_str) {
            Some(name) if is_base(name) => {
                let mixed = "take the two files of one adapter, if they are of several";
                names::merged_in_peft().or(mixed.into()).because("adapter_config.json names this very model")
            }
            name => format!("the adapter was made for {}", name.unwrap_or("another model")).into(),
        }
    }

    fn fail(&self, problem: String) -> FileError {
        FileError::new(&self.weights_path, problem)
    }
}

/// A matrix with `cols` columns, transposed.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols.max(1);
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// The tensors of the file.
struct Tensors<'a> {
    folder: &'a Folder<'a>,
    file: &'a SafeTensors<'a>,
    names: FileNames<'a>,
}

/// A tensor with its name in the file.
type Stored<'a> = (&'a str, TensorView<'a>);

/// The rows of tokens.
struct OfTokens<'a> {
    /// Whose rows they are.
    sides: TokenSides,
    /// Those of the embedding, then those of a head of its own.
    own: Vec<Stored<'a>>,
    /// Those of a tied head, which are the embedding's once more.
    again: Option<&'a str>,
}

/// The tensors of a projection.
struct OfPart<'a> {
    a: TensorView<'a>,
    b: TensorView<'a>,
    magnitudes: Option<TensorView<'a>>,
}

impl<'a> Tensors<'a> {
    /// Those of each of `parts`.
    fn factors(&self, parts: &[PartShape], use_dora: bool) -> Result<Vec<OfPart<'a>>, FileError> {
        let of_part = |part: &PartShape| {
            let (outputs, inputs) = module_shape(self.folder.model, part.module);
            let path = part.module.path(part.layer);
            let magnitudes = || self.factor(&tensor_name(&path, MAGNITUDES), &[outputs]);
            Ok(OfPart {
                a: self.factor(&tensor_name(&path, "A"), &[part.rank, inputs])?,
                b: self.factor(&tensor_name(&path, "B"), &[outputs, part.rank])?,
                magnitudes: use_dora.then(magnitudes).transpose()?,
            })
        };
        parts.iter().map(of_part).collect()
    }

    /// Those of the head.
    fn of_head(&self, rank: usize) -> Result<[TensorView<'a>; 2], FileError> {
        let Config { vocab_size, hidden_size, .. } = *self.folder.model;
        Ok([
            self.factor(&tensor_name(HEAD, "A"), &[rank, hidden_size])?,
            self.factor(&tensor_name(HEAD, "B"), &[vocab_size, rank])?,
        ])
    }

    /// Those of the embedding.
    fn of_embedding(&self, rank: usize) -> Result<[TensorView<'a>; 2], FileError> {
        let Config { vocab_size, hidden_size, names, .. } = *self.folder.model;
        Ok([
            self.factor(&tensor_name(names.embedding, EMBEDDING_A), &[rank, vocab_size])?,
            self.factor(&tensor_name(names.embedding, EMBEDDING_B), &[hidden_size, rank])?,
        ])
    }

    fn factor(&self, name: &str, expected: &[usize]) -> Result<TensorView<'a>, FileError> {
        let Some(stored) = self.names.stored(name) else { return Err(self.missing(name)) };
        let view = self.view(stored)?;
        if view.shape() != expected {
            return Err(self.of_other_shape(name, stored, view.shape(), expected));
        }
        match format_of(&view) {
            Some(_) => Ok(view),
            None => Err(self.folder.fail(other_format(stored, &view)).with_hint(
                "load the adapter in PEFT, convert it with model.float() and save it with save_pretrained",
            )),
        }
    }

    fn view(&self, stored: &str) -> Result<TensorView<'a>, FileError> {
        self.file.tensor(stored).map_err(|_| self.folder.fail(format!("tensor {stored} is missing")))
    }

    fn missing(&self, name: &str) -> FileError {
        match self.names.instead() {
            Some((instead, hint)) => {
                self.folder.fail(format!("tensor {name} is missing: {instead}")).with_hint(hint)
            }
            None => self.folder.fail(format!("tensor {name} is missing")).with_hint(
                "adapter_config.json and the file belong to different adapters, or the file is of a part",
            ),
        }
    }

    fn of_other_shape(&self, name: &str, stored: &str, found: &[usize], expected: &[usize]) -> FileError {
        // The rank is first in `A`, and last in `B`.
        let of_rank = match (found, expected) {
            ([_, found], [_, inputs]) if name.contains(".lora_A.") => found == inputs,
            ([found, _], [outputs, _]) => found == outputs,
            _ => false,
        };
        let problem = format!("{stored} is {found:?}, the model needs {expected:?}");
        self.folder.fail(problem).with_hint(match of_rank {
            true => "the rank in adapter_config.json (`r`, `rank_pattern`) is not that of the tensors: set it right, or take \
                     the two files of one adapter"
                .into(),
            false => self.folder.made_for(),
        })
    }

    /// The rows of the tokens that `lora` names, and of those that a whole head has more than the model: they are added to `lora`.
    fn of_tokens(&self, lora: &mut LoraConfig, notes: &mut Vec<String>) -> Result<OfTokens<'a>, FileError> {
        let folder = self.folder;
        let of_config = |e: TargetError| folder.of_tokens(&e);
        let sides = lora.token_sides(folder.model).map_err(of_config)?;
        let mut rows = self.of_sides(&sides)?;
        if let Some((ids, (stored, view))) = self.added_to_head(&sides)? {
            notes.push(format!(
                "{}: the rows that {stored} has more than the model were read as rows of tokens of {HEAD}",
                folder.weights_path.display()
            ));
            lora.tokens.add_head(folder.model, ids);
            rows.sides = lora.token_sides(folder.model).map_err(of_config)?;
            rows.own.push((stored, view));
        }
        folder.check_added(&rows.sides)?;
        Ok(rows)
    }

    /// The rows of the tokens `sides`.
    fn of_sides(&self, sides: &TokenSides) -> Result<OfTokens<'a>, FileError> {
        let model = self.folder.model;
        let of_side = |path: &str, ids: &[u32]| {
            let stored = self.names.tokens(path, model).ok_or_else(|| self.missing(&tokens_name(path)))?;
            let (view, expected) = (self.view(stored)?, [ids.len(), model.hidden_size]);
            if view.shape() != expected {
                let found = view.shape();
                let problem = format!("{stored} is {found:?}, `{TOKENS}` and the model need {expected:?}");
                return Err(self.folder.fail(problem).with_hint(self.folder.made_for()));
            }
            match format_of(&view) {
                Some(_) => Ok((stored, view)),
                None => Err(self.folder.fail(other_format(stored, &view)).with_hint(
                    "load the adapter in PEFT, convert it with model.float() and save it with save_pretrained",
                )),
            }
        };
        let named = [(model.names.embedding, &sides.embedding), (HEAD, &sides.head)];
        let named = named.into_iter().filter(|(_, ids)| !ids.is_empty());
        let own = named.map(|(path, ids)| of_side(path, ids)).collect::<Result<Vec<_>, FileError>>()?;
        let again = self.names.tokens(HEAD, model).filter(|_| sides.ties);
        if let (Some(again), Some((_, rows))) = (again, own.first()) {
            let head = self.view(again)?;
            if head.dtype() != rows.dtype() || head.data() != rows.data() {
                let problem =
                    format!("{again} has other rows than the embedding, and the model has both as one");
                return Err(self.folder.fail(problem).with_hint(self.folder.made_for()));
            }
        }
        Ok(OfTokens { sides: sides.clone(), own, again })
    }

    /// The whole head of the file, as PEFT saves it beside rows of the embedding where the vocabulary grew: the rows that the model's
    /// files have not, by their ids.
    fn added_to_head(&self, sides: &TokenSides) -> Result<Option<(Vec<u32>, Stored<'a>)>, FileError> {
        let (model, Some(base)) = (self.folder.model, self.folder.base) else { return Ok(None) };
        let has_rows = sides.ties || !sides.head.is_empty();
        if has_rows || sides.embedding.is_empty() || base.stored_rows() == model.vocab_size {
            return Ok(None);
        }
        let head = format!("{HEAD}.weight");
        let is_head = |name: &&str| self.names.whole_weight(name, model).as_ref() == Some(&head);
        let Some(stored) = self.names.others().find(is_head) else { return Ok(None) };
        let view = self.view(stored)?;
        let (rows, format) = (base.stored_rows()..model.vocab_size, format_of(&view));
        let Some(format) = format.filter(|_| view.shape() == [rows.end, model.hidden_size]) else {
            return Ok(None);
        };
        let row_bytes = model.hidden_size * format.block_bytes();
        let bytes = &view.data()[rows.start * row_bytes..rows.end * row_bytes];
        let added = TensorView::new(view.dtype(), vec![rows.len(), model.hidden_size], bytes);
        let added = added.map_err(|e| self.folder.fail(format!("{stored}: {e}")))?;
        let ids = rows.map(|id| u32::try_from(id).expect("an id of a token")).collect();
        Ok(Some((ids, (stored, added))))
    }

    /// The whole weights `saved`, each with its name in the file.
    fn whole(&self, saved: &[WeightShape]) -> Result<Vec<(&'a str, TensorView<'a>)>, FileError> {
        let of_weight = |weight: &WeightShape| {
            let name = whole_name(&weight.name);
            let stored = self.names.saved(&weight.name, self.folder.model);
            let stored = stored.ok_or_else(|| self.missing(&name))?;
            let view = self.view(stored)?;
            if view.shape() != weight.dims {
                let problem = format!("{stored} is {:?}, the model needs {:?}", view.shape(), weight.dims);
                return Err(self.folder.fail(problem).with_hint(self.folder.made_for()));
            }
            match format_of(&view) {
                Some(_) => Ok((stored, view)),
                None => Err(self.folder.fail(other_format(stored, &view)).with_hint(
                    "load the adapter in PEFT, convert it with model.float() and save it with save_pretrained",
                )),
            }
        };
        saved.iter().map(of_weight).collect()
    }

    /// Reads the whole weight `view`, which is called `stored`, into `values`, which have `less` more.
    fn read_whole(
        &self,
        stored: &str,
        view: &TensorView<'_>,
        less: f32,
        values: &mut Tensor,
    ) -> Result<(), FileError> {
        let format = format_of(view).expect("looked at when the tensor was found");
        let mut piece = vec![0.0; READ_VALUES.min(values.len())];
        for (i, bytes) in view.data().chunks(READ_VALUES * format.block_bytes()).enumerate() {
            let piece = &mut piece[..bytes.len() / format.block_bytes()];
            format.decode(bytes, piece);
            if let Some(value) = piece.iter().find(|value| !value.is_finite()) {
                return Err(self.not_finite(stored, *value));
            }
            piece.iter_mut().for_each(|value| *value += less);
            values.write(i * READ_VALUES, piece);
        }
        Ok(())
    }

    /// Refuses another tensor of a weight that is trained whole, `stored`, but the same values once more.
    fn check_again(&self, name: &str, stored: &str, trained: &TensorView<'_>) -> Result<(), FileError> {
        let again = self.view(name)?;
        if again.dtype() == trained.dtype() && again.data() == trained.data() {
            return Ok(());
        }
        let problem = format!("{name} has other values than {stored}, and is the same weight");
        Err(self.folder.fail(problem).with_hint("take the file as PEFT saved it"))
    }

    /// Notes on the tensors that are no factors of `parts`, not `whole` and no `rows` of tokens: embeddings that are the model's own. Any other is
    /// refused.
    fn others(
        &self,
        parts: &[PartShape],
        lora: &LoraConfig,
        (saved, whole): (&[WeightShape], &[(&str, TensorView<'_>)]),
        rows: &OfTokens<'_>,
    ) -> Result<Vec<String>, FileError> {
        let path = &self.folder.weights_path;
        let mut notes = Vec::new();
        if let Some(name) = self.names.magnitudes().filter(|_| !lora.use_dora) {
            return Err(names::unread(name).at(path));
        }
        let model = self.folder.model;
        let outside = [(HEAD, lora.head()), (model.names.embedding, lora.embedding(model))];
        let outside: Vec<&str> =
            outside.into_iter().filter_map(|(path, shape)| shape.map(|_| path)).collect();
        let sites = parts.iter().map(|part| (part.layer, part.module));
        for name in self.names.except(sites, &outside) {
            if whole.iter().chain(&rows.own).any(|(stored, _)| *stored == name) || rows.again == Some(name) {
                continue;
            }
            let Some(weight) = self.names.whole_weight(name, self.folder.model) else {
                return Err(names::unread(name).at(path));
            };
            // Where the vocabulary grew, PEFT saves what is trained whole once more, with the base's beside it.
            if names::is_original(name) {
                continue;
            }
            let mut with_names = saved.iter().zip(whole);
            if let Some((_, (stored, trained))) = with_names.find(|(shape, _)| shape.name == weight) {
                self.check_again(name, stored, trained)?;
                continue;
            }
            let table = |view: &TensorView<'_>| view.shape().len() > 1;
            if let Some((_, embedding)) =
                whole.iter().find(|(_, view)| table(view) && lora.saves_tied(self.folder.model))
            {
                let head = self.view(name)?;
                if head.dtype() == embedding.dtype() && head.data() == embedding.data() {
                    continue;
                }
                let problem =
                    format!("{name} is not the embedding, and `ensure_weight_tying` says that both are one");
                return Err(FileError::new(path, problem).with_hint(
                    "set `ensure_weight_tying` to false in adapter_config.json, if they were trained apart",
                ));
            }
            let sides = &rows.sides;
            let of_head = weight.strip_suffix(".weight") == Some(HEAD) && !sides.ties;
            let ids = if of_head { &sides.head } else { &sides.embedding };
            embeddings::passed_over(name, &weight, &self.view(name)?, self.folder.base, ids)
                .map_err(|e| e.at(path))?;
            notes.push(format!("{}: {name} is the model's own and was passed over", path.display()));
        }
        Ok(notes)
    }

    /// The values of a factor, all finite.
    fn values(&self, part: &PartShape, factor: &str, view: &TensorView<'_>) -> Result<Vec<f32>, FileError> {
        self.finite(&part.module.path(part.layer), factor, view)
    }

    /// The values of a factor of the module at `path`, all finite.
    fn finite(&self, path: &str, factor: &str, view: &TensorView<'_>) -> Result<Vec<f32>, FileError> {
        let values = decode(view);
        let Some(value) = values.iter().find(|value| !value.is_finite()) else { return Ok(values) };
        let name = tensor_name(path, factor);
        Err(self.not_finite(self.names.stored(&name).unwrap_or(&name), *value))
    }

    fn not_finite(&self, stored: &str, value: f32) -> FileError {
        self.folder
            .fail(format!("{stored} has {value}, expected finite numbers"))
            .with_hint("the adapter is damaged, or of training that diverged: take an earlier checkpoint")
    }
}
