//! Strips of left rows against a packed block of the right operand.
//!
//! A task that has packed a block offers its strips to threads that have no task left. Cores of one machine differ in speed
//! from moment to moment, tasks are large, and without help all others would wait for the slowest.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{RwLock, TryLockError};

use super::isa::Kernels;
use super::left::{STRIP_STRIDE, copy_strip};
use super::operand::Operand;
use super::simd::Simd;
use super::tile::Columns;
use super::{Block, MAX_PANEL, MAX_ROWS, Scratch, Shared, pack, tile};

/// Where the product of a block goes.
pub(super) struct Tile<'a> {
    pub(super) product: &'a Shared<'a>,
    pub(super) rows: Range<usize>,
    /// Add to the output instead of overwriting it.
    pub(super) accumulate: bool,
}

/// A block with its right operand packed, of which threads take strips of left rows, one at a time.
pub(super) struct Strips<'a> {
    pub(super) block: Block<'a>,
    to: Tile<'a>,
    /// The block whose right operand is to come into the cache meanwhile.
    next: Option<Block<'a>>,
    /// The packed right operand; see [`pack::RightCpu::pack`].
    panels: *const f32,
    /// How many strips there are.
    count: usize,
    /// How many of them threads have come for.
    taken: AtomicUsize,
}

// SAFETY: strips write disjoint rows of the task's tile; `panels` is only read.
unsafe impl Sync for Strips<'_> {}
// SAFETY: as above.
unsafe impl Send for Strips<'_> {}

impl Strips<'_> {
    /// Multiplies strips until none is left. `left` is working memory of the thread.
    fn multiply_all(&self, left: &mut [f32]) {
        (self.kernels().strips)(self, left);
    }

    /// What multiplies them.
    fn kernels(&self) -> &'static Kernels {
        self.to.product.isa.kernels(self.block.term.dtype())
    }

    /// See [`Strips::multiply_all`].
    ///
    /// # Safety
    /// The processor has the instruction set of `O`, which packed the block, and no other thread writes this tile but
    /// through `self`.
    #[inline(always)]
    pub(super) unsafe fn run<O: Operand>(&self, left: &mut [f32]) {
        loop {
            let number = self.taken.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                break;
            }
            // SAFETY: by the caller; this thread alone has taken the strip.
            unsafe { self.multiply::<O>(number, left) }
        }
    }

    /// Multiplies strip `number`. Meanwhile the right operand of the next block comes into the cache.
    ///
    /// # Safety
    /// As [`Strips::run`].
    #[inline(always)]
    unsafe fn multiply<O: Operand>(&self, number: usize, scratch: &mut [f32]) {
        let Strips { to: Tile { product, rows, accumulate }, block, next, panels, .. } = self;
        let Block { term, left: made, k, cols } = block;
        let elements = O::elements(k.len());
        let strip = |number: usize| {
            let at = |number: usize| (rows.start + number * O::Simd::ROWS).min(rows.end);
            at(number)..at(number + 1)
        };
        let after = strip(number + 1);
        let strip = strip(number);
        let left = term.left;
        let (left_ptr, left_stride) = if let Some(made) = made {
            let first = O::elements(k.start);
            made.prefetch(after, first..first + elements);
            made.from(strip.start, first)
        } else if O::AS_THEY_ARE && left.is_read_in_place() {
            (left.values[strip.start * left.row_stride + k.start..].as_ptr(), left.row_stride)
        } else {
            copy_strip::<O>(left, strip.clone(), k.clone(), scratch);
            (scratch.as_ptr(), STRIP_STRIDE)
        };
        let panel_count = pack::panels::<O::Simd>(cols.clone()).count();
        // SAFETY: the processor has the set, by the caller; the guard of the strip before was dropped at its end.
        let _ready = unsafe { O::Simd::ready(strip.len()) };
        let mut at = 0;
        for (panel, (n, width)) in pack::panels::<O::Simd>(cols.clone()).enumerate() {
            // A little at a time: what is asked for at once has to wait for free line buffers.
            if let Some(Block { term, k, cols, .. }) = next {
                let part = number * panel_count + panel;
                term.right.prefetch(k.clone(), cols.clone(), part, self.count * panel_count);
            }
            // SAFETY: the processor has the set, by the caller. Every left row has `elements` values, in the operand that
            // `Shared::new` checked or in what was made of it; the panels were packed; the output tile is inside this task's.
            unsafe {
                let out = product.out.add(strip.start * product.out_stride + n.start);
                let columns = if width > O::Simd::LANES { Columns::Full } else { Columns::Narrow };
                let args = tile::Args {
                    elements,
                    left: left_ptr,
                    left_stride,
                    right: panels.add(at),
                    right_stride: width,
                    out,
                    out_stride: product.out_stride,
                    accumulate: *accumulate,
                };
                if n.len() == width {
                    O::tile(strip.len(), columns, &args);
                } else {
                    let mut edge = [0.0f32; MAX_ROWS * MAX_PANEL];
                    let whole =
                        tile::Args { out: edge.as_mut_ptr(), out_stride: width, accumulate: false, ..args };
                    O::tile(strip.len(), columns, &whole);
                    for r in 0..strip.len() {
                        for c in 0..n.len() {
                            let to = out.add(r * product.out_stride + c);
                            let before = if *accumulate { *to } else { 0.0 };
                            *to = before + edge[r * width + c];
                        }
                    }
                }
            }
            at += pack::panel_values(elements, width);
        }
    }
}

