//! Products of matrices by cuBLASLt, which has matrices by columns: it is asked for the transposed product.
//!
//! Of the algorithms that it offers for a product, the fastest is found by running each, once for a class of products, and kept
//! in files (`choices.rs`). Where nothing can be kept, nothing is measured, and the first offer is taken: the
//! same device has to give the same bits in the next run. What the library refuses because operands are not aligned is
//! computed over aligned copies (`aligned.rs`).

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;
use std::time::Instant;

use super::aligned::{self, Room};
use super::choices::{Choices, Class};
use super::ffi::{self, Algorithm, CublasLt, Cuda, Handle, HeuristicResult, Status};
use super::library::{self, Opened, Wanted};
use super::user_cache;
use crate::gpu::{DeviceError, Factor, Float, Gemm, Matrix, Region};

/// Bytes that algorithms may use beside operands: what NVIDIA recommends for Hopper.
pub const WORKSPACE_BYTES: u64 = 32 << 20;

/// Algorithms that are asked for, of which the fastest is taken.
const OFFERS: usize = 8;

/// Values of a product's matrices together from which on its algorithms are measured: with fewer, the time of a launch decides.
const WORTH_MEASURING: u64 = 1 << 19;

/// What another algorithm has to take of the time of one that was offered before it.
const CLEARLY_FASTER: f64 = 0.97;

/// What the way of a product depends on: all of it but its addresses, of which it is how they are aligned.
type Key = (Gemm, [u32; 3]);

/// How a product is computed.
#[derive(Clone, Copy)]
enum Way {
    /// On its matrices.
    InPlace(Algorithm),
    /// On copies with aligned rows.
    OnCopies(Algorithm),
}

/// The library, with the algorithms that were chosen so far.
pub(super) struct Cublas {
    cuda: &'static Cuda,
    library: &'static Opened<CublasLt>,
    handle: Handle,
    stream: Handle,
    workspace: u64,
    choices: Option<Choices>,
    ways: HashMap<Key, Way>,
    /// Of aligned copies.
    room: Room,
}

// SAFETY: handles belong to the context, not to a thread.
unsafe impl Send for Cublas {}

impl fmt::Display for Cublas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it takes nothing and answers a number.
        let version = unsafe { (self.library.functions.cublasLtGetVersion)() };
        // 120803 is 12.8.3.
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        write!(f, "cuBLASLt {major}.{minor}.{patch} ({})", self.library.path.display())
    }
}

/// What the library answers unless it is success.
struct Refused(Status);

/// Why there is no product.
enum Fault {
    /// The library does not do it.
    Refused(Refused),
    /// The driver says so.
    Device(DeviceError),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Fault::Refused(refused)
    }
}

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Fault::Device(error)
    }
}

fn checked(status: Status) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "not initialized",
            3 => "allocation failed",
            7 => "invalid value",
            8 => "architecture mismatch",
            11 => "mapping error",
            13 => "execution failed",
            14 => "internal error",
            ffi::CUBLAS_STATUS_NOT_SUPPORTED => "not supported",
            _ => "an error without a name here",
        };
        write!(f, "{name} (cublasStatus_t {})", self.0)
    }
}

/// Ends the life of a description when it is dropped.
struct Owned(Handle, unsafe extern "C" fn(Handle) -> Status);

impl Owned {
    fn new(
        create: impl FnOnce(*mut Handle) -> Status,
        destroy: unsafe extern "C" fn(Handle) -> Status,
    ) -> Result<Self, Refused> {
        let mut made = ptr::null_mut();
        checked(create(&mut made))?;
        Ok(Owned(made, destroy))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the library, destroyed once. An error leaves nothing to be done.
        let _ = unsafe { (self.1)(self.0) };
    }
}

fn data_type(float: Float) -> c_int {
    match float {
        Float::F32 => ffi::CUDA_R_32F,
        Float::Bf16 => ffi::CUDA_R_16BF,
    }
}

/// The description of a matrix of `rows` x `cols`, whose stored rows are columns to the library.
fn layout(lt: &CublasLt, matrix: Matrix, rows: u64, cols: u64) -> Result<Owned, Refused> {
    let (stored_rows, stored_cols) = if matrix.transposed { (cols, rows) } else { (rows, cols) };
    let (float, stride) = (data_type(matrix.float), matrix.stride as i64);
    // SAFETY: where the description goes.
    let create =
        |made| unsafe { (lt.cublasLtMatrixLayoutCreate)(made, float, stored_cols, stored_rows, stride) };
    Owned::new(create, lt.cublasLtMatrixLayoutDestroy)
}

