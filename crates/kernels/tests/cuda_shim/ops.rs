//! Rows, elementwise, loss, optimizer.

use lorafit_kernels::gpu::Float::{self, Bf16, F32};
use lorafit_kernels::gpu::Region;
use lorafit_kernels::ops::cross_entropy::{Objective, Target};
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::elementwise::cuda::RowGroups;
use lorafit_kernels::ops::gate::{self, Activation, OutputProduct};
use lorafit_kernels::ops::low_rank::cuda::{GradientOperands, GradientShape};
use lorafit_kernels::ops::low_rank::{self, TermGradients};
use lorafit_kernels::ops::rope::{Pairs, Rotation, Turn};
use lorafit_kernels::ops::{adamw, cross_entropy, dropout, elementwise, layer_norm, noise, rms_norm, rope};
use lorafit_kernels::{Bf16Tensor, Device, Tensor};

use crate::machine::Machine;
use crate::{FLOATS, assert_close, tensor, tolerance, values};

#[test]
fn rms_norm_equals_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width) in [(1, 1), (3, 7), (9, 64), (17, 300), (2, 1031), (8, 2048)] {
            let (len, what) = (rows * width, format!("{float:?} {rows} x {width}"));
            let (x, d_y) = (values(float, 1, len), values(float, 2, len));
            let (weight, before) = (values(Float::F32, 3, width), values(float, 4, len));
            let (tx, tw) = (tensor(&x), tensor(&weight));
            let (mut ty, mut t_rstd) = (tensor(&vec![0.0; len]), tensor(&vec![0.0; rows]));
            rms_norm::forward(&tx, &tw, 1e-5, rows, &mut ty, &mut t_rstd);
            let mut t_dx = tensor(&before);
            rms_norm::backward(&tensor(&d_y), &tx, &tw, &t_rstd, rows, &mut t_dx);

            let shape = (rows as u32, width as u32);
            let (x, w) = (machine.put_floats(float, &x), machine.put_floats(Float::F32, &weight));
            let y = machine.put_floats(float, &vec![9.0; len]);
            let again = machine.put_floats(float, &vec![9.0; len]);
            let rstd = machine.put_floats(Float::F32, &vec![9.0; rows]);
            machine.run(&rms_norm::cuda::forward(float, x, w, 1e-5, shape, y, rstd));
            machine.run(&rms_norm::cuda::recompute(float, x, w, rstd, shape, again));
            assert_close(&machine.get_floats(float, y), &ty.to_vec(len), tolerance(float), &what);
            assert_close(&machine.get_floats(Float::F32, rstd), &t_rstd.to_vec(rows), 1e-6, &what);
            assert_eq!(machine.get(y), machine.get(again), "{what}: recompute gives the same bits");

            let (d_y, d_x) = (machine.put_floats(float, &d_y), machine.put_floats(float, &before));
            let unchanged = machine.get(d_x).to_vec();
            let output = machine.put_floats(float, &vec![9.0; len]);
            machine.run(&rms_norm::cuda::backward(float, d_y, x, w, rstd, shape, d_x, None));
            let first = machine.get(d_x).to_vec();
            machine.get_mut(d_x).copy_from_slice(&unchanged);
            machine.run(&rms_norm::cuda::backward(float, d_y, x, w, rstd, shape, d_x, Some(output)));
            assert_eq!(machine.get(d_x), first, "{what}: the gradient does not depend on the output");
            assert_eq!(machine.get(y), machine.get(output), "{what}: backward gives the output's bits");
            assert_close(&machine.get_floats(float, d_x), &t_dx.to_vec(len), tolerance(float), &what);
        }
    }
}

