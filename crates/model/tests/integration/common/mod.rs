//! What the tests on model files share: tiny models with the numbers that transformers and PEFT computed from the
//! same weights.

// Each test binary uses a part.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lorafit_kernels::ops::adamw;
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_kernels::ops::elementwise::sum_squares;
use lorafit_kernels::{Device, Tensor};
use lorafit_model::adapter::{self, Adapter, LoraConfig, named_tensors};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{
    ActivationDtype, ActivationPolicy, Buffers, Gradients, Model, Prompts, Recompute, Sampling, Stream,
    WeightSelection, generate,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Two layers in f32 against two layers in f32, each with its own order of summation: relative to the largest
/// value of a tensor.
pub const TOLERANCE: f32 = 3e-5;

/// The same of logits, which only a forward pass leads to.
pub const LOGITS_TOLERANCE: f32 = 1e-5;

/// A folder of `fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

/// A folder of `fixtures/dora`.
pub fn dora_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/dora").join(name)
}

/// A folder of `fixtures/saved`.
pub fn saved_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/saved").join(name)
}

/// The folder of `fixtures/models` that an adapter of `fixtures/saved` is for.
pub fn saved_base(name: &str) -> PathBuf {
    let config =
        std::fs::read_to_string(saved_fixture(name).join("adapter/adapter_config.json")).expect("read");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    fixture(config["base_model_name_or_path"].as_str().expect("a name"))
}

/// The files of [`saved_base`], with the rows that the adapter asks for.
pub fn saved_files(name: &str) -> ModelFiles {
    let mut files = ModelFiles::open(&saved_base(name)).expect("the fixture opens");
    let tokens = adapter::token_indices(&saved_fixture(name).join("adapter")).expect("read");
    files.add_rows(tokens.rows_needed()).expect("a few rows");
    files
}

/// A file of `fixtures/gguf`.
pub fn gguf_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf").join(name)
}

