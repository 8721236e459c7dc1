//! What a layer asks of a GPU, counted on a device that computes nothing: launches, and the memory that they touch.
//!
//!     cargo run -p lorafit-train --example gpu_counts -- [SHAPE [BATCH SEQ RANK [nf4]]]
//!
//! A layer is the difference between two layers and one. Every region of a call counts once, however often a kernel reads it.

use std::collections::BTreeMap;
use std::error::Error;

use lorafit_kernels::gpu::recorder::{Counts, Traffic};
use lorafit_kernels::gpu::{Float, Gpu};
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::{ComputeDtype, Device, Placement, cuda};
use lorafit_model::adapter::{Adapter, LoraConfig};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, BaseQuantization, Buffers, Config, Distribution, Gradients, Model,
    RandomWeights, Recompute, Start, Stream, Trainable,
};
use lorafit_train::{BenchOptions, MicroBatchSize, OptimizerKind, PlanRequest, bench, device_process_bytes};

/// What is counted.
struct Request {
    config: Config,
    batch: usize,
    seq: usize,
    lora: LoraConfig,
    quantization: Option<BaseQuantization>,
}

const ACTIVATIONS: ActivationPolicy =
    ActivationPolicy { recompute: Recompute::None, dtype: ActivationDtype::F32 };

/// Calls by what they are, and the memory that they touch.
type Calls = BTreeMap<String, Traffic>;

/// The name under which products are counted.
const PRODUCT: &str = "product";

/// Whether something is a product: cuBLASLt's, or a kernel that stands for two of them.
fn is_product(name: &str) -> bool {
    name == PRODUCT || name.contains("low_rank_gradients")
}

fn calls(counts: Counts) -> Calls {
    let Counts { launches, products, copies, clears, .. } = counts;
    let others = [(PRODUCT, products), ("copy", copies), ("clear", clears)];
    launches.into_iter().chain(others.map(|(name, traffic)| (name.to_owned(), traffic))).collect()
}

/// What `more` has beside `less`.
fn difference(more: &Calls, less: &Calls) -> Calls {
    let beside = |(name, traffic): (&String, &Traffic)| {
        let other = less.get(name).copied().unwrap_or_default();
        let traffic = Traffic {
            times: traffic.times - other.times,
            // Trees of segments may differ by a few bytes.
            read_bytes: traffic.read_bytes.saturating_sub(other.read_bytes),
            written_bytes: traffic.written_bytes.saturating_sub(other.written_bytes),
        };
        (traffic.times > 0).then(|| (name.clone(), traffic))
    };
    more.iter().filter_map(beside).collect()
}

impl Request {
    fn weights(&self) -> RandomWeights {
        let (distribution, quantization) = (Distribution::Uniform, self.quantization);
        RandomWeights { distribution, format: Format::BF16, quantization, seed: 0 }
    }

    /// Forward; forward and backward; and a whole optimizer step, of a model of `layers` layers.
    fn count(&self, layers: usize) -> Result<[Calls; 3], Box<dyn Error>> {
        // What is counted does not depend on the vocabulary.
        let config = Config { num_hidden_layers: layers, vocab_size: 1024, ..self.config.clone() };
        let (recorder, tokens) = (cuda::recorder(1 << 40), self.batch * self.seq);
        let device = Device::Cuda(Gpu::over(recorder.clone(), Float::Bf16));
        let model = Model::random(&config, self.weights(), device);
        let adapter = Adapter::init(&config, &self.lora, 0, device)?;
        let mut gradients = Gradients::new(&model, Some(&adapter));
        let mut buffers = Buffers::for_training(&model, Some(&adapter), &gradients, tokens, 8, ACTIVATIONS);
        let rows = (0..self.batch).map(|row| Segment { start: row * self.seq, len: self.seq, parent: None });
        let segments = Segments::new(rows.collect(), tokens)?;
        let (ids, targets) = (vec![1; tokens], [Target { row: 0, id: 1, weight: 1.0 }]);
        let positions: Vec<u32> = (0..tokens).map(|token| (token % self.seq) as u32).collect();
        let stream =
            Stream { ids: &ids, positions: &positions, segments: &segments, targets: &targets, below: 0 };
        // What is made once is made here.
        model.loss_and_gradient(Some(&adapter).into(), stream, 1.0, &mut buffers, &mut gradients);
        recorder.take_counts();
        model.loss(Some(&adapter), stream, &mut buffers);
        let forward = calls(recorder.take_counts());
        model.loss_and_gradient(Some(&adapter).into(), stream, 1.0, &mut buffers, &mut gradients);
        let both = calls(recorder.take_counts());

        let options = BenchOptions {
            device,
            batch: self.batch,
            // The last token of a row is only predicted.
            seq: self.seq + 1,
            steps: 1,
            weights: self.weights(),
            compute_dtype: ComputeDtype::F32,
            activations: ACTIVATIONS,
            planned_bytes: 0,
            micro_batch_tokens: tokens,
            micro_batches_at_once: 1,
            lora: self.lora.clone(),
        };
        let mut steps = Vec::new();
        bench(&config, &options, |_, _| steps.push(calls(recorder.take_counts())))?;
        let step = steps.pop().ok_or("no step was taken")?;
        Ok([forward, both, step])
    }

