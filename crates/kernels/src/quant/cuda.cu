// Decoding of stored weights: rows of a matrix, or those of the given ids, into a dense tile; of each row `cols` values from
// `first_col` on, a multiple of eight. A thread decodes eight neighbouring values of a row. Formats and their sources are described
// in this folder.

// Rows to decode: `ids[i]` or, without ids, `first + i`; `head_dim` above 0 finds rows of a GGUF q_proj or k_proj
// (RowOrder::RotaryPairs).
DEVICE u64 stored_row(const u32* ids, u32 first, u32 i, u32 head_dim) {
    const u32 row = ids ? ids[i] : first + i;
    if (head_dim == 0) return row;
    const u32 within = row % head_dim, half = head_dim / 2;
    return row - within + within % half * 2 + within / half;
}

DEVICE u32 load_u16(const u8* at) { return *(const u16*)at; }
DEVICE u32 load_u32(const u8* at) { return load_u16(at) | load_u16(at + 2) << 16; }
DEVICE float load_half(const u8* at) { return half_to_float((u16)load_u16(at)); }

// A format is its block and `decode`: eight values from `at` on (a multiple of eight) of a block, whose address is even.

// Eight 4-bit codes of a block that keeps value j and value j + 16 in one byte.
DEVICE void nibble_codes(const u8* halves, u32 at, int (&codes)[8]) {
    const u32 shift = at / 16 * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 pair = load_u16(halves + at % 16 + 2 * i) >> shift;
        codes[2 * i] = pair & 15;
        codes[2 * i + 1] = pair >> 8 & 15;
    }
}

struct Q4_0 {
    static constexpr u32 LEN = 32, BYTES = 18;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const float d = load_half(block);
        int codes[8];
        nibble_codes(block + 2, at, codes);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (float)(codes[i] - 8) * d;
    }
};
struct Q4_1 {
    static constexpr u32 LEN = 32, BYTES = 20;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const float d = load_half(block), m = load_half(block + 2);
        int codes[8];
        nibble_codes(block + 4, at, codes);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (float)codes[i] * d + m;
    }
};
struct Q5_0 {
    static constexpr u32 LEN = 32, BYTES = 22;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const float d = load_half(block);
        const u32 mask = load_u32(block + 2) >> at;
        int codes[8];
        nibble_codes(block + 6, at, codes);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (float)((codes[i] | (int)(mask >> i & 1) << 4) - 16) * d;
    }
};
struct Q5_1 {
    static constexpr u32 LEN = 32, BYTES = 24;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const float d = load_half(block), m = load_half(block + 2);
        const u32 mask = load_u32(block + 4) >> at;
        int codes[8];
        nibble_codes(block + 8, at, codes);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (float)(codes[i] | (int)(mask >> i & 1) << 4) * d + m;
    }
};
struct Q8_0 {
    static constexpr u32 LEN = 32, BYTES = 34;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const float d = load_half(block);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 pair = load_u16(block + 2 + at + 2 * i);
            v[2 * i] = (float)(i8)(pair & 255) * d;
            v[2 * i + 1] = (float)(i8)(pair >> 8) * d;
        }
    }
};

