//! The shim, made safe: what an exchange reads and writes belongs to it until it is done, and to nobody any more if that is not
//! waited for.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

mod shim {
    use super::{c_char, c_int, c_void};

    unsafe extern "C" {
        pub fn lorafit_mpi_begin(rank: *mut c_int, size: *mut c_int) -> c_int;
        pub fn lorafit_mpi_end() -> c_int;
        pub fn lorafit_mpi_all_gather(own: *const c_void, bytes: c_int, all: *mut c_void) -> c_int;
        pub fn lorafit_mpi_all_gather_bytes(
            own: *const c_void,
            bytes: c_int,
            all: *mut c_void,
            counts: *const c_int,
            offsets: *const c_int,
        ) -> c_int;
        pub fn lorafit_mpi_all_to_all(
            values: *const f32,
            counts: *const c_int,
            offsets: *const c_int,
            received: *mut f32,
            received_counts: *const c_int,
            received_offsets: *const c_int,
        ) -> c_int;
        pub fn lorafit_mpi_all_gather_slices(
            values: *mut f32,
            counts: *const c_int,
            offsets: *const c_int,
        ) -> c_int;
        pub fn lorafit_mpi_is_done(done: *mut c_int) -> c_int;
        pub fn lorafit_mpi_error(code: c_int, text: *mut c_char, length: *mut c_int) -> c_int;
        pub fn lorafit_mpi_library(text: *mut c_char, length: *mut c_int) -> c_int;
    }
}

/// A code of MPI that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(c_int);

fn checked(code: c_int) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

/// Text that a function of MPI writes, of at most so many characters.
fn text(most: usize, write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let (mut bytes, mut length) = (vec![0_u8; most + 1], 0);
    match checked(write(bytes.as_mut_ptr().cast(), &mut length)) {
        Ok(()) => {
            bytes.truncate(usize::try_from(length).unwrap_or(0));
            String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ', '\n']).to_owned()
        }
        Err(Code(code)) => format!("code {code}"),
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: the text has room for the longest that MPI writes (MPI_MAX_ERROR_STRING is 512 at most).
        let said = text(8192, |text, length| unsafe { shim::lorafit_mpi_error(self.0, text, length) });
        f.write_str(&said)
    }
}

/// Counts and offsets, as MPI takes them.
#[derive(Debug)]
pub struct Layout {
    counts: Vec<c_int>,
    offsets: Vec<c_int>,
    len: usize,
}

impl Layout {
    /// Of slices of these lengths, one behind the other; `None` if they are longer than MPI can count.
    pub fn of(counts: impl Iterator<Item = usize>) -> Option<Self> {
        let mut layout = Layout { counts: Vec::new(), offsets: Vec::new(), len: 0 };
        for count in counts {
            layout.counts.push(c_int::try_from(count).ok()?);
            layout.offsets.push(c_int::try_from(layout.len).ok()?);
            layout.len = layout.len.checked_add(count)?;
        }
        Some(layout)
    }
}

/// What an exchange reads and writes.
#[derive(Debug)]
pub enum Exchange {
    /// The same number of bytes of each.
    Bytes { own: Vec<u8>, all: Vec<u8> },
    /// Bytes of each.
    ManyBytes { own: Vec<u8>, all: Vec<u8>, layout: Layout },
    /// A slice of values for each, and of each.
    ToAll { values: Vec<f32>, layout: Layout, received: Vec<f32>, of_own: Layout },
    /// A slice of values of each.
    Slices { values: Vec<f32>, layout: Layout },
}

/// MPI, which one thread of the process has: it is neither sent nor shared.
#[derive(Debug)]
pub struct Process {
    /// The number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// The exchange that is not done.
    open: RefCell<Option<Exchange>>,
    /// Whether all exchanges were waited for.
    is_whole: Cell<bool>,
    of_thread: PhantomData<*const ()>,
}

impl Process {
    /// Begins. A process does so once.
    pub fn begin() -> Result<Option<Self>, Code> {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        if BEGUN.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        let (mut rank, mut size) = (0, 0);
        // SAFETY: it is called once, and writes two numbers.
        checked(unsafe { shim::lorafit_mpi_begin(&mut rank, &mut size) })?;
        let number = |value: c_int| usize::try_from(value).unwrap_or(0);
        let (rank, size) = (number(rank), number(size));
        let (open, is_whole) = (RefCell::new(None), Cell::new(true));
        Ok(Some(Process { rank, size, open, is_whole, of_thread: PhantomData }))
    }

