//! Attention, forward and backward, against the f32 version for the CPU on the same operands.

use lorafit_kernels::Placement;
use lorafit_kernels::gpu::Float::{self, Bf16, F32};
use lorafit_kernels::gpu::TensorCores;
use lorafit_kernels::ops::attention::cuda::{self, DeviceTree, Operands, Tree};
use lorafit_kernels::ops::attention::{
    Continued, Gradients, Heads, Saved, Scores, Segment, Segments, backward, backward_workspace, forward,
    forward_cached,
};
use lorafit_kernels::ops::rope::cuda::turn;
use lorafit_kernels::ops::rope::{Angles, Rotation, Turn};

use crate::machine::Machine;
use crate::{FLOATS, assert_close, tensor, tolerance, values};

/// Of tensor cores: probabilities and score gradients are rounded to bf16 (2^-8) before their products, and the result once more; errors of
/// many summands cancel. Relative to the largest value.
const TOLERANCE: f32 = 1.0 / 128.0;

const CORES: [TensorCores; 2] = [TensorCores::Warps, TensorCores::Warpgroups];

/// Which kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernels {
    /// Of tensor cores, by warps.
    Mma,
    /// Of tensor cores, by warpgroups where they are.
    Warpgroups,
    /// Of values of a type.
    Plain(Float),
}

impl Kernels {
    fn float(self) -> Float {
        match self {
            Kernels::Mma | Kernels::Warpgroups => Bf16,
            Kernels::Plain(float) => float,
        }
    }

    fn cores(self) -> TensorCores {
        match self {
            Kernels::Warpgroups => TensorCores::Warpgroups,
            Kernels::Mma | Kernels::Plain(_) => TensorCores::Warps,
        }
    }

    /// The plain ones sum in another order and round the result once; in bf16, backward reads `out` rounded.
    fn tolerance(self) -> f32 {
        match self {
            Kernels::Plain(F32) => 2.0 * tolerance(F32),
            Kernels::Mma | Kernels::Warpgroups | Kernels::Plain(Bf16) => TOLERANCE,
        }
    }
}

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
fn check(kernels: Kernels, (query, key_value, dim): (usize, usize, usize), list: &[(usize, Option<usize>)]) {
    let heads = Heads { query, key_value, dim };
    check_scores(kernels, heads, Scores::of(heads), list);
}

