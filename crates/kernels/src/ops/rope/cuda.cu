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

// A head of queries or keys, and which unit of it a thread has. A row has `q_heads` heads of queries and `k_heads` of keys.
template <class T> struct HeadUnit {
    T* head;
    u64 row;
    u32 unit;
    bool there;
};
template <class T>
DEVICE HeadUnit<T> head_unit(T* q, T* k, u32 rows, u32 q_heads, u32 k_heads, u32 head_dim, u32 units) {
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x, of_all = index / units;
    const u32 heads = q_heads + k_heads, head = (u32)(of_all % heads);
    const u64 row = of_all / heads;
    T* of = head < q_heads ? q + (row * q_heads + head) * head_dim : k + (row * k_heads + head - q_heads) * head_dim;
    return {of, row, (u32)(index % units), index < (u64)rows * heads * units};
}

// `sign` 1 turns forward, -1 back. `head_dim` values a head, of which the first 2 * half are turned.
template <class T>
KERNEL(256)
rope_turn(T* q, T* k, const float* cosine, const float* sine, float sign, u32 rows, u32 q_heads, u32 k_heads, u32 half,
          u32 head_dim) {
    const HeadUnit<T> of = head_unit(q, k, rows, q_heads, k_heads, head_dim, (half + UNIT - 1) / UNIT);
    if (!of.there) return;
    const u32 j = of.unit * UNIT, count = half - j;
    T* low = of.head + j;
    T* high = low + half;
    const u64 angle = of.row * half + j;
    float a[8], b[8], c[8], s[8];
    load(low, count, a);
    load(high, count, b);
    load(cosine + angle, count, c);
    load(sine + angle, count, s);
#pragma unroll
    for (int i = 0; i < 8; i++) turn_pair(a[i], b[i], c[i], s[i] * sign);
    store(a, count, low);
    store(b, count, high);
}

// The same for pairs of neighbours.
template <class T>
KERNEL(256)
rope_turn_neighbours(T* q, T* k, const float* cosine, const float* sine, float sign, u32 rows, u32 q_heads, u32 k_heads,
                     u32 half, u32 head_dim) {
    const HeadUnit<T> of = head_unit(q, k, rows, q_heads, k_heads, head_dim, (2 * half + UNIT - 1) / UNIT);
    if (!of.there) return;
    const u32 first = of.unit * UNIT, count = 2 * half - first;
    T* at = of.head + first;
    const u64 angle = of.row * half + first / 2;
    float v[8];
    load(at, count, v);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (2 * i >= count) continue;
        turn_pair(v[2 * i], v[2 * i + 1], cosine[angle + i], sine[angle + i] * sign);
    }
    store(v, count, at);
}
