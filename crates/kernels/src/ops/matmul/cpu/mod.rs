//! The product on the CPU: tiles of the output spread over the threads of the current rayon pool.
//!
//! A task owns a block of output columns (and, when there are many threads, a block of rows). It walks the
//! sum in blocks; for each it decodes and packs the right operand once, at a size that stays in
//! the second-level cache, and runs every strip of left rows against it. A weight is therefore decoded once
//! per product, and that cost is spread over all rows (tokens).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{Base, Product, Right, View};
use crate::tensor::{AlignedVec, Tensor};
use crate::weight::ComputeDtype;
pub(crate) use few::FEW_ROWS;
use isa::Isa;
pub(crate) use isa::{fma_peak, instruction_set};
pub(crate) use left::bytes as left_bytes;
use left::{Elements, Lefts, STRIP_ROWS, STRIP_STRIDE, copy_strip};
use operand::Single;
pub(crate) use pack::{RightCpu, Strided};
use simd::Simd;
use strips::{Offer, Tile, packed};
use tile::Columns;

#[cfg(target_arch = "x86_64")]
mod amx;
mod few;
mod int8;
mod isa;
mod left;
pub(crate) mod low_rank;
mod operand;
mod pack;
mod simd;
#[cfg(target_arch = "x86_64")]
mod stored_rows;
mod strips;
mod tile;

/// The largest block of the sum, a multiple of every quantisation block; few rows have longer ones ([`few::sum_cut`]). The output
/// is read and written once a block.
const MAX_K_BLOCK: usize = 768;
/// Elements of the packed right operand of a task, at most, of any instruction set.
const MAX_PACKED_ELEMENTS: usize = 128 * 1024;
/// Output columns of a task, at most.
const MAX_N_BLOCK: usize = 512;

/// Cuts a sum of `k` into even blocks of at most `longest`, multiples of `step`.
fn sum_blocks(k: usize, longest: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let block = k.div_ceil(k.div_ceil(longest).max(1)).next_multiple_of(step);
    (0..k).step_by(block.max(1)).map(move |start| start..(start + block).min(k))
}

/// Blocks of the sum are multiples of this: the block of most quantised formats, or the values that share a scale.
const fn sum_step(dtype: ComputeDtype) -> usize {
    match dtype {
        ComputeDtype::F32 | ComputeDtype::Bf16 => 32,
        ComputeDtype::Int8 => int8::BLOCK,
    }
}

/// Up to this many rows a right operand that can be read where it lies is not packed.
const UNPACKED_ROWS: usize = 24;
/// Rows of an unpacked right operand that are read for one panel after another: few enough for their pages to stay known
/// to the first-level translation buffer.
const UNPACKED_SUM: usize = 64;

/// One summand on the host.
#[derive(Clone, Copy)]
pub(crate) struct TermCpu<'a> {
    pub left: Strided<'a>,
    pub right: RightCpu<'a>,
    pub k: usize,
}

impl TermCpu<'_> {
    /// How the term is multiplied.
    fn dtype(&self) -> ComputeDtype {
        self.right.compute_dtype()
    }
}

/// A product on the host; see [`super::Product`].
pub(crate) struct ProductCpu<'a> {
    pub m: usize,
    pub n: usize,
    pub terms: &'a [TermCpu<'a>],
    pub bias: Option<&'a [f32]>,
    pub accumulate: bool,
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl<'a> View<'a> {
    fn cpu(self) -> Strided<'a> {
        Strided {
            values: &self.tensor.cpu()[self.offset..],
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        }
    }
}

