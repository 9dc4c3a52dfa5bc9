/* kernels/gemm.cu - matrix products on the device: the weight in the type of the activations, then cuBLASLt.
 *
 *   F32 or BF16 weight of the activations' type     as it lies
 *   trained, with a shadow in bf16                  the shadow as it lies
 *   NF4, FP4, I4                                    q3_nf4_dequantize_cuda into scratch
 *   I8                                              rows by their scale into scratch
 *   other                                           an element a thread into scratch
 *
 * For a few rows (decoding) nt leaves 4-bit and int8 weights to kernels/gemv.cu, which reads them as they are.
 *
 * Training spends its time in products over thousands of rows, for which one more pass over the weight is 1 or 2 %; a
 * resident copy (q3_weight_cache_add) saves that too. Slices of a large weight: nt writes columns of Y, nn adds to all
 * of Y, so there a bf16 Y is rounded once for each 256 MiB of weight.
 *
 * The bias is rounded to the type of Y, which is exact for biases that come from a bf16 checkpoint, and added by
 * cuBLASLt before Y is rounded. An empty sum is left to a kernel here.
 */
#include "kernels/int8.cuh"

extern "C" {
#include "kernels/cublaslt.h"
#include "kernels/gemm.h"
#include "kernels/gemv.h"
#include "kernels/nf4.h"
}

#include <stdlib.h>

enum { PLACES = 4096 }; // of the weight cache, a power of two: 8 times the linear layers of Qwen3-VL-8B

struct cached {
    const void *data; // as stored; NULL: an empty place
    void *copy;       // bf16
};

struct q3_gemm {
    void *scratch;
    size_t scratch_bytes;
    int copies;
    cached places[PLACES];
};

namespace
{

enum { THREADS = 256 };

template <class To, class From> __global__ void convert_each(To *to, const From *from, int64_t n)
{
    for (int64_t i = q3_first(); i < n; i += q3_stride())
        q3_set(&to[i], q3_value(from[i]));
}

template <class To, int N>
__global__ void convert_int8(To *to, const int8_t *codes, const float *absmax, int64_t rows, int64_t cols, int shift)
{
    for (int64_t row = q3_first() >> shift; row < rows; row += q3_stride() >> shift)
        for (int64_t c = q3_lane(shift) * N; c < cols; c += N << shift) {
            float v[N];
            q3_int8_load(v, codes + row * cols + c, absmax[row]);
            q3_store(to + row * cols + c, v);
        }
}

/* y = beta old + bias, [rows, cols]; old may be y. */
template <class T>
__global__ void empty_sum(T *y, const T *old, const float *bias, float beta, int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = q3_first(); i < rows * cols; i += q3_stride()) {
        int64_t col = i % cols, at = i / cols * ld + col;
        q3_set(y + at, (beta != 0 ? beta * q3_value(old[at]) : 0.0f) + (bias ? bias[col] : 0.0f));
    }
}

template <class To> void convert_to(To *to, const q3_weight *w, int64_t first, int64_t n, q3_cuda *cuda)
{
    const unsigned grid = q3_blocks(n, THREADS);
    if (w->dtype == Q3_F16)
        Q3_LAUNCH(cuda, (convert_each<To, q3_f16>), grid, THREADS, 0, to, (const q3_f16 *)w->data + first, n);
    else if (w->dtype == Q3_BF16)
        Q3_LAUNCH(cuda, (convert_each<To, q3_bf16>), grid, THREADS, 0, to, (const q3_bf16 *)w->data + first,
                  n);
    else
        Q3_LAUNCH(cuda, (convert_each<To, float>), grid, THREADS, 0, to, (const float *)w->data + first, n);
}

template <class To, int N>
void int8_to(To *to, const q3_weight *w, int64_t first, int64_t n, q3_cuda *cuda)
{
    const int64_t rows = n / w->block;
    const int shift = q3_row_shift(w->block / N);
    Q3_LAUNCH(cuda, (convert_int8<To, N>), q3_blocks(rows << shift, THREADS), THREADS, 0, to,
              (const int8_t *)w->data + first, w->absmax + first / w->block, rows, (int64_t)w->block, shift);
}

