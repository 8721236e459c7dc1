// Rotary position embedding: a thread turns eight pairs of one head, or the four of eight neighbouring values.

// The product in f32, as transformers has it. One thread a pair.
KERNEL(256) rope_angles(const u32* positions, const float* frequencies, u32 tokens, u32 half, float factor,
                        float* cosine, float* sine) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)tokens * half) return;
    const float angle = (float)positions[at / half] * frequencies[at % half];
    float s, c;
    sincosf(angle, &s, &c);
    sine[at] = s * factor, cosine[at] = c * factor;
}

// `sign` 1 turns forward, -1 back. `heads` per row, `head_dim` values a head, of which the first 2 * half are turned.
template <class T>
KERNEL(256)
rope_turn(T* x, const float* cosine, const float* sine, float sign, u32 rows, u32 heads, u32 half, u32 head_dim) {
    const u32 units = (half + UNIT - 1) / UNIT;
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (u64)rows * heads * units) return;
    const u64 head = index / units;
    const u32 j = (u32)(index % units) * UNIT, count = half - j;
    T* low = x + head * head_dim + j;
    T* high = low + half;
    const u64 angle = head / heads * half + j;
    float a[8], b[8], c[8], s[8], turned_a[8], turned_b[8];
    load(low, count, a);
    load(high, count, b);
    load(cosine + angle, count, c);
    load(sine + angle, count, s);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        turned_a[i] = a[i] * c[i] - b[i] * (s[i] * sign);
        turned_b[i] = b[i] * c[i] + a[i] * (s[i] * sign);
    }
    store(turned_a, count, low);
    store(turned_b, count, high);
}

// The same for pairs of neighbours.
template <class T>
KERNEL(256)
rope_turn_neighbours(T* x, const float* cosine, const float* sine, float sign, u32 rows, u32 heads, u32 half, u32 head_dim) {
    const u32 units = (2 * half + UNIT - 1) / UNIT;
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (u64)rows * heads * units) return;
    const u64 head = index / units;
    const u32 first = (u32)(index % units) * UNIT, count = 2 * half - first;
    T* at = x + head * head_dim + first;
    const u64 angle = head / heads * half + first / 2;
    float v[8];
    load(at, count, v);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (2 * i >= count) continue;
        const float a = v[2 * i], b = v[2 * i + 1], c = cosine[angle + i], s = sine[angle + i] * sign;
        v[2 * i] = a * c - b * s;
        v[2 * i + 1] = b * c + a * s;
    }
    store(v, count, at);
}
