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
//
// Kernels are SPECIAL where scores may be capped or in a window; the others only scale them, and have no code for more.

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

// What becomes of the product of a query and a key: times `scale`, then capped where `softcap` is above zero. A query sees
// the `window` last keys up to its own position.
template <bool SPECIAL> struct Scores {
    float scale, softcap;
    i32 window;
    // The score times log2 e; `slope` becomes that of the cap.
    DEVICE float log2_of(float product, float& slope) const {
        slope = 1.0f;
        if (!SPECIAL || !(softcap > 0.0f)) return product * (scale * LOG2_E);
        const float capped = tanhf(product * (scale / softcap));
        slope = 1.0f - capped * capped;
        return softcap * capped * LOG2_E;
    }
    DEVICE bool see(i32 query, i32 key) const { return key <= query && (!SPECIAL || query - key < window); }
    // The first position that a query sees.
    DEVICE i32 first_key(i32 query) const { return SPECIAL ? max(query - window + 1, 0) : 0; }
};

// The token at `position` on the path that ends with segment `at`.
DEVICE u32 token_at(const Segment* segments, i32 at, i32 position) {
    while (position < segments[at].base) at = segments[at].parent;
    return segments[at].start + position - segments[at].base;
}

// Rows in shared memory, in chunks of 16 bytes. Eight rows have a chunk in different banks: where a row is a multiple of 128
// bytes, 64 of its values lie behind those of the row before, all rows' first 64 before the next ones, and the chunks of 128
// bytes change places by the last bits of the row's number, as the products of a warpgroup want them; elsewhere rows are an odd
// number of chunks apart.
template <int DIM, int ROWS> struct Tile {
    static constexpr bool SWIZZLED = DIM % 64 == 0;
    static constexpr int STRIDE = SWIZZLED ? 64 : DIM + 8, LEN = ROWS * (SWIZZLED ? DIM : STRIDE);
    // The values that a chunk of a row begins at.
    DEVICE static int at(int row, int chunk) {
        if (!SWIZZLED) return row * STRIDE + chunk * 8;
        return chunk / 8 * (ROWS * STRIDE) + row * STRIDE + (chunk % 8 ^ row % 8) * 8;
    }
    DEVICE static SharedAddress address(const bf16* tile, int row, int chunk) { return shared_address(tile + at(row, chunk)); }
    // From a chunk to that `more` behind it in its row, where adding their numbers carries no bit: what swaps them is one
    // operation on the address, since tiles and their rows begin at multiples of eight chunks.
    DEVICE static SharedAddress behind(SharedAddress chunk, int more) {
        if (!SWIZZLED) return chunk + more * 16;
        return (chunk ^ more % 8 * 16) + more / 8 * (ROWS * STRIDE * 2);
    }
    // From a chunk to that in the same place `rows` rows on, a multiple of eight.
    DEVICE static SharedAddress below(SharedAddress chunk, int rows) { return chunk + rows * STRIDE * 2; }
    // From a chunk to that in the same place of a tile `tiles` tiles on.
    DEVICE static SharedAddress later(SharedAddress chunk, int tiles) { return chunk + tiles * LEN * 2; }
};

// A tile of ROWS rows is copied by all threads of a block: so many have a row, and `row()` is that of this thread.
static constexpr int THREADS = 128;
template <int ROWS> struct Copier {
    static constexpr int OF_ROW = THREADS / ROWS;
    DEVICE static int row() { return threadIdx.x / OF_ROW; }
    DEVICE static int first_chunk() { return threadIdx.x % OF_ROW; }
};

// The same address, which the compiler keeps: what it can compute from the number of the thread it computes again in every tile.
DEVICE SharedAddress kept(SharedAddress address) { return shuffle_xor(address, 0); }

// Where this thread copies to in a tile.
template <int DIM, int ROWS> DEVICE SharedAddress copies_of(const bf16* tile) {
    typedef Copier<ROWS> Mine;
    return kept(Tile<DIM, ROWS>::address(tile, Mine::row(), Mine::first_chunk()));
}

// Begins to copy this thread's row of DIM values `from` to a tile, or fills it with zeros where it is not there.
template <int DIM, int ROWS> DEVICE void load_row(SharedAddress to, const bf16* from, bool there) {
    typedef Copier<ROWS> Mine;
    constexpr int CHUNKS = DIM / 8;
    const int first = Mine::first_chunk();
    from = opaque(from + first * 8);
#pragma unroll
    for (int i = 0; i < (CHUNKS + Mine::OF_ROW - 1) / Mine::OF_ROW; i++) {
        if (CHUNKS % Mine::OF_ROW == 0 || first + i * Mine::OF_ROW < CHUNKS)
            copy_async(Tile<DIM, ROWS>::behind(to, i * Mine::OF_ROW), from + i * Mine::OF_ROW * 8, there);
    }
}

// The chunk of a tile from which a lane goes through it as an operand: a right one whose rows are summed over, a left one, of whose
// rows the warp has 16 from `own` on, and a right one whose columns are. They are found once, outside of the loops.
template <int DIM, int ROWS> DEVICE SharedAddress right_rows_of(const bf16* tile) {
    return Tile<DIM, ROWS>::address(tile, lane_index() % 16, lane_index() / 16);
}
template <int DIM, int ROWS> DEVICE SharedAddress left_of(const bf16* tile, int own) {
    return kept(Tile<DIM, ROWS>::address(tile, own + lane_index() % 16, lane_index() / 16));
}
template <int DIM, int ROWS> DEVICE SharedAddress right_of(const bf16* tile) {
    return kept(Tile<DIM, ROWS>::address(tile, lane_index() % 8 + lane_index() / 16 * 8, lane_index() / 8 % 2));
}

// sums[16, N] = left[16, DIM] . right[N, DIM]^T, both in shared memory: of `left_of` in a tile of LEFT rows, and of `right_of` in
// one of N.
template <int DIM, int LEFT, int N>
DEVICE void product_transposed(float (&sums)[N / 8][4], SharedAddress left_chunk, SharedAddress right_chunk) {
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        u32 a[4];
        load_matrices(a, Tile<DIM, LEFT>::behind(left_chunk, k / 8));
        const SharedAddress from = Tile<DIM, N>::behind(right_chunk, k / 8);
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            u32 b[4];
            load_matrices(b, Tile<DIM, N>::below(from, n));
            if (k == 0) {
                mma_first(sums[n / 8], a, b[0], b[1]);
                mma_first(sums[n / 8 + 1], a, b[2], b[3]);
            } else {
                mma(sums[n / 8], a, b[0], b[1]);
                mma(sums[n / 8 + 1], a, b[2], b[3]);
            }
        }
    }
}

// The result of a product as the left operand of the next: pairs of columns, in bf16.
template <int N> DEVICE void pack(u32 (&packed)[N][2], const float (&values)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) packed[n][half] = pack_bf16(values[n][2 * half], values[n][2 * half + 1]);
}