/// The largest power of two, up to 256, that an address is a multiple of.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// The descriptions of a product.
struct Described {
    operation: Owned,
    a: Owned,
    b: Owned,
    c: Owned,
}

impl Described {
    /// out^T = right^T . left^T, and a matrix by rows is its transpose by columns.
    fn of(lt: &CublasLt, gemm: &Gemm) -> Result<Self, Refused> {
        let Gemm { m, n, k, left, right, out, .. } = *gemm;
        // SAFETY: where the description goes.
        let create =
            |made| unsafe { (lt.cublasLtMatmulDescCreate)(made, ffi::CUBLAS_COMPUTE_32F, ffi::CUDA_R_32F) };
        let operation = Owned::new(create, lt.cublasLtMatmulDescDestroy)?;
        for (which, matrix) in
            [(ffi::CUBLASLT_MATMUL_DESC_TRANSA, right), (ffi::CUBLASLT_MATMUL_DESC_TRANSB, left)]
        {
            // CUBLAS_OP_T and CUBLAS_OP_N of cublasOperation_t.
            let how = c_int::from(matrix.transposed);
            // SAFETY: the library copies the four bytes.
            checked(unsafe {
                (lt.cublasLtMatmulDescSetAttribute)(operation.0, which, (&raw const how).cast(), 4)
            })?;
        }
        let (a, b, c) = (layout(lt, right, k, n)?, layout(lt, left, m, k)?, layout(lt, out, m, n)?);
        Ok(Described { operation, a, b, c })
    }
}

/// Addresses of a product's matrices.
#[derive(Clone, Copy)]
struct Addresses {
    left: u64,
    right: u64,
    /// What the product is added to; `out` where it is added to nothing.
    added: u64,
    out: u64,
}

impl Addresses {
    fn of(gemm: &Gemm, base: u64) -> Self {
        let at = |region: Region| base + region.offset;
        let Gemm { left, right, out, base: added, .. } = *gemm;
        Addresses {
            left: at(left.region),
            right: at(right.region),
            added: at(added.unwrap_or(out.region)),
            out: at(out.region),
        }
    }

    fn alignments(self) -> [u32; 3] {
        let [left, right, added, out] = [self.left, self.right, self.added, self.out].map(alignment);
        [left, right, out.min(added)]
    }
}

/// A device that products run on.
pub(super) struct On<'a> {
    /// Its driver.
    pub(super) cuda: &'static Cuda,
    /// Where they run, in order.
    pub(super) stream: Handle,
    /// Its name.
    pub(super) name: &'a str,
    /// Version of the driver.
    pub(super) driver: u32,
    /// Address of [`WORKSPACE_BYTES`] bytes.
    pub(super) workspace: u64,
}

impl Cublas {
    /// In the current context, which is of the device.
    pub(super) fn new(on: On<'_>) -> Result<Self, DeviceError> {
        let On { cuda, stream, name, driver, workspace } = on;
        let library = library::open(&Wanted::cublas_lt(driver))?;
        let library: &'static Opened<CublasLt> = Box::leak(Box::new(library));
        let mut handle = ptr::null_mut();
        // SAFETY: where the handle goes.
        checked(unsafe { (library.functions.cublasLtCreate)(&mut handle) }).map_err(|refused| {
            let doing = format!("starting cuBLASLt ({})", library.path.display());
            DeviceError::Failed { doing, error: refused.to_string() }
        })?;
        // SAFETY: it takes nothing and answers a number.
        let version = unsafe { (library.functions.cublasLtGetVersion)() };
        let machine = format!("{name}, driver {driver}, cuBLASLt {version}");
        let choices = user_cache::folder("products").and_then(|folder| Choices::new(folder, machine));
        let (ways, room) = (HashMap::new(), Room::new(cuda));
        Ok(Cublas { cuda, library, handle, stream, workspace, choices, ways, room })
    }

    /// Multiplies; regions count from the address `base`.
    pub(super) fn multiply(&mut self, gemm: &Gemm, base: u64) -> Result<(), DeviceError> {
        self.try_multiply(gemm, base).map_err(|fault| match fault {
            Fault::Device(error) => error,
            Fault::Refused(refused) => {
                let error = format!("{refused}, {self}");
                DeviceError::Failed { doing: format!("a product ({gemm:?})"), error }
            }
        })
    }

