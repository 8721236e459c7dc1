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

use super::{Product, Right, View};
use crate::tensor::{AlignedVec, Tensor};
use crate::weight::ComputeDtype;
pub(crate) use left::bytes as left_bytes;
use left::{Elements, Lefts, STRIP_ROWS, STRIP_STRIDE, copy_strip};
use operand::{Operand, Paired, Rounded, Single};
pub(crate) use pack::{RightCpu, Strided};
use simd::Simd;

mod left;
mod operand;
mod pack;
mod simd;
mod tile;

/// The largest block of the sum, a multiple of every quantisation block.
const MAX_K_BLOCK: usize = 512;
/// Elements of the packed right operand of a task, at most, of any instruction set.
const MAX_PACKED_ELEMENTS: usize = 128 * 1024;
/// Output columns of a task, at most.
const MAX_N_BLOCK: usize = 512;

/// Cuts a sum of `k` into even blocks of at most `longest`.
fn sum_blocks(k: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let block = k.div_ceil(k.div_ceil(longest).max(1)).next_multiple_of(K_STEP);
    (0..k).step_by(block.max(1)).map(move |start| start..(start + block).min(k))
}

/// Blocks of the sum are multiples of this, the block of most quantised formats.
const K_STEP: usize = 32;

/// Up to this many rows the right operand is read row by row instead of being packed.
const FEW_ROWS: usize = 4;

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
                .map(|t| TermCpu {
                    left: t.left.cpu(),
                    right: match t.right {
                        Right::WeightTransposed(w) => RightCpu::WeightTransposed(w),
                        Right::Weight(w) => RightCpu::Weight(w),
                        Right::View(v) => RightCpu::Strided(v.cpu()),
                    },
                    k: t.k,
                })
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
                accumulate: p.accumulate,
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