#[test]
fn layer_norm_equals_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width, with_bias) in
            [(1, 1, true), (3, 7, false), (9, 64, true), (17, 300, false), (2, 1031, true)]
        {
            let (len, what) = (rows * width, format!("{float:?} {rows} x {width}, bias: {with_bias}"));
            let (x, d_y, before) = (values(float, 1, len), values(float, 2, len), values(float, 4, len));
            let [weight, bias, row] = [3, 5, 6].map(|seed| values(Float::F32, seed, width));
            let (tx, tw, tb, td) = (tensor(&x), tensor(&weight), tensor(&bias), tensor(&d_y));
            let tb = with_bias.then_some(&tb);
            let (mut ty, mut t_saved) = (tensor(&vec![0.0; len]), tensor(&vec![0.0; 2 * rows]));
            layer_norm::forward(&tx, &tw, tb, 1e-5, rows, &mut ty, &mut t_saved);
            let (mut t_dx, mut t_dw) = (tensor(&before), tensor(&row));
            layer_norm::backward(&td, &tx, &tw, &t_saved, rows, &mut t_dx);
            layer_norm::backward_weight(&td, &tx, &t_saved, rows, &mut t_dw);

            let shape = (rows as u32, width as u32);
            let [x, d_y, d_x] = [&x, &d_y, &before].map(|v| machine.put_floats(float, v));
            let [w, b, d_w] = [&weight, &bias, &row].map(|v| machine.put_floats(Float::F32, v));
            let affine = (w, with_bias.then_some(b));
            let [y, again] = [0; 2].map(|_| machine.put_floats(float, &vec![9.0; len]));
            let saved = machine.put_floats(Float::F32, &vec![9.0; 2 * rows]);
            machine.run(&layer_norm::cuda::forward(float, x, affine, 1e-5, shape, y, saved));
            machine.run(&layer_norm::cuda::recompute(float, x, affine, saved, shape, again));
            assert_close(&machine.get_floats(float, y), &ty.to_vec(len), tolerance(float), &what);
            let found = machine.get_floats(Float::F32, saved);
            assert_close(&found, &t_saved.to_vec(2 * rows), 1e-6, &what);
            assert_eq!(machine.get(y), machine.get(again), "{what}: recompute gives the same bits");

            machine.run(&layer_norm::cuda::backward(float, d_y, x, w, saved, shape, d_x));
            machine.run(&layer_norm::cuda::backward_weight(float, d_y, x, saved, shape, d_w));
            assert_close(&machine.get_floats(float, d_x), &t_dx.to_vec(len), tolerance(float), &what);
            let found = machine.get_floats(Float::F32, d_w);
            assert_close(&found, &t_dw.to_vec(width), tolerance(Float::F32), &what);
        }
    }
}

#[test]
fn rope_equals_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        let whole = Rotation::of_whole_heads;
        let neighbours = |half| Rotation { pairs: Pairs::Neighbours, ..whole(half) };
        for (heads, rotation) in [
            (1, whole(1)),
            (3, whole(5)),
            (4, whole(32)),
            (2, whole(40)),
            (1, whole(128)),
            (3, Rotation { head_dim: 13, factor: 1.5, ..whole(5) }),
            (2, Rotation { head_dim: 128, ..whole(32) }),
            (1, neighbours(1)),
            (4, neighbours(32)),
            (3, Rotation { head_dim: 17, factor: 0.75, ..neighbours(7) }),
        ] {
            let Rotation { head_dim, frequencies: half, .. } = rotation;
            let positions: Vec<u32> = (0..7).map(|i| i * i * 311).collect();
            let frequencies: Vec<f32> =
                (0..half).map(|j| 10_000f32.powf(-(j as f32) / half as f32)).collect();
            let (rows, len) = (positions.len(), positions.len() * heads * head_dim);
            let what = format!("{float:?} {heads} heads, {rotation:?}");
            let zeros = |len| Tensor::zeros(Device::Cpu, len);
            let mut t_angles = rope::Angles::for_rotation(rows, rotation, zeros);
            t_angles.set(&positions, &frequencies);
            let (x, d) = (values(float, 5, len), values(float, 6, len));
            let (mut tx, mut td) = (tensor(&x), tensor(&d));
            // As keys one head for every row.
            let keys = values(float, 7, rows * head_dim);
            let [mut t_keys, mut td_keys] = [0; 2].map(|_| tensor(&keys));
            rope::forward_in_place([&mut tx, &mut t_keys], &t_angles, rows, [heads, 1]);
            rope::backward_in_place([&mut td, &mut td_keys], &t_angles, rows, [heads, 1]);

            let (positions, frequencies) =
                (machine.put_u32(&positions), machine.put_floats(Float::F32, &frequencies));
            let [cos, sin] = [0, 1].map(|_| machine.put(&vec![0; 4 * rows * half]));
            let (shape, angles) = ((rows, [heads, 1]), (rows as u32, half as u32));
            let factor = rotation.factor;
            machine.run(&rope::cuda::angles(positions, frequencies, angles, factor, cos, sin));
            for (values, expected, of_keys, turn) in
                [(&x, &tx, &t_keys, Turn::Forward), (&d, &td, &td_keys, Turn::Backward)]
            {
                let [x, k] = [values, &keys].map(|values| machine.put_floats(float, values));
                machine.run(&rope::cuda::turn(float, [x, k], (cos, sin), turn, shape, rotation));
                for (found, expected) in [(x, expected), (k, of_keys)] {
                    let expected = expected.to_vec(expected.len());
                    assert_close(&machine.get_floats(float, found), &expected, tolerance(float), &what);
                }
            }
        }
    }
}