// sums[16, N] += left[16, K] . right[K, N]: right is N columns of a tile of K rows of DIM, from `right_rows_of`.
template <int DIM, int K, int N>
DEVICE void product(float (&sums)[N / 8][4], const u32 (&left)[K / 8][2], SharedAddress chunk) {
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        const u32(&low)[2] = left[k / 8], (&high)[2] = left[k / 8 + 1];
        const u32 a[4] = {low[0], low[1], high[0], high[1]};
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            u32 b[4];
            load_matrices_transposed(b, Tile<DIM, K>::below(Tile<DIM, K>::behind(chunk, n / 8), k));
            mma(sums[n / 8], a, b[0], b[1]);
            mma(sums[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

// Calls `use(value, column, half)` for a lane's values of a product: the column of the product, and which of its two rows.
template <int N, class Use> DEVICE void for_each(float (&values)[N][4], Use use) {
    const int t = lane_index() % 4;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) use(values[n][i], n * 8 + 2 * t + i % 2, i / 2);
}
// The same of two products: `use(first, second, column, half)`.
template <int N, class Use> DEVICE void for_each(float (&first)[N][4], float (&second)[N][4], Use use) {
    const int t = lane_index() % 4;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) use(first[n][i], second[n][i], n * 8 + 2 * t + i % 2, i / 2);
}

template <int N> DEVICE void clear(float (&sums)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
}

// Writes sums[16, N] times `factor` (one for each of a lane's two rows) through the warp's own 16 rows of `tile`, from `own` on, to
// the rows that `row(r)` gives, 16 bytes a lane; none where that is null.
template <int DIM, int ROWS, int N, class Row>
DEVICE void store_tile(const float (&sums)[N / 8][4], float factor_low, float factor_high, bf16* tile, int own, Row row) {
    typedef Tile<DIM, ROWS> Rows;
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        bf16* to = tile + Rows::at(own + g, n) + 2 * t;
        *(u32*)to = pack_bf16(sums[n][0] * factor_low, sums[n][1] * factor_low);
        *(u32*)(to + 8 * Rows::STRIDE) = pack_bf16(sums[n][2] * factor_high, sums[n][3] * factor_high);
    }
    sync_warp();
    constexpr int CHUNKS = N / 8;
    for (int i = lane; i < WARP_ROWS * CHUNKS; i += WARP) {
        const int r = i / CHUNKS, chunk = i % CHUNKS;
        bf16* to = row(r);
        if (to) *(uint4*)(to + chunk * 8) = *(const uint4*)(tile + Rows::at(own + r, chunk));
    }
}

// Up to 64 rows of queries of one segment and one key head, from row `first` on.
struct QueryRows {
    Segment segment;
    Heads heads;
    u32 key_head;
    i32 index, first, count;

    // Of the tile of this block, `most` rows from row `from` on; `count` is not above zero where there are none.
    DEVICE QueryRows(const Segment* segments, const int2* tiles, Heads heads_, i32 from = 0, i32 most = ROWS)
        : QueryRows(segments[tiles[blockIdx.x].x], tiles[blockIdx.x].x, tiles[blockIdx.x].y + from, heads_, most) {}
    DEVICE QueryRows(Segment segment_, i32 index_, i32 first_, Heads heads_, i32 most)
        : segment(segment_), heads(heads_), key_head(blockIdx.y), index(index_), first(first_) {
        count = min(most, segment.len * (i32)heads.group() - first);
    }
    // Position of row r of the block.
    DEVICE i32 position(int r) const { return segment.base + (first + r) / (i32)heads.group(); }
    // Token of row r; of the last where there is no such row.
    DEVICE u64 token(int r) const { return (u64)segment.start + (first + min(r, count - 1)) / (i32)heads.group(); }
    // Token and head of row r, as an index into [tokens, heads].
    DEVICE u64 place(int r) const {
        const u32 group = heads.group(), row = first + r;
        return ((u64)segment.start + row / group) * heads.query + key_head * group + row % group;
    }
    // Keys that the last row sees.
    DEVICE i32 keys() const { return position(count - 1) + 1; }
    // Begins to copy the block's rows of queries or of what is laid out like them.
    template <int DIM> DEVICE void load(bf16* tile, const bf16* from) const {
        const int r = Copier<ROWS>::row();
        load_row<DIM, ROWS>(copies_of<DIM, ROWS>(tile), from + place(min(r, count - 1)) * DIM, r < count);
    }
};

// This thread's row of a tile of keys: where it is in [tokens, key heads], and whether it is.
struct KeyRow {
    u64 place;
    bool there;
};
template <int ROWS>
DEVICE KeyRow key_row(const Segment* segments, const QueryRows& rows, i32 first, i32 keys) {
    const i32 position = first + Copier<ROWS>::row(), at = min(position, keys - 1);
    const Segment& own = rows.segment;
    const u32 token = at >= own.base ? own.start + at - own.base : token_at(segments, own.parent, at);
    return {(u64)token * rows.heads.key + rows.key_head, position < keys};
}

// The largest value of the four lanes that share a row of a fragment.
DEVICE float quad_max(float value) {
    value = fmaxf(value, shuffle_xor(value, 1));
    return fmaxf(value, shuffle_xor(value, 2));
}

// Powers of two of scores times `to_log2` above a row's `shift`, packed, and their sums over a lane's part of a row.
template <int N>
DEVICE void powers(u32 (&packed)[N][2], const float (&scores)[N][4], const float (&shift)[2], float to_log2, float (&sums)[2]) {
    const float shift_log2[2] = {shift[0] * to_log2, shift[1] * to_log2};
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float low = exp2_fast(scores[n][2 * half] * to_log2 - shift_log2[half]);
            const float high = exp2_fast(scores[n][2 * half + 1] * to_log2 - shift_log2[half]);
            sums[half] += low + high;
            packed[n][half] = pack_bf16(low, high);
        }
}

// Up to this a lane's sum of powers needs no larger shift: far from where f32 ends, however many tiles are added.
static constexpr float LARGEST_TOTAL = 65536.0f;

// Turns the rows of queries in `tile` by the angles of their tokens (Rotation in halves) and writes them over those before. A
// warp turns its rows of the product.
template <int DIM, int ROWS>
DEVICE void turn_queries(bf16* tile, const QueryRows& rows, const float* cosine, const float* sine, bf16* q) {
    constexpr int UNITS = DIM / 16;
    const int own = threadIdx.x / WARP * WARP_ROWS;
    sync_warp();
    for (int i = lane_index(); i < WARP_ROWS * UNITS; i += WARP) {
        const int r = own + i / UNITS, unit = i % UNITS;
        if (r >= rows.count) break;
        bf16 *low = tile + Tile<DIM, ROWS>::at(r, unit), *high = tile + Tile<DIM, ROWS>::at(r, unit + UNITS);
        bf16* to = q + rows.place(r) * DIM + unit * 8;
        const u64 angle = rows.token(r) * (DIM / 2) + unit * 8;
        float a[8], b[8], c[8], s[8];
        load_unit(low, a);
        load_unit(high, b);
        load_unit(cosine + angle, c);
        load_unit(sine + angle, s);
#pragma unroll
        for (int j = 0; j < 8; j++) turn_pair(a[j], b[j], c[j], s[j]);
        store_unit(a, low);
        store_unit(b, high);
        store_unit(a, to);
        store_unit(b, to + DIM / 2);
    }
    sync_warp();
}