/// See [`super::run`].
pub(super) fn run(products: &mut [Product<'_>]) {
    let isa = Isa::detect();
    let terms: Vec<Vec<TermCpu<'_>>> = products
        .iter()
        .map(|p| {
            p.terms
                .iter()
                .map(|t| TermCpu { left: t.left.cpu(), right: right_cpu(t.right, t.k, p.n), k: t.k })
                .collect()
        })
        .collect();
    let lefts = Lefts::make(isa, products.iter().zip(&terms).map(|(p, terms)| (p.m, &terms[..])));
    let shared: Vec<Shared<'_>> = products
        .iter_mut()
        .zip(&terms)
        .map(|(p, terms)| {
            let out_stride = p.out_stride;
            let product = ProductCpu {
                m: p.m,
                n: p.n,
                terms,
                bias: p.bias.map(Tensor::cpu),
                accumulate: matches!(p.base, Base::Output),
                out: &mut p.out.cpu_mut()[p.out_offset..],
                out_stride,
            };
            Shared::new(product, isa, &lefts)
        })
        .collect();

    let threads = rayon::current_num_threads();
    let mut tasks = Vec::new();
    for product in &shared {
        tasks.extend(product.tasks(threads));
    }
    run_tasks(&tasks, threads);
}

/// See [`super::add_scaled`].
pub(super) fn add_scaled(m: usize, n: usize, term: super::Term<'_>, scale: f32, out: &mut [f32]) {
    let (left, k) = (term.left.cpu(), term.k);
    let at = |row: usize, col: usize| left.values[row * left.row_stride + col * left.col_stride];
    let scaled: Vec<f32> = (0..m * k).map(|i| scale * at(i / k, i % k)).collect();
    let left = Strided { values: &scaled, row_stride: k, col_stride: 1 };
    let terms = [TermCpu { left, right: right_cpu(term.right, k, n), k }];
    run_serial(ProductCpu { m, n, terms: &terms, bias: None, accumulate: true, out, out_stride: n });
}

/// The right operand, `[k, n]`.
fn right_cpu(right: Right<'_>, k: usize, n: usize) -> RightCpu<'_> {
    match right {
        Right::WeightTransposed(w) => RightCpu::WeightTransposed(w.host()),
        Right::Weight(w) => RightCpu::Weight(w.host()),
        Right::View(v) => match v.tensor.halves() {
            None => RightCpu::Strided(v.cpu()),
            Some(halves) => RightCpu::of_halves(halves.from(v.offset), (v.row_stride, v.col_stride), k, n),
        },
    }
}

/// Runs tasks in order, each on the thread that comes for it first. A thread that finds none left helps those that still
/// run one.
fn run_tasks(tasks: &[Task<'_>], threads: usize) {
    let threads_used = threads.min(tasks.len());
    let taken = AtomicUsize::new(0);
    let unfinished = Unfinished(AtomicUsize::new(tasks.len()));
    let offers: Vec<Offer<'_>> = (0..threads_used).map(|_| Offer::default()).collect();
    offers.par_iter().with_max_len(1).for_each(|offer| {
        with_scratch(|scratch| {
            loop {
                let index = taken.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(index) else { break };
                let _finished = unfinished.one();
                // Threads that keep pace take turns, so this is the one that comes to this thread next.
                task.run(tasks.get(index + threads), offer, scratch);
            }
            let mut in_vain = 0;
            while unfinished.any() && in_vain < PATIENCE {
                let helped = offers.iter().filter(|offer| offer.help(scratch)).count();
                if helped > 0 {
                    in_vain = 0;
                } else {
                    in_vain += 1;
                    std::thread::yield_now();
                }
            }
        });
    });
}

/// How often a thread looks in vain for something to help with before it leaves: some times as long as it takes to pack a
/// block.
const PATIENCE: usize = 1000;

/// How many tasks are not yet finished.
struct Unfinished(AtomicUsize);

impl Unfinished {
    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// Counts one as finished when the result is dropped, which happens in a panic, too.
    fn one(&self) -> impl Drop + '_ {
        struct One<'a>(&'a AtomicUsize);
        impl Drop for One<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        One(&self.0)
    }
}

/// Computes one product on the calling thread, for ops that are parallel over something else.
pub(crate) fn run_serial(product: ProductCpu<'_>) {
    let lefts = Lefts::default();
    let shared = Shared::new(product, Isa::detect(), &lefts);
    let offer = Offer::default();
    with_scratch(|scratch| shared.tasks(1).for_each(|task| task.run(None, &offer, scratch)));
}

/// The width of one of `parts` even parts of `n` columns, in whole panels.
fn part_width(n: usize, parts: usize) -> usize {
    n.div_ceil(parts.max(1)).next_multiple_of(MAX_PANEL).max(MAX_PANEL)
}

/// Cuts an `[m, n]` output into tasks of at most `n_block` columns: by columns first, into as many parts as divide
/// evenly among the threads; by rows too, into whole strips, when that leaves threads idle.
fn cut(
    (m, strip): (usize, usize),
    n: usize,
    n_block: usize,
    threads: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let n_block = part_width(n, even_parts(n, n_block, threads));
    let n_parts = n.div_ceil(n_block);
    let m_parts = (threads / n_parts.max(1)).clamp(1, m.div_ceil(2 * strip).max(1));
    let m_block = m.div_ceil(m_parts).next_multiple_of(strip);
    (0..n_parts).flat_map(move |j| {
        (0..m.div_ceil(m_block.max(1)))
            .map(move |i| (i * m_block..((i + 1) * m_block).min(m), j * n_block..((j + 1) * n_block).min(n)))
    })
}

/// Parts of `n` columns with at most `n_block` each: the fewest that give every thread as many, unless whole panels make
/// the last of them much narrower and up to twice as many share the work better.
fn even_parts(n: usize, n_block: usize, threads: usize) -> usize {
    let panels = n.div_ceil(MAX_PANEL);
    let fewest = n.div_ceil(n_block).next_multiple_of(threads);
    // The columns of the thread that has most to do.
    let most = |parts: &usize| part_width(n, *parts) * parts.div_ceil(threads);
    (fewest..=2 * fewest).step_by(threads).filter(|parts| *parts <= panels).min_by_key(most).unwrap_or(panels)
}

/// A product whose output several tasks write, each its own tile.
struct Shared<'a> {
    m: usize,
    n: usize,
    terms: &'a [TermCpu<'a>],
    bias: Option<&'a [f32]>,
    accumulate: bool,
    out: *mut f32,
    out_stride: usize,
    isa: Isa,
    lefts: &'a Lefts,
    _out: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: tasks write disjoint tiles of `out` (see `cut`) and only read the rest.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Checks that every operand holds what the shape asks for, since tasks use raw pointers.
    fn new(p: ProductCpu<'a>, isa: Isa, lefts: &'a Lefts) -> Self {
        if p.m > 0 && p.n > 0 {
            assert!(p.out_stride >= p.n && p.out.len() >= (p.m - 1) * p.out_stride + p.n, "output too small");
            for t in p.terms.iter().filter(|t| t.k > 0) {
                let left = (p.m - 1) * t.left.row_stride + (t.k - 1) * t.left.col_stride;
                assert!(left < t.left.values.len(), "left operand too small");
                match t.right {
                    RightCpu::WeightTransposed(w) => {
                        assert!((w.rows(), w.cols()) == (p.n, t.k), "weight shape")
                    }
                    RightCpu::Weight(w) => assert!((w.rows(), w.cols()) == (t.k, p.n), "weight shape"),
                    RightCpu::Strided(s) => {
                        let last = (t.k - 1) * s.row_stride + (p.n - 1) * s.col_stride;
                        assert!(last < s.values.len(), "right operand too small");
                    }
                }
            }
            if let Some(bias) = p.bias {
                assert!(bias.len() == p.n, "bias length");
            }
        }
        Shared {
            m: p.m,
            n: p.n,
            terms: p.terms,
            bias: p.bias,
            accumulate: p.accumulate,
            out: p.out.as_mut_ptr(),
            out_stride: p.out_stride,
            isa,
            lefts,
            _out: std::marker::PhantomData,
        }
    }

    fn tasks(&self, threads: usize) -> impl Iterator<Item = Task<'_>> {
        cut((self.m, self.strip()), self.n, self.columns(), threads).map(|(rows, cols)| Task {
            product: self,
            rows,
            cols,
        })
    }

    /// Whether `term` is computed as [`few`] does. Decided by the whole product, so that the cut into tasks does not change the result.
    fn is_of_few_rows(&self, term: &TermCpu<'_>) -> bool {
        self.m <= FEW_ROWS && term.right.is_read_by_columns()
    }

    /// Rows that tasks are cut in multiples of, by the first term: strips of most instruction sets divide them.
    fn strip(&self) -> usize {
        const FEWEST: usize = 12;
        self.terms.first().map_or(FEWEST, |term| self.isa.kernels(term.dtype()).rows.max(FEWEST))
    }

    /// Output columns of a task, at most, by the first term.
    fn columns(&self) -> usize {
        self.terms.first().map_or(MAX_N_BLOCK, |term| self.isa.columns(term))
    }
}

