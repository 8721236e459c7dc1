//! However a step is cut and whatever is shared, its loss and gradient are the same.

use std::path::Path;

use lorafit_data::Sample;
use lorafit_kernels::{Device, random};
use lorafit_model::adapter::{self, Adapter, LoraConfig};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{Buffers, Model};

use super::*;
use crate::evaluate::evaluate_in;
use crate::lock::RunLock;
use crate::run_info::RunInfo;

/// f32 sums in another order, relative to the largest value of a tensor.
const TOLERANCE: f64 = 1e-5;

pub(super) struct Fixture {
    pub(super) model: Model,
    pub(super) adapter: Adapter,
}

pub(super) fn fixture(name: &str) -> Fixture {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name);
    let model = Model::load(&ModelFiles::open(&dir).expect("opens"), Device::Cpu).expect("loads");
    let adapter = adapter::load(&dir.join("adapter"), model.config(), Device::Cpu).expect("loads");
    Fixture { model, adapter }
}

struct StopAfter {
    steps: u64,
    done: u64,
}

impl Observer for StopAfter {
    fn on_step(&mut self, record: &StepRecord, _total_steps: u64) {
        self.done = record.step;
    }

    fn on_evaluation(&mut self, _record: &EvaluationRecord) {}

    fn should_stop(&mut self) -> bool {
        self.done >= self.steps
    }
}

/// The run in a folder, from its newest checkpoint if there is one, else from what `start` gives; `stop_at` ends it after so many
/// steps.
pub(super) fn train_until(
    dir: &Path,
    model: &Model,
    data: TrainData<'_>,
    options: &TrainOptions,
    start: impl FnOnce() -> Adapter,
    stop_at: Option<u64>,
) -> Adapter {
    let lock = RunLock::take(dir).expect("free");
    let newest = Checkpoint::newest(dir).expect("reads");
    let checkpoint = newest.checkpoint.as_ref();
    let mut run = match checkpoint {
        Some(found) => RunFolder::resume(lock, RunInfo::default(), &found.state, &newest.damaged),
        None => RunFolder::create(lock, RunInfo::default()),
    }
    .expect("a folder");
    let mut adapter = match checkpoint {
        Some(found) => found.adapter(model.config(), Device::Cpu).expect("there"),
        None => start(),
    };
    let mut parameters = Parameters::Adapter { model, adapter: &mut adapter };
    let mut observer = StopAfter { steps: stop_at.unwrap_or(u64::MAX), done: 0 };
    train(&mut parameters, data, options, Start { checkpoint, ..Start::default() }, &mut run, &mut observer)
        .expect("trains");
    adapter
}

/// Draws that are the same in every run.
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 += 1;
        (random::mix(self.0) % bound as u64) as usize
    }

    /// Samples that begin alike in many ways: they branch inside prompts and replies, are equal, or begin another.
    pub(super) fn tree(&mut self, samples: usize) -> Samples {
        let mut made: Vec<Sample> = Vec::new();
        for row in 1..=samples {
            let mut ids: Vec<u32> = match self.below(4) {
                0 | 1 if !made.is_empty() => {
                    let other = &made[self.below(made.len())].ids;
                    other[..1 + self.below(other.len())].to_vec()
                }
                _ => vec![],
            };
            ids.extend((0..2 + self.below(12)).map(|_| 1 + self.below(3) as u32).collect::<Vec<_>>());
            let mut supervised: Vec<bool> = ids.iter().map(|_| self.below(3) > 0).collect();
            supervised[0] = false;
            supervised[1] = true;
            made.push(Sample { ids, supervised, row });
        }
        made.into_iter().collect()
    }
}

/// Loss, tokens computed, and gradients of one step over all samples, which leaves the adapter as it is.
fn step(fixture: &mut Fixture, samples: &Samples, budget: usize, share: bool) -> (f64, u64, Vec<Vec<f32>>) {
    step_at_once(fixture, samples, (budget, 1), share)
}

