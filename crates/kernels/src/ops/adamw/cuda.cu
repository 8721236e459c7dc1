// AdamW with moments in f32; the constants of a step are reduced to f32 on the host, as for the CPU.

KERNEL(256) adamw(float* parameter, const float* gradient, float* first, float* second, u64 len, float keep,
                  float beta1, float rest1, float beta2, float rest2, float step_size, float correction, float eps,
                  float scale) {
    const u64 at = unit_start();
    if (at >= len) return;
    float p[8], g[8], m[8], v[8];
    load(parameter + at, len - at, p);
    load(gradient + at, len - at, g);
    load(first + at, len - at, m);
    load(second + at, len - at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        g[i] *= scale;
        m[i] = m[i] * beta1 + g[i] * rest1;
        v[i] = v[i] * beta2 + g[i] * g[i] * rest2;
        p[i] = p[i] * keep - step_size * (m[i] / (sqrtf(v[i]) / correction + eps));
    }
    store(p, len - at, parameter + at);
    store(m, len - at, first + at);
    store(v, len - at, second + at);
}
