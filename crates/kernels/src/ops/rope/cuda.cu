// Rotary position embedding: a thread turns eight neighbouring pairs of one head.

// The product in f32, as transformers has it. One thread a pair.
KERNEL(256) rope_angles(const u32* positions, const float* frequencies, u32 tokens, u32 half, float* cosine, float* sine) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)tokens * half) return;
    const float angle = (float)positions[at / half] * frequencies[at % half];
    sincosf(angle, sine + at, cosine + at);
}

// `sign` 1 turns forward, -1 back. `heads` per row, 2 * half values a head.
template <class T>
KERNEL(256) rope_turn(T* x, const float* cosine, const float* sine, float sign, u32 rows, u32 heads, u32 half) {
    const u32 units = (half + UNIT - 1) / UNIT;
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (u64)rows * heads * units) return;
    const u64 head = index / units;
    const u32 j = (u32)(index % units) * UNIT, count = half - j;
    T* low = x + head * 2 * half + j;
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
