//! The formats of files: plain files of a folder, safetensors, GGUF, read and written, whatever the model is that they hold.

mod gguf;
mod gguf_writer;
mod plain;
mod safetensors;
mod stream;

use lorafit_kernels::SharedBytes;
use lorafit_kernels::quant::Format;

#[cfg(feature = "hub")]
pub(crate) use gguf::split_parts;
pub use gguf::{Gguf, is_gguf};
pub use gguf_writer::GgufEntry;
pub(crate) use gguf_writer::{GgufData, GgufTensor, write_gguf};
pub(crate) use plain::{MAX_CONFIG_BYTES, inside, map, read_text};
pub(crate) use safetensors::{header_error, read_header};
pub use stream::{
    NoForm, RowValues, SaveDtype, TensorData, TensorReader, TensorSource, Values, write_tensors,
};

/// The name of the configuration of an adapter of PEFT.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A tensor as its file has it; nothing is decoded yet.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    pub format: Format,
    pub data: SharedBytes,
}

/// A number in a configuration: a whole one as an integer, which is what other programs expect of counts and sizes.
pub(crate) fn json_number(number: f64) -> serde_json::Value {
    match number.fract() == 0.0 && number.abs() < 1e15 {
        true => serde_json::json!(number as i64),
        false => serde_json::json!(number),
    }
}
