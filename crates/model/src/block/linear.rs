//! Projections that read the same input, with their adapters: the only place where a base weight and an
//! adapter meet.
//!
//! `Y_i = X W_i^T + bias_i + U_i B_i^T`, `U_i = scale_i drop_i(X) A_i^T` (LoRA, Hu et al. 2021, section 4.1).
//! q, k, v share an input, and gate and up do: their `A` factors lie stacked in one matrix, so that `U` of a
//! group is one product and the group's input gradient is one sum,
//! `dX = sum_i dY_i W_i + dU A`, `dU_i = scale_i dY_i B_i`, `dA = dU^T X`, `dB_i^T = U_i^T dY_i`.
//!
//! With DoRA, `Y_i = f_i (X W_i^T + U_i B_i^T) + bias_i`, where the factors `f_i` are one for each output and
//! [`crate::Model::prepare`] has set them; backward begins with the gradient of what is in parentheses
//! ([`LinearGroup::magnitude_gradients`]), so that all else is as without.
//!
//! With dropout every adapter sees its own masked input (as in PEFT), so the parts are computed one by one.
//! Of base weights that are trained, `dW_i = dY_i^T X` and `d bias_i = sum over rows of dY_i`.

use std::ops::Range;

use lorafit_kernels::ops::dropout;
use lorafit_kernels::ops::elementwise::{add_column_sums, scale_columns};
use lorafit_kernels::ops::low_rank::{self, GradientShape, TermGradients};
use lorafit_kernels::ops::magnitude;
use lorafit_kernels::ops::matmul::{self, Base, Product, Right, Term, View};
use lorafit_kernels::{ComputeDtype, Tensor, Weight};

use super::gradients::{LinearGradients, SiteGradients};
use super::pass::SiteAdapter;
use crate::adapter::{GroupGradients, LoraGroup, LoraPart, Magnitude};
use crate::vector::Vector;

/// One projection.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`, as stored or trained.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Vector>,
}

impl Linear {
    pub(crate) fn outputs(&self) -> usize {
        self.weight.rows()
    }
}

/// Projections of one input.
#[derive(Debug)]
pub(crate) struct LinearGroup {
    pub projections: Vec<Linear>,
}

/// What a pass over a group works with: its rows, their adapters, what forward leaves for backward, and where both work.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub rows: usize,
    pub adapter: SiteAdapter<'a>,
    /// `U`, scaled, `[rows, total rank]`: written by forward, read by backward.
    pub u: &'a mut Tensor,
    /// `dU`, `[rows, total rank]`.
    pub d_u: &'a mut Tensor,
    /// An input's worth of values, used only with dropout.
    pub dropped: &'a mut Tensor,
    /// What gradients of parts of a batch are summed from, in f32; empty where they are computed at once.
    pub parts: &'a mut Tensor,
}

impl LinearGroup {
    /// See [`crate::Model::set_compute_dtype`].
    pub(crate) fn set_compute_dtype(&mut self, dtype: ComputeDtype) {
        self.projections.iter_mut().for_each(|linear| linear.weight.set_compute_dtype(dtype));
    }

    /// Values per input row.
    pub(crate) fn inputs(&self) -> usize {
        self.projections[0].weight.cols()
    }

    /// Writes `outs[i]`, `[rows, out_i]`, for every projection, added to `base`; outputs with magnitudes are added to nothing.
    pub(crate) fn forward(&self, x: &Tensor, work: &mut Work<'_>, outs: &mut [&mut Tensor], base: Base<'_>) {
        self.low_rank_inputs(x, work);
        let (inputs, rows, adapter) = (self.inputs(), work.rows, work.adapter.lora);
        let mut products: Vec<Product<'_>> = self
            .projections
            .iter()
            .zip(&mut *outs)
            .enumerate()
            .map(|(i, (linear, out))| {
                let right = Right::WeightTransposed(&linear.weight);
                let frozen = Term { left: View::rows(x, inputs), right, k: inputs };
                let mut product = Product::new(rows, linear.outputs(), frozen, out);
                if let Some((lora, part)) = adapter.and_then(|l| Some((l, l.part_of(i)?))) {
                    product.terms.push(Term {
                        left: View::rows(work.u, lora.rank).from_col(part.first),
                        right: Right::View(View::rows(&part.b_t, linear.outputs())),
                        k: part.rank,
                    });
                    if part.magnitude.is_some() {
                        assert!(matches!(base, Base::Zero), "outputs with magnitudes are added to nothing");
                        return product;
                    }
                }
                product.bias = linear.bias.as_deref();
                product.base = base;
                product
            })
            .collect();
        matmul::run(&mut products);
        for part in adapter.iter().flat_map(|lora| &lora.parts) {
            if let Some(Magnitude { factors, .. }) = &part.magnitude {
                let bias = self.projections[part.projection].bias.as_deref();
                magnitude::apply(outs[part.projection], rows, factors, bias);
            }
        }
    }