    /// Which MPI this is.
    pub fn library() -> String {
        // SAFETY: the text has room for the longest that MPI writes (MPI_MAX_LIBRARY_VERSION_STRING is 8192 at most).
        text(8192, |text, length| unsafe { shim::lorafit_mpi_library(text, length) })
    }

    /// Begins an exchange; there is none that is not done. What it needs is as long as all layouts say, of which each has an
    /// entry for each process.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn start(&self, mut exchange: Exchange) -> Result<(), Code> {
        let before = self.open.take();
        assert!(before.is_none() && self.is_whole.get(), "one exchange at a time");
        let n = self.size;
        let fits = |layout: &Layout, len: usize| layout.len == len && layout.counts.len() == n;
        let bytes = |bytes: &[u8]| c_int::try_from(bytes.len()).expect("messages are short");
        let code = match &mut exchange {
            Exchange::Bytes { own, all } => {
                assert_eq!(all.len(), own.len() * n);
                // SAFETY: `own` has that many bytes and `all` room for those of each. Both are kept until the exchange is
                // done, or for ever.
                unsafe {
                    shim::lorafit_mpi_all_gather(own.as_ptr().cast(), bytes(own), all.as_mut_ptr().cast())
                }
            }
            Exchange::ManyBytes { own, all, layout } => {
                assert!(fits(layout, all.len()) && layout.counts[self.rank] == bytes(own));
                // SAFETY: `all` has room for the bytes of each where the layout says. What is read and written, the layout
                // too, is kept until the exchange is done, or for ever.
                unsafe {
                    shim::lorafit_mpi_all_gather_bytes(
                        own.as_ptr().cast(),
                        bytes(own),
                        all.as_mut_ptr().cast(),
                        layout.counts.as_ptr(),
                        layout.offsets.as_ptr(),
                    )
                }
            }
            Exchange::ToAll { values, layout, received, of_own } => {
                assert!(fits(layout, values.len()) && fits(of_own, received.len()));
                // SAFETY: `values` has a slice for each process and `received` room for one of each where the layouts say. What
                // is read and written is kept until the exchange is done, or for ever.
                unsafe {
                    shim::lorafit_mpi_all_to_all(
                        values.as_ptr(),
                        layout.counts.as_ptr(),
                        layout.offsets.as_ptr(),
                        received.as_mut_ptr(),
                        of_own.counts.as_ptr(),
                        of_own.offsets.as_ptr(),
                    )
                }
            }
            Exchange::Slices { values, layout } => {
                assert!(fits(layout, values.len()));
                // SAFETY: `values` has a slice of each process where the layout says, and is kept until the exchange is done, or
                // for ever.
                unsafe {
                    shim::lorafit_mpi_all_gather_slices(
                        values.as_mut_ptr(),
                        layout.counts.as_ptr(),
                        layout.offsets.as_ptr(),
                    )
                }
            }
        };
        self.open.replace(Some(exchange));
        checked(code).inspect_err(|_| self.abandon())
    }

    /// What the exchange has written, if it is done.
    pub fn ended(&self) -> Result<Option<Exchange>, Code> {
        let mut done = 0;
        // SAFETY: a call that writes a number. It may read and write what the exchange has, which is kept.
        let asked = checked(unsafe { shim::lorafit_mpi_is_done(&mut done) });
        asked.inspect_err(|_| self.abandon())?;
        Ok(if done == 0 { None } else { self.open.take() })
    }

    /// No longer waits for the exchange. Its memory is never used for anything else, since somebody may still write there.
    pub fn abandon(&self) {
        self.is_whole.set(false);
        mem::forget(self.open.take());
    }

    /// Whether all exchanges were waited for.
    pub fn is_whole(&self) -> bool {
        self.is_whole.get()
    }
}

/// Ends, unless the others are gone: it would wait for them.
impl Drop for Process {
    fn drop(&mut self) {
        let open = self.open.take();
        if open.is_none() && self.is_whole.get() && !std::thread::panicking() {
            // SAFETY: it was begun, and nothing calls MPI any more.
            let _ = unsafe { shim::lorafit_mpi_end() };
        }
        mem::forget(open);
    }
}
