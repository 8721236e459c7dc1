// A libcublasLt over the fake driver: holds what it is told to the rules of the real one, and multiplies in loops, f32 sums.
// It has algorithms that cut sums into 1, 2 or 4 parts; which is offered first depends on the shape.
//
// FAKE_CUBLAS_SLOW=PARTS   the algorithm with so many parts takes longer than the others
// FAKE_CUBLAS_TERMS=N      products of more terms are taken and not computed
// FAKE_CUBLAS_ALIGNED=N    products whose operands or rows are not at multiples of N bytes are not supported
#include <dlfcn.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
// Of cublasStatus_t.
enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
// Of cudaDataType.
enum { F32 = 0, BF16 = 14 };

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;
    // From the first value to the last.
    uint64_t bytes() const { return ((cols - 1) * stride + rows) * (type == F32 ? 4 : 2); }
};
struct Operation {
    int transposed[2];
};
struct Preference {
    uint64_t workspace_bytes;
    uint32_t reductions, alignment[4];
};
// What the real one keeps of its choice: here that there was one, and what it relies on.
struct Algorithm {
    uint64_t mark, alignment[4], workspace_bytes, parts, parts_are_rounded;
};
constexpr uint64_t MARK = 0x616c676f;
struct Result {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

int refuse(int status, const char* why) {
    fprintf(stderr, "fake cuBLASLt: refused (%d): %s\n", status, why);
    return status;
}

bool fit(const Operation* of, const Layout* a, const Layout* b, const Layout* c) {
    const uint64_t rows = of->transposed[0] ? a->cols : a->rows, inner = of->transposed[0] ? a->rows : a->cols;
    const uint64_t cols = of->transposed[1] ? b->rows : b->cols, inner_b = of->transposed[1] ? b->cols : b->rows;
    return rows == c->rows && cols == c->cols && inner == inner_b;
}

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}

struct Product {
    Operation of;
    uint64_t parts, parts_are_rounded;
    float alpha, beta;
    const void *a, *b, *c;
    void* d;
    Layout of_a, of_b, of_c;
};