#[test]
fn gates_and_activations_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for (float, activation) in FLOATS.into_iter().flat_map(|f| Activation::ALL.map(|a| (f, a))) {
        for len in [1, 7, 8, 2049, 5000] {
            let mut gate = values(float, 7, len);
            for (gate, extreme) in gate.iter_mut().zip([-5.0, -100.0, 100.0, 0.0]) {
                *gate = extreme;
            }
            let (up, d_y) = (values(float, 8, len), values(float, 9, len));
            let (mut tg, mut tu, mut ty) = (tensor(&gate), tensor(&up), tensor(&vec![0.0; len]));
            let (mut tx, mut t_alone) = (tensor(&gate), tensor(&vec![0.0; len]));
            gate::forward(activation, &tg, &tu, len, &mut ty);
            let [mut td, mut td_alone] = [0; 2].map(|_| tensor(&d_y));
            gate::backward_in_place(activation, &mut td, &mut tg, &mut tu, len, true);
            gate::plain_forward(activation, &tx, len, &mut t_alone);
            gate::plain_backward_in_place(activation, &mut td_alone, &mut tx, len, true);

            let [g, u, d, x, d_alone] = [&gate, &up, &d_y, &gate, &d_y].map(|v| machine.put_floats(float, v));
            let [y, alone] = [0; 2].map(|_| machine.put_floats(float, &vec![9.0; len]));
            let count = len as u64;
            machine.run(&gate::cuda::forward(float, activation, g, u, count, y));
            machine.run(&gate::cuda::backward_in_place(float, activation, d, g, u, count, true));
            machine.run(&gate::cuda::plain_forward(float, activation, x, count, alone));
            machine.run(&gate::cuda::plain_backward_in_place(float, activation, d_alone, x, count, true));
            for (found, expected, what) in
                [(y, &ty, "y"), (g, &tg, "gate"), (u, &tu, "up"), (alone, &t_alone, "alone"), (x, &tx, "x")]
                    .into_iter()
                    .chain([(d, &td, "y again"), (d_alone, &td_alone, "alone again")])
            {
                let what = format!("{float:?} {activation:?} {what} of {len}");
                assert_close(
                    &machine.get_floats(float, found),
                    &expected.to_vec(len),
                    tolerance(float),
                    &what,
                );
            }
        }
    }
}

