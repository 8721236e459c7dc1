// What kernels need of the machine, as thin wrappers around PTX that Ampere (sm_80) and later have. No header of the
// toolkit is needed. tests/cuda_shim/shim.h gives the same names their meaning on a CPU; kernels use nothing else.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
// KERNEL(threads[, blocks]): blocks have at most so many threads; so many blocks at least fit a multiprocessor.
#define KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
// The shared memory that the launch asks for.
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(1024) u8 NAME[]

struct bf16 {
    u16 bits;
};

DEVICE u32 float_bits(float x) { return __float_as_uint(x); }
DEVICE float bits_float(u32 x) { return __uint_as_float(x); }

// Two floats rounded to nearest even, `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

DEVICE float half_to_float(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

// 2^x to 2 units in the last place; subnormal results are zero.
DEVICE float exp2_fast(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// a b, rounded, which the compiler does not fuse with an addition.
DEVICE float mul_rounded(float a, float b) { return __fmul_rn(a, b); }

template <class T> DEVICE T shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

DEVICE bool warp_any(bool value) { return __any_sync(0xffffffffu, value); }

DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE bool block_any(bool value) { return __syncthreads_or(value); }

// d += a . b, a 16 x 16 and b 16 x 8 in bf16, d in f32 (mma.sync.m16n8k16). With g = lane / 4, t = lane % 4:
// a[0..4] hold columns 2t, 2t + 1 of (row g, left half), (row g + 8, left), (row g, right), (row g + 8, right);
// b[0..2] hold rows 2t, 2t + 1 of column g, upper and lower half; d holds columns 2t, 2t + 1 of rows g and g + 8.
DEVICE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = a . b: as above from zeros, which take no registers.
DEVICE void mma_first(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// Where something is in shared memory, as a number that can be computed with.
typedef u32 SharedAddress;
DEVICE SharedAddress shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// The same address, of which the compiler knows nothing: it adds constants to it where it is used, instead of keeping sums.
template <class T> DEVICE const T* opaque(const T* address) {
    asm("" : "+l"(address));
    return address;
}

// The same number, of which the compiler knows nothing: what it computed from it before, it computes again instead of keeping it.
DEVICE u32 opaque(u32 value) {
    asm volatile("" : "+r"(value));
    return value;
}

// Four 8 x 8 matrices of 16-bit values from shared memory. Lane 8 i + j names the 16 bytes of row j of matrix i;
// each lane gets of every matrix values 2t, 2t + 1 of row g.
DEVICE void load_matrices(u32 (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// As above, each matrix transposed: a lane gets rows 2t, 2t + 1 of column g.
DEVICE void load_matrices_transposed(u32 (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// Begins to copy 16 bytes from global to shared memory, or to fill them with zeros: then `global` is not read.
DEVICE void copy_async(SharedAddress shared, const void* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(there ? 16 : 0)
                 : "memory");
}

// The same of four bytes.
DEVICE void copy_async_word(SharedAddress shared, const void* global, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(there ? 4 : 0) : "memory");
}

// Ends the group of copies begun since the last one.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last N groups of this thread are there. Other threads see them after a barrier.
template <int N> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- What Hopper alone has (sm_90a): a warpgroup, which is four warps from a multiple of four on, multiplies matrices that lie in
// shared memory while its threads go on. They come to these instructions together and with the same operands.

// A matrix in shared memory as they read it (PTX ISA, "Shared Memory Matrix Layout", 128-byte swizzling): rows of 64 values behind
// each other from a multiple of 1024 bytes on, whose chunks of 16 bytes lie in place `chunk ^ row % 8`. `first` is its first value;
// `next` are the bytes from eight rows to the next eight; `beside` those from 64 columns to the next 64, which counts where a
// product sums over rows.
typedef u64 SharedMatrix;
DEVICE SharedMatrix shared_matrix(SharedAddress first, u32 next, u32 beside) {
    return (first & 0x3ffffu) >> 4 | (u64)(beside >> 4) << 16 | (u64)(next >> 4) << 32 | 1ull << 62;
}
// The matrix that begins so many bytes behind.
DEVICE SharedMatrix matrix_behind(SharedMatrix matrix, u32 bytes) { return matrix + (bytes >> 4); }

// What this thread wrote to shared memory, or waited for, is seen by the products that come after the next barrier.
DEVICE void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first product of a batch: registers that it adds to or multiplies are as the threads left them.
DEVICE void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Ends the batch of products begun since the last one.
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all but the last N batches. Until then nobody may touch their registers, nor write the matrices that they read.
template <int N> DEVICE void warpgroup_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// The compiler reads these sums behind the wait before, and not earlier.
template <int N> DEVICE void settle(float (&d)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[n][i])::"memory");
}
// Registers that a product multiplies are its own until here.
template <int N> DEVICE void settle(u32 (&a)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) asm volatile("" : "+r"(a[n][i])::"memory");
}

// Begin d = left . right^T (first) or d += left . right^T, of 64 rows and of as many columns as d has eight times: 16 columns of
// both are summed over. And d += a . right: 16 rows of `right` are summed over, `a` is in registers. A warp has 16 rows; its lanes
// hold d and a as those of `mma`.
#define ROW(KIND, n) KIND(d[n][0]), KIND(d[n][1]), KIND(d[n][2]), KIND(d[n][3])
DEVICE void warpgroup_mma_first(float (&d)[8][4], SharedMatrix left, SharedMatrix right) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,"
        "%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;}"
        : ROW("=f", 0), ROW("=f", 1), ROW("=f", 2), ROW("=f", 3), ROW("=f", 4), ROW("=f", 5), ROW("=f", 6),
        ROW("=f", 7)
        : "l"(left), "l"(right), "r"(0));
}
DEVICE void warpgroup_mma(float (&d)[8][4], SharedMatrix left, SharedMatrix right) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,"
        "%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;}"
        : ROW("+f", 0), ROW("+f", 1), ROW("+f", 2), ROW("+f", 3), ROW("+f", 4), ROW("+f", 5), ROW("+f", 6),
        ROW("+f", 7)
        : "l"(left), "l"(right), "r"(1));
}
DEVICE void warpgroup_mma(float (&d)[8][4], const u32 (&a)[4], SharedMatrix right) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %37, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,"
        "%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
        : ROW("+f", 0), ROW("+f", 1), ROW("+f", 2), ROW("+f", 3), ROW("+f", 4), ROW("+f", 5), ROW("+f", 6),
        ROW("+f", 7)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "r"(1));
}
DEVICE void warpgroup_mma(float (&d)[16][4], const u32 (&a)[4], SharedMatrix right) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %69, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,"
        "%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,"
        "%63}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
        : ROW("+f", 0), ROW("+f", 1), ROW("+f", 2), ROW("+f", 3), ROW("+f", 4), ROW("+f", 5), ROW("+f", 6),
        ROW("+f", 7), ROW("+f", 8), ROW("+f", 9), ROW("+f", 10), ROW("+f", 11), ROW("+f", 12),
        ROW("+f", 13), ROW("+f", 14), ROW("+f", 15)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "r"(1));
}
#undef ROW
