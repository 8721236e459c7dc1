// Attention on Hopper's tensor cores, which multiply for a warpgroup from shared memory while its threads go on ("wgmma"); behind
// cuda.cu, with what that has of trees and rows. Scores are only scaled: what has a cap or a window is left to warps.
//
// A block has three warpgroups forward and two backward, with 64 rows each of what it owns, and walks the other operand in tiles of
// 64 rows, which are in shared memory in several stages. Products are begun as soon as their operands are there and waited for as
// late as can be, so that tensor cores work for one warpgroup while the threads of another take powers.
//
// All rows of a tile are copied by neighbouring threads in whole lines of 128 bytes: where a row is in its tensor (its "place") is
// worked out for a tile ahead, by one thread a row, and left in shared memory.

static constexpr int GROUP_ROWS = 64, BLOCK_ROWS = 2 * GROUP_ROWS, INNER = 64;

// Bytes between eight rows and the next eight of a matrix of a warpgroup.
static constexpr u32 EIGHT_ROWS = 1024;

// The first of the rows of a block that are this warpgroup's.
DEVICE int group_row() { return threadIdx.x / WARPGROUP * GROUP_ROWS; }

// Begins sums[64, N] = left[64, DIM] . right[N, DIM]^T: `left` begins in a tile of LEFT rows, `right` in one of N.
template <int DIM, int LEFT, int N>
DEVICE void begin_product_transposed(float (&sums)[N / 8][4], SharedAddress left_rows, SharedAddress right_rows) {
    const SharedMatrix left = shared_matrix(left_rows, EIGHT_ROWS, 16), right = shared_matrix(right_rows, EIGHT_ROWS, 16);
    warpgroup_fence();
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        const SharedMatrix a = matrix_behind(left, k / 64 * (LEFT * 128) + k % 64 * 2);
        const SharedMatrix b = matrix_behind(right, k / 64 * (N * 128) + k % 64 * 2);
        if (k == 0) warpgroup_mma_first(sums, a, b);
        else warpgroup_mma(sums, a, b);
    }
    warpgroup_commit();
}

// Begins sums[64, N] += left[64, K] . right[K, N]: `right` is a tile of K rows.
template <int K, int N>
DEVICE void begin_product(float (&sums)[N / 8][4], const u32 (&left)[K / 8][2], SharedAddress right_rows) {
    const SharedMatrix right = shared_matrix(right_rows, EIGHT_ROWS, K * 128);
    warpgroup_fence();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        const u32(&low)[2] = left[k / 8], (&high)[2] = left[k / 8 + 1];
        const u32 a[4] = {low[0], low[1], high[0], high[1]};
        warpgroup_mma(sums, a, matrix_behind(right, k * 128));
    }
    warpgroup_commit();
}

// Calls `use(values of two columns in both rows, the first column)` for a lane's values of a product, or of two.
template <int N, class Use> DEVICE void for_columns(float (&values)[N][4], Use use) {
#pragma unroll
    for (int n = 0; n < N; n++) use(values[n], n * 8 + 2 * (lane_index() % 4));
}
template <int N, class Use> DEVICE void for_columns(float (&first)[N][4], const float (&second)[N][4], Use use) {
#pragma unroll
    for (int n = 0; n < N; n++) use(first[n], second[n], n * 8 + 2 * (lane_index() % 4));
}

template <int N> DEVICE void clear_packed(u32 (&packed)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; n++) packed[n][0] = packed[n][1] = 0;
}

// How the first THREADS threads of a block copy a tile: a thread has a chunk of every AT_ONCE-th row.
template <int DIM> struct LineCopier {
    static constexpr int THREADS = 256, CHUNKS = DIM / 8, AT_ONCE = THREADS / CHUNKS;
    DEVICE static int row() { return threadIdx.x / CHUNKS; }
    DEVICE static int chunk() { return threadIdx.x % CHUNKS; }
    // Begins to copy rows of two tensors to a tile of ROWS rows and to the next one, or of one tensor where the second is null:
    // `place(r)` is where row r begins in both, in rows of DIM; rows from `count` on become zeros.
    template <int ROWS, class Place>
    DEVICE static void copy(SharedAddress tile, const bf16* from, const bf16* from_next, i32 count, Place place) {
        constexpr int TIMES = ROWS / AT_ONCE;
        if (threadIdx.x >= THREADS) return;
        const SharedAddress to = tile + Tile<DIM, ROWS>::at(row(), chunk()) * 2;
        // All are read before the first copy, behind which the compiler moves nothing.
        u32 at[TIMES];
#pragma unroll
        for (int i = 0; i < TIMES; i++) at[i] = (u32)place(row() + i * AT_ONCE);
#pragma unroll
        for (int i = 0; i < TIMES; i++) {
            const SharedAddress here = Tile<DIM, ROWS>::below(to, i * AT_ONCE);
            const bool there = row() + i * AT_ONCE < count;
            const u64 offset = (u64)at[i] * DIM + chunk() * 8;
            copy_async(here, from + offset, there);
            if (from_next) copy_async(Tile<DIM, ROWS>::later(here, 1), from_next + offset, there);
        }
    }
};

