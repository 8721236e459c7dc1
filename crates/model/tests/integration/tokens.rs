//! Rows of tokens (`trainable_token_indices`) where they differ from whole weights; that both equal PEFT is in `saved.rs`.

use std::path::Path;

use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_kernels::{ComputeDtype, Device};
use lorafit_model::adapter::convert::{MlxAdapter, gguf_lora_bytes};
use lorafit_model::adapter::{self, Adapter, AdapterFile, LoraConfig, TokenIndices};
use lorafit_model::merge::{Combination, CombineError, MajoritySign, Method, Weighted, combine};
use lorafit_model::weights::{MOST_ADDED_ROWS, ModelFiles};
use lorafit_model::{Buffers, Gradients, Model};
use safetensors::tensor::Dtype;

use crate::common::{Case, edit_safetensors, fixture, saved_base, saved_files, saved_fixture};

/// A base, and a fresh adapter with rows of the tokens `ids` on both sides.
fn fresh(base: &str, rows: usize, tokens: impl FnOnce(TokenIndices) -> TokenIndices, ids: &[u32]) -> Case {
    let mut files = ModelFiles::open(&fixture(base)).expect("the fixture");
    files.add_rows(rows).expect("a few rows");
    let model = Model::load(&files, Device::Cpu).expect("loads");
    let tokens = tokens(TokenIndices::of_both_sides(model.config(), ids));
    let lora = LoraConfig { rank: 2, tokens, ..LoraConfig::new("q_proj".parse().expect("targets")) };
    let mut adapter = Adapter::init(model.config(), &lora, 1, Device::Cpu).expect("fresh");
    model.prepare(&mut adapter);
    let mut case = Case::open(base);
    (case.model, case.adapter) = (model, adapter);
    case
}

/// The logits are those of the matrix: only the order of sums in the columns of the tokens may be another.
#[test]
fn rows_begin_as_the_model_has_them() {
    for base in ["llama", "llama_tied", "gemma2"] {
        for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::Int8] {
            let mut case = fresh(base, 0, |tokens| tokens, &[9, 3, 4]);
            case.model.set_compute_dtype(dtype);
            case.model.prepare(&mut case.adapter);
            let (with, without) =
                (case.logits(&case.model, Some(&case.adapter), 0), case.logits(&case.model, None, 0));
            let largest = without.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let vocab = case.model.config().vocab_size;
            for (i, (a, b)) in with.iter().zip(&without).enumerate() {
                let bits = ![9, 3, 4].contains(&(i % vocab));
                assert!(if bits { a == b } else { (a - b).abs() < 1e-6 * largest }, "{base} {i}: {a} {b}");
            }
        }
    }
}

#[test]
fn rows_of_added_tokens_begin_as_the_mean_of_those_of_their_pieces() {
    for base in ["llama", "llama_tied"] {
        let start = |tokens: TokenIndices| tokens.with_start(96, vec![5, 7, 7]).with_start(97, vec![11]);
        let case = fresh(base, 98, start, &[96, 97, 3]);
        let config = case.model.config();
        assert_eq!(config.vocab_size, 98);
        let width = config.hidden_size;
        let mut of_files = Vec::new();
        let files = ModelFiles::open(&fixture(base)).expect("the fixture");
        let names = if config.tie_word_embeddings {
            &["model.embed_tokens"][..]
        } else {
            &["model.embed_tokens", "lm_head"]
        };
        for name in names {
            let weight = files.weight(&format!("{name}.weight"), 96, width).expect("there");
            let values = weight.to_vec();
            let row = |id: usize| &values[id * width..(id + 1) * width];
            let mean = (0..width).map(|i| ((f64::from(row(5)[i]) + 2.0 * f64::from(row(7)[i])) / 3.0) as f32);
            of_files.push(mean.chain(row(11).to_vec()).chain(row(3).to_vec()).collect::<Vec<f32>>());
        }
        // Behind the factors of both layers.
        let rows: Vec<Vec<f32>> =
            case.adapter.tensors().skip(4).map(|tensor| tensor.to_vec(tensor.len())).collect();
        assert_eq!(rows, of_files, "{base}");
    }
}

