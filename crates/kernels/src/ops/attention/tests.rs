use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

/// Two products and an exponential in f32 over up to 120 keys.
const TOLERANCE: f64 = 1e-5;

struct Case {
    heads: Heads,
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
    Case { heads, segments, q: random.normal(wide), k: random.normal(narrow), v: random.normal(narrow) }
}

fn run_forward(c: &Case) -> (Tensor, Tensor) {
    let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
    let mut out = Tensor::zeros(Device::Cpu, c.q.len());
    let mut lse = Tensor::zeros(Device::Cpu, c.segments.tokens() * c.heads.query);
    forward(&tensor(&c.q), &tensor(&c.k), &tensor(&c.v), &c.segments, c.heads, &mut out, &mut lse);
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
        let c = case(heads, &list, i as u64);
        let (out, _) = run_forward(&c);
        let expected = reference::forward(&widen(&c.q), &widen(&c.k), &widen(&c.v), &c.segments, c.heads);
        assert_close(out.cpu(), &expected, TOLERANCE, &format!("case {i}"));
    }
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
        let c = case(heads, &list, 10 + i as u64);
        let d_out = Random::new(99).normal(c.q.len());
        let (out, lse) = run_forward(&c);
        let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
        let (q, k, v) = (tensor(&c.q), tensor(&c.k), tensor(&c.v));
        let mut d =
            [tensor(&vec![7.0; c.q.len()]), tensor(&vec![7.0; c.k.len()]), tensor(&vec![7.0; c.k.len()])];
        let mut workspace =
            Tensor::zeros(Device::Cpu, backward_workspace(Placement::Cpu, c.segments.tokens(), c.heads));
        let [d_q, d_k, d_v] = &mut d;
        backward(
            &tensor(&d_out),
            Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse },
            &c.segments,
            c.heads,
            Gradients { q: d_q, k: d_k, v: d_v },
            &mut workspace,
        );
        let (wq, wk, wv) = (widen(&c.q), widen(&c.k), widen(&c.v));
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            weighted_sum(&reference::forward(q, k, v, &c.segments, c.heads), &d_out)
        };
        let expected = [
            finite_difference(&wq, |x| loss(x, &wk, &wv)),
            finite_difference(&wk, |x| loss(&wq, x, &wv)),
            finite_difference(&wv, |x| loss(&wq, &wk, x)),
        ];
        for ((found, expected), name) in d.iter().zip(&expected).zip(["q", "k", "v"]) {
            assert_close(found.cpu(), expected, TOLERANCE, &format!("case {i}, gradient of {name}"));
        }
    }
}

#[test]
fn attention_through_a_cache_equals_attention_over_the_whole() {
    let c = case((4, 2, 8), &[(70, None)], 20);
    let (whole, _) = run_forward(&c);
    let tensor = |v: &[f32]| Tensor::from_slice(Device::Cpu, v);
    let width = 32;
    for past in [0, 1, 13, 69] {
        // The new rows stand after other rows in the stream.
        let rows = 70 - past;
        let mut q = vec![5.0; 2 * width];
        q.extend_from_slice(&c.q[past * width..]);
        let mut out = Tensor::zeros(Device::Cpu, q.len());
        forward_cached(&tensor(&q), 2, rows, &tensor(&c.k), &tensor(&c.v), past, c.heads, &mut out);
        assert_close(
            &out.cpu()[2 * width..],
            &widen(&whole.cpu()[past * width..]),
            1e-6,
            &format!("past {past}"),
        );
        assert!(out.cpu()[..2 * width].iter().all(|&v| v == 0.0));
    }
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
