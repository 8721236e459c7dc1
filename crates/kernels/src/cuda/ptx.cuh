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
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(128) u8 NAME[]

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

// Ends the group of copies begun since the last one.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last N groups of this thread are there. Other threads see them after a barrier.
template <int N> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
