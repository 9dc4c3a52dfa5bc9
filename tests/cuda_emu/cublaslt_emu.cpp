/* tests/cuda_emu/cublaslt_emu.cpp - a stand-in for libcublasLt.so.13 that multiplies on the processor.
 *
 * Built as a shared library of that name and found through Q3_LIBRARY_PATH: the calls of kernels/cublaslt_api.h with
 * the real names and numbers, and nothing else. What the real library refuses, or would fault or go wrong on without a
 * word, is refused here with one line on stderr: types and compute types that do not go together, shapes that do not
 * fit, overlapping rows, an algorithm chosen for another product, pointers that are less aligned than was said when it
 * was chosen or that do not lie in device memory, a workspace too small or not aligned to 256 bytes.
 *
 * The workspace that a product asks for is overwritten with NaNs, as split sums would overwrite it.
 *
 * Sums are f32, in blocks of TERMS terms that are added one after the other: fixed by k alone. After Goto and van de
 * Geijn (2008), as kernels/gemm_simd.c.
 */
#include <initializer_list>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "kernels/cublaslt_api.h"
}
#include "kernels/dtype.h"

#define Q3_LT_EXPORT extern "C" __attribute__((visibility("default")))

/* Of the emulated device (tests/cuda_emu/include/cuda_emu.h); the program must export them (-rdynamic). */
extern "C" {
__attribute__((weak)) int q3_emu_enqueue(void *stream, void (*run)(void *args), const void *args,
                                         size_t bytes);
__attribute__((weak)) bool q3_emu_is_device(const void *p, size_t bytes);
}

struct q3_lt_context {
    int open;
};
struct q3_lt_layout_body {
    int type;
    int64_t rows, cols, ld;
};
struct q3_lt_desc_body {
    int compute_type, scale_type;
    int32_t transposed[2];
    uint32_t epilogue;
    const void *bias;
};
struct q3_lt_preference_body {
    uint64_t workspace_bytes;
    uint32_t schemes, alignment[4];
};

