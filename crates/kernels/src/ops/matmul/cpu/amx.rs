//! Tiles of bf16 pairs or of bytes on AMX (Intel Sapphire Rapids and later): eight registers of 16 rows of 64 bytes, and
//! instructions that add the product of two of them to a third.
//!
//! Of pairs, a strip of 32 left rows against a panel of 32 columns takes all eight: four of sums, two of left rows, two of packed
//! columns. The packed panel, `[pairs][columns]`, is the layout the instruction asks for, and so are left rows, whose pairs
//! follow each other.
//!
//! `tdpbf16ps` adds the sixteen first and the sixteen second values' products of its pairs to two sums of their own, from
//! zero, and both to what the register holds (Intel's manual, volume 2). Every addition rounds to nearest, and numbers below
//! 2^-126 count as zero, before and after, as in AVX512-BF16. So a result is as close to the product of the rounded operands
//! as that of any other instruction set, and has other last bits.
//!
//! Of bytes, `tdpbssd` adds the products, four of each element, to sums of 32 bits. The 64 bytes of a row are one block of values
//! that share a scale ([`super::int8`]), and the unit cannot scale: the sums of each block are stored, and AVX-512 scales and
//! adds them. That is done for 16 rows and 16 columns at a time, with three registers.
//!
//! The compiler has no stable intrinsics for AMX, so these are blocks of assembly. What rows registers have (their
//! configuration) belongs to a thread; it is loaded for each strip and given up after it, so that no other code finds the
//! unit in use, which would make every switch of threads dearer.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::int8::{HEAD, QUADS};
use super::tile::{Args, Columns};

/// Rows of a register.
const TILE_ROWS: usize = 16;
/// Rows of a strip: two registers of sums.
pub(super) const ROWS: usize = 2 * TILE_ROWS;
/// Elements in a row of a register: pairs, four bytes, or sums.
pub(super) const STEP: usize = 16;
/// Bytes in a row of a register.
const ROW_BYTES: u16 = 64;
/// Products of elements of one instruction.
pub(super) const PRODUCTS_OF_ELEMENTS: usize = TILE_ROWS * STEP * STEP;

/// Whether the processor has tiles of bf16 and of bytes, and the operating system lets this process use them. It is asked once.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_it() && system_keeps_it() && is_permitted())
}

/// Leaf 7 of CPUID names the features. No processor has one without the others.
fn processor_has_it() -> bool {
    const ALL: u32 = BF16 | TILE | INT8;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let [highest, features] = [(0, 0), (7, 0)].map(|(leaf, sub)| __cpuid_count(leaf, sub));
    highest.eax >= 7 && features.edx & ALL == ALL
}

/// The operating system keeps the registers and their configuration when it switches threads.
fn system_keeps_it() -> bool {
    const CONFIGURATION_AND_DATA: u64 = 0b11 << 17;
    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: the feature is enabled here; register 0 is always there.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the feature was seen.
    is_x86_feature_detected!("xsave") && unsafe { kept() } & CONFIGURATION_AND_DATA == CONFIGURATION_AND_DATA
}

/// Linux makes room for the registers of a process that asks for it; kernels before 5.16 know no such question.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// How other systems are asked is not known here.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The registers, ready for a strip, until it is dropped.
pub(super) struct Ready(());

impl Ready {
    /// Makes the registers ready for a strip of `rows` rows: 0 to 3 for sums (the upper rows, in two columns, then the lower),
    /// 4 and 5 for left rows, 6 and 7 for packed columns.
    ///
    /// # Safety
    /// [`is_available`] has seen AMX.
    #[inline(always)]
    pub(super) unsafe fn for_rows(rows: usize) -> Self {
        debug_assert!((1..=ROWS).contains(&rows), "{rows} rows");
        let upper = rows.min(TILE_ROWS) as u8;
        let lower = rows as u8 - upper;
        let packed = STEP as u8;
        let configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            // A register without rows has none with bytes, either.
            row_bytes: std::array::from_fn(|register| match register {
                2 | 3 | 5 if lower == 0 => 0,
                0..8 => ROW_BYTES,
                _ => 0,
            }),
            rows: [upper, upper, lower, lower, upper, lower, packed, packed, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: AMX is there, by the caller; the configuration has 64 bytes of valid values.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &configuration, options(nostack, preserves_flags, readonly),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            );
        }
        Ready(())
    }
}

