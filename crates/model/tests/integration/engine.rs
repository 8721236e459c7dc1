//! Sequences that come and go are continued as each is alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use lorafit_kernels::random::{mix, uniform};
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::{self, Adapter, FactorDtype, LoraConfig};
use lorafit_model::weights::{SaveDtype, TensorData, write_tensors};
use lorafit_model::{
    Asked, Buffers, Engine, EngineLimits, KvCache, Model, Next, Prompts, Sampling, SequenceId, generate,
};

use crate::common::{Case, Packed, TOLERANCE, dora_fixture, fixture, saved_base, saved_fixture};

/// Each prompt as a whole, and nothing of another's.
const APART: EngineLimits = EngineLimits { prefill_tokens: usize::MAX, pieces: 1, kept_bytes: 0 };

/// A request: its prompt, which adapter, how many tokens, and the round before which it comes.
struct Request {
    prompt: Vec<u32>,
    adapter: Option<usize>,
    tokens: usize,
    comes: usize,
}

/// What a sequence gave: its tokens and the logits that each was taken from.
#[derive(Debug, Default, PartialEq)]
struct Given {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

/// Serves requests as they come.
fn serve(model: &Model, adapters: &[Arc<Adapter>], limits: EngineLimits, requests: &[Request]) -> Vec<Given> {
    let mut engine: Engine<'_, Arc<Adapter>> = Engine::new(model, limits);
    let mut given: Vec<Given> = requests.iter().map(|_| Given::default()).collect();
    let mut running: BTreeMap<SequenceId, usize> = BTreeMap::new();
    let mut round = 0;
    loop {
        for (i, request) in requests.iter().enumerate().filter(|(_, request)| request.comes == round) {
            let adapter = request.adapter.map(|at| (at as u64 + 1, Arc::clone(&adapters[at])));
            running.insert(engine.begin(request.prompt.clone(), adapter, 0), i);
        }
        let any = engine.step(&mut |Asked { id, .. }, logits| {
            let i = running[&id];
            let token = Sampling::default().choose(logits, 0);
            given[i].tokens.push(token);
            given[i].logits.push(logits.to_vec());
            if given[i].tokens.len() == requests[i].tokens { Next::End } else { Next::Token(token) }
        });
        round += 1;
        if !any && requests.iter().all(|request| request.comes < round) {
            return given;
        }
    }
}

/// A model with adapters of several ranks, and some that change more than projections: all that a folder of fixtures has for it.
fn of_many_adapters() -> (Model, Vec<Arc<Adapter>>) {
    let Case { model, adapter, .. } = Case::open("llama");
    let mut adapters = vec![adapter];
    for rank in [1, 3, 8, 16] {
        let lora = LoraConfig { rank, ..LoraConfig::new("all-linear".parse().expect("targets")) };
        let mut adapter = Adapter::init(model.config(), &lora, rank as u64, Device::Cpu).expect("an adapter");
        // B begins with zeros.
        for (i, tensor) in adapter.tensors_mut().enumerate() {
            let values = (0..tensor.len()).map(|j| uniform(mix(rank as u64), (i * 10_000 + j) as u64) - 0.5);
            tensor.write(0, &values.collect::<Vec<f32>>());
        }
        adapters.push(adapter);
    }
    let saved = ["llama_all", "llama_head", "head_factors", "embedding_factors", "tokens_embedding"];
    let saved = saved.into_iter().filter(|name| saved_base(name) == fixture("llama")).map(saved_fixture);
    for dir in saved.chain([dora_fixture("llama")]) {
        let mut other = adapter::load(&dir.join("adapter"), model.config(), Device::Cpu).expect("an adapter");
        model.prepare(&mut other);
        adapters.push(other);
    }
    assert!(adapters.len() > 7, "some that change more than projections");
    (model, adapters.into_iter().map(Arc::new).collect())
}

/// Requests of all adapters and the base that come in any order, some with beginnings of others.
fn requests(count: u64, adapters: usize, vocab: usize) -> Vec<Request> {
    let draw = |of: u64, below: usize| (uniform(mix(of), 7) * below as f32) as usize;
    (0..count)
        .map(|i| {
            let (begins, len) = (draw(10 * i, 4) as u64, 1 + draw(10 * i + 1, 40));
            let prompt =
                (0..len as u64).map(|at| draw(1000 + begins * 100 + at, vocab.min(50)) as u32).collect();
            let adapter = draw(10 * i + 2, adapters + 1).checked_sub(1);
            Request { prompt, adapter, tokens: 1 + draw(10 * i + 3, 12), comes: draw(10 * i + 4, 30) }
        })
        .collect()
}

#[test]
fn what_a_sequence_gives_has_the_same_bits_whatever_is_beside_it() {
    let (model, adapters) = of_many_adapters();
    let requests = requests(60, adapters.len(), model.config().vocab_size);
    let together = serve(&model, &adapters, APART, &requests);
    for (request, together) in requests.iter().zip(&together) {
        let Request { prompt, adapter, tokens, .. } = request;
        let alone = [Request { prompt: prompt.clone(), adapter: *adapter, tokens: *tokens, comes: 0 }];
        assert!(serve(&model, &adapters, APART, &alone)[0] == *together, "adapter {adapter:?}");
        let adapter = adapter.map(|at| &*adapters[at]);
        let ids = [&prompt[..]];
        let (stop, sampling) = (&[][..], Sampling::default());
        let prompts =
            Prompts { ids: &ids, stop, max_new_tokens: *tokens, sampling, seeds: &[], side_by_side: 1 };
        let found = generate(&model, adapter, prompts, |_, _| true, &mut || false).expect("numbers");
        assert_eq!(found[0], together.tokens);
    }
}

/// The adapter as a file has it whose factors have these types, the first `A` another.
fn stored_in(model: &Model, adapter: &Adapter, first: SaveDtype, others: SaveDtype) -> Adapter {
    let dir = tempfile::tempdir().expect("a folder");
    let mut sources = adapter::sources(adapter);
    for (at, source) in sources.iter_mut().enumerate() {
        let data = std::mem::replace(&mut source.data, TensorData::f32(|_, _| {}));
        let TensorData::Floats(_, values) = data else { panic!("factors are numbers") };
        source.data = TensorData::Floats(if at == 0 { first } else { others }, values);
    }
    let mut file = std::fs::File::create(dir.path().join(adapter::WEIGHTS_FILE)).expect("a file");
    write_tensors(&mut file, sources).expect("written");
    std::fs::write(dir.path().join(adapter::CONFIG_FILE), adapter::config_file(adapter, "m"))
        .expect("written");
    let mut found = adapter::load(dir.path(), model.config(), Device::Cpu).expect("an adapter");
    model.prepare(&mut found);
    found
}

#[test]
fn factors_that_a_file_has_in_16_bits_are_held_so_and_no_bit_of_an_answer_changes() {
    let (model, adapters) = of_many_adapters();
    let requests = requests(40, adapters.len(), model.config().vocab_size);
    for dtype in [SaveDtype::Bf16, SaveDtype::F16] {
        let held = |held: FactorDtype| -> Vec<Arc<Adapter>> {
            let of = |adapter: &Arc<Adapter>| {
                let mut adapter = stored_in(&model, adapter, dtype, dtype);
                adapter.hold_factors(held).expect("small factors");
                assert_eq!(adapter.factor_dtype(), held);
                Arc::new(adapter)
            };
            adapters.iter().map(of).collect()
        };
        let (in_f32, as_stored) = (held(FactorDtype::F32), held(FactorDtype::AsStored));
        // The first five are factors of blocks alone.
        for (in_f32, as_stored) in in_f32.iter().zip(&as_stored).take(5) {
            assert_eq!(in_f32.held_bytes(), 4 * in_f32.parameters() as u64);
            assert_eq!(as_stored.held_bytes(), 2 * in_f32.parameters() as u64);
            let values = |adapter: &Adapter| adapter.factor_values().map(|(_, of)| of).collect::<Vec<_>>();
            assert_eq!(values(in_f32), values(as_stored));
        }
        let limits = EngineLimits { prefill_tokens: 7, pieces: 2, kept_bytes: 0 };
        for limits in [APART, limits] {
            let found = serve(&model, &as_stored, limits, &requests);
            assert!(found == serve(&model, &in_f32, limits, &requests), "{dtype:?}");
        }
    }
}

#[test]
fn factors_are_rounded_where_that_is_asked_and_stay_f32_where_a_file_has_several_types() {
    let (model, adapters) = of_many_adapters();
    for adapter in &adapters[..5] {
        let mut several = stored_in(&model, adapter, SaveDtype::F16, SaveDtype::Bf16);
        several.hold_factors(FactorDtype::AsStored).expect("small factors");
        assert_eq!(several.held_bytes(), 4 * several.parameters() as u64);

        let mut rounded = stored_in(&model, adapter, SaveDtype::F32, SaveDtype::F32);
        rounded.hold_factors(FactorDtype::AsStored).expect("small factors");
        assert_eq!(rounded.held_bytes(), 4 * rounded.parameters() as u64);
        rounded.hold_factors(FactorDtype::Bf16).expect("small factors");
        assert_eq!(rounded.held_bytes(), 2 * rounded.parameters() as u64);
        // Those that a file in bf16 has.
        let file = stored_in(&model, adapter, SaveDtype::Bf16, SaveDtype::Bf16);
        assert!(rounded.factor_values().eq(file.factor_values()));
    }
    let mut large = stored_in(&model, &adapters[0], SaveDtype::F32, SaveDtype::F32);
    large.tensors_mut().next().expect("factors").write(0, &[f32::MAX]);
    assert_eq!(large.hold_factors(FactorDtype::Bf16).unwrap_err().value, f32::MAX);
}

/// Pieces of prompts and beginnings of other sequences add up in another order, and to the same.
#[test]
fn pieces_of_prompts_and_kept_beginnings_change_only_the_last_bits() {
    let (model, adapters) = of_many_adapters();
    let requests = requests(60, adapters.len(), model.config().vocab_size);
    let whole = serve(&model, &adapters, APART, &requests);
    for (prefill_tokens, kept_bytes) in [(3, 0), (usize::MAX, 1 << 30), (5, 1 << 30), (5, 40_000)] {
        let limits = EngineLimits { prefill_tokens, pieces: 2, kept_bytes };
        let found = serve(&model, &adapters, limits, &requests);
        for (found, whole) in found.iter().zip(&whole) {
            assert_eq!(found.tokens, whole.tokens, "{limits:?}");
            for (found, whole) in found.logits.iter().zip(&whole.logits) {
                let largest = whole.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let off = found.iter().zip(whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= TOLERANCE * largest, "{off} of {largest}, {limits:?}");
            }
        }
    }
}

#[test]
fn a_beginning_is_taken_from_a_sequence_with_the_same_adapter_alone() {
    let (model, adapters) = of_many_adapters();
    let limits = EngineLimits { prefill_tokens: usize::MAX, pieces: 1, kept_bytes: 1 << 30 };
    let mut engine: Engine<'_, Arc<Adapter>> = Engine::new(&model, limits);
    let text: Vec<u32> = (1..21).collect();
    // Runs one prompt to its end, after two tokens.
    let run = |engine: &mut Engine<'_, Arc<Adapter>>, prompt: &[u32], key: Option<u64>| {
        let adapter = key.map(|key| (key, Arc::clone(&adapters[key as usize - 1])));
        let id = engine.begin(prompt.to_vec(), adapter, 0);
        let (mut left, mut reused) = (2, 0);
        while left > 0 {
            engine.step(&mut |asked, _| {
                (left, reused) = (left - 1, asked.reused);
                Next::Token(9)
            });
        }
        engine.end(id);
        reused
    };
    assert_eq!(run(&mut engine, &text, None), 0);
    assert_eq!(run(&mut engine, &text, None), 19, "the last token is computed");
    assert_eq!(run(&mut engine, &text[..12], None), 11);
    let longer: Vec<u32> = text.iter().copied().chain([9, 9, 9]).collect();
    assert_eq!(run(&mut engine, &longer, None), 21, "and what was answered");
    assert_eq!(run(&mut engine, &text, Some(1)), 0, "another adapter");
    assert_eq!(run(&mut engine, &text, Some(2)), 0, "another adapter");
    assert_eq!(run(&mut engine, &text, Some(1)), 19);
    let other: Vec<u32> = text[..7].iter().copied().chain([30, 31]).collect();
    assert_eq!(run(&mut engine, &other, Some(1)), 7);
    let (running, kept) = engine.cache_bytes();
    assert!(running == 0 && kept > 0, "{running}, {kept}");
    // Room for tokens that did not come is given back.
    let mut roomy: Engine<'_, Arc<Adapter>> = Engine::new(&model, limits);
    let id = roomy.begin(text.clone(), None, 5000);
    roomy.step(&mut |_, _| Next::Token(9));
    assert!(roomy.cache_bytes().0 >= KvCache::bytes(model.config(), Placement::Cpu, 5020));
    roomy.end(id);
    assert_eq!(roomy.cache_bytes(), (0, KvCache::bytes(model.config(), Placement::Cpu, 20)));
    engine.evict(0);
    assert_eq!(engine.cache_bytes(), (0, 0));
    assert_eq!(run(&mut engine, &text, Some(1)), 0, "nothing is kept any more");
}