/// As [`step`], with so many micro-batches at the same time, which share `budget` tokens.
fn step_at_once(
    fixture: &mut Fixture,
    samples: &Samples,
    (budget, at_once): (usize, usize),
    share: bool,
) -> (f64, u64, Vec<Vec<f32>>) {
    let Fixture { model, adapter } = fixture;
    let options = TrainOptions {
        batch_size: samples.len(),
        micro_batch_tokens: budget,
        micro_batches_at_once: at_once,
        prefix_sharing: share,
        ..TrainOptions::plain(Duration::Steps(1), 0.0)
    };
    let size = MicroBatchSize::largest(samples, samples.len(), options.tokens_of_each());
    let mut parameters = Parameters::Adapter { model, adapter };
    let mut stepper = Stepper::new(&parameters, size, &options, 1);
    let indices: Vec<usize> = (0..samples.len()).collect();
    let record = stepper.step(&mut parameters, samples, &indices, 1, &options).expect("finite");
    let gradients = stepper.lanes.first.gradients.tensors().map(|t| t.to_vec(t.len())).collect();
    (record.loss, record.computed_tokens, gradients)
}

#[test]
fn one_by_one_packed_and_shared_gradients_agree() {
    for name in ["llama", "qwen3", "gemma2", "olmo3", "cohere2", "phi3_longrope", "llama_dynamic"] {
        let mut fixture = fixture(name);
        let mut draws = Draws(7);
        let (mut packed_tokens, mut shared_tokens) = (0, 0);
        for tree in 0..12 {
            let samples = draws.tree(1 + tree % 7);
            let (loss, _, gradients) = step(&mut fixture, &samples, 1, false);
            for (budget, share) in
                [(10_000, false), (10_000, true), (40, true), (16, true), (16, false), (1, true)]
            {
                let what = format!("{name}, tree {tree}, {budget} tokens, shared: {share}");
                let (found, tokens, found_gradients) = step(&mut fixture, &samples, budget, share);
                assert!((found - loss).abs() <= TOLERANCE * loss, "{what}: loss {found}, expected {loss}");
                for (i, (found, expected)) in found_gradients.iter().zip(&gradients).enumerate() {
                    let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
                    let apart = found.iter().zip(expected).fold(0.0f32, |m, (f, e)| m.max((f - e).abs()));
                    let relative = f64::from(apart / largest);
                    assert!(relative <= TOLERANCE, "{what}: gradient {i} is off by {relative:.1e}");
                }
                if budget == 10_000 {
                    *(if share { &mut shared_tokens } else { &mut packed_tokens }) += tokens;
                }
            }
        }
        // Where the length of a text decides how its tokens are rotated, nothing is shared.
        match fixture.model.config().depends_on_length() {
            true => assert_eq!(shared_tokens, packed_tokens, "{name}"),
            false => {
                assert!(shared_tokens * 5 < packed_tokens * 4, "{name}: {shared_tokens} of {packed_tokens}")
            }
        }
    }
}

/// Whatever each is given, and with the same bits on any number of threads.
#[test]
fn micro_batches_at_the_same_time_give_the_step_of_one_after_the_other() {
    let on = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let pools = [1, 2, 3].map(on);
    for name in ["llama", "gemma2"] {
        let mut fixture = fixture(name);
        let samples = Draws(11).tree(9);
        let (loss, _, gradients) = step(&mut fixture, &samples, 1, false);
        let norm =
            |values: &[f32]| values.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        for (budget, at_once, share) in
            [(1, 2, true), (40, 2, true), (40, 2, false), (40, 3, true), (60, 20, true), (10_000, 2, true)]
        {
            let what = format!("{name}, {budget} tokens, {at_once} at once, shared: {share}");
            let [found, others @ ..] = pools
                .each_ref()
                .map(|pool| pool.install(|| step_at_once(&mut fixture, &samples, (budget, at_once), share)));
            assert!(others.iter().all(|other| *other == found), "{what}: other bits on other threads");
            assert!((found.0 - loss).abs() <= TOLERANCE * loss, "{what}: loss {}, expected {loss}", found.0);
            for (i, (found, expected)) in found.2.iter().zip(&gradients).enumerate() {
                let apart: Vec<f32> = found.iter().zip(expected).map(|(f, e)| f - e).collect();
                let relative = f64::from(norm(&apart) / norm(expected));
                assert!(relative <= TOLERANCE, "{what}: gradient {i} is off by {relative:.1e}");
            }
        }
    }
}