/// A tensor of a file, for tests that damage it.
pub type FileTensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Rewrites a safetensors file after `edit` to its tensors.
pub fn edit_safetensors(path: &Path, edit: impl FnOnce(&mut Vec<FileTensor>)) {
    let bytes = std::fs::read(path).expect("a safetensors file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: Vec<FileTensor> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("shape and data agree"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("serialises")).expect("written");
}

/// A tiny model, its adapter and what is expected of them.
pub struct Case {
    pub model: Model,
    pub adapter: Adapter,
    pub expected: Vec<u8>,
    pub ids: Vec<Vec<u32>>,
    pub labels: Vec<Vec<i64>>,
}

impl Case {
    /// A folder of `fixtures/models`.
    pub fn open(name: &str) -> Case {
        Case::on(Device::Cpu, name)
    }

    /// As [`Case::open`], on a device.
    pub fn on(device: Device, name: &str) -> Case {
        let dir = fixture(name);
        let files = ModelFiles::open(&dir).expect("the fixture opens");
        let model = Model::load(&files, device).expect("the fixture loads");
        Case::with(model, name, &dir.join("expected.safetensors"))
    }

    /// The model in `path` with the adapter and the samples of the folder `source` of `fixtures/models`.
    pub fn of(path: &Path, source: &str, expected: &Path) -> Case {
        let files = ModelFiles::open(path).expect("the fixture opens");
        Case::with(Model::load(&files, Device::Cpu).expect("the fixture loads"), source, expected)
    }

    /// A model with the adapter and the samples of the folder `source` of `fixtures/models`.
    pub fn with(model: Model, source: &str, expected: &Path) -> Case {
        Case::with_adapter(model, &fixture(source), expected)
    }

    /// The model of a folder of `fixtures/dora`, with its adapter, on a device.
    pub fn with_dora(device: Device, name: &str) -> Case {
        let files = ModelFiles::open(&fixture(name)).expect("the fixture opens");
        let model = Model::load(&files, device).expect("the fixture loads");
        let dir = dora_fixture(name);
        Case::with_adapter(model, &dir, &dir.join("expected.safetensors"))
    }

    /// The base of a folder of `fixtures/saved`, with the adapter that has whole weights or rows of tokens, on a device.
    pub fn with_saved(device: Device, name: &str) -> Case {
        let dir = saved_fixture(name);
        let files = saved_files(name);
        let model = Model::load(&files, device).expect("the fixture loads");
        Case::with_adapter(model, &dir, &dir.join("expected.safetensors"))
    }

    /// A model with the adapter and the samples of the folder `dir`.
    pub fn with_adapter(model: Model, dir: &Path, expected: &Path) -> Case {
        let adapter = adapter::load(&dir.join("adapter"), model.config(), model.device());
        let mut adapter = adapter.expect("the adapter loads");
        model.prepare(&mut adapter);
        let json = std::fs::read_to_string(dir.join("expected.json")).expect("expected.json");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        Case {
            model,
            adapter,
            expected: std::fs::read(expected).expect("the expected values"),
            ids: serde_json::from_value(json["input_ids"].clone()).expect("ids"),
            labels: serde_json::from_value(json["labels"].clone()).expect("labels"),
        }
    }

    /// A folder of `fixtures/models` with those of its weights that are trained, on a device.
    pub fn trained_on(device: Device, name: &str, selection: &WeightSelection) -> Case {
        let dir = fixture(name);
        let files = ModelFiles::open(&dir).expect("the fixture opens");
        let mut model = Model::load(&files, device).expect("the fixture loads");
        model.train(selection).expect("the model has them");
        Case::with(model, name, &dir.join("full.safetensors"))
    }

    /// An adapter of the case's shape whose configuration has dropout on, so that buffers have room for it.
    pub fn adapter_with_dropout(&self) -> Adapter {
        let config = LoraConfig { dropout: 0.4, ..self.adapter.config().clone() };
        Adapter::init(self.model.config(), &config, 0, self.model.device()).expect("an adapter")
    }

    /// The logits of every sample, of the base and with the adapter, are those of the fixture.
    pub fn assert_logits(&self, what: &str) {
        for s in 0..self.ids.len() {
            let p = self.packed(&[s]);
            let (config, device) = (self.model.config(), self.model.device());
            let mut buffers = Buffers::for_evaluation(config, Some(&self.adapter), device, p.ids.len());
            let base = self.model.all_logits(None, p.stream(), &mut buffers);
            let expected = self.expected(&format!("base_logits.{s}"));
            assert_close(&base, &expected, LOGITS_TOLERANCE, &format!("{what} base {s}"));
            let adapted = self.model.all_logits(Some(&self.adapter), p.stream(), &mut buffers);
            let expected = self.expected(&format!("logits.{s}"));
            assert_close(&adapted, &expected, LOGITS_TOLERANCE, &format!("{what} LoRA {s}"));
        }
    }

    /// The losses of eight steps and after them, and the norms of their gradients, are those of the fixture: AdamW at 0.01, without
    /// weight decay and clipping, on all samples.
    pub fn assert_eight_steps(&mut self, what: &str) {
        let p = self.packed(&[0, 1]);
        let (tokens, scale) = (p.ids.len(), 1.0 / p.targets.len() as f32);
        let mut gradients = Gradients::new(&self.model, Some(&self.adapter));
        let policy = ActivationPolicy::default();
        let mut buffers =
            Buffers::for_training(&self.model, Some(&self.adapter), &gradients, tokens, tokens, policy);
        let mut moments: Vec<[Tensor; 2]> =
            self.adapter.tensors().map(|tensor| [tensor.zeros_like(), tensor.zeros_like()]).collect();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for number in 1..=9 {
            gradients.clear();
            let adapter = Some(&self.adapter).into();
            let found =
                self.model.loss_and_gradient(adapter, p.stream(), scale, &mut buffers, &mut gradients);
            losses.push((found.total() * f64::from(scale)) as f32);
            norms.push(sum_squares(&gradients.tensors().collect::<Vec<_>>()).sqrt() as f32);
            let step = adamw::Step { weight_decay: 0.0, ..adamw::Step::new(number, 0.01) };
            let tensors = self.adapter.tensors_mut().zip(gradients.tensors()).zip(&mut moments);
            for ((parameter, gradient), [first, second]) in tensors {
                adamw::step(parameter, gradient, first, second, gradient.len(), &step);
            }
            self.model.prepare(&mut self.adapter);
        }
        // AdamW divides gradients near zero by themselves, so that rounding grows with the steps.
        let [expected, expected_norms] =
            ["loss", "grad_norm"].map(|what| self.expected(&format!("steps.{what}")));
        for (step, (found, expected)) in losses.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-5 * expected.max(1.0),
                "{what} {step}: {found}, {expected}"
            );
        }
        for (step, (found, expected)) in norms.iter().zip(&expected_norms).enumerate() {
            assert!((found - expected).abs() < 1e-4 * expected, "{what} {step}: norm {found}, {expected}");
        }
    }

    /// Logits of a sample by `model`, which may be another than the case's.
    pub fn logits(&self, model: &Model, adapter: Option<&Adapter>, sample: usize) -> Vec<f32> {
        let p = self.packed(&[sample]);
        let mut buffers = Buffers::for_evaluation(model.config(), adapter, model.device(), p.ids.len());
        model.all_logits(adapter, p.stream(), &mut buffers)
    }

    /// Logits with the adapter, loss and gradients are those of the fixture.
    #[track_caller]
    pub fn assert_equals_peft(&self, what: &str) {
        for sample in 0..self.ids.len() {
            let found = self.logits(&self.model, Some(&self.adapter), sample);
            let expected = self.expected(&format!("logits.{sample}"));
            assert_close(&found, &expected, LOGITS_TOLERANCE, &format!("{what} {sample}"));
        }
        self.assert_loss_and_gradients(what);
    }

    /// Running blocks again in backward is the same arithmetic in the same order, over samples and over a tree.
    #[track_caller]
    pub fn assert_recomputed_alike(&self, what: &str) {
        let streams = [self.packed(&[0, 1]), tree_of(self.model.config().vocab_size)];
        for dtype in [ActivationDtype::F32, ActivationDtype::Bf16] {
            let gradients = |recompute| self.gradients_with(&streams, ActivationPolicy { recompute, dtype });
            let kept = gradients(Recompute::None);
            for recompute in [Recompute::Full, Recompute::Blocks(1)] {
                assert!(gradients(recompute) == kept, "{what} {recompute:?} {dtype:?}");
            }
        }
    }

    /// The loss of all samples and the gradient of every factor are those of the fixture.
    pub fn assert_loss_and_gradients(&self, what: &str) {
        let (loss, gradients) = self.gradients(&[self.packed(&[0, 1])]);
        assert_close(&[loss as f32], &self.expected("loss"), TOLERANCE, &format!("{what} loss"));
        let file = SafeTensors::deserialize(&self.expected).expect("safetensors");
        let names = file.names();
        assert_eq!(gradients.len(), names.iter().filter(|name| name.starts_with("grad.")).count(), "{what}");
        for (tensor, values) in &gradients {
            let expected = self.expected(&format!("grad.{tensor}"));
            assert_close(values, &expected, TOLERANCE, &format!("{what} {tensor}"));
        }
    }

    /// The loss of all samples and the gradient of every weight are those of the fixture.
    pub fn assert_loss_and_weight_gradients(&self, what: &str) {
        let (loss, found) = self.weight_gradients(ActivationPolicy::default());
        assert_close(&[loss], &self.expected("loss"), TOLERANCE, &format!("{what} loss"));
        let all = WeightSelection::all().of(self.model.config()).expect("all");
        assert_eq!(found.len(), all.len(), "{what}");
        for (weight, values) in &found {
            let mut expected = self.expected(&format!("grad.{weight}"));
            let shape = all.iter().find(|shape| shape.name == *weight).expect("one of all");
            if shape.transposed {
                let (rows, cols) = (shape.dims[0], shape.dims[1]);
                expected = (0..rows * cols).map(|i| expected[i % cols * rows + i / cols]).collect();
            }
            assert!(expected.iter().any(|g| *g != 0.0), "{what} {weight} has a gradient");
            assert_close(values, &expected, TOLERANCE, &format!("{what} {weight}"));
        }
    }

    /// The loss of both samples and its gradients by the names of the weights that are trained.
    pub fn weight_gradients(&self, activations: ActivationPolicy) -> (f32, BTreeMap<String, Vec<f32>>) {
        let p = self.packed(&[0, 1]);
        let (tokens, targets) = (p.ids.len(), p.targets.len() as f32);
        let mut found = Gradients::new(&self.model, None);
        let mut buffers = Buffers::for_training(&self.model, None, &found, tokens, tokens, activations);
        let losses =
            self.model.loss_and_gradient(None.into(), p.stream(), 1.0 / targets, &mut buffers, &mut found);
        let names = self.model.trained_shapes().into_iter().map(|shape| shape.name);
        let values = found.tensors().map(|t| t.to_vec(t.len()));
        (losses.total() as f32 / targets, names.zip(values).collect())
    }

    pub fn expected(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.expected).expect("safetensors");
        let data = file.tensor(name).unwrap_or_else(|_| panic!("{name} in the fixture")).data().to_vec();
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The given sequences packed in one stream.
    pub fn packed(&self, sequences: &[usize]) -> Packed {
        let mut p = Packed::default();
        let mut segments = Vec::new();
        for &s in sequences {
            let start = p.ids.len();
            segments.push(Segment { start, len: self.ids[s].len(), parent: None });
            for (i, (&id, &label)) in self.ids[s].iter().zip(&self.labels[s]).enumerate() {
                p.ids.push(id);
                p.positions.push(i as u32);
                if label >= 0 && i > 0 {
                    p.targets.push(Target { row: (start + i - 1) as u32, id: label as u32, weight: 1.0 });
                }
            }
        }
        p.segments = Segments::new(segments, p.ids.len()).expect("contiguous");
        p
    }

    pub fn gradients(&self, streams: &[Packed]) -> (f64, Vec<(String, Vec<f32>)>) {
        self.gradients_with(streams, ActivationPolicy::default())
    }

    pub fn gradients_with(
        &self,
        streams: &[Packed],
        activations: ActivationPolicy,
    ) -> (f64, Vec<(String, Vec<f32>)>) {
        let tokens = streams.iter().map(|p| p.ids.len()).max().expect("a stream");
        let targets: usize = streams.iter().map(|p| p.targets.len()).sum();
        let (model, adapter) = (&self.model, Some(&self.adapter));
        let mut gradients = Gradients::new(model, adapter);
        let mut buffers = Buffers::for_training(model, adapter, &gradients, tokens, tokens, activations);
        let mut loss = 0.0;
        for p in streams {
            let scale = 1.0 / targets as f32;
            let losses =
                model.loss_and_gradient(adapter.into(), p.stream(), scale, &mut buffers, &mut gradients);
            loss += losses.total() / targets as f64;
        }
        let named = named_tensors(&self.adapter, gradients.tensors());
        (loss, named.into_iter().map(|t| (t.name, t.values)).collect())
    }
}

