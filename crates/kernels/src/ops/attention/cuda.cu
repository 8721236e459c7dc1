// Flash attention over a tree of segments (Dao 2023, "FlashAttention-2"), on tensor cores: bf16 in and out, sums in f32.
//
// A block has 4 warps and 64 rows of an operand, 16 a warp; it walks the other operand in shorter tiles. Query heads that
// share a key head lie in one block: row r of a segment is token r / group of query head r % group, so that keys and
// values are read once for a group, and their gradients need no sum over blocks.
//
// Two numberings make trees causal. Along the path from a root to a segment, keys have positions 0, 1, ...: a query at
// position p sees positions up to p. In depth-first order of the segments ("order"), whoever sees a key comes after it and
// before the end of the key's subtree.
//
// Forward and the gradient of queries loop over keys, the gradients of keys and values over queries; the scores are
// computed again in both, so that no sum needs atomics and results have the same bits every time.

struct Segment {
    i32 start, len, parent;  // tokens of the stream; the segment before on the path, or -1
    i32 base;                // position of the first token
    i32 order, subtree;      // place of the first token in depth-first order; tokens of the segment and all below it
};

static constexpr int ROWS = 64, WARP_ROWS = 16;
static constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

struct Heads {
    u32 query, key;
    DEVICE u32 group() const { return query / key; }
};

// The token at `position` on the path that ends with segment `at`.
DEVICE u32 token_at(const Segment* segments, i32 at, i32 position) {
    while (position < segments[at].base) at = segments[at].parent;
    return segments[at].start + position - segments[at].base;
}

// Values from one row of a tile in shared memory to the next: an odd number of 16 bytes, so that eight rows are in
// different banks.
template <int DIM> struct Tile {
    static constexpr int STRIDE = DIM + 8;
};

// Begins to copy `TILE_ROWS` rows of DIM values: row r from `row(r)`, or zeros where that is null.
template <int DIM, int TILE_ROWS, class Row> DEVICE void load_tile(bf16* tile, Row row) {
    constexpr int CHUNKS = DIM / 8;
    for (int i = threadIdx.x; i < TILE_ROWS * CHUNKS; i += blockDim.x) {
        const int r = i / CHUNKS, chunk = i % CHUNKS * 8;
        const bf16* from = row(r);
        copy_async(tile + r * Tile<DIM>::STRIDE + chunk, from ? from + chunk : from, from != nullptr);
    }
}

// Of the 16 rows of a warp from `rows` on, the 16 columns from `column` on, as the left operand of `mma`.
template <int DIM> DEVICE void load_left(u32 (&a)[4], const bf16* rows, int column) {
    const int lane = lane_index();
    load_matrices(a, rows + lane % 16 * Tile<DIM>::STRIDE + column + lane / 16 * 8);
}

