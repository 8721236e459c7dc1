// Small steps between the large ops. Copies of ranges are the driver's.

template <class T> KERNEL(256) add(const T* x, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float a[8], b[8];
    load(x + at, len - at, a);
    load(y + at, len - at, b);
#pragma unroll
    for (int i = 0; i < 8; i++) b[i] += a[i];
    store(b, len - at, y + at);
}

// x *= factor
template <class T> KERNEL(256) scale(T* x, u64 len, float factor) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= factor;
    store(v, len - at, x + at);
}

// y += factor x
template <class T> KERNEL(256) add_scaled(const T* x, float factor, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float a[8], b[8];
    load(x + at, len - at, a);
    load(y + at, len - at, b);
#pragma unroll
    for (int i = 0; i < 8; i++) b[i] += factor * a[i];
    store(b, len - at, y + at);
}

// y += the sum of `count` parts of `len` values, in their order.
KERNEL(256) add_parts(const float* parts, u32 count, u64 len, float* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float sum[8], part[8];
    load(y + at, len - at, sum);
    for (u32 of = 0; of < count; of++) {
        load(parts + of * len + at, len - at, part);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += part[i];
    }
    store(sum, len - at, y + at);
}

// x = cap tanh(x / cap)
template <class T> KERNEL(256) softcap(T* x, u64 len, float cap) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = cap * tanhf(v[i] / cap);
    store(v, len - at, x + at);
}

// d_x *= 1 - (capped / cap)^2
template <class T> KERNEL(256) softcap_backward(const T* capped, u64 len, float cap, T* d_x) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8], d[8];
    load(capped + at, len - at, v);
    load(d_x + at, len - at, d);
#pragma unroll
    for (int i = 0; i < 8; i++) d[i] *= 1.0f - (v[i] / cap) * (v[i] / cap);
    store(d, len - at, d_x + at);
}

// Rows of `width` values, `x_stride` and `y_stride` apart.
template <class T> KERNEL(256) copy_columns(const T* x, u32 x_stride, u32 rows, u32 width, T* y, u32 y_stride) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    float v[8];
    load(x + (u64)unit.row * x_stride + unit.col, unit.count, v);
    store(v, unit.count, y + (u64)unit.row * y_stride + unit.col);
}

// From one precision to another, to nearest even.
template <class From, class To> KERNEL(256) convert(const From* x, u64 len, To* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
    store(v, len - at, y + at);
}

// As from f32 to bf16 and back, in place.
KERNEL(256) round_to_bf16(float* x, u64 len) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = to_float(from_float<bf16>(v[i]));
    store(v, len - at, x + at);
}

// Every row becomes `row`.
template <class T> KERNEL(256) fill_rows(const float* row, u32 rows, u32 width, T* y, u32 y_stride) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    float v[8];
    load(row + unit.col, unit.count, v);
    store(v, unit.count, y + (u64)unit.row * y_stride + unit.col);
}

// Adds `row` to every row.
template <class T> KERNEL(256) add_to_rows(const float* row, u32 rows, u32 width, T* y, u32 y_stride) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    T* to = y + (u64)unit.row * y_stride + unit.col;
    float v[8], sum[8];
    load(row + unit.col, unit.count, v);
    load(to, unit.count, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += v[i];
    store(sum, unit.count, to);
}

// y += the sum of each column of x.
template <class T> KERNEL(1024) add_column_sums(const T* x, u32 rows, u32 width, float* y) {
    add_sums_of_rows(rows, width, [=](u32 row, u32 col) { return to_float(x[(u64)row * width + col]); }, y);
}

// x *= scale in `count` columns from `first` on; one value a thread, columns along the first axis of the grid.
template <class T> KERNEL(256) scale_columns(T* x, u32 rows, u32 width, u32 first, u32 count, float scale) {
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (u64)rows * count) return;
    T& value = x[index / count * width + first + index % count];
    value = from_float<T>(to_float(value) * scale);
}

// Row i of x times factors[i].
template <class T> KERNEL(256) scale_rows(T* x, u32 rows, u32 width, const float* factors) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    T* at = x + (u64)unit.row * width + unit.col;
    const float factor = factors[unit.row];
    float v[8];
    load(at, unit.count, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= factor;
    store(v, unit.count, at);
}

// Row rows[i] of x becomes row i of y; a block a row.
template <class T> KERNEL(256) gather_rows(const T* x, const u32* rows, u32 width, T* y) {
    const T* from = x + (u64)rows[blockIdx.x] * width;
    T* to = y + (u64)blockIdx.x * width;
    for (u32 at = threadIdx.x * UNIT; at < width; at += blockDim.x * UNIT) {
        float v[8];
        load(from + at, width - at, v);
        store(v, width - at, to + at);
    }
}

// Adds rows of x to row rows[i] of y, which is group i's: of x they are order[starts[i]..starts[i + 1]], or without lists row i
// alone. Groups along the first axis of the grid, columns along the second. A group's rows are added in order: no atomics, the same
// bits every time.
template <class From, class To>
KERNEL(256, 4)
scatter_add_rows(const From* x, const u32* rows, const u32* starts, const u32* order, u32 width, To* y) {
    const u32 group = blockIdx.x, at = (blockIdx.y * blockDim.x + threadIdx.x) * UNIT;
    if (at >= width) return;
    const u32 first = starts ? starts[group] : group, last = starts ? starts[group + 1] : group + 1;
    To* to = y + (u64)rows[group] * width + at;
    float sum[8];
    load(to, width - at, sum);
#pragma unroll 4
    for (u32 i = first; i < last; i++) {
        float v[8];
        load(x + (u64)(order ? order[i] : i) * width + at, width - at, v);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += v[j];
    }
    store(sum, width - at, to);
}

// The sum of the threads' values in f64, in thread 0, in a fixed order.
DEVICE double block_sum(double value) {
    __shared__ double of_warps[WARP];
    value = warp_sum(value);
    if (lane_index() == 0) of_warps[threadIdx.x / WARP] = value;
    sync_block();
    return warp_sum(threadIdx.x < blockDim.x / WARP ? of_warps[threadIdx.x] : 0.0);
}

// Sum of squares in two launches: a partial sum a block, then `sum_partials` in one block.
KERNEL(256) sum_squares(const float* x, u64 len, double* partial) {
    double sum = 0.0;
    for (u64 at = unit_start(); at < len; at += (u64)gridDim.x * blockDim.x * UNIT) {
        float v[8];
        load(x + at, len - at, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += (double)v[i] * (double)v[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
KERNEL(256) sum_partials(const double* partial, u32 count, double* total) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
