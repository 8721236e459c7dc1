//! Small steps between the large ops: copies, sums, scales, caps, and changes of precision.

use std::ops::Range;

use rayon::prelude::*;

use crate::gpu::count;
use crate::ops::parallel::{Shared, for_row_blocks};
use crate::tensor::{Bf16Tensor, Device, Tensor};

mod cpu;
pub mod cuda;

/// `y = x` over the first `len` values.
pub fn copy(x: &Tensor, len: usize, y: &mut Tensor) {
    copy_range(x, 0, len, y, 0);
}

/// Values `from .. from + len` of `x` become values `to .. to + len` of `y`.
pub fn copy_range(x: &Tensor, from: usize, len: usize, y: &mut Tensor, to: usize) {
    match x.device() {
        Device::Cpu => {
            let (x, y) = (&x.cpu()[from..from + len], &mut y.cpu_mut()[to..to + len]);
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| y.copy_from_slice(x));
        }
        Device::Cuda(gpu) => {
            x.float_with(&[y]);
            gpu.copy(x.part(from, len), y.part(to, len));
        }
    }
}

/// `y += x` over the first `len` values.
pub fn add(x: &Tensor, len: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            let (x, y) = (&x.cpu()[..len], &mut y.cpu_mut()[..len]);
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            });
        }
        Device::Cuda(gpu) => gpu.run(&cuda::add(x.float_with(&[y]), x.region(), len as u64, y.region())),
    }
}

/// `x *= factor` over the first `len` values.
pub fn scale(x: &mut Tensor, len: usize, factor: f32) {
    match x.device() {
        Device::Cpu => x.cpu_mut()[..len].par_chunks_mut(CHUNK).for_each(|x| {
            x.iter_mut().for_each(|x| *x *= factor);
        }),
        Device::Cuda(gpu) => gpu.run(&cuda::scale(x.float(), x.region(), len as u64, factor)),
    }
}

/// `y += factor * x` over the first `len` values.
pub fn add_scaled(x: &Tensor, factor: f32, len: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            let (x, y) = (&x.cpu()[..len], &mut y.cpu_mut()[..len]);
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
            });
        }
        Device::Cuda(gpu) => {
            let float = x.float_with(&[y]);
            gpu.run(&cuda::add_scaled(float, x.region(), factor, len as u64, y.region()));
        }
    }
}

/// `x = cap tanh(x / cap)` over the first `len` values: the cap of Gemma 2's logits (Gemma Team 2024). `cap` is above zero.
pub fn softcap(x: &mut Tensor, len: usize, cap: f32) {
    match x.device() {
        Device::Cpu => x.cpu_mut()[..len].par_chunks_mut(CHUNK).for_each(|x| cpu::softcap(x, cap)),
        Device::Cuda(gpu) => gpu.run(&cuda::softcap(x.float(), x.region(), len as u64, cap)),
    }
}

/// Backward of [`softcap`], from what it gave: `d_x *= 1 - (capped / cap)^2` over the first `len` values, which are before
/// the gradient of `capped` and after that of what was capped.
pub fn softcap_backward(capped: &Tensor, len: usize, cap: f32, d_x: &mut Tensor) {
    match capped.device() {
        Device::Cpu => {
            let (capped, d_x) = (&capped.cpu()[..len], &mut d_x.cpu_mut()[..len]);
            d_x.par_chunks_mut(CHUNK).zip(capped.par_chunks(CHUNK)).for_each(|(d_x, capped)| {
                d_x.iter_mut().zip(capped).for_each(|(d, y)| *d *= 1.0 - (y / cap) * (y / cap));
            });
        }
        Device::Cuda(gpu) => {
            let float = capped.float_with(&[d_x]);
            gpu.run(&cuda::softcap_backward(float, capped.region(), len as u64, cap, d_x.region()));
        }
    }
}