#[test]
fn a_prompt_that_was_just_computed_gives_the_same_bits_again() {
    let (model, adapters) = of_many_adapters();
    let request = |comes| Request { prompt: (3..30).collect(), adapter: Some(2), tokens: 6, comes };
    let given = serve(&model, &adapters, APART, &[request(0), request(0), request(2), request(40)]);
    assert!(given.iter().all(|other| *other == given[0]));
}

/// Where a text becomes so long that it is rotated otherwise, and where it is from its beginning.
#[test]
fn rotations_that_depend_on_the_length_are_those_of_the_whole_text() {
    for name in ["phi3_longrope", "llama_dynamic"] {
        let Case { model, adapter, .. } = Case::open(name);
        let adapters = [Arc::new(adapter)];
        // Both begin to rotate otherwise after 20.
        let lens = [5, 17, 20, 21, 60];
        let requests: Vec<Request> = lens
            .iter()
            .map(|len| Request {
                prompt: (0..*len as u32).map(|i| i * 7 % 50).collect(),
                adapter: Some(0),
                tokens: 8,
                comes: 0,
            })
            .collect();
        let whole = serve(&model, &adapters, APART, &requests);
        for kept_bytes in [0, 1 << 30] {
            let limits = EngineLimits { prefill_tokens: 5, pieces: 1, kept_bytes };
            let found = serve(&model, &adapters, limits, &requests);
            for ((found, whole), len) in found.iter().zip(&whole).zip(lens) {
                assert_eq!(found.tokens, whole.tokens, "{name}, {len} tokens, {kept_bytes} bytes kept");
            }
        }
    }
}

