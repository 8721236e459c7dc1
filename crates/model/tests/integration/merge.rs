//! Adapters merged into the weights of their base, against PEFT, and read again.

use std::path::{Path, PathBuf};

use half::bf16;
use lorafit_kernels::Device;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_model::adapter::{self, Adapter, module_shape};
use lorafit_model::merge::{
    Combination, CombineError, MajoritySign, Merged, Method, Weighted, check_finite, combine,
};
use lorafit_model::weights::{BaseStorage, ModelFiles, SaveDtype, write_quantized, write_tensors};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{edit_safetensors, fixture, gguf_fixture};

fn merge_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/merge").join(name)
}

fn adapter_dir(name: &str) -> PathBuf {
    if name == "first" { fixture("llama/adapter") } else { merge_fixture(name) }
}

fn load(name: &str, files: &ModelFiles) -> Adapter {
    adapter::load_over(&adapter_dir(name), files, Device::Cpu).expect("the adapter loads")
}

fn read(bytes: &[u8], name: &str) -> (Vec<f32>, safetensors::Dtype) {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    let view = file.tensor(name).expect("the tensor");
    let values = match view.dtype() {
        safetensors::Dtype::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        safetensors::Dtype::BF16 => {
            view.data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        other => panic!("{other:?}"),
    };
    (values, view.dtype())
}

fn written(merged: &Merged<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, merged.sources()).expect("written");
    bytes
}

/// What `cases.json` says of a case.
struct Case {
    name: String,
    files: ModelFiles,
    adapters: Vec<Adapter>,
    weights: Vec<f64>,
    how: Option<Combination>,
}

impl Case {
    fn all() -> Vec<Case> {
        let text = std::fs::read_to_string(merge_fixture("cases.json")).expect("cases");
        let cases: Value = serde_json::from_str(&text).expect("JSON");
        let cases = cases.as_object().expect("by name");
        cases.iter().map(|(name, case)| Case::of(name, case)).collect()
    }

    fn of(name: &str, case: &Value) -> Case {
        let files = ModelFiles::open(&fixture(case["base"].as_str().expect("a base"))).expect("opens");
        let names = case["adapters"].as_array().expect("adapters");
        let adapters = names.iter().map(|name| load(name.as_str().expect("a name"), &files)).collect();
        let weights = case["weights"].as_array().into_iter().flatten();
        let weights = weights.map(|weight| weight.as_f64().expect("a number")).collect();
        let how = case["method"].as_str().map(|method| Combination {
            method: match method {
                "cat" => Method::Cat,
                "linear" => Method::Linear,
                "ties" => Method::Ties,
                other => panic!("{other}"),
            },
            density: case["density"].as_f64().unwrap_or(1.0),
            majority_sign: match case["majority_sign"].as_str() {
                Some("frequency") => MajoritySign::Frequency,
                _ => MajoritySign::Total,
            },
            seed: 0,
        });
        Case { name: name.to_owned(), files, adapters, weights, how }
    }

    fn adapter(&self) -> Adapter {
        let weighted = self.adapters.iter().zip(&self.weights);
        let weighted: Vec<Weighted<'_>> =
            weighted.map(|(adapter, weight)| Weighted { adapter, weight: *weight }).collect();
        let how = self.how.as_ref().expect("a method");
        combine(self.files.config(), &weighted, how).expect("they combine")
    }
}

/// Sums of at most 18 products of numbers around 0.02, each rounded in f32 in another order, added to numbers below 1.
const TOLERANCE: f32 = 1e-6;

#[test]
fn merged_weights_are_those_of_peft() {
    let expected = std::fs::read(merge_fixture("expected.safetensors")).expect("the fixture");
    let mut compared = 0;
    for case in Case::all() {
        let combined = case.how.map(|_| case.adapter());
        let adapter = combined.as_ref().unwrap_or_else(|| &case.adapters[0]);
        let merged = Merged::new(&case.files, adapter, Some(SaveDtype::F32)).expect("merges");
        let bytes = written(&merged);
        for module in ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"] {
            let (expected, _) = read(&expected, &format!("{}.{module}", case.name));
            let (found, _) = read(&bytes, &format!("model.layers.1.{module}.weight"));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= TOLERANCE, "{} {module}: {worst}", case.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 32);
}