// Scale and minimum of sub-block `j` of Q4_K and Q5_K, from twelve packed bytes.
struct ScaleMinimum {
    float scale, minimum;
};
DEVICE ScaleMinimum packed_scale(const u8* block, u32 j) {
    const u8* packed = block + 4;
    const u32 scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
    const u32 minimum = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    return {load_half(block) * (float)scale, load_half(block + 2) * (float)minimum};
}
struct Q4_K {
    static constexpr u32 LEN = 256, BYTES = 144;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const u32 sub = at / 32;
        const ScaleMinimum s = packed_scale(block, sub);
        const u8* bytes = block + 16 + sub / 2 * 32 + at % 32;
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = s.scale * (float)(bytes[i] >> sub % 2 * 4 & 15) - s.minimum;
    }
};
struct Q5_K {
    static constexpr u32 LEN = 256, BYTES = 176;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const u32 sub = at / 32;
        const ScaleMinimum s = packed_scale(block, sub);
        const u8* fifth = block + 16 + at % 32;
        const u8* bytes = block + 48 + sub / 2 * 32 + at % 32;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 code = (bytes[i] >> sub % 2 * 4 & 15) | (fifth[i] >> sub & 1) << 4;
            v[i] = s.scale * (float)code - s.minimum;
        }
    }
};
struct Q6_K {
    static constexpr u32 LEN = 256, BYTES = 210;
    static DEVICE void decode(const u8* block, u32 at, float (&v)[8]) {
        const u32 half = at / 128, quarter = at % 128 / 32, j = at % 32;
        const float scale = load_half(block + 208) * (float)(i8)block[192 + half * 8 + quarter * 2 + j / 16];
        const u8* low = block + half * 64 + quarter % 2 * 32 + j;
        const u8* upper = block + 128 + half * 32 + j;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 code = (low[i] >> quarter / 2 * 4 & 15) | (upper[i] >> quarter * 2 & 3) << 4;
            v[i] = scale * (float)((int)code - 32);
        }
    }
};

// y[i, n] = base + scale (x[i, :] . row n of a stored matrix), or with `adds` added to what y holds, of so few rows of x that a
// decoded matrix would not be worth writing: a warp decodes a row in registers and multiplies it with all of x, in f32.
static constexpr u32 FEW_ROWS = 8;
template <class T> struct FewRows {
    u32 head_dim, rows, cols;
    const T* x;
    u32 x_stride, count;
    const T* base;
    float scale;
    T* y;
    u32 y_stride, adds;

    // `decode(row, column, count, values)` gives eight values, zeros beyond `count`.
    template <class Decode> DEVICE void multiply(Decode decode) const {
        const u32 n = warp_row();
        if (n >= rows) return;
        const u64 row = stored_row(nullptr, 0, n, head_dim);
        float sums[FEW_ROWS];
#pragma unroll
        for (u32 i = 0; i < FEW_ROWS; i++) sums[i] = 0.0f;
        for (u32 at = lane_index() * UNIT; at < cols; at += WARP * UNIT) {
            const u32 there = min(cols - at, UNIT);
            float w[8];
            decode(row, at, there, w);
#pragma unroll
            for (u32 i = 0; i < FEW_ROWS; i++) {
                if (i >= count) break;
                float v[8];
                load(x + (u64)i * x_stride + at, there, v);
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i] += v[j] * w[j];
            }
        }
#pragma unroll
        for (u32 i = 0; i < FEW_ROWS; i++) {
            if (i >= count) break;
            const float sum = warp_sum(sums[i]) * scale;
            if (lane_index() > 0) continue;
            T& to = y[(u64)i * y_stride + n];
            const float before = base ? to_float(base[(u64)i * y_stride + n]) : adds ? to_float(to) : 0.0f;
            to = from_float<T>(before + sum);
        }
    }
};

// A matrix whose rows are whole blocks.
template <class Format, class T>
KERNEL(256, 4)
multiply_blocks(const u8* data, u32 head_dim, u32 rows, u32 cols, const T* x, u32 x_stride, u32 count, const T* base,
                float scale, T* y, u32 y_stride, u32 adds) {
    const FewRows<T> few = {head_dim, rows, cols, x, x_stride, count, base, scale, y, y_stride, adds};
    few.multiply([&](u64 row, u32 col, u32, float(&w)[8]) {
        const u64 value = row * cols + col;
        Format::decode(data + value / Format::LEN * Format::BYTES, (u32)(value % Format::LEN), w);
    });
}
template <class Format, class T>
KERNEL(256)
decode_blocks(const u8* data, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width, u32 first_col, u32 cols, T* out) {
    const Unit unit = matrix_unit(rows, cols);
    if (!unit.there) return;
    const u64 value = stored_row(ids, first, unit.row, head_dim) * width + first_col + unit.col;
    float v[8];
    Format::decode(data + value / Format::LEN * Format::BYTES, (u32)(value % Format::LEN), v);
    store(v, unit.count, out + (u64)unit.row * cols + unit.col);
}

