// y = act(gate) up, and y = act(x); one unit of eight values a thread, but for the last kernel.

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(x * -1.44269504f)); }

// Each gives act(x), and its slope.
struct Silu {
    DEVICE static float value(float x) { return x * sigmoid(x); }
    DEVICE static float value_and_slope(float x, float& slope) {
        const float s = sigmoid(x), silu = x * s;
        slope = s + silu * (1.0f - s);
        return silu;
    }
};

// 1 + tanh(u) is twice sigmoid(2 u), which keeps small values of negative arguments exact.
struct GeluTanh {
    DEVICE static float value_and_slope(float x, float& slope) {
        constexpr float SCALE = 2.0f * 0.79788456f, CUBE = 0.044715f;
        const float s = sigmoid(SCALE * x * (1.0f + CUBE * x * x));
        slope = s + x * s * (1.0f - s) * (SCALE * (1.0f + 3.0f * CUBE * x * x));
        return x * s;
    }
    DEVICE static float value(float x) {
        float slope;
        return value_and_slope(x, slope);
    }
};

struct Gelu {
    DEVICE static float below(float x) { return 0.5f * erfcf(x * -0.70710678f); }
    DEVICE static float value(float x) { return x * below(x); }
    DEVICE static float value_and_slope(float x, float& slope) {
        const float part = below(x);
        slope = part + x * 0.39894228f * exp2_fast(x * x * -0.72134752f);
        return x * part;
    }
};

// What is not a number stays so.
struct Relu2 {
    DEVICE static float value_and_slope(float x, float& slope) {
        const float positive = x < 0.0f ? 0.0f : x;
        slope = 2.0f * positive;
        return positive * positive;
    }
    DEVICE static float value(float x) {
        float slope;
        return value_and_slope(x, slope);
    }
};

template <class T, class Act> KERNEL(256) gate_forward(const T* gate, const T* up, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float g[8], u[8];
    load(gate + at, len - at, g);
    load(up + at, len - at, u);
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] = Act::value(g[i]) * u[i];
    store(g, len - at, y + at);
}

// From the gradient of the output to the output, and from gate and up to their gradients.
template <class Act> DEVICE void gate_gradients(float& d_y, float& gate, float& up) {
    float slope;
    const float value = Act::value_and_slope(gate, slope), d_value = d_y;
    d_y = value * up;
    gate = d_value * up * slope;
    up = d_value * value;
}

// Overwrites gate and up with their gradients; with `output_again` d_y becomes what forward gave.
template <class T, class Act> KERNEL(256) gate_backward(T* d_y, T* gate, T* up, u64 len, u32 output_again) {
    const u64 at = unit_start();
    if (at >= len) return;
    float d[8], g[8], u[8];
    load(d_y + at, len - at, d);
    load(gate + at, len - at, g);
    load(up + at, len - at, u);
#pragma unroll
    for (int i = 0; i < 8; i++) gate_gradients<Act>(d[i], g[i], u[i]);
    if (output_again) store(d, len - at, d_y + at);
    store(g, len - at, gate + at);
    store(u, len - at, up + at);
}

template <class T, class Act> KERNEL(256) activation_forward(const T* x, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = Act::value(v[i]);
    store(v, len - at, y + at);
}

// Overwrites x with its gradient; with `output_again` d_y becomes what forward gave.
template <class T, class Act> KERNEL(256) activation_backward(T* d_y, T* x, u64 len, u32 output_again) {
    const u64 at = unit_start();
    if (at >= len) return;
    float d[8], v[8];
    load(d_y + at, len - at, d);
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float slope;
        const float value = Act::value_and_slope(v[i], slope);
        v[i] = d[i] * slope;
        d[i] = value;
    }
    if (output_again) store(d, len - at, d_y + at);
    store(v, len - at, x + at);
}