/// Without the adapter that brings them, tokens behind those of the files change nothing.
#[test]
fn a_base_does_not_know_the_tokens_of_an_adapter() {
    for base in ["llama", "llama_tied", "gpt2"] {
        let case = Case::open(base);
        let mut files = ModelFiles::open(&fixture(base)).expect("the fixture");
        let rows = files.config().vocab_size;
        files.add_rows(rows + 3).expect("a few rows");
        let larger = Model::load(&files, Device::Cpu).expect("loads");
        let (found, expected) = (case.logits(&larger, None, 0), case.logits(&case.model, None, 0));
        for (found, expected) in found.chunks_exact(rows + 3).zip(expected.chunks_exact(rows)) {
            assert!(found[..rows] == *expected && found[rows..].iter().all(|logit| *logit < -1e29), "{base}");
        }
    }
}

/// A token whose row is trained is not in the stream, nor in the data: its row of the head has a gradient, that of an embedding of its
/// own has none.
#[test]
fn gradients_equal_finite_differences() {
    for base in ["llama_tied", "llama"] {
        let mut case = fresh(base, 97, |tokens| tokens.with_start(96, vec![4, 5]), &[96, 80]);
        case.ids[0][2] = 96;
        case.ids[0][5] = 80;
        let loss = |case: &Case| {
            let p = case.packed(&[0]);
            let targets: Vec<Target> = p.targets.iter().map(|t| Target { id: 96, ..*t }).collect();
            let stream = lorafit_model::Stream { targets: &targets, ..p.stream() };
            let mut gradients = Gradients::new(&case.model, Some(&case.adapter));
            let (model, adapter) = (&case.model, Some(&case.adapter));
            let mut buffers = Buffers::for_training(
                model,
                adapter,
                &gradients,
                p.ids.len(),
                targets.len(),
                Default::default(),
            );
            let losses = model.loss_and_gradient(adapter.into(), stream, 1.0, &mut buffers, &mut gradients);
            let gradients: Vec<Vec<f32>> = gradients.tensors().map(|t| t.to_vec(t.len())).collect();
            (losses.total(), gradients)
        };
        let (_, gradients) = loss(&case);
        let tensors = gradients.len();
        let sides = if base == "llama" { 2 } else { 1 };
        for side in 0..sides {
            let tensor = tensors - sides + side;
            for at in [0, 17, 64 + 3, 127] {
                let mut shifted = |by: f32| {
                    let own = case.adapter.tensors_mut().nth(tensor).expect("rows");
                    let mut values = own.to_vec(own.len());
                    let before = values[at];
                    values[at] += by;
                    own.write(0, &values);
                    let found = loss(&case).0;
                    values[at] = before;
                    case.adapter.tensors_mut().nth(tensor).expect("rows").write(0, &values);
                    found
                };
                // A loss of some 100 has 1e-5 of rounding, which a step of 2e-2 divides; its own error is of the third order.
                let difference = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
                let found = f64::from(gradients[tensor][at]);
                assert!(
                    (found - difference).abs() < 1e-2 * found.abs().max(0.3),
                    "{base} {side} {at}: {found} {difference}"
                );
            }
        }
    }
}

/// An adapter's folder after `edit`, read over `files`.
fn read_after(name: &str, files: &ModelFiles, edit: impl FnOnce(&Path)) -> Result<Adapter, String> {
    let dir = tempfile::tempdir().expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(saved_fixture(name).join("adapter").join(file), dir.path().join(file)).expect("copied");
    }
    edit(dir.path());
    adapter::load_over(dir.path(), files, Device::Cpu).map_err(|error| {
        format!("{error}; {}", error.hint().map(|hint| format!("{hint:?}")).unwrap_or_default())
    })
}