// Calls `use(stage, first)` for tiles from `first` = `begin` on in steps of STEP below `end`, each after `load(stage, first)`;
// with two stages the next tile comes while one is used.
template <int STAGES, int STEP, class Load, class Use>
DEVICE void pipeline(i32 begin, i32 end, Load load, Use use) {
    load(0, begin);
    copy_async_commit();
    for (i32 first = begin, stage = 0; first < end; first += STEP, stage = (stage + 1) % STAGES) {
        const i32 next = first + STEP;
        copy_async_wait<0>();
        sync_block();
        // Nobody uses the other stage any more.
        if (STAGES == 2 && next < end) load(1 - stage, next);
        copy_async_commit();
        use(stage, first);
        if (STAGES == 1) {
            sync_block();
            if (next < end) load(0, next);
            copy_async_commit();
        }
    }
    sync_block();
}

// What a lane has of its two rows of queries while forward goes through the keys: their sums of values, and of powers.
template <int DIM, int KEYS, bool SPECIAL> struct Softmax {
    float sums[DIM / 8][4], total[2] = {0.0f, 0.0f};
    // What powers are taken above: the largest score at some time. It stays finite for a row that sees no key of a tile.
    float shift[2] = {-1e30f, -1e30f};
    Scores<SPECIAL> scores;
    // What scores are kept in: log2 of powers, or products where they only have to be scaled.
    float to_log2;
    i32 keys, all_see, sees_last, sees[2];
    const int own = threadIdx.x / WARP * WARP_ROWS, low = own + lane_index() / 4, high = low + 8;

    // `first_row` is the first of the rows that go through the same tiles.
    DEVICE Softmax(const QueryRows& rows, Scores<SPECIAL> scores_, int first_row = 0)
        : scores(scores_), to_log2(SPECIAL ? 1.0f : scores_.scale * LOG2_E), keys(rows.keys()) {
        all_see = rows.position(first_row) + 1;
        sees_last = rows.position(rows.count - 1);
        sees[0] = rows.position(low), sees[1] = rows.position(high);
        clear(sums);
    }

    // Scores of a tile of keys from position `first` on, out of their products; those that a row does not see become -inf.
    DEVICE void score(float (&p)[KEYS / 8][4], i32 first) const {
        if (SPECIAL)
            for_each(p, [&](float& score, int, int) {
                float slope;
                score = scores.log2_of(score, slope);
            });
        // Every row sees position 0 where there is no window, so that its largest score is finite from the first tile on.
        const bool all_seen = first + KEYS <= all_see && (!SPECIAL || scores.see(sees_last, first));
        if (!all_seen)
            for_each(p, [&](float& score, int column, int half) {
                const i32 position = first + column;
                const bool seen = position < keys && scores.see(sees[half], position);
                if (!seen) score = bits_float(0xff800000u);
            });
    }

    // Adds the powers of a tile's scores to the totals, packed for the product with its values. Powers that are too large, as those
    // of a row's first tile are, are taken again above the largest score so far. A row alone decides over its own.
    DEVICE void add(u32 (&packed)[KEYS / 8][2], float (&p)[KEYS / 8][4]) {
        float of_tile[2];
        powers(packed, p, shift, to_log2, of_tile);
        bool above[2] = {!(of_tile[0] < LARGEST_TOTAL), !(of_tile[1] < LARGEST_TOTAL)};
        if (warp_any(above[0] || above[1])) {
            float most[2] = {shift[0], shift[1]};
            for_each(p, [&](float score, int, int half) { most[half] = fmaxf(most[half], score); });
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float largest = quad_max(most[half]);
                const bool row_above = quad_max(above[half] ? 1.0f : 0.0f) > 0.0f;
                const float shrink = row_above ? exp2_fast((shift[half] - largest) * to_log2) : 1.0f;
                if (row_above) shift[half] = largest;
                total[half] *= shrink;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) {
                    sums[n][2 * half] *= shrink;
                    sums[n][2 * half + 1] *= shrink;
                }
            }
            powers(packed, p, shift, to_log2, of_tile);
        }
        total[0] += of_tile[0];
        total[1] += of_tile[1];
    }

    // Writes the outputs, through a tile of TILE rows, and the logs of the denominators.
    template <int TILE> DEVICE void store(const QueryRows& rows, bf16* tile, bf16* out, float* lse) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            total[half] += shuffle_xor(total[half], 1);
            total[half] += shuffle_xor(total[half], 2);
            const int row = half ? high : low;
            if (lane_index() % 4 == 0 && row < rows.count)
                lse[rows.place(row)] = (shift[half] * to_log2 + log2f(total[half])) * LN_2;
        }
        store_tile<DIM, TILE, DIM>(sums, 1.0f / total[0], 1.0f / total[1], tile, own, [&](int r) {
            return own + r < rows.count ? out + rows.place(own + r) * DIM : nullptr;
        });
    }
};

// Grid: (tiles of query rows, key heads). Queries are `q`, or those of `q_to_turn` once they are turned.
template <int DIM, bool SPECIAL = false>
KERNEL(128, DIM <= 64 ? 4 : DIM <= 128 ? 3 : 1)
attention_forward(const bf16* q, const bf16* k, const bf16* v, const Segment* segments, const int2* tiles, u32 heads,
                  u32 kv_heads, float scale, bf16* out, float* lse, float softcap, u32 window, bf16* q_to_turn,
                  const float* cosine, const float* sine) {
    constexpr int KEYS = 64;
    typedef Tile<DIM, KEYS> Keys;
    DYNAMIC_SHARED(memory);
    bf16* tile_q = (bf16*)memory;
    bf16* tile_k = tile_q + Tile<DIM, ROWS>::LEN;
    bf16* tile_v = tile_k + Keys::LEN;

    const QueryRows rows(segments, tiles, {heads, kv_heads});
    const i32 keys = rows.keys();
    const SharedAddress copies = copies_of<DIM, KEYS>(tile_k);
    const SharedAddress right_k = right_of<DIM, KEYS>(tile_k), right_v = kept(right_rows_of<DIM, KEYS>(tile_v));
    const auto load_keys = [&](int tile, const bf16* from, KeyRow key) {
        load_row<DIM, KEYS>(Keys::later(copies, tile), from + key.place * DIM, key.there);
        copy_async_commit();
    };
    rows.load<DIM>(tile_q, q_to_turn ? q_to_turn : q);
    if (q_to_turn) {
        copy_async_commit();
        copy_async_wait<0>();
        turn_queries<DIM, ROWS>(tile_q, rows, cosine, sine, q_to_turn);
    }
    const Scores<SPECIAL> scores = {scale, softcap, (i32)window};
    const i32 begin = scores.first_key(rows.position(0));
    KeyRow key = key_row<KEYS>(segments, rows, begin, keys);
    load_keys(0, k, key);
    Softmax<DIM, KEYS, SPECIAL> of(rows, scores);
    const SharedAddress left_q = left_of<DIM, ROWS>(tile_q, of.own);
    for (i32 first = begin; first < keys; first += KEYS) {
        load_keys(1, v, key);
        copy_async_wait<1>();
        sync_block();
        float p[KEYS / 8][4];
        product_transposed<DIM, ROWS, KEYS>(p, left_q, right_k);
        sync_block();
        // The next keys come while values are at work.
        if (first + KEYS < keys) {
            key = key_row<KEYS>(segments, rows, first + KEYS, keys);
            load_keys(0, k, key);
        } else {
            copy_async_commit();
        }
        of.score(p, first);
        u32 packed[KEYS / 8][2];
        of.add(packed, p);
        copy_async_wait<1>();
        sync_block();
        product<DIM, KEYS, DIM>(of.sums, packed, right_v);
        sync_block();
    }
    of.template store<ROWS>(rows, tile_q, out, lse);
}

