use super::*;
use crate::ops::matmul::FEW_ROWS;
use crate::random;
use crate::tensor::Half;

fn tensor(len: usize, seed: u64) -> Tensor {
    let values: Vec<f32> = (0..len).map(|i| random::normal(seed, i as u64)).collect();
    Tensor::from_slice(Device::Cpu, &values)
}

/// Adapters of several ranks, some without factors of an output, for rows with gaps between them; factors of f32 beside others of
/// 16 bits, in registers and not.
#[test]
fn each_row_has_the_terms_of_its_adapter_and_no_other() {
    terms_of_rows(70, [33, 96]);
    terms_of_rows(96, [32, 160]);
}

fn terms_of_rows(inputs: usize, widths: [usize; 2]) {
    let rows = 40;
    let x = tensor(rows * inputs, 1);
    for few in [1, 5, FEW_ROWS, 20] {
        let of = [0..few.min(3), 4..4 + few, 30..31, 33..40];
        let ranks = [[3, 8], [1, 1], [0, 16], [5, 0]];
        let factors: Vec<(Tensor, [Tensor; 2])> = ranks
            .iter()
            .enumerate()
            .map(|(i, ranks)| {
                let b_t =
                    [0, 1].map(|output| tensor(ranks[output] * widths[output], 10 + (2 * i + output) as u64));
                let mut all = (tensor((ranks[0] + ranks[1]) * inputs, 100 + i as u64), b_t);
                if let Some(half) = [None, Some(Half::Bf16), Some(Half::F16), None][i] {
                    all.1
                        .iter_mut()
                        .chain([&mut all.0])
                        .for_each(|factor| factor.narrow(half).expect("small values"));
                }
                all
            })
            .collect();
        let adapters: Vec<RowsOf<'_>> = of
            .iter()
            .zip(&factors)
            .zip(ranks)
            .enumerate()
            .map(|(i, ((rows, (a, b_t)), ranks))| {
                let part = |output: usize| {
                    let first = if output == 0 { 0 } else { ranks[0] };
                    Part { output, first, rank: ranks[output], b_t: &b_t[output] }
                };
                let parts = (0..2).map(part).filter(|part| part.rank > 0).collect();
                let (rank, scale) = (ranks[0] + ranks[1], [1.0, 2.0, 0.5, 1.0][i]);
                RowsOf { rows: rows.clone(), a, rank, scale, parts }
            })
            .collect();
        let start = [tensor(rows * widths[0], 2), tensor(rows * widths[1], 3)];
        let mut found = start.each_ref().map(|start| Tensor::from_slice(Device::Cpu, start.cpu()));
        let mut u = Tensor::zeros(Device::Cpu, rows * 16);
        let [first, second] = &mut found;
        let mut outputs =
            [Output { values: first, width: widths[0] }, Output { values: second, width: widths[1] }];
        add(&x, inputs, &adapters, &mut u, &mut outputs);

        for (output, (found, start)) in found.iter().zip(&start).enumerate() {
            let width = widths[output];
            for row in 0..rows {
                let adapter = adapters.iter().find(|adapter| adapter.rows.contains(&row));
                let part = adapter.and_then(|of| of.parts.iter().find(|part| part.output == output));
                for column in 0..width {
                    let mut expected = f64::from(start.cpu()[row * width + column]);
                    if let (Some(adapter), Some(part)) = (adapter, part) {
                        for r in 0..part.rank {
                            let (mut a, mut b) = (vec![0.0; inputs], [0.0]);
                            adapter.a.read((part.first + r) * inputs, &mut a);
                            part.b_t.read(r * width + column, &mut b);
                            let x = &x.cpu()[row * inputs..][..inputs];
                            let dot: f64 = a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum();
                            expected += f64::from(adapter.scale) * dot * f64::from(b[0]);
                        }
                        let found = f64::from(found.cpu()[row * width + column]);
                        assert!((found - expected).abs() < 2e-4, "{found} for {expected}, row {row}");
                    } else {
                        assert_eq!(found.cpu()[row * width + column], start.cpu()[row * width + column]);
                    }
                }
            }
        }
    }
}

/// So an answer is the same whatever is beside it.
#[test]
fn rows_have_the_bits_of_products_of_their_adapter_alone() {
    // Sums of one block, and of several.
    for inputs in [576, 960, 1536, 4352] {
        assert_bits_of_adapters_alone(inputs);
    }
}

fn assert_bits_of_adapters_alone(inputs: usize) {
    let (width, rows, rank) = (100, FEW_ROWS, 8);
    let (x, a, b_t) = (tensor(rows * inputs, 1), tensor(rank * inputs, 2), tensor(rank * width, 3));
    let start = tensor(rows * width, 4);
    let adapter = |rows: Range<usize>| {
        let parts = vec![Part { output: 0, first: 0, rank, b_t: &b_t }];
        RowsOf { rows, a: &a, rank, scale: 2.0, parts }
    };
    let with = |adapters: &[RowsOf<'_>]| {
        let (mut u, mut out) =
            (Tensor::zeros(Device::Cpu, rows * rank), Tensor::from_slice(Device::Cpu, start.cpu()));
        add(&x, inputs, adapters, &mut u, &mut [Output { values: &mut out, width }]);
        out.to_vec(rows * width)
    };
    let mut u = Tensor::zeros(Device::Cpu, rows * rank);
    let term =
        Term { left: View::rows(&x, inputs), right: Right::View(View::rows(&a, inputs).t()), k: inputs };
    matmul::run(&mut [Product { scale: 2.0, ..Product::new(rows, rank, term, &mut u) }]);
    let mut expected = Tensor::from_slice(Device::Cpu, start.cpu());
    let term = Term { left: View::rows(&u, rank), right: Right::View(View::rows(&b_t, width)), k: rank };
    let product = Product::new(rows, width, term, &mut expected);
    matmul::run(&mut [Product { base: Base::Output, ..product }]);

    let expected = expected.to_vec(rows * width);
    assert_eq!(with(&[adapter(0..rows)]), expected);
    let one_each: Vec<RowsOf<'_>> = (0..rows).map(|row| adapter(row..row + 1)).collect();
    assert_eq!(with(&one_each), expected);
    assert_eq!(with(&[adapter(0..3), adapter(3..9), adapter(9..rows)]), expected);
}

#[test]
#[should_panic(expected = "rows in order")]
fn rows_that_two_adapters_have_are_refused() {
    let (x, a) = (Tensor::zeros(Device::Cpu, 12), Tensor::zeros(Device::Cpu, 4));
    let adapter = |rows| RowsOf { rows, a: &a, rank: 1, scale: 1.0, parts: Vec::new() };
    add(&x, 4, &[adapter(0..2), adapter(1..3)], &mut Tensor::zeros(Device::Cpu, 3), &mut []);
}
