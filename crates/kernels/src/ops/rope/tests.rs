use super::*;
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};

#[test]
fn forward_and_backward_equal_the_reference_and_its_finite_differences() {
    let whole = Rotation::of_whole_heads(3);
    for (i, rotation) in [
        whole,
        Rotation { head_dim: 7, ..whole },
        Rotation { pairs: Pairs::Neighbours, ..whole },
        Rotation { pairs: Pairs::Neighbours, head_dim: 10, factor: 1.3, ..whole },
    ]
    .into_iter()
    .enumerate()
    {
        let what = |part: &str| format!("case {i}, {part}");
        let (heads, frequencies, positions) = (3, [1.0f32, 0.3, 0.01], [0u32, 7, 1, 1000]);
        let rows = positions.len();
        let len = rows * heads * rotation.head_dim;
        let mut random = Random::new(5);
        let (x, d_y) = (random.normal(len), random.normal(len));
        let zeros = |len| Tensor::zeros(Device::Cpu, len);
        let mut angles = Angles::for_rotation(rows + 2, rotation, zeros);
        angles.set(&positions, &frequencies);

        let input = Tensor::from_slice(Device::Cpu, &x);
        let mut y = Tensor::zeros(Device::Cpu, len);
        forward(&input, &angles, rows, heads, &mut y);
        let reference = |x: &[f64]| reference::forward(x, &positions, &frequencies, heads, rotation);
        assert_close(y.cpu(), &reference(&widen(&x)), 1e-6, &what("forward"));
        // As keys one head of each row, the first.
        let dim = rotation.head_dim;
        let first = |x: &[f32]| x.chunks(heads * dim).flat_map(|row| row[..dim].to_vec()).collect::<Vec<_>>();
        let (mut in_place, mut keys) = (input, Tensor::from_slice(Device::Cpu, &first(&x)));
        forward_in_place([&mut in_place, &mut keys], &angles, rows, [heads, 1]);
        assert_eq!(in_place.cpu(), y.cpu());
        assert_eq!(keys.cpu(), first(y.cpu()));

        let [mut d_x, mut d_keys] = [d_y.clone(), first(&d_y)].map(|d| Tensor::from_slice(Device::Cpu, &d));
        backward_in_place([&mut d_x, &mut d_keys], &angles, rows, [heads, 1]);
        assert_eq!(d_keys.cpu(), first(d_x.cpu()));
        let expected = finite_difference(&widen(&x), |x| weighted_sum(&reference(x), &d_y));
        assert_close(d_x.cpu(), &expected, 1e-6, &what("backward"));
    }
}

#[test]
#[should_panic(expected = "4 pairs in heads of 7 values")]
fn more_pairs_than_a_head_has_are_refused() {
    let rotation = Rotation { head_dim: 7, ..Rotation::of_whole_heads(4) };
    Angles::for_rotation(1, rotation, |len| Tensor::zeros(Device::Cpu, len));
}
