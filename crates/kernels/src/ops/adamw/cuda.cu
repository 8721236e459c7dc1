// AdamW; the constants of a step are reduced to f32 on the host, as for the CPU.

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

// The code of `value` among the ascending `map`, as quant/dynamic_map.rs finds it: the value is first rounded to one of
// 65,536 even steps from -1 to 1.
DEVICE u8 nearest_code(const float* map, float value) {
    const float steps = 65535.0f, half = (fminf(fmaxf(value, -1.0f), 1.0f) + 1.0f) * 0.5f;
    const float even = -1.0f + 2.0f * floorf(mul_rounded(half, steps) + 0.5f) / steps;
    u32 low = 0, high = 255;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (0.5f * (map[middle] + map[middle + 1]) < even) low = middle + 1;
        else high = middle;
    }
    return (u8)low;
}

// Moments of a block of 256 values, eight a lane, as codes with a scale.
static constexpr u32 MOMENT_BLOCK = 256;
DEVICE void encode_moments(const float* map, const float (&values)[8], u64 start, u64 len, u8* codes, float* absmax) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(values[i]));
    most = warp_max(most);
    if (lane_index() == 0) *absmax = most;
    const float inverse = 1.0f / most;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u64 at = start + i * WARP + lane_index();
        if (at < len) codes[at] = most > 0.0f ? nearest_code(map, values[i] * inverse) : 0;
    }
}

// AdamW with moments of 8 bits, a warp a block of 256 values, to the bits of the CPU: what it rounds once is fused here, what
// it rounds twice is not. `maps` are the signed and the unsigned dynamic code.
KERNEL(256) adamw_8bit(float* parameter, const float* gradient, u8* first, float* first_absmax, u8* second,
                       float* second_absmax, const float* maps, u64 len, float keep, float beta1, float rest1, float beta2,
                       float rest2, float step_size, float correction, float eps, float scale) {
    __shared__ float map[2][256];
    for (u32 i = threadIdx.x; i < 512; i += blockDim.x) map[i / 256][i % 256] = maps[i];
    sync_block();
    const u64 block = (u64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, start = block * MOMENT_BLOCK;
    if (start >= len) return;
    float m[8], v[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u64 at = start + i * WARP + lane_index();
        m[i] = v[i] = 0.0f;
        if (at >= len) continue;
        const float g = gradient[at] * scale, p = parameter[at];
        m[i] = fmaf(g, rest1, map[0][first[at]] * first_absmax[block] * beta1);
        v[i] = fmaf(rest2 * g, g, map[1][second[at]] * second_absmax[block] * beta2);
        // Multiplied before it is divided, as bitsandbytes does.
        parameter[at] = mul_rounded(p, keep) - step_size * m[i] / (sqrtf(v[i]) / correction + eps);
    }
    sync_warp();
    encode_moments(map[0], m, start, len, first, first_absmax + block);
    encode_moments(map[1], v, start, len, second, second_absmax + block);
}