/// Runs tasks in order, each on the thread that comes for it first.
fn run_tasks(tasks: &[Task<'_>], threads: usize) {
    let taken = AtomicUsize::new(0);
    (0..threads.min(tasks.len())).into_par_iter().with_max_len(1).for_each(|_| {
        with_scratch(|scratch| {
            loop {
                let index = taken.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(index) else { break };
                // Threads that keep pace take turns, so this is the one that comes to this thread next.
                task.run(tasks.get(index + threads), scratch);
            }
        });
    });
}

/// Computes one product on the calling thread, for ops that are parallel over something else.
pub(crate) fn run_serial(product: ProductCpu<'_>) {
    let lefts = Lefts::default();
    let shared = Shared::new(product, Isa::detect(), &lefts);
    with_scratch(|scratch| {
        for task in shared.tasks(1) {
            task.run(None, scratch);
        }
    });
}

/// The width of one of `parts` even parts of `n` columns, in whole panels.
fn part_width(n: usize, parts: usize) -> usize {
    n.div_ceil(parts.max(1)).next_multiple_of(MAX_PANEL).max(MAX_PANEL)
}

/// Cuts an `[m, n]` output into tasks of at most `n_block` columns: by columns first, into as many parts as divide
/// evenly among the threads; by rows too when that leaves threads idle.
fn cut(
    m: usize,
    n: usize,
    n_block: usize,
    threads: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let n_block = part_width(n, even_parts(n, n_block, threads));
    let n_parts = n.div_ceil(n_block);
    let m_parts = (threads / n_parts.max(1)).clamp(1, m.div_ceil(2 * MAX_ROWS).max(1));
    let m_block = m.div_ceil(m_parts).next_multiple_of(MAX_ROWS);
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
        cut(self.m, self.n, self.columns(), threads).map(|(rows, cols)| Task { product: self, rows, cols })
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

impl Task<'_> {
    /// Computes the tile; `ahead` is the task that will probably follow on this thread.
    fn run(&self, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
        self.product.isa.run_task(self, ahead, scratch);
    }

    /// The blocks of the sum, in order.
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let Shared { m, n, terms, isa, lefts, .. } = self.product;
        let columns = self.product.columns();
        terms.iter().flat_map(move |term| {
            let longest = isa.longest_block(*n, columns, term.dtype());
            let left = lefts.of(*m, term);
            sum_blocks(term.k, longest).map(move |k| Block { term, left, k, cols: self.cols.clone() })
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
const MAX_ROWS: usize = 12;
/// The most panels of a task: those of the instruction set with the narrowest, over the widest task.
const MAX_PANELS: usize = MAX_N_BLOCK / (simd::Portable::LANES * simd::Portable::VECTORS);

fn with_scratch(body: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        body(scratch.get_or_insert_with(|| Scratch {
            panels: AlignedVec::zeros(
                MAX_PACKED_ELEMENTS + MAX_K_BLOCK * MAX_PANEL + MAX_PANELS * pack::PANEL_PADDING,
            ),
            rows: AlignedVec::zeros(MAX_PANEL * (MAX_K_BLOCK + RightCpu::ROW_PADDING)),
            left: AlignedVec::zeros(STRIP_ROWS * STRIP_STRIDE),
        }));
    });
}

/// The instruction sets there is a version for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With products of bf16 pairs; everything else is that of `Avx512`.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best this processor has.
    fn detect() -> Isa {
        *Isa::available().last().expect("portable is always there")
    }

    /// All this processor has, worst first.
    fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                found.push(Isa::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    found.push(Isa::Avx512);
                    if is_x86_feature_detected!("avx512bf16") {
                        found.push(Isa::Avx512Bf16);
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa::Neon);
        found
    }

    /// Values in a register.
    fn lanes(self) -> usize {
        match self {
            Isa::Portable => simd::Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => simd::x86::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => simd::x86::Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => simd::arm::Neon::LANES,
        }
    }

    /// Values in an element of operands that are multiplied as `dtype`.
    fn values(self, dtype: ComputeDtype) -> usize {
        match (self, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, ComputeDtype::Bf16) => Paired::<simd::x86::Avx512Bf16>::VALUES,
            _ => 1,
        }
    }

    /// Elements of the packed right operand of a task, at most: half of the second-level cache that most
    /// processors with the instruction set have at least (1 MiB with AVX-512, 512 KiB with the others).
    fn packed_elements(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => MAX_PACKED_ELEMENTS,
            _ => MAX_PACKED_ELEMENTS / 2,
        }
    }

    /// Output columns of a task, at most, in a product whose first term is `term`.
    ///
    /// A weight that is decoded along its rows (the input gradient) is cut wide, so that each row is read in long pieces,
    /// and so is a left operand that has to be copied, which is then done for more columns at once; every other operand
    /// is cut tall, which loads the output less often.
    fn columns(self, term: &TermCpu<'_>) -> usize {
        let wide = matches!(term.right.in_place(), RightCpu::Weight(_)) || !term.left.is_read_in_place();
        let tall = self.packed_elements() / MAX_K_BLOCK * self.values(term.dtype());
        if wide { MAX_N_BLOCK } else { tall.min(MAX_N_BLOCK) }
    }

    /// The length of a block of the sum, at most, in a product of `n` columns whose tasks have at most `columns`, with
    /// operands of `dtype`. The number of threads has no part in it, since it decides the order of the sum.
    fn longest_block(self, n: usize, columns: usize, dtype: ComputeDtype) -> usize {
        let width = part_width(n, n.div_ceil(columns));
        let block = (self.packed_elements() / width * self.values(dtype)).min(MAX_K_BLOCK);
        block - block % K_STEP
    }

    /// Makes elements of `from` for [`ComputeDtype::Bf16`], where [`Isa::values`] are two; see [`Operand::along_sum`].
    fn pairs_along_sum(self, from: &[f32], to: &mut [f32]) {
        match self {
            // SAFETY: `available` saw the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => unsafe { pairs_along_sum_avx512_bf16(from, to) },
            _ => unreachable!("{self:?} multiplies no pairs, given {} values for {}", from.len(), to.len()),
        }
    }

    /// See [`tile::registers_only`].
    fn registers_only(self, dtype: ComputeDtype, steps: usize) -> f32 {
        match (self, dtype) {
            // SAFETY: as in `run_task`.
            (Isa::Portable, _) => unsafe { tile::registers_only::<simd::Portable>(steps) },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => unsafe { registers_only_avx2(steps) },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) | (Isa::Avx512Bf16, ComputeDtype::F32) => unsafe {
                registers_only_avx512(steps)
            },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, ComputeDtype::Bf16) => unsafe { registers_only_avx512_bf16(steps) },
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, _) => unsafe { tile::registers_only::<simd::arm::Neon>(steps) },
        }
    }

    /// Computes `task`; `ahead` is the one that will probably follow on this thread.
    fn run_task(self, task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
        match self {
            // SAFETY: plain Rust.
            Isa::Portable => unsafe { run_task_rounded::<simd::Portable>(task, ahead, scratch) },
            // SAFETY (below): `available` saw the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_task_avx2(task, ahead, scratch) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_task_avx512(task, ahead, scratch) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => unsafe { run_task_avx512_bf16(task, ahead, scratch) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { run_task_rounded::<simd::arm::Neon>(task, ahead, scratch) },
        }
    }
}