#[test]
fn gates_with_the_product_of_their_output_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    // One row, a rank below that of the kernel, columns that end within a warp's, and parts that end within their last rows.
    for (rows, width, rank) in [(1, 8, 8), (37, 72, 16), (300, 264, 24), (70, 520, 64), (129, 64, 40)] {
        for activation in Activation::ALL {
            let [gate, up, d_y] = [7, 8, 9].map(|seed| values(Bf16, seed, rows * width));
            let (left, before) = (values(Bf16, 10, rows * rank), values(F32, 11, rank * width));
            let [mut tg, mut tu, mut td] = [&gate, &up, &d_y].map(|v| tensor(v));
            let (t_left, mut t_sum, mut empty) = (tensor(&left), tensor(&before), tensor(&[]));
            let of = OutputProduct { left: &t_left, rank, sum: &mut t_sum, workspace: &mut empty };
            gate::backward_and_product(activation, &mut td, [&mut tg, &mut tu], (rows, width), of);

            let [g, u, d, left] = [&gate, &up, &d_y, &left].map(|v| machine.put_floats(Bf16, v));
            let sum = machine.put_floats(F32, &before);
            let shape = gate::cuda::ProductShape { rows, width, rank };
            assert!(shape.is_known(Bf16), "{shape:?}");
            let workspace = machine.put(&vec![0xff; shape.workspace_bytes() as usize]);
            for launch in gate::cuda::backward_product(activation, [d, g, u, left], shape, workspace, sum) {
                machine.run(&launch);
            }
            // The output is rounded before it is multiplied.
            for (found, float, expected, what) in
                [(g, Bf16, &tg, "gate"), (u, Bf16, &tu, "up"), (sum, F32, &t_sum, "product")]
            {
                let (found, expected) = (machine.get_floats(float, found), expected.to_vec(expected.len()));
                assert_close(
                    &found,
                    &expected,
                    tolerance(Bf16),
                    &format!("{activation:?} {what}, {shape:?}"),
                );
            }
        }
    }
}

#[test]
fn gradients_of_a_term_from_one_read_equal_the_products() {
    let Some(mut machine) = Machine::new() else { return };
    // Less than a tile; several strips of columns of which the last is not whole; several parts of rows; ranks that are not a kernel's.
    // The last number is the first column of `U`.
    let cases = [(1, 8, 8, 0), (37, 72, 16, 8), (600, 264, 16, 16), (70, 520, 32, 0), (300, 256, 24, 8)];
    for (rows, width, rank, first) in cases {
        let (stride, scale) = (first + rank + 24, -0.75);
        let (d_y, u) = (values(Bf16, 41, rows * width), values(Bf16, 42, rows * stride));
        let (b_t, before) = (values(Bf16, 43, rank * width), values(F32, 44, rank * width));
        let untouched = values(Bf16, 45, rows * stride);
        let mut d_u = tensor(&untouched);
        let mut d_b_t = tensor(&before);
        let shape = GradientShape { rows, width, rank };
        let (d_out, t_u, t_b_t, mut empty) = (tensor(&d_y), tensor(&u), tensor(&b_t), tensor(&[]));
        low_rank::output_gradients(TermGradients {
            shape,
            d_out: &d_out,
            u: &t_u,
            d_u: &mut d_u,
            first,
            stride,
            scale,
            b_t: &t_b_t,
            d_b_t: &mut d_b_t,
            workspace: &mut empty,
        });

        let [d_y, u, b_t] = [&d_y, &u, &b_t].map(|v| machine.put_floats(Bf16, v));
        let all_of_d_u = machine.put_floats(Bf16, &untouched);
        let sums = machine.put_floats(F32, &before);
        let workspace = machine.put(&vec![0xff; 4 * shape.workspace_values()]);
        let of_rank = |region: Region| region.part(2 * first as u64, 2 * ((rows - 1) * stride + rank) as u64);
        let (u, d_u_of_rank) = (of_rank(u), of_rank(all_of_d_u));
        let operands = GradientOperands { d_y, u, b_t, d_u: d_u_of_rank, stride, d_b_t: sums };
        assert!(operands.are_aligned(), "{shape:?}");
        for launch in low_rank::cuda::gradients(operands, shape, scale, workspace) {
            machine.run(&launch);
        }
        // Exact products in f32 in another order; `dU` is rounded once. What lies beside it stays.
        let found = machine.get_floats(Bf16, all_of_d_u);
        assert_close(&found, &d_u.to_vec(rows * stride), tolerance(Bf16), &format!("d_u, {shape:?}"));
        for (i, (found, before)) in found.iter().zip(&untouched).enumerate() {
            assert!((first..first + rank).contains(&(i % stride)) || found == before, "{shape:?}: value {i}");
        }
        let found = machine.get_floats(F32, sums);
        let what = format!("d_b_t, {shape:?}");
        assert_close(&found, &d_b_t.to_vec(rank * width), tolerance(F32), &what);
    }
}