    /// Adds `U_i B_i^T` of factors that are some rows' alone ([`crate::Adapter::is_of_rows`]) to what [`LinearGroup::forward`] wrote
    /// without an adapter. On the processor each row has the bits that it has where all rows have its factors, as long as both are
    /// few or both are many ([`matmul::FEW_ROWS`]). `u` has room for all rows with the largest rank.
    pub(crate) fn add_of_rows(
        &self,
        x: &Tensor,
        of_rows: &[(Range<usize>, &LoraGroup)],
        u: &mut Tensor,
        outs: &mut [&mut Tensor],
    ) {
        if of_rows.is_empty() {
            return;
        }
        let mut adapters = Vec::with_capacity(of_rows.len());
        for (rows, lora) in of_rows {
            let parts = lora.parts.iter().map(|part| {
                let LoraPart { projection: output, first, rank, b_t, .. } = part;
                low_rank::Part { output: *output, first: *first, rank: *rank, b_t }
            });
            let scale = lora.scale_of_all().expect("one scale for all parts");
            let (rows, parts) = (rows.clone(), parts.collect());
            adapters.push(low_rank::RowsOf { rows, a: &lora.a, rank: lora.rank, scale, parts });
        }
        let mut outputs: Vec<low_rank::Output<'_>> = self
            .projections
            .iter()
            .zip(outs)
            .map(|(linear, out)| low_rank::Output { values: out, width: linear.outputs() })
            .collect();
        low_rank::add(x, self.inputs(), &adapters, u, &mut outputs);
    }

    /// From the gradients of outputs with magnitudes to those of what the factors multiply, in place; adds to the gradients of
    /// the magnitudes. `outs[i]`, `[rows, out_i]`, is what forward wrote.
    pub(crate) fn magnitude_gradients(
        &self,
        d_outs: &mut [&mut Tensor],
        outs: &[&Tensor],
        (lora, rows): (&LoraGroup, usize),
        gradients: &mut Option<GroupGradients>,
    ) {
        let mut slots = gradients.as_mut().map(|gradients| gradients.magnitudes.iter_mut());
        for part in &lora.parts {
            let Some(Magnitude { values, factors, .. }) = &part.magnitude else { continue };
            let (d_out, out) = (&mut *d_outs[part.projection], outs[part.projection]);
            if let Some(d_magnitudes) = slots.as_mut().and_then(Iterator::next) {
                let bias = self.projections[part.projection].bias.as_deref();
                magnitude::gradient(d_out, out, rows, values, bias, d_magnitudes);
            }
            magnitude::apply(d_out, rows, factors, None);
        }
    }

    /// `U_i = scale_i drop_i(X) A_i^T` for all parts, where there are some.
    pub(crate) fn low_rank_inputs(&self, x: &Tensor, work: &mut Work<'_>) {
        let SiteAdapter { lora: Some(lora), mask } = work.adapter else { return };
        let (inputs, rows) = (self.inputs(), work.rows);
        let a = View::rows(&lora.a, inputs);
        let Some(mask) = mask else {
            let term = Term { left: View::rows(x, inputs), right: Right::View(a.t()), k: inputs };
            let (product, of_all) = (Product::new(rows, lora.rank, term, work.u), lora.scale_of_all());
            matmul::run(&mut [Product { scale: of_all.unwrap_or(1.0), ..product }]);
            for part in lora.parts.iter().filter(|_| of_all.is_none()) {
                scale_columns(work.u, rows, lora.rank, part.first..part.first + part.rank, part.scale);
            }
            return;
        };
        for part in &lora.parts {
            dropout::forward(x, mask.derive(part.projection as u64), rows * inputs, work.dropped);
            let left = View::rows(work.dropped, inputs);
            let term = Term { left, right: Right::View(a.from_row(part.first).t()), k: inputs };
            let (product, scale) = (Product::new(rows, part.rank, term, work.u), part.scale);
            let (out_offset, out_stride) = (part.first, lora.rank);
            matmul::run(&mut [Product { out_offset, out_stride, scale, ..product }]);
        }
    }

    /// Adds the gradients that need no input: of `B` and the biases. From `d_outs[i]`, `[rows, out_i]`; leaves `dU` in `work`.
    pub(crate) fn output_gradients(
        &self,
        d_outs: &[&Tensor],
        gradients: &mut SiteGradients,
        work: &mut Work<'_>,
    ) {
        let rows = work.rows;
        if let (Some(lora), Some(gradients)) = (work.adapter.lora, &mut gradients.adapter) {
            for (part, d_b_t) in lora.parts.iter().zip(&mut gradients.b_t) {
                let width = self.projections[part.projection].outputs();
                low_rank::output_gradients(TermGradients {
                    shape: GradientShape { rows, width, rank: part.rank },
                    d_out: d_outs[part.projection],
                    u: work.u,
                    d_u: work.d_u,
                    first: part.first,
                    stride: lora.rank,
                    scale: part.scale,
                    b_t: &part.b_t,
                    d_b_t,
                    workspace: work.parts,
                });
            }
        }
        for ((linear, d_out), gradients) in
            self.projections.iter().zip(d_outs).zip(&mut gradients.projections)
        {
            if let Some(d_bias) = &mut gradients.bias {
                add_column_sums(d_out, rows, linear.outputs(), d_bias);
            }
        }
    }