/// Against the logits of all rows, with an adapter that changes the last norm, too.
#[test]
fn log_probabilities_are_those_of_the_logits_and_hidden_states_depend_only_on_what_came_before() {
    let (model, adapters) = of_many_adapters();
    let ids: Vec<u32> = (0..300).map(|i| i * 11 % 50).collect();
    for adapter in adapters.iter().map(|adapter| Some(&**adapter)).chain([None]) {
        let (config, packed) = (model.config(), Packed::single(ids.clone()));
        let mut buffers = Buffers::for_evaluation(config, adapter, Device::Cpu, ids.len());
        let logits = model.all_logits(adapter, packed.stream(), &mut buffers);
        let found = model.log_probabilities(adapter, &ids);
        assert_eq!(found.len(), ids.len() - 1);
        for ((row, next), found) in logits.chunks(config.vocab_size).zip(&ids[1..]).zip(&found) {
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let expected = f64::from(row[*next as usize]) - sum.ln();
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found}, {expected}");
        }
        let states = model.hidden_states(adapter, &ids);
        assert_eq!(states.len(), ids.len() * config.hidden_size);
        let beginning = model.hidden_states(adapter, &ids[..40]);
        let largest = states.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let off = beginning.iter().zip(&states).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.0 && off <= TOLERANCE * largest, "{off} of {largest}");
    }
}