#[track_caller]
fn check_scores(kernels: Kernels, heads: Heads, scores: Scores, list: &[(usize, Option<usize>)]) {
    let Some(mut machine) = Machine::new() else { return };
    let (float, tolerance) = (kernels.float(), kernels.tolerance());
    let Heads { query, key_value, dim } = heads;
    let segments = segments(list);
    let tokens = segments.tokens();
    let (wide, narrow, per_head) = (tokens * query * dim, tokens * key_value * dim, tokens * query);
    let [q, d_out] = [1, 2].map(|seed| values(float, seed, wide));
    let [k, v] = [3, 4].map(|seed| values(float, seed, narrow));
    let largest_d_out = d_out.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let what = |part: &str| {
        format!("{part}, {kernels:?}, heads {query}/{key_value} of {dim}, {scores:?}, segments {list:?}")
    };

    let [tq, tk, tv, td] = [&q, &k, &v, &d_out].map(|values| tensor(values));
    let [mut t_out, mut t_dq] = [0, 1].map(|_| tensor(&vec![0.0; wide]));
    let [mut t_dk, mut t_dv] = [0, 1].map(|_| tensor(&vec![0.0; narrow]));
    let mut t_lse = tensor(&vec![0.0; per_head]);
    forward(&tq, &tk, &tv, &segments, heads, scores, &mut t_out, &mut t_lse);
    let saved = Saved { q: &tq, k: &tk, v: &tv, out: &t_out, lse: &t_lse };
    let mut workspace = tensor(&vec![0.0; backward_workspace(Placement::Cpu, tokens, heads)]);
    // What tensor cores turn back themselves counts as turned.
    let rotation = Rotation::of_whole_heads(dim / 2);
    let angles: Vec<f32> = (0..tokens * (dim / 2)).map(|i| i as f32 * 0.37).collect();
    let [cos, sin] = [f32::cos, f32::sin].map(|of| angles.iter().map(|angle| of(*angle)).collect::<Vec<_>>());
    let mut parts = [&cos, &sin].into_iter();
    let t_angles = Angles::for_rotation(tokens, rotation, |_| tensor(parts.next().expect("two parts")));
    let turns = !matches!(kernels, Kernels::Plain(_)) && cuda::turns(heads, rotation);
    let turned = turns.then_some(&t_angles);
    let gradients = Gradients { q: &mut t_dq, k: &mut t_dk, v: &mut t_dv, turned };
    backward(&td, saved, &segments, heads, scores, gradients, &mut workspace);

    let tree = Tree::new(&segments, heads, kernels.cores());
    let on_device = DeviceTree { tree: &tree, parts: tree.bytes().map(|bytes| machine.put(&bytes)) };
    let [q, k, v, d_out] = [&q, &k, &v, &d_out].map(|values| machine.put_floats(float, values));
    let [out, d_q] = [0, 1].map(|_| machine.put_floats(float, &vec![9.0; wide]));
    let [d_k, d_v] = [0, 1].map(|_| machine.put_floats(float, &vec![9.0; narrow]));
    let [lse, delta] = [0, 1].map(|_| machine.put_floats(F32, &vec![9.0; per_head]));
    let operands = Operands { q, k, v, out, lse };
    machine.run(&match kernels {
        Kernels::Mma | Kernels::Warpgroups => cuda::forward(operands, on_device, heads, scores, None),
        Kernels::Plain(float) => cuda::plain_forward(float, operands, on_device, heads, scores),
    });
    assert_close(&machine.get_floats(float, out), &t_out.to_vec(wide), tolerance, &what("out"));
    // Sums of exact products in f32.
    assert_close(&machine.get_floats(F32, lse), &t_lse.to_vec(per_head), 1e-5, &what("lse"));

    let [cos, sin] = [&cos, &sin].map(|part| machine.put_floats(F32, part));
    let gradients = cuda::Gradients { q: d_q, k: d_k, v: d_v, turned: turns.then_some((cos, sin)) };
    let launches = match kernels {
        Kernels::Mma | Kernels::Warpgroups => {
            cuda::backward(d_out, operands, on_device, heads, scores, gradients, delta).to_vec()
        }
        Kernels::Plain(float) => {
            cuda::plain_backward(float, d_out, operands, on_device, heads, scores, gradients, delta).to_vec()
        }
    };
    for launch in launches {
        machine.run(&launch);
    }
    for (found, expected, len, part) in
        [(d_q, &t_dq, wide, "d_q"), (d_k, &t_dk, narrow, "d_k"), (d_v, &t_dv, narrow, "d_v")]
    {
        let (mut found, mut expected) = (machine.get_floats(float, found), expected.to_vec(len));
        if (tokens == 1 || scores.window == Some(1)) && part != "d_v" {
            // A token that sees only itself has a probability of one: what remains of these gradients is the rounding of
            // sums of products with `d_out`, so they are held against its size.
            found.push(largest_d_out);
            expected.push(largest_d_out);
        }
        assert_close(&found, &expected, tolerance, &what(part));
    }
}

/// The bits of everything that forward writes, of queries that are turned by a launch before or by it.
fn forward_of_turned(dim: usize, by_attention: bool, cores: TensorCores) -> Option<[Vec<f32>; 3]> {
    let mut machine = Machine::new()?;
    let heads = Heads { query: 6, key_value: 2, dim };
    let segments = segments(&[(35, None), (40, Some(0)), (11, Some(0))]);
    let tokens = segments.tokens();
    let (wide, narrow) = (tokens * heads.query * dim, tokens * heads.key_value * dim);
    let q = machine.put_floats(Bf16, &values(Bf16, 1, wide));
    let [k, v] = [2, 3].map(|seed| machine.put_floats(Bf16, &values(Bf16, seed, narrow)));
    let [out, lse] = [(Bf16, wide), (F32, tokens * heads.query)]
        .map(|(float, len)| machine.put_floats(float, &vec![9.0; len]));
    let angles: Vec<f32> = (0..tokens * (dim / 2)).map(|i| i as f32 * 0.37).collect();
    let [cos, sin] = [f32::cos, f32::sin]
        .map(|of| machine.put_floats(F32, &angles.iter().map(|angle| of(*angle)).collect::<Vec<_>>()));
    let rotation = Rotation::of_whole_heads(dim / 2);
    assert!(cuda::turns(heads, rotation), "heads of {dim}");
    if !by_attention {
        let shape = (tokens, [heads.query, 0]);
        machine.run(&turn(Bf16, [q, q.first(0)], (cos, sin), Turn::Forward, shape, rotation));
    }
    let tree = Tree::new(&segments, heads, cores);
    let on_device = DeviceTree { tree: &tree, parts: tree.bytes().map(|bytes| machine.put(&bytes)) };
    let operands = Operands { q, k, v, out, lse };
    let angles = by_attention.then_some((cos, sin));
    machine.run(&cuda::forward(operands, on_device, heads, Scores::of(heads), angles));
    Some([(Bf16, q), (Bf16, out), (F32, lse)].map(|(float, of)| machine.get_floats(float, of)))
}