/// A tile of a product's output.
struct Task<'a> {
    product: &'a Shared<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl<'a> Task<'a> {
    /// Computes the tile; `ahead` is the task that will probably follow on this thread. Threads without a task find in
    /// `offer` what they can help with.
    fn run(&self, ahead: Option<&Task<'a>>, offer: &Offer<'a>, scratch: &mut Scratch) {
        let Task { product, rows, cols } = self;
        debug_assert!(rows.end <= product.m && cols.end <= product.n);
        // The first block of a sum can write the output; any other adds to it.
        let sums = product.terms.iter().any(|t| t.k > 0);
        let mut overwrite = !product.accumulate && product.bias.is_none() && sums;
        if !overwrite && (!product.accumulate || product.bias.is_some()) {
            self.begin();
        }
        let mut blocks = self.blocks().peekable();
        while let Some(block) = blocks.next() {
            let to = Tile { product, rows: rows.clone(), accumulate: !overwrite };
            if product.is_of_few_rows(block.term) {
                (product.isa.few_rows().dot_rows)(&to, &block, scratch);
            } else if let Some(right) = unpacked_right(product, &block) {
                (product.isa.few_rows().unpacked)(&to, &block, right, scratch);
            } else {
                let next = blocks.peek().cloned().or_else(|| ahead.and_then(|task| task.blocks().next()));
                packed(to, block, next, offer, scratch);
            }
            overwrite = false;
        }
    }

    /// Writes what the sum is added to where its first block does not write the output itself: the bias or zero.
    fn begin(&self) {
        let Task { product, rows, cols } = self;
        for i in rows.clone() {
            // SAFETY: the tile lies inside the output, whose size `Shared::new` checked, and is this task's alone.
            let out = unsafe {
                let out = product.out.add(i * product.out_stride + cols.start);
                std::slice::from_raw_parts_mut(out, cols.len())
            };
            match (product.bias, product.accumulate) {
                (Some(bias), false) => out.copy_from_slice(&bias[cols.clone()]),
                (Some(bias), true) => {
                    for (o, b) in out.iter_mut().zip(&bias[cols.clone()]) {
                        *o += b;
                    }
                }
                (None, _) => out.fill(0.0),
            }
        }
    }

    /// The blocks of the sum, in order.
    fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let product = self.product;
        let Shared { m, n, terms, isa, lefts, .. } = product;
        let columns = product.columns();
        let cols = self.cols.clone();
        terms.iter().flat_map(move |term| {
            let (longest, step) = match product.is_of_few_rows(term) {
                true => few::sum_cut(term.k, term.left.col_stride == 1),
                false => (isa.longest_block(*n, columns, term.dtype()), sum_step(term.dtype())),
            };
            let left = lefts.of(*m, term);
            let cols = cols.clone();
            sum_blocks(term.k, longest, step).map(move |k| Block { term, left, k, cols: cols.clone() })
        })
    }
}