// The sum of d_out out over a head, in each of the four lanes that share a row of a fragment.
template <int DIM> DEVICE float row_delta(const bf16* d_out, const bf16* out) {
    float sum = 0.0f;
    for (u32 at = lane_index() % 4 * UNIT; at < DIM; at += 4 * UNIT) {
        float a[8], b[8];
        load_unit(d_out + at, a);
        load_unit(out + at, b);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += a[i] * b[i];
    }
    sum += shuffle_xor(sum, 1);
    return sum + shuffle_xor(sum, 2);
}

// Turns the rows of heads in `sums[16, DIM]` back by the angles of their tokens (Rotation in halves): both values of a pair are
// in one lane. `cosine` and `sine` are of DIM / 2 pairs a token.
template <int DIM>
DEVICE void turn_back(float (&sums)[DIM / 8][4], const float* cosine, const float* sine, u64 token_low, u64 token_high) {
    const int t = lane_index() % 4;
#pragma unroll
    for (int n = 0; n < DIM / 16; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u64 at = (half ? token_high : token_low) * (DIM / 2) + n * 8 + 2 * t;
            const float2 c = *(const float2*)(cosine + at), s = *(const float2*)(sine + at);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &low = sums[n][2 * half + i], &high = sums[n + DIM / 16][2 * half + i];
                const float a = low, b = high, cos = i ? c.y : c.x, sin = i ? s.y : s.x;
                low = a * cos + b * sin;
                high = b * cos - a * sin;
            }
        }
}

// Rows of the inner tiles of backward, and how many pairs of them are in shared memory: what fits 99 KiB.
template <int DIM> struct Inner {
    static constexpr int ROWS = DIM > 128 ? 16 : DIM > 64 ? 32 : 64, STAGES = DIM > 128 ? 1 : 2;
};

// What a block of backward reads and writes. `delta` are the sums of d_out out over a head.
struct Backward {
    const bf16 *d_out, *q, *k, *v;
    const float *lse, *delta;
    const Segment* segments;
    Heads heads;
    float scale, softcap;
    i32 window;
    const float *cosine, *sine;
    template <bool SPECIAL> DEVICE Scores<SPECIAL> scores() const { return {scale, softcap, window}; }
    // The statistics of a lane's two rows of queries. Rows that are not there have the probability 2^-inf.
    DEVICE void statistics(const QueryRows& rows, int low, int high, float (&lse_log2)[2], float (&deltas)[2]) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = half ? high : low;
            const bool there = row < rows.count;
            lse_log2[half] = there ? lse[rows.place(row)] * LOG2_E : bits_float(0x7f800000u);
            deltas[half] = there ? delta[rows.place(row)] : 0.0f;
        }
    }
};

// The gradients of a tile of query rows.
template <int DIM, bool SPECIAL>
DEVICE void backward_queries(const Backward& of, const QueryRows& rows, bf16* d_q, u8* memory) {
    constexpr int KEYS = Inner<DIM>::ROWS;
    typedef Tile<DIM, ROWS> Own;
    typedef Tile<DIM, KEYS> Keys;
    bf16* tile_q = (bf16*)memory;
    bf16* tile_d = tile_q + Own::LEN;
    bf16* inner = tile_d + Own::LEN;

    const i32 keys = rows.keys();
    const int lane = lane_index(), own = threadIdx.x / WARP * WARP_ROWS, low = own + lane / 4, high = low + 8;
    rows.load<DIM>(tile_q, of.q);
    rows.load<DIM>(tile_d, of.d_out);

    const Scores<SPECIAL> scores = of.scores<SPECIAL>();
    const i32 sees[2] = {rows.position(low), rows.position(high)};
    float lse_log2[2], deltas[2];
    of.statistics(rows, low, high, lse_log2, deltas);
    float sums[DIM / 8][4];
    clear(sums);
    const SharedAddress copies = copies_of<DIM, KEYS>(inner), right = right_of<DIM, KEYS>(inner);
    const SharedAddress right_rows = right_rows_of<DIM, KEYS>(inner);
    const auto load = [&](int stage, i32 first) {
        const KeyRow key = key_row<KEYS>(of.segments, rows, first, keys);
        const SharedAddress tile = Keys::later(copies, 2 * stage);
        load_row<DIM, KEYS>(tile, of.k + key.place * DIM, key.there);
        load_row<DIM, KEYS>(Keys::later(tile, 1), of.v + key.place * DIM, key.there);
    };
    const i32 all_see = rows.position(0) + 1;
    const float to_log2 = of.scale * LOG2_E;
    const i32 begin = scores.first_key(rows.position(0));
    const SharedAddress left_q = left_of<DIM, ROWS>(tile_q, own), left_d = left_of<DIM, ROWS>(tile_d, own);
    pipeline<Inner<DIM>::STAGES, KEYS>(begin, keys, load, [&](int stage, i32 first) {
        float p[KEYS / 8][4], d_p[KEYS / 8][4];
        product_transposed<DIM, ROWS, KEYS>(p, left_q, Keys::later(right, 2 * stage));
        product_transposed<DIM, ROWS, KEYS>(d_p, left_d, Keys::later(right, 2 * stage + 1));
        // Of what is not seen the probability is 2^-inf.
        const auto see = [&](float& score, int column, int half) {
            const i32 key = first + column;
            if (key >= keys || !scores.see(sees[half], key)) score = bits_float(0xff800000u);
        };
        if (SPECIAL) {
            for_each(p, d_p, [&](float& score, float& d_score, int column, int half) {
                float slope;
                score = scores.log2_of(score, slope);
                d_score = (d_score - deltas[half]) * slope;
                see(score, column, half);
                score = exp2_fast(score - lse_log2[half]) * d_score;
            });
        } else {
            if (first + KEYS > all_see) for_each(p, see);
            for_each(p, d_p, [&](float& score, float d_score, int, int half) {
                score = exp2_fast(score * to_log2 - lse_log2[half]) * (d_score - deltas[half]);
            });
        }
        u32 packed[KEYS / 8][2];
        pack(packed, p);
        product<DIM, KEYS, DIM>(sums, packed, Keys::later(right_rows, 2 * stage));
    });
    if (of.cosine) turn_back<DIM>(sums, of.cosine, of.sine, rows.token(low), rows.token(high));
    store_tile<DIM, ROWS, DIM>(sums, of.scale, of.scale, tile_q, own, [&](int r) {
        return own + r < rows.count ? d_q + rows.place(own + r) * DIM : nullptr;
    });
}