#[test]
fn gradients_of_a_term_are_from_one_read_where_that_is_less_to_move() {
    let known = |rows, width, rank| GradientShape { rows, width, rank }.is_known(Bf16);
    assert!(known(8192, 4096, 16) && known(8192, 11008, 32) && known(2048, 11008, 16));
    // Few rows, ranks whose parts are as much as what is read again, and rows that are no whole units.
    assert!(!known(1000, 11008, 16) && !known(8192, 11008, 64));
    assert!(!known(8192, 4096, 12) && !known(8192, 4100, 16));
    assert!(!GradientShape { rows: 8192, width: 4096, rank: 16 }.is_known(F32));
}

#[test]
fn caps_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for len in [1, 9, 2051] {
            let (x, d) = (values(float, 22, len), values(float, 23, len));
            let (mut tx, mut td) = (tensor(&x), tensor(&d));
            elementwise::softcap(&mut tx, len, 1.5);
            elementwise::softcap_backward(&tensor(&x), len, 4.0, &mut td);
            let [x, capped, d] = [&x, &x, &d].map(|values| machine.put_floats(float, values));
            machine.run(&elementwise::cuda::softcap(float, capped, len as u64, 1.5));
            machine.run(&elementwise::cuda::softcap_backward(float, x, len as u64, 4.0, d));
            for (found, expected, what) in [(capped, &tx, "capped"), (d, &td, "gradient")] {
                let found = machine.get_floats(float, found);
                assert_close(&found, &expected.to_vec(len), tolerance(float), what);
            }
        }
    }
}

#[test]
fn dropout_drops_what_the_cpu_drops() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (len, p) in [(1, 0.5), (13, 0.0), (4099, 0.1)] {
            let mask = Mask { p, seed: 0xfeed_0000_0000_0001 };
            let (x, before) = (values(float, 10, len), values(float, 11, len));
            let (mut ty, mut td) = (tensor(&vec![0.0; len]), tensor(&before));
            dropout::forward(&tensor(&x), mask, len, &mut ty);
            dropout::backward(&tensor(&x), mask, len, &mut td);
            let (x, y) = (machine.put_floats(float, &x), machine.put_floats(float, &vec![9.0; len]));
            let d = machine.put_floats(float, &before);
            machine.run(&dropout::cuda::forward(float, x, mask, len as u64, y));
            machine.run(&dropout::cuda::backward(float, x, mask, len as u64, d));
            let (found, expected) = (machine.get_floats(float, y), ty.to_vec(len));
            assert!(
                found.iter().zip(&expected).all(|(f, e)| (*f == 0.0) == (*e == 0.0)),
                "other values dropped"
            );
            assert_close(&found, &expected, tolerance(float), "forward");
            assert_close(&machine.get_floats(float, d), &td.to_vec(len), tolerance(float), "backward");
        }
    }
}

#[test]
fn noise_is_that_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width) in [(1usize, 1usize), (3, 13), (5, 264)] {
            let (x, bounds) = (values(float, 10, rows * width), [0.5, 0.0, 2.0, 1e-3, 0.25]);
            let mut expected = tensor(&x);
            noise::add(&mut expected, width, &bounds[..rows], 0xfeed_0000_0000_0001);
            let (x, on_device) =
                (machine.put_floats(float, &x), machine.put_floats(Float::F32, &bounds[..rows]));
            let shape = (rows as u32, width as u32);
            machine.run(&noise::cuda::add(float, x, shape, on_device, 0xfeed_0000_0000_0001));
            let found = machine.get_floats(float, x);
            assert_close(&found, &expected.to_vec(rows * width), tolerance(float), "noise");
        }
    }
}