// Places of the rows of the tiles that come next: tile i has slot i % SLOTS.
static constexpr int SLOTS = 4;
struct Places {
    u32* of;
    DEVICE u32* slot(i32 tile) const { return of + tile % SLOTS * INNER; }
};

// Places of a tile of keys, in [tokens, key heads].
DEVICE void plan_keys(Places places, i32 tile, const Segment* segments, const QueryRows& rows, i32 keys) {
    if (threadIdx.x >= INNER) return;
    const i32 at = min(tile * INNER + (i32)threadIdx.x, keys - 1);
    // Read again, so that the loop has its registers.
    const Segment& own = segments[rows.index];
    const u32 token = at >= own.base ? own.start + at - own.base : token_at(segments, own.parent, at);
    places.slot(tile)[threadIdx.x] = token * rows.heads.key + rows.key_head;
}

// Grid: (tiles of 192 query rows, key heads). Queries are `q`, or those of `q_to_turn` once they are turned.
template <int DIM>
KERNEL(384, 1)
attention_forward_warpgroups(const bf16* q, const bf16* k, const bf16* v, const Segment* segments, const int2* tiles, u32 heads,
                             u32 kv_heads, float scale, bf16* out, float* lse, float softcap, u32 window, bf16* q_to_turn,
                             const float* cosine, const float* sine) {
    constexpr i32 STAGES = 4;
    constexpr int ROWS = 3 * GROUP_ROWS;
    typedef Tile<DIM, ROWS> Own;
    typedef Tile<DIM, INNER> Keys;
    typedef LineCopier<DIM> Copies;
    DYNAMIC_SHARED(memory);
    bf16* tile_q = (bf16*)memory;
    bf16* inner = tile_q + Own::LEN;
    const Places places = {(u32*)(inner + STAGES * 2 * Keys::LEN)};

    const QueryRows rows(segments, tiles, {heads, kv_heads}, 0, ROWS);
    const i32 keys = rows.keys(), tile_count = (keys + INNER - 1) / INNER;
    const int first_row = group_row();
    const SharedAddress inner_first = shared_address(inner);
    const auto stage_of = [&](i32 tile) { return Keys::later(inner_first, tile % STAGES * 2); };
    const auto load = [&](i32 tile) {
        if (tile < tile_count) {
            const u32* slot = places.slot(tile);
            const auto place = [&](int r) { return slot[r]; };
            Copies::template copy<INNER>(stage_of(tile), k, v, keys - tile * INNER, place);
        }
        copy_async_commit();
    };
    for (i32 tile = 0; tile < SLOTS - 1; tile++) plan_keys(places, tile, segments, rows, keys);
    const auto place_of_query = [&](int r) { return rows.place(min(r, rows.count - 1)); };
    Copies::template copy<ROWS>(shared_address(tile_q), q_to_turn ? q_to_turn : q, nullptr, rows.count, place_of_query);
    copy_async_commit();
    if (q_to_turn) copy_async_wait<0>();
    sync_block();
    if (q_to_turn) turn_queries<DIM, ROWS>(tile_q, rows, cosine, sine, q_to_turn);
    load(0);
    load(1);
    copy_async_wait<1>();
    shared_fence();
    sync_block();

    Softmax<DIM, INNER, false> of(rows, {scale, softcap, (i32)window}, first_row);
    const SharedAddress left_q = shared_address(tile_q) + first_row * 128;
    float p[INNER / 8][4];
    u32 packed[INNER / 8][2];
    clear_packed(packed);
    settle(of.sums);
    settle(packed);
    begin_product_transposed<DIM, ROWS, INNER>(p, left_q, stage_of(0));
    // All threads do the same products, also where a warpgroup's rows see nothing of a tile, and those of the tile behind the last:
    // the compiler lets products overlap only where it sees that no thread takes another path.
    for (i32 tile = 0; tile < tile_count; tile++) {
        copy_async_wait<0>();
        shared_fence();
        sync_block();
        // The stage of the tile before the last: its products were waited for before the barrier.
        load(tile + 2);
        plan_keys(places, tile + 3, segments, rows, keys);
        // The scores, and before them the product of the tile before.
        warpgroup_wait<0>();
        settle(p);
        settle(of.sums);
        settle(packed);
        of.score(p, tile * INNER);
        of.add(packed, p);
        begin_product<INNER, DIM>(of.sums, packed, Keys::later(stage_of(tile), 1));
        begin_product_transposed<DIM, ROWS, INNER>(p, left_q, stage_of(tile + 1));
    }
    warpgroup_wait<0>();
    settle(of.sums);
    sync_block();
    // Read again, so that the loop has its registers.
    of.template store<ROWS>(QueryRows(segments, tiles, {heads, kv_heads}, 0, ROWS), tile_q, out, lse);
}