template <class To> void int8_to(To *to, const q3_weight *w, int64_t first, int64_t n, q3_cuda *cuda)
{
    if (q3_wide<To>(w->block, to, w->data))
        int8_to<To, q3_width<To>::elements>(to, w, first, n, cuda);
    else
        int8_to<To, 1>(to, w, first, n, cuda);
}

bool is_4bit(const q3_weight *w)
{
    return q3_is_4bit(w->dtype);
}

/* Elements [first, first + n) of a weight's flat index. 4-bit: first is a multiple of a group of 256 scales; int8: of
 * a row, as n is. */
void convert(void *to, q3_dtype dtype, const q3_weight *w, int64_t first, int64_t n, q3_cuda *cuda)
{
    if (w->dtype == Q3_I8) {
        Q3_BY_TYPE(dtype, T, int8_to((T *)to, w, first, n, cuda));
        return;
    }
    if (!is_4bit(w)) {
        Q3_BY_TYPE(dtype, T, convert_to((T *)to, w, first, n, cuda));
        return;
    }
    const int64_t block = first / w->block;
    q3_nf4_dequantize_args a = {};
    a.w = to;
    a.dtype = dtype;
    a.packed = (const uint8_t *)w->data + first / 2;
    a.absmax = w->absmax ? w->absmax + block : NULL;
    a.nested = w->nested;
    if (!w->absmax) {
        a.nested.codes += block;
        a.nested.scale += block / Q3_NF4_GROUP;
    }
    a.code = w->dtype;
    a.block = w->block;
    a.n = n;
    q3_nf4_dequantize_cuda(&a, cuda);
}

/* The values, where they lie in the type of the activations already; else NULL. */
const void *ready(const q3_weight *w, q3_dtype dtype)
{
    return w->dtype == dtype ? w->data : dtype == Q3_BF16 ? w->half : NULL;
}

/* Rows of a slice: all, where they fit the scratch or need no conversion. Otherwise a multiple of 128, a tile of the
 * product, and for 4-bit weights so many that each slice begins with a group of scales. */
int64_t slice_rows(const q3_weight *w, q3_dtype dtype, int64_t rows, int64_t cols, q3_cuda *cuda)
{
    const int64_t most = Q3_GEMM_SCRATCH_BYTES / (int64_t)q3_dtype_bytes(dtype, cols);
    if (ready(w, dtype) || rows <= most)
        return rows;
    int64_t step = 128;
    while (is_4bit(w) && step * cols % ((int64_t)w->block * Q3_NF4_GROUP))
        step *= 2; // ends: a block is a power of two
    if (most < step)
        q3_cuda_fail(cuda, "a weight of %lld x %lld (blocks of %d) cannot be cut into slices of %d MiB",
                     (long long)rows, (long long)cols, w->block, Q3_GEMM_SCRATCH_BYTES >> 20);
    return most - most % step;
}

q3_gemm *state_of(q3_cuda *cuda)
{
    if (!cuda->gemm)
        cuda->gemm = (q3_gemm *)calloc(1, sizeof *cuda->gemm);
    return cuda->gemm;
}

/* The place of a weight in the cache, or the empty one where it would go. */
cached *place_of(q3_gemm *g, const void *data)
{
    size_t i =
        (size_t)((uint64_t)(uintptr_t)data * 0x9e3779b97f4a7c15u >> 52) % PLACES; // 2^64 / golden ratio
    while (g->places[i].data && g->places[i].data != data)
        i = (i + 1) % PLACES;
    return &g->places[i];
}