#[test]
fn sums_scales_and_rows_equal_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        for (rows, width) in [(1usize, 1usize), (5, 3), (6, 264), (4, 3000)] {
            let len = rows * width;
            let (x, y) = (values(float, 12, len), values(float, 13, len));
            let mut expected = tensor(&y);
            elementwise::add(&tensor(&x), len, &mut expected);
            let (rx, ry) = (machine.put_floats(float, &x), machine.put_floats(float, &y));
            machine.run(&elementwise::cuda::add(float, rx, len as u64, ry));
            assert_close(&machine.get_floats(float, ry), &expected.to_vec(len), tolerance(float), "add");

            let (first, last) = (width / 3, width.div_ceil(2));
            let mut expected = tensor(&x);
            elementwise::scale_columns(&mut expected, rows, width, first..last, 0.3);
            let scaled = machine.put_floats(float, &x);
            let cols = first as u32..last as u32;
            machine.run(&elementwise::cuda::scale_columns(
                float,
                scaled,
                rows as u32,
                width as u32,
                cols,
                0.3,
            ));
            assert_close(
                &machine.get_floats(float, scaled),
                &expected.to_vec(len),
                tolerance(float),
                "scale",
            );

            let factors = values(Float::F32, 14, rows);
            let mut expected = tensor(&x);
            elementwise::scale_rows(&mut expected, rows, width, &tensor(&factors));
            let (grown, of_rows) = (machine.put_floats(float, &x), machine.put_floats(Float::F32, &factors));
            machine.run(&elementwise::cuda::scale_rows(float, grown, (rows as u32, width as u32), of_rows));
            let found = machine.get_floats(float, grown);
            assert_close(&found, &expected.to_vec(len), tolerance(float), "scale_rows");

            let (mut sum, mut scaled) = (tensor(&y), tensor(&x));
            elementwise::add_scaled(&tensor(&x), -1.7, len, &mut sum);
            elementwise::scale(&mut scaled, len, 0.3);
            let (to_sum, to_scale) = (machine.put_floats(float, &y), machine.put_floats(float, &x));
            machine.run(&elementwise::cuda::add_scaled(float, rx, -1.7, len as u64, to_sum));
            machine.run(&elementwise::cuda::scale(float, to_scale, len as u64, 0.3));
            for (found, expected, what) in [(to_sum, &sum, "add_scaled"), (to_scale, &scaled, "scale")] {
                let found = machine.get_floats(float, found);
                assert_close(&found, &expected.to_vec(len), tolerance(float), what);
            }

            // Some rows several times, some never.
            let ids: Vec<u32> = [0, rows - 1, rows / 2, 0, rows - 1, 0].map(|row| row as u32).to_vec();
            let picked = ids.len() * width;
            let mut gathered = tensor(&vec![0.0; picked]);
            elementwise::gather_rows(&tensor(&x), &ids, width, &mut gathered);
            let more = values(float, 14, picked);
            let mut scattered = tensor(&y);
            elementwise::scatter_add_rows(&tensor(&more), &ids, width, &mut scattered);
            let (count, device_ids) = (ids.len() as u32, machine.put_u32(&ids));
            let to = machine.put_floats(float, &vec![9.0; picked]);
            machine.run(&elementwise::cuda::gather_rows(float, rx, device_ids, count, width as u32, to));
            assert_eq!(machine.get_floats(float, to), gathered.to_vec(picked), "gather");
            let (more, to) = (machine.put_floats(float, &more), machine.put_floats(float, &y));
            let groups = RowGroups::new(&ids);
            let lists = machine.put_u32(&groups.words());
            let floats = (float, float);
            machine.run(&elementwise::cuda::scatter_add_rows(floats, more, &groups, lists, width as u32, to));
            assert_close(&machine.get_floats(float, to), &scattered.to_vec(len), tolerance(float), "scatter");
        }
    }
}

#[test]
fn narrowing_has_the_bits_of_the_cpu_and_widening_is_exact() {
    let Some(mut machine) = Machine::new() else { return };
    let mut x = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40];
    for exponent in [1u32, 100, 127, 254] {
        for rest in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_8000] {
            x.push(f32::from_bits(exponent << 23 | rest));
        }
    }
    let len = x.len();
    let (from, to) = (machine.put_floats(Float::F32, &x), machine.put(&vec![0; 2 * len]));
    let back = machine.put(&vec![0; 4 * len]);
    machine.run(&elementwise::cuda::narrow(from, len as u64, to));
    machine.run(&elementwise::cuda::widen(to, len as u64, back));
    let mut narrowed = Bf16Tensor::zeros(Device::Cpu, len);
    elementwise::narrow(&tensor(&x), len, &mut narrowed);
    let mut widened = tensor(&vec![0.0; len]);
    elementwise::widen(&narrowed, len, &mut widened);
    let bits = |values: Vec<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(machine.get_floats(Float::F32, back)), bits(widened.to_vec(len)));
}