    fn try_multiply(&mut self, gemm: &Gemm, base: u64) -> Result<(), Fault> {
        let at = Addresses::of(gemm, base);
        let key = key(gemm, at);
        let way = match self.ways.get(&key) {
            Some(way) => *way,
            None => {
                let way = self.way(gemm, at)?;
                self.ways.insert(key, way);
                way
            }
        };
        match way {
            Way::InPlace(algorithm) => {
                let described = Described::of(&self.library.functions, gemm)?;
                self.run(&described, at, factors(gemm), &algorithm)?;
                Ok(())
            }
            Way::OnCopies(algorithm) => self.run_on_copies(gemm, base, &algorithm),
        }
    }

    /// How a product is computed that was not asked for before.
    fn way(&mut self, gemm: &Gemm, at: Addresses) -> Result<Way, Fault> {
        let described = Described::of(&self.library.functions, gemm)?;
        let offers = self.offers(&described, at.alignments())?;
        if !offers.is_empty() {
            return Ok(Way::InPlace(self.choose(gemm, at, &described, &offers)?));
        }
        let copies = aligned::padded(gemm);
        let described = Described::of(&self.library.functions, &copies)?;
        let offers = self.offers(&described, Addresses::of(&copies, 0).alignments())?;
        let first = offers.first().ok_or(Refused(ffi::CUBLAS_STATUS_NOT_SUPPORTED))?;
        Ok(Way::OnCopies(*first))
    }

    /// `out = sum added + factor left . right`.
    fn run(
        &self,
        described: &Described,
        at: Addresses,
        [factor, sum]: [f32; 2],
        algorithm: &Algorithm,
    ) -> Result<(), Refused> {
        let Described { operation, a, b, c } = described;
        let constant = |value: *const f32| value.cast::<c_void>();
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: descriptions are alive, the constants are read by the call itself, operands lie in device memory that is
        // in use until work behind this one on the stream.
        checked(unsafe {
            (self.library.functions.cublasLtMatmul)(
                self.handle,
                operation.0,
                constant(&raw const factor),
                pointer(at.right),
                a.0,
                pointer(at.left),
                b.0,
                constant(&raw const sum),
                pointer(at.added),
                c.0,
                pointer(at.out).cast_mut(),
                c.0,
                ptr::from_ref(algorithm),
                pointer(self.workspace).cast_mut(),
                WORKSPACE_BYTES as usize,
                self.stream,
            )
        })
    }

    fn run_on_copies(&mut self, gemm: &Gemm, base: u64, algorithm: &Algorithm) -> Result<(), Fault> {
        let Gemm { m, n, k, .. } = *gemm;
        let copies = aligned::padded(gemm);
        let room = self.room.of(aligned::bytes(&copies))?;
        let copy = |shape, from, to| aligned::copy(self.cuda, self.stream, shape, from, to);
        copy((m, k), (gemm.left, base), (copies.left, room))?;
        copy((k, n), (gemm.right, base), (copies.right, room))?;
        if let Some(region) = gemm.base {
            copy((m, n), (Matrix { region, ..gemm.out }, base), (copies.out, room))?;
        }
        let described = Described::of(&self.library.functions, &copies)?;
        self.run(&described, Addresses::of(&copies, room), factors(&copies), algorithm)?;
        copy((m, n), (copies.out, room), (gemm.out, base))?;
        Ok(())
    }

    /// The algorithm for a product: the one that is kept for its class, else the fastest.
    fn choose(
        &self,
        gemm: &Gemm,
        at: Addresses,
        described: &Described,
        offers: &[Algorithm],
    ) -> Result<Algorithm, Fault> {
        let Gemm { m, n, k, .. } = *gemm;
        let (first, worth) = (offers[0], m * k + k * n + m * n >= WORTH_MEASURING);
        let Some(choices) = self.choices.as_ref().filter(|_| worth && offers.len() > 1) else {
            return Ok(first);
        };
        let class = Class::of(gemm, at.alignments());
        let kept = match choices.kept(&class) {
            Some(kept) => Some(kept),
            None => choices.keep(&class, self.fastest(gemm, at, described, offers)?),
        };
        // A product of the class need not have the algorithm on offer.
        Ok(kept.filter(|kept| offers.contains(kept)).unwrap_or(first))
    }

    /// The offer that takes the least time; the first where there is no memory to try them in.
    fn fastest(
        &self,
        gemm: &Gemm,
        at: Addresses,
        described: &Described,
        offers: &[Algorithm],
    ) -> Result<Algorithm, Fault> {
        // A measurement must not change the output, which may hold what the product is added to.
        let mut room = Room::new(self.cuda);
        let Ok(out) = room.of(gemm.out.region.bytes) else { return Ok(offers[0]) };
        let at = Addresses { added: out, out, ..at };
        let (mut fastest, mut least) = (offers[0], f64::INFINITY);
        for offer in offers {
            match self.seconds(|| self.run(described, at, [1.0, 0.0], offer)) {
                Ok(seconds) if seconds < CLEARLY_FASTER * least => (fastest, least) = (*offer, seconds),
                Ok(_) | Err(Fault::Refused(_)) => {}
                Err(Fault::Device(error)) => return Err(error.into()),
            }
        }
        room.release()?;
        Ok(fastest)
    }

