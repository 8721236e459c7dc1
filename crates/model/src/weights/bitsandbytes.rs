//! Matrices that bitsandbytes quantised, as transformers saves them: read from a model folder, and written to one.
//!
//! A 4-bit `X.weight` is U8 `[values / 2, 1]` (or as many bytes of another type) beside `X.weight.absmax`, `.quant_map`, `.nested_absmax`,
//! `.nested_quant_map` and `.quant_state.bitsandbytes__nf4` (JSON as U8). An 8-bit `X.weight` is I8 `[out, in]`
//! beside `X.SCB`, F32 `[out]`. Source: bitsandbytes 0.50 `QuantState.as_dict`, `Int8Params`.

use std::path::Path;
use std::sync::Arc;

use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::{Absmax, Code, FourBit, NESTED_LEN};
use lorafit_kernels::quant::int8::Int8;
use lorafit_kernels::{FrozenWeight, SharedBytes};
use lorafit_remedy::{Task, remedy};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::safetensors::{RawTensor, Shards};
use super::{ModelFiles, Source, companions};
use crate::error::FileError;
use crate::files::{MAX_CONFIG_BYTES, read_text};
use crate::shape::{BaseQuantization, matrices};

/// The quant state of a matrix is a few hundred bytes.
const MAX_STATE_BYTES: usize = 64 << 10;

/// Types that codes are stored as, `bnb_4bit_quant_storage`: the same bytes under another name, so that FSDP can shard them
/// beside other weights.
const STORAGE: [Dtype; 6] = [Dtype::U8, Dtype::I8, Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64];

/// The name of the tensor with the quant state.
fn state_name(name: &str, code: Code) -> String {
    format!("{name}.quant_state.bitsandbytes__{}", code.name())
}

