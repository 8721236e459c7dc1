//! The memory plan of a GPU against what a run asks of one, on a device that records and checks every call.

use lorafit_kernels::cuda;
use lorafit_kernels::gpu::recorder::Counts;
use lorafit_kernels::gpu::{Float, Gpu};
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::{ComputeDtype, Device, Placement};
use lorafit_model::adapter::{LoraConfig, TokenIndices};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, BaseQuantization, Config, Distribution, RandomWeights, Recompute,
    Start, Trainable,
};
use lorafit_train::{BenchOptions, MicroBatchSize, OptimizerKind, PlanRequest, bench, device_process_bytes};

const SEQ: usize = 96;
const BATCH: usize = 4;

/// Planned and used bytes of the arena, and what a step asks for.
fn run(float: Float, quantization: Option<BaseQuantization>, recompute: Recompute) -> (u64, u64, Counts) {
    run_layers(4, &lora(), float, quantization, recompute)
}

fn lora() -> LoraConfig {
    LoraConfig::new("all-linear".parse().expect("targets"))
}

fn run_layers(
    layers: usize,
    lora: &LoraConfig,
    float: Float,
    quantization: Option<BaseQuantization>,
    recompute: Recompute,
) -> (u64, u64, Counts) {
    run_rows((layers, SEQ), lora, float, quantization, recompute)
}

/// Of `layers` layers.
fn config(layers: usize) -> Config {
    // With its vocabulary the head would be all of it.
    let shape = Config::named("smollm2-135m").expect("a known shape");
    Config { num_hidden_layers: layers, vocab_size: 1500, ..shape }
}

/// Of `layers` layers, and rows of `seq` tokens.
fn run_rows(
    (layers, seq): (usize, usize),
    lora: &LoraConfig,
    float: Float,
    quantization: Option<BaseQuantization>,
    recompute: Recompute,
) -> (u64, u64, Counts) {
    let config = config(layers);
    let recorder = cuda::recorder(4 << 30);
    let gpu = Gpu::over(recorder.clone(), float);
    let size = MicroBatchSize::of_equal_rows(BATCH, seq, 2 * seq);
    let request = PlanRequest {
        config: &config,
        weights: config.weight_bytes(2, quantization),
        trainable: Trainable::Adapter(lora),
        optimizer: OptimizerKind::AdamW,
        averaged: false,
        start: Start::Default,
        activation_dtype: ActivationDtype::F32,
        tokens: size.tokens,
        targets: size.targets,
        at_once: 1,
        threads: 1,
        has_tokenizer: false,
        placement: Placement::Cuda(float),
        reference: None,
    };
    let planned = request.plan(recompute).expect("a plan").total() - device_process_bytes();
    let options = BenchOptions {
        device: Device::Cuda(gpu),
        batch: BATCH,
        seq,
        steps: 2,
        weights: RandomWeights {
            distribution: Distribution::Uniform,
            format: Format::BF16,
            quantization,
            seed: 0,
        },
        compute_dtype: ComputeDtype::F32,
        activations: ActivationPolicy { recompute, dtype: ActivationDtype::F32 },
        planned_bytes: planned,
        micro_batch_tokens: 2 * seq,
        micro_batches_at_once: 1,
        lora: lora.clone(),
    };
    let mut steps = Vec::new();
    let result = bench(&config, &options, |_, _| steps.push(recorder.take_counts())).expect("it runs");
    let peak = result.peak_device_bytes.expect("a GPU") - device_process_bytes();
    assert_eq!(steps[1], steps[2], "every step asks for the same");
    (planned, peak, steps.pop().expect("three steps"))
}

fn nf4() -> BaseQuantization {
    let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    BaseQuantization { quantization, head: false }
}