/* Rows [first, first + n) in the type of the activations, or NULL: failed. */
const void *operand(const q3_weight *w, q3_dtype dtype, int64_t first, int64_t n, int64_t cols, q3_cuda *cuda)
{
    const size_t begin = q3_dtype_bytes(dtype, first * cols);
    if (ready(w, dtype))
        return (const char *)ready(w, dtype) + begin;
    const cached *c = cuda->gemm && dtype == Q3_BF16 ? place_of(cuda->gemm, w->data) : NULL;
    if (c && c->data)
        return (const char *)c->copy + begin;
    if (!q3_gemm_reserve(cuda, n * cols, dtype)) {
        q3_cuda_fail(cuda, "cuda:%d: no memory left for a converted weight of %lld x %lld", cuda->ordinal,
                     (long long)n, (long long)cols);
        return NULL;
    }
    convert(cuda->gemm->scratch, dtype, w, first * cols, n * cols, cuda);
    return cuda->gemm->scratch;
}

/* The bias in the type of y, in the workspace; NULL where there is none. */
const void *bias_operand(const q3_gemm_nt_args *a, q3_cuda *cuda)
{
    if (!a->bias)
        return NULL;
    if (q3_dtype_bytes(a->dtype, a->N) > cuda->workspace_bytes) {
        q3_cuda_fail(cuda, "cuda:%d: a bias of %lld elements does not fit the workspace of %zu bytes",
                     cuda->ordinal, (long long)a->N, cuda->workspace_bytes);
        return NULL;
    }
    q3_weight bias = {};
    bias.data = a->bias;
    bias.dtype = Q3_F32;
    convert(cuda->workspace, a->dtype, &bias, 0, a->N, cuda);
    return cuda->workspace;
}

void leave_empty_sum(void *y, const void *old, q3_dtype dtype, const float *bias, float beta, int64_t rows,
                     int64_t cols, int64_t ld, q3_cuda *cuda)
{
    const unsigned grid = q3_blocks(rows * cols, THREADS);
    if (rows && cols)
        Q3_BY_TYPE(dtype, T,
                   Q3_LAUNCH(cuda, empty_sum<T>, grid, THREADS, 0, (T *)y, (const T *)(old ? old : y), bias, beta,
                             rows, cols, ld ? ld : cols));
}

/* cuBLASLt works on the current device. */
void multiply(const q3_matmul_args *p, q3_cuda *cuda)
{
    const cudaError_t error = cudaSetDevice(cuda->ordinal);
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: %s", cuda->ordinal, cudaGetErrorString(error));
    else
        q3_cublaslt_matmul(p, cuda);
}

char *at(const void *base, q3_dtype dtype, int64_t elements)
{
    return (char *)(uintptr_t)base + q3_dtype_bytes(dtype, elements);
}

} // namespace

bool q3_gemm_reserve(q3_cuda *cuda, int64_t elements, q3_dtype activations)
{
    q3_gemm *g = state_of(cuda);
    size_t bytes = q3_dtype_bytes(activations, elements);
    if (bytes > Q3_GEMM_SCRATCH_BYTES)
        bytes = Q3_GEMM_SCRATCH_BYTES;
    if (!g || bytes <= g->scratch_bytes)
        return g != NULL;
    q3_cuda_wait(cuda); // products in flight read the old one
    if (g->scratch)
        q3_cuda_free(cuda, g->scratch);
    g->scratch = q3_cuda_alloc(cuda, bytes);
    g->scratch_bytes = g->scratch ? bytes : 0;
    return g->scratch != NULL;
}

bool q3_weight_cache_add(q3_cuda *cuda, const q3_weight *w, int64_t rows, int64_t cols)
{
    q3_gemm *g = state_of(cuda);
    if (w->dtype == Q3_BF16 || rows * cols == 0)
        return true;
    if (!g || g->copies == PLACES / 2)
        return false;
    cached *c = place_of(g, w->data);
    if (c->data)
        return true;
    void *copy = q3_cuda_alloc(cuda, q3_dtype_bytes(Q3_BF16, rows * cols));
    if (!copy)
        return false;
    convert(copy, Q3_BF16, w, 0, rows * cols, cuda);
    c->data = w->data;
    c->copy = copy;
    g->copies++;
    return true;
}

