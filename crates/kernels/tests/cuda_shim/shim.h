// CUDA's execution model on one CPU thread: the counterpart of src/cuda/ptx.cuh, name for name.
//
// The threads of a block are fibers. One runs until it meets a barrier or a warp operation; the last to arrive lets the
// others go on. That makes runs deterministic, in an order of threads that the harness turns round to find missing
// barriers. Copies to shared memory that were begun are made only when they are waited for.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

typedef uint8_t u8;
typedef int8_t i8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int32_t i32;
typedef unsigned long long u64;

struct uint3 {
    u32 x, y, z;
};
struct alignas(8) int2 {
    i32 x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }

struct bf16 {
    u16 bits;
};

#define DEVICE inline
#define KERNEL(...) void
// Blocks run one after the other, so that one copy does.
#define __shared__ static
#define DYNAMIC_SHARED(NAME) u8* NAME = shim::dynamic_shared()

namespace shim {
extern uint3 block_index, thread_index, block_size, grid_size;
u8* dynamic_shared();
// Waits for all threads of the block; `what` is the same in all of them or the run ends.
void barrier(const char* what);
bool barrier_any(bool value);
// Leaves `bytes` of this lane for its warp, waits for all lanes, and gives what each lane left, 64 bytes apart.
const u8* exchange(const char* what, const void* value, size_t bytes);
// The same of a warpgroup: what the four warps leave must be equal.
void agree(const char* what, const void* value, size_t bytes);
// Products of a warpgroup, which are computed when they are waited for; `shared_fence` was forgotten where one reads a copy.
void product_begin(std::function<void()> product);
void product_commit();
void product_wait(int groups);
void fence();
void copy_begin(void* shared, const void* global, bool there, size_t bytes);
void copy_commit();
void copy_wait(int groups);

// A kernel: what runs a thread of it, and the bytes of each parameter.
struct Entry {
    std::function<void(void**)> call;
    std::vector<size_t> parameter_bytes;
};
std::map<std::string, Entry>& entries();

template <class... A, size_t... I> void call(void (*f)(A...), void** args, std::index_sequence<I...>) {
    (void)args;
    f(*(std::remove_reference_t<A>*)args[I]...);
}
struct Register {
    template <class... A> Register(const char* name, void (*f)(A...)) {
        entries()[name] = {[f](void** args) { call(f, args, std::index_sequence_for<A...>{}); }, {sizeof(A)...}};
    }
};
}  // namespace shim

#define blockIdx shim::block_index
#define threadIdx shim::thread_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

