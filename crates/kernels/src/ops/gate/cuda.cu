// y = act(gate) up, and y = act(x); one unit of eight values a thread.

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

// Overwrites gate and up with their gradients; with `output_again` d_y becomes what forward gave.
template <class T, class Act> KERNEL(256) gate_backward(T* d_y, T* gate, T* up, u64 len, u32 output_again) {
    const u64 at = unit_start();
    if (at >= len) return;
    float d[8], g[8], u[8];
    load(d_y + at, len - at, d);
    load(gate + at, len - at, g);
    load(up + at, len - at, u);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float slope;
        const float value = Act::value_and_slope(g[i], slope);
        const float d_value = d[i];
        d[i] = value * u[i];
        g[i] = d_value * u[i] * slope;
        u[i] = d_value * value;
    }
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