float get(const void* values, int type, int64_t i) {
    if (type == F32) return ((const float*)values)[i];
    const uint32_t bits = (uint32_t)((const uint16_t*)values)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
void put(void* values, int type, int64_t i, float value) {
    if (type == F32) {
        ((float*)values)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    ((uint16_t*)values)[i] = std::isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
// The operand as `count` sums of `inner` values each, one after the other.
std::vector<float> gathered(const void* values, const Layout& of, uint64_t count, uint64_t inner, bool sums_are_columns) {
    std::vector<float> all(count * inner);
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t t = 0; t < inner; t++)
            all[i * inner + t] = get(values, of.type, sums_are_columns ? t + i * of.stride : i + t * of.stride);
    return all;
}

void multiply(void* with) {
    const Product* p = (const Product*)with;
    const uint64_t rows = p->of_c.rows, cols = p->of_c.cols, inner = p->of.transposed[0] ? p->of_a.rows : p->of_a.cols;
    if (rows * cols * inner > setting("FAKE_CUBLAS_TERMS", ~0ull)) {
        delete p;
        return;
    }
    const auto a = gathered(p->a, p->of_a, rows, inner, p->of.transposed[0]);
    const auto b = gathered(p->b, p->of_b, cols, inner, !p->of.transposed[1]);
    if (setting("FAKE_CUBLAS_SLOW", 0) == p->parts) usleep(250000);
    const uint64_t length = (inner + p->parts - 1) / p->parts;
    for (uint64_t y = 0; y < cols; y++)
        for (uint64_t x = 0; x < rows; x++) {
            float sum = 0;
            for (uint64_t from = 0; from < inner; from += length) {
                const uint64_t end = from + length < inner ? from + length : inner;
                float part = 0;
                for (uint64_t t = from; t < end; t++) part += a[x * inner + t] * b[y * inner + t];
                if (p->parts_are_rounded) {
                    put(&part, p->of_c.type, 0, part);
                    part = get(&part, p->of_c.type, 0);
                }
                sum += part;
            }
            sum *= p->alpha;
            const int64_t at = x + y * p->of_c.stride;
            // What is not added to is not read: it may be no number.
            if (p->beta != 0) sum += p->beta * get(p->c, p->of_c.type, at);
            put(p->d, p->of_c.type, at, sum);
        }
    delete p;
}
}  // namespace

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return FAKE_VERSION * 10000; }
API cublasLtCreate(void** handle) {
    *handle = new int;
    return SUCCESS;
}
API cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    if ((type != F32 && type != BF16) || !rows || !cols || stride < (int64_t)rows)
        return refuse(INVALID_VALUE, "a layout");
    *layout = new Layout{type, rows, cols, stride};
    return SUCCESS;
}
API cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}
API cublasLtMatmulDescCreate(Operation** of, int compute, int scale) {
    if (compute != 68 || scale != F32) return refuse(INVALID_VALUE, "types of a product");
    *of = new Operation{};
    return SUCCESS;
}
API cublasLtMatmulDescDestroy(Operation* of) {
    delete of;
    return SUCCESS;
}
API cublasLtMatmulDescSetAttribute(Operation* of, int attribute, const int* value, size_t bytes) {
    if (bytes != 4 || (attribute != 3 && attribute != 4) || *value < 0 || *value > 1)
        return refuse(INVALID_VALUE, "an attribute of a product");
    of->transposed[attribute - 3] = *value;
    return SUCCESS;
}
API cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference{0, 7, {256, 256, 256, 256}};
    return SUCCESS;
}
API cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}
API cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    uint32_t word = 0;
    if (bytes == 4) memcpy(&word, value, 4);
    const bool is_alignment = attribute >= 5 && attribute <= 8;
    if (bytes != (attribute == 1 ? 8 : 4) || !(attribute == 1 || attribute == 3 || is_alignment) ||
        (is_alignment && (!word || word & (word - 1))))
        return refuse(INVALID_VALUE, "a preference");
    if (attribute == 1) memcpy(&preference->workspace_bytes, value, 8);
    if (attribute == 3) preference->reductions = word;
    if (is_alignment) preference->alignment[attribute - 5] = word;
    return SUCCESS;
}
API cublasLtMatmulAlgoGetHeuristic(void* handle, const Operation* of, const Layout* a, const Layout* b, const Layout* c,
                                   const Layout* d, const Preference* preference, int wanted, Result* results, int* found) {
    if (!handle || wanted < 1 || !fit(of, a, b, c) || !fit(of, a, b, d)) return refuse(INVALID_VALUE, "shapes");
    if (a->type != b->type || c->type != d->type || (a->type == F32 && c->type != F32))
        return refuse(NOT_SUPPORTED, "types");
    *found = 0;
    const uint64_t multiple = setting("FAKE_CUBLAS_ALIGNED", 0);
    for (int i = 0; multiple && i < 3; i++) {
        const Layout* layout = i == 0 ? a : i == 1 ? b : c;
        const uint64_t row_bytes = layout->stride * (layout->type == F32 ? 4 : 2);
        if (preference->alignment[i] < multiple || (layout->cols > 1 && row_bytes % multiple)) return NOT_SUPPORTED;
    }
    const auto offer = [&](uint64_t parts, bool are_rounded) {
        if (*found == wanted) return;
        Result& result = results[(*found)++];
        result = Result{};
        result.algorithm.mark = MARK;
        for (int i = 0; i < 4; i++) result.algorithm.alignment[i] = preference->alignment[i];
        result.algorithm.workspace_bytes = result.workspace_bytes = preference->workspace_bytes;
        result.algorithm.parts = parts;
        result.algorithm.parts_are_rounded = are_rounded;
    };
    // Parts in the type of the output: in place (1) or in the workspace (4).
    if (preference->reductions & (1 | 4)) offer(2, true);
    const bool has_many_columns = c->cols >= 64;
    offer(has_many_columns ? 1 : 2, false);
    if (preference->reductions & 2) {
        offer(has_many_columns ? 2 : 1, false);
        offer(4, false);
    }
    return SUCCESS;
}
API cublasLtMatmul(void* handle, const Operation* of, const float* alpha, const void* a, const Layout* of_a, const void* b,
                   const Layout* of_b, const float* beta, const void* c, const Layout* of_c, void* d, const Layout* of_d,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    // The driver's, which is loaded before this is.
    static void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    static const auto ask = (int (*)(void*, void (*)(void*), void*))dlsym(driver, "fake_ask");
    static const auto is_device_memory = (int (*)(uint64_t, size_t))dlsym(driver, "fake_is_device_memory");
    if (!handle || !algorithm || algorithm->mark != MARK || !fit(of, of_a, of_b, of_c) || of_c != of_d)
        return refuse(INVALID_VALUE, "a product");
    const uint64_t addresses[4] = {(uint64_t)a, (uint64_t)b, (uint64_t)c, (uint64_t)d};
    for (int i = 0; i < 4; i++)
        if (addresses[i] % algorithm->alignment[i]) return refuse(INVALID_VALUE, "an operand is not aligned as was said");
    if (!is_device_memory((uint64_t)a, of_a->bytes()) || !is_device_memory((uint64_t)b, of_b->bytes()) ||
        !is_device_memory((uint64_t)c, of_c->bytes()) || !is_device_memory((uint64_t)d, of_d->bytes()) || !is_device_memory((uint64_t)workspace, workspace_bytes) ||
        workspace_bytes < algorithm->workspace_bytes)
        return refuse(INVALID_VALUE, "memory of a product");
    return ask(stream, multiply,
               new Product{*of, algorithm->parts, algorithm->parts_are_rounded, *alpha, *beta, a, b, c, d, *of_a, *of_b, *of_c}) ? INVALID_VALUE : SUCCESS;
}
