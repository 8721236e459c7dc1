//! Rows that are filled, rounded, summed and scattered.

use lorafit_kernels::gpu::{Float, Region};
use lorafit_kernels::ops::elementwise::cuda::{self, RowGroups, Rows};
use lorafit_kernels::ops::magnitude::{self, NormParts};
use lorafit_kernels::ops::{elementwise, embedding, rms_norm};

use crate::machine::Machine;
use crate::{FLOATS, assert_close, rounded, tensor, tolerance, values};

/// Rows and widths: one value, odd ones, units that are full and one that is not.
const SHAPES: [(usize, usize); 5] = [(1, 1), (5, 3), (33, 37), (70, 264), (4, 3000)];

/// Values between rows, and before the first.
const GAPS: [(usize, u64); 3] = [(0, 0), (5, 3), (8, 16)];

/// A buffer of `9`s in which `rows` lie at `gap` from each other behind `first`.
fn spread(rows: &[f32], width: usize, gap: usize, first: u64) -> Vec<f32> {
    let mut all = vec![9.0; first as usize];
    for row in rows.chunks_exact(width) {
        all.extend_from_slice(row);
        all.extend(vec![9.0; gap]);
    }
    all
}

#[test]
fn a_row_is_written_or_added_to_every_row_wherever_rows_lie() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for ((rows, width), (gap, first)) in SHAPES.into_iter().zip(GAPS.into_iter().cycle()) {
            let (row, before) = (values(Float::F32, 1, width), values(float, 2, rows * width));
            let shape = (rows as u32, width as u32);
            let device_row = machine.put_floats(Float::F32, &row);
            let stride = (width + gap) as u32;
            for (adds, launch) in [(0.0, cuda::fill_rows as fn(_, _, _) -> _), (1.0, cuda::add_to_rows)] {
                let region = machine.put_floats(float, &spread(&before, width, gap, first));
                machine.run(&launch(device_row, shape, Rows { float, region, first, stride }));
                let sums = before.iter().enumerate().map(|(i, b)| rounded(float, adds * b + row[i % width]));
                let expected = spread(&sums.collect::<Vec<f32>>(), width, gap, first);
                let what = format!("{float:?} {rows} x {width}, gap {gap}, times {adds}");
                assert_eq!(machine.get_floats(float, region), expected, "{what}");
            }
        }
    }
}

#[test]
fn columns_are_copied_wherever_rows_lie() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for ((rows, width), (gap, first)) in SHAPES.into_iter().zip(GAPS.into_iter().cycle()) {
            let (x, before) = (values(float, 11, rows * width), values(float, 12, rows * width));
            let from = machine.put_floats(float, &spread(&x, width, gap, first));
            let to = machine.put_floats(float, &spread(&before, width, gap + 3, first + 1));
            let of = |region, first, stride: usize| Rows { float, region, first, stride: stride as u32 };
            let (from, rows_to) = (of(from, first, width + gap), of(to, first + 1, width + gap + 3));
            machine.run(&cuda::copy_columns(from, (rows as u32, width as u32), rows_to));
            let expected = spread(&x, width, gap + 3, first + 1);
            assert_eq!(machine.get_floats(float, to), expected, "{float:?} {rows} x {width}, gap {gap}");
        }
    }
}

#[test]
#[should_panic(expected = "rows of 4 values every 3 values")]
fn rows_that_overlap_are_refused() {
    let region = lorafit_kernels::gpu::Region { offset: 0, bytes: 1 << 10 };
    let rows = Rows { float: Float::F32, region, first: 0, stride: 3 };
    cuda::fill_rows(region, (2, 4), rows);
}

#[test]
fn rounding_in_place_has_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    let mut x = values(Float::F32, 4, 2051);
    x.extend([0.0, -0.0, f32::INFINITY, f32::MAX, 1e-40, f32::from_bits(0x3f80_8000)]);
    let mut expected = tensor(&x);
    elementwise::round_to_bf16(&mut expected, x.len());
    let region = machine.put_floats(Float::F32, &x);
    machine.run(&cuda::round_to_bf16(region, x.len() as u64));
    let bits = |values: Vec<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(machine.get_floats(Float::F32, region)), bits(expected.to_vec(x.len())));
}

#[test]
fn sums_over_rows_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width) in SHAPES {
            let len = rows * width;
            let (x, d_y, before) =
                (values(float, 5, len), values(float, 6, len), values(Float::F32, 7, width));
            let rstd: Vec<f32> = values(Float::F32, 8, rows).iter().map(|v| 0.5 + v.abs()).collect();
            let (tx, td) = (tensor(&x), tensor(&d_y));
            let (mut t_sums, mut t_weight) = (tensor(&before), tensor(&before));
            elementwise::add_column_sums(&tx, rows, width, &mut t_sums);
            rms_norm::backward_weight(&td, &tx, &tensor(&rstd), rows, &mut t_weight);

            let shape = (rows as u32, width as u32);
            let [x, d_y] = [&x, &d_y].map(|values| machine.put_floats(float, values));
            let [rstd, sums, weight] =
                [&rstd, &before, &before].map(|values| machine.put_floats(Float::F32, values));
            machine.run(&cuda::add_column_sums(float, x, shape, sums));
            machine.run(&rms_norm::cuda::backward_weight(float, d_y, x, rstd, shape, weight));
            for (found, expected, part) in [(sums, &t_sums, "columns"), (weight, &t_weight, "d_weight")] {
                let (found, expected) = (machine.get_floats(Float::F32, found), expected.to_vec(width));
                // The same products; sums in another order.
                let what = format!("{float:?} {part} of {rows} x {width}");
                assert_close(&found, &expected, tolerance(Float::F32), &what);
            }
        }
    }
}

