// Uniform noise with the bits of the CPU.

template <class T> KERNEL(256) add_noise(T* x, u32 rows, u32 width, const float* bounds, u64 seed) {
    const Unit unit = matrix_unit(rows, width);
    if (!unit.there) return;
    const u64 first = (u64)unit.row * width + unit.col;
    const float bound = bounds[unit.row];
    float v[8];
    load(x + first, unit.count, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += bound * (2.0f * uniform(seed, first + i) - 1.0f);
    store(v, unit.count, x + first);
}