/// The matrix `name` if the folder has it quantised; the text says what is wrong with it.
pub(super) fn weight(
    shards: &Shards,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Option<Result<FrozenWeight, String>>, FileError> {
    for code in [Code::Nf4, Code::Fp4] {
        if let Some(state) = shards.raw(&state_name(name, code))? {
            let found = four_bit(shards, name, code, &state, rows, cols)?;
            return Ok(Some(found.map_err(|e| format!("{name}: {e}"))));
        }
    }
    let scales = match name.strip_suffix("weight") {
        Some(module) => shards.raw(&format!("{module}SCB"))?,
        None => None,
    };
    let (Some(scales), Some(codes)) = (scales, shards.raw(name)?) else { return Ok(None) };
    Ok(Some(int8(scales, codes, rows, cols).map_err(|e| format!("{name}: {e}"))))
}

fn int8(scales: RawTensor, codes: RawTensor, rows: usize, cols: usize) -> Result<FrozenWeight, String> {
    if codes.dtype != Dtype::I8 || codes.shape != [rows, cols] {
        return Err(format!("{:?} {:?}, expected I8 [{rows}, {cols}]", codes.dtype, codes.shape));
    }
    if scales.dtype != Dtype::F32 {
        return Err(format!("SCB is {:?}, expected F32", scales.dtype));
    }
    let data = Int8 { codes: codes.data, absmax: scales.data };
    FrozenWeight::from_int8(rows, cols, data).map_err(|e| e.to_string())
}

fn four_bit(
    shards: &Shards,
    name: &str,
    code: Code,
    state: &RawTensor,
    rows: usize,
    cols: usize,
) -> Result<Result<FrozenWeight, String>, FileError> {
    let part = |what: &str| shards.raw(&format!("{name}.{what}"));
    let (codes, absmax, map) = (shards.raw(name)?, part("absmax")?, part("quant_map")?);
    let (nested, nested_map) = (part("nested_absmax")?, part("nested_quant_map")?);
    let read = || -> Result<FrozenWeight, String> {
        let state = read_state(state)?;
        let number = |key: &str| state.get(key).and_then(Value::as_u64);
        let shape: Option<Vec<u64>> = state.get("shape").and_then(|s| serde_json::from_value(s.clone()).ok());
        if shape.as_deref() != Some(&[rows as u64, cols as u64]) {
            let found = state.get("shape").unwrap_or(&Value::Null);
            return Err(format!(
                "the quant state's shape is {found}, the configuration says [{rows}, {cols}]"
            ));
        }
        let block_len = number("blocksize").ok_or("the quant state has no `blocksize`")?;
        let block_len =
            usize::try_from(block_len).map_err(|_| "the quant state's `blocksize` is too large")?;
        let bytes = |tensor: Option<RawTensor>, what: &str, dtype: Dtype| {
            let tensor = tensor.ok_or_else(|| format!("{what} is missing"))?;
            match tensor.dtype == dtype {
                true => Ok(tensor.data),
                false => Err(format!("{what} is {:?}, expected {dtype:?}", tensor.dtype)),
            }
        };
        let map = floats(&bytes(map, "quant_map", Dtype::F32)?);
        if map != code.table() {
            return Err(format!("quant_map is not the table of {}", code.name()));
        }
        let absmax = match nested {
            None => Absmax::Plain(bytes(absmax, "absmax", Dtype::F32)?),
            Some(nested) => {
                if number("nested_blocksize") != Some(NESTED_LEN as u64) {
                    return Err(format!("the quant state's `nested_blocksize` is not {NESTED_LEN}"));
                }
                let offset = state.get("nested_offset").and_then(Value::as_f64);
                let map = floats(&bytes(nested_map, "nested_quant_map", Dtype::F32)?);
                let map: [f32; 256] =
                    map.try_into().map_err(|_| "nested_quant_map does not have 256 values".to_owned())?;
                Absmax::Double {
                    codes: bytes(absmax, "absmax", Dtype::U8)?,
                    map: Arc::new(map),
                    nested: bytes(Some(nested), "nested_absmax", Dtype::F32)?,
                    offset: offset.ok_or("the quant state has no `nested_offset`")? as f32,
                }
            }
        };
        let codes = codes.ok_or("the tensor is missing")?;
        if !STORAGE.contains(&codes.dtype) {
            return Err(format!("the tensor is {:?}, expected one of {STORAGE:?}", codes.dtype));
        }
        let codes = codes.data;
        let data = FourBit { code, block_len, codes, absmax };
        FrozenWeight::from_four_bit(rows, cols, data).map_err(|e| e.to_string())
    };
    Ok(read())
}

fn read_state(state: &RawTensor) -> Result<Value, String> {
    let bytes = state.data.as_slice();
    if bytes.len() > MAX_STATE_BYTES {
        return Err(format!(
            "the quant state has {} bytes, at most {MAX_STATE_BYTES} are allowed",
            bytes.len()
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("the quant state is not JSON: {e}"))
}

fn floats(bytes: &SharedBytes) -> Vec<f32> {
    bytes.as_slice().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A tensor to write.
#[derive(Clone, Debug)]
struct Piece(RawTensor);

impl safetensors::View for &Piece {
    fn dtype(&self) -> Dtype {
        self.0.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.data.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.0.data.len()
    }
}

fn piece(dtype: Dtype, shape: Vec<usize>, data: SharedBytes) -> Piece {
    Piece(RawTensor { dtype, shape, data })
}

fn float_piece(values: &[f32]) -> Piece {
    // A zero has no sign in the tables of bitsandbytes.
    let bytes = values.iter().flat_map(|v| (v + 0.0).to_le_bytes()).collect();
    piece(Dtype::F32, vec![values.len()], SharedBytes::from_vec(bytes))
}

/// The tensors of a quantised matrix, by name.
fn pieces(name: &str, weight: &FrozenWeight, dtype: &str) -> Vec<(String, Piece)> {
    let mut found = Vec::new();
    if let Some(int8) = weight.int8() {
        let module = name.strip_suffix("weight").unwrap_or(name);
        found.push((
            name.to_owned(),
            piece(Dtype::I8, vec![weight.rows(), weight.cols()], int8.codes.clone()),
        ));
        found.push((format!("{module}SCB"), piece(Dtype::F32, vec![weight.rows()], int8.absmax.clone())));
        // Row by row is the only layout that bitsandbytes still writes; its number is 0.
        let row_layout = SharedBytes::from_vec(vec![0]);
        found.push((format!("{module}weight_format"), piece(Dtype::U8, vec![], row_layout)));
    }
    if let Some(data) = weight.four_bit() {
        let mut state = json!({
            "quant_type": data.code.name(),
            "blocksize": data.block_len,
            "dtype": dtype,
            "shape": [weight.rows(), weight.cols()],
        });
        found.push((name.to_owned(), piece(Dtype::U8, vec![data.codes.len(), 1], data.codes.clone())));
        found.push((format!("{name}.quant_map"), float_piece(data.code.table())));
        match &data.absmax {
            Absmax::Plain(scales) => {
                let shape = vec![scales.len() / 4];
                found.push((format!("{name}.absmax"), piece(Dtype::F32, shape, scales.clone())));
            }
            Absmax::Double { codes, map, nested, offset } => {
                state["nested_blocksize"] = NESTED_LEN.into();
                state["nested_dtype"] = "float32".into();
                state["nested_offset"] = f64::from(*offset).into();
                found.push((format!("{name}.absmax"), piece(Dtype::U8, vec![codes.len()], codes.clone())));
                let shape = vec![nested.len() / 4];
                found.push((format!("{name}.nested_absmax"), piece(Dtype::F32, shape, nested.clone())));
                found.push((format!("{name}.nested_quant_map"), float_piece(&map[..])));
            }
        }
        let state = state.to_string().into_bytes();
        let state = piece(Dtype::U8, vec![state.len()], SharedBytes::from_vec(state));
        found.push((state_name(name, data.code), state));
    }
    found
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedFolder {
    /// Matrices that were quantised.
    pub matrices: usize,
    /// Bytes of the weights before.
    pub bytes_before: u64,
    /// Bytes of the weights after.
    pub bytes_after: u64,
}

/// Writes the model of a folder to the folder `out` with its projections quantised, as transformers and bitsandbytes
/// read it. Beside the result, a matrix at a time is read. `progress(done, all)` is told of matrices.
///
/// # Errors
/// A model that is not in a folder or is quantised already, and files that cannot be read or written. `out` gets its
/// weights and configuration only when both are whole.
pub fn write_quantized(
    files: &ModelFiles,
    quantization: Quantization,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<QuantizedFolder, FileError> {
    let Source::Folder { shards, .. } = &files.source else {
        return Err(FileError::new(files.path(), "a GGUF file is quantised in its own formats")
            .with_hint("only a Hugging Face model folder is quantised; a GGUF file is trained as it is"));
    };
    let base = BaseQuantization { quantization, head: false };
    let config = files.config();
    let what = match (config.is_of_several(), config.modules()[0].is_transposed()) {
        (true, _) => Some("a model that reads images, too"),
        (false, true) => Some("a model with `Conv1D` layers"),
        (false, false) => None,
    };
    if let Some(what) = what {
        return Err(FileError::new(files.path(), format!("{what} is not written quantised")).with_hint(
            remedy![
                "train on the folder as it is with ",
                Task::TrainQuantised,
                ": it is quantised while it is read"
            ],
        ));
    }
    let shapes: std::collections::HashMap<String, (usize, usize)> = matrices(config)
        .filter(|(name, ..)| base.of(name).is_some())
        .map(|(name, rows, cols)| (name, (rows, cols)))
        .collect();
    let (mut tensors, mut done) = (Vec::new(), 0);
    let names = shards.names();
    if let Some(missing) = shapes.keys().find(|name| !names.contains(*name)) {
        return Err(FileError::new(files.path(), format!("the tensor {missing} is missing")));
    }
    for name in names {
        let raw = shards.raw(&name)?.expect("listed");
        let Some(&(rows, cols)) = shapes.get(&name) else {
            tensors.push((name, Piece(raw)));
            continue;
        };
        let weight = files.quantized_weight(&name, rows, cols, &base)?;
        let dtype = match raw.dtype {
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            _ => "float32",
        };
        tensors.extend(pieces(&name, &weight, dtype));
        done += 1;
        progress(done, shapes.len());
    }
    let bytes_after = tensors.iter().map(|(_, piece)| piece.0.data.len() as u64).sum();

    let io = |path: &Path, e: std::io::Error| FileError::new(path, format!("cannot write: {e}"));
    std::fs::create_dir_all(out).map_err(|e| io(out, e))?;
    let (partial, whole) = (out.join("model.safetensors.partial"), out.join("model.safetensors"));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(tensors.iter().map(|(n, p)| (n, p)), Some(metadata), &partial)
        .map_err(|e| FileError::new(&partial, format!("cannot write: {e}")))?;
    copy_companions(files.path(), out)?;
    std::fs::rename(&partial, &whole).map_err(|e| io(&whole, e))?;
    write_config(files, out, quantization)?;
    Ok(QuantizedFolder { matrices: done, bytes_before: files.stored_bytes(), bytes_after })
}

fn copy_companions(from: &Path, to: &Path) -> Result<(), FileError> {
    companions(from)?.into_iter().try_for_each(|(name, path)| {
        let target = to.join(name);
        let copied = std::fs::create_dir_all(target.parent().unwrap_or(to))
            .and_then(|()| std::fs::copy(&path, &target));
        copied.map(drop).map_err(|e| FileError::new(&path, format!("cannot copy: {e}")))
    })
}

/// The configuration with `quantization_config` as transformers' `BitsAndBytesConfig` writes it.
fn write_config(files: &ModelFiles, to: &Path, quantization: Quantization) -> Result<(), FileError> {
    let path = files.path().join("config.json");
    let fail = |path: &Path, e: &dyn std::fmt::Display| FileError::new(path, e.to_string());
    let text = read_text(&path, MAX_CONFIG_BYTES).map_err(|e| fail(&path, &e))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|e| fail(&path, &e))?;
    let (four, code, double) = match quantization {
        Quantization::FourBit { code, double, .. } => (true, code.name(), double),
        Quantization::Int8 => (false, "fp4", false),
    };
    if config.get("tie_word_embeddings").is_some() {
        config["tie_word_embeddings"] = json!(files.config().tie_word_embeddings);
    }
    config["quantization_config"] = json!({
        "_load_in_4bit": four,
        "_load_in_8bit": !four,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": code,
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": four,
        "load_in_8bit": !four,
        "quant_method": "bitsandbytes",
    });
    let path = to.join("config.json");
    let text = serde_json::to_string_pretty(&config).expect("JSON");
    std::fs::write(&path, text + "\n").map_err(|e| fail(&path, &e))
}