// The gradients of a tile of keys and of their values, COLS columns from `column` on, since more do not fit registers. `order`
// are the tokens in depth-first order, `positions` theirs.
template <int DIM, int COLS, bool SPECIAL>
DEVICE void backward_keys(const Backward& of, int2 tile, u32 column, const u32* order, const i32* positions, bf16* d_k,
                          bf16* d_v, u8* memory) {
    constexpr int QUERIES = Inner<DIM>::ROWS, STAGES = Inner<DIM>::STAGES;
    typedef Tile<DIM, ROWS> Own;
    typedef Tile<DIM, QUERIES> Queries;
    bf16* tile_k = (bf16*)memory;
    bf16* tile_v = tile_k + Own::LEN;
    bf16* inner = tile_v + Own::LEN;
    float* inner_lse = (float*)(inner + STAGES * 2 * Queries::LEN);
    float* inner_delta = inner_lse + STAGES * QUERIES;
    i32* inner_position = (i32*)(inner_delta + STAGES * QUERIES);

    const Segment segment = of.segments[tile.x];
    const i32 first_key = tile.y, count = min(ROWS, segment.len - first_key);
    const u32 heads = of.heads.query, kv_heads = of.heads.key, group = of.heads.group(), key_head = blockIdx.y;
    // Queries see these keys from the first key's place in the order to the end of the subtree.
    const u32* queries = order + segment.order + first_key;
    i32 query_rows = (segment.subtree - first_key) * (i32)group;
    const Scores<SPECIAL> scores = of.scores<SPECIAL>();
    if (SPECIAL) {
        positions += segment.order + first_key;
        // Where nothing continues the segment, queries come in the order of their positions.
        if (segment.subtree == segment.len) query_rows = (i32)min((u64)query_rows, ((u64)count - 1 + of.window) * group);
    }
    const auto key_place = [&](int r) { return ((u64)segment.start + first_key + r) * kv_heads + key_head; };
    const auto query_place = [&](i32 row) {
        return (u64)queries[row / (i32)group] * heads + key_head * group + row % (i32)group;
    };
    const int mine = Copier<ROWS>::row();
    const u64 key_of_mine = key_place(min(mine, count - 1)) * DIM;
    load_row<DIM, ROWS>(copies_of<DIM, ROWS>(tile_k), of.k + key_of_mine, mine < count);
    load_row<DIM, ROWS>(copies_of<DIM, ROWS>(tile_v), of.v + key_of_mine, mine < count);

    const int lane = lane_index(), own = threadIdx.x / WARP * WARP_ROWS, low = own + lane / 4, high = low + 8;
    float sums_k[COLS / 8][4], sums_v[COLS / 8][4];
    clear(sums_k);
    clear(sums_v);
    const SharedAddress copies = copies_of<DIM, QUERIES>(inner), right = right_of<DIM, QUERIES>(inner);
    const SharedAddress right_rows = right_rows_of<DIM, QUERIES>(inner + Queries::at(0, column / 8));
    const auto load = [&](int stage, i32 first) {
        typedef Copier<QUERIES> Mine;
        const int r = Mine::row();
        const i32 row = min(first + r, query_rows - 1);
        const bool there = first + r < query_rows;
        const u64 place = query_place(row);
        const SharedAddress tile = Queries::later(copies, 2 * stage);
        load_row<DIM, QUERIES>(tile, of.q + place * DIM, there);
        load_row<DIM, QUERIES>(Queries::later(tile, 1), of.d_out + place * DIM, there);
        if (Mine::first_chunk() == 0) {
            // Rows that are not there have the probability 2^-inf.
            inner_lse[stage * QUERIES + r] = there ? of.lse[place] * LOG2_E : bits_float(0x7f800000u);
            inner_delta[stage * QUERIES + r] = of.delta[place];
            if (SPECIAL) inner_position[stage * QUERIES + r] = positions[row / (i32)group];
        }
    };
    // From this row on queries see all keys of the block. What rows of keys hold that are not there is not stored.
    const i32 see_all = (ROWS - 1) * (i32)group;
    const i32 sees_from[2] = {low * (i32)group, high * (i32)group};
    const float to_log2 = of.scale * LOG2_E;
    const SharedAddress left_k = left_of<DIM, ROWS>(tile_k, own), left_v = left_of<DIM, ROWS>(tile_v, own);
    pipeline<STAGES, QUERIES>(0, query_rows, load, [&](int stage, i32 first) {
        float p[QUERIES / 8][4], d_s[QUERIES / 8][4];
        // Scores transposed: rows are keys, columns queries.
        product_transposed<DIM, ROWS, QUERIES>(p, left_k, Queries::later(right, 2 * stage));
        product_transposed<DIM, ROWS, QUERIES>(d_s, left_v, Queries::later(right, 2 * stage + 1));
        if (SPECIAL) {
            for_each(p, d_s, [&](float& score, float& d_score, int query, int half) {
                const int place = stage * QUERIES + query;
                const i32 position = segment.base + first_key + (half ? high : low);
                float slope;
                score = scores.log2_of(score, slope);
                score = scores.see(inner_position[place], position) ? exp2_fast(score - inner_lse[place]) : 0.0f;
                d_score = score * (d_score - inner_delta[place]) * slope;
            });
        } else {
            if (first < see_all)
                for_each(p, [&](float& score, int query, int half) {
                    if (first + query < sees_from[half]) score = bits_float(0xff800000u);
                });
            for_each(p, d_s, [&](float& score, float& d_score, int query, int) {
                const int place = stage * QUERIES + query;
                score = exp2_fast(score * to_log2 - inner_lse[place]);
                d_score = score * (d_score - inner_delta[place]);
            });
        }
        u32 packed[QUERIES / 8][2];
        pack(packed, p);
        product<DIM, QUERIES, COLS>(sums_v, packed, Queries::later(right_rows, 2 * stage + 1));
        pack(packed, d_s);
        product<DIM, QUERIES, COLS>(sums_k, packed, Queries::later(right_rows, 2 * stage));
    });
    const auto to_keys = [&](bf16* to) {
        return [&, to](int r) { return own + r < count ? to + key_place(own + r) * DIM + column : nullptr; };
    };
    if constexpr (COLS == DIM) {
        const auto token = [&](int r) { return (u64)segment.start + first_key + min(r, count - 1); };
        if (of.cosine) turn_back<DIM>(sums_k, of.cosine, of.sine, token(low), token(high));
    }
    store_tile<DIM, ROWS, COLS>(sums_k, of.scale, of.scale, tile_k, own, to_keys(d_k));
    store_tile<DIM, ROWS, COLS>(sums_v, 1.0f, 1.0f, tile_v, own, to_keys(d_v));
}