// F32 and BF16 as they are, F16 as 16 bits of its own.
struct half_bits {
    u16 bits;
};
DEVICE float to_float(half_bits x) { return half_to_float(x.bits); }
DEVICE void load_unit(const half_bits* from, float (&to)[8]) {
    const uint4 packed = *(const uint4*)from;
    const u32 pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = half_to_float((u16)pairs[i]);
        to[2 * i + 1] = half_to_float((u16)(pairs[i] >> 16));
    }
}
template <class From, class T>
KERNEL(256, 4)
multiply_floats(const From* data, u32 head_dim, u32 rows, u32 cols, const T* x, u32 x_stride, u32 count, const T* base,
                float scale, T* y, u32 y_stride, u32 adds) {
    const FewRows<T> few = {head_dim, rows, cols, x, x_stride, count, base, scale, y, y_stride, adds};
    few.multiply([&](u64 row, u32 col, u32 there, float(&w)[8]) { load(data + row * cols + col, there, w); });
}
template <class From, class T>
KERNEL(256)
decode_floats(const From* data, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width, u32 first_col, u32 cols, T* out) {
    const Unit unit = matrix_unit(rows, cols);
    if (!unit.there) return;
    const u64 value = stored_row(ids, first, unit.row, head_dim) * width + first_col + unit.col;
    float v[8];
    load(data + value, unit.count, v);
    store(v, unit.count, out + (u64)unit.row * cols + unit.col);
}

// Signed bytes with a scale a row: x = q absmax / 127.
DEVICE void int8_unit(const i8* from, float scale, u32 count, float (&v)[8]) {
#pragma unroll
    for (u32 i = 0; i < UNIT; i++) v[i] = i < count ? (float)from[i] * scale * 7.874016e-3f : 0.0f;
}
template <class T>
KERNEL(256, 4)
multiply_int8(const i8* codes, const float* absmax, u32 head_dim, u32 rows, u32 cols, const T* x, u32 x_stride, u32 count,
              const T* base, float scale, T* y, u32 y_stride, u32 adds) {
    const FewRows<T> few = {head_dim, rows, cols, x, x_stride, count, base, scale, y, y_stride, adds};
    few.multiply([&](u64 row, u32 col, u32 there, float(&w)[8]) {
        int8_unit(codes + row * cols + col, absmax[row], there, w);
    });
}
template <class T>
KERNEL(256)
decode_int8(const i8* codes, const float* absmax, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width,
            u32 first_col, u32 cols, T* out) {
    const Unit unit = matrix_unit(rows, cols);
    if (!unit.there) return;
    const u64 row = stored_row(ids, first, unit.row, head_dim);
    float v[8];
    int8_unit(codes + row * width + first_col + unit.col, absmax[row], unit.count, v);
    store(v, unit.count, out + (u64)unit.row * cols + unit.col);
}

// Scales of 4-bit blocks: f32, or 8-bit codes over nested blocks of 256 (double quantisation).
struct PlainScales {
    const float* absmax;
    DEVICE float of(u64 block) const { return absmax[block]; }
};
struct DoubleScales {
    const u8* codes;
    const float* map;
    const float* nested;
    float offset;
    DEVICE float of(u64 block) const { return map[codes[block]] * nested[block / 256] + offset; }
};

// NF4 or FP4, by its table of sixteen values; blocks of 2^block_shift values of the whole matrix in row-major order, the
// first of two values in the high half of a byte.
template <class Scales> struct FourBit {
    const u8* codes;
    Scales scales;
    u32 block_shift;

    // Eight values from `start` on, zeros beyond `count`; `values` are those of the codes.
    DEVICE void unit(const float* values, u64 start, u32 count, float (&v)[8]) const;
    template <class T>
    DEVICE void decode(const float* table, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width, u32 first_col, u32 cols,
                       T* out) const;
    template <class T> DEVICE void multiply(const float* table, const FewRows<T>& few) const;
};

