//! How ops spread over the threads of the current rayon pool.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Values a task should touch at least, so that starting it is not what it costs.
const TASK_VALUES: usize = 16 * 1024;

/// Calls `body` for disjoint ranges that cover `0..rows`, in parallel. The cut does not depend on the
/// number of threads.
pub(crate) fn for_row_blocks(rows: usize, width: usize, body: impl Fn(Range<usize>) + Sync) {
    let block = (TASK_VALUES / width.max(1)).max(1);
    (0..rows.div_ceil(block)).into_par_iter().for_each(|i| body(i * block..((i + 1) * block).min(rows)));
}

/// A buffer of which several tasks write disjoint parts.
pub(crate) struct Shared<'a> {
    values: *mut f32,
    len: usize,
    _buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: the parts handed out are disjoint, by the contract of `part`.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(values: &'a mut [f32]) -> Self {
        Shared { values: values.as_mut_ptr(), len: values.len(), _buffer: PhantomData }
    }

    /// The values `range`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside the buffer");
        // SAFETY: inside the buffer, and disjoint by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(range.start), range.len()) }
    }
}