void q3_gemm_close(q3_cuda *cuda)
{
    q3_gemm *g = cuda->gemm;
    if (!g)
        return;
    for (int i = 0; i < PLACES; i++)
        if (g->places[i].data)
            q3_cuda_free(cuda, g->places[i].copy);
    if (g->scratch)
        q3_cuda_free(cuda, g->scratch);
    free(g);
    cuda->gemm = NULL;
}

void q3_gemm_nt_cuda(const q3_gemm_nt_args *a, q3_cuda *cuda)
{
    if (a->K == 0) {
        leave_empty_sum(a->y, a->residual, a->dtype, a->bias, a->beta, a->M, a->N, a->ldy, cuda);
        return;
    }
    if (a->M == 0 || a->N == 0)
        return;
    if (a->M <= Q3_GEMV_ROWS && (is_4bit(&a->w) || a->w.dtype == Q3_I8)) {
        q3_gemv_cuda(a, cuda);
        return;
    }
    const int64_t step = slice_rows(&a->w, a->dtype, a->N, a->K, cuda);
    const void *bias = bias_operand(a, cuda);
    for (int64_t first = 0; step && first < a->N; first += step) {
        const int64_t n = a->N - first < step ? a->N - first : step;
        q3_matmul_args p = {};
        p.c = at(a->y, a->dtype, first);
        p.a = a->x;
        p.b = operand(&a->w, a->dtype, first, n, a->K, cuda);
        p.bias = bias ? at(bias, a->dtype, first) : NULL;
        p.addend = a->residual ? at(a->residual, a->dtype, first) : NULL;
        p.m = a->M, p.n = n, p.k = a->K;
        p.ldc = a->ldy ? a->ldy : a->N;
        p.lda = a->ldx;
        p.b_transposed = true;
        p.in = p.out = a->dtype;
        p.alpha = a->alpha;
        p.beta = a->beta;
        if (!p.b)
            return;
        multiply(&p, cuda);
    }
}

void q3_gemm_nn_cuda(const q3_gemm_nn_args *a, q3_cuda *cuda)
{
    if (a->N == 0) {
        leave_empty_sum(a->y, NULL, a->dtype, NULL, a->beta, a->M, a->K, a->ldy, cuda);
        return;
    }
    if (a->M == 0 || a->K == 0)
        return;
    const int64_t step = slice_rows(&a->w, a->dtype, a->N, a->K, cuda);
    for (int64_t first = 0; step && first < a->N; first += step) {
        const int64_t n = a->N - first < step ? a->N - first : step;
        q3_matmul_args p = {};
        p.c = a->y;
        p.a = at(a->x, a->dtype, first);
        p.b = operand(&a->w, a->dtype, first, n, a->K, cuda);
        p.m = a->M, p.n = a->K, p.k = n;
        p.ldc = a->ldy;
        p.lda = a->ldx ? a->ldx : a->N;
        p.in = p.out = a->dtype;
        p.alpha = a->alpha;
        p.beta = first ? 1 : a->beta;
        if (!p.b)
            return;
        multiply(&p, cuda);
    }
}

void q3_gemm_tn_cuda(const q3_gemm_tn_args *a, q3_cuda *cuda)
{
    if (a->M == 0) {
        leave_empty_sum(a->y, NULL, Q3_F32, NULL, a->beta, a->N, a->K, a->ldy, cuda);
        return;
    }
    q3_matmul_args p = {};
    p.c = a->y;
    p.a = a->x;
    p.b = a->z;
    p.m = a->N, p.n = a->K, p.k = a->M;
    p.ldc = a->ldy;
    p.lda = a->ldx;
    p.ldb = a->ldz;
    p.a_transposed = true;
    p.in = a->dtype;
    p.out = Q3_F32;
    p.alpha = a->alpha;
    p.beta = a->beta;
    multiply(&p, cuda);
}