/// The sum is rounded once: it lies within half a step of what PEFT computes in f32 over the same base.
#[test]
fn a_merge_into_bf16_is_the_rounded_sum() {
    let expected = std::fs::read(merge_fixture("expected.safetensors")).expect("the fixture");
    let files = ModelFiles::open(&fixture("llama_bf16")).expect("opens");
    let adapter = load("first", &files);
    let merged = Merged::new(&files, &adapter, None).expect("merges");
    assert_eq!((merged.dtype(), merged.changed(), merged.len()), (SaveDtype::Bf16, 14, 21));
    let bytes = written(&merged);
    for module in ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"] {
        let (expected, _) = read(&expected, &format!("bf16.{module}"));
        let (found, dtype) = read(&bytes, &format!("model.layers.1.{module}.weight"));
        assert_eq!(dtype, safetensors::Dtype::BF16);
        let rounded = expected.iter().map(|v| bf16::from_f32(*v).to_f32());
        let other = found.iter().zip(rounded).filter(|(a, b)| **a != *b).count();
        // Only where the sum lies within rounding of the middle between two steps.
        assert!(other <= 2, "{module}: {other} of {} are rounded otherwise", found.len());
        for (found, expected) in found.iter().zip(&expected) {
            let half_a_step = expected.abs() / 256.0;
            assert!((found - expected).abs() <= half_a_step + TOLERANCE, "{module}: {found} {expected}");
        }
    }
    // What no adapter touches is there bit by bit.
    let original = std::fs::read(fixture("llama_bf16/model.safetensors")).expect("the base");
    let (original, merged) = (SafeTensors::deserialize(&original), SafeTensors::deserialize(&bytes));
    let (original, merged) = (original.expect("safetensors"), merged.expect("safetensors"));
    for name in ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"] {
        let (a, b) = (original.tensor(name).expect("there"), merged.tensor(name).expect("there"));
        assert!(a.dtype() == b.dtype() && a.data() == b.data(), "{name}");
    }
}

/// DARE's masks are our own: what they have to be is told by the factors they leave.
#[test]
fn dare_drops_by_the_seed_and_keeps_the_mean() {
    let files = ModelFiles::open(&fixture("llama")).expect("opens");
    let adapters = [load("first", &files), load("second", &files)];
    let config = files.config();
    let combined = |method, density, seed| {
        let weighted = adapters.iter().map(|adapter| Weighted { adapter, weight: 1.0 });
        let how = Combination { method, density, majority_sign: MajoritySign::Total, seed };
        let adapter = combine(config, &weighted.collect::<Vec<_>>(), &how).expect("they combine");
        adapter.tensors().flat_map(|tensor| tensor.to_vec(tensor.len())).collect::<Vec<f32>>()
    };
    for (dare, all) in [(Method::DareLinear, Method::Linear), (Method::DareTies, Method::Ties)] {
        assert_eq!(combined(dare, 1.0, 0), combined(all, 1.0, 0));
        assert_eq!(combined(dare, 0.5, 3), combined(dare, 0.5, 3));
        assert_ne!(combined(dare, 0.5, 3), combined(dare, 0.5, 4));
    }
    // Over many seeds the dropped values average out: each has a standard error of its size / sqrt(400).
    let whole = combined(Method::Linear, 1.0, 0);
    let mut mean = vec![0.0f64; whole.len()];
    for seed in 0..400 {
        let dropped = combined(Method::DareLinear, 0.5, seed);
        mean.iter_mut().zip(dropped).for_each(|(m, v)| *m += f64::from(v) / 400.0);
    }
    let error: f64 = mean.iter().zip(&whole).map(|(m, v)| (m - f64::from(*v)).powi(2)).sum();
    let size: f64 = whole.iter().map(|v| f64::from(*v).powi(2)).sum();
    assert!((error / size).sqrt() < 0.08, "{}", (error / size).sqrt());
    let zeros = combined(Method::DareLinear, 0.5, 0).iter().filter(|v| **v == 0.0).count();
    assert!(zeros > whole.len() / 5, "{zeros} of {}", whole.len());
}