    /// Bytes of the arena that a run of all layers is planned with.
    fn planned(&self) -> Result<u64, Box<dyn Error>> {
        let size = MicroBatchSize::of_equal_rows(self.batch, self.seq, self.batch * self.seq);
        let request = PlanRequest {
            config: &self.config,
            weights: self.config.weight_bytes(2, self.quantization),
            trainable: Trainable::Adapter(&self.lora),
            optimizer: OptimizerKind::AdamW,
            start: Start::Default,
            averaged: false,
            activation_dtype: ACTIVATIONS.dtype,
            tokens: size.tokens,
            targets: size.targets,
            at_once: 1,
            threads: 1,
            has_tokenizer: false,
            placement: Placement::Cuda(Float::Bf16),
            reference: None,
        };
        Ok(request.plan(ACTIVATIONS.recompute)?.total() - device_process_bytes())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |at: usize, default: &str| arguments.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let name = argument(0, "llama-2-7b");
    let (batch, seq, rank): (usize, usize, usize) =
        (argument(1, "4").parse()?, argument(2, "2048").parse()?, argument(3, "16").parse()?);
    let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let quantization =
        (argument(4, "") == "nf4").then_some(BaseQuantization { quantization: nf4, head: false });
    let config = Config::named(&name).ok_or("no shape has this name")?;
    let lora = LoraConfig { rank, ..LoraConfig::new("all-linear".parse()?) };
    let request = Request { config, batch, seq, lora, quantization };

    let [one, two] = [request.count(1)?, request.count(2)?];
    let [forward, both, step] = [0, 1, 2].map(|part| difference(&two[part], &one[part]));
    let parts = [difference(&both, &forward), difference(&step, &both)];
    let parts: Vec<Calls> = std::iter::once(forward).chain(parts).collect();
    let tokens = (batch * seq) as f64;
    let kib = |traffic: Traffic| traffic.bytes() as f64 / tokens / 1024.0;
    let stored = if quantization.is_some() { "NF4, scales quantised" } else { "bf16" };
    println!("{name}, {batch} x {seq} tokens, rank {rank}, {stored}: a layer, calls and KiB a token\n");
    println!("{:<42} {:>14} {:>14} {:>14}", "", "forward", "backward", "step");
    let cell = |traffic: Traffic| match traffic.times {
        0 => String::new(),
        times => format!("{times:>3} {:>10.2}", kib(traffic)),
    };
    let line = |name: &str, of: Vec<Traffic>| {
        let cells: Vec<String> = of.into_iter().map(|traffic| format!("{:>14}", cell(traffic))).collect();
        println!("{name:<42} {}", cells.join(" "));
    };
    let names: std::collections::BTreeSet<&String> = parts.iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        line(name, parts.iter().map(|part| part.get(name).copied().unwrap_or_default()).collect());
    }
    let sum = |part: &Calls, counts: &dyn Fn(&str) -> bool| {
        part.iter().filter(|(name, _)| counts(name)).fold(Traffic::default(), |sum, (_, more)| Traffic {
            times: sum.times + more.times,
            read_bytes: sum.read_bytes + more.read_bytes,
            written_bytes: sum.written_bytes + more.written_bytes,
        })
    };
    let sums = |counts: &dyn Fn(&str) -> bool| parts.iter().map(|part| sum(part, counts)).collect();
    line("all", sums(&|_| true));
    line("all but products", sums(&|name| !is_product(name)));
    line("all but products and attention", sums(&|name| !is_product(name) && !name.starts_with("attention")));
    println!(
        "\nplanned for all {} layers: {} bytes of the arena",
        request.config.num_hidden_layers,
        request.planned()?
    );
    Ok(())
}
