// The gradients of a low-rank term that need no input, in bf16 on tensor cores: of d_y, [rows, width], which is read once,
// d_u = scale d_y b_t^T and d_b_t += u^T d_y. Both are sums over all of d_y in one direction: a block gives those of its part, and a
// second launch adds them in order.

// A block has COLS columns of the rows of its part and goes down them, ROWS at a time: while it multiplies one tile, the next is
// copied. Of d_b_t a warp has a quarter of the columns, of d_u a quarter of the rows of a tile. u is [rows, rank] with u_stride values
// from row to row; rank is a multiple of eight up to RANK, width one of eight. Grid: (strips of columns, parts of rows).
// d_u_parts are [strips, rows, rank], d_b_parts [parts, rank, width].
template <int RANK> struct LowRankTile {
    static constexpr int WARPS = 4, ROWS = 64, COLS = 256, UNITS = COLS / 8, LEFT_UNITS = RANK / 8;
    // Rows are an odd number of units apart, so that eight of them are in different banks.
    static constexpr int STRIDE = UNITS + 1, LEFT_STRIDE = LEFT_UNITS % 2 ? LEFT_UNITS : LEFT_UNITS + 1;
    uint4 d_y[2][ROWS * STRIDE], u[2][ROWS * LEFT_STRIDE], b_t[RANK * STRIDE];
};

template <int RANK>
KERNEL(128, 2)
low_rank_gradients(const bf16* d_y, u32 rows, u32 width, const bf16* u, u32 u_stride, const bf16* b_t, u32 rank, u32 part_rows,
                   float* d_u_parts, float* d_b_parts) {
    typedef LowRankTile<RANK> Tile;
    constexpr int ROWS = Tile::ROWS, COLS = Tile::COLS, UNITS = Tile::UNITS, STRIDE = Tile::STRIDE;
    constexpr int LEFT_UNITS = Tile::LEFT_UNITS, LEFT_STRIDE = Tile::LEFT_STRIDE, THREADS = Tile::WARPS * WARP;
    constexpr int OWN_UNITS = UNITS / Tile::WARPS;
    DYNAMIC_SHARED(shared);
    Tile& tile = *(Tile*)shared;
    const int lane = lane_index(), warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const u32 strip = blockIdx.x, first_col = strip * COLS;
    const u32 begin = blockIdx.y * part_rows, end = min(begin + part_rows, rows);

    const auto copy_tile = [&](u32 first, int into) {
#pragma unroll 4
        for (int i = threadIdx.x; i < ROWS * UNITS; i += THREADS) {
            const u32 row = first + i / UNITS, col = first_col + i % UNITS * 8;
            const bool there = row < end && col < width;
            const SharedAddress to = shared_address(tile.d_y[into] + i / UNITS * STRIDE + i % UNITS);
            copy_async(to, there ? d_y + (u64)row * width + col : d_y, there);
        }
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * LEFT_UNITS; i += THREADS) {
            const u32 row = first + i / LEFT_UNITS, col = i % LEFT_UNITS * 8;
            const bool there = row < end && col < rank;
            const SharedAddress to = shared_address(tile.u[into] + i / LEFT_UNITS * LEFT_STRIDE + i % LEFT_UNITS);
            copy_async(to, there ? u + (u64)row * u_stride + col : u, there);
        }
        copy_async_commit();
    };
#pragma unroll 4
    for (int i = threadIdx.x; i < RANK * UNITS; i += THREADS) {
        const u32 row = i / UNITS, col = first_col + i % UNITS * 8;
        const bool there = row < rank && col < width;
        const SharedAddress to = shared_address(tile.b_t + row * STRIDE + i % UNITS);
        copy_async(to, there ? b_t + (u64)row * width + col : b_t, there);
    }
    copy_tile(begin, 0);

    float d_b[RANK / 16][OWN_UNITS][4];
#pragma unroll
    for (int m = 0; m < RANK / 16; m++)