impl Drop for Ready {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: whoever made this had AMX.
        unsafe {
            asm!(
                "tilerelease", options(nostack, nomem, preserves_flags),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            );
        }
    }
}

/// A loop over the sum of one tile: how sums begin (zero or what the output holds), what is done with every 16 pairs, and
/// how sums are stored.
macro_rules! over_the_sum {
    ($args:ident, [$($zero:literal)*], [$($load:literal)*], [$($multiply:literal)*], [$($store:literal)*]) => {{
        let Args { elements, left, left_stride, right, right_stride, out, out_stride, accumulate } = *$args;
        asm!(
            "test {accumulate:l}, {accumulate:l}",
            "jnz 2f",
            $($zero,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            $($multiply,)*
            "add {left}, 64",
            "add {left_lower}, 64",
            "add {right}, {right_step}",
            "dec {steps}",
            "jnz 3b",
            $($store,)*
            // Not every tile has lower rows.
            "/* {out_lower} */",
            accumulate = in(reg) u64::from(accumulate),
            left = inout(reg) left => _,
            left_lower = inout(reg) left.wrapping_add(TILE_ROWS * left_stride) => _,
            left_stride = in(reg) 4 * left_stride,
            right = inout(reg) right => _,
            right_stride = in(reg) 4 * right_stride,
            right_step = in(reg) 4 * right_stride * STEP,
            steps = inout(reg) elements / STEP => _,
            out = in(reg) out,
            out_lower = in(reg) out.wrapping_add(TILE_ROWS * out_stride),
            out_stride = in(reg) 4 * out_stride,
            options(nostack),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    }};
}

/// `out[i][j] (+)= sum_k left[i][k] . right[k][j]` for `rows` rows and a packed panel, over pairs `k`. What `out` held is
/// added first.
///
/// # Safety
/// [`is_available`] has seen AMX, a [`Ready`] of as many rows is alive on this thread, and pointers are valid for the tile.
pub(super) unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
    debug_assert!(args.elements.is_multiple_of(STEP) && args.elements > 0, "{} pairs", args.elements);
    // SAFETY: AMX is there and its registers have the shape of `rows` rows; each of them has `elements` pairs, of which each
    // packed row has as many as there are columns; the output has the tile; all by the caller.
    unsafe {
        match (rows > TILE_ROWS, columns) {
            (true, Columns::Full) => over_the_sum!(
                args,
                ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
                ["tileloadd tmm0, [{out} + {out_stride}]" "tileloadd tmm1, [{out} + {out_stride} + 64]"
                 "tileloadd tmm2, [{out_lower} + {out_stride}]" "tileloadd tmm3, [{out_lower} + {out_stride} + 64]"],
                ["tileloadd tmm6, [{right} + {right_stride}]"
                 "tileloadd tmm4, [{left} + {left_stride}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloadd tmm7, [{right} + {right_stride} + 64]"
                 "tdpbf16ps tmm1, tmm4, tmm7"
                 "tileloadd tmm5, [{left_lower} + {left_stride}]"
                 "tdpbf16ps tmm2, tmm5, tmm6"
                 "tdpbf16ps tmm3, tmm5, tmm7"],
                ["tilestored [{out} + {out_stride}], tmm0" "tilestored [{out} + {out_stride} + 64], tmm1"
                 "tilestored [{out_lower} + {out_stride}], tmm2" "tilestored [{out_lower} + {out_stride} + 64], tmm3"]
            ),
            (true, Columns::Narrow) => over_the_sum!(
                args,
                ["tilezero tmm0" "tilezero tmm2"],
                ["tileloadd tmm0, [{out} + {out_stride}]" "tileloadd tmm2, [{out_lower} + {out_stride}]"],
                ["tileloadd tmm6, [{right} + {right_stride}]"
                 "tileloadd tmm4, [{left} + {left_stride}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloadd tmm5, [{left_lower} + {left_stride}]"
                 "tdpbf16ps tmm2, tmm5, tmm6"],
                ["tilestored [{out} + {out_stride}], tmm0" "tilestored [{out_lower} + {out_stride}], tmm2"]
            ),
            (false, Columns::Full) => over_the_sum!(
                args,
                ["tilezero tmm0" "tilezero tmm1"],
                ["tileloadd tmm0, [{out} + {out_stride}]" "tileloadd tmm1, [{out} + {out_stride} + 64]"],
                ["tileloadd tmm6, [{right} + {right_stride}]"
                 "tileloadd tmm4, [{left} + {left_stride}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloadd tmm7, [{right} + {right_stride} + 64]"
                 "tdpbf16ps tmm1, tmm4, tmm7"],
                ["tilestored [{out} + {out_stride}], tmm0" "tilestored [{out} + {out_stride} + 64], tmm1"]
            ),
            (false, Columns::Narrow) => over_the_sum!(
                args,
                ["tilezero tmm0"],
                ["tileloadd tmm0, [{out} + {out_stride}]"],
                ["tileloadd tmm6, [{right} + {right_stride}]"
                 "tileloadd tmm4, [{left} + {left_stride}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"],
                ["tilestored [{out} + {out_stride}], tmm0"]
            ),
            (_, Columns::InPlace { .. }) => unreachable!("what is read where it lies is f32"),
        }
    }
}

/// Multiplies a block of bytes of 16 left rows and 16 packed columns, and stores the sums.
macro_rules! sums_of_bytes {
    ($sums:literal, $left_register:literal, $packed:literal, $left:expr, $left_stride:expr, $right:expr, $right_stride:expr, $out:expr) => {
        asm!(
            concat!("tilezero ", $sums),
            concat!("tileloadd ", $left_register, ", [{left} + {left_stride}]"),
            concat!("tileloadd ", $packed, ", [{right} + {right_stride}]"),
            concat!("tdpbssd ", $sums, ", ", $left_register, ", ", $packed),
            concat!("tilestored [{out} + {row}], ", $sums),
            left = in(reg) $left,
            left_stride = in(reg) 4 * $left_stride,
            right = in(reg) $right,
            right_stride = in(reg) 4 * $right_stride,
            out = in(reg) $out,
            row = in(reg) usize::from(ROW_BYTES),
            options(nostack, preserves_flags),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    };
}

/// The sums of a block, row by row.
#[repr(C, align(64))]
struct Sums([[i32; STEP]; TILE_ROWS]);

/// As [`super::int8::tile`], for `rows` rows and `columns`, with the same bits.
///
/// # Safety
/// [`is_available`] has seen AMX, a [`Ready`] of as many rows is alive on this thread, and pointers are valid for the tile.
#[inline(always)]
pub(super) unsafe fn tile_of_bytes(rows: usize, columns: Columns, args: &Args) {
    let registers = match columns {
        Columns::Narrow => 1,
        Columns::Full => 2,
        Columns::InPlace { .. } => unreachable!("what is read where it lies is f32"),
    };
    for first in (0..rows).step_by(TILE_ROWS) {
        for part in 0..registers {
            // SAFETY: rows and columns lie in the tile, for which the registers are ready, by the caller; AMX comes with AVX-512.
            unsafe {
                let part = Args {
                    left: args.left.add(first * args.left_stride),
                    right: args.right.add(part * STEP),
                    out: args.out.add(first * args.out_stride + part * STEP),
                    ..*args
                };
                match (first > 0, rows - first >= TILE_ROWS) {
                    (false, true) => part_of_bytes::<false, true>(TILE_ROWS, &part),
                    (false, false) => part_of_bytes::<false, false>(rows - first, &part),
                    (true, true) => part_of_bytes::<true, true>(TILE_ROWS, &part),
                    (true, false) => part_of_bytes::<true, false>(rows - first, &part),
                }
            }
        }
    }
}

/// One register of sums of [`tile_of_bytes`]: `rows` rows, which are 16 if `WHOLE`, in the registers of the upper rows or those of the
/// `LOWER`.
///
/// # Safety
/// As there; the processor has AVX-512F, and there is a block.
#[target_feature(enable = "avx512f")]
unsafe fn part_of_bytes<const LOWER: bool, const WHOLE: bool>(rows: usize, args: &Args) {
    let Args { elements, left, left_stride, right, right_stride, out, out_stride, accumulate } = *args;
    let blocks = elements / (HEAD + QUADS);
    assert!(blocks > 0 && elements.is_multiple_of(HEAD + QUADS), "{elements} elements");
    // Two, so that a block is multiplied while the sums of the one before are scaled.
    let mut sums = [const { Sums([[0; STEP]; TILE_ROWS]) }; 2];
    // SAFETY: blocks lie inside both operands, rows inside the output, and the registers are ready, by the caller.
    unsafe {
        let multiply = |block: usize, to: *mut Sums| {
            let at = block * (HEAD + QUADS);
            let (left, right) = (left.add(at + HEAD), right.add((at + HEAD) * right_stride));
            if LOWER {
                sums_of_bytes!("tmm2", "tmm5", "tmm6", left, left_stride, right, right_stride, to);
            } else {
                sums_of_bytes!("tmm0", "tmm4", "tmm6", left, left_stride, right, right_stride, to);
            }
        };
        let mut totals = [_mm512_setzero_ps(); TILE_ROWS];
        multiply(0, &raw mut sums[0]);
        for block in 0..blocks {
            if block + 1 < blocks {
                multiply(block + 1, &raw mut sums[(block + 1) % 2]);
            }
            let sums = &raw const sums[block % 2].0;
            let at = block * (HEAD + QUADS);
            let scales = _mm512_loadu_ps(right.add(at * right_stride));
            for row in 0..TILE_ROWS {
                if WHOLE || row < rows {
                    let sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums.cast::<__m512i>().add(row)));
                    let scale = _mm512_set1_ps(*left.add(at + row * left_stride));
                    totals[row] = _mm512_fmadd_ps(_mm512_mul_ps(sum, scales), scale, totals[row]);
                }
            }
        }
        for row in 0..TILE_ROWS {
            if WHOLE || row < rows {
                let to = out.add(row * out_stride);
                let total =
                    if accumulate { _mm512_add_ps(_mm512_loadu_ps(to), totals[row]) } else { totals[row] };
                _mm512_storeu_ps(to, total);
            }
        }
    }
}

/// A function that multiplies registers by one instruction.
macro_rules! registers_only {
    ($name:ident, $instruction:literal) => {
        /// `steps` products of registers, of four sums in turn. Returns a value so that the work cannot be left out.
        ///
        /// # Safety
        /// [`is_available`] has seen AMX.
        pub(super) unsafe fn $name(steps: usize) -> f32 {
            let mut out = [0.0f32; TILE_ROWS * STEP];
            // SAFETY: AMX is there, by the caller; its registers are ready; the last store has room.
            unsafe {
                let _ready = Ready::for_rows(ROWS);
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    "tilestored [{out} + {stride}], tmm0",
                    rounds = inout(reg) steps.div_ceil(4) => _,
                    out = in(reg) out.as_mut_ptr(),
                    stride = in(reg) usize::from(ROW_BYTES),
                    options(nostack),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                );
            }
            out[0]
        }
    };
}

registers_only!(pairs_only, "tdpbf16ps");
registers_only!(bytes_only, "tdpbssd");
