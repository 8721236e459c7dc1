// RMS normalisation, one warp a row: the row is read twice, the second time from the cache.

// 1 / sqrt(mean of squares + eps).
template <class T> DEVICE float row_rstd(const T* x, u32 width, float eps) {
    float sum = 0.0f;
    for (u32 at = lane_index() * UNIT; at < width; at += WARP * UNIT) {
        float v[8];
        load(x + at, width - at, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    }
    return rsqrtf(warp_sum(sum) / (float)width + eps);
}

template <class T> DEVICE void row_scaled(const T* x, const float* weight, u32 width, float rstd, T* y) {
    for (u32 at = lane_index() * UNIT; at < width; at += WARP * UNIT) {
        float v[8], w[8];
        load(x + at, width - at, v);
        load(weight + at, width - at, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = v[i] * rstd * w[i];
        store(v, width - at, y + at);
    }
}

template <class T>
KERNEL(256) rms_norm_forward(const T* x, const float* weight, float eps, u32 rows, u32 width, T* y, float* rstd) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    const float r = row_rstd(x + start, width, eps);
    if (lane_index() == 0) rstd[row] = r;
    row_scaled(x + start, weight, width, r, y + start);
}

template <class T>
KERNEL(256) rms_norm_recompute(const T* x, const float* weight, const float* rstd, u32 rows, u32 width, T* y) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    row_scaled(x + start, weight, width, rstd[row], y + start);
}

// d_x += rstd (w d_y - x rstd^2 mean(w d_y x)); y becomes what forward gave, where it is not null.
template <class T>
KERNEL(256)
rms_norm_backward(const T* d_y, const T* x, const float* weight, const float* rstd, u32 rows, u32 width, T* d_x, T* y) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * width;
    d_y += start, x += start, d_x += start;
    float sum = 0.0f;
    for (u32 at = lane_index() * UNIT; at < width; at += WARP * UNIT) {
        float v[8], w[8], d[8];
        load(x + at, width - at, v);
        load(weight + at, width - at, w);
        load(d_y + at, width - at, d);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += w[i] * d[i] * v[i];
    }
    const float r = rstd[row], back = r * r * (warp_sum(sum) / (float)width);
    for (u32 at = lane_index() * UNIT; at < width; at += WARP * UNIT) {
        float v[8], w[8], d[8], total[8];
        load(x + at, width - at, v);
        load(weight + at, width - at, w);
        load(d_y + at, width - at, d);
        load(d_x + at, width - at, total);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            total[i] += r * (w[i] * d[i] - v[i] * back);
            v[i] = v[i] * r * w[i];
        }
        store(total, width - at, d_x + at);
        if (y) store(v, width - at, y + start + at);
    }
}

// d_weight += sum over rows of d_y x rstd
template <class T>
KERNEL(1024)
rms_norm_backward_weight(const T* d_y, const T* x, const float* rstd, u32 rows, u32 width, float* d_weight) {
    const auto product = [=](u32 row, u32 col) {
        const u64 at = (u64)row * width + col;
        return to_float(d_y[at]) * (to_float(x[at]) * rstd[row]);
    };
    add_sums_of_rows(rows, width, product, d_weight);
}
