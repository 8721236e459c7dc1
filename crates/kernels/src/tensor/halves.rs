//! Values on the processor that are kept in 16 bits, for matrices that are read and not changed: half the memory to read, and
//! exact where the values were stored so.

use std::ops::Range;

use super::AlignedVec;
use crate::quant::{Format, UnencodableValue};

/// A floating-point type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE binary16.
    F16,
    /// bfloat16, the upper half of an f32.
    Bf16,
}

impl Half {
    /// The format of values in a file.
    pub fn format(self) -> Format {
        match self {
            Half::F16 => Format::F16,
            Half::Bf16 => Format::BF16,
        }
    }
}

/// Values that are held in 16 bits each, in the order of bytes of a file.
#[derive(Debug)]
pub(super) struct HalfValues {
    bits: AlignedVec<u16>,
    half: Half,
}

impl HalfValues {
    /// The nearest to each of `values`.
    pub(super) fn nearest(values: &[f32], half: Half) -> Result<Self, UnencodableValue> {
        let mut bits = AlignedVec::zeros(values.len());
        half.format().encode(values, bytes_mut(&mut bits))?;
        Ok(HalfValues { bits, half })
    }

    pub(super) fn len(&self) -> usize {
        self.bits.len()
    }

    pub(super) fn view(&self) -> Halves<'_> {
        Halves { bits: &self.bits, half: self.half }
    }
}

/// Values in 16 bits, as an op on the processor reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halves<'a> {
    bits: &'a [u16],
    half: Half,
}

impl<'a> Halves<'a> {
    /// The type of the values.
    pub(crate) fn half(&self) -> Half {
        self.half
    }

    /// The values as they are held.
    pub(crate) fn bits(&self) -> &'a [u16] {
        self.bits
    }

    /// Those from `offset` on.
    pub(crate) fn from(self, offset: usize) -> Self {
        Halves { bits: &self.bits[offset..], ..self }
    }

    /// The bytes of the values of `range`.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        // SAFETY: every u16 is two bytes.
        unsafe { self.bits[range].align_to::<u8>().1 }
    }

    /// Writes the values of `range` to `out`.
    pub(crate) fn decode(&self, range: Range<usize>, out: &mut [f32]) {
        self.half.format().decode(self.bytes(range), out);
    }
}

fn bytes_mut(bits: &mut [u16]) -> &mut [u8] {
    // SAFETY: every u16 is two bytes, of which any are valid.
    unsafe { bits.align_to_mut::<u8>().1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Tensor};

    #[test]
    fn values_become_the_nearest_of_16_bits_and_are_read_as_such() {
        for (half, nearest) in
            [(Half::Bf16, [1.0, -2.984375, 0.0]), (Half::F16, [1.0, -2.9902344, 5.9604645e-8])]
        {
            let mut tensor = Tensor::from_slice(Device::Cpu, &[1.0, -2.99, 6e-8]);
            assert_eq!(tensor.half(), None);
            tensor.narrow(half).expect("small values");
            assert_eq!((tensor.half(), tensor.len(), tensor.device()), (Some(half), 3, Device::Cpu));
            let found = tensor.to_vec(3);
            assert_eq!(found[..2], nearest[..2]);
            assert!((found[2] - 6e-8).abs() <= if half == Half::F16 { 1e-9 } else { 3e-10 });
            let mut last = [0.0; 2];
            tensor.read(1, &mut last);
            assert_eq!(last, found[1..]);
        }
    }

    #[test]
    fn a_value_that_is_too_large_leaves_all_as_they_are() {
        let mut tensor = Tensor::from_slice(Device::Cpu, &[1.5, 1e6]);
        assert_eq!(tensor.narrow(Half::F16).expect_err("beyond 65504").at, 1);
        assert_eq!((tensor.half(), tensor.to_vec(2)), (None, vec![1.5, 1e6]));
    }

    #[test]
    #[should_panic(expected = "only read")]
    fn they_are_not_changed() {
        let mut tensor = Tensor::zeros(Device::Cpu, 2);
        tensor.narrow(Half::Bf16).expect("zeros");
        tensor.write(0, &[1.0]);
    }
}