// Grid: (tiles of keys, DIM / COLS times each, and then tiles of query rows; key heads). Both kinds of blocks read the same
// operands of a head, which are in the cache of the device while its blocks run side by side.
template <int DIM, int COLS, bool SPECIAL = false>
KERNEL(128, DIM <= 64 && !SPECIAL ? 3 : 2)
attention_backward(const bf16* d_out, const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta,
                   const Segment* segments, const u32* order, const i32* positions, const int2* query_tiles,
                   const int2* key_tiles, u32 key_tile_count, u32 heads, u32 kv_heads, float scale, float softcap, u32 window,
                   const float* cosine, const float* sine, bf16* d_q, bf16* d_k, bf16* d_v) {
    constexpr u32 PARTS = DIM / COLS;
    DYNAMIC_SHARED(memory);
    const Backward of = {d_out, q, k, v, lse, delta, segments, {heads, kv_heads}, scale, softcap, (i32)window, cosine, sine};
    const u32 of_keys = key_tile_count * PARTS;
    if (blockIdx.x < of_keys) {
        const int2 tile = key_tiles[blockIdx.x / PARTS];
        backward_keys<DIM, COLS, SPECIAL>(of, tile, blockIdx.x % PARTS * COLS, order, positions, d_k, d_v, memory);
    } else {
        const int2 tile = query_tiles[blockIdx.x - of_keys];
        const QueryRows rows(segments[tile.x], tile.x, tile.y, of.heads, ROWS);
        backward_queries<DIM, SPECIAL>(of, rows, d_q, memory);
    }
}

// The sums of d_out out over heads: four lanes a head.
template <int DIM> KERNEL(256) attention_delta(const bf16* d_out, const bf16* out, u32 rows, float* delta) {
    const u64 row = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 4, at = min(row, (u64)rows - 1) * DIM;
    const float sum = row_delta<DIM>(d_out + at, out + at);
    if (row < rows && lane_index() % 4 == 0) delta[row] = sum;
}

// The same without tensor cores, for values of any type and heads of any size up to 32 COLUMNS: products in f32. Blocks are
// bounded to two a multiprocessor, as above, so that registers are not spilled.
//
// A block has 4 warps and 16 rows of its own, 4 a warp (a part of a tile of 64: the third axis of the grid), and walks the
// other operand in tiles of 32. Where a product sums over the columns of a head, a lane has a row of the tile; where it sums
// over the rows of the tile, a lane has columns lane, lane + 32, ...
static constexpr int OWN_ROWS = 16, OWN_OF_WARP = 4, INNER_ROWS = WARP;

// Tiles in shared memory, in f32: two of the block's own rows, read by a whole warp at once, and two inner ones, whose rows
// are padded so that lanes which read the same column of their rows are in different banks; then the weights of a warp.
struct PlainTiles {
    i32 dim, width, stride;  // values of a head, rounded up to eight, and from one inner row to the next
    float* memory;
    DEVICE PlainTiles(u8* memory_, u32 dim_) : dim(dim_), memory((float*)memory_) {
        width = (dim + 7) / 8 * 8;
        stride = width + 4;
    }
    DEVICE float* inner(int tile) const { return memory + tile * INNER_ROWS * stride; }
    DEVICE float4* weights() const { return (float4*)inner(2) + threadIdx.x / WARP * WARP; }
    DEVICE float* own(int tile) const { return inner(2) + 4 * 4 * WARP + tile * OWN_ROWS * width; }
    DEVICE const float* own_of_warp(int tile) const { return own(tile) + threadIdx.x / WARP * OWN_OF_WARP * width; }
    DEVICE const float* inner_of_lane(int tile) const { return inner(tile) + lane_index() * stride; }

    // Loads `rows` rows of values: row r from `row(r)`, or zeros where that is null. Beyond `dim` are zeros.
    template <class T, class Row> DEVICE void load_rows(float* tile, int rows, int row_stride, Row row) const {
        const int units = width / 8;
        for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
            const int r = i / units, at = i % units * 8;
            const T* from = row(r);
            float v[8] = {};
            if (from) load(from + at, dim - at, v);
            store_unit(v, tile + r * row_stride + at);
        }
    }
    template <class T, class Row> DEVICE void load_own(int tile, Row row) const {
        load_rows<T>(own(tile), OWN_ROWS, width, row);
    }
    template <class T, class Row> DEVICE void load_inner(int tile, Row row) const {
        load_rows<T>(inner(tile), INNER_ROWS, stride, row);
    }

    // sums[i] = own row i . the lane's row of the inner tile.
    DEVICE void dot(float (&sums)[OWN_OF_WARP], int own_tile, int inner_tile) const {
        const float *mine = own_of_warp(own_tile), *row = inner_of_lane(inner_tile);
#pragma unroll
        for (int i = 0; i < OWN_OF_WARP; i++) sums[i] = 0.0f;
        for (int at = 0; at < width; at += 4) {
            const float4 x = *(const float4*)(row + at);
#pragma unroll
            for (int i = 0; i < OWN_OF_WARP; i++) {
                const float4 y = *(const float4*)(mine + i * width + at);
                sums[i] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
            }
        }
    }

    // sums[i][c] += the sum over rows of the inner tile of own row i's weight for it times its column lane + 32 c. A lane
    // gives the weights for its row. What is beyond the head is summed too, and never stored.
    template <int COLUMNS>
    DEVICE void add_weighted(float (&sums)[OWN_OF_WARP][COLUMNS], const float (&of_lane)[OWN_OF_WARP], int tile) const {
        sync_warp();
        weights()[lane_index()] = make_float4(of_lane[0], of_lane[1], of_lane[2], of_lane[3]);
        sync_warp();
        for (int r = 0; r < INNER_ROWS; r++) {
            const float4 weight = weights()[r];
            const float* row = inner(tile) + r * stride;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float x = row[min((int)lane_index() + c * WARP, width - 1)];
                sums[0][c] += weight.x * x;
                sums[1][c] += weight.y * x;
                sums[2][c] += weight.z * x;
                sums[3][c] += weight.w * x;
            }
        }
    }

    // Writes sums times the factor of their row to the `dim` values at `row(i)`, or nowhere where that is null.
    template <class T, int COLUMNS, class Row>
    DEVICE void store_sums(const float (&sums)[OWN_OF_WARP][COLUMNS], const float (&factors)[OWN_OF_WARP], Row row) const {
#pragma unroll
        for (int i = 0; i < OWN_OF_WARP; i++) {
            T* to = row(i);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int column = lane_index() + c * WARP;
                if (to && column < dim) to[column] = from_float<T>(sums[i][c] * factors[i]);
            }
        }
    }
};