#[test]
fn the_sum_of_squares_equals_the_cpu_however_many_blocks_there_are() {
    let Some(mut machine) = Machine::new() else { return };
    for len in [1usize, 255, 2049, 70_001] {
        let x = values(Float::F32, 15, len);
        let expected = elementwise::sum_squares(&[&tensor(&x)]);
        let x = machine.put_floats(Float::F32, &x);
        let partial = machine.put(&vec![0; 8 * elementwise::cuda::MAX_PARTIAL_SUMS as usize]);
        let total = machine.put(&[0; 8]);
        for launch in elementwise::cuda::sum_squares(x, len as u64, partial, total) {
            machine.run(&launch);
        }
        let found = f64::from_le_bytes(machine.get(total).try_into().expect("eight bytes"));
        // Sums of f64 in another order.
        assert!((found - expected).abs() <= 1e-13 * expected, "{len}: {found}, expected {expected}");
    }
}

/// Step `number` of AdamW.
fn step(number: u64, gradient_scale: f64) -> adamw::Step {
    adamw::Step { weight_decay: 0.01, gradient_scale, ..adamw::Step::new(number, 1e-3) }
}

#[test]
fn adamw_equals_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for len in [1usize, 9, 3001] {
        let mut on_cpu = [16, 17].map(|seed| tensor(&values(Float::F32, seed, len)));
        let mut second: Vec<f32> = values(Float::F32, 18, len).iter().map(|v| v * v).collect();
        second[0] = 0.0;
        let mut cpu_second = tensor(&second);
        let [p, m] = [0, 1].map(|i| machine.put_floats(Float::F32, &on_cpu[i].to_vec(len)));
        let v = machine.put_floats(Float::F32, &second);
        for number in [1, 2, 1000] {
            let gradient = values(Float::F32, 20 + number, len);
            let step = step(number, 0.25);
            let [cpu_p, cpu_m] = &mut on_cpu;
            adamw::step(cpu_p, &tensor(&gradient), cpu_m, &mut cpu_second, len, &step);
            let g = machine.put_floats(Float::F32, &gradient);
            machine.run(&adamw::cuda::step(p, g, m, v, len as u64, &step));
        }
        for (found, expected) in [(p, &on_cpu[0]), (m, &on_cpu[1]), (v, &cpu_second)] {
            // The compilers fuse other multiplications and additions.
            assert_close(&machine.get_floats(Float::F32, found), &expected.to_vec(len), 1e-6, "AdamW");
        }
    }
}

#[test]
fn adamw_8bit_has_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    let maps = machine.put(&adamw::cuda::map_bytes());
    for len in [1usize, 256, 300, 5000] {
        let mut cpu_p = tensor(&values(Float::F32, 40, len));
        let blocks = len.div_ceil(adamw::BLOCK_LEN);
        let [mut cpu_m, mut cpu_v] = [0, 1].map(|_| adamw::Moment8::zeros(Device::Cpu, len));
        let p = machine.put_floats(Float::F32, &cpu_p.to_vec(len));
        let [m, v] = [&cpu_m, &cpu_v].map(|moment| adamw::cuda::DeviceMoment8 {
            codes: machine.put(&moment.codes()),
            absmax: machine.put_floats(Float::F32, &moment.absmax().to_vec(blocks)),
        });
        for number in 1..=4 {
            let mut gradient = values(Float::F32, 40 + number, len);
            // A block without a gradient at first, and values far apart.
            gradient.iter_mut().take(if number == 1 { 256 } else { 0 }).for_each(|g| *g = 0.0);
            gradient.iter_mut().step_by(7).for_each(|g| *g *= 1e-4);
            let step = step(number, 0.3);
            adamw::step_8bit(&mut cpu_p, &tensor(&gradient), &mut cpu_m, &mut cpu_v, len, &step);
            let g = machine.put_floats(Float::F32, &gradient);
            machine.run(&adamw::cuda::step_8bit(p, g, m, v, maps, len as u64, &step));
            let what = format!("{len} parameters after step {number}");
            for (found, expected) in [(m, &cpu_m), (v, &cpu_v)] {
                assert_eq!(machine.get(found.codes), &*expected.codes(), "codes, {what}");
                assert_eq!(
                    machine.get_floats(Float::F32, found.absmax),
                    expected.absmax().to_vec(blocks),
                    "absmax, {what}"
                );
            }
            assert_eq!(machine.get_floats(Float::F32, p), cpu_p.to_vec(len), "{what}");
        }
    }
}