/// Row numbers: none; one; in order, each once, as those of the head; each once in another order; some many times.
fn row_numbers() -> [Vec<u32>; 5] {
    [vec![], vec![10], vec![0, 3, 4, 10], vec![9, 0, 7, 8, 1], (0..300u32).map(|i| i * i % 11).collect()]
}

#[test]
fn rows_that_are_added_have_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    let cases = FLOATS.into_iter().flat_map(|float| row_numbers().map(|ids| (float, ids)));
    for (float, ids) in cases {
        // The last has more columns than a block.
        for width in [1usize, 37, 264, 2056] {
            let vocab = 11;
            let (d_y, before) = (values(float, 9, ids.len() * width), values(Float::F32, 10, vocab * width));
            let mut expected = tensor(&before);
            embedding::backward(&tensor(&d_y), &ids, width, &mut expected);
            let (d_y, d_weight) = (machine.put_floats(float, &d_y), machine.put_floats(Float::F32, &before));
            let groups = RowGroups::new(&ids);
            let lists = machine.put_u32(&groups.words());
            let launch =
                cuda::scatter_add_rows((float, Float::F32), d_y, &groups, lists, width as u32, d_weight);
            if !ids.is_empty() {
                machine.run(&launch);
            }
            // In the order of the tokens, as on the CPU.
            let found = machine.get_floats(Float::F32, d_weight);
            assert_eq!(found, expected.to_vec(vocab * width), "{float:?} {width} {ids:?}");
        }
    }
}

#[test]
fn rows_in_order_are_added_by_their_numbers_alone_and_others_by_a_block_for_each_that_is_added_to() {
    let [none, one, in_order, other_order, many] = row_numbers().map(|ids| {
        let groups = RowGroups::new(&ids);
        let words = groups.words().len();
        let regions = [4096, 4 * words as u64, 4096].map(|bytes| Region { offset: 0, bytes });
        let floats = (Float::Bf16, Float::Bf16);
        let launch = cuda::scatter_add_rows(floats, regions[0], &groups, regions[1], 5, regions[2]);
        (words, launch.grid)
    });
    assert_eq!([none, one, in_order], [(0, [0, 1, 1]), (1, [1, 1, 1]), (4, [4, 1, 1])]);
    // Squares leave six rests of eleven.
    assert_eq!([other_order, many], [(5 + 6 + 5, [5, 1, 1]), (6 + 7 + 300, [6, 1, 1])]);
}

#[test]
fn magnitudes_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width) in SHAPES {
            let (rank, scale) = (5, -0.4f32);
            let of_f32 = |seed, len| values(Float::F32, seed, len);
            // Above what the products take away.
            let squares: Vec<f32> = of_f32(21, width).iter().map(|v| 20.0 + v.abs()).collect();
            let (m, b_t, bias, before) =
                (of_f32(22, width), of_f32(23, rank * width), of_f32(24, width), of_f32(25, width));
            let (products, y, d_y) = (
                values(float, 26, rank * width),
                values(float, 27, rows * width),
                values(float, 28, rows * width),
            );
            let shape = (rows as u32, width as u32);
            let [on_m, on_squares, on_b_t, on_bias] =
                [&m, &squares, &b_t, &bias].map(|v| machine.put_floats(Float::F32, v));
            let [on_products, on_y, on_d_y] = [&products, &y, &d_y].map(|v| machine.put_floats(float, v));

            let mut factors = tensor(&vec![0.0; width]);
            let parts = NormParts {
                squares: &tensor(&squares),
                products: &tensor(&products),
                b_t: &tensor(&b_t),
                scale,
            };
            magnitude::factors(&tensor(&m), parts, &mut factors);
            let on_factors = machine.put_floats(Float::F32, &vec![9.0; width]);
            let of_rows = [on_squares, on_products, on_b_t];
            let of_rank = (rank as u32, width as u32);
            machine.run(&magnitude::cuda::factors(float, on_m, of_rows, of_rank, scale, on_factors));
            let what = format!("{float:?} {rows} x {width}");
            let found = machine.get_floats(Float::F32, on_factors);
            assert_close(&found, &factors.to_vec(width), tolerance(Float::F32), &what);

            for (t_bias, region) in [(None, None), (Some(tensor(&bias)), Some(on_bias))] {
                let mut sums = tensor(&before);
                magnitude::gradient(
                    &tensor(&d_y),
                    &tensor(&y),
                    rows,
                    &tensor(&m),
                    t_bias.as_ref(),
                    &mut sums,
                );
                let on_sums = machine.put_floats(Float::F32, &before);
                machine.run(&magnitude::cuda::gradient(
                    float,
                    [on_d_y, on_y],
                    shape,
                    (on_m, region),
                    on_sums,
                ));
                let found = machine.get_floats(Float::F32, on_sums);
                assert_close(&found, &sums.to_vec(width), tolerance(Float::F32), &what);

                let mut expected = tensor(&y);
                magnitude::apply(&mut expected, rows, &factors, t_bias.as_ref());
                let on_y = machine.put_floats(float, &y);
                machine.run(&magnitude::cuda::apply(float, on_y, shape, on_factors, region));
                let found = machine.get_floats(float, on_y);
                assert_close(&found, &expected.to_vec(rows * width), tolerance(float), &what);
            }
        }
    }
}
