//! Whether a device trains as the processor does: whole steps of small models on both.

use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::selfcheck::{Check, Outcome};
use lorafit_kernels::{ComputeDtype, Device, random};
use lorafit_model::adapter::{Adapter, LoraConfig};
use lorafit_model::{
    ActivationPolicy, ActiveAdapter, BaseQuantization, Buffers, Config, Distribution, Gradients, Model,
    Parameters, Prompts, RandomWeights, Recompute, Sampling, Stream, generate,
};

use lorafit_data::{Judgement, Sample, Samples, SamplesBuilder, Side};

use crate::optim::{AdamW, OptimizerKind};
use crate::preference::step::{JudgedRows, Totals, weigh};
use crate::preference::{Objective, PreferenceOptions};
use crate::stream::{Cut, cut_groups};

/// What a step is trained for.
#[derive(Clone, Copy, PartialEq)]
enum Goal {
    /// Replies as they are.
    Replies,
    /// A chosen reply against a rejected one.
    Pairs,
}

/// Models that differ in what their blocks are made of, and what they are trained for.
fn models() -> [(&'static str, Config, Option<BaseQuantization>, Goal); 5] {
    let small = |config: Config| Config {
        hidden_size: 128,
        intermediate_size: 208,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        vocab_size: 515,
        ..config
    };
    let named = |name: &str| small(Config::named(name).expect("a shape that is known"));
    let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    // Logits of more than a mebibyte, which a model that saves memory would be tempted to cut into more pieces.
    let many_words = Config {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        vocab_size: 32_771,
        ..named("tinyllama-1.1b")
    };
    [
        ("Llama", named("tinyllama-1.1b"), None, Goal::Replies),
        ("Llama with a large vocabulary", many_words, None, Goal::Replies),
        ("Qwen", Config { attention_bias: true, ..named("qwen3-8b") }, None, Goal::Replies),
        (
            "Llama in nf4+dq",
            named("tinyllama-1.1b"),
            Some(BaseQuantization { quantization: nf4, head: false }),
            Goal::Replies,
        ),
        ("Llama on pairs (DPO)", named("tinyllama-1.1b"), None, Goal::Pairs),
    ]
}

/// What a step gives.
#[derive(PartialEq)]
struct StepResult {
    loss: f64,
    gradients: Vec<f32>,
    /// What was trained, after the step.
    parameters: Vec<f32>,
    /// A text that is continued.
    answer: Vec<u32>,
}

/// Two pairs of a stream's ids, whose prompts are shared.
fn pairs(ids: &[u32]) -> Samples {
    let reply = |from: usize, len: usize, row| {
        let (prompt, reply) = (&ids[..19], &ids[from..from + len]);
        let supervised = [vec![false; 19], vec![true; len]].concat();
        Sample { ids: [prompt, reply].concat(), supervised, row }
    };
    let judged = |side| Some(Judgement { side, weight: 1.0, margin: 0.0 });
    let mut built = SamplesBuilder::default();
    for (row, (from, len)) in [(19, 6), (31, 4)].into_iter().enumerate() {
        built.push(&reply(from, len, row + 1), judged(Side::Chosen));
        built.push(&reply(from + len, len + 3, row + 1), judged(Side::Rejected));
    }
    built.finish()
}

/// Adds up the gradient of DPO over pairs; their loss.
fn preference_step(
    model: &Model,
    active: ActiveAdapter<'_>,
    samples: &Samples,
    how: Cut,
    buffers: &mut Buffers,
    gradients: &mut Gradients,
) -> f64 {
    let rows = JudgedRows { groups: samples.groups(), reference: vec![-30.0; samples.len()] };
    let dpo = PreferenceOptions::of(Objective::named("dpo").expect("an objective"));
    let indices: Vec<usize> = (0..rows.groups.len()).collect();
    let totals = Totals::of(samples, &rows, &indices, 0.0, &dpo);
    let mut loss = 0.0;
    for micro in cut_groups(samples, &rows.groups, &indices, how, |_| false) {
        let of_micro = |losses: &[f32]| {
            let weighed = weigh(&micro, losses, samples, &rows.reference, &totals, &dpo);
            loss += weighed.loss;
            weighed.weights
        };
        model.loss_and_gradient_weighed(active, micro.stream(), of_micro, buffers, gradients);
    }
    loss
}

/// A step of AdamW over a stream with a branch, on `device`.
fn step(
    config: &Config,
    quantization: Option<BaseQuantization>,
    goal: Goal,
    device: Device,
    recompute: Recompute,
) -> StepResult {
    let std = 0.08;
    let weights = RandomWeights {
        distribution: Distribution::Normal { std },
        format: Format::BF16,
        quantization,
        seed: 3,
    };
    let mut model = Model::random(config, weights, device);
    if device.placement().activation_float() == Float::Bf16 {
        model.set_compute_dtype(ComputeDtype::Bf16);
    }
    let lora = LoraConfig::new("all-linear".parse().expect("targets"));
    let mut adapter = Adapter::init(config, &lora, 1, device).expect("every model has these modules");
    for (seed, tensor) in (10..).zip(adapter.tensors_mut()) {
        let values: Vec<f32> = (0..tensor.len() as u64).map(|i| 0.1 * random::normal(seed, i)).collect();
        tensor.write(0, &values);
    }

    let segment = |start, len, parent| Segment { start, len, parent };
    let list =
        vec![segment(0, 19, None), segment(19, 6, Some(0)), segment(25, 1, Some(0)), segment(26, 70, None)];
    let positions: Vec<u32> = (0..19).chain(19..25).chain(19..20).chain(0..70).collect();
    let tokens = positions.len();
    let segments = Segments::new(list, tokens).expect("a stream");
    let id = |i: usize| (random::uniform(5, i as u64) * config.vocab_size as f32) as u32;
    let ids: Vec<u32> = (0..tokens).map(id).collect();
    let target = |row: usize| Target { row: row as u32, id: id(row + 100), weight: 1.0 };
    let targets: Vec<Target> = (5..tokens).map(target).collect();
    let stream =
        Stream { ids: &ids, positions: &positions, segments: &segments, targets: &targets, below: 0 };

    let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
    let mut gradients = parameters.zero_gradients();
    let activations = ActivationPolicy { recompute, ..ActivationPolicy::default() };
    let mut buffers =
        Buffers::for_training(&model, parameters.adapter(), &gradients, tokens, targets.len(), activations);
    let active = parameters.adapter().into();
    let loss = match goal {
        Goal::Replies => {
            let scale = 1.0 / targets.len() as f32;
            let losses = model.loss_and_gradient(active, stream, scale, &mut buffers, &mut gradients);
            losses.total() * f64::from(scale)
        }
        Goal::Pairs => {
            let tokens = Cut::of(config, tokens, true);
            preference_step(&model, active, &pairs(&ids), tokens, &mut buffers, &mut gradients)
        }
    };
    let mut optimizer = AdamW::new(&parameters, OptimizerKind::AdamW, 0.01, 1.0);
    optimizer.step(&mut parameters, &gradients, 1e-3, 1.0);
    let values = |tensors: Vec<&lorafit_kernels::Tensor>| {
        tensors.into_iter().flat_map(|tensor| tensor.to_vec(tensor.len())).collect()
    };
    let trained = values(parameters.tensors());
    let prompt = &ids[..19];
    let sampling = Sampling::default();
    let request =
        Prompts { ids: &[prompt], stop: &[], max_new_tokens: 8, sampling, seeds: &[], side_by_side: 1 };
    let answer = generate(&model, Some(&adapter), request, |_, _| true, &mut || false);
    // No answer is none of the processor's.
    let answer = answer.unwrap_or_default();
    StepResult {
        loss,
        gradients: values(gradients.tensors().collect()),
        parameters: trained,
        answer: answer.concat(),
    }
}

/// The norm of the difference relative to the norm.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
    (difference / norm(&mut expected.iter().map(|e| f64::from(*e)))) as f32
}