#pragma unroll
        for (int n = 0; n < OWN_UNITS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) d_b[m][n][i] = 0.0f;

    int at = 0;
    for (u32 first = begin; first < end; first += ROWS, at ^= 1) {
        copy_async_wait<0>();
        // The tile is there for all, and nobody reads the one before any more.
        sync_block();
        if (first + ROWS < end) copy_tile(first + ROWS, at ^ 1);
        const uint4 *rows_of_d_y = tile.d_y[at], *rows_of_u = tile.u[at];
#pragma unroll
        for (int k = 0; k < ROWS; k += 16) {
            u32 left[RANK / 16][4];
#pragma unroll
            for (int m = 0; m < RANK / 16; m++)
                load_matrices_transposed(left[m], shared_address(rows_of_u + (k + lane % 8 + lane / 16 * 8) * LEFT_STRIDE +
                                                                 lane / 8 % 2 + 2 * m));
#pragma unroll
            for (int n = 0; n < OWN_UNITS; n += 2) {
                u32 right[4];
                load_matrices_transposed(right, shared_address(rows_of_d_y + (k + lane % 16) * STRIDE + warp * OWN_UNITS + n +
                                                               lane / 16));
#pragma unroll
                for (int m = 0; m < RANK / 16; m++) {
                    mma(d_b[m][n], left[m], right[0], right[1]);
                    mma(d_b[m][n + 1], left[m], right[2], right[3]);
                }
            }
        }
        float d_u[RANK / 8][4];
#pragma unroll
        for (int n = 0; n < RANK / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) d_u[n][i] = 0.0f;
#pragma unroll 4
        for (int k = 0; k < UNITS; k += 2) {
            u32 left[4];
            load_matrices(left, shared_address(rows_of_d_y + (warp * 16 + lane % 16) * STRIDE + k + lane / 16));
#pragma unroll
            for (int n = 0; n < RANK / 8; n += 2) {
                u32 right[4];
                load_matrices(right, shared_address(tile.b_t + (n * 8 + lane / 16 * 8 + lane % 8) * STRIDE + k + lane / 8 % 2));
                mma(d_u[n], left, right[0], right[1]);
                mma(d_u[n + 1], left, right[2], right[3]);
            }
        }
#pragma unroll
        for (int n = 0; n < RANK / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 row = first + warp * 16 + g + 8 * half, col = n * 8 + 2 * t;
                if (row < end && col < rank)
                    *(float2*)(d_u_parts + ((u64)strip * rows + row) * rank + col) =
                        make_float2(d_u[n][2 * half], d_u[n][2 * half + 1]);
            }
    }
    d_b_parts += (u64)blockIdx.y * rank * width;
#pragma unroll
    for (int m = 0; m < RANK / 16; m++)
#pragma unroll
        for (int n = 0; n < OWN_UNITS; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 row = m * 16 + g + 8 * half, col = first_col + (warp * OWN_UNITS + n) * 8 + 2 * t;
                if (row < rank && col < width)
                    *(float2*)(d_b_parts + (u64)row * width + col) = make_float2(d_b[m][n][2 * half], d_b[m][n][2 * half + 1]);
            }
}

// The sum of `count` parts of `len` values at one unit, in their order.
DEVICE void add_parts_of_unit(const float* parts, u32 count, u64 len, float (&sum)[8]) {
#pragma unroll 4
    for (u32 of = 0; of < count; of++) {
        float part[8];
        load_unit(parts + of * len, part);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += part[i];
    }
}

// d_u, with d_u_stride values from row to row, becomes `scale` times the sum of its parts, and the sum of the parts of d_b_t, which
// has `width` values a row, is added to it. A unit of eight values a thread: those of d_u, then those of d_b_t.
KERNEL(256)
sum_low_rank_gradients(const float* d_u_parts, u32 strips, u32 rows, u32 rank, float scale, bf16* d_u, u32 d_u_stride,
                       const float* d_b_parts, u32 parts, u32 width, float* d_b_t) {
    const u64 at = unit_start(), of_d_u = (u64)rows * rank, of_d_b = (u64)rank * width;
    float sum[8] = {};
    if (at < of_d_u) {
        add_parts_of_unit(d_u_parts + at, strips, of_d_u, sum);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] *= scale;
        store(sum, UNIT, d_u + at / rank * d_u_stride + at % rank);
    } else if (at - of_d_u < of_d_b) {
        float* to = d_b_t + (at - of_d_u);
        load(to, UNIT, sum);
        add_parts_of_unit(d_b_parts + (at - of_d_u), parts, of_d_b, sum);
        store(sum, UNIT, to);
    }
}