/// Kernels, products, copies and clears of a whole step of two micro-batches that a layer adds: the optimizer, the gradient
/// norm and rounding the factors do not depend on the number of layers.
#[test]
fn a_layer_asks_for_few_launches() {
    let calls = |layers, quantization| {
        let (.., counts) = run_layers(layers, &lora(), Float::Bf16, quantization, Recompute::None);
        let kernels: u64 = counts.launches.values().map(|traffic| traffic.times).sum();
        kernels + counts.products.times + counts.copies.times + counts.clears.times
    };
    let of_layer = |quantization| (calls(3, quantization) - calls(2, quantization)) / 2;
    // Of the seven projections each is decoded twice.
    assert_eq!((of_layer(None), of_layer(Some(nf4()))), (57, 57 + 14));
}

/// What kernels read and write of activations, in bytes a token and layer: each operand once in either direction, two more
/// sums of norms, and no output of the gate on its way back; and gradients of outputs once for both factors that need them.
#[test]
fn a_layer_touches_its_operands_once() {
    const LONG: usize = 2048;
    // Of gradients of low-rank terms, and of the others.
    let bytes = |layers| {
        let (.., counts) = run_rows((layers, LONG), &lora(), Float::Bf16, None, Recompute::None);
        let is_multiplied = counts.launches.keys().any(|name| name.starts_with("gate_backward_product"));
        assert!(is_multiplied && !counts.launches.contains_key("gate_backward<bf16, Silu>"));
        [true, false].map(|of_terms| {
            let counted = |name: &str| name.contains("low_rank_gradients") == of_terms;
            let counted = counts.launches.iter().filter(|(name, _)| counted(name));
            counted.map(|(_, traffic)| traffic.bytes()).sum::<u64>()
        })
    };
    let [more, less] = [3, 2].map(bytes);
    let [of_terms, of_layer] = [0, 1].map(|part| (more[part] - less[part]) as f64 / (BATCH * LONG) as f64);
    let config = config(1);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let of_heads = |heads: usize| heads * config.head_dim;
    let (queries, keys) = (of_heads(config.num_attention_heads), of_heads(config.num_key_value_heads));
    let norms = 2 * (2 + 5) * hidden;
    // The keys turned; forward; the sums over heads; backward.
    let attention = 2 * keys + (3 * queries + 2 * keys) + 2 * queries + (3 * queries + 4 * keys);
    let gate = (3 + 5) * inner;
    let operands = (2 * (norms + attention + gate)) as f64;
    // Angles and statistics, and parts of the product with the gate's output.
    let share = of_layer / operands;
    println!("{share:.3} of the operands");
    // Beside the gradients of outputs parts of the sums, written and read.
    let d_outs = (2 * (queries + 2 * keys + 2 * hidden + 2 * inner)) as f64;
    let share_of_terms = of_terms / d_outs;
    println!("{share_of_terms:.3} of the gradients of outputs");
    assert!((1.0..1.5).contains(&share_of_terms), "{of_terms} bytes a token, {d_outs}: {share_of_terms:.3}");
    assert!((1.0..1.06).contains(&share), "{of_layer} bytes a token, operands {operands}: {share:.3}");
}

#[test]
fn a_run_takes_what_was_planned() {
    let nf4 = nf4();
    for float in [Float::Bf16, Float::F32] {
        for quantization in [None, Some(nf4)] {
            for recompute in [Recompute::None, Recompute::Full, Recompute::Blocks(2)] {
                let (planned, peak, _) = run(float, quantization, recompute);
                let share = peak as f64 / planned as f64;
                let what = format!("{float:?}, quantised {}, {recompute:?}", quantization.is_some());
                println!("{what}: planned {planned}, used {peak}, {share:.3}");
                // What ops need in passing is planned at its largest, wherever that is.
                assert!((0.95..=1.0).contains(&share), "{what}: planned {planned}, used {peak}");
            }
        }
    }
}