// Stages of backward's inner tiles, each two tiles.
static constexpr i32 BACKWARD_STAGES = 3;

// Calls `use(tile)` for tiles 0, 1, ... below `count`, each once `load(tile)` has come, which `plan(tile)` came before.
template <class Plan, class Load, class Use> DEVICE void walk(i32 count, Plan plan, Load load, Use use) {
    plan(0);
    plan(1);
    sync_block();
    load(0);
    copy_async_commit();
    for (i32 tile = 0; tile < count; tile++) {
        copy_async_wait<0>();
        shared_fence();
        sync_block();
        // The stage of the tile before the last: its products were waited for before the barrier.
        if (tile + 1 < count) load(tile + 1);
        copy_async_commit();
        plan(tile + 2);
        use(tile);
    }
}

// The gradients of a tile of query rows.
template <int DIM> DEVICE void group_backward_queries(const Backward& of, const QueryRows& rows, bf16* d_q, u8* memory) {
    typedef Tile<DIM, BLOCK_ROWS> Own;
    typedef Tile<DIM, INNER> Keys;
    typedef LineCopier<DIM> Copies;
    bf16* tile_q = (bf16*)memory;
    bf16* tile_d = tile_q + Own::LEN;
    bf16* inner = tile_d + Own::LEN;
    const Places places = {(u32*)(inner + BACKWARD_STAGES * 2 * Keys::LEN)};

    const i32 keys = rows.keys();
    const int first_row = group_row(), last_row = min(first_row + GROUP_ROWS, rows.count) - 1;
    const i32 seen = last_row < first_row ? 0 : rows.position(last_row) / INNER + 1;
    const int own = threadIdx.x / WARP * WARP_ROWS, low = own + lane_index() / 4, high = low + 8;
    const auto place_of_query = [&](int r) { return rows.place(min(r, rows.count - 1)); };
    Copies::template copy<BLOCK_ROWS>(shared_address(tile_q), of.q, of.d_out, rows.count, place_of_query);

    const i32 sees[2] = {rows.position(low), rows.position(high)};
    float lse_log2[2], deltas[2];
    of.statistics(rows, low, high, lse_log2, deltas);
    float sums[DIM / 8][4];
    u32 packed[INNER / 8][2];
    clear(sums);
    clear_packed(packed);
    const i32 all_see = rows.position(first_row) + 1;
    const float to_log2 = of.scale * LOG2_E;
    const SharedAddress left_q = shared_address(tile_q) + first_row * 128, left_d = shared_address(tile_d) + first_row * 128;
    const SharedAddress inner_first = shared_address(inner);
    const auto stage_of = [&](i32 tile) { return Keys::later(inner_first, tile % BACKWARD_STAGES * 2); };
    const auto plan = [&](i32 tile) { plan_keys(places, tile, of.segments, rows, keys); };
    const auto load = [&](i32 tile) {
        const u32* slot = places.slot(tile);
        const auto place = [&](int r) { return slot[r]; };
        Copies::template copy<INNER>(stage_of(tile), of.k, of.v, keys - tile * INNER, place);
    };
    walk((keys + INNER - 1) / INNER, plan, load, [&](i32 tile) {
        const i32 first = tile * INNER;
        if (tile >= seen) {
            // What the tile before has begun ends before the next barrier.
            warpgroup_wait<0>();
            return;
        }
        float p[INNER / 8][4], d_p[INNER / 8][4];
        begin_product_transposed<DIM, BLOCK_ROWS, INNER>(p, left_q, stage_of(tile));
        begin_product_transposed<DIM, BLOCK_ROWS, INNER>(d_p, left_d, Keys::later(stage_of(tile), 1));
        // The scores, and before them the product of the tile before.
        warpgroup_wait<1>();
        settle(p);
        settle(sums);
        settle(packed);
        // Of what is not seen the probability is 2^-inf.
        if (first + INNER > all_see)
            for_each(p, [&](float& score, int column, int half) {
                const i32 key = first + column;
                if (key >= keys || key > sees[half]) score = bits_float(0xff800000u);
            });
        for_each(p, [&](float& score, int, int half) { score = exp2_fast(score * to_log2 - lse_log2[half]); });
        warpgroup_wait<0>();
        settle(d_p);
        for_each(p, d_p, [&](float& score, float d_score, int, int half) { score *= d_score - deltas[half]; });
        pack(packed, p);
        begin_product<INNER, DIM>(sums, packed, stage_of(tile));
    });
    warpgroup_wait<0>();
    settle(sums);
    sync_block();
    if (of.cosine) turn_back<DIM>(sums, of.cosine, of.sine, rows.token(low), rows.token(high));
    store_tile<DIM, BLOCK_ROWS, DIM>(sums, of.scale, of.scale, tile_q, own, [&](int r) {
        return own + r < rows.count ? d_q + rows.place(own + r) * DIM : nullptr;
    });
}