/// The instruction set that products of `dtype` run on.
pub(crate) fn instruction_set(dtype: ComputeDtype) -> &'static str {
    match (Isa::detect(), dtype) {
        (Isa::Portable, _) => "portable",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => "avx2",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) | (Isa::Avx512Bf16, ComputeDtype::F32) => "avx512",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, ComputeDtype::Bf16) => "avx512bf16",
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, _) => "neon",
    }
}

/// Multiply-add rate of all threads of the current pool on operands of `dtype` in registers, in FLOP/s: what no product
/// on this machine can exceed.
pub(crate) fn fma_peak(dtype: ComputeDtype) -> f64 {
    const STEPS: usize = 2_000_000;
    let isa = Isa::detect();
    let multiply_adds = 12 * isa.lanes() * isa.values(dtype);
    let round = || {
        let start = std::time::Instant::now();
        rayon::broadcast(|_| std::hint::black_box(isa.registers_only(dtype, STEPS)));
        let flops = rayon::current_num_threads() * STEPS * multiply_adds * 2;
        flops as f64 / start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| round()).fold(0.0, f64::max)
}

/// For processors that do not multiply bf16: see [`Rounded`].
///
/// # Safety
/// As [`run_task`].
#[inline(always)]
unsafe fn run_task_rounded<S: Simd>(task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
    // SAFETY: by the caller.
    unsafe { run_task::<S, Rounded<S>>(task, ahead, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_task_avx2(task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
    // SAFETY: the features are enabled here.
    unsafe { run_task_rounded::<simd::x86::Avx2>(task, ahead, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_task_avx512(task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
    // SAFETY: the features are enabled here.
    unsafe { run_task_rounded::<simd::x86::Avx512>(task, ahead, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn run_task_avx512_bf16(task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
    use simd::x86::{Avx512, Avx512Bf16};
    // SAFETY: the features are enabled here.
    unsafe { run_task::<Avx512, Paired<Avx512Bf16>>(task, ahead, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_along_sum_avx512_bf16(from: &[f32], to: &mut [f32]) {
    type Pairs = Paired<simd::x86::Avx512Bf16>;
    let elements = MAX_K_BLOCK / Pairs::VALUES;
    for (i, from) in from.chunks(MAX_K_BLOCK).enumerate() {
        Pairs::along_sum(from, &mut to[i * elements..]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn registers_only_avx2(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { tile::registers_only::<simd::x86::Avx2>(steps) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn registers_only_avx512(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { tile::registers_only::<simd::x86::Avx512>(steps) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn registers_only_avx512_bf16(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { tile::registers_only::<simd::x86::Avx512Bf16>(steps) }
}

/// See [`Isa::run_task`]: `S` multiplies f32, `B` bf16.
///
/// # Safety
/// The processor has `S` and that of `B`, and no other thread touches this task's tile.
#[inline(always)]
unsafe fn run_task<S: Simd, B: Operand>(task: &Task<'_>, ahead: Option<&Task<'_>>, scratch: &mut Scratch) {
    let Task { product, rows, cols } = task;
    debug_assert!(rows.end <= product.m && cols.end <= product.n);
    // SAFETY: the tile lies inside the output, whose size `Shared::new` checked.
    unsafe {
        // Decided by the whole product, so that the cut into tasks does not change the result.
        let few =
            |term: &TermCpu<'_>| product.m <= FEW_ROWS && matches!(term.right, RightCpu::WeightTransposed(_));
        // The first block of a sum can write the output; any other adds to it.
        let first = product.terms.iter().find(|t| t.k > 0);
        let mut overwrite = !product.accumulate && product.bias.is_none() && first.is_some_and(|t| !few(t));
        if !overwrite && (!product.accumulate || product.bias.is_some()) {
            for i in rows.clone() {
                let out = product.out.add(i * product.out_stride + cols.start);
                let out = std::slice::from_raw_parts_mut(out, cols.len());
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
        let mut blocks = task.blocks().peekable();
        while let Some(block) = blocks.next() {
            if few(block.term) {
                dot_rows::<S>(product, rows.clone(), &block, scratch);
            } else if let Some(right) = unpacked_right(product, &block) {
                unpacked::<S>(product, rows.clone(), &block, right, !overwrite, scratch);
            } else {
                let next = blocks.peek().cloned().or_else(|| ahead.and_then(|task| task.blocks().next()));
                let rows = rows.clone();
                match block.term.dtype() {
                    ComputeDtype::F32 => {
                        packed::<Single<S>>(product, rows, &block, next, !overwrite, scratch);
                    }
                    ComputeDtype::Bf16 => packed::<B>(product, rows, &block, next, !overwrite, scratch),
                }
            }
            overwrite = false;
        }
    }
}

/// Adds one block of the sum, or writes it, by packing the right operand and running tiles. Meanwhile the right
/// operand of `next` comes into the cache.
///
/// # Safety
/// As [`run_task`].
#[inline(always)]
unsafe fn packed<O: Operand>(
    product: &Shared<'_>,
    rows: Range<usize>,
    block: &Block<'_>,
    next: Option<Block<'_>>,
    accumulate: bool,
    scratch: &mut Scratch,
) {
    let Block { term, left: made, k, cols } = block;
    term.right.pack::<O>(k.clone(), cols.clone(), &mut scratch.panels, &mut scratch.rows);

    let left = term.left;
    let elements = O::elements(k.len());
    let strips = rows.len().div_ceil(O::Simd::ROWS);
    let panels = pack::panels::<O::Simd>(cols.clone()).count();
    let in_place = O::AS_THEY_ARE && left.is_read_in_place();
    for (number, i) in (rows.start..rows.end).step_by(O::Simd::ROWS).enumerate() {
        let strip = i..(i + O::Simd::ROWS).min(rows.end);
        let (left_ptr, left_stride) = if let Some(made) = made {
            let first = k.start / O::VALUES;
            let next_strip = strip.end..(strip.end + O::Simd::ROWS).min(rows.end);
            made.prefetch(next_strip, first..first + elements);
            made.from(i, first)
        } else if in_place {
            (left.values[i * left.row_stride + k.start..].as_ptr(), left.row_stride)
        } else {
            copy_strip::<O>(left, strip.clone(), k.clone(), &mut scratch.left);
            (scratch.left.as_ptr(), STRIP_STRIDE)
        };
        let mut at = 0;
        for (panel, (n, width)) in pack::panels::<O::Simd>(cols.clone()).enumerate() {
            // A little at a time: what is asked for at once has to wait for free line buffers.
            if let Some(Block { term, k, cols, .. }) = &next {
                term.right.prefetch(k.clone(), cols.clone(), number * panels + panel, strips * panels);
            }
            // SAFETY: the panel was packed above; the output tile is inside this task's.
            unsafe {
                let right = scratch.panels.as_ptr().add(at);
                let out = product.out.add(i * product.out_stride + n.start);
                let args = tile::Args {
                    elements,
                    left: left_ptr,
                    left_stride,
                    right,
                    right_stride: width,
                    right_ahead: None,
                    out,
                    out_stride: product.out_stride,
                    accumulate,
                };
                if n.len() == width {
                    O::Simd::tile(strip.len(), width > O::Simd::LANES, args);
                } else {
                    let mut edge = [0.0f32; MAX_ROWS * MAX_PANEL];
                    let whole =
                        tile::Args { out: edge.as_mut_ptr(), out_stride: width, accumulate: false, ..args };
                    O::Simd::tile(strip.len(), width > O::Simd::LANES, whole);
                    for r in 0..strip.len() {
                        for c in 0..n.len() {
                            let to = out.add(r * product.out_stride + c);
                            let before = if accumulate { *to } else { 0.0 };
                            *to = before + edge[r * width + c];
                        }
                    }
                }
            }
            at += pack::panel_values(elements, width);
        }
    }
}

/// The right operand of `block`, if it is better read where it lies than packed: it is a matrix of whole panels, and so few
/// rows are multiplied by it that packing it would take as long. Decided by the whole product, as in [`run_task`].
#[inline(always)]
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
/// As [`run_task`].
#[inline(always)]
unsafe fn unpacked<S: Simd>(
    product: &Shared<'_>,
    rows: Range<usize>,
    block: &Block<'_>,
    right: Strided<'_>,
    accumulate: bool,
    scratch: &mut Scratch,
) {
    let Block { term, k, cols, .. } = block;
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
                // SAFETY: the output tile is inside this task's; `Shared::new` checked the right operand.
                unsafe {
                    let args = tile::Args {
                        elements,
                        left: left.as_ptr(),
                        left_stride: STRIP_STRIDE,
                        right: right_values.as_ptr(),
                        right_stride: right.row_stride,
                        // The next panel's part of the row.
                        right_ahead: Some(width),
                        out: product.out.add(strip.start * product.out_stride + n.start),
                        out_stride: product.out_stride,
                        accumulate: accumulate || first > k.start,
                    };
                    S::tile(strip.len(), width > S::LANES, args);
                }
            }
        }
    }
}

/// Adds one block of the sum for a few left rows: each weight row is decoded and multiplied once.
///
/// # Safety
/// As [`run_task`].
#[inline(always)]
unsafe fn dot_rows<S: Simd>(
    product: &Shared<'_>,
    rows: Range<usize>,
    block: &Block<'_>,
    scratch: &mut Scratch,
) {
    let Block { term, k, cols, .. } = block;
    let right = &mut scratch.rows[..k.len()];
    let left = &mut scratch.left;
    copy_strip::<Single<S>>(term.left, rows.clone(), k.clone(), left);
    for n in cols.clone() {
        term.right.column(n, k.clone(), right);
        for (i, row) in rows.clone().enumerate() {
            let sum = dot(&left[i * STRIP_STRIDE..i * STRIP_STRIDE + k.len()], right);
            // SAFETY: inside this task's tile.
            unsafe { *product.out.add(row * product.out_stride + n) += sum };
        }
    }
}

/// Sum of products, in 32 lanes that are added at the end, so that it vectorises in a fixed order.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
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
                for (index, task) in tasks.iter().enumerate() {
                    with_scratch(|scratch| task.run(tasks.get(index + 1), scratch));
                }
                (format!("{isa:?}"), result)
            })
            .collect()
    }
}