/// Outputs that the gradients of magnitudes read, norms, and where they are computed.
#[test]
fn a_run_with_magnitudes_takes_what_was_planned() {
    let dora = LoraConfig { use_dora: true, ..lora() };
    for float in [Float::Bf16, Float::F32] {
        for recompute in [Recompute::None, Recompute::Full] {
            let (planned, peak, _) = run_layers(4, &dora, float, Some(nf4()), recompute);
            let share = peak as f64 / planned as f64;
            assert!(
                (0.95..=1.0).contains(&share),
                "{float:?}, {recompute:?}: planned {planned}, used {peak}"
            );
        }
    }
}

/// Copies of embedding, head and norms, in f32, their gradients and moments.
#[test]
fn a_run_with_whole_weights_takes_what_was_planned() {
    let save_modules = ["embed_tokens", "lm_head", "norm"].map(str::to_owned).to_vec();
    let whole = LoraConfig { save_modules, ..lora() };
    for float in [Float::Bf16, Float::F32] {
        for recompute in [Recompute::None, Recompute::Full] {
            let (planned, peak, _) = run_layers(4, &whole, float, None, recompute);
            let (without, ..) = run_layers(4, &lora(), float, None, recompute);
            let share = peak as f64 / planned as f64;
            let what = format!("{float:?}, {recompute:?}: planned {planned}, used {peak}");
            assert!((0.95..=1.0).contains(&share) && planned > without + 4 * 2 * 4 * 1500 * 576, "{what}");
        }
    }
}

/// Rows of tokens, their gradients, moments and logits: of a tied head once, and never the matrix.
#[test]
fn a_run_with_rows_of_tokens_takes_what_was_planned() {
    let config = Config::named("smollm2-135m").expect("a known shape");
    let ids: Vec<u32> = (0..200).map(|i| 5 * i).collect();
    let with_rows = LoraConfig { tokens: TokenIndices::of_both_sides(&config, &ids), ..lora() };
    for float in [Float::Bf16, Float::F32] {
        for recompute in [Recompute::None, Recompute::Full] {
            let (planned, peak, _) = run_layers(4, &with_rows, float, None, recompute);
            let (without, ..) = run_layers(4, &lora(), float, None, recompute);
            let share = peak as f64 / planned as f64;
            let what = format!("{float:?}, {recompute:?}: planned {planned}, used {peak}, without {without}");
            let (rows, matrix) = (4 * 4 * 200 * 576, 4 * 1500 * 576);
            let more = planned - without;
            assert!((0.95..=1.0).contains(&share) && more > rows && more < rows + matrix, "{what}");
        }
    }
}

#[test]
fn a_run_with_factors_of_embedding_and_head_takes_what_was_planned() {
    let head = LoraConfig::new("q_proj,v_proj,lm_head,embed_tokens".parse().expect("targets"));
    let without = LoraConfig::new("q_proj,v_proj".parse().expect("targets"));
    for float in [Float::Bf16, Float::F32] {
        let (planned, peak, _) = run_layers(4, &head, float, None, Recompute::None);
        let (less, ..) = run_layers(4, &without, float, None, Recompute::None);
        let share = peak as f64 / planned as f64;
        assert!((0.95..=1.0).contains(&share) && planned > less, "{float:?}: planned {planned}, used {peak}");
    }
}

#[test]
fn a_step_waits_for_the_device_only_for_its_losses_and_its_gradient_norm() {
    let (_, _, counts) = run(Float::Bf16, None, Recompute::None);
    let micro_batches = 2;
    assert_eq!(counts.downloads, micro_batches + 1);
    // Ids, positions, frequencies, the tree, rows and targets of a micro-batch; nothing for each layer.
    assert!(counts.uploads <= 12 * micro_batches, "{} uploads", counts.uploads);
    // Forward, and the gradients of inputs: seven projections each in every block, and the head's; then the adapter's.
    let products = counts.products.times;
    assert!(products >= micro_batches * (4 * 7 * 2 + 2), "{products} products");
}
