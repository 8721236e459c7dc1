//! Training speed of a model shape with random weights: the loop's own steps, timed.

use lorafit_data::{Sample, Samples};
use lorafit_kernels::ops::matmul::cpu_fma_peak;
use lorafit_kernels::selfcheck::product_peak;
use lorafit_kernels::{ComputeDtype, Device, random};
use lorafit_model::adapter::{Adapter, LoraConfig, TargetError};
use lorafit_model::{ActivationPolicy, Config, Model, Parameters, RandomWeights};
use lorafit_remedy::Remedy;
use serde::Serialize;

use crate::memory::{peak_device_bytes, peak_rss_bytes};
use crate::middle::median;
use crate::stream::MicroBatchSize;
use crate::trainer::{Duration, Stepper, TrainError, TrainOptions};

/// What to time.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Where to compute.
    pub device: Device,
    /// Samples of a step.
    pub batch: usize,
    /// Tokens of a sample; all but the first are supervised.
    pub seq: usize,
    /// Steps to time, after one that is not.
    pub steps: usize,
    /// The weights and their storage.
    pub weights: RandomWeights,
    /// How they are multiplied.
    pub compute_dtype: ComputeDtype,
    /// What is kept for backward.
    pub activations: ActivationPolicy,
    /// What the plan says the run takes, to be told beside what it took.
    pub planned_bytes: u64,
    /// Tokens computed at once, about.
    pub micro_batch_tokens: usize,
    /// Micro-batches computed at the same time, which share these tokens.
    pub micro_batches_at_once: usize,
    /// The adapter.
    pub lora: LoraConfig,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchResult {
    /// Tokens of a step over its median time.
    pub tokens_per_s: f64,
    /// Median time of a step.
    pub seconds_per_step: f64,
    /// Useful arithmetic of a step over its median time; what is computed twice counts once.
    pub gflops: f64,
    /// The most that is reached of the same arithmetic: on the CPU multiply-adds of the same threads on operands of the
    /// compute type in registers, on a GPU a large product of matrices.
    pub peak_gflops: f64,
    /// `gflops / peak_gflops`.
    pub mfu: f64,
    /// What computes.
    pub device: String,
    /// The most resident memory the process has had.
    pub peak_rss_bytes: u64,
    /// The most memory the process has had on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// What was planned for that.
    pub planned_bytes: u64,
    /// Threads used.
    pub threads: usize,
    /// Micro-batches computed at the same time.
    pub micro_batches_at_once: usize,
    /// Trainable parameters.
    pub trainable_parameters: u64,
    /// All parameters of the base model.
    pub parameters: u64,
}

/// Trains a model of shape `config` on random tokens. `on_step(done, seconds)` is told after every step.
///
/// # Errors
/// A selection of modules that the shape does not have, or a loss that is not finite.
pub fn bench(
    config: &Config,
    options: &BenchOptions,
    mut on_step: impl FnMut(usize, f64),
) -> Result<BenchResult, BenchError> {
    let peak_before = (options.device == Device::Cpu).then(|| cpu_fma_peak(options.compute_dtype));
    let mut adapter = Adapter::init(config, &options.lora, 0, options.device)?;
    let mut model = Model::random(config, options.weights, options.device);
    model.set_compute_dtype(options.compute_dtype);
    let samples: Samples = (0..options.batch)
        .map(|row| {
            let token = |i: usize| {
                let draw = random::uniform(row as u64, i as u64);
                (draw * config.vocab_size as f32) as u32
            };
            let supervised = (0..options.seq).map(|i| i > 0).collect();
            Sample { ids: (0..options.seq).map(token).collect(), supervised, row: row + 1 }
        })
        .collect();
    let train = TrainOptions {
        batch_size: options.batch,
        micro_batch_tokens: options.micro_batch_tokens,
        micro_batches_at_once: options.micro_batches_at_once,
        activations: options.activations,
        ..TrainOptions::plain(Duration::Steps(options.steps as u64 + 1), 1e-4)
    };
    let size = MicroBatchSize::of_whole_rows(options.batch, options.seq, train.tokens_of_each());
    let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
    parameters.prepare();
    let mut stepper = Stepper::new(&parameters, size, &train, options.steps as u64 + 1);
    let indices: Vec<usize> = (0..samples.len()).collect();
    let mut seconds = Vec::new();
    for number in 1..=options.steps as u64 + 1 {
        let record = stepper.step(&mut parameters, &samples, &indices, number, &train);
        let record = record.map_err(TrainError::from)?;
        if number > 1 {
            seconds.push(record.seconds);
        }
        on_step(seconds.len(), record.seconds);
    }
    let median = median(seconds).expect("one step or more is timed");
    let peak_device_bytes = peak_device_bytes(options.device);
    // What the run has is given back before: on a GPU the ceiling takes memory of its own.
    drop((stepper, model));
    let peak = ceiling(options, peak_before);
    let flops = step_flops(config, options, adapter.parameters() as u64);
    Ok(BenchResult {
        tokens_per_s: (options.batch * options.seq) as f64 / median,
        seconds_per_step: median,
        gflops: flops / median / 1e9,
        peak_gflops: peak / 1e9,
        mfu: flops / median / peak,
        device: options.device.name(),
        peak_rss_bytes: peak_rss_bytes(),
        peak_device_bytes,
        planned_bytes: options.planned_bytes,
        threads: rayon::current_num_threads(),
        micro_batches_at_once: options.micro_batches_at_once,
        trainable_parameters: adapter.parameters() as u64,
        parameters: config.parameters(),
    })
}

/// FLOP/s that the device reaches at best: on the CPU, whose speed may change meanwhile, the better of before and after.
fn ceiling(options: &BenchOptions, before: Option<f64>) -> f64 {
    match options.device {
        Device::Cpu => cpu_fma_peak(options.compute_dtype).max(before.unwrap_or(0.0)),
        Device::Cuda(gpu) => product_peak(gpu),
    }
}

/// Why a benchmark did not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The adapter does not fit the shape.
    #[error(transparent)]
    Targets(#[from] TargetError),
    /// A step failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl BenchError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        match self {
            BenchError::Targets(e) => e.hint(),
            BenchError::Train(e) => e.hint(),
        }
    }
}

/// Useful floating-point operations of a step: 2 per weight and token forward and 2 for the input gradient (of a
/// sample's last token, which only is predicted, none), the head alike, causal attention (two products
/// forward, four backward, half of each), and the adapter (forward, input gradient, weight gradient).
fn step_flops(config: &Config, options: &BenchOptions, trainable: u64) -> f64 {
    let tokens = (options.batch * (options.seq - 1)) as f64;
    let projections = 4.0 * config.projection_parameters() as f64 * tokens;
    let head = 4.0 * (config.vocab_size * config.hidden_size) as f64 * tokens;
    let width = (config.num_attention_heads * config.head_dim * config.num_hidden_layers) as f64;
    let attention = 6.0 * options.seq as f64 * width * tokens;
    let adapter = 6.0 * trainable as f64 * tokens;
    projections + head + attention + adapter
}
