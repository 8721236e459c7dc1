//! Attention, forward and backward, against the f32 version for the CPU on the same (bf16) operands.

use lorafit_kernels::cuda::Float::{Bf16, F32};
use lorafit_kernels::ops::attention::cuda::{self, DeviceTree, Operands, Tree};
use lorafit_kernels::ops::attention::{
    Gradients, Heads, Saved, Segment, Segments, backward, backward_workspace, forward,
};

use crate::machine::Machine;
use crate::{assert_close, tensor, values};

/// Probabilities and score gradients are rounded to bf16 (2^-8) before their products, and the result once more; errors of
/// many summands cancel. Relative to the largest value.
const TOLERANCE: f32 = 1.0 / 128.0;

fn segments(list: &[(usize, Option<usize>)]) -> Segments {
    let mut start = 0;
    let segment = |&(len, parent): &(usize, Option<usize>)| {
        start += len;
        Segment { start: start - len, len, parent }
    };
    let list: Vec<Segment> = list.iter().map(segment).collect();
    Segments::new(list, start).expect("a stream")
}

#[track_caller]
fn check((query, key_value, dim): (usize, usize, usize), list: &[(usize, Option<usize>)]) {
    let Some(mut machine) = Machine::new() else { return };
    let heads = Heads { query, key_value, dim };
    let segments = segments(list);
    let tokens = segments.tokens();
    let (wide, narrow, per_head) = (tokens * query * dim, tokens * key_value * dim, tokens * query);
    let [q, d_out] = [1, 2].map(|seed| values(Bf16, seed, wide));
    let [k, v] = [3, 4].map(|seed| values(Bf16, seed, narrow));
    let what = |part: &str| format!("{part}, heads {query}/{key_value} of {dim}, segments {list:?}");

    let [tq, tk, tv, td] = [&q, &k, &v, &d_out].map(|values| tensor(values));
    let [mut t_out, mut t_dq] = [0, 1].map(|_| tensor(&vec![0.0; wide]));
    let [mut t_dk, mut t_dv] = [0, 1].map(|_| tensor(&vec![0.0; narrow]));
    let mut t_lse = tensor(&vec![0.0; per_head]);
    forward(&tq, &tk, &tv, &segments, heads, &mut t_out, &mut t_lse);
    let saved = Saved { q: &tq, k: &tk, v: &tv, out: &t_out, lse: &t_lse };
    let mut workspace = tensor(&vec![0.0; backward_workspace(tokens, heads)]);
    let gradients = Gradients { q: &mut t_dq, k: &mut t_dk, v: &mut t_dv };
    backward(&td, saved, &segments, heads, gradients, &mut workspace);

    let tree = Tree::new(&segments, heads);
    let on_device = DeviceTree { tree: &tree, parts: tree.bytes().map(|bytes| machine.put(&bytes)) };
    let [q, k, v, d_out] = [&q, &k, &v, &d_out].map(|values| machine.put_floats(Bf16, values));
    let [out, d_q] = [0, 1].map(|_| machine.put_floats(Bf16, &vec![9.0; wide]));
    let [d_k, d_v] = [0, 1].map(|_| machine.put_floats(Bf16, &vec![9.0; narrow]));
    let [lse, delta] = [0, 1].map(|_| machine.put_floats(F32, &vec![9.0; per_head]));
    let operands = Operands { q, k, v, out, lse };
    machine.run(&cuda::forward(operands, on_device, heads));
    assert_close(&machine.get_floats(Bf16, out), &t_out.to_vec(wide), TOLERANCE, &what("out"));
    // Sums of exact products in f32.
    assert_close(&machine.get_floats(F32, lse), &t_lse.to_vec(per_head), 1e-5, &what("lse"));

    let gradients = cuda::Gradients { q: d_q, k: d_k, v: d_v };
    for launch in cuda::backward(d_out, operands, on_device, heads, gradients, delta) {
        machine.run(&launch);
    }
    for (found, expected, len, part) in
        [(d_q, &t_dq, wide, "d_q"), (d_k, &t_dk, narrow, "d_k"), (d_v, &t_dv, narrow, "d_v")]
    {
        assert_close(&machine.get_floats(Bf16, found), &expected.to_vec(len), TOLERANCE, &what(part));
    }
}

#[test]
fn attention_of_one_token_and_of_odd_lengths_equals_the_cpu() {
    check((1, 1, 64), &[(1, None)]);
    check((2, 2, 64), &[(67, None)]);
    check((1, 1, 64), &[(3, None), (129, None), (1, None)]);
}

#[test]
fn attention_over_deep_trees_equals_the_cpu() {
    // A chain, branches of branches, and children that are not behind their parent.
    let chain: Vec<_> = (0..12usize).map(|i| (1 + i * 7 % 5, i.checked_sub(1))).collect();
    check((2, 1, 64), &chain);
    check(
        (4, 2, 64),
        &[(70, None), (5, Some(0)), (9, None), (66, Some(0)), (3, Some(1)), (2, Some(2)), (33, Some(3))],
    );
}

#[test]
fn attention_with_every_group_size_equals_the_cpu() {
    for group in 1..=8 {
        check((2 * group, 2, 64), &[(13, None), (6, Some(0)), (4, Some(0))]);
    }
}

#[test]
fn attention_with_every_head_size_equals_the_cpu() {
    for dim in cuda::HEAD_DIMS {
        check((3, 1, dim), &[(35, None), (20, Some(0)), (11, Some(0))]);
    }
}