/// Sets the option of rows in a folder's configuration.
fn set_tokens(dir: &Path, tokens: &str) {
    let path = dir.join("adapter_config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("read")).expect("JSON");
    config["trainable_token_indices"] = serde_json::from_str(tokens).expect("JSON");
    std::fs::write(&path, config.to_string()).expect("written");
}

#[test]
fn tokens_that_do_not_fit_the_model_or_the_tensors_are_refused() {
    let files = saved_files("tokens_tied");
    let told =
        |tokens: &str| read_after("tokens_tied", &files, |dir| set_tokens(dir, tokens)).expect_err("refused");
    for (tokens, expected) in [
        ("[63, 5, 90, 96]", "token 96 of embed_tokens is outside the 96 rows"),
        ("[63, 5, 90, 4294967295]", "is outside the 96 rows"),
        ("[63, 5, 90, 63]", "token 63 of embed_tokens is there twice"),
        ("[63, 5, 90]", "is [4, 64], `trainable_token_indices` and the model need [3, 64]"),
        ("[63, 5, 90, -1]", "expected a list of token ids"),
        ("[63, 5, 90, 4294967296]", "expected a list of token ids"),
        ("[63, 5, 90, 1.5]", "expected a list of token ids"),
        ("\"all\"", "expected a list of token ids"),
        ("{\"embed_tokens\": 7}", "expected a list of token ids"),
        ("{\"embed_tokens\": []}", "no tokens of embed_tokens are given"),
        ("{\"wte\": [7]}", "`wte` is neither the embedding of the model nor its head"),
        ("{\"lm_head\": [63, 5, 90, 91]}", "lm_head.token_adapter.trainable_tokens_delta is missing"),
        ("null", "has rows of tokens, and `trainable_token_indices` names none"),
        ("[]", "has rows of tokens, and `trainable_token_indices` names none"),
    ] {
        let told = told(tokens);
        assert!(told.contains(expected), "{tokens}: {told}");
        assert!(told.contains("adapter_config.json") || told.contains("adapter_model.safetensors"), "{told}");
    }
    let damaged = |value: f32| {
        let edit = |dir: &Path| {
            edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
                let rows =
                    tensors.iter_mut().find(|(name, ..)| name.contains("token_adapter")).expect("there");
                rows.3[400..404].copy_from_slice(&value.to_le_bytes());
            });
        };
        read_after("tokens_tied", &files, edit).expect_err("refused")
    };
    assert!(damaged(f32::NAN).contains("has NaN, expected finite numbers"), "{}", damaged(f32::NAN));
    let far = (96 + MOST_ADDED_ROWS + 1) as u32;
    let mut files = ModelFiles::open(&saved_base("tokens_tied")).expect("the fixture");
    let error = files.add_rows(far as usize).expect_err("refused");
    assert!(error.to_string().contains("behind the 96 of the embedding"), "{error}");
    assert_eq!(files.config().vocab_size, 96);
}

/// The tensors of a file as PEFT has them in memory, and as it saves those of a model with further rows: whole matrices beside.
fn as_resized(dir: &Path, base: &str, rows: usize, modules: &[&str]) {
    let files = ModelFiles::open(&fixture(base)).expect("the fixture");
    edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
        for module in modules {
            let path = module.trim_end_matches(".token_adapter.base_layer");
            let name = format!("{path}.weight");
            let tied = if files.config().tie_word_embeddings { "model.embed_tokens.weight" } else { &name };
            let mut values = files.weight(tied, 96, 64).expect("there").to_vec();
            values.extend((96 * 64..rows * 64).map(|i| i as f32 / 1e4));
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let name = format!("base_model.model.{module}.weight");
            tensors.push((name, Dtype::F32, vec![rows, 64], bytes));
        }
    });
}