template <int COLUMNS> DEVICE void clear_plain(float (&sums)[OWN_OF_WARP][COLUMNS]) {
#pragma unroll
    for (int i = 0; i < OWN_OF_WARP; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sums[i][c] = 0.0f;
}

// Of each own row of a warp, over the keys it has met: the largest score (times log2 e), the sum of powers of two above it,
// and of values times those.
template <int COLUMNS> struct PlainSoftmax {
    float largest[OWN_OF_WARP], total[OWN_OF_WARP], sums[OWN_OF_WARP][COLUMNS];
};

// Attention of `rows` to positions `first` up to `end`, whose tokens `key(position)` finds.
template <bool SPECIAL, class T, int COLUMNS, class Key>
DEVICE PlainSoftmax<COLUMNS> plain_softmax(const T* q, const T* k, const T* v, const PlainTiles& tiles, const QueryRows& rows,
                                           Key key, i32 first, i32 end, Scores<SPECIAL> scores) {
    const u32 kv_heads = rows.heads.key;
    const int lane = lane_index(), own = threadIdx.x / WARP * OWN_OF_WARP, dim = tiles.dim;
    tiles.load_own<T>(0, [&](int r) { return r < rows.count ? q + rows.place(r) * dim : nullptr; });

    PlainSoftmax<COLUMNS> of;
    clear_plain(of.sums);
#pragma unroll
    // Of a row that sees none of these keys the largest score stays finite, so that powers of two are numbers.
    for (int i = 0; i < OWN_OF_WARP; i++) of.largest[i] = -1e30f, of.total[i] = 0.0f;
    for (; first < end; first += INNER_ROWS) {
        const auto from_keys = [&](const T* from) {
            return [&, from](int r) -> const T* {
                return first + r < end ? from + ((u64)key(first + r) * kv_heads + rows.key_head) * dim : nullptr;
            };
        };
        sync_block();
        tiles.load_inner<T>(0, from_keys(k));
        tiles.load_inner<T>(1, from_keys(v));
        sync_block();
        float p[OWN_OF_WARP];
        tiles.dot(p, 0, 0);
#pragma unroll
        for (int i = 0; i < OWN_OF_WARP; i++) {
            const bool seen = first + lane < end && scores.see(rows.position(own + i), first + lane);
            float slope;
            const float score = seen ? scores.log2_of(p[i], slope) : bits_float(0xff800000u);
            const float most = fmaxf(of.largest[i], warp_max(score)), shrink = exp2_fast(of.largest[i] - most);
            of.largest[i] = most;
            p[i] = exp2_fast(score - most);
            of.total[i] = of.total[i] * shrink + p[i];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) of.sums[i][c] *= shrink;
        }
        tiles.add_weighted(of.sums, p, 1);
    }
#pragma unroll
    for (int i = 0; i < OWN_OF_WARP; i++) of.total[i] = warp_sum(of.total[i]);
    return of;
}

// Grid: (tiles of query rows, key heads, parts of a tile).
template <class T, int COLUMNS, bool SPECIAL = false>
KERNEL(128, 2)
plain_attention_forward(const T* q, const T* k, const T* v, const Segment* segments, const int2* tile_list, u32 heads,
                        u32 kv_heads, float scale, T* out, float* lse, float softcap, u32 window, u32 dim) {
    const QueryRows rows(segments, tile_list, {heads, kv_heads}, blockIdx.z * OWN_ROWS, OWN_ROWS);
    if (rows.count <= 0) return;
    DYNAMIC_SHARED(memory);
    const PlainTiles tiles(memory, dim);
    const auto key = [&](i32 position) { return token_at(segments, rows.index, position); };
    const Scores<SPECIAL> scores = {scale, softcap, (i32)window};
    const i32 first = scores.first_key(rows.position(0));
    const PlainSoftmax<COLUMNS> of = plain_softmax<SPECIAL, T, COLUMNS>(q, k, v, tiles, rows, key, first, rows.keys(), scores);
    const int own = threadIdx.x / WARP * OWN_OF_WARP;
    float factors[OWN_OF_WARP];
#pragma unroll
    for (int i = 0; i < OWN_OF_WARP; i++) {
        factors[i] = 1.0f / of.total[i];
        if (lane_index() == 0 && own + i < rows.count)
            lse[rows.place(own + i)] = (of.largest[i] + log2f(of.total[i])) * LN_2;
    }
    tiles.store_sums<T>(of.sums, factors, [&](int i) -> T* {
        return own + i < rows.count ? out + rows.place(own + i) * dim : nullptr;
    });
}

// Attention of the newest of `past + tokens` tokens to a cache of all their keys and values; few rows leave most of a device
// idle, so that the keys are cut into parts of `part_keys`, each over blocks of its own. Writes for each part, token and head
// the sums of values `[dim]` and their statistics, largest score and total. Grid: (16 rows of queries, key heads, parts).
template <class T, int COLUMNS, bool SPECIAL = false>
KERNEL(128, 2)
attention_cached_parts(const T* q, const T* k, const T* v, u32 tokens, u32 past, u32 part_keys, u32 heads, u32 kv_heads,
                       float scale, float softcap, u32 window, u32 dim, float* sums, float* statistics) {
    const Segment segment = {0, (i32)tokens, -1, (i32)past, 0, 0};
    const QueryRows rows(segment, 0, blockIdx.x * OWN_ROWS, {heads, kv_heads}, OWN_ROWS);
    DYNAMIC_SHARED(memory);
    const PlainTiles tiles(memory, dim);
    const Scores<SPECIAL> scores = {scale, softcap, (i32)window};
    const i32 part = blockIdx.z * part_keys, end = min(rows.keys(), part + (i32)part_keys);
    const i32 first = max(part, scores.first_key(rows.position(0)));
    const PlainSoftmax<COLUMNS> of =
        plain_softmax<SPECIAL, T, COLUMNS>(q, k, v, tiles, rows, [](i32 position) { return (u32)position; }, first, end, scores);
    const int own = threadIdx.x / WARP * OWN_OF_WARP;
    const auto place = [&](int i) { return (u64)blockIdx.z * tokens * heads + rows.place(own + i); };
    const float ones[OWN_OF_WARP] = {1.0f, 1.0f, 1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < OWN_OF_WARP; i++) {
        if (lane_index() > 0 || own + i >= rows.count) continue;
        statistics[2 * place(i)] = of.largest[i];
        statistics[2 * place(i) + 1] = of.total[i];
    }
    tiles.store_sums<float>(of.sums, ones,
                            [&](int i) -> float* { return own + i < rows.count ? sums + place(i) * dim : nullptr; });
}

// The parts joined, one warp a token and head.
template <class T>
KERNEL(256)
attention_cached_join(const float* sums, const float* statistics, u32 parts, u32 rows, u32 dim, T* out) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const auto largest = [&](u32 part) { return statistics[2 * ((u64)part * rows + row)]; };
    float most = largest(0), total = 0.0f;
    for (u32 part = 1; part < parts; part++) most = fmaxf(most, largest(part));
    for (u32 part = 0; part < parts; part++)
        total += statistics[2 * ((u64)part * rows + row) + 1] * exp2_fast(largest(part) - most);
    for (u32 column = lane_index(); column < dim; column += WARP) {
        float sum = 0.0f;
        for (u32 part = 0; part < parts; part++)
            sum += sums[((u64)part * rows + row) * dim + column] * exp2_fast(largest(part) - most);
        out[(u64)row * dim + column] = from_float<T>(sum / total);
    }
}

template <class T> KERNEL(256) plain_attention_delta(const T* d_out, const T* out, u32 rows, float* delta, u32 dim) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * dim;
    float sum = 0.0f;
    for (u32 at = lane_index(); at < dim; at += WARP) sum += to_float(d_out[start + at]) * to_float(out[start + at]);
    sum = warp_sum(sum);
    if (lane_index() == 0) delta[row] = sum;
}