// As gate_backward, and the product d_u^T y of the output y, [rank, width], on tensor cores: y is multiplied as it is computed and
// never written. d_u is [rows, rank], rank a multiple of eight up to RANK, width one of eight.
//
// A warp has 64 columns and goes down `part_rows` rows, 16 at a time; grid: (256 columns, parts). `products` are those of the
// parts, [parts, rank, width], which add_parts sums.
template <class Act, int RANK>
KERNEL(128)
gate_backward_product(const bf16* d_y, bf16* gate, bf16* up, const bf16* d_u, u32 rows, u32 width, u32 rank, u32 part_rows,
                      float* products) {
    constexpr int WARPS = 4, ROWS = 16, COLS = 64, UNITS = COLS / 8;
    // Rows are an odd number of units apart, so that eight of them are in different banks.
    constexpr int STRIDE = UNITS + 1, LEFT_UNITS = RANK / 8, LEFT_STRIDE = LEFT_UNITS + 1;
    __shared__ uint4 tiles[WARPS][ROWS * STRIDE], left_tiles[WARPS][ROWS * LEFT_STRIDE];
    const int lane = lane_index(), warp = threadIdx.x / WARP, unit = lane % UNITS, g = lane / 4, t = lane % 4;
    uint4 *tile = tiles[warp], *left = left_tiles[warp];
    const u32 first_col = (blockIdx.x * WARPS + warp) * COLS, col = first_col + unit * 8;
    if (first_col >= width) return;
    const u32 begin = blockIdx.y * part_rows, end = min(begin + part_rows, rows);
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    float sums[RANK / 16][UNITS][4];
#pragma unroll
    for (int m = 0; m < RANK / 16; m++)
#pragma unroll
        for (int n = 0; n < UNITS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;

    for (u32 first = begin; first < end; first += ROWS) {
#pragma unroll
        for (int i = lane; i < ROWS * LEFT_UNITS; i += WARP) {
            const u32 row = first + i / LEFT_UNITS, at = i % LEFT_UNITS * 8;
            const bool is_there = row < end && at < rank;
            left[i / LEFT_UNITS * LEFT_STRIDE + i % LEFT_UNITS] =
                is_there ? *(const uint4*)(d_u + (u64)row * rank + at) : zeros;
        }
        // Some rows are asked for before one of them is written: as many as fit registers beside the sums.
        constexpr int APART = WARP / UNITS, AT_ONCE = RANK > 32 ? 2 : 4;
#pragma unroll
        for (int some = 0; some < ROWS / APART; some += AT_ONCE) {
            const int own = some * APART + lane / UNITS;
            const u64 place = (u64)(first + own) * width + col;
            const u32 count = col < width && first + own < end ? end - first - own : 0;
            uint4 of_d_y[AT_ONCE], of_gate[AT_ONCE], of_up[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const bool there = i * APART < count;
                const u64 at = place + (u64)i * APART * width;
                of_d_y[i] = there ? *(const uint4*)(d_y + at) : zeros;
                of_gate[i] = there ? *(const uint4*)(gate + at) : zeros;
                of_up[i] = there ? *(const uint4*)(up + at) : zeros;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                float d[8], a[8], u[8];
                unpack(of_d_y[i], d);
                unpack(of_gate[i], a);
                unpack(of_up[i], u);
#pragma unroll
                for (int j = 0; j < 8; j++) gate_gradients<Act>(d[j], a[j], u[j]);
                store_unit(d, (bf16*)(tile + (own + i * APART) * STRIDE + unit));
                if (i * APART >= count) continue;
                const u64 at = place + (u64)i * APART * width;
                store_unit(a, gate + at);
                store_unit(u, up + at);
            }
        }
        sync_warp();
        u32 of_left[RANK / 16][4];
#pragma unroll
        for (int m = 0; m < RANK / 16; m++)
            load_matrices_transposed(of_left[m],
                                     shared_address(left + (lane % 8 + lane / 16 * 8) * LEFT_STRIDE + lane / 8 % 2 + 2 * m));
#pragma unroll
        for (int n = 0; n < UNITS; n += 2) {
            u32 right[4];
            load_matrices_transposed(right, shared_address(tile + lane % 16 * STRIDE + lane / 16 + n));
#pragma unroll
            for (int m = 0; m < RANK / 16; m++) {
                mma(sums[m][n], of_left[m], right[0], right[1]);
                mma(sums[m][n + 1], of_left[m], right[2], right[3]);
            }
        }
        sync_warp();
    }
    products += (u64)blockIdx.y * rank * width;
#pragma unroll
    for (int m = 0; m < RANK / 16; m++)
#pragma unroll
        for (int n = 0; n < UNITS; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 row = m * 16 + g + 8 * half, at = first_col + n * 8 + 2 * t;
                if (row < rank && at < width)
                    *(float2*)(products + (u64)row * width + at) = make_float2(sums[m][n][2 * half], sums[m][n][2 * half + 1]);
            }
}