    /// Adds the gradients that forward's input `x` is needed for: of `A` and the weights. `work` has `dU` of the same `d_outs`.
    pub(crate) fn input_side_gradients(
        &self,
        d_outs: &[&Tensor],
        x: &Tensor,
        gradients: &mut SiteGradients,
        work: &mut Work<'_>,
    ) {
        if let (Some(lora), Some(gradients)) = (work.adapter.lora, &mut gradients.adapter) {
            self.a_gradients(x, lora, gradients, work);
        }
        self.weight_gradients(d_outs, x, work.rows, &mut gradients.projections);
    }

    /// Overwrites `d_x`, `[rows, in]`, or with `accumulate` adds to it, after [`LinearGroup::output_gradients`] of the same
    /// `d_outs`.
    pub(crate) fn input_gradient(
        &self,
        d_outs: &[&Tensor],
        work: &mut Work<'_>,
        d_x: &mut Tensor,
        accumulate: bool,
    ) {
        let (inputs, rows, SiteAdapter { lora, mask }) = (self.inputs(), work.rows, work.adapter);
        let mut terms: Vec<Term<'_>> = self
            .projections
            .iter()
            .zip(d_outs)
            .map(|(linear, d_out)| Term {
                left: View::rows(d_out, linear.outputs()),
                right: Right::Weight(&linear.weight),
                k: linear.outputs(),
            })
            .collect();
        if let (Some(lora), None) = (lora, mask) {
            let right = Right::View(View::rows(&lora.a, inputs));
            terms.push(Term { left: View::rows(work.d_u, lora.rank), right, k: lora.rank });
        }
        let first = terms[0];
        let base = if accumulate { Base::Output } else { Base::Zero };
        matmul::run(&mut [Product { terms, base, ..Product::new(rows, inputs, first, d_x) }]);
        if let (Some(lora), Some(mask)) = (lora, mask) {
            for part in &lora.parts {
                let left = View::rows(work.d_u, lora.rank).from_col(part.first);
                let right = Right::View(View::rows(&lora.a, inputs).from_row(part.first));
                let term = Term { left, right, k: part.rank };
                matmul::run(&mut [Product::new(rows, inputs, term, work.dropped)]);
                dropout::backward(work.dropped, mask.derive(part.projection as u64), rows * inputs, d_x);
            }
        }
    }

    /// Adds `dY_i^T X` where weights are trained.
    fn weight_gradients(
        &self,
        d_outs: &[&Tensor],
        x: &Tensor,
        rows: usize,
        gradients: &mut [LinearGradients],
    ) {
        let inputs = self.inputs();
        let mut products = Vec::new();
        for ((linear, d_out), gradients) in self.projections.iter().zip(d_outs).zip(gradients) {
            let outputs = linear.outputs();
            if let Some(d_weight) = &mut gradients.weight {
                let left = View::rows(d_out, outputs).t();
                let term = Term { left, right: Right::View(View::rows(x, inputs)), k: rows };
                products
                    .push(Product { base: Base::Output, ..Product::new(outputs, inputs, term, d_weight) });
            }
        }
        matmul::run(&mut products);
    }

    /// Adds `dA` to `gradients`, from `dU` in `work`.
    fn a_gradients(&self, x: &Tensor, lora: &LoraGroup, gradients: &mut GroupGradients, work: &mut Work<'_>) {
        let (inputs, rows) = (self.inputs(), work.rows);
        let d_u_t = View::rows(work.d_u, lora.rank).t();
        match work.adapter.mask {
            None => {
                let term = Term { left: d_u_t, right: Right::View(View::rows(x, inputs)), k: rows };
                let product = Product::new(lora.rank, inputs, term, &mut gradients.a);
                matmul::run(&mut [Product { base: Base::Output, ..product }]);
            }
            Some(mask) => {
                for part in &lora.parts {
                    dropout::forward(x, mask.derive(part.projection as u64), rows * inputs, work.dropped);
                    let right = Right::View(View::rows(work.dropped, inputs));
                    let term = Term { left: d_u_t.from_row(part.first), right, k: rows };
                    let product = Product::new(part.rank, inputs, term, &mut gradients.a);
                    let out_offset = part.first * inputs;
                    matmul::run(&mut [Product { base: Base::Output, out_offset, ..product }]);
                }
            }
        }
    }
}