// Grid: (tiles of query rows, key heads, parts of a tile).
template <class T, int COLUMNS, bool SPECIAL = false>
KERNEL(128, 2)
plain_attention_backward_queries(const T* d_out, const T* q, const T* k, const T* v, const float* lse, const float* delta,
                                 const Segment* segments, const int2* tile_list, u32 heads, u32 kv_heads, float scale,
                                 T* d_q, float softcap, u32 window, u32 dim) {
    const QueryRows rows(segments, tile_list, {heads, kv_heads}, blockIdx.z * OWN_ROWS, OWN_ROWS);
    if (rows.count <= 0) return;
    DYNAMIC_SHARED(memory);
    const PlainTiles tiles(memory, dim);
    const i32 keys = rows.keys();
    const int lane = lane_index(), own = threadIdx.x / WARP * OWN_OF_WARP;
    const auto from_queries = [&](const T* from) {
        return [&, from](int r) { return r < rows.count ? from + rows.place(r) * dim : nullptr; };
    };
    tiles.load_own<T>(0, from_queries(q));
    tiles.load_own<T>(1, from_queries(d_out));

    const Scores<SPECIAL> scores = {scale, softcap, (i32)window};
    float sums[OWN_OF_WARP][COLUMNS], lse_log2[OWN_OF_WARP], deltas[OWN_OF_WARP], factors[OWN_OF_WARP];
    clear_plain(sums);
#pragma unroll
    for (int i = 0; i < OWN_OF_WARP; i++) {
        // Rows that are not there have the probability 2^-inf.
        const bool there = own + i < rows.count;
        lse_log2[i] = there ? lse[rows.place(own + i)] * LOG2_E : bits_float(0x7f800000u);
        deltas[i] = there ? delta[rows.place(own + i)] : 0.0f;
        factors[i] = scale;
    }
    for (i32 first = scores.first_key(rows.position(0)); first < keys; first += INNER_ROWS) {
        const auto from_keys = [&](const T* from) {
            return [&, from](int r) -> const T* {
                if (first + r >= keys) return nullptr;
                return from + ((u64)token_at(segments, rows.index, first + r) * kv_heads + rows.key_head) * dim;
            };
        };
        sync_block();
        tiles.load_inner<T>(0, from_keys(k));
        tiles.load_inner<T>(1, from_keys(v));
        sync_block();
        float p[OWN_OF_WARP], d_p[OWN_OF_WARP];
        tiles.dot(p, 0, 0);
        tiles.dot(d_p, 1, 1);
#pragma unroll
        for (int i = 0; i < OWN_OF_WARP; i++) {
            float slope;
            const float score = scores.log2_of(p[i], slope);
            const bool seen = scores.see(rows.position(own + i), first + lane);
            p[i] = seen ? exp2_fast(score - lse_log2[i]) * (d_p[i] - deltas[i]) * slope : 0.0f;
        }
        tiles.add_weighted(sums, p, 0);
    }
    tiles.store_sums<T>(sums, factors, [&](int i) -> T* {
        return own + i < rows.count ? d_q + rows.place(own + i) * dim : nullptr;
    });
}

// Grid: (tiles of keys, key heads, parts of a tile). `positions` are those of `order`.
template <class T, int COLUMNS, bool SPECIAL = false>
KERNEL(128, 2)
plain_attention_backward_keys(const T* d_out, const T* q, const T* k, const T* v, const float* lse, const float* delta,
                              const Segment* segments, const u32* order, const int2* tile_list, u32 heads, u32 kv_heads,
                              float scale, T* d_k, T* d_v, const i32* positions, float softcap, u32 window, u32 dim) {
    const Segment segment = segments[tile_list[blockIdx.x].x];
    const i32 first_key = tile_list[blockIdx.x].y + (i32)blockIdx.z * OWN_ROWS, count = min(OWN_ROWS, segment.len - first_key);
    if (count <= 0) return;
    const i32 group = heads / kv_heads;
    const u32 key_head = blockIdx.y;
    // Queries see these keys from the first key's place in the order to the end of the subtree.
    const u32* queries = order + segment.order + first_key;
    const i32 query_rows = (segment.subtree - first_key) * group;
    if (SPECIAL) positions += segment.order + first_key;
    const Scores<SPECIAL> scores = {scale, softcap, (i32)window};
    const auto key_place = [&](int r) { return ((u64)segment.start + first_key + r) * kv_heads + key_head; };
    const auto key_position = [&](int r) { return segment.base + first_key + r; };
    const auto query_place = [&](i32 row) { return (u64)queries[row / group] * heads + key_head * group + row % group; };

    DYNAMIC_SHARED(memory);
    const PlainTiles tiles(memory, dim);
    const int lane = lane_index(), own = threadIdx.x / WARP * OWN_OF_WARP;
    const auto from_keys = [&](const T* from) {
        return [&, from](int r) { return r < count ? from + key_place(r) * dim : nullptr; };
    };
    tiles.load_own<T>(0, from_keys(k));
    tiles.load_own<T>(1, from_keys(v));

    float sums_k[OWN_OF_WARP][COLUMNS], sums_v[OWN_OF_WARP][COLUMNS];
    clear_plain(sums_k);
    clear_plain(sums_v);
    for (i32 first = 0; first < query_rows; first += INNER_ROWS) {
        const auto from_queries = [&](const T* from) {
            return [&, from](int r) { return first + r < query_rows ? from + query_place(first + r) * dim : nullptr; };
        };
        const i32 row = first + lane;
        const bool there = row < query_rows;
        const i32 position = SPECIAL && there ? positions[row / group] : key_position(0);
        // A window may hide all keys from these queries.
        if (SPECIAL && scores.window < query_rows && !block_any(there && position - key_position(count - 1) < scores.window)) continue;
        sync_block();
        tiles.load_inner<T>(0, from_queries(q));
        tiles.load_inner<T>(1, from_queries(d_out));
        sync_block();
        // A row that is not there has the probability 2^-inf.
        const float lse_log2 = there ? lse[query_place(row)] * LOG2_E : bits_float(0x7f800000u);
        const float of_row = there ? delta[query_place(row)] : 0.0f;
        // Scores transposed: rows are keys, columns queries.
        float p[OWN_OF_WARP], d_s[OWN_OF_WARP];
        tiles.dot(p, 0, 0);
        tiles.dot(d_s, 1, 1);
#pragma unroll
        for (int i = 0; i < OWN_OF_WARP; i++) {
            float slope;
            const float score = scores.log2_of(p[i], slope);
            const bool seen = SPECIAL ? scores.see(position, key_position(own + i)) : row >= (own + i) * group;
            p[i] = seen ? exp2_fast(score - lse_log2) : 0.0f;
            d_s[i] = p[i] * (d_s[i] - of_row) * slope;
        }
        tiles.add_weighted(sums_v, p, 1);
        tiles.add_weighted(sums_k, d_s, 0);
    }
    const float scales[OWN_OF_WARP] = {scale, scale, scale, scale}, ones[OWN_OF_WARP] = {1.0f, 1.0f, 1.0f, 1.0f};
    const auto to_keys = [&](T* to) {
        return [&, to](int i) { return own + i < count ? to + key_place(own + i) * dim : nullptr; };
    };
    tiles.store_sums<T>(sums_k, scales, to_keys(d_k));
    tiles.store_sums<T>(sums_v, ones, to_keys(d_v));
}
