//! Computing with rows of tokens that an adapter trains ([`TokenRows`]): they stand in for the model's rows.
//!
//! With `E` the embedding, `W` the head and `R` the rows of the tokens `t`: a token of `t` reads its row of `R` in place of `E`'s, and
//! its logit is `h . R_t` in place of `h . W_t`. Backward: `d_R` has the sum of the gradients of what was read, in the order of the
//! stream, and `d_logits[:, t]^T h`; `d_h = d_logits' W + d_logits[:, t] R`, where `d_logits'` is zero in the columns of `t`. Source: PEFT
//! 0.21 `TrainableTokensLayer` (`index_copy` of the rows into the matrix); here the matrix is not copied.

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::matmul::{self, Base, Product, Right, Term, View};
use lorafit_kernels::ops::{elementwise, embedding};

use crate::adapter::{TokenRows, TokenRun};
use crate::buffers::HeadBuffers;

impl TokenRows {
    fn width(&self) -> usize {
        self.values.cols()
    }

    /// Puts the rows of the tokens of `ids` that have one into `hidden`, `[ids, hidden]`. Overwrites `scratch`, which has room for as
    /// much.
    pub(crate) fn replace_embedded(&self, ids: &[u32], scratch: &mut Tensor, hidden: &mut Tensor) {
        let (places, rows) = self.found(ids);
        if rows.is_empty() {
            return;
        }
        embedding::forward(&self.values, &rows, scratch);
        let width = self.width();
        for (from, to) in places.into_iter().enumerate() {
            elementwise::copy_range(scratch, from * width, width, hidden, to as usize * width);
        }
    }

    /// Adds the gradient of what [`TokenRows::replace_embedded`] put there, in `d_hidden`, to `d_rows`. Overwrites `scratch`.
    pub(crate) fn embedding_backward(
        &self,
        ids: &[u32],
        d_hidden: &Tensor,
        scratch: &mut Tensor,
        d_rows: &mut Tensor,
    ) {
        let (places, rows) = self.found(ids);
        if rows.is_empty() {
            return;
        }
        elementwise::gather_rows(d_hidden, &places, self.width(), scratch);
        embedding::backward(scratch, &rows, self.width(), d_rows);
    }

    /// Puts the logits of the tokens in the place of those that the head gave, `[rows, vocab]`.
    pub(crate) fn replace_logits(&self, head: &mut HeadBuffers, rows: usize, vocab: usize) {
        let HeadBuffers { normed, logits, tokens: own, .. } = head;
        let (tokens, width) = (self.ids.len(), self.width());
        let left = View::rows(normed, width);
        let term = Term { left, right: Right::WeightTransposed(&self.values), k: width };
        matmul::run(&mut [Product::new(rows, tokens, term, own)]);
        for TokenRun { row, id, len } in self.runs() {
            elementwise::copy_columns(own, rows, tokens, row..row + len, logits, vocab, id);
        }
    }

    /// Takes the gradients of the tokens' logits out of those of all, where zeros stay, to `head.tokens`, and adds the gradient of the
    /// rows to `d_rows`.
    pub(crate) fn logits_backward(
        &self,
        head: &mut HeadBuffers,
        rows: usize,
        vocab: usize,
        d_rows: &mut Tensor,
    ) {
        let HeadBuffers { normed, logits: d_logits, tokens: own, .. } = head;
        let (tokens, width) = (self.ids.len(), self.width());
        for TokenRun { row, id, len } in self.runs() {
            elementwise::copy_columns(d_logits, rows, vocab, id..id + len, own, tokens, row);
            elementwise::scale_columns(d_logits, rows, vocab, id..id + len, 0.0);
        }
        let right = Right::View(View::rows(normed, width));
        let term = Term { left: View::rows(own, tokens).t(), right, k: rows };
        let product = Product::new(tokens, width, term, d_rows);
        matmul::run(&mut [Product { base: Base::Output, ..product }]);
    }

    /// The summand of the gradient of the head's input that the tokens have.
    pub(crate) fn input_term<'a>(&'a self, own: &'a Tensor) -> Term<'a> {
        let tokens = self.ids.len();
        Term { left: View::rows(own, tokens), right: Right::Weight(&self.values), k: tokens }
    }
}
