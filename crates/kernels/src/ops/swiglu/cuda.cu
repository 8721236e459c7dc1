// y = silu(gate) up; one unit of eight values a thread.

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(x * -1.44269504f)); }

template <class T> KERNEL(256) swiglu_forward(const T* gate, const T* up, u64 len, T* y) {
    const u64 at = unit_start();
    if (at >= len) return;
    float g[8], u[8];
    load(gate + at, len - at, g);
    load(up + at, len - at, u);
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] = g[i] * sigmoid(g[i]) * u[i];
    store(g, len - at, y + at);
}

// Overwrites gate and up with their gradients.
template <class T> KERNEL(256) swiglu_backward(const T* d_y, T* gate, T* up, u64 len) {
    const u64 at = unit_start();
    if (at >= len) return;
    float d[8], g[8], u[8];
    load(d_y + at, len - at, d);
    load(gate + at, len - at, g);
    load(up + at, len - at, u);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float s = sigmoid(g[i]), silu = g[i] * s;
        g[i] = d[i] * u[i] * (s + silu * (1.0f - s));
        u[i] = d[i] * silu;
    }
    store(g, len - at, gate + at);
    store(u, len - at, up + at);
}