/// Columns `cols` of `x`, `[rows, x_width]`, become those of `y`, `[rows, y_width]`, from column `first` on: to split joined
/// projections, and to join them.
///
/// # Panics
/// When a matrix has fewer columns.
pub fn copy_columns(
    x: &Tensor,
    rows: usize,
    x_width: usize,
    cols: Range<usize>,
    y: &mut Tensor,
    y_width: usize,
    first: usize,
) {
    let width = cols.len();
    assert!(cols.end <= x_width && first + width <= y_width, "columns outside the matrix");
    match x.device() {
        Device::Cpu => {
            let (x, y) = (x.cpu(), Shared::new(&mut y.cpu_mut()[..rows * y_width]));
            for_row_blocks(rows, width, |block| {
                for row in block {
                    let (from, to) = (row * x_width + cols.start, row * y_width + first);
                    // SAFETY: every row is in one block.
                    unsafe { y.part(to..to + width) }.copy_from_slice(&x[from..from + width]);
                }
            });
        }
        Device::Cuda(gpu) => {
            let float = x.float_with(&[y]);
            let of = |region, first: usize, stride| cuda::Rows {
                float,
                region,
                first: first as u64,
                stride: count(stride),
            };
            let (from, to) = (of(x.region(), cols.start, x_width), of(y.region(), first, y_width));
            gpu.run(&cuda::copy_columns(from, (count(rows), count(width)), to));
        }
    }
}

/// The first `len` values of `x`, rounded to the nearest `bf16` (to even where two are), into `y`.
pub fn narrow(x: &Tensor, len: usize, y: &mut Bf16Tensor) {
    match x.device() {
        Device::Cpu => {
            let (x, y) = (&x.cpu()[..len], &mut y.cpu_mut()[..len]);
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| cpu::narrow(x, y));
        }
        Device::Cuda(gpu) => gpu.run(&cuda::narrow(x.region(), len as u64, y.region(len))),
    }
}

/// The first `len` values of `x` into `y`, exactly.
pub fn widen(x: &Bf16Tensor, len: usize, y: &mut Tensor) {
    match y.device() {
        Device::Cpu => {
            let (x, y) = (&x.cpu()[..len], &mut y.cpu_mut()[..len]);
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| cpu::widen(x, y));
        }
        Device::Cuda(gpu) => gpu.run(&cuda::widen(x.region(len), len as u64, y.region())),
    }
}

/// The first `len` values become what [`narrow`] and [`widen`] would make of them.
pub fn round_to_bf16(x: &mut Tensor, len: usize) {
    match x.device() {
        Device::Cpu => x.cpu_mut()[..len].par_chunks_mut(CHUNK).for_each(cpu::round_to_bf16),
        Device::Cuda(gpu) => gpu.run(&cuda::round_to_bf16(x.region(), len as u64)),
    }
}

/// Values a parallel part of a copy or sum handles.
const CHUNK: usize = 16 * 1024;

/// `x *= scale` in columns `cols` of a `[rows, width]` matrix.
pub fn scale_columns(x: &mut Tensor, rows: usize, width: usize, cols: Range<usize>, scale: f32) {
    match x.device() {
        Device::Cpu => {
            for row in x.cpu_mut()[..rows * width].chunks_exact_mut(width) {
                row[cols.clone()].iter_mut().for_each(|v| *v *= scale);
            }
        }
        Device::Cuda(gpu) => {
            let (shape, cols) = ((count(rows), count(width)), count(cols.start)..count(cols.end));
            gpu.run(&cuda::scale_columns(x.float(), x.region(), shape.0, shape.1, cols, scale));
        }
    }
}

/// Row `i` of `x`, `[rows, width]`, is multiplied by `factors[i]`, which is in f32: queries that grow with their position.
pub fn scale_rows(x: &mut Tensor, rows: usize, width: usize, factors: &Tensor) {
    match x.device() {
        Device::Cpu => {
            let (x, factors) = (&mut x.cpu_mut()[..rows * width], &factors.cpu()[..rows]);
            x.par_chunks_mut(width).zip(factors).for_each(|(row, factor)| {
                row.iter_mut().for_each(|x| *x *= factor);
            });
        }
        Device::Cuda(gpu) => {
            let shape = (count(rows), count(width));
            gpu.run(&cuda::scale_rows(x.float(), x.region(), shape, factors.region()));
        }
    }
}

/// Row `rows[i]` of `x` becomes row `i` of `y`; both have `width` columns.
pub fn gather_rows(x: &Tensor, rows: &[u32], width: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            for (to, &row) in y.cpu_mut().chunks_exact_mut(width).zip(rows) {
                to.copy_from_slice(&x.cpu()[row as usize * width..(row as usize + 1) * width]);
            }
        }
        Device::Cuda(gpu) => {
            let (float, ids) = (x.float_with(&[y]), gpu.buffer_of_words(rows));
            let (rows, width) = (count(rows.len()), count(width));
            gpu.run(&cuda::gather_rows(float, x.region(), ids.region(), rows, width, y.region()));
        }
    }
}