#[derive(Default)]
pub struct Packed {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub segments: Segments,
    pub targets: Vec<Target>,
}

/// Samples that begin alike and branch twice, and a target that is counted twice.
pub fn tree_of(vocab: usize) -> Packed {
    let list = [(6, None), (3, Some(0)), (4, Some(0)), (2, Some(1))];
    let (mut segments, mut positions, mut start) = (Vec::new(), Vec::new(), 0);
    let mut ends: Vec<u32> = Vec::new();
    for (len, parent) in list {
        let first = parent.map_or(0, |parent: usize| ends[parent]);
        segments.push(Segment { start, len, parent });
        positions.extend((0..len as u32).map(|i| first + i));
        ends.push(first + len as u32);
        start += len;
    }
    let target = |row, id, weight| Target { row, id: id % vocab as u32, weight };
    // Row 5 branches.
    let targets = vec![
        target(5, 9, 1.0),
        target(5, 30, 1.0),
        target(7, 4, 2.0),
        target(11, 60, 1.0),
        target(14, 2, 1.0),
    ];
    let ids = (0..start).map(|i| (i * 37 % vocab) as u32).collect();
    Packed { ids, positions, segments: Segments::new(segments, start).expect("a stream"), targets }
}

/// Greedy answers from a cache are those of the whole text computed again for each token.
pub fn generated(case: &Case, name: &str) {
    let prompts = [&case.ids[0][..5], &case.ids[1][..case.ids[1].len().min(17)]];
    let (adapter, config) = (Some(&case.adapter), case.model.config());
    let sampling = Sampling::default();
    let request =
        Prompts { ids: &prompts, stop: &[], max_new_tokens: 8, sampling, seeds: &[], side_by_side: 16 };
    let found = generate(&case.model, adapter, request, |_, _| true, &mut || false);
    for (prompt, found) in prompts.iter().zip(&found.expect("numbers")) {
        let mut ids = prompt.to_vec();
        for &token in found {
            let p = Packed::single(ids.clone());
            let mut buffers = Buffers::for_evaluation(config, adapter, Device::Cpu, ids.len());
            let logits = case.model.all_logits(adapter, p.stream(), &mut buffers);
            let last = &logits[(ids.len() - 1) * config.vocab_size..];
            assert_eq!(sampling.choose(last, 0), token, "{name} after {} tokens", ids.len());
            ids.push(token);
        }
    }
}

impl Packed {
    /// One sequence, of which nothing is predicted.
    pub fn single(ids: Vec<u32>) -> Packed {
        let positions = (0..ids.len() as u32).collect();
        Packed { segments: Segments::single(ids.len()), positions, ids, targets: Vec::new() }
    }

    pub fn stream(&self) -> Stream<'_> {
        Stream {
            ids: &self.ids,
            positions: &self.positions,
            segments: &self.segments,
            targets: &self.targets,
            below: 0,
        }
    }
}

/// Equal within `tolerance` of the largest expected value.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0.0f32, |m, (f, e)| m.max((f - e).abs() / scale));
    assert!(worst <= tolerance, "{what}: off by {worst:.2e} of the largest value");
}