/// Whole steps, on devices with activations in `float`.
pub fn step_checks(float: Float) -> Vec<Check> {
    let check = |(name, config, quantization, goal): (&str, Config, Option<BaseQuantization>, Goal)| {
        let name = format!("step of {name} ({})", float.name());
        Check::new(name.clone(), move |device| outcomes(&name, &config, quantization, goal, device, float))
    };
    models().into_iter().map(check).collect()
}

/// What is found of a model's step on `device`.
fn outcomes(
    name: &str,
    config: &Config,
    quantization: Option<BaseQuantization>,
    goal: Goal,
    device: Device,
    float: Float,
) -> Vec<Outcome> {
    // In f32 sums differ in their order. In bf16 every activation is rounded to 2^-9, some dozens one after the other.
    let (of_loss, of_gradients) = match float {
        Float::F32 => (1e-5, 1e-4),
        Float::Bf16 => (1e-2, 5e-2),
    };
    let run = |device, recompute| step(config, quantization, goal, device, recompute);
    let expected = run(Device::Cpu, Recompute::None);
    let (found, again) = (run(device, Recompute::None), run(device, Recompute::Full));
    let repeats = found == again;
    let relative = ((found.loss - expected.loss).abs() / expected.loss) as f32;
    let tell = |what: &str, error: f32, tolerance: f32| {
        let error = if error.is_nan() { f32::INFINITY } else { error };
        Outcome { name: format!("{name}, {what}"), error, tolerance, repeats, failure: None }
    };
    let mut outcomes = vec![
        tell("loss of a step", relative, of_loss),
        tell("gradients", distance(&found.gradients, &expected.gradients), of_gradients),
        tell("adapter after the step", distance(&found.parameters, &expected.parameters), of_gradients),
    ];
    if float == Float::F32 {
        let same = if found.answer == expected.answer { 0.0 } else { f32::INFINITY };
        outcomes.push(tell("tokens of an answer", same, 0.0));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use lorafit_kernels::cuda;
    use lorafit_kernels::gpu::Gpu;

    use super::*;

    #[test]
    fn the_processor_agrees_with_itself() {
        let checks = step_checks(Float::F32);
        let outcomes: Vec<_> = checks.iter().flat_map(|check| check.run(Device::Cpu).outcomes).collect();
        assert!(outcomes.iter().all(|outcome| outcome.passed() && outcome.error == 0.0), "{outcomes:?}");
        assert_eq!(outcomes.len(), 20);
        let [(_, config, quantization, goal), ..] = models();
        assert_eq!(step(&config, quantization, goal, Device::Cpu, Recompute::None).answer.len(), 8);
    }

    /// Of a device that computes nothing: what whole steps and generation ask of it keeps its rules, and it is found out.
    #[test]
    fn every_call_of_a_step_keeps_the_rules_of_a_device() {
        for float in [Float::F32, Float::Bf16] {
            let gpu = Gpu::over(cuda::recorder(1 << 30), float);
            let checks = step_checks(float);
            let outcomes: Vec<_> =
                checks.iter().flat_map(|check| check.run(Device::Cuda(gpu)).outcomes).collect();
            assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:?}");
            let wrong = outcomes.iter().filter(|outcome| !outcome.passed()).count();
            assert!(wrong >= 8, "{wrong} outcomes are seen to be wrong");
            assert_eq!(gpu.bytes_in_use(), 0, "everything is given back");
        }
    }
}
