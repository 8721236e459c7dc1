//! The header of a safetensors file, read with care.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::plain::foreign;
use crate::error::FileError;

/// The longest header that is read: that of some 20 thousand tensors, when the largest supported model has 1200 and six
/// times as many once quantised. What is read of it takes up to twenty times the memory.
const MAX_HEADER: u64 = 2 << 20;

/// Where the data begins, and what lies there; the crate checks that tensors fill the file without overlap.
pub(crate) fn read_header(bytes: &[u8]) -> Result<(usize, Metadata), String> {
    let header_len = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if header_len > MAX_HEADER {
        return Err(format!("the header has {header_len} bytes, at most {MAX_HEADER} are allowed"));
    }
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    // The header is preceded by its length in 8 bytes.
    Ok((header_len + 8, metadata))
}

/// `problem` of the header of a file, with what the file is instead where its beginning tells.
pub(crate) fn header_error(path: &Path, bytes: &[u8], problem: String) -> FileError {
    if let Some((what, hint)) = foreign(bytes) {
        return FileError::new(path, what).with_hint(hint);
    }
    if bytes.starts_with(b"GGUF") {
        return FileError::new(path, "a GGUF file, called safetensors")
            .with_hint("give it a name that ends in .gguf and pass the file itself");
    }
    let error = FileError::new(path, format!("not a whole safetensors file: {problem}"));
    match (bytes.get(8), bytes.first_chunk().map(|len| u64::from_le_bytes(*len))) {
        // It begins as one does, and has a header that is longer than any that is read.
        (Some(b'{'), Some(MAX_HEADER..)) if problem.contains("at most") => error,
        _ => error.with_hint("the file is cut short or damaged; copy or download it again"),
    }
}
