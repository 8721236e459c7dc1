// Cross entropy with its gradient, a block a row of logits. A row is read once and kept in registers, as far as it fits (32,768
// values in bf16): one pass for the softmax denominator, one that turns logits into the gradient. What does not fit is read again,
// the last first, since a cache has that most likely.

struct Target {
    u32 row, id;
    float weight;
};

// The largest value and the sum of exponentials above it.
struct Softmax {
    float largest, total;
};

DEVICE Softmax joined(Softmax a, Softmax b) {
    const float largest = fmaxf(a.largest, b.largest);
    // Of nothing, 0 e^(-inf - -inf) would be no number.
    const float left = a.total > 0.0f ? a.total * expf(a.largest - largest) : 0.0f;
    const float right = b.total > 0.0f ? b.total * expf(b.largest - largest) : 0.0f;
    return {largest, left + right};
}

// e^x: of logits in bf16 to a few units in the last place.
template <class T> DEVICE float exponential(float x);
template <> DEVICE float exponential<float>(float x) { return expf(x); }
template <> DEVICE float exponential<bf16>(float x) { return exp2_fast(x * 1.44269504f); }

DEVICE float minus_infinity() { return bits_float(0xff800000u); }

// Eight values as they are in memory, at an address that is a multiple of 16 bytes.
template <class T> struct Packed;
template <> struct Packed<bf16> {
    uint4 bits;
    DEVICE static Packed from(const bf16* at) { return {*(const uint4*)at}; }
    // Eight times minus infinity.
    DEVICE static Packed lowest() { return {make_uint4(0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u)}; }
    // Each time anew: what is unpacked takes twice the registers.
    DEVICE void get(float (&v)[8]) const {
        unpack(make_uint4(opaque(bits.x), opaque(bits.y), opaque(bits.z), opaque(bits.w)), v);
    }
};
template <> struct Packed<float> {
    float4 low, high;
    DEVICE static Packed from(const float* at) { return {*(const float4*)at, *(const float4*)(at + 4)}; }
    DEVICE static Packed lowest() {
        const float4 none = make_float4(minus_infinity(), minus_infinity(), minus_infinity(), minus_infinity());
        return {none, none};
    }
    DEVICE void get(float (&v)[8]) const {
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }
};

// Adds eight values. Sums of what was before are brought above the new largest value, so that no second pass is needed.
template <class T> DEVICE void add_unit(Softmax& all, const Packed<T>& unit) {
    float v[8], largest = all.largest;
    unit.get(v);
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, v[i]);
    // Of nothing but minus infinity, nothing.
    const float above = largest > minus_infinity() ? largest : 0.0f;
    all.total *= exponential<T>(all.largest - above);
    all.largest = largest;
#pragma unroll
    for (int i = 0; i < 8; i++) all.total += exponential<T>(v[i] - above);
}

// A row of logits as the threads of its block have it: units of eight values that begin at multiples of 16 bytes, of which each
// thread holds some, and the few values before and behind them, one a thread.
template <class T> struct LogitRow {
    static constexpr u32 AT_ONCE = 4 / sizeof(T), HELD = 16 / sizeof(T);
    T* logits;
    // Values before the first unit; units; this thread's value outside of them, NONE if it has none.
    u32 head, count, edge;
    static constexpr u32 NONE = 0xffffffffu;
    Packed<T> held[HELD];

    DEVICE LogitRow(T* row, u32 vocab) {
        logits = row;
        head = min((u32)((16 - ((u64)row & 15)) & 15) / (u32)sizeof(T), vocab);
        count = (vocab - head) / UNIT;
        const u32 tail = (vocab - head) % UNIT, at = threadIdx.x;
        edge = at < head ? at : at < head + tail ? count * UNIT + at : NONE;
#pragma unroll
        for (u32 i = 0; i < HELD; i++) held[i] = unit(i * blockDim.x + threadIdx.x);
    }

    DEVICE T* unit_at(u32 i) const { return logits + head + i * UNIT; }
    DEVICE Packed<T> unit(u32 i) const { return i < count ? Packed<T>::from(unit_at(i)) : Packed<T>::lowest(); }

    // Some units that are not held, `blockDim.x` apart.
    DEVICE void rest(u32 first, Packed<T> (&some)[AT_ONCE]) const {
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) some[i] = unit(first + i * blockDim.x + threadIdx.x);
    }

    // Over the row, in every thread.
    DEVICE Softmax softmax() const {
        Softmax mine = {minus_infinity(), 0.0f};
#pragma unroll
        for (u32 i = 0; i < HELD; i++) add_unit(mine, held[i]);
        for (u32 first = HELD * blockDim.x; first < count; first += AT_ONCE * blockDim.x) {
            Packed<T> some[AT_ONCE];
            rest(first, some);
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) add_unit(mine, some[i]);
        }
        if (edge != NONE) mine = joined(mine, {to_float(logits[edge]), 1.0f});
#pragma unroll
        for (int mask = WARP / 2; mask > 0; mask /= 2)
            mine = joined(mine, {shuffle_xor(mine.largest, mask), shuffle_xor(mine.total, mask)});
        __shared__ Softmax of_warps[WARP];
        const u32 warps = blockDim.x / WARP, lane = lane_index();
        if (lane == 0) of_warps[threadIdx.x / WARP] = mine;
        sync_block();
        mine = lane < warps ? of_warps[lane] : Softmax{minus_infinity(), 0.0f};