#[test]
fn cross_entropy_equals_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for float in FLOATS {
        // Rows at every place between multiples of 16 bytes; more than registers hold, whole and odd.
        for vocab in [1usize, 5, 37, 520, 5003, 70_008, 70_013] {
            let rows = 5;
            let logits: Vec<f32> = values(float, 30, rows * vocab).iter().map(|v| 4.0 * v).collect();
            let last = vocab as u32 - 1;
            let target = |row, id: u32, weight| Target { row, id: id.min(last), weight };
            // Row 1 has none; row 2 is a branch point with a repeated target.
            let targets = [
                target(0, last, 1.0),
                target(2, 5, 1.0),
                target(2, 9, 0.5),
                target(2, 5, 2.0),
                target(3, 0, 1.0),
                target(4, 300, 1.0),
            ];
            // With a vocabulary of one token the gradient is zero, so that only rounding errors would be compared.
            for smoothing in [0.0, if vocab > 1 { 0.1 } else { 0.0 }] {
                let (objective, count) = (Objective { scale: 0.25, smoothing }, targets.len());
                let (mut gradient, mut losses) = (tensor(&logits), tensor(&vec![0.0; count]));
                cross_entropy::loss_and_gradient(
                    &mut gradient,
                    rows,
                    vocab,
                    &targets,
                    objective,
                    &mut losses,
                    0,
                );

                let shape = (rows as u32, vocab as u32);
                let on_device = machine.put_floats(float, &logits);
                let records = machine.put(&cross_entropy::cuda::target_bytes(&targets, rows));
                let [plain, found] = [0, 1].map(|_| machine.put(&vec![0xff; 4 * count]));
                let count = count as u32;
                machine.run(&cross_entropy::cuda::loss(float, on_device, shape, records, count, plain));
                machine.run(&cross_entropy::cuda::loss_and_gradient(
                    float, on_device, shape, records, count, objective, found,
                ));
                let what = format!("{float:?} vocabulary {vocab} smoothing {smoothing}");
                // Logits are read as they are; the sum has another order.
                let losses = losses.to_vec(targets.len());
                assert_close(&machine.get_floats(Float::F32, found), &losses, 3e-6, &what);
                let is_same = machine.get(plain) == machine.get(found);
                assert_eq!(is_same, smoothing == 0.0, "{what}: plain losses are those of the other kernel");
                let gradient = gradient.to_vec(rows * vocab);
                assert_close(&machine.get_floats(float, on_device), &gradient, tolerance(float), &what);
            }
        }
    }
}

/// A token that is nearly certain: p - 1 is below the resolution of bf16 at 1.
#[test]
fn the_gradient_of_a_certain_token_survives_bf16() {
    let Some(mut machine) = Machine::new() else { return };
    let mut logits = vec![0.0; 64];
    logits[3] = 12.0;
    let p = f64::exp(12.0) / (f64::exp(12.0) + 63.0);
    let on_device = machine.put_floats(Float::Bf16, &logits);
    let records =
        machine.put(&cross_entropy::cuda::target_bytes(&[Target { row: 0, id: 3, weight: 1.0 }], 1));
    let losses = machine.put(&[0; 4]);
    machine.run(&cross_entropy::cuda::loss_and_gradient(
        Float::Bf16,
        on_device,
        (1, 64),
        records,
        1,
        1.0.into(),
        losses,
    ));
    let found = f64::from(machine.get_floats(Float::Bf16, on_device)[3]);
    assert!((found - (p - 1.0)).abs() < (1.0 - p) / 100.0, "{found}, expected {}", p - 1.0);
}