// The gradients of a tile of keys and of their values. `order` are the tokens in depth-first order.
template <int DIM>
DEVICE void group_backward_keys(const Backward& of, int2 tile_of, const u32* order, bf16* d_k, bf16* d_v, u8* memory) {
    typedef Tile<DIM, BLOCK_ROWS> Own;
    typedef Tile<DIM, INNER> Queries;
    typedef LineCopier<DIM> Copies;
    bf16* tile_k = (bf16*)memory;
    bf16* tile_v = tile_k + Own::LEN;
    bf16* inner = tile_v + Own::LEN;
    const Places places = {(u32*)(inner + BACKWARD_STAGES * 2 * Queries::LEN)};
    float* inner_lse = (float*)(places.of + SLOTS * INNER);
    float* inner_delta = inner_lse + BACKWARD_STAGES * INNER;

    const Segment segment = of.segments[tile_of.x];
    const i32 first_key = tile_of.y, count = min(BLOCK_ROWS, segment.len - first_key);
    const u32 heads = of.heads.query, kv_heads = of.heads.key, group = of.heads.group(), key_head = blockIdx.y;
    // Queries see these keys from the first key's place in the order to the end of the subtree.
    const u32* queries = order + segment.order + first_key;
    const i32 query_rows = (segment.subtree - first_key) * (i32)group;
    const auto key_place = [&](int r) { return ((u64)segment.start + first_key + r) * kv_heads + key_head; };
    const auto place_of_key = [&](int r) { return key_place(min(r, count - 1)); };
    Copies::template copy<BLOCK_ROWS>(shared_address(tile_k), of.k, of.v, count, place_of_key);

    const int own = threadIdx.x / WARP * WARP_ROWS, low = own + lane_index() / 4, high = low + 8;
    const int first_row = group_row();
    float sums_k[DIM / 8][4], sums_v[DIM / 8][4];
    u32 packed[INNER / 8][2], packed_d[INNER / 8][2];
    clear(sums_k);
    clear(sums_v);
    clear_packed(packed);
    clear_packed(packed_d);
    const SharedAddress inner_first = shared_address(inner);
    const auto stage_of = [&](i32 tile) { return Queries::later(inner_first, tile % BACKWARD_STAGES * 2); };
    const auto plan = [&](i32 tile) {
        if (threadIdx.x >= INNER) return;
        const i32 row = min(tile * INNER + (i32)threadIdx.x, query_rows - 1);
        places.slot(tile)[threadIdx.x] = queries[row / (i32)group] * heads + key_head * group + row % (i32)group;
    };
    const auto load = [&](i32 tile) {
        const u32* slot = places.slot(tile);
        const auto place = [&](int r) { return slot[r]; };
        const i32 there = query_rows - tile * INNER;
        Copies::template copy<INNER>(stage_of(tile), of.q, of.d_out, there, place);
        // Rows that are not there are zeros, and add nothing whatever their probability is.
        const int r = threadIdx.x % INNER, at = tile % BACKWARD_STAGES * INNER + r;
        if (threadIdx.x < INNER) copy_async_word(shared_address(inner_lse + at), of.lse + slot[r], r < there);
        else if (threadIdx.x < 2 * INNER) copy_async_word(shared_address(inner_delta + at), of.delta + slot[r], r < there);
    };
    // From this row on queries see all keys of the warpgroup, and from that on a key. What rows of keys hold that are not there is
    // not stored.
    const i32 see_all = (first_row + GROUP_ROWS - 1) * (i32)group, see_none = first_row * (i32)group - INNER;
    const i32 sees_from[2] = {low * (i32)group, high * (i32)group};
    const float to_log2 = of.scale * LOG2_E;
    const SharedAddress left_k = shared_address(tile_k) + first_row * 128, left_v = shared_address(tile_v) + first_row * 128;
    const bool any = first_row < count;
    walk((query_rows + INNER - 1) / INNER, plan, load, [&](i32 tile) {
        const i32 first = tile * INNER;
        // Nothing is in flight: the tiles that are left out are the first.
        if (!any || first <= see_none) return;
        float p[INNER / 8][4], d_s[INNER / 8][4];
        // Scores transposed: rows are keys, columns queries.
        begin_product_transposed<DIM, BLOCK_ROWS, INNER>(p, left_k, stage_of(tile));
        begin_product_transposed<DIM, BLOCK_ROWS, INNER>(d_s, left_v, Queries::later(stage_of(tile), 1));
        // The scores, and before them the products of the tile before.
        warpgroup_wait<1>();
        settle(p);
        settle(sums_v);
        settle(sums_k);
        settle(packed);
        settle(packed_d);
        if (first < see_all)
            for_each(p, [&](float& score, int query, int half) {
                if (first + query < sees_from[half]) score = bits_float(0xff800000u);
            });
        const float *of_lse = inner_lse + tile % BACKWARD_STAGES * INNER, *of_delta = inner_delta + tile % BACKWARD_STAGES * INNER;
        for_columns(p, [&](float (&scores)[4], int query) {
            const float2 lse = *(const float2*)(of_lse + query);
            const float shift[2] = {lse.x * LOG2_E, lse.y * LOG2_E};
#pragma unroll
            for (int i = 0; i < 4; i++) scores[i] = exp2_fast(scores[i] * to_log2 - shift[i % 2]);
        });
        pack(packed, p);
        begin_product<INNER, DIM>(sums_v, packed, Queries::later(stage_of(tile), 1));
        warpgroup_wait<1>();
        settle(d_s);
        for_columns(d_s, p, [&](float (&d_scores)[4], const float (&scores)[4], int query) {
            const float2 delta = *(const float2*)(of_delta + query);
#pragma unroll
            for (int i = 0; i < 4; i++) d_scores[i] = scores[i] * (d_scores[i] - (i % 2 ? delta.y : delta.x));
        });
        pack(packed_d, d_s);
        begin_product<INNER, DIM>(sums_k, packed_d, stage_of(tile));
    });
    warpgroup_wait<0>();
    settle(sums_v);
    settle(sums_k);
    sync_block();
    const auto to_keys = [&](bf16* to) {
        return [&, to](int r) { return own + r < count ? to + key_place(own + r) * DIM : nullptr; };
    };
    const auto token = [&](int r) { return (u64)segment.start + first_key + min(r, count - 1); };
    if (of.cosine) turn_back<DIM>(sums_k, of.cosine, of.sine, token(low), token(high));
    store_tile<DIM, BLOCK_ROWS, DIM>(sums_k, of.scale, of.scale, tile_k, own, to_keys(d_k));
    store_tile<DIM, BLOCK_ROWS, DIM>(sums_v, 1.0f, 1.0f, tile_v, own, to_keys(d_v));
}

// Grid: (tiles of BLOCK_ROWS keys, then tiles of as many query rows; key heads).
template <int DIM>
KERNEL(256, 1)
attention_backward_warpgroups(const bf16* d_out, const bf16* q, const bf16* k, const bf16* v, const float* lse,
                              const float* delta, const Segment* segments, const u32* order, const i32* positions,
                              const int2* query_tiles, const int2* key_tiles, u32 key_tile_count, u32 heads, u32 kv_heads,
                              float scale, float softcap, u32 window, const float* cosine, const float* sine, bf16* d_q,
                              bf16* d_k, bf16* d_v) {
    DYNAMIC_SHARED(memory);
    const Backward of = {d_out, q, k, v, lse, delta, segments, {heads, kv_heads}, scale, softcap, (i32)window, cosine, sine};
    if (blockIdx.x < key_tile_count) {
        group_backward_keys<DIM>(of, key_tiles[blockIdx.x], order, d_k, d_v, memory);
    } else {
        const int2 tile = query_tiles[blockIdx.x - key_tile_count];
        const QueryRows rows(segments[tile.x], tile.x, tile.y, of.heads, BLOCK_ROWS);
        group_backward_queries<DIM>(of, rows, d_q, memory);
    }
}
