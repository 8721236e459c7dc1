// Dropout with the bits of the CPU: the mask is a function of seed and position.

// 0 for a dropped value, 1 / (1 - p) for a kept one.
DEVICE float dropout_factor(float p, u64 seed, u64 index) { return uniform(seed, index) < p ? 0.0f : 1.0f / (1.0f - p); }

template <class T> KERNEL(256) dropout_forward(const T* x, float p, u64 seed, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float v[8];
    load(x + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= dropout_factor(p, seed, at + i);
    store(v, len - at, y + at);
}

// Adds to d_x.
template <class T> KERNEL(256) dropout_backward(const T* d_y, float p, u64 seed, u64 len, T* d_x) {
    const u64 at = unit_start();
    if (at >= len) return;
    float d[8], total[8];
    load(d_y + at, len - at, d);
    load(d_x + at, len - at, total);
#pragma unroll
    for (int i = 0; i < 8; i++) total[i] += d[i] * dropout_factor(p, seed, at + i);
    store(total, len - at, d_x + at);
}