/// Seven samples in steps of four: the last step has three, and its mean is over those.
#[test]
fn a_partial_last_window_is_shared_and_cut_alike() {
    let samples = Draws(3).tree(7);
    let indices: Vec<usize> = (0..7).collect();
    let run = |budget, share| {
        let Fixture { model, mut adapter } = fixture("llama");
        let options = TrainOptions {
            batch_size: 2,
            gradient_accumulation: 2,
            micro_batch_tokens: budget,
            prefix_sharing: share,
            ..TrainOptions::plain(Duration::Epochs(1.0), 1e-3)
        };
        let size = MicroBatchSize::largest(&samples, 4, budget);
        let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
        let mut stepper = Stepper::new(&parameters, size, &options, 2);
        let mut step = |part: &[usize], number| {
            stepper.step(&mut parameters, &samples, part, number, &options).expect("finite")
        };
        [step(&indices[..4], 1), step(&indices[4..], 2)]
    };
    let whole = run(10_000, false);
    for (budget, share) in [(10_000, true), (20, true), (1, false)] {
        for (found, expected) in run(budget, share).iter().zip(&whole) {
            assert!((found.loss - expected.loss).abs() <= TOLERANCE * expected.loss);
            assert!((found.grad_norm / expected.grad_norm - 1.0).abs() <= TOLERANCE);
            assert_eq!(found.supervised_tokens, expected.supervised_tokens);
            assert_eq!(found.tokens, expected.tokens);
        }
    }
}

#[test]
fn evaluation_does_not_depend_on_sharing() {
    let fixture = fixture("qwen3");
    let samples = Draws(5).tree(20);
    let mut losses = Vec::new();
    for (budget, share) in [(1, false), (10_000, false), (10_000, true), (30, true)] {
        let size = MicroBatchSize::largest(&samples, samples.len(), budget);
        let (config, adapter) = (fixture.model.config(), Some(&fixture.adapter));
        let mut buffers = Buffers::for_evaluation(config, adapter, Device::Cpu, size.tokens);
        let (model, buffers) = (&fixture.model, &mut buffers);
        let cut = Cut::of(config, budget, share);
        let found = evaluate_in(model, adapter, &samples, cut, buffers, &mut || false);
        losses.push(found.expect("nobody stops it").loss);
    }
    for loss in &losses[1..] {
        assert!((loss - losses[0]).abs() <= TOLERANCE * losses[0], "{losses:?}");
    }
}

/// Eight bits round the moments, which changes the course a little and where it leads not at all.
#[test]
fn eight_bit_moments_follow_f32_ones() {
    let samples = Draws(9).tree(8);
    let indices: Vec<usize> = (0..8).collect();
    let run = |optimizer| -> Vec<f64> {
        let model = fixture("llama").model;
        // Wide enough for tensors of 4096 parameters, the smallest that are kept in 8 bits.
        let lora =
            LoraConfig { rank: 128, alpha: 128.0, ..LoraConfig::new("all-linear".parse().expect("targets")) };
        let mut adapter = Adapter::init(model.config(), &lora, 0, Device::Cpu).expect("fits");
        assert!(adapter.tensors().any(|t| t.len() >= 4096), "nothing is kept in 8 bits");
        let options = TrainOptions { optimizer, ..TrainOptions::plain(Duration::Steps(20), 2e-3) };
        let size = MicroBatchSize::largest(&samples, 8, 512);
        let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
        let mut stepper = Stepper::new(&parameters, size, &options, 20);
        let step = |n| stepper.step(&mut parameters, &samples, &indices, n, &options).expect("finite").loss;
        (1..=20).map(step).collect()
    };
    let (whole, coded) = (run(OptimizerKind::AdamW), run(OptimizerKind::AdamW8bit));
    assert!(whole[19] < 0.8 * whole[0], "{whole:?} does not fall");
    assert_eq!(whole[0], coded[0]);
    assert_ne!(whole[19], coded[19]);
    let apart = whole.iter().zip(&coded).map(|(w, c)| (w - c).abs()).fold(0.0, f64::max);
    assert!(apart < 0.02 * whole[0], "{whole:?} against {coded:?}");
}