/// What a thread offers to others while it multiplies: nothing, or the strips of the block it has packed.
#[derive(Default)]
pub(super) struct Offer<'a>(RwLock<Option<Strips<'a>>>);

impl<'a> Offer<'a> {
    /// Multiplies strips of the offer, if there are any left. Tells whether there were.
    pub(super) fn help(&self, scratch: &mut Scratch) -> bool {
        // While it is locked for writing there is nothing to do; after a panic there is no use.
        let Ok(offer) = self.0.try_read() else { return false };
        let Some(strips) = &*offer else { return false };
        let any = strips.taken.load(Ordering::Relaxed) < strips.count;
        if any {
            strips.multiply_all(&mut scratch.left);
        }
        any
    }

    /// Changes the offer. Waits for those that help with the one before.
    fn set(&self, strips: Option<Strips<'a>>) {
        loop {
            // Somebody helps for the time of a strip at most, which is shorter than to sleep and be woken; where threads
            // outnumber cores, the helper may be waiting for this one.
            match self.0.try_write() {
                Ok(mut offer) => {
                    *offer = strips;
                    break;
                }
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Poisoned(_)) => panic!("another thread panicked in this product"),
            }
        }
    }
}

/// Adds one block of the sum, or writes it, by packing the right operand and running tiles, with whoever helps. The tile
/// of the output belongs to the calling thread.
pub(super) fn packed<'a>(
    to: Tile<'a>,
    block: Block<'a>,
    next: Option<Block<'a>>,
    offer: &Offer<'a>,
    scratch: &mut Scratch,
) {
    let kernels = to.product.isa.kernels(block.term.dtype());
    (kernels.pack)(&block, scratch);
    let panels = scratch.panels.as_ptr();
    let count = to.rows.len().div_ceil(kernels.rows);
    offer.set(Some(Strips { block, to, next, panels, count, taken: AtomicUsize::new(0) }));
    if let Some(strips) = &*offer.0.read().expect("nobody panicked") {
        strips.multiply_all(&mut scratch.left);
    }
    // The panels are packed anew after this.
    offer.set(None);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::super::left::Lefts;
    use super::super::{Isa, ProductCpu, RightCpu, Strided, Task, TermCpu, with_scratch};
    use super::*;

    #[test]
    fn what_another_thread_helps_with_has_the_same_bits() {
        let (m, n, k) = (601, 70, 1100);
        let values = |len: usize, by: f32| (0..len).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
        let (x, y) = (values(m * k, 0.1), values(k * n, 0.3));
        let left = Strided { values: &x, row_stride: k, col_stride: 1 };
        let right = RightCpu::Strided(Strided { values: &y, row_stride: n, col_stride: 1 });
        let terms = [TermCpu { left, right, k }];
        let lefts = Lefts::default();
        // Runs the product as one task, while `helper` is called with its offer until it is done.
        let run = |helper: &(dyn Fn(&Offer<'_>) + Sync)| {
            let mut out = vec![0.0; m * n];
            let product = ProductCpu {
                m,
                n,
                terms: &terms,
                bias: None,
                accumulate: false,
                out: &mut out,
                out_stride: n,
            };
            let shared = Shared::new(product, Isa::detect(), &lefts);
            let tasks: Vec<Task<'_>> = shared.tasks(1).collect();
            let (offer, done) = (Offer::default(), AtomicBool::new(false));
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        helper(&offer);
                    }
                });
                with_scratch(|scratch| tasks.iter().for_each(|task| task.run(None, &offer, scratch)));
                done.store(true, Ordering::Release);
            });
            assert!(offer.0.into_inner().expect("nobody panicked").is_none(), "an offer ends with its block");
            out
        };
        let alone = run(&|_| std::thread::yield_now());
        let helped = AtomicUsize::new(0);
        // On a busy machine the other thread may come too late again and again, so it gets a minute.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let together = run(&|offer| {
                with_scratch(|scratch| {
                    helped.fetch_add(offer.help(scratch).into(), Ordering::Relaxed);
                });
            });
            assert!(alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()));
            if helped.load(Ordering::Relaxed) > 10 {
                return;
            }
        }
        panic!("the other thread never helped");
    }
}