#[test]
fn queries_that_attention_turns_have_the_bits_of_those_that_are_turned_before() {
    for cores in CORES {
        for dim in [64, 80, 96, 128] {
            let [by_itself, before] = [true, false].map(|by| forward_of_turned(dim, by, cores));
            assert_eq!(by_itself, before, "heads of {dim}, {cores:?}");
        }
    }
}

/// Forward where keys are `step` further along the queries from token to token.
fn check_forward_along_keys(dim: usize, step: f32, cores: TensorCores) {
    let Some(mut machine) = Machine::new() else { return };
    let heads = Heads { query: 2, key_value: 1, dim };
    let (scores, list) = (Scores::of(heads), [(201, None), (7, Some(0))]);
    let segments = segments(&list);
    let tokens = segments.tokens();
    let (wide, narrow, per_head) = (tokens * 2 * dim, tokens * dim, tokens * 2);
    let q = vec![1.0; wide];
    // Exact in bf16.
    let k: Vec<f32> = (0..narrow).map(|i| step * (i / dim) as f32).collect();
    let v = values(Bf16, 3, narrow);
    let [tq, tk, tv] = [&q, &k, &v].map(|values| tensor(values));
    let (mut t_out, mut t_lse) = (tensor(&vec![0.0; wide]), tensor(&vec![0.0; per_head]));
    forward(&tq, &tk, &tv, &segments, heads, scores, &mut t_out, &mut t_lse);

    let tree = Tree::new(&segments, heads, cores);
    let on_device = DeviceTree { tree: &tree, parts: tree.bytes().map(|bytes| machine.put(&bytes)) };
    let [q, k, v] = [&q, &k, &v].map(|values| machine.put_floats(Bf16, values));
    let (out, lse) =
        (machine.put_floats(Bf16, &vec![9.0; wide]), machine.put_floats(F32, &vec![9.0; per_head]));
    machine.run(&cuda::forward(Operands { q, k, v, out, lse }, on_device, heads, scores, None));
    let what = |part: &str| format!("{part}, heads of {dim}, steps of {step}");
    assert_close(&machine.get_floats(Bf16, out), &t_out.to_vec(wide), TOLERANCE, &what("out"));
    assert_close(&machine.get_floats(F32, lse), &t_lse.to_vec(per_head), 1e-5, &what("lse"));
}

#[test]
fn scores_that_grow_or_fall_along_a_row_keep_its_powers_in_range() {
    // From one tile of keys to the next scores change by a little, by more than the powers of a row may, and by so much that
    // powers above the largest score of the tile before are not finite.
    for step in [1.0 / 512.0, 1.0 / 32.0, 1.0, -1.0 / 32.0, -1.0] {
        for (dim, cores) in [64, 128].into_iter().flat_map(|dim| CORES.map(|cores| (dim, cores))) {
            check_forward_along_keys(dim, step, cores);
        }
    }
}

/// Both ways of tensor cores.
const ON_TENSOR_CORES: [Kernels; 2] = [Kernels::Mma, Kernels::Warpgroups];

#[test]
fn attention_of_one_token_and_of_odd_lengths_equals_the_cpu() {
    for kernels in ON_TENSOR_CORES {
        check(kernels, (1, 1, 64), &[(1, None)]);
        check(kernels, (2, 2, 64), &[(67, None)]);
        check(kernels, (1, 1, 64), &[(3, None), (129, None), (1, None)]);
    }
}

#[test]
fn attention_over_deep_trees_equals_the_cpu() {
    // A chain, branches of branches, and children that are not behind their parent.
    let chain: Vec<_> = (0..12usize).map(|i| (1 + i * 7 % 5, i.checked_sub(1))).collect();
    for kernels in ON_TENSOR_CORES {
        check(kernels, (2, 1, 64), &chain);
        check(kernels, (4, 2, 64), &DEEP);
    }
    check(Kernels::Warpgroups, (2, 1, 128), &DEEP);
}

#[test]
fn attention_with_every_group_size_equals_the_cpu() {
    for kernels in ON_TENSOR_CORES {
        for group in 1..=8 {
            check(kernels, (2 * group, 2, 64), &[(13, None), (6, Some(0)), (4, Some(0))]);
        }
    }
}

#[test]
fn attention_with_every_head_size_equals_the_cpu() {
    for kernels in ON_TENSOR_CORES {
        for dim in cuda::HEAD_DIMS {
            check(kernels, (3, 1, dim), &[(35, None), (20, Some(0)), (11, Some(0))]);
        }
    }
}

#[test]
fn plain_attention_equals_the_cpu() {
    for kernels in FLOATS.map(Kernels::Plain) {
        check(kernels, (1, 1, 1), &[(1, None)]);
        check(kernels, (2, 2, 5), &[(67, None)]);
        check(kernels, (1, 1, 64), &[(3, None), (129, None), (1, None)]);
        check(
            kernels,
            (4, 2, 12),
            &[(70, None), (5, Some(0)), (9, None), (66, Some(0)), (3, Some(1)), (2, Some(2)), (33, Some(3))],
        );
        let chain: Vec<_> = (0..12usize).map(|i| (1 + i * 7 % 5, i.checked_sub(1))).collect();
        check(kernels, (6, 2, 33), &chain);
    }
}