#[test]
fn whole_matrices_that_peft_saves_with_rows_of_tokens_are_read() {
    let modules = ["model.embed_tokens.token_adapter.base_layer", "lm_head.token_adapter.base_layer"];
    let edit = |dir: &Path| {
        as_resized(dir, "llama_tied", 98, &modules);
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let rows =
                tensors.iter().find(|(name, ..)| name.contains("trainable_tokens_delta")).expect("there");
            let again =
                (rows.0.replace("model.embed_tokens", "lm_head"), rows.1, rows.2.clone(), rows.3.clone());
            tensors.push(again);
        });
    };
    let read = read_after("tokens_added_tied", &saved_files("tokens_added_tied"), edit).expect("read");
    let case = Case::with_saved(Device::Cpu, "tokens_added_tied");
    let values =
        |adapter: &Adapter| -> Vec<Vec<f32>> { adapter.tensors().map(|t| t.to_vec(t.len())).collect() };
    assert_eq!(values(&read), values(&case.adapter));
    assert_eq!(read.notes().len(), 2, "{:?}", read.notes());

    // A list over a head of its own: what was added to that is in the whole head alone.
    let edit = |dir: &Path| {
        set_tokens(dir, "[96, 97]");
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            tensors.retain(|(name, ..)| !name.contains("lm_head.token_adapter"));
        });
        as_resized(dir, "llama", 98, &["model.embed_tokens.token_adapter.base_layer", "lm_head"]);
    };
    let files = saved_files("tokens_added");
    let read = read_after("tokens_added", &files, edit).expect("read");
    let rows = values(&read).pop().expect("rows of the head");
    assert_eq!(rows, (96 * 64..98 * 64).map(|i| i as f32 / 1e4).collect::<Vec<f32>>());
    assert!(read.notes()[0].contains("were read as rows of tokens of lm_head"), "{:?}", read.notes());

    // Rows of no token, and a matrix that was trained.
    let edit = |dir: &Path| as_resized(dir, "llama_tied", 98, &modules);
    let mut files = ModelFiles::open(&saved_base("tokens_tied")).expect("the fixture");
    files.add_rows(98).expect("a few rows");
    let told = read_after("tokens_tied", &files, edit).expect_err("refused");
    assert!(told.contains("row 96 was added, and is of no token"), "{told}");
    let edit = |dir: &Path| {
        as_resized(dir, "llama_tied", 98, &modules);
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            tensors.iter_mut().find(|(_, _, shape, _)| *shape == [98, 64]).expect("there").3[3] ^= 0x80;
        });
    };
    let told = read_after("tokens_added_tied", &saved_files("tokens_added_tied"), edit).expect_err("refused");
    assert!(told.contains("row 0 differs from the model's"), "{told}");
}

#[test]
fn a_tied_head_with_other_rows_is_refused_and_names_of_memory_are_read() {
    let rename = |dir: &Path| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let rows = tensors.iter_mut().find(|(name, ..)| name.contains("token_adapter")).expect("there");
            rows.0.push_str(".default");
        });
    };
    let files = saved_files("tokens_tied");
    read_after("tokens_tied", &files, rename).expect("read");
    let edit = |dir: &Path| {
        edit_safetensors(&dir.join("adapter_model.safetensors"), |tensors| {
            let rows =
                tensors.iter().find(|(name, ..)| name.contains("trainable_tokens_delta")).expect("there");
            let mut again =
                (rows.0.replace("model.embed_tokens", "lm_head"), rows.1, rows.2.clone(), rows.3.clone());
            again.3[3] ^= 0x80;
            tensors.push(again);
        });
    };
    let told = read_after("tokens_tied", &files, edit).expect_err("refused");
    assert!(told.contains("has other rows than the embedding"), "{told}");
}

#[test]
fn adapters_with_rows_of_tokens_have_no_sum_and_go_into_no_adapter_of_others() {
    let case = Case::with_saved(Device::Cpu, "tokens_apart");
    let config = case.model.config();
    let how = Combination { method: Method::Cat, density: 1.0, majority_sign: MajoritySign::Total, seed: 0 };
    let weighted = [Weighted { adapter: &case.adapter, weight: 0.7 }];
    let error = combine(config, &weighted, &how).expect_err("refused");
    assert_eq!(error, CombineError::Tokens);
    assert!(error.hint().is_some());
    for error in [
        gguf_lora_bytes(&case.adapter, config, "base").expect_err("refused"),
        MlxAdapter::new(&case.adapter, config).expect_err("refused"),
    ] {
        assert!(error.to_string().contains("no place for rows of tokens"), "{error}");
        assert!(format!("{:?}", error.hint()).contains("Merge"), "{:?}", error.hint());
    }
}

#[test]
fn an_adapter_that_is_looked_at_says_its_rows() {
    let file = AdapterFile::read(&saved_fixture("tokens_apart").join("adapter")).expect("read");
    assert_eq!(file.others, Vec::<String>::new());
    let factors: usize = file.factors.iter().map(|factors| factors.a.len() + factors.b.len()).sum();
    assert_eq!(file.parameters(), factors + 5 * 64);
    assert!(file.beside.iter().any(|line| line.contains("rows of 4 tokens")), "{:?}", file.beside);
}