#pragma unroll
        for (int mask = WARP / 2; mask > 0; mask /= 2)
            mine = joined(mine, {shuffle_xor(mine.largest, mask), shuffle_xor(mine.total, mask)});
        return mine;
    }

    // `work(values, where they are)` for every unit of this thread, and `of_edge(value, where it is)` for the value outside.
    template <class Work, class OfEdge> DEVICE void for_each(Work work, OfEdge of_edge) const {
        float v[8];
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            const u32 at = i * blockDim.x + threadIdx.x;
            if (at >= count) break;
            held[i].get(v);
            work(v, unit_at(at));
        }
        const u32 held_by_block = HELD * blockDim.x, apart = AT_ONCE * blockDim.x;
        for (u32 left = count > held_by_block ? (count - held_by_block + apart - 1) / apart : 0; left > 0; left--) {
            const u32 first = held_by_block + (left - 1) * apart;
            Packed<T> some[AT_ONCE];
            rest(first, some);
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                const u32 at = first + i * blockDim.x + threadIdx.x;
                if (at >= count) break;
                some[i].get(v);
                work(v, unit_at(at));
            }
        }
        if (edge != NONE) of_edge(to_float(logits[edge]), logits + edge);
    }
};

// `starts[row]..starts[row + 1]` are the targets of a row.
template <class T>
KERNEL(512, 2)
cross_entropy_loss(const T* logits, u32 vocab, const u32* starts, const Target* targets, float* losses) {
    const u32 row = blockIdx.x, first = starts[row], last = starts[row + 1];
    if (first == last) return;
    logits += (u64)row * vocab;
    const LogitRow<T> of_row((T*)logits, vocab);
    const Softmax all = of_row.softmax();
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x)
        losses[i] = logf(all.total) - (to_float(logits[targets[i].id]) - all.largest);
}

// The mean of what the logits of a row have above `base`, in every thread.
template <class T> DEVICE float mean_above(const LogitRow<T>& row, u32 vocab, float base) {
    float sum = 0.0f;
    row.for_each(
        [&](float(&v)[8], T*) {
#pragma unroll
            for (int i = 0; i < 8; i++) sum += v[i] - base;
        },
        [&](float value, T*) { sum += value - base; });
    sum = warp_sum(sum);
    __shared__ float of_warps[WARP];
    if (lane_index() == 0) of_warps[threadIdx.x / WARP] = sum;
    sync_block();
    float all = 0.0f;
    for (u32 i = 0; i < blockDim.x / WARP; i++) all += of_warps[i];
    return all / (float)vocab;
}

// Overwrites the logits with the gradient of `scale` times the weighted sum of losses, of whose targets a share `smoothing` is
// spread over the vocabulary.
template <class T>
KERNEL(512, 2)
cross_entropy_gradient(T* logits, u32 vocab, const u32* starts, const Target* targets, float scale, float smoothing,
                       float* losses) {
    const u32 row = blockIdx.x, first = starts[row], last = starts[row + 1];
    logits += (u64)row * vocab;
    const LogitRow<T> of_row(logits, vocab);
    if (first == last) {
        const float zeros[8] = {};
        of_row.for_each([&](float(&)[8], T* at) { store_unit(zeros, at); }, [](float, T* at) { *at = from_float<T>(0.0f); });
        return;
    }
    // While the row comes. Losses hold the targets' logits until there is a denominator; after its barriers logits are overwritten.
    float weight = 0.0f;
    for (u32 i = first; i < last; i++) weight += targets[i].weight;
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x) losses[i] = to_float(logits[targets[i].id]);
    const Softmax all = of_row.softmax();
    const float spread = smoothing > 0.0f ? smoothing * mean_above(of_row, vocab, all.largest) : 0.0f;
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x) losses[i] = logf(all.total) - (losses[i] - all.largest);
    const float factor = weight * scale / all.total, evenly = weight * smoothing / (float)vocab, less = evenly * scale;
    of_row.for_each(
        [&](float(&v)[8], T* at) {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = exponential<T>(v[i] - all.largest) * factor - less;
            store_unit(v, at);
        },
        [&](float value, T* at) { *at = from_float<T>(exponential<T>(value - all.largest) * factor - less); });
    sync_block();
    // The targets' own values from the losses, in f32: a likely token's p - 1 would not survive p being rounded first.
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const u32 id = targets[i].id;
        bool taken = false;
        for (u32 j = first; j < i; j++) taken |= targets[j].id == id;
        if (taken) continue;
        float hits = 0.0f;
        for (u32 j = i; j < last; j++) hits += targets[j].id == id ? targets[j].weight : 0.0f;
        logits[id] = from_float<T>((weight * expf(-losses[i]) - (1.0f - smoothing) * hits - evenly) * scale);
    }
    // Each thread has read its own.
    if (smoothing > 0.0f)
        for (u32 i = first + threadIdx.x; i < last; i += blockDim.x)
            losses[i] = (1.0f - smoothing) * losses[i] + smoothing * logf(all.total) - spread;
}