#[test]
fn ranks_that_differ_and_values_that_are_no_numbers_are_refused() {
    let files = ModelFiles::open(&fixture("llama")).expect("opens");
    let (first, patterns) = (load("first", &files), load("patterns", &files));
    let weighted = [&first, &patterns].map(|adapter| Weighted { adapter, weight: 1.0 });
    let how = Combination { method: Method::Ties, density: 0.5, majority_sign: MajoritySign::Total, seed: 0 };
    let error = combine(files.config(), &weighted, &how).expect_err("refused");
    let path = "model.layers.0.self_attn.q_proj".to_owned();
    assert_eq!(error, CombineError::RanksDiffer { path, first: 4, other: 6 });

    let dir = tempfile::tempdir().expect("a folder");
    for name in [adapter::CONFIG_FILE, adapter::WEIGHTS_FILE] {
        std::fs::copy(adapter_dir("second").join(name), dir.path().join(name)).expect("copied");
    }
    edit_safetensors(&dir.path().join(adapter::WEIGHTS_FILE), |tensors| {
        let (_, _, _, data) = tensors.iter_mut().find(|(name, ..)| name.contains("1.mlp")).expect("one");
        data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    // In a file they are refused as it is read; what is in memory is looked at again.
    let error = adapter::load_over(dir.path(), &files, Device::Cpu).expect_err("refused").to_string();
    assert!(error.contains("has NaN, expected finite numbers"), "{error}");
    let mut broken = load("second", &files);
    broken.tensors_mut().last().expect("a factor").write(0, &[f32::NAN]);
    let error = check_finite(&broken, files.config()).expect_err("refused");
    assert_eq!(error, CombineError::NotFinite { path: "model.layers.1.mlp.down_proj".to_owned() });
    check_finite(&first, files.config()).expect("fine");
}

/// Every base: what is written is its decoded value plus the update, in checkpoint order.
#[test]
fn every_storage_is_merged_as_it_decodes() {
    let dir = tempfile::tempdir().expect("a folder");
    let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    let folder = ModelFiles::open(&fixture("llama")).expect("opens");
    write_quantized(&folder, nf4, &dir.path().join("nf4"), &mut |_, _| {}).expect("written");
    write_quantized(&folder, Quantization::Int8, &dir.path().join("int8"), &mut |_, _| {}).expect("written");
    for (path, storage) in [
        (gguf_fixture("llama-f32.gguf"), BaseStorage::Float(SaveDtype::F32)),
        (gguf_fixture("llama-q8_0.gguf"), BaseStorage::Quantized("Q8_0".to_owned())),
        (dir.path().join("nf4"), BaseStorage::Quantized("nf4 of bitsandbytes".to_owned())),
        (dir.path().join("int8"), BaseStorage::Quantized("int8 of bitsandbytes".to_owned())),
    ] {
        let files = ModelFiles::open(&path).expect("opens");
        assert_eq!(files.storage().expect("stored"), storage, "{}", path.display());
        assert_eq!(files.unused_tensors(), [""; 0]);
        // A GGUF fixture may have another shape than the folder's adapter.
        let Ok(adapter) = adapter::load_over(&adapter_dir("first"), &files, Device::Cpu) else {
            panic!("{}: another shape", path.display())
        };
        let bytes = written(&Merged::new(&files, &adapter, Some(SaveDtype::F32)).expect("merges"));
        let name = "model.layers.1.self_attn.k_proj.weight";
        let (rows, cols) = module_shape(files.config(), files.config().modules()[1]);
        let stored = files.weight(name, rows, cols).expect("there").to_vec();
        let file = std::fs::read(adapter_dir("first").join(adapter::WEIGHTS_FILE)).expect("the adapter");
        let factor =
            |f| read(&file, &format!("base_model.model.{}.lora_{f}.weight", &name[..name.len() - 7])).0;
        let (a, b) = (factor("A"), factor("B"));
        let (found, _) = read(&bytes, name);
        for (i, found) in found.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let update: f64 = (0..4).map(|r| f64::from(b[row * 4 + r]) * f64::from(a[r * cols + col])).sum();
            let expected = f64::from(stored[i]) + 2.0 * update;
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{} {i}", path.display());
        }
    }
}
