//! The instruction sets products run on, what each likes, and the way into code that was compiled for it.

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::int8::Quads;
use super::int8::{self, Integers};
#[cfg(target_arch = "x86_64")]
use super::operand::Paired;
use super::operand::{Operand, Rounded, Single};
use super::pack::Strided;
use super::simd::{self, Simd, compiled_for};
use super::strips::{Strips, Tile};
use super::{
    Block, MAX_K_BLOCK, MAX_N_BLOCK, MAX_PACKED_ELEMENTS, RightCpu, Scratch, TermCpu, low_rank, part_width,
    sum_step, tile,
};
use crate::weight::ComputeDtype;

/// The instruction sets there is a version for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// With products of bytes; everything else is that of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With products of bytes; everything else is that of `Avx512`.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// With products of bf16 pairs; everything else is that of `Avx512Vnni`.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// With products of tiles of bf16 pairs or bytes; everything else is that of `Avx512Bf16`.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// With products of bytes; everything else is that of `Neon`.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// The best this processor has.
    pub(super) fn detect() -> Isa {
        static BEST: LazyLock<Isa> =
            LazyLock::new(|| *Isa::available().last().expect("portable is always there"));
        *BEST
    }

    /// All this processor has, worst first.
    pub(super) fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if simd::x86::Avx2::is_available() {
                found.push(Isa::Avx2);
                if is_x86_feature_detected!("avxvnni") {
                    found.push(Isa::AvxVnni);
                }
                if simd::x86::Avx512::is_available() {
                    found.push(Isa::Avx512);
                    found.extend(Isa::beside_avx512());
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            found.push(Isa::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                found.push(Isa::NeonDot);
            }
        }
        found
    }

    /// Those beyond AVX-512 that this processor has, worst first. None has products of bf16 without those of bytes.
    #[cfg(target_arch = "x86_64")]
    fn beside_avx512() -> impl Iterator<Item = Isa> {
        let has = [
            (Isa::Avx512Vnni, is_x86_feature_detected!("avx512vnni")),
            (Isa::Avx512Bf16, is_x86_feature_detected!("avx512bf16")),
            (Isa::Amx, amx::is_available()),
        ];
        has.into_iter().take_while(|(_, has)| *has).map(|(isa, _)| isa)
    }

    /// Values in a register.
    pub(super) fn lanes(self) -> usize {
        match self {
            Isa::Portable => simd::Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => simd::x86::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => simd::x86::Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => simd::arm::Neon::LANES,
        }
    }

    /// Values in an element of operands that are multiplied as `dtype`.
    pub(super) fn values(self, dtype: ComputeDtype) -> usize {
        match (self, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::Bf16) => Paired::<simd::x86::Avx512Bf16>::VALUES,
            #[cfg(target_arch = "x86_64")]
            (Isa::AvxVnni | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::Int8) => {
                Quads::<simd::x86::Avx512>::VALUES
            }
            #[cfg(target_arch = "aarch64")]
            (Isa::NeonDot, ComputeDtype::Int8) => Quads::<simd::arm::Neon>::VALUES,
            _ => 1,
        }
    }

    /// Elements of `k` values of operands that are multiplied as `dtype`.
    pub(super) fn elements(self, dtype: ComputeDtype, k: usize) -> usize {
        let values = self.values(dtype);
        match dtype {
            ComputeDtype::F32 | ComputeDtype::Bf16 => k.div_ceil(values),
            ComputeDtype::Int8 => int8::elements(k, values),
        }
    }

    /// Elements of the packed right operand of a task, at most: half of the second-level cache that most
    /// processors with the instruction set have at least (1 MiB with AVX-512, 512 KiB with the others).
    fn packed_elements(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => MAX_PACKED_ELEMENTS,
            _ => MAX_PACKED_ELEMENTS / 2,
        }
    }

    /// Output columns of a task, at most, in a product whose first term is `term`.
    ///
    /// A weight that is decoded along its rows (the input gradient) is cut wide, so that each row is read in long pieces,
    /// and so is a left operand that has to be copied, which is then done for more columns at once; every other operand
    /// is cut tall, which loads the output less often.
    pub(super) fn columns(self, term: &TermCpu<'_>) -> usize {
        let wide = matches!(term.right.in_place(), RightCpu::Weight(_)) || !term.left.is_read_in_place();
        let tall = self.packed_elements() / MAX_K_BLOCK * self.values(term.dtype());
        if wide { MAX_N_BLOCK } else { tall.min(MAX_N_BLOCK) }
    }

    /// The length of a block of the sum, at most, in a product of `n` columns whose tasks have at most `columns`, with
    /// operands of `dtype`. The number of threads has no part in it, since it decides the order of the sum.
    pub(super) fn longest_block(self, n: usize, columns: usize, dtype: ComputeDtype) -> usize {
        let width = part_width(n, n.div_ceil(columns));
        let block = (self.packed_elements() / width * self.values(dtype)).min(MAX_K_BLOCK);
        block - block % sum_step(dtype)
    }

    /// Makes elements of `from` for products of `dtype`, of which [`Isa::values`] holds several; see
    /// [`Operand::left_along_sum`].
    pub(super) fn left_along_sum(self, dtype: ComputeDtype, from: &[f32], to: &mut [f32]) {
        match (self, dtype) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw the features before it gave these sets.
            (Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::Bf16) => unsafe {
                pairs_along_sum_avx512_bf16(from, to)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::AvxVnni, ComputeDtype::Int8) => unsafe { quads_along_sum_avx_vnni(from, to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Avx512Vnni | Isa::Avx512Bf16, ComputeDtype::Int8) => unsafe {
                quads_along_sum_avx512::<simd::x86::Avx512>(from, to);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Amx, ComputeDtype::Int8) => unsafe {
                quads_along_sum_avx512::<simd::x86::Amx>(from, to);
            },
            #[cfg(target_arch = "aarch64")]
            (Isa::NeonDot, ComputeDtype::Int8) => whole_left_row::<Quads<simd::arm::Neon>>(from, to),
            _ => unreachable!("{self:?} has no {dtype:?}: {} values for {} elements", from.len(), to.len()),
        }
    }

    /// Multiply-adds of a step of [`Isa::registers_only`].
    fn multiply_adds_of_a_step(self, dtype: ComputeDtype) -> usize {
        match (self, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, ComputeDtype::Bf16 | ComputeDtype::Int8) => {
                amx::PRODUCTS_OF_ELEMENTS * self.values(dtype)
            }
            _ => 12 * self.lanes() * self.values(dtype),
        }
    }

    /// See [`tile::registers_only`].
    fn registers_only(self, dtype: ComputeDtype, steps: usize) -> f32 {
        match (self, dtype) {
            // SAFETY: it needs no features.
            (Isa::Portable, _) => unsafe { tile::registers_only::<simd::Portable>(steps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AVX2 and AVX-VNNI before it gave this set.
            (Isa::AvxVnni, ComputeDtype::Int8) => unsafe { bytes_only_avx_vnni(steps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AVX2 and FMA before it gave these sets.
            (Isa::Avx2 | Isa::AvxVnni, _) => unsafe { registers_only_avx2(steps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AVX512-VNNI before it gave these sets.
            (Isa::Avx512Vnni | Isa::Avx512Bf16, ComputeDtype::Int8) => unsafe {
                bytes_only_avx512_vnni(steps)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AVX-512F before it gave these sets.
            (Isa::Avx512 | Isa::Avx512Vnni, _) | (Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::F32) => unsafe {
                registers_only_avx512(steps)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AVX-512F, -BW and -BF16 before it gave this set.
            (Isa::Avx512Bf16, ComputeDtype::Bf16) => unsafe { registers_only_avx512_bf16(steps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` saw AMX before it gave this set.
            (Isa::Amx, ComputeDtype::Bf16) => unsafe { amx::pairs_only(steps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Amx, ComputeDtype::Int8) => unsafe { amx::bytes_only(steps) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `available` saw dot products before it gave this set.
            (Isa::NeonDot, ComputeDtype::Int8) => unsafe { bytes_only_neon_dot(steps) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: NEON is part of aarch64.
            (Isa::Neon | Isa::NeonDot, _) => unsafe { tile::registers_only::<simd::arm::Neon>(steps) },
        }
    }

    /// What multiplies operands of `dtype`.
    pub(super) fn kernels(self, dtype: ComputeDtype) -> &'static Kernels {
        match (self, dtype) {
            (Isa::Portable, ComputeDtype::F32) => &portable::SINGLE,
            (Isa::Portable, ComputeDtype::Bf16) => &portable::ROUNDED,
            (Isa::Portable, ComputeDtype::Int8) => &portable::INTEGERS,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2 | Isa::AvxVnni, ComputeDtype::F32) => &avx2::SINGLE,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2 | Isa::AvxVnni, ComputeDtype::Bf16) => &avx2::ROUNDED,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, ComputeDtype::Int8) => &avx2::INTEGERS,
            #[cfg(target_arch = "x86_64")]
            (Isa::AvxVnni, ComputeDtype::Int8) => &avx_vnni::QUADS,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::F32) => {
                &avx512::SINGLE
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Avx512Vnni, ComputeDtype::Bf16) => &avx512::ROUNDED,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, ComputeDtype::Int8) => &avx512::INTEGERS,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni | Isa::Avx512Bf16, ComputeDtype::Int8) => &avx512_vnni::QUADS,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, ComputeDtype::Bf16) => &avx512_bf16::PAIRED,
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, ComputeDtype::Bf16) => &tiles::PAIRED,
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, ComputeDtype::Int8) => &tiles::QUADS,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon | Isa::NeonDot, ComputeDtype::F32) => &neon::SINGLE,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon | Isa::NeonDot, ComputeDtype::Bf16) => &neon::ROUNDED,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, ComputeDtype::Int8) => &neon::INTEGERS,
            #[cfg(target_arch = "aarch64")]
            (Isa::NeonDot, ComputeDtype::Int8) => &neon_dot::QUADS,
        }
    }

    /// What multiplies a few rows, as f32.
    pub(super) fn few_rows(self) -> &'static FewRows {
        match self {
            Isa::Portable => &portable::FEW_ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => &avx2::FEW_ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => &avx512::FEW_ROWS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => &neon::FEW_ROWS,
        }
    }
}

/// The steps of a product, compiled for one instruction set and one kind of operand, so that each is compiled once.
pub(super) struct Kernels {
    /// Rows of the largest tile.
    pub(super) rows: usize,
    /// Packs the right operand of a block into the scratch memory's panels.
    pub(super) pack: fn(&Block<'_>, &mut Scratch),
    /// Multiplies strips until none is left; the slice is working memory.
    pub(super) strips: fn(&Strips<'_>, &mut [f32]),
}

/// The steps of a product of a few rows, compiled for one instruction set.
pub(super) struct FewRows {
    /// See [`super::unpacked`].
    pub(super) unpacked: fn(&Tile<'_>, &Block<'_>, Strided<'_>, &mut Scratch),
    /// See [`super::few::dot_rows`].
    pub(super) dot_rows: fn(&Tile<'_>, &Block<'_>, &mut Scratch),
    /// See [`low_rank::Inputs`].
    pub(super) low_rank_inputs: fn(&mut low_rank::Inputs<'_>),
    /// See [`low_rank::Outputs`].
    pub(super) low_rank_outputs: fn(&mut low_rank::Outputs<'_>),
}

/// The instruction set that products of `dtype` run on.
pub(crate) fn instruction_set(dtype: ComputeDtype) -> &'static str {
    match (Isa::detect(), dtype) {
        (Isa::Portable, _) => "portable",
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, ComputeDtype::Int8) => "avxvnni",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2 | Isa::AvxVnni, _) => "avx2",
        #[cfg(target_arch = "x86_64")]
        // Tiles of bytes give the same bits.
        (Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::Int8) => "avx512vnni",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx512Vnni, _) | (Isa::Avx512Bf16 | Isa::Amx, ComputeDtype::F32) => "avx512",
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, ComputeDtype::Bf16) => "avx512bf16",
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, ComputeDtype::Bf16) => "amx",
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonDot, ComputeDtype::Int8) => "neon dotprod",
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon | Isa::NeonDot, _) => "neon",
    }
}

/// Multiply-add rate of all threads of the current pool on operands of `dtype` in registers, in FLOP/s: what no product
/// on this machine can exceed.
pub(crate) fn fma_peak(dtype: ComputeDtype) -> f64 {
    const STEPS: usize = 2_000_000;
    let isa = Isa::detect();
    let multiply_adds = isa.multiply_adds_of_a_step(dtype);
    let round = || {
        let start = std::time::Instant::now();
        rayon::broadcast(|_| std::hint::black_box(isa.registers_only(dtype, STEPS)));
        let flops = rayon::current_num_threads() * STEPS * multiply_adds * 2;
        flops as f64 / start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| round()).fold(0.0, f64::max)
}

/// [`Kernels`] of operands of kind `$operand`.
///
/// Their functions ask for nothing that the type does not say but the features, which [`Isa::available`] saw before it gave
/// the set whose [`Isa::kernels`] they are, and a tile of the output that no other thread touches, which the cut into tasks
/// gives.
macro_rules! kernels {
    ($name:ident, $features:ident, $operand:ty) => {
        pub(super) static $name: Kernels = {
            compiled_for!($features {
                unsafe fn pack(block: &Block<'_>, scratch: &mut Scratch) {
                    let Block { term, k, cols, .. } = block;
                    let Scratch { panels, rows, .. } = scratch;
                    term.right.pack::<$operand>(k.clone(), cols.clone(), panels, rows);
                }
                unsafe fn strips(strips: &Strips<'_>, left: &mut [f32]) {
                    // SAFETY: the features are enabled here; the tile is the strips' own, by the caller.
                    unsafe { strips.run::<$operand>(left) }
                }
            });
            Kernels {
                rows: <$operand as Operand>::Simd::ROWS,
                // SAFETY: `available` saw the features; see `kernels`.
                pack: |block, scratch| unsafe { pack(block, scratch) },
                // SAFETY: as above, and strips are of one task's tile.
                strips: |these, left| unsafe { strips(these, left) },
            }
        };
    };
}

/// [`FewRows`] of an instruction set; as [`kernels`].
macro_rules! few_rows {
    ($features:ident, $simd:ty) => {
        pub(super) static FEW_ROWS: FewRows = {
            compiled_for!($features {
                unsafe fn unpacked(to: &Tile<'_>, block: &Block<'_>, right: Strided<'_>, scratch: &mut Scratch) {
                    // SAFETY: the features are enabled here; no other thread touches the tile, by the caller.
                    unsafe { super::super::unpacked::<$simd>(to, block, right, scratch) }
                }
                unsafe fn dot_rows(to: &Tile<'_>, block: &Block<'_>, scratch: &mut Scratch) {
                    // SAFETY: as above.
                    unsafe { super::super::few::dot_rows::<$simd>(to, block, scratch) }
                }
                unsafe fn low_rank_inputs(inputs: &mut low_rank::Inputs<'_>) {
                    // SAFETY: the features are enabled here.
                    unsafe { inputs.run_on::<$simd>() }
                }
                unsafe fn low_rank_outputs(outputs: &mut low_rank::Outputs<'_>) {
                    // SAFETY: as above.
                    unsafe { outputs.run_on::<$simd>() }
                }
            });
            FewRows {
                // SAFETY: `available` saw the features, and `to` is the calling task's tile; see `kernels`.
                unpacked: |to, block, right, scratch| unsafe { unpacked(to, block, right, scratch) },
                // SAFETY: as above.
                dot_rows: |to, block, scratch| unsafe { dot_rows(to, block, scratch) },
                // SAFETY: `available` saw the features.
                low_rank_inputs: |inputs| unsafe { low_rank_inputs(inputs) },
                // SAFETY: as above.
                low_rank_outputs: |outputs| unsafe { low_rank_outputs(outputs) },
            }
        };
    };
}

/// A module of what is compiled for an instruction set that does not multiply bf16.
macro_rules! instruction_set {
    ($module:ident, $features:ident, $simd:ty) => {
        mod $module {
            use super::*;
            kernels!(SINGLE, $features, Single<$simd>);
            kernels!(ROUNDED, $features, Rounded<$simd>);
            kernels!(INTEGERS, $features, Integers<$simd>);
            few_rows!($features, $simd);
        }
    };
}

instruction_set!(portable, baseline, simd::Portable);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx2, avx2, simd::x86::Avx2);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx512, avx512, simd::x86::Avx512);
#[cfg(target_arch = "aarch64")]
instruction_set!(neon, baseline, simd::arm::Neon);
#[cfg(target_arch = "aarch64")]
mod neon_dot {
    use super::*;
    kernels!(QUADS, neon_dot, Quads<simd::arm::Neon>);
}
#[cfg(target_arch = "x86_64")]
mod avx_vnni {
    use super::*;
    kernels!(QUADS, avx_vnni, Quads<simd::x86::Avx2>);
}
#[cfg(target_arch = "x86_64")]
mod avx512_vnni {
    use super::*;
    kernels!(QUADS, avx512_vnni, Quads<simd::x86::Avx512>);
}
#[cfg(target_arch = "x86_64")]
mod avx512_bf16 {
    use super::*;
    kernels!(PAIRED, avx512_bf16, Paired<simd::x86::Avx512Bf16>);
}
#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::*;
    // AMX has no instructions but those of tiles, which need no feature of the compiler.
    kernels!(PAIRED, avx512_bf16, Paired<simd::x86::Amx>);
    kernels!(QUADS, avx512, Quads<simd::x86::Amx>);
}

/// Makes elements of a whole left row, as long as a block of the sum at a time.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn whole_left_row<O: Operand>(from: &[f32], to: &mut [f32]) {
    let elements = O::elements(MAX_K_BLOCK);
    for (i, from) in from.chunks(MAX_K_BLOCK).enumerate() {
        O::left_along_sum(from, &mut to[i * elements..]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_along_sum_avx512_bf16(from: &[f32], to: &mut [f32]) {
    whole_left_row::<Paired<simd::x86::Avx512Bf16>>(from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn quads_along_sum_avx512<S: int8::Bytes>(from: &[f32], to: &mut [f32]) {
    whole_left_row::<Quads<S>>(from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quads_along_sum_avx_vnni(from: &[f32], to: &mut [f32]) {
    whole_left_row::<Quads<simd::x86::Avx2>>(from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn bytes_only_avx512_vnni(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { int8::registers_only::<simd::x86::Avx512>(steps) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn bytes_only_avx_vnni(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { int8::registers_only::<simd::x86::Avx2>(steps) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn bytes_only_neon_dot(steps: usize) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { int8::registers_only::<simd::arm::Neon>(steps) }
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
