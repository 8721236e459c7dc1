// What several kernels share: values in units of eight, sums over a warp or over the rows of a matrix, and random numbers.

static constexpr int WARP = 32, WARPGROUP = 4 * WARP;
static constexpr u32 UNIT = 8;

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return bits_float((u32)x.bits << 16); }

template <class T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE bf16 from_float<bf16>(float x) { return bf16{(u16)pack_bf16(x, 0.0f)}; }

DEVICE bool aligned_16(const void* address) { return ((u64)address & 15) == 0; }

DEVICE void load_unit(const float* from, float (&to)[8]) {
    const float4 low = *(const float4*)from, high = *(const float4*)(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
DEVICE void unpack(uint4 packed, float (&to)[8]) {
    const u32 pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = bits_float(pairs[i] << 16);
        to[2 * i + 1] = bits_float(pairs[i] & 0xffff0000u);
    }
}
DEVICE void load_unit(const bf16* from, float (&to)[8]) { unpack(*(const uint4*)from, to); }
DEVICE void store_unit(const float (&from)[8], float* to) {
    *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
    *(float4*)(to + 4) = make_float4(from[4], from[5], from[6], from[7]);
}
DEVICE void store_unit(const float (&from)[8], bf16* to) {
    *(uint4*)to = make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                             pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
}

// The first `count` of eight values; zeros beyond. Sixteen bytes at a time where all are there and aligned.
template <class T> DEVICE void load(const T* from, u64 count, float (&to)[8]) {
    if (count >= UNIT && aligned_16(from)) {
        load_unit(from, to);
    } else {
#pragma unroll
        for (u32 i = 0; i < UNIT; i++) to[i] = i < count ? to_float(from[i]) : 0.0f;
    }
}
template <class T> DEVICE void store(const float (&from)[8], u64 count, T* to) {
    if (count >= UNIT && aligned_16(to)) {
        store_unit(from, to);
    } else {
#pragma unroll
        for (u32 i = 0; i < UNIT; i++)
            if (i < count) to[i] = from_float<T>(from[i]);
    }
}

// The first value of the unit that this thread has in an elementwise kernel: one unit a thread.
DEVICE u64 unit_start() { return ((u64)blockIdx.x * blockDim.x + threadIdx.x) * UNIT; }

// Where the unit of this thread is in a matrix, in a kernel of one unit of a row a thread.
struct Unit {
    u32 row, col, count;
    bool there;
};
DEVICE Unit matrix_unit(u32 rows, u32 cols) {
    const u32 units = (cols + UNIT - 1) / UNIT;
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 row = (u32)(index / units), col = (u32)(index % units) * UNIT;
    return {row, col, min(cols - col, UNIT), index < (u64)rows * units};
}

DEVICE u32 lane_index() { return threadIdx.x % WARP; }

// The row that this warp has in a kernel of one row a warp.
DEVICE u32 warp_row() { return blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }

// The sum over the lanes, in every lane, in a fixed order.
template <class T> DEVICE T warp_sum(T value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}
DEVICE float warp_max(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}

// Adds to y[column] the sum over rows of `value(row, column)`, in a fixed order. A block of WARP warps has a column a lane;
// each warp adds every WARP-th row.
template <class Value> DEVICE void add_sums_of_rows(u32 rows, u32 width, Value value, float* y) {
    __shared__ float of_warps[WARP][WARP];
    const u32 lane = lane_index(), warp = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < width)
        for (u32 row = warp; row < rows; row += WARP) sum += value(row, column);
    of_warps[warp][lane] = sum;
    sync_block();
    if (warp > 0 || column >= width) return;
    sum = 0.0f;
    for (u32 i = 0; i < WARP; i++) sum += of_warps[i][lane];
    y[column] += sum;
}

// Turns a pair by an angle. Products that are subtracted and added are rounded first, so that the bits are the same wherever a
// pair is turned.
DEVICE void turn_pair(float& low, float& high, float cosine, float sine) {
    const float a = low, b = high;
    low = a * cosine - mul_rounded(b, sine);
    high = b * cosine + mul_rounded(a, sine);
}

// SplitMix64 of a seed and a position, with the bits of random.rs.
DEVICE u64 mix(u64 x) {
    u64 z = x + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

DEVICE float uniform(u64 seed, u64 index) { return (float)(mix(seed ^ mix(index)) >> 40) * (1.0f / 16777216.0f); }
