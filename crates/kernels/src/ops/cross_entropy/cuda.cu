// Cross entropy with its gradient, a block a row of logits: one pass for the softmax denominator (the largest logit is
// followed on the way), one that turns logits into the gradient.

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

// Over the row, in every thread.
template <class T> DEVICE Softmax row_softmax(const T* logits, u32 vocab) {
    Softmax mine = {bits_float(0xff800000u), 0.0f};
    for (u32 at = threadIdx.x * UNIT; at < vocab; at += blockDim.x * UNIT) {
        float v[8];
        load(logits + at, vocab - at, v);
        const u32 count = min(vocab - at, UNIT);
        Softmax unit = {v[0], 0.0f};
#pragma unroll
        for (u32 i = 1; i < UNIT; i++) unit.largest = i < count ? fmaxf(unit.largest, v[i]) : unit.largest;
#pragma unroll
        for (u32 i = 0; i < UNIT; i++) unit.total += i < count ? expf(v[i] - unit.largest) : 0.0f;
        mine = joined(mine, unit);
    }
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2)
        mine = joined(mine, {shuffle_xor(mine.largest, mask), shuffle_xor(mine.total, mask)});
    __shared__ Softmax of_warps[WARP];
    if (lane_index() == 0) of_warps[threadIdx.x / WARP] = mine;
    sync_block();
    Softmax all = of_warps[0];
    for (u32 i = 1; i < blockDim.x / WARP; i++) all = joined(all, of_warps[i]);
    return all;
}

// The first target of a row not below `row`; targets are sorted by row.
DEVICE u32 first_target(const Target* targets, u32 count, u32 row) {
    u32 low = 0, high = count;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (targets[middle].row < row) low = middle + 1;
        else high = middle;
    }
    return low;
}

template <class T>
KERNEL(512) cross_entropy_loss(const T* logits, u32 vocab, const Target* targets, u32 count, float* losses) {
    const u32 row = blockIdx.x;
    const u32 first = first_target(targets, count, row), last = first_target(targets, count, row + 1);
    if (first == last) return;
    logits += (u64)row * vocab;
    const Softmax all = row_softmax(logits, vocab);
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x)
        losses[i] = logf(all.total) - (to_float(logits[targets[i].id]) - all.largest);
}

// The mean of what the logits of a row have above `base`, in every thread.
template <class T> DEVICE float mean_above(const T* logits, u32 vocab, float base) {
    float sum = 0.0f;
    for (u32 at = threadIdx.x * UNIT; at < vocab; at += blockDim.x * UNIT) {
        float v[8];
        load(logits + at, vocab - at, v);
        const u32 count = min(vocab - at, UNIT);
#pragma unroll
        for (u32 i = 0; i < UNIT; i++) sum += i < count ? v[i] - base : 0.0f;
    }
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
KERNEL(512)
cross_entropy_gradient(T* logits, u32 vocab, const Target* targets, u32 count, float scale, float smoothing, float* losses) {
    const u32 row = blockIdx.x;
    const u32 first = first_target(targets, count, row), last = first_target(targets, count, row + 1);
    logits += (u64)row * vocab;
    if (first == last) {
        const float zeros[8] = {};
        for (u32 at = threadIdx.x * UNIT; at < vocab; at += blockDim.x * UNIT) store(zeros, vocab - at, logits + at);
        return;
    }
    const Softmax all = row_softmax(logits, vocab);
    const float spread = smoothing > 0.0f ? smoothing * mean_above(logits, vocab, all.largest) : 0.0f;
    float weight = 0.0f;
    for (u32 i = first; i < last; i++) weight += targets[i].weight;
    for (u32 i = first + threadIdx.x; i < last; i += blockDim.x)
        losses[i] = logf(all.total) - (to_float(logits[targets[i].id]) - all.largest);
    sync_block();
    const float factor = weight * scale / all.total, evenly = weight * smoothing / (float)vocab;
    for (u32 at = threadIdx.x * UNIT; at < vocab; at += blockDim.x * UNIT) {
        float v[8];
        load(logits + at, vocab - at, v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = expf(v[i] - all.largest) * factor - evenly * scale;
        store(v, vocab - at, logits + at);
    }
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