inline u32 float_bits(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float bits_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline u32 round_bf16(float x) {
    const u32 bits = float_bits(x);
    return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline u32 pack_bf16(float low, float high) { return round_bf16(low) | round_bf16(high) << 16; }
inline float half_to_float(u16 half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float sign = half >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float mul_rounded(float a, float b) { return a * b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline void sync_block() { shim::barrier("sync_block"); }
inline bool block_any(bool value) { return shim::barrier_any(value); }
inline void sync_warp() { shim::exchange("sync_warp", "", 1); }

template <class T> T shuffle_xor(T value, int mask) {
    const u8* left = shim::exchange("shuffle_xor", &value, sizeof(T));
    T other;
    memcpy(&other, left + 64 * ((threadIdx.x % 32) ^ mask), sizeof(T));
    return other;
}

inline bool warp_any(bool value) {
    const u8* left = shim::exchange("warp_any", &value, sizeof value);
    bool any = false;
    for (int lane = 0; lane < 32; lane++) any |= left[64 * lane] != 0;
    return any;
}

typedef uintptr_t SharedAddress;
inline SharedAddress shared_address(const void* shared) { return (uintptr_t)shared; }
template <class T> const T* opaque(const T* address) { return address; }
inline u32 opaque(u32 value) { return value; }

inline float low_half(u32 pair) { return bits_float(pair << 16); }
inline float high_half(u32 pair) { return bits_float(pair & 0xffff0000u); }

inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const u8* left = shim::exchange("mma", mine, sizeof mine);
    const auto fragment = [&](int lane) { return (const u32*)(left + 64 * lane); };
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    // Pairs of k: lane `pair % 4` of a row or column has them, in the registers of the half that they are in.
    for (int pair = 0; pair < 8; pair++) {
        const int lane = pair % 4, half = pair / 4;
        const u32* of_rows = fragment(4 * g + lane) + 2 * half;
        const u32 columns[2] = {fragment(8 * t + lane)[4 + half], fragment(8 * t + 4 + lane)[4 + half]};
        for (int i = 0; i < 4; i++) {
            const u32 x = of_rows[i / 2], y = columns[i % 2];
            d[i] += low_half(x) * low_half(y) + high_half(x) * high_half(y);
        }
    }
}

inline void mma_first(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    for (float& sum : d) sum = 0.0f;
    mma(d, a, b0, b1);
}

inline const u16* matrix_row(const u8* left, int lane) {
    const u16* row;
    memcpy(&row, left + 64 * lane, sizeof row);
    if ((uintptr_t)row % 16) {
        fprintf(stderr, "a matrix row in shared memory is not aligned to 16 bytes\n");
        abort();
    }
    return row;
}
inline void load_matrices(u32 (&r)[4], SharedAddress row) {
    const u8* left = shim::exchange("load_matrices", &row, sizeof row);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) {
        const u16* from = matrix_row(left, 8 * i + g);
        r[i] = from[2 * t] | (u32)from[2 * t + 1] << 16;
    }
    // Nobody overwrites what a slower lane has yet to read.
    sync_warp();
}
inline void load_matrices_transposed(u32 (&r)[4], SharedAddress row) {
    const u8* left = shim::exchange("load_matrices_transposed", &row, sizeof row);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        r[i] = matrix_row(left, 8 * i + 2 * t)[g] | (u32)matrix_row(left, 8 * i + 2 * t + 1)[g] << 16;
    sync_warp();
}

inline void copy_async(SharedAddress shared, const void* global, bool there) {
    shim::copy_begin((void*)shared, global, there, 16);
}
inline void copy_async_word(SharedAddress shared, const void* global, bool there) {
    shim::copy_begin((void*)shared, global, there, 4);
}
inline void copy_async_commit() { shim::copy_commit(); }
template <int N> void copy_async_wait() { shim::copy_wait(N); }

// A matrix in shared memory: see ptx.cuh.
struct SharedMatrix {
    uintptr_t first;
    u32 next, beside;
};
inline SharedMatrix shared_matrix(SharedAddress first, u32 next, u32 beside) { return {first, next, beside}; }
inline SharedMatrix matrix_behind(SharedMatrix matrix, u32 bytes) { return {matrix.first + bytes, matrix.next, matrix.beside}; }
// The value in a row of 64 that begins `columns` behind the matrix's first value; chunks have changed places.
inline float matrix_value(SharedMatrix matrix, int row, int column) {
    uintptr_t at = matrix.first + row / 8 * matrix.next + row % 8 * 128 + column / 64 * matrix.beside + column % 64 * 2;
    at ^= (at >> 7 & 7) << 4;
    return bits_float((u32) * (const u16*)at << 16);
}
inline void check_matrix(SharedMatrix matrix, bool sums_over_rows) {
    if (matrix.next != 1024 || matrix.first % 1024 >= (sums_over_rows ? 16 : 128) || matrix.first % 16) {
        fprintf(stderr, "a matrix of a warpgroup does not begin at a multiple of 1024 bytes\n");
        abort();
    }
}
inline void shared_fence() { shim::fence(); }
inline void warpgroup_fence() { shim::agree("warpgroup_fence", "", 1); }
inline void warpgroup_commit() {
    shim::agree("warpgroup_commit", "", 1);
    shim::product_commit();
}
template <int N> void warpgroup_wait() {
    shim::agree("warpgroup_wait", "", 1);
    shim::product_wait(N);
}
template <int N> void settle(float (&)[N][4]) {}
template <int N> void settle(u32 (&)[N][2]) {}

// The first of a warp's rows that this lane has results of, in a warpgroup's 64 rows.
inline int warpgroup_row() { return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4; }

template <int N> void warpgroup_mma(float (&d)[N][4], SharedMatrix left, SharedMatrix right) {
    const SharedMatrix both[2] = {left, right};
    shim::agree("warpgroup_mma", both, sizeof both);
    check_matrix(left, false);
    check_matrix(right, false);
    const int row = warpgroup_row(), t = threadIdx.x % 4;
    shim::product_begin([=, &d] {
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 16; k++)
                    d[n][i] += matrix_value(left, row + i / 2 * 8, k) * matrix_value(right, n * 8 + 2 * t + i % 2, k);
    });
}
template <int N> void warpgroup_mma_first(float (&d)[N][4], SharedMatrix left, SharedMatrix right) {
    shim::product_begin([&d] {
        for (auto& sums : d)
            for (float& sum : sums) sum = 0.0f;
    });
    warpgroup_mma(d, left, right);
}
template <int N> void warpgroup_mma(float (&d)[N][4], const u32 (&a)[4], SharedMatrix right) {
    shim::agree("warpgroup_mma of registers", &right, sizeof right);
    check_matrix(right, true);
    // What the lanes of a row have of it, pairs of columns: as those of `mma`.
    const u8* left = shim::exchange("warpgroup_mma of registers", a, sizeof a);
    const int first_lane = threadIdx.x % 32 / 4 * 4, t = threadIdx.x % 4;
    struct {
        u32 of[4][4];
    } rows;
    for (int lane = 0; lane < 4; lane++) memcpy(rows.of[lane], left + 64 * (first_lane + lane), sizeof a);
    shim::product_begin([=, &d] {
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 16; k++) {
                    const u32 pair = rows.of[k % 8 / 2][k / 8 * 2 + i / 2];
                    d[n][i] += (k % 2 ? high_half(pair) : low_half(pair)) * matrix_value(right, k, n * 8 + 2 * t + i % 2);
                }
    });
}
