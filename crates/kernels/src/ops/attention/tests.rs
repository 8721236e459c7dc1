use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

/// Every kind of score, with windows of one token, of several, and of a block and more.
const SCORES: [(f32, Option<f32>, Option<usize>); 6] = [
    (0.7, None, None),
    (0.4, Some(1.5), None),
    (0.5, None, Some(1)),
    (0.5, None, Some(4)),
    (0.6, Some(30.0), Some(3)),
    (0.5, Some(0.8), Some(50)),
];

/// Two products and an exponential in f32 over up to 120 keys.
const TOLERANCE: f64 = 1e-5;

struct Case {
    heads: Heads,
    scores: Scores,
    segments: Segments,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn case(heads: (usize, usize, usize), list: &[(usize, Option<usize>)], seed: u64) -> Case {
    let heads = Heads { query: heads.0, key_value: heads.1, dim: heads.2 };
    let mut start = 0;
    let segments = list
        .iter()
        .map(|&(len, parent)| {
            start += len;
            Segment { start: start - len, len, parent }
        })
        .collect();
    let segments = Segments::new(segments, start).expect("a stream");
    let mut random = Random::new(seed);
    let (wide, narrow) = (start * heads.query * heads.dim, start * heads.key_value * heads.dim);
    Case {
        heads,
        scores: Scores::of(heads),
        segments,
        q: random.normal(wide),
        k: random.normal(narrow),
        v: random.normal(narrow),
    }
}

fn run_forward(c: &Case) -> (Tensor, Tensor) {
    let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
    let mut out = Tensor::zeros(Device::Cpu, c.q.len());
    let mut lse = Tensor::zeros(Device::Cpu, c.segments.tokens() * c.heads.query);
    forward(&tensor(&c.q), &tensor(&c.k), &tensor(&c.v), &c.segments, c.heads, c.scores, &mut out, &mut lse);
    (out, lse)
}

#[test]
fn forward_equals_the_reference_on_packed_samples_and_trees() {
    for (i, (heads, list)) in [
        ((1, 1, 4), vec![(1, None)]),
        ((4, 2, 8), vec![(120, None)]),
        ((3, 1, 5), vec![(7, None), (60, None), (1, None)]),
        ((4, 4, 16), vec![(10, None), (5, Some(0)), (50, Some(0)), (3, Some(1)), (9, None), (2, Some(4))]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut c = case(heads, &list, i as u64);
        assert_forward_equals_the_reference(&c, &format!("case {i}"));
        for (scale, softcap, window) in SCORES {
            c.scores = Scores { scale, softcap, window };
            assert_forward_equals_the_reference(&c, &format!("case {i}, {:?}", c.scores));
        }
    }
}

#[track_caller]
fn assert_forward_equals_the_reference(c: &Case, what: &str) {
    let (out, _) = run_forward(c);
    let [q, k, v] = [&c.q, &c.k, &c.v].map(|values| widen(values));
    let expected = reference::forward([&q, &k, &v], &c.segments, c.heads, c.scores);
    assert_close(out.cpu(), &expected, TOLERANCE, what);
}

#[test]
fn backward_equals_finite_differences_of_the_reference() {
    for (i, (heads, list)) in [
        ((2, 1, 3), vec![(6, None)]),
        ((4, 2, 2), vec![(3, None), (2, Some(0)), (3, Some(0)), (2, Some(1)), (2, None)]),
        ((1, 1, 2), vec![(50, None)]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut c = case(heads, &list, 10 + i as u64);
        assert_backward_equals_finite_differences(&c, &format!("case {i}"));
        for (scale, softcap, window) in SCORES {
            c.scores = Scores { scale, softcap, window };
            assert_backward_equals_finite_differences(&c, &format!("case {i}, {:?}", c.scores));
        }
    }
}

#[track_caller]
fn assert_backward_equals_finite_differences(c: &Case, what: &str) {
    let d_out = Random::new(99).normal(c.q.len());
    let (out, lse) = run_forward(c);
    let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
    let (q, k, v) = (tensor(&c.q), tensor(&c.k), tensor(&c.v));
    let mut d = [tensor(&vec![7.0; c.q.len()]), tensor(&vec![7.0; c.k.len()]), tensor(&vec![7.0; c.k.len()])];
    let mut workspace =
        Tensor::zeros(Device::Cpu, backward_workspace(Placement::Cpu, c.segments.tokens(), c.heads));
    let [d_q, d_k, d_v] = &mut d;
    backward(
        &tensor(&d_out),
        Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse },
        &c.segments,
        c.heads,
        c.scores,
        Gradients { q: d_q, k: d_k, v: d_v, turned: None },
        &mut workspace,
    );
    let (wq, wk, wv) = (widen(&c.q), widen(&c.k), widen(&c.v));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| {
        weighted_sum(&reference::forward([q, k, v], &c.segments, c.heads, c.scores), &d_out)
    };
    let expected = [
        finite_difference(&wq, |x| loss(x, &wk, &wv)),
        finite_difference(&wk, |x| loss(&wq, x, &wv)),
        finite_difference(&wv, |x| loss(&wq, &wk, x)),
    ];
    for ((found, expected), name) in d.iter().zip(&expected).zip(["q", "k", "v"]) {
        // With a window of one token queries and keys have no gradient: what is found is rounding of `d_out`'s size.
        let mut found = found.cpu().to_vec();
        let mut expected = expected.clone();
        found.push(1.0);
        expected.push(1.0);
        assert_close(&found, &expected, TOLERANCE, &format!("{what}, gradient of {name}"));
    }
}

#[test]
fn attention_through_a_cache_equals_attention_over_the_whole() {
    let mut c = case((4, 2, 8), &[(70, None)], 20);
    assert_cache_equals_the_whole(&c);
    for (scale, softcap, window) in SCORES {
        c.scores = Scores { scale, softcap, window };
        assert_cache_equals_the_whole(&c);
    }
}

#[track_caller]
fn assert_cache_equals_the_whole(c: &Case) {
    let (whole, _) = run_forward(c);
    let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
    let width = 32;
    for past in [0, 1, 13, 69] {
        // The new rows stand after other rows in the stream.
        let rows = 70 - past;
        let mut q = vec![5.0; 2 * width];
        q.extend_from_slice(&c.q[past * width..]);
        let mut out = Tensor::zeros(Device::Cpu, q.len());
        let (keys, values) = (&tensor(&c.k), &tensor(&c.v));
        let sequence = Continued { first_row: 2, rows, keys, values, past };
        forward_cached(&tensor(&q), &[sequence], c.heads, c.scores, &mut out);
        assert_close(
            &out.cpu()[2 * width..],
            &widen(&whole.cpu()[past * width..]),
            1e-6,
            &format!("past {past}, {:?}", c.scores),
        );
        assert!(out.cpu()[..2 * width].iter().all(|&v| v == 0.0));
    }
}

#[test]
fn what_a_window_hides_does_not_matter() {
    let mut c = case((2, 1, 8), &[(130, None), (20, Some(0))], 21);
    c.scores.window = Some(30);
    let (before, _) = run_forward(&c);
    // The second segment sees the last 29 tokens of the first at most.
    for value in c.k[..101 * 8].iter_mut().chain(&mut c.v[..101 * 8]) {
        *value = f32::NAN;
    }
    let (after, _) = run_forward(&c);
    assert_eq!(after.cpu()[130 * 16..], before.cpu()[130 * 16..]);
    assert!(after.cpu()[129 * 16..130 * 16].iter().any(|v| v.is_nan()), "token 129 sees token 100");
}

#[test]
#[should_panic(expected = "a token sees itself")]
fn a_window_of_no_token_is_refused() {
    let mut c = case((1, 1, 2), &[(3, None)], 22);
    c.scores.window = Some(0);
    run_forward(&c);
}

#[test]
fn the_longest_path_is_counted_along_parents() {
    let c = case((1, 1, 1), &[(3, None), (5, Some(0)), (6, None), (1, Some(1)), (2, Some(0))], 23);
    assert_eq!(c.segments.longest_path(), 9);
    assert_eq!(Segments::single(0).longest_path(), 0);
}

#[test]
fn segments_that_do_not_form_a_stream_are_refused() {
    let s = |start, len, parent| Segment { start, len, parent };
    for (list, tokens, message) in [
        (vec![s(1, 3, None)], 4, "segment 0 starts at token 1 with 3 tokens, expected a start at 0"),
        (
            vec![s(0, 3, None), s(4, 1, None)],
            5,
            "segment 1 starts at token 4 with 1 tokens, expected a start at 3",
        ),
        (vec![s(0, 3, Some(0))], 3, "segment 0 comes before its parent"),
        (vec![s(0, 3, None)], 4, "segments cover 3 of 4 tokens"),
    ] {
        assert_eq!(Segments::new(list, tokens).expect_err("refused").to_string(), message);
    }
}