#[test]
fn an_evaluation_needs_no_larger_buffers_than_training() {
    let rows = |lengths: &[usize]| {
        let row = |(row, len): (usize, &usize)| {
            let supervised = (0..*len).map(|i| i > 0).collect();
            Sample { ids: vec![1; *len], supervised, row }
        };
        resume_tests::dataset(lengths.iter().enumerate().map(row).collect())
    };
    let options = TrainOptions {
        batch_size: 2,
        micro_batch_tokens: 512,
        ..TrainOptions::plain(Duration::Steps(1), 0.0)
    };
    let training = rows(&[10; 40]);
    let tokens = |held_out: &[usize]| options.micro_batch_size(&training, Some(&rows(held_out))).tokens;
    assert_eq!(options.micro_batch_size(&training, None).tokens, 20);
    assert_eq!(tokens(&[10; 30]), 20);
    // A row is computed as a whole.
    assert_eq!(tokens(&[10, 10, 25]), 25);
}

/// By hand, of one value that is 1, 2, 3, ... after the steps.
#[test]
fn averages_are_those_of_torch() {
    let averaged = |text: &str, steps: u64| {
        let Fixture { model, mut adapter } = fixture("llama");
        let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
        let averaging = text.parse().expect("an average");
        let mut average = Average::new(&parameters, averaging, steps);
        for number in 1..=steps {
            parameters.tensors_mut()[3].write(5, &[number as f32]);
            average.add(&parameters, number);
        }
        let last = parameters.tensors()[3].to_vec(6)[5];
        average.swap(&mut parameters);
        let found = parameters.tensors()[3].to_vec(6)[5];
        average.swap(&mut parameters);
        assert_eq!(parameters.tensors()[3].to_vec(6)[5], last, "swapped back");
        f64::from(found)
    };
    for (text, steps, expected) in [
        ("last:3", 5, 4.0),
        ("last:9", 4, 2.5),
        ("last:1", 6, 6.0),
        ("ema:0", 3, 3.0),
        // 1, then 0.75 a + 0.25 p.
        ("ema:0.75", 3, 0.75 * (0.75 + 0.25 * 2.0) + 0.25 * 3.0),
    ] {
        let found = averaged(text, steps);
        assert!((found - expected).abs() < 1e-6, "{text} over {steps} steps: {found}, not {expected}");
    }
}

/// Noise is in training alone, is another in every step, and is the same whenever a step is computed.
#[test]
fn noise_is_of_the_step_and_in_training_alone() {
    let Fixture { model, mut adapter } = fixture("llama");
    let samples = Draws(5).tree(6);
    let indices: Vec<usize> = (0..6).collect();
    let mut loss = |alpha: Option<f32>, number: u64, share: bool| {
        let options = TrainOptions {
            batch_size: 6,
            prefix_sharing: share,
            neftune_alpha: alpha,
            ..TrainOptions::plain(Duration::Steps(9), 0.0)
        };
        let size = MicroBatchSize::largest(&samples, 6, 512);
        let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
        let mut stepper = Stepper::new(&parameters, size, &options, 9);
        stepper.step(&mut parameters, &samples, &indices, number, &options).expect("finite").loss
    };
    let plain = loss(None, 1, true);
    let noisy = loss(Some(5.0), 1, true);
    assert_eq!(loss(Some(5.0), 1, true), noisy);
    assert_ne!(noisy, plain);
    assert_ne!(loss(Some(5.0), 2, true), noisy);
    // Every row has its own noise where nothing is shared.
    assert_ne!(loss(Some(5.0), 1, false), noisy);
    assert!((loss(Some(1e-6), 1, true) - plain).abs() < 1e-5 * plain);
}