/// A part of a sum, as long as its right operand fits the second-level cache once it is packed.
#[derive(Clone)]
struct Block<'a> {
    term: &'a TermCpu<'a>,
    /// The elements of the left operand, if they were made before.
    left: Option<Elements<'a>>,
    k: Range<usize>,
    cols: Range<usize>,
}

/// Working memory of a thread, kept from task to task.
struct Scratch {
    /// Packed right operand of a task.
    panels: AlignedVec,
    /// Decoded rows before they are transposed into a panel.
    rows: AlignedVec,
    /// A strip of left rows, where they cannot be read in place.
    left: AlignedVec,
}

/// The widest panel and the tallest strip of any instruction set.
const MAX_PANEL: usize = 32;
const MAX_ROWS: usize = 32;
/// The most panels of a task: those of the instruction set with the narrowest, over the widest task.
const MAX_PANELS: usize = MAX_N_BLOCK / (simd::Portable::LANES * simd::Portable::VECTORS);

/// Values of decoded rows, at most: rows of a panel, or a block of rows that share scales.
const ROWS_VALUES: usize = {
    let of_panel = MAX_PANEL * (STRIP_STRIDE + RightCpu::ROW_PADDING);
    let of_block = int8::BLOCK * (RightCpu::BLOCK_COLUMNS + RightCpu::ROW_PADDING);
    if of_panel > of_block { of_panel } else { of_block }
};

