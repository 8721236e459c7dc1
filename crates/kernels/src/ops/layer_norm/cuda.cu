// Layer normalisation, one warp a row: the row is read three times, all but the first from the cache.

// Calls use(column, values) for the units of a row that this lane has; values beyond the row are zeros.
template <class T, class Use> DEVICE void for_units(const T* x, u32 width, Use use) {
    for (u32 at = lane_index() * UNIT; at < width; at += WARP * UNIT) {
        float v[8];
        load(x + at, width - at, v);
        use(at, v);
    }
}

// Mean and 1 / sqrt(mean of squared differences from it + eps).
template <class T> DEVICE float2 row_statistics(const T* x, u32 width, float eps) {
    float sum = 0.0f;
    for_units(x, width, [&](u32, const float (&v)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) sum += v[i];
    });
    const float mean = warp_sum(sum) / (float)width;
    float squares = 0.0f;
    for_units(x, width, [&](u32 at, const float (&v)[8]) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) squares += at + i < width ? (v[i] - mean) * (v[i] - mean) : 0.0f;
    });
    return make_float2(mean, rsqrtf(warp_sum(squares) / (float)width + eps));
}

template <class T>
DEVICE void row_scaled(const T* x, const float* weight, const float* bias, u32 width, float2 statistics, T* y) {
    for_units(x, width, [&](u32 at, float (&v)[8]) {
        float w[8], b[8] = {};
        load(weight + at, width - at, w);
        if (bias) load(bias + at, width - at, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (v[i] - statistics.x) * statistics.y * w[i] + b[i];
        store(v, width - at, y + at);
    });
}

// `bias` may be null.
template <class T>
KERNEL(256)
layer_norm_forward(const T* x, const float* weight, const float* bias, float eps, u32 rows, u32 width, T* y,
                   float2* statistics) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    const float2 of_row = row_statistics(x + start, width, eps);
    if (lane_index() == 0) statistics[row] = of_row;
    row_scaled(x + start, weight, bias, width, of_row, y + start);
}

template <class T>
KERNEL(256)
layer_norm_recompute(const T* x, const float* weight, const float* bias, const float2* statistics, u32 rows, u32 width,
                     T* y) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    row_scaled(x + start, weight, bias, width, statistics[row], y + start);
}

// d_x += rstd (g - mean(g) - n mean(g n)), g = w d_y, n = (x - mean) rstd
template <class T>
KERNEL(256)
layer_norm_backward(const T* d_y, const T* x, const float* weight, const float2* statistics, u32 rows, u32 width, T* d_x) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    d_y += start, x += start, d_x += start;
    const float mean = statistics[row].x, rstd = statistics[row].y;
    float of_g = 0.0f, of_products = 0.0f;
    for_units(x, width, [&](u32 at, const float (&v)[8]) {
        float w[8], d[8];
        load(weight + at, width - at, w);
        load(d_y + at, width - at, d);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            of_g += w[i] * d[i];
            of_products += w[i] * d[i] * ((v[i] - mean) * rstd);
        }
    });
    of_g = warp_sum(of_g) / (float)width;
    of_products = warp_sum(of_products) / (float)width;
    for_units(x, width, [&](u32 at, const float (&v)[8]) {
        float w[8], d[8], total[8];
        load(weight + at, width - at, w);
        load(d_y + at, width - at, d);
        load(d_x + at, width - at, total);
#pragma unroll
        for (int i = 0; i < 8; i++) total[i] += rstd * (w[i] * d[i] - of_g - (v[i] - mean) * rstd * of_products);
        store(total, width - at, d_x + at);
    });
}

// d_weight += sum over rows of d_y (x - mean) rstd
template <class T>
KERNEL(1024)
layer_norm_backward_weight(const T* d_y, const T* x, const float2* statistics, u32 rows, u32 width, float* d_weight) {
    const auto product = [=](u32 row, u32 col) {
        const u64 at = (u64)row * width + col;
        const float2 of_row = statistics[row];
        return to_float(d_y[at]) * ((to_float(x[at]) - of_row.x) * of_row.y);
    };
    add_sums_of_rows(rows, width, product, d_weight);
}