// In shared memory lanes with different codes do not wait for each other.
DEVICE const float* shared_table(const float* table) {
    __shared__ float values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = table[threadIdx.x];
    sync_block();
    return values;
}

template <class Scales>
DEVICE void FourBit<Scales>::unit(const float* values, u64 start, u32 count, float (&v)[8]) const {
    if (count == UNIT && start % UNIT == 0 && block_shift >= 3) {
        const u32 packed = *(const u32*)(codes + start / 2);
        const float scale = scales.of(start >> block_shift);
#pragma unroll
        for (u32 i = 0; i < UNIT; i++) v[i] = values[packed >> (i / 2 * 8 + (1 - i % 2) * 4) & 15] * scale;
    } else {
#pragma unroll
        for (u32 i = 0; i < UNIT; i++) {
            v[i] = 0.0f;
            if (i >= count) continue;
            const u64 at = start + i;
            const u32 code = codes[at / 2] >> (1 - at % 2) * 4 & 15;
            v[i] = values[code] * scales.of(at >> block_shift);
        }
    }
}

template <class Scales>
template <class T>
DEVICE void FourBit<Scales>::decode(const float* table, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width,
                                    u32 first_col, u32 cols, T* out) const {
    const float* values = shared_table(table);
    const Unit at = matrix_unit(rows, cols);
    if (!at.there) return;
    float v[8];
    unit(values, stored_row(ids, first, at.row, head_dim) * width + first_col + at.col, at.count, v);
    store(v, at.count, out + (u64)at.row * cols + at.col);
}

template <class Scales>
template <class T>
DEVICE void FourBit<Scales>::multiply(const float* table, const FewRows<T>& few) const {
    const float* values = shared_table(table);
    few.multiply([&](u64 row, u32 col, u32 there, float(&w)[8]) { unit(values, row * few.cols + col, there, w); });
}
template <class T>
KERNEL(256)
decode_four_bit_plain(const u8* codes, const float* table, const float* absmax, u32 block_shift, const u32* ids, u32 first,
                      u32 head_dim, u32 rows, u32 width, u32 first_col, u32 cols, T* out) {
    const FourBit<PlainScales> matrix = {codes, {absmax}, block_shift};
    matrix.decode(table, ids, first, head_dim, rows, width, first_col, cols, out);
}
template <class T>
KERNEL(256)
decode_four_bit_double(const u8* codes, const float* table, const u8* absmax, const float* map, const float* nested,
                       float offset, u32 block_shift, const u32* ids, u32 first, u32 head_dim, u32 rows, u32 width,
                       u32 first_col, u32 cols, T* out) {
    const FourBit<DoubleScales> matrix = {codes, {absmax, map, nested, offset}, block_shift};
    matrix.decode(table, ids, first, head_dim, rows, width, first_col, cols, out);
}
template <class T>
KERNEL(256, 4)
multiply_four_bit_plain(const u8* codes, const float* table, const float* absmax, u32 block_shift, u32 head_dim, u32 rows,
                        u32 cols, const T* x, u32 x_stride, u32 count, const T* base, float scale, T* y, u32 y_stride,
                        u32 adds) {
    const FourBit<PlainScales> matrix = {codes, {absmax}, block_shift};
    matrix.multiply(table, FewRows<T>{head_dim, rows, cols, x, x_stride, count, base, scale, y, y_stride, adds});
}
template <class T>
KERNEL(256, 4)
multiply_four_bit_double(const u8* codes, const float* table, const u8* absmax, const float* map, const float* nested,
                         float offset, u32 block_shift, u32 head_dim, u32 rows, u32 cols, const T* x, u32 x_stride,
                         u32 count, const T* base, float scale, T* y, u32 y_stride, u32 adds) {
    const FourBit<DoubleScales> matrix = {codes, {absmax, map, nested, offset}, block_shift};
    matrix.multiply(table, FewRows<T>{head_dim, rows, cols, x, x_stride, count, base, scale, y, y_stride, adds});
}