    /// The time of a run: of as many as take a thousandth of a second, after one that is not counted, the better of two tries.
    fn seconds(&self, run: impl Fn() -> Result<(), Refused>) -> Result<f64, Fault> {
        const ENOUGH: f64 = 1e-3;
        const MOST: u32 = 16;
        let of_each = |runs: u32| {
            let started = Instant::now();
            (0..runs).try_for_each(|_| run())?;
            // SAFETY: the stream lives as long as the process.
            let done = unsafe { (self.cuda.cuStreamSynchronize)(self.stream) };
            self.cuda.checked("waiting for a product", done)?;
            Ok::<f64, Fault>(started.elapsed().as_secs_f64() / f64::from(runs))
        };
        of_each(1)?;
        let runs = ((ENOUGH / of_each(1)?.max(1e-6)) as u32).clamp(1, MOST);
        Ok(of_each(runs)?.min(of_each(runs)?))
    }

    /// Algorithms that give the same bits every time, those first that the library expects to be fast. None where it does not
    /// compute such a product.
    fn offers(
        &self,
        Described { operation, a, b, c }: &Described,
        [align_left, align_right, align_out]: [u32; 3],
    ) -> Result<Vec<Algorithm>, Refused> {
        let lt = &self.library.functions;
        // SAFETY: where the description goes.
        let create = |made| unsafe { (lt.cublasLtMatmulPreferenceCreate)(made) };
        let preference = Owned::new(create, lt.cublasLtMatmulPreferenceDestroy)?;
        let set = |attribute: c_int, value: *const c_void, bytes| {
            // SAFETY: the library copies the value.
            checked(unsafe {
                (lt.cublasLtMatmulPreferenceSetAttribute)(preference.0, attribute, value, bytes)
            })
        };
        set(
            ffi::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const WORKSPACE_BYTES_VALUE).cast(),
            size_of::<u64>(),
        )?;
        set(
            ffi::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const REDUCTIONS).cast(),
            size_of::<u32>(),
        )?;
        for (attribute, bytes) in (ffi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES..).zip([
            align_right,
            align_left,
            align_out,
            align_out,
        ]) {
            set(attribute, (&raw const bytes).cast(), size_of::<u32>())?;
        }
        let (mut results, mut count) = ([HeuristicResult::default(); OFFERS], 0);
        // SAFETY: all descriptions are alive, and there is room for as many results as are asked for.
        let asked = checked(unsafe {
            (lt.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                operation.0,
                a.0,
                b.0,
                c.0,
                c.0,
                preference.0,
                OFFERS as c_int,
                results.as_mut_ptr(),
                &mut count,
            )
        });
        match asked {
            Err(Refused(ffi::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(Vec::new()),
            asked => asked?,
        }
        let found = results.iter().take(usize::try_from(count).unwrap_or(0));
        Ok(found.filter(|result| result.state == 0).map(|result| result.algorithm).collect())
    }
}

static WORKSPACE_BYTES_VALUE: u64 = WORKSPACE_BYTES;

/// Of `CUBLASLT_REDUCTION_SCHEME_*`, how sums that several blocks have parts of are added, beside NONE (0), a sum in one block:
/// COMPUTE_TYPE (2), f32 parts in the workspace, in a fixed order. INPLACE (1) and OUTPUT_TYPE (4) keep parts in the type of
/// the output: in bf16 each is rounded.
static REDUCTIONS: u32 = 2;

/// What a product is multiplied by, and what it is added to is multiplied by.
fn factors(gemm: &Gemm) -> [f32; 2] {
    [gemm.scale.value(), if gemm.base.is_some() { 1.0 } else { 0.0 }]
}

/// What the way of a product depends on: not its factor, and not where its matrices lie but for their alignment.
fn key(gemm: &Gemm, at: Addresses) -> Key {
    const NOWHERE: Region = Region { offset: 0, bytes: 0 };
    let nowhere = |matrix: Matrix| Matrix { region: NOWHERE, ..matrix };
    let Gemm { left, right, out, base, .. } = *gemm;
    let alike = Gemm {
        left: nowhere(left),
        right: nowhere(right),
        out: nowhere(out),
        scale: Factor::of(1.0),
        base: base.map(|_| NOWHERE),
        ..*gemm
    };
    (alike, at.alignments())
}
