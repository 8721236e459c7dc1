//! Tokens a second that a model generates alone and side by side, over one adapter or each over its own, and those of a prompt.
//! The last argument is the type that the factors of adapters are held in.
//!
//! `cargo run --release -p lorafit-model --example generation_speed MODEL [THREADS [NEW_TOKENS [none|nf4|nf4dq|int8 [f32|bf16]]]]`

use std::time::Instant;

use lorafit_kernels::quant::{Quantization, four_bit::Code};
use lorafit_kernels::{Device, random};
use lorafit_model::adapter::{Adapter, FactorDtype, LoraConfig};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{BaseQuantization, Engine, EngineLimits, Model, Next, Prompts, Sampling, generate};

/// Tokens of the prompt that is timed.
const PROMPT: usize = 500;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a model");
    let threads = arguments.next().map_or(0, |threads| threads.parse().expect("a number of threads"));
    let new_tokens = arguments.next().map_or(100, |tokens| tokens.parse().expect("a number of tokens"));
    let four_bit = |double| Quantization::FourBit { code: Code::Nf4, block_len: 64, double };
    let quantization = arguments.next().and_then(|name| match name.as_str() {
        "none" => None,
        "nf4" => Some(four_bit(false)),
        "nf4dq" => Some(four_bit(true)),
        "int8" => Some(Quantization::Int8),
        other => panic!("none, nf4, nf4dq or int8, not {other}"),
    });
    let factors = match arguments.next().as_deref() {
        None | Some("f32") => FactorDtype::F32,
        Some("bf16") => FactorDtype::Bf16,
        Some(other) => panic!("f32 or bf16, not {other}"),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");

    let files = ModelFiles::open(path.as_ref()).expect("a model");
    let model = match quantization {
        None => Model::load(&files, Device::Cpu),
        Some(projections) => Model::load_quantized(
            &files,
            BaseQuantization { quantization: projections, head: false },
            Device::Cpu,
        ),
    };
    let model = model.expect("the weights of a model");
    let tokens = |text: &[Vec<u32>], new_tokens: usize| {
        let ids: Vec<&[u32]> = text.iter().map(Vec::as_slice).collect();
        let sampling = Sampling::default();
        let prompts = Prompts {
            ids: &ids,
            stop: &[],
            max_new_tokens: new_tokens,
            sampling,
            seeds: &[],
            side_by_side: 16,
        };
        let start = Instant::now();
        generate(&model, None, prompts, |_, _| true, &mut || false).expect("numbers");
        start.elapsed().as_secs_f64()
    };
    let prompt = |first: u32, len: usize| (0..len as u32).map(|i| (first + 37 * i) % 1000).collect();
    let short = |sequences: u32| (0..sequences).map(|i| prompt(i, 4)).collect::<Vec<Vec<u32>>>();
    tokens(&short(1), 8);
    let mut alone = 0.0;
    for sequences in [1, 2, 4, 8, 16] {
        // What the prompts take is taken off.
        let begun = tokens(&short(sequences), 1);
        let seconds = tokens(&short(sequences), 1 + new_tokens) - begun;
        let speed = f64::from(sequences) * new_tokens as f64 / seconds;
        if sequences == 1 {
            alone = speed;
        }
        println!("{sequences:>2} side by side: {speed:6.1} tokens/s, {:.2} times one", speed / alone);
    }
    over_adapters(&model, &short(16), new_tokens, factors);
    let long = [prompt(0, PROMPT)];
    let seconds = (0..3).map(|_| tokens(&long, 1)).fold(f64::INFINITY, f64::min);
    println!("a prompt of {PROMPT} tokens: {:.1} tokens/s", PROMPT as f64 / seconds);
}

/// Prints how long texts take side by side over some adapters, against none.
fn over_adapters(model: &Model, texts: &[Vec<u32>], new_tokens: usize, factors: FactorDtype) {
    let lora = LoraConfig::new("all-linear".parse().expect("targets"));
    let adapter = |seed| {
        let mut adapter = Adapter::init(model.config(), &lora, seed, Device::Cpu).expect("an adapter");
        // As of a trained adapter: zeros that nobody wrote take no memory, and are read from a cache.
        for (stream, factor) in (0..).zip(adapter.tensors_mut()) {
            let values: Vec<f32> = (0..factor.len() as u64)
                .map(|i| 0.02 * random::normal(random::mix(seed) ^ stream, i))
                .collect();
            factor.write(0, &values);
        }
        adapter.hold_factors(factors).expect("factors that bf16 holds");
        adapter
    };
    let adapters: Vec<Adapter> = (0..16).map(adapter).collect();
    // Seconds of the rounds in which all are continued.
    let over = |count: usize| {
        let limits = EngineLimits { prefill_tokens: usize::MAX, pieces: usize::MAX, kept_bytes: 0 };
        let mut engine: Engine<'_, &Adapter> = Engine::new(model, limits);
        for (i, text) in texts.iter().enumerate() {
            let of = i * count / 16;
            engine.begin(text.clone(), (count > 0).then(|| (1 + of as u64, &adapters[of])), new_tokens);
        }
        let mut choose = |_, logits: &mut [f32]| Next::Token(Sampling::default().choose(logits, 0));
        engine.step(&mut choose);
        let start = Instant::now();
        (0..new_tokens).for_each(|_| assert!(engine.step(&mut choose)));
        start.elapsed().as_secs_f64()
    };
    // In turn, since the speed of a machine changes.
    let (mut seconds, counts) = ([const { Vec::new() }; 4], [0, 1, 4, 16]);
    for _ in 0..5 {
        counts.iter().zip(&mut seconds).for_each(|(count, of)| of.push(over(*count)));
    }
    let [none, others @ ..] = seconds.map(|mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    });
    for (count, seconds) in counts[1..].iter().zip(others) {
        let (speed, by) = (16.0 * new_tokens as f64 / seconds, seconds / none);
        println!(
            "16 side by side over {count:>2} adapters: {speed:6.1} tokens/s, {by:.2} times as long as over none"
        );
    }
}