#[test]
fn plain_attention_with_head_sizes_up_to_the_largest_equals_the_cpu() {
    for dim in [8, 31, 48, 65, 100, 128, 129, 250, cuda::MAX_HEAD_DIM] {
        for kernels in FLOATS.map(Kernels::Plain) {
            check(kernels, (3, 1, dim), &[(35, None), (20, Some(0)), (11, Some(0))]);
        }
    }
}

/// A cap, windows of one token, of less than a tile and of more than one, and both.
const CAPS_AND_WINDOWS: [(Option<f32>, Option<usize>); 5] =
    [(Some(2.0), None), (None, Some(1)), (None, Some(9)), (Some(5.0), Some(40)), (None, Some(136))];

/// Segments of several tiles, and some that continue them.
const DEEP: [(usize, Option<usize>); 7] =
    [(70, None), (5, Some(0)), (9, None), (66, Some(0)), (3, Some(1)), (2, Some(2)), (33, Some(3))];

#[test]
fn plain_attention_with_caps_and_windows_equals_the_cpu() {
    for kernels in FLOATS.map(Kernels::Plain) {
        for (softcap, window) in CAPS_AND_WINDOWS {
            // Scores of about 1.4, whatever the head has: larger ones saturate, and their gradient is only what outputs that are
            // rounded to bf16 leave of a difference.
            let scores = |dim: usize| Scores { scale: 1.4 / (dim as f32).sqrt(), softcap, window };
            check_scores(kernels, Heads { query: 4, key_value: 2, dim: 12 }, scores(12), &DEEP);
            check_scores(kernels, Heads { query: 1, key_value: 1, dim: 130 }, scores(130), &[(35, None)]);
        }
    }
}

#[test]
fn attention_on_tensor_cores_with_caps_and_windows_equals_the_cpu() {
    for (softcap, window) in CAPS_AND_WINDOWS {
        let scores = Scores { scale: 0.1, softcap, window };
        check_scores(Kernels::Mma, Heads { query: 4, key_value: 2, dim: 64 }, scores, &DEEP);
        check_scores(
            Kernels::Mma,
            Heads { query: 1, key_value: 1, dim: 64 },
            scores,
            &[(200, None), (3, None)],
        );
    }
    for dim in [80, 96, 128, 256] {
        let scores = Scores { scale: 0.1, softcap: Some(3.0), window: Some(20) };
        check_scores(
            Kernels::Mma,
            Heads { query: 2, key_value: 1, dim },
            scores,
            &[(67, None), (9, Some(0))],
        );
    }
}

#[test]
fn cached_attention_equals_the_cpu_however_its_keys_are_cut() {
    let Some(mut machine) = Machine::new() else { return };
    let cases = [
        // Tokens, earlier ones, query heads, key heads, values a head.
        (1, 0, 1, 1, 1),
        (1, 700, 6, 2, 20),
        (1, 127, 4, 4, 128),
        (3, 125, 6, 2, 64),
        // Parts of which the first rows see nothing.
        (40, 240, 2, 2, 7),
        (70, 0, 3, 1, 33),
        (5, 300, 2, 1, 256),
    ];
    for (float, (rows, past, query, key_value, dim)) in
        FLOATS.into_iter().flat_map(|float| cases.map(|case| (float, case)))
    {
        let heads = Heads { query, key_value, dim };
        let scores = Scores::of(heads);
        let (wide, cache) = (rows * query * dim, (past + rows) * key_value * dim);
        let (q, k, v) = (values(float, 5, wide), values(float, 6, cache), values(float, 7, cache));
        let mut expected = tensor(&vec![0.0; wide]);
        let (keys, values) = (&tensor(&k), &tensor(&v));
        let sequence = Continued { first_row: 0, rows, keys, values, past };
        forward_cached(&tensor(&q), &[sequence], heads, scores, &mut expected);
        let [q, k, v] = [&q, &k, &v].map(|values| machine.put_floats(float, values));
        let out = machine.put_floats(float, &vec![9.0; wide]);
        let workspace = machine.put(&vec![0xff; cuda::cached_workspace_bytes(rows, heads) as usize]);
        for launch in cuda::forward_cached(float, q, (k, v), (rows, past), heads, scores, out, workspace) {
            machine.run(&launch);
        }
        let what = format!("{float:?}, {rows} after {past}, heads {query}/{key_value} of {dim}");
        assert_close(&machine.get_floats(float, out), &expected.to_vec(wide), 2.0 * tolerance(float), &what);
    }
}