namespace
{

enum {
    TERMS = 256,            // of a sum before they are added to the tile in memory
    COLUMNS = 512,          // of D that a packed block of B covers: 512 KiB, in the L2 cache
    WIDTH = 16,             // elements of a vector
    LONG_SUM = 2048,        // terms from which the stand-in asks for a workspace
    ASKED_BYTES = 64 << 10, // then so many: enough to spoil what should not lie there
};

/* What q3_lt_algorithm holds here. */
struct choice {
    uint32_t magic, alignment[4], workspace_bytes;
    uint64_t problem; // hash of shapes, types and operations
};
static_assert(sizeof(choice) <= sizeof(q3_lt_algorithm), "fits");
enum { MAGIC = 0x51334c54 };

__attribute__((format(printf, 2, 3))) int refuse(int status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("cublaslt_emu: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return status;
}

size_t type_bytes(int type)
{
    return type == Q3_LT_R_16BF ? 2 : 4;
}

uint64_t hash_of(const q3_lt_desc_body &desc, const q3_lt_layout_body *const (&layouts)[3])
{
    int64_t words[16] = { desc.transposed[0], desc.transposed[1], (int64_t)desc.epilogue };
    int n = 3;
    for (const q3_lt_layout_body *l : layouts) {
        const int64_t of[4] = { l->type, l->rows, l->cols, l->ld };
        for (int64_t word : of)
            words[n++] = word;
    }
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a, by words
    for (int i = 0; i < n; i++)
        hash = (hash ^ (uint64_t)words[i]) * 0x100000001b3u;
    return hash;
}

struct problem {
    int64_t m, n, k; // column-major: D is m x n
};

/* Checks what does not depend on pointers. */
int check(const q3_lt_desc_body *desc, const q3_lt_layout_body *a, const q3_lt_layout_body *b,
          const q3_lt_layout_body *c, const q3_lt_layout_body *d, problem *out)
{
    if (!desc || !a || !b || !c || !d)
        return refuse(Q3_LT_INVALID_VALUE, "a descriptor is missing");
    if (desc->compute_type != Q3_LT_COMPUTE_32F || desc->scale_type != Q3_LT_R_32F)
        return refuse(Q3_LT_NOT_SUPPORTED, "compute type %d with scale type %d", desc->compute_type,
                      desc->scale_type);
    bool floats = a->type == Q3_LT_R_32F && c->type == Q3_LT_R_32F;
    bool halves = a->type == Q3_LT_R_16BF && (c->type == Q3_LT_R_16BF || c->type == Q3_LT_R_32F);
    if (a->type != b->type || c->type != d->type || !(floats || halves))
        return refuse(Q3_LT_NOT_SUPPORTED, "types %d, %d, %d, %d", a->type, b->type, c->type, d->type);
    for (const q3_lt_layout_body *l : { a, b, c, d }) {
        if (l->rows < 1 || l->cols < 1 || l->ld < l->rows)
            return refuse(Q3_LT_INVALID_VALUE, "a matrix of %lld x %lld, columns %lld apart",
                          (long long)l->rows, (long long)l->cols, (long long)l->ld);
        if (l->rows > INT32_MAX || l->cols > INT32_MAX)
            return refuse(Q3_LT_NOT_SUPPORTED, "%lld x %lld is too large", (long long)l->rows,
                          (long long)l->cols);
    }
    bool ta = desc->transposed[0] == Q3_LT_OP_T, tb = desc->transposed[1] == Q3_LT_OP_T;
    problem p = { ta ? a->cols : a->rows, tb ? b->rows : b->cols, ta ? a->rows : a->cols };
    if ((tb ? b->cols : b->rows) != p.k || c->rows != p.m || c->cols != p.n || d->rows != p.m ||
        d->cols != p.n)
        return refuse(Q3_LT_INVALID_VALUE, "shapes do not fit: %lld x %lld, %lld x %lld, %lld x %lld",
                      (long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols,
                      (long long)c->rows, (long long)c->cols);
    if (desc->epilogue != Q3_LT_EPILOGUE_DEFAULT && desc->epilogue != Q3_LT_EPILOGUE_BIAS)
        return refuse(Q3_LT_NOT_SUPPORTED, "epilogue %u", desc->epilogue);
    *out = p;
    return Q3_LT_SUCCESS;
}

/* From the first element to the last. */
size_t bytes_of(const q3_lt_layout_body *l)
{
    return (size_t)((l->cols - 1) * l->ld + l->rows) * type_bytes(l->type);
}

bool on_device(const void *p, const q3_lt_layout_body *l)
{
    return q3_emu_is_device(p, bytes_of(l));
}

/* Two matrices of one layout. Real kernels write tiles of D while others still read C. */
bool overlap(const void *c, const void *d, const q3_lt_layout_body *l)
{
    return (uintptr_t)c < (uintptr_t)d + bytes_of(l) && (uintptr_t)d < (uintptr_t)c + bytes_of(l);
}

float load(const void *p, int type, int64_t i)
{
    return type == Q3_LT_R_16BF ? q3_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

void store(void *p, int type, int64_t i, float x)
{
    if (type == Q3_LT_R_16BF)
        ((uint16_t *)p)[i] = q3_f32_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* One product, as it is put on the stream. */
struct job {
    problem p = {};
    const void *a, *b, *c, *bias;
    void *d, *workspace;
    int64_t lda, ldb, ldc;
    int in, out;
    bool ta, tb;
    float alpha, beta;
    size_t workspace_bytes;
};

float value(float x)
{
    return x;
}
float value(uint16_t x)
{
    return q3_bf16_to_f32(x);
}

/* to[k][w] = element (first + w, k0 + k) of a matrix whose elements lie `across` and `along` apart, one of them 1; zeros
 * past the end. The inner loop runs where memory does. */
template <class T>
void pack_as(float *to, int width, const T *from, int64_t first, int64_t end, int64_t k0, int64_t terms,
             int64_t across, int64_t along)
{
    const int wide = (int)(end - first < width ? end - first : width);
    if (wide < width)
        memset(to, 0, (size_t)terms * (size_t)width * sizeof *to);
    if (across == 1) {
        for (int64_t k = 0; k < terms; k++)
            for (int w = 0; w < wide; w++)
                to[k * width + w] = value(from[first + w + (k0 + k) * along]);
        return;
    }
    for (int w = 0; w < wide; w++)
        for (int64_t k = 0; k < terms; k++)
            to[k * width + w] = value(from[(first + w) * across + k0 + k]);
}

void pack(float *to, int width, const void *from, int type, int64_t first, int64_t end, int64_t k0,
          int64_t terms, int64_t across, int64_t along)
{
    if (type == Q3_LT_R_16BF)
        pack_as(to, width, (const uint16_t *)from, first, end, k0, terms, across, along);
    else
        pack_as(to, width, (const float *)from, first, end, k0, terms, across, along);
}

/* Vectors of the width that the processor has: wider ones would be kept in memory. */
typedef float vector4 __attribute__((vector_size(16)));
typedef float vector8 __attribute__((vector_size(32)));
typedef float vector16 __attribute__((vector_size(64)));

/* tile[r][0 .. 15] += sum over k of a[k][r] * b[k][0 .. 15], rows of the tile `ld` apart. */
template <int ROWS, class V>
static inline __attribute__((always_inline)) void multiply(float *tile, int64_t ld, const float *a,
                                                           const float *b, int64_t terms)
{
    enum { LANES = sizeof(V) / sizeof(float), PARTS = WIDTH / LANES };
    V sum[ROWS][PARTS];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < PARTS; i++)
            sum[r][i] = V{};
    for (int64_t k = 0; k < terms; k++)
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < PARTS; i++)
                sum[r][i] += *(const V *)(b + k * WIDTH + i * LANES) * a[k * ROWS + r];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < PARTS; i++)
            *(V *)(tile + r * ld + i * LANES) += sum[r][i];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void multiply_avx512(float *tile, int64_t ld, const float *a,
                                                        const float *b, int64_t terms)
{
    multiply<12, vector16>(tile, ld, a, b, terms);
}
__attribute__((target("avx2,fma"))) void multiply_avx2(float *tile, int64_t ld, const float *a,
                                                       const float *b, int64_t terms)
{
    multiply<6, vector8>(tile, ld, a, b, terms);
}
#endif
void multiply_portable(float *tile, int64_t ld, const float *a, const float *b, int64_t terms)
{
    multiply<3, vector4>(tile, ld, a, b, terms);
}

/* Scratch that vectors may be loaded from. */
struct floats {
    float *p;
    explicit floats(int64_t n) : p(NULL)
    {
        void *memory;
        if (posix_memalign(&memory, sizeof(vector16), (size_t)n * sizeof *p) != 0) {
            fputs("cublaslt_emu: no memory left\n", stderr);
            abort();
        }
        p = (float *)memory;
    }
    floats(const floats &) = delete;
    floats &operator=(const floats &) = delete;
    ~floats() { free(p); }
};

struct kernel {
    void (*multiply)(float *tile, int64_t ld, const float *a, const float *b, int64_t terms);
    int rows;
};

kernel best_kernel(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return { multiply_avx512, 12 };
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return { multiply_avx2, 6 };
#endif
    return { multiply_portable, 3 };
}

/* Seen row-major, D' = op(B)' op(A)': rows are columns of D, so their A is read along the vectors. */
void run(void *args)
{
    const job j = *(const job *)args;
    const kernel fast = best_kernel();
    const int64_t m = j.p.m, n = j.p.n, tall = (n + fast.rows - 1) / fast.rows * fast.rows;
    floats rows(fast.rows * TERMS), block(COLUMNS * TERMS), sums(tall * COLUMNS);
    if (j.workspace_bytes)
        memset(j.workspace, 0xff, j.workspace_bytes);
    for (int64_t i0 = 0; i0 < m; i0 += COLUMNS) {
        const int64_t end = i0 + COLUMNS < m ? i0 + COLUMNS : m;
        memset(sums.p, 0, (size_t)tall * COLUMNS * sizeof *sums.p);
        for (int64_t k0 = 0; k0 < j.p.k; k0 += TERMS) {
            const int64_t terms = j.p.k - k0 < TERMS ? j.p.k - k0 : (int64_t)TERMS;
            for (int64_t i = i0; i < end; i += WIDTH)
                pack(block.p + (i - i0) * TERMS, WIDTH, j.a, j.in, i, end, k0, terms, j.ta ? j.lda : 1,
                     j.ta ? 1 : j.lda);
            for (int64_t r = 0; r < n; r += fast.rows) {
                pack(rows.p, fast.rows, j.b, j.in, r, n, k0, terms, j.tb ? 1 : j.ldb, j.tb ? j.ldb : 1);
                for (int64_t i = i0; i < end; i += WIDTH)
                    fast.multiply(sums.p + r * COLUMNS + i - i0, COLUMNS, rows.p, block.p + (i - i0) * TERMS,
                                  terms);
            }
        }
        for (int64_t r = 0; r < n; r++)
            for (int64_t i = i0; i < end; i++) {
                float x = j.alpha * sums.p[r * COLUMNS + i - i0];
                if (j.beta != 0)
                    x += j.beta * load(j.c, j.out, r * j.ldc + i);
                if (j.bias)
                    x += load(j.bias, j.out, i);
                store(j.d, j.out, r * j.ldc + i, x);
            }
    }
}

/* Copies an attribute of exactly the size that the real one has. */
int set(void *to, size_t size, const void *value, size_t bytes)
{
    if (!value || bytes != size)
        return refuse(Q3_LT_INVALID_VALUE, "an attribute of %zu bytes set from %zu", size, bytes);
    memcpy(to, value, size);
    return Q3_LT_SUCCESS;
}

int check_pointers(const choice &chosen, const void *const (&pointers)[4],
                   const q3_lt_layout_body *const (&layouts)[4], float beta)
{
    for (int i = 0; i < 4; i++) {
        if ((uintptr_t)pointers[i] % chosen.alignment[i] ||
            (uintptr_t)pointers[i] % type_bytes(layouts[i]->type))
            return refuse(Q3_LT_EXECUTION_FAILED,
                          "%c is at %p; the algorithm was chosen for an alignment of %u", "ABCD"[i],
                          pointers[i], chosen.alignment[i]);
        if (!(i == 2 && beta == 0) && !on_device(pointers[i], layouts[i]))
            return refuse(Q3_LT_EXECUTION_FAILED, "%c at %p reaches beyond device memory", "ABCD"[i],
                          pointers[i]);
    }
    return Q3_LT_SUCCESS;
}

int check_bias(const q3_lt_desc_body *desc, const q3_lt_layout_body *d)
{
    const q3_lt_layout_body vector = { d->type, d->rows, 1, d->rows };
    if (desc->epilogue != Q3_LT_EPILOGUE_BIAS)
        return Q3_LT_SUCCESS;
    if (!desc->bias)
        return refuse(Q3_LT_INVALID_VALUE, "no bias for the epilogue");
    if ((uintptr_t)desc->bias % 16 || !on_device(desc->bias, &vector))
        return refuse(Q3_LT_EXECUTION_FAILED,
                      "the bias at %p is not aligned to 16 bytes or not on the device", desc->bias);
    return Q3_LT_SUCCESS;
}

} // namespace

Q3_LT_EXPORT size_t cublasLtGetVersion(void)
{
    return 130000;
}

Q3_LT_EXPORT const char *cublasLtGetStatusName(int status)
{
    switch (status) {
    case Q3_LT_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case Q3_LT_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case Q3_LT_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case Q3_LT_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case Q3_LT_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

Q3_LT_EXPORT int cublasLtCreate(q3_lt_handle *out)
{
    if (!q3_emu_enqueue || !q3_emu_is_device)
        return refuse(Q3_LT_NOT_INITIALIZED,
                      "the program does not export q3_emu_enqueue; link it with -rdynamic");
    *out = new q3_lt_context{ 1 };
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtDestroy(q3_lt_handle handle)
{
    delete handle;
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatrixLayoutCreate(q3_lt_layout *out, int type, uint64_t rows, uint64_t cols,
                                            int64_t ld)
{
    *out = new q3_lt_layout_body{ type, (int64_t)rows, (int64_t)cols, ld };
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatrixLayoutDestroy(q3_lt_layout layout)
{
    delete layout;
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmulDescCreate(q3_lt_desc *out, int compute_type, int scale_type)
{
    *out = new q3_lt_desc_body{
        compute_type, scale_type, { Q3_LT_OP_N, Q3_LT_OP_N }, Q3_LT_EPILOGUE_DEFAULT, nullptr
    };
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmulDescDestroy(q3_lt_desc desc)
{
    delete desc;
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmulDescSetAttribute(q3_lt_desc desc, int attribute, const void *value,
                                                size_t bytes)
{
    switch (attribute) {
    case Q3_LT_DESC_TRANSA:
    case Q3_LT_DESC_TRANSB:
        return set(&desc->transposed[attribute - Q3_LT_DESC_TRANSA], sizeof desc->transposed[0], value,
                   bytes);
    case Q3_LT_DESC_EPILOGUE:
        return set(&desc->epilogue, sizeof desc->epilogue, value, bytes);
    case Q3_LT_DESC_BIAS_POINTER:
        return set(&desc->bias, sizeof desc->bias, value, bytes);
    default:
        return refuse(Q3_LT_INVALID_VALUE, "attribute %d of a product is not emulated", attribute);
    }
}

Q3_LT_EXPORT int cublasLtMatmulPreferenceCreate(q3_lt_preference *out)
{
    *out = new q3_lt_preference_body{ 0, 7, { 256, 256, 256, 256 } };
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmulPreferenceDestroy(q3_lt_preference preference)
{
    delete preference;
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmulPreferenceSetAttribute(q3_lt_preference preference, int attribute,
                                                      const void *value, size_t bytes)
{
    switch (attribute) {
    case Q3_LT_PREFERENCE_WORKSPACE_BYTES:
        return set(&preference->workspace_bytes, sizeof preference->workspace_bytes, value, bytes);
    case Q3_LT_PREFERENCE_REDUCTION_SCHEMES:
        return set(&preference->schemes, sizeof preference->schemes, value, bytes);
    case Q3_LT_PREFERENCE_ALIGNMENT_A:
    case Q3_LT_PREFERENCE_ALIGNMENT_B:
    case Q3_LT_PREFERENCE_ALIGNMENT_C:
    case Q3_LT_PREFERENCE_ALIGNMENT_D:
        return set(&preference->alignment[attribute - Q3_LT_PREFERENCE_ALIGNMENT_A], sizeof(uint32_t), value,
                   bytes);
    default:
        return refuse(Q3_LT_INVALID_VALUE, "preference %d is not emulated", attribute);
    }
}

Q3_LT_EXPORT int cublasLtMatmulAlgoGetHeuristic(q3_lt_handle handle, q3_lt_desc desc, q3_lt_layout a,
                                                q3_lt_layout b, q3_lt_layout c, q3_lt_layout d,
                                                q3_lt_preference preference, int wanted, q3_lt_candidate *out,
                                                int *found)
{
    if (!handle)
        return Q3_LT_NOT_INITIALIZED;
    if (!preference || !out || !found || wanted < 1)
        return refuse(Q3_LT_INVALID_VALUE, "the heuristic lacks an argument");
    problem p = {};
    int status = check(desc, a, b, c, d, &p);
    if (status)
        return status;
    choice chosen = {};
    chosen.magic = MAGIC;
    memcpy(chosen.alignment, preference->alignment, sizeof chosen.alignment);
    chosen.workspace_bytes = p.k >= LONG_SUM && preference->workspace_bytes >= ASKED_BYTES ? ASKED_BYTES : 0;
    chosen.problem = hash_of(*desc, { a, b, d });
    *out = {};
    memcpy(&out->algorithm, &chosen, sizeof chosen);
    out->workspace_bytes = chosen.workspace_bytes;
    out->waves = 1;
    *found = 1;
    return Q3_LT_SUCCESS;
}

Q3_LT_EXPORT int cublasLtMatmul(q3_lt_handle handle, q3_lt_desc desc, const void *alpha, const void *a,
                                q3_lt_layout a_layout, const void *b, q3_lt_layout b_layout, const void *beta,
                                const void *c, q3_lt_layout c_layout, void *d, q3_lt_layout d_layout,
                                const q3_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes,
                                void *stream)
{
    if (!handle)
        return Q3_LT_NOT_INITIALIZED;
    problem p = {};
    int status = check(desc, a_layout, b_layout, c_layout, d_layout, &p);
    if (status)
        return status;
    if (!alpha || !beta || !algorithm)
        return refuse(Q3_LT_INVALID_VALUE, "a product lacks alpha, beta or an algorithm");
    choice chosen;
    memcpy(&chosen, algorithm, sizeof chosen);
    if (chosen.magic != MAGIC || chosen.problem != hash_of(*desc, { a_layout, b_layout, d_layout }))
        return refuse(Q3_LT_INVALID_VALUE, "the algorithm was chosen for another product");
    if (c_layout->ld != d_layout->ld)
        return refuse(Q3_LT_NOT_SUPPORTED, "C and D differ in their rows' distance; that is not emulated");
    if (c != d && *(const float *)beta != 0 && overlap(c, d, d_layout))
        return refuse(Q3_LT_INVALID_VALUE, "D at %p begins or ends within C at %p", d, c);
    if (workspace_bytes < chosen.workspace_bytes || (uintptr_t)workspace % 256 ||
        (workspace_bytes && !workspace) || (workspace_bytes && !q3_emu_is_device(workspace, workspace_bytes)))
        return refuse(Q3_LT_INVALID_VALUE, "workspace of %zu bytes at %p, %u are needed", workspace_bytes,
                      workspace, chosen.workspace_bytes);
    const float scale = *(const float *)alpha, old = *(const float *)beta;
    status = check_pointers(chosen, { a, b, c, d }, { a_layout, b_layout, c_layout, d_layout }, old);
    if (!status)
        status = check_bias(desc, d_layout);
    if (status)
        return status;
    const bool biased = desc->epilogue == Q3_LT_EPILOGUE_BIAS;
    job j = { p,
              a,
              b,
              c,
              biased ? desc->bias : nullptr,
              d,
              workspace,
              a_layout->ld,
              b_layout->ld,
              d_layout->ld,
              a_layout->type,
              d_layout->type,
              desc->transposed[0] == Q3_LT_OP_T,
              desc->transposed[1] == Q3_LT_OP_T,
              scale,
              old,
              chosen.workspace_bytes };
    return q3_emu_enqueue(stream, run, &j, sizeof j) ? Q3_LT_EXECUTION_FAILED : Q3_LT_SUCCESS;
}