/// Adds row `i` of `x` to row `rows[i]` of `y`; both have `width` columns.
pub fn scatter_add_rows(x: &Tensor, rows: &[u32], width: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            for (from, &row) in x.cpu().chunks_exact(width).zip(rows) {
                let to = &mut y.cpu_mut()[row as usize * width..(row as usize + 1) * width];
                to.iter_mut().zip(from).for_each(|(y, x)| *y += x);
            }
        }
        Device::Cuda(gpu) => {
            let (floats, groups) = ((x.float(), y.float()), cuda::RowGroups::new(rows));
            let (lists, width) = (gpu.buffer_of_words(&groups.words()), count(width));
            gpu.run(&cuda::scatter_add_rows(floats, x.region(), &groups, lists.region(), width, y.region()));
        }
    }
}

/// Adds the sum of each column of `x`, `[rows, width]`, to `y`, `[width]`: the gradient of a bias. In f32, in the order
/// of the rows.
pub fn add_column_sums(x: &Tensor, rows: usize, width: usize, y: &mut Tensor) {
    match x.device() {
        Device::Cpu => {
            for row in x.cpu()[..rows * width].chunks_exact(width) {
                y.cpu_mut()[..width].iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
        }
        Device::Cuda(gpu) => {
            let shape = (count(rows), count(width));
            gpu.run(&cuda::add_column_sums(x.float(), x.region(), shape, y.region()));
        }
    }
}

/// Sets all values of tensors of one device to zero.
pub fn clear(tensors: &mut [&mut Tensor]) {
    let Some(first) = tensors.first() else { return };
    match first.device() {
        Device::Cpu => tensors.iter_mut().for_each(|tensor| tensor.clear(tensor.len())),
        Device::Cuda(gpu) => {
            for run in tensors.chunk_by(|x, next| x.goes_on_in(next)) {
                gpu.clear(run[0].up_to(run[run.len() - 1]));
            }
            tensors.iter_mut().for_each(|tensor| {
                tensor.region_mut();
            });
        }
    }
}

/// Sum of the squares of all values of f32 tensors of one device, in f64 and in a fixed order.
pub fn sum_squares(tensors: &[&Tensor]) -> f64 {
    let Some(first) = tensors.first() else { return 0.0 };
    match first.device() {
        Device::Cpu => {
            let chunk = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            // The cut does not depend on the number of threads, nor does the order in which the parts are added.
            let of_tensor = |x: &&Tensor| -> f64 {
                x.cpu().par_chunks(CHUNK).map(chunk).collect::<Vec<f64>>().into_iter().sum()
            };
            tensors.iter().map(of_tensor).sum()
        }
        Device::Cuda(gpu) => {
            let runs: Vec<_> = tensors.chunk_by(|x, next| x.goes_on_in(next)).collect();
            let partial = gpu.buffer(8 * cuda::MAX_PARTIAL_SUMS);
            let totals = gpu.buffer(8 * runs.len() as u64);
            for (i, run) in runs.iter().enumerate() {
                let (x, total) = (run[0].up_to(run[run.len() - 1]), totals.region().part(8 * i as u64, 8));
                for launch in cuda::sum_squares(x, x.bytes / 4, partial.region(), total) {
                    gpu.run(&launch);
                }
            }
            let mut bytes = vec![0; 8 * runs.len()];
            gpu.download(totals.region(), &mut bytes);
            bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen as widen64};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(Device::Cpu, values)
    }

    #[test]
    fn scatter_is_the_transpose_of_gather() {
        let x = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut picked = tensor(&[0.0; 6]);
        gather_rows(&x, &[2, 0, 2], 2, &mut picked);
        assert_eq!(picked.to_vec(6), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let mut back = tensor(&[10.0; 6]);
        scatter_add_rows(&picked, &[2, 0, 2], 2, &mut back);
        assert_eq!(back.to_vec(6), [11.0, 12.0, 10.0, 10.0, 20.0, 22.0]);
    }

    #[test]
    fn narrowing_rounds_to_nearest_even_and_widening_is_exact() {
        let mut values = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, f32::NAN];
        // Every kind of rest behind every kind of last bit kept: below, at and above the half.
        for exponent in [1u32, 100, 127, 200, 254] {
            for rest in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                for last in [0u32, 1, 0x7e, 0x7f] {
                    for sign in [0, 1 << 31] {
                        values.push(f32::from_bits(sign | exponent << 23 | last << 16 | rest));
                    }
                }
            }
        }
        let (len, x) = (values.len(), tensor(&values));
        let mut narrowed = Bf16Tensor::zeros(Device::Cpu, len);
        narrow(&x, len, &mut narrowed);
        let mut widened = Tensor::zeros(Device::Cpu, len);
        widen(&narrowed, len, &mut widened);
        let mut rounded = tensor(&values);
        round_to_bf16(&mut rounded, len);
        for (i, value) in values.iter().enumerate() {
            let expected = half::bf16::from_f32(*value).to_f32();
            for found in [widened.cpu()[i], rounded.cpu()[i]] {
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{value:e}: {found:e}, expected {expected:e}");
            }
        }
    }

    #[test]
    fn scales_and_scaled_sums_touch_only_their_part() {
        let mut y = tensor(&[1.0, 2.0, 3.0]);
        scale(&mut y, 2, 0.5);
        assert_eq!(y.to_vec(3), [0.5, 1.0, 3.0]);
        add_scaled(&tensor(&[10.0, 20.0, 30.0]), -0.25, 2, &mut y);
        assert_eq!(y.to_vec(3), [-2.0, -4.0, 3.0]);
    }

    #[test]
    fn caps_equal_the_reference_and_their_gradient_its_finite_differences() {
        let (len, cap) = (200, 30.0f32);
        let mut random = Random::new(3);
        let x: Vec<f32> = random.normal(len + 1).iter().map(|v| 20.0 * v).collect();
        let d_y = random.normal(len + 1);
        let reference =
            |x: &[f64]| x.iter().map(|v| f64::from(cap) * (v / f64::from(cap)).tanh()).collect::<Vec<_>>();
        let mut capped = tensor(&x);
        softcap(&mut capped, len, cap);
        assert_close(&capped.cpu()[..len], &reference(&widen64(&x[..len])), 5e-7, "forward");
        assert_eq!(capped.cpu()[len], x[len]);
        let mut d_x = tensor(&d_y);
        softcap_backward(&capped, len, cap, &mut d_x);
        let loss = |x: &[f64]| weighted_sum(&reference(x), &d_y[..len]);
        let expected = finite_difference(&widen64(&x[..len]), loss);
        // Near the cap, `1 - (y / cap)^2` is a difference of numbers near one: it is off by half a unit in their last place.
        assert_close(&d_x.cpu()[..len], &expected, 1e-6, "backward");
        assert_eq!(d_x.cpu()[len], d_y[len]);
    }

    #[test]
    fn columns_are_split_and_joined_again() {
        let (rows, widths) = (700, [3, 1, 40]);
        let width: usize = widths.iter().sum();
        let values: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
        let (joined, mut again) = (tensor(&values), tensor(&vec![0.0; rows * width]));
        let mut first = 0;
        for part in widths {
            let mut split = tensor(&vec![9.0; rows * part]);
            copy_columns(&joined, rows, width, first..first + part, &mut split, part, 0);
            for (row, found) in split.cpu().chunks_exact(part).enumerate() {
                assert_eq!(found, &values[row * width + first..][..part]);
            }
            copy_columns(&split, rows, part, 0..part, &mut again, width, first);
            first += part;
        }
        assert_eq!(again.cpu(), joined.cpu());
    }

    #[test]
    fn sums_scales_and_squares_touch_only_their_part() {
        let mut y = tensor(&[1.0, 2.0, 3.0, 4.0]);
        add(&tensor(&[10.0, 20.0, 30.0]), 2, &mut y);
        assert_eq!(y.to_vec(4), [11.0, 22.0, 3.0, 4.0]);
        scale_columns(&mut y, 2, 2, 1..2, 0.5);
        assert_eq!(y.to_vec(4), [11.0, 11.0, 3.0, 2.0]);
        assert_eq!(sum_squares(&[&tensor(&[11.0, 11.0, 3.0]), &tensor(&[2.0])]), 255.0);
        let mut rows = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        scale_rows(&mut rows, 2, 2, &tensor(&[3.0, 0.5, 9.0]));
        assert_eq!(rows.to_vec(6), [3.0, 6.0, 1.5, 2.0, 5.0, 6.0]);
        let mut sums = tensor(&[1.0, 2.0, 3.0]);
        add_column_sums(&tensor(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), 2, 2, &mut sums);
        assert_eq!(sums.to_vec(3), [6.0, 12.0, 3.0]);
    }
}
