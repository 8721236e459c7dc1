// The magnitudes of DoRA; see mod.rs.

// factors = m / n, a column a thread: n^2 = squares + 2 scale sum over rank of products b_t.
template <class T>
KERNEL(256) magnitude_factors(const float* magnitudes, const float* squares, const T* products, const float* b_t, u32 rank,
                              u32 width, float scale, float* factors) {
    const u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= width) return;
    float sum = 0.0f;
    for (u32 r = 0; r < rank; r++) {
        const u64 at = (u64)r * width + col;
        sum += to_float(products[at]) * b_t[at];
    }
    const float square = squares[col] + 2.0f * scale * sum;
    // Rounding may bring the square of a row of zeros below 0.
    factors[col] = square <= 0.0f ? 0.0f : magnitudes[col] / sqrtf(square);
}

// y = factors y + bias; without a bias it is null.
template <class T>
KERNEL(256) magnitude_apply(T* y, u32 rows, u32 width, const float* factors, const float* bias) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    T* at = y + (u64)unit.row * width + unit.col;
    float v[8], factor[8], added[8];
    load(at, unit.count, v);
    load(factors + unit.col, unit.count, factor);
    if (bias) {
        load(bias + unit.col, unit.count, added);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = v[i] * factor[i] + added[i];
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= factor[i];
    }
    store(v, unit.count, at);
}

// d_magnitudes += the sum over rows of d_y (y - bias) / m.
template <class T>
KERNEL(1024) magnitude_gradient(const T* d_y, const T* y, u32 rows, u32 width, const float* magnitudes, const float* bias,
                                float* d_magnitudes) {
    const auto value = [=](u32 row, u32 col) {
        const u64 at = (u64)row * width + col;
        const float z = to_float(y[at]) - (bias ? bias[col] : 0.0f);
        return magnitudes[col] == 0.0f ? 0.0f : to_float(d_y[at]) * z / magnitudes[col];
    };
    add_sums_of_rows(rows, width, value, d_magnitudes);
}
