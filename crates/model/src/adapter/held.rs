//! How the factors of an adapter are held in memory where it is computed with and not trained: a token of generated text reads all
//! of them, so that half the bytes are half the time.

use lorafit_kernels::quant::UnencodableValue;
use lorafit_kernels::{Device, Half};

use super::lora::{Adapter, LoraGroup};

/// A type that factors are held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorDtype {
    /// In 16 bits where the adapter's file has all of them in one such type: no value changes. Else in f32.
    AsStored,
    /// In f32.
    F32,
    /// Rounded to bf16.
    Bf16,
}

impl Adapter {
    /// Holds the factors of blocks in this type on the processor; a GPU has a copy of the type that it computes with beside them
    /// anyway. Then the adapter can be computed with, read and merged, and not be trained. Projections with magnitudes (DoRA), the
    /// factors of embedding and head, and weights that are saved whole stay f32.
    ///
    /// # Errors
    /// A value that bf16 cannot hold; then the adapter is not to be used.
    pub fn hold_factors(&mut self, dtype: FactorDtype) -> Result<(), UnencodableValue> {
        self.held = dtype;
        let half = match dtype {
            FactorDtype::AsStored => self.stored,
            FactorDtype::F32 => None,
            FactorDtype::Bf16 => Some(Half::Bf16),
        };
        let Some(half) = half else { return Ok(()) };
        let plain = |group: &&mut LoraGroup| group.magnitudes().next().is_none();
        for group in self.layers.iter_mut().flatten().flatten().filter(plain) {
            group
                .tensors_mut()
                .filter(|factor| factor.device() == Device::Cpu)
                .try_for_each(|factor| factor.narrow(half))?;
        }
        Ok(())
    }

    /// What [`Adapter::hold_factors`] was last asked for; f32 if it was not.
    pub fn factor_dtype(&self) -> FactorDtype {
        self.held
    }

    /// Bytes of memory that its tensors take, but for the copies that a GPU has beside them.
    pub fn held_bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.len() as u64 * if tensor.half().is_some() { 2 } else { 4 }).sum()
    }
}