fn with_scratch(body: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        body(scratch.get_or_insert_with(|| Scratch {
            panels: AlignedVec::zeros(
                MAX_PACKED_ELEMENTS + MAX_K_BLOCK * MAX_PANEL + MAX_PANELS * pack::PANEL_PADDING,
            ),
            rows: AlignedVec::zeros(ROWS_VALUES),
            left: AlignedVec::zeros(MAX_ROWS * STRIP_STRIDE),
        }));
    });
}

/// The right operand of `block`, if it is better read where it lies than packed: it is a matrix of whole panels, and so few
/// rows are multiplied by it that packing it would take as long. Decided by the whole product, as in [`Task::run`].
fn unpacked_right<'a>(product: &Shared<'_>, block: &Block<'a>) -> Option<Strided<'a>> {
    let few = product.m <= UNPACKED_ROWS && block.term.dtype() == ComputeDtype::F32;
    match block.term.right.in_place() {
        RightCpu::Strided(s) if s.is_read_in_place() && few && product.n.is_multiple_of(MAX_PANEL) => Some(s),
        _ => None,
    }
}

/// Adds one block of the sum, or writes it, with the right operand read where it lies.
///
/// # Safety
/// The processor has `S`, and no other thread touches the tile.
#[inline(always)]
unsafe fn unpacked<S: Simd>(to: &Tile<'_>, block: &Block<'_>, right: Strided<'_>, scratch: &mut Scratch) {
    let (Tile { product, rows, accumulate }, Block { term, k, cols, .. }) = (to, block);
    let strips = || (rows.start..rows.end).step_by(S::ROWS).map(|i| i..(i + S::ROWS).min(rows.end));
    let lefts = &mut scratch.panels;
    for (strip, to) in strips().zip(lefts.chunks_exact_mut(STRIP_ROWS * STRIP_STRIDE)) {
        copy_strip::<Single<S>>(term.left, strip, k.clone(), to);
    }
    for first in k.clone().step_by(UNPACKED_SUM) {
        let elements = UNPACKED_SUM.min(k.end - first);
        for (n, width) in pack::panels::<S>(cols.clone()) {
            for (number, strip) in strips().enumerate() {
                let left = &lefts[number * STRIP_ROWS * STRIP_STRIDE + first - k.start..];
                let right_values = &right.values[first * right.row_stride + n.start..];
                // SAFETY: the processor has the set, by the caller; the left rows were copied above; `Shared::new` checked the
                // right operand; the output tile is inside this task's.
                unsafe {
                    let args = tile::Args {
                        elements,
                        left: left.as_ptr(),
                        left_stride: STRIP_STRIDE,
                        right: right_values.as_ptr(),
                        right_stride: right.row_stride,
                        out: product.out.add(strip.start * product.out_stride + n.start),
                        out_stride: product.out_stride,
                        accumulate: *accumulate || first > k.start,
                    };
                    S::tile(strip.len(), Columns::InPlace { ahead: width }, &args);
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Every instruction set of this processor, for the tests of the product.
    use super::*;

    /// Runs a product once per instruction set and gives the name with each result.
    pub(in super::super) fn on_every_isa(
        m: usize,
        n: usize,
        terms: &[TermCpu<'_>],
        bias: Option<&[f32]>,
        accumulate: bool,
        out: &[f32],
        threads: usize,
    ) -> Vec<(String, Vec<f32>)> {
        Isa::available()
            .into_iter()
            .map(|isa| {
                let mut result = out.to_vec();
                let p = ProductCpu { m, n, terms, bias, accumulate, out: &mut result, out_stride: n };
                let lefts = Lefts::make(isa, std::iter::once((m, terms)));
                let shared = Shared::new(p, isa, &lefts);
                let tasks: Vec<Task<'_>> = shared.tasks(threads).collect();
                let offer = Offer::default();
                for (index, task) in tasks.iter().enumerate() {
                    with_scratch(|scratch| task.run(tasks.get(index + 1), &offer, scratch));
                }
                (format!("{isa:?}"), result)
            })
            .collect()
    }
}