// sums[16, N] += left[16, DIM] . right[N, DIM]^T, both in shared memory.
template <int DIM, int N> DEVICE void product_transposed(float (&sums)[N / 8][4], const bf16* left, const bf16* right) {
    const int lane = lane_index();
    const bf16* from = right + (lane % 8 + lane / 16 * 8) * Tile<DIM>::STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        u32 a[4];
        load_left<DIM>(a, left, k);
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            u32 b[4];
            load_matrices(b, from + n * Tile<DIM>::STRIDE + k);
            mma(sums[n / 8], a, b[0], b[1]);
            mma(sums[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, N] += left[16, K] . right[K, N]: left is the result of a product, right N columns of a tile of rows of DIM.
template <int DIM, int K, int N>
DEVICE void product(float (&sums)[N / 8][4], const float (&left)[K / 8][4], const bf16* right) {
    const int lane = lane_index();
    const bf16* from = right + lane % 16 * Tile<DIM>::STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        const float(&low)[4] = left[k / 8], (&high)[4] = left[k / 8 + 1];
        const u32 a[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                          pack_bf16(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            u32 b[4];
            load_matrices_transposed(b, from + k * Tile<DIM>::STRIDE + n);
            mma(sums[n / 8], a, b[0], b[1]);
            mma(sums[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

template <int N> DEVICE void clear(float (&sums)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
}

// Writes sums[16, N] times `factor` (one for each of a lane's two rows) through `tile`, the warp's own 16 rows of shared
// memory, to the rows that `row(r)` gives, 16 bytes a lane; none where that is null.
template <int DIM, int N, class Row>
DEVICE void store_tile(const float (&sums)[N / 8][4], float factor_low, float factor_high, bf16* tile, Row row) {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        bf16* to = tile + g * Tile<DIM>::STRIDE + n * 8 + 2 * t;
        *(u32*)to = pack_bf16(sums[n][0] * factor_low, sums[n][1] * factor_low);
        *(u32*)(to + 8 * Tile<DIM>::STRIDE) = pack_bf16(sums[n][2] * factor_high, sums[n][3] * factor_high);
    }
    sync_warp();
    constexpr int CHUNKS = N / 8;
    for (int i = lane; i < WARP_ROWS * CHUNKS; i += WARP) {
        const int r = i / CHUNKS, chunk = i % CHUNKS * 8;
        bf16* to = row(r);
        if (to) *(uint4*)(to + chunk) = *(const uint4*)(tile + r * Tile<DIM>::STRIDE + chunk);
    }
}

// 64 rows of queries of one segment and one key head, from row `first` on.
struct QueryRows {
    Segment segment;
    Heads heads;
    u32 key_head;
    i32 index, first, count;

    DEVICE QueryRows(const Segment* segments, const int2* tiles, Heads heads_) : heads(heads_), key_head(blockIdx.y) {
        index = tiles[blockIdx.x].x;
        first = tiles[blockIdx.x].y;
        segment = segments[index];
        count = min(ROWS, segment.len * (i32)heads.group() - first);
    }
    // Position of row r of the block.
    DEVICE i32 position(int r) const { return segment.base + (first + r) / (i32)heads.group(); }
    // Token and head of row r, as an index into [tokens, heads].
    DEVICE u64 place(int r) const {
        const u32 group = heads.group(), row = first + r;
        return ((u64)segment.start + row / group) * heads.query + key_head * group + row % group;
    }
    // Keys that the last row sees.
    DEVICE i32 keys() const { return position(count - 1) + 1; }
};

// Grid: (tiles of query rows, key heads).
template <int DIM>
KERNEL(128)
attention_forward(const bf16* q, const bf16* k, const bf16* v, const Segment* segments, const int2* tiles, u32 heads,
                  u32 kv_heads, float scale, bf16* out, float* lse) {
    constexpr int KEYS = 64, STRIDE = Tile<DIM>::STRIDE;
    DYNAMIC_SHARED(memory);
    bf16* tile_q = (bf16*)memory;
    bf16* tile_k = tile_q + ROWS * STRIDE;
    bf16* tile_v = tile_k + KEYS * STRIDE;

    const QueryRows rows(segments, tiles, {heads, kv_heads});
    const i32 keys = rows.keys();
    const int lane = lane_index(), t = lane % 4, own = threadIdx.x / WARP * WARP_ROWS, low = own + lane / 4, high = low + 8;
    const auto load_keys = [&](bf16* tile, const bf16* from, i32 first) {
        load_tile<DIM, KEYS>(tile, [&](int r) -> const bf16* {
            if (first + r >= keys) return nullptr;
            return from + ((u64)token_at(segments, rows.index, first + r) * kv_heads + rows.key_head) * DIM;
        });
        copy_async_commit();
    };
    load_tile<DIM, ROWS>(tile_q, [&](int r) { return r < rows.count ? q + rows.place(r) * DIM : nullptr; });
    load_keys(tile_k, k, 0);

    const float scale_log2 = scale * LOG2_E;
    const i32 sees_low = rows.position(low), sees_high = rows.position(high);
    float sums[DIM / 8][4], largest[2], total[2] = {0.0f, 0.0f};
    largest[0] = largest[1] = bits_float(0xff800000u);
    clear(sums);
    for (i32 first = 0; first < keys; first += KEYS) {
        load_keys(tile_v, v, first);
        copy_async_wait<1>();
        sync_block();
        float p[KEYS / 8][4];
        clear(p);
        product_transposed<DIM, KEYS>(p, tile_q + own * STRIDE, tile_k);
        sync_block();
        // The next keys come while values are at work.
        if (first + KEYS < keys) load_keys(tile_k, k, first + KEYS);
        else copy_async_commit();

        // Every row sees position 0, so that its largest score is finite from the first tile on.
        const bool all_seen = first + KEYS <= rows.segment.base + rows.first / (i32)rows.heads.group() + 1;
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const i32 key = first + n * 8 + 2 * t + i % 2;
                const bool seen = all_seen || (key < keys && key <= (i < 2 ? sees_low : sees_high));
                p[n][i] = seen ? p[n][i] * scale_log2 : bits_float(0xff800000u);
                most[i / 2] = fmaxf(most[i / 2], p[n][i]);
            }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[half] = fmaxf(most[half], shuffle_xor(most[half], 1));
            most[half] = fmaxf(most[half], shuffle_xor(most[half], 2));
            const float shrink = exp2_fast(largest[half] - most[half]);
            largest[half] = most[half];
            total[half] *= shrink;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                sums[n][2 * half] *= shrink;
                sums[n][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                p[n][i] = exp2_fast(p[n][i] - largest[i / 2]);
                total[i / 2] += p[n][i];
            }
        copy_async_wait<1>();
        sync_block();
        product<DIM, KEYS, DIM>(sums, p, tile_v);
        sync_block();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] += shuffle_xor(total[half], 1);
        total[half] += shuffle_xor(total[half], 2);
        const int row = half ? high : low;
        if (t == 0 && row < rows.count) lse[rows.place(row)] = (largest[half] + log2f(total[half])) * LN_2;
    }
    store_tile<DIM, DIM>(sums, 1.0f / total[0], 1.0f / total[1], tile_q + own * STRIDE, [&](int r) {
        return own + r < rows.count ? out + rows.place(own + r) * DIM : nullptr;
    });
}

// delta = sum of d_out out over a head, one warp a token and head.
template <int DIM> KERNEL(256) attention_delta(const bf16* d_out, const bf16* out, u32 rows, float* delta) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * DIM;
    float sum = 0.0f;
    for (u32 at = lane_index() * UNIT; at < DIM; at += WARP * UNIT) {
        float a[8], b[8];
        load_unit(d_out + start + at, a);
        load_unit(out + start + at, b);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += a[i] * b[i];
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) delta[row] = sum;
}

// Rows of the inner tiles of backward, and how many pairs of them are in shared memory: what fits 99 KiB.
template <int DIM> struct Inner {
    static constexpr int ROWS = DIM > 128 ? 16 : 32, STAGES = DIM > 128 ? 1 : 2;
};

// Calls `use(stage, first)` for tiles from `first` = 0 on in steps of STEP below `end`, each after `load(stage, first)`;
// with two stages the next tile comes while one is used.
template <int STAGES, int STEP, class Load, class Use> DEVICE void pipeline(i32 end, Load load, Use use) {
    load(0, 0);
    copy_async_commit();
    for (i32 first = 0, stage = 0; first < end; first += STEP, stage = (stage + 1) % STAGES) {
        const i32 next = first + STEP;
        if (STAGES == 2) {
            if (next < end) load(1 - stage, next);
            copy_async_commit();
        }
        copy_async_wait<STAGES - 1>();
        sync_block();
        use(stage, first);
        sync_block();
        if (STAGES == 1) {
            if (next < end) load(0, next);
            copy_async_commit();
        }
    }
}

// Grid: (tiles of query rows, key heads). No small device has shared memory for more than two blocks, so that registers
// need not be spilled for a third.
template <int DIM>
KERNEL(128, 2)
attention_backward_queries(const bf16* d_out, const bf16* q, const bf16* k, const bf16* v, const float* lse,
                           const float* delta, const Segment* segments, const int2* tiles, u32 heads, u32 kv_heads,
                           float scale, bf16* d_q) {
    constexpr int KEYS = Inner<DIM>::ROWS, STRIDE = Tile<DIM>::STRIDE;
    DYNAMIC_SHARED(memory);
    bf16* tile_q = (bf16*)memory;
    bf16* tile_d = tile_q + ROWS * STRIDE;
    bf16* inner = tile_d + ROWS * STRIDE;

    const QueryRows rows(segments, tiles, {heads, kv_heads});
    const i32 keys = rows.keys();
    const int lane = lane_index(), t = lane % 4, own = threadIdx.x / WARP * WARP_ROWS, low = own + lane / 4, high = low + 8;
    const auto from_queries = [&](const bf16* from) {
        return [&rows, from](int r) { return r < rows.count ? from + rows.place(r) * DIM : nullptr; };
    };
    load_tile<DIM, ROWS>(tile_q, from_queries(q));
    load_tile<DIM, ROWS>(tile_d, from_queries(d_out));

    const float scale_log2 = scale * LOG2_E;
    const i32 sees[2] = {rows.position(low), rows.position(high)};
    // Rows that are not there have the probability 2^-inf.
    float lse_log2[2] = {bits_float(0x7f800000u), bits_float(0x7f800000u)}, deltas[2] = {0.0f, 0.0f};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = half ? high : low;
        if (row >= rows.count) continue;
        lse_log2[half] = lse[rows.place(row)] * LOG2_E;
        deltas[half] = delta[rows.place(row)];
    }
    float sums[DIM / 8][4];
    clear(sums);
    const auto load = [&](int stage, i32 first) {
        const auto from_keys = [&](const bf16* from) {
            return [&, from](int r) -> const bf16* {
                if (first + r >= keys) return nullptr;
                return from + ((u64)token_at(segments, rows.index, first + r) * kv_heads + rows.key_head) * DIM;
            };
        };
        bf16* tile = inner + stage * 2 * KEYS * STRIDE;
        load_tile<DIM, KEYS>(tile, from_keys(k));
        load_tile<DIM, KEYS>(tile + KEYS * STRIDE, from_keys(v));
    };
    pipeline<Inner<DIM>::STAGES, KEYS>(keys, load, [&](int stage, i32 first) {
        const bf16* tile_k = inner + stage * 2 * KEYS * STRIDE;
        const bf16* tile_v = tile_k + KEYS * STRIDE;
        float p[KEYS / 8][4], d_p[KEYS / 8][4];
        clear(p);
        clear(d_p);
        product_transposed<DIM, KEYS>(p, tile_q + own * STRIDE, tile_k);
        product_transposed<DIM, KEYS>(d_p, tile_d + own * STRIDE, tile_v);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const i32 key = first + n * 8 + 2 * t + i % 2;
                const bool seen = key < keys && key <= sees[i / 2];
                const float probability = seen ? exp2_fast(p[n][i] * scale_log2 - lse_log2[i / 2]) : 0.0f;
                p[n][i] = probability * (d_p[n][i] - deltas[i / 2]);
            }
        product<DIM, KEYS, DIM>(sums, p, tile_k);
    });
    store_tile<DIM, DIM>(sums, scale, scale, tile_q + own * STRIDE, [&](int r) {
        return own + r < rows.count ? d_q + rows.place(own + r) * DIM : nullptr;
    });
}

// Grid: (tiles of keys, key heads, parts of the columns). `tiles` are the segment and its first key of a block; `order` are
// the tokens in depth-first order. COLS columns of both gradients are computed a block, since more do not fit registers.
template <int DIM, int COLS>
KERNEL(128)
attention_backward_keys(const bf16* d_out, const bf16* q, const bf16* k, const bf16* v, const float* lse,
                        const float* delta, const Segment* segments, const u32* order, const int2* tiles, u32 heads,
                        u32 kv_heads, float scale, bf16* d_k, bf16* d_v) {
    constexpr int QUERIES = Inner<DIM>::ROWS, STAGES = Inner<DIM>::STAGES, STRIDE = Tile<DIM>::STRIDE;
    DYNAMIC_SHARED(memory);
    bf16* tile_k = (bf16*)memory;
    bf16* tile_v = tile_k + ROWS * STRIDE;
    bf16* inner = tile_v + ROWS * STRIDE;
    float* inner_lse = (float*)(inner + STAGES * 2 * QUERIES * STRIDE);
    float* inner_delta = inner_lse + STAGES * QUERIES;

    const Segment segment = segments[tiles[blockIdx.x].x];
    const i32 first_key = tiles[blockIdx.x].y, count = min(ROWS, segment.len - first_key);
    const u32 group = heads / kv_heads, key_head = blockIdx.y, column = blockIdx.z * COLS;
    // Queries see these keys from the first key's place in the order to the end of the subtree.
    const u32* queries = order + segment.order + first_key;
    const i32 query_rows = (segment.subtree - first_key) * (i32)group;
    const auto key_place = [&](int r) { return ((u64)segment.start + first_key + r) * kv_heads + key_head; };
    const auto query_place = [&](i32 row) {
        return (u64)queries[row / (i32)group] * heads + key_head * group + row % (i32)group;
    };
    const auto from_keys = [&](const bf16* from) {
        return [&, from](int r) { return r < count ? from + key_place(r) * DIM : nullptr; };
    };
    load_tile<DIM, ROWS>(tile_k, from_keys(k));
    load_tile<DIM, ROWS>(tile_v, from_keys(v));

    const int lane = lane_index(), t = lane % 4, own = threadIdx.x / WARP * WARP_ROWS, low = own + lane / 4, high = low + 8;
    const float scale_log2 = scale * LOG2_E;
    float sums_k[COLS / 8][4], sums_v[COLS / 8][4];
    clear(sums_k);
    clear(sums_v);
    const auto load = [&](int stage, i32 first) {
        const auto from_queries = [&](const bf16* from) {
            return [&, from](int r) { return first + r < query_rows ? from + query_place(first + r) * DIM : nullptr; };
        };
        bf16* tile = inner + stage * 2 * QUERIES * STRIDE;
        load_tile<DIM, QUERIES>(tile, from_queries(q));
        load_tile<DIM, QUERIES>(tile + QUERIES * STRIDE, from_queries(d_out));
        if (threadIdx.x < QUERIES) {
            const i32 row = first + (i32)threadIdx.x;
            const bool there = row < query_rows;
            // Rows that are not there have the probability 2^-inf.
            inner_lse[stage * QUERIES + threadIdx.x] = there ? lse[query_place(row)] * LOG2_E : bits_float(0x7f800000u);
            inner_delta[stage * QUERIES + threadIdx.x] = there ? delta[query_place(row)] : 0.0f;
        }
    };
    pipeline<STAGES, QUERIES>(query_rows, load, [&](int stage, i32 first) {
        const bf16* tile_q = inner + stage * 2 * QUERIES * STRIDE;
        const bf16* tile_d = tile_q + QUERIES * STRIDE;
        float p[QUERIES / 8][4], d_s[QUERIES / 8][4];
        clear(p);
        clear(d_s);
        // Scores transposed: rows are keys, columns queries.
        product_transposed<DIM, QUERIES>(p, tile_k + own * STRIDE, tile_q);
        product_transposed<DIM, QUERIES>(d_s, tile_v + own * STRIDE, tile_d);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query = n * 8 + 2 * t + i % 2, key = i < 2 ? low : high;
                const bool seen = key < count && first + query >= key * (i32)group;
                const int place = stage * QUERIES + query;
                p[n][i] = seen ? exp2_fast(p[n][i] * scale_log2 - inner_lse[place]) : 0.0f;
                d_s[n][i] = p[n][i] * (d_s[n][i] - inner_delta[place]);
            }
        product<DIM, QUERIES, COLS>(sums_v, p, tile_d + column);
        product<DIM, QUERIES, COLS>(sums_k, d_s, tile_q + column);
    });
    const auto to_keys = [&](bf16* to) {
        return [&, to](int r) { return own + r < count ? to + key_place(own + r) * DIM + column : nullptr; };
    };
    store_tile<DIM, COLS>(sums_k, scale, scale, tile_k + own * STRIDE, to_keys(d_k));
    store_tile<DIM, COLS>(sums_v, 1.0f, 1.0f, tile_v + own * STRIDE, to_keys(d_v));
}
