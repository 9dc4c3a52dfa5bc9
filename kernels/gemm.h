/* kernels/gemm.h - matrix products with f32 activations and weights in the form they are stored in.
 *
 *   nt   Y[M, N] = beta Y + alpha X[M, K] W[N, K]' + bias[N]     forward of a linear layer
 *   nn   Y[M, K] = beta Y + alpha X[M, N] W[N, K]                the gradient of its input
 *   tn   Y[N, K] = beta Y + alpha X[M, N]' Z[M, K]               the gradient of its weight
 *
 * Y is not read where beta is 0 and must not overlap an input. An empty sum leaves beta Y + bias. On the right
 * side nt may take another array than Y, the residual: what a branch of the network is added to.
 *
 * Fast levels: blocks of W (256 columns of Y by up to 256 terms of the sum) are converted to f32 and laid out
 * in panels that lie in the L2 cache; a strip of X is copied beside them, and a kernel of GNU vectors holds a
 * tile of Y in registers (6x8 portable, 6x16 AVX2, 14x32 AVX-512), after Goto and van de Geijn, "Anatomy of
 * high-performance matrix multiplication" (2008). 4-bit weights are looked up a register at a time while they
 * are laid out. For a few rows (decoding) nt reads W once, in its own order, and forms scalar products
 * instead.
 *
 * Order of the sum: terms one after the other within a block of the sum, blocks one after the other; the
 * blocks depend on the length of the sum alone. So the bits of a row of Y depend neither on the number of
 * threads nor, within either of the two ways (up to Q3_GEMM_FEW rows, or more), on the other rows.
 *
 * nt on one thread of an AMD EPYC (Zen 5, VM, gcc 12), GFLOP/s, f32 / bf16 / nf4 (tests/bench/bench_gemm.c):
 *
 *   M    N    K          portable            AVX2              AVX-512
 *   770  128  128     35 /  35 /  35    120 / 119 / 118    228 / 231 / 229
 *   770   16  128     32 /  32 /  32    101 / 102 / 100    169 / 182 / 170
 *   512 2048 2048     33 /  33 /  32    113 / 112 / 111    215 / 212 / 212
 *     8 2048 2048     37 /  45 /  26     64 /  75 /  66     86 / 108 /  96
 *     1 2048 2048     26 /  21 /   6     28 /  30 /  21     30 /  41 /  26
 */
#ifndef Q3_KERNELS_GEMM_H
#define Q3_KERNELS_GEMM_H

#include <stdbool.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"

enum {
    Q3_GEMM_FEW = 16,      /* nt: as many rows go through scalar products */
    Q3_GEMM_TERMS = 256,   /* most terms of a sum that are added before Y is touched */
    Q3_GEMM_COLUMNS = 256, /* columns of Y that a block of W covers */
};

typedef struct q3_gemm_nt_args {
    void *y;              /* [M, N], rows ldy apart */
    const void *x;        /* [M, K], rows ldx apart */
    q3_weight w;          /* [N, K] */
    const float *bias;    /* [N] or NULL */
    const void *residual; /* [M, N], rows ldy apart: what beta multiplies instead of y; NULL: y */
    int64_t M, N, K;
    int64_t ldy, ldx; /* 0: dense */
    float alpha, beta;
    q3_dtype dtype; /* of x and y; the bias is f32 */
} q3_gemm_nt_args;

typedef struct q3_gemm_nn_args {
    void *y;       /* [M, K], rows ldy apart */
    const void *x; /* [M, N], rows ldx apart */
    q3_weight w;   /* [N, K] */
    int64_t M, N, K;
    int64_t ldy, ldx; /* 0: dense */
    float alpha, beta;
    q3_dtype dtype; /* of x and y */
} q3_gemm_nn_args;

typedef struct q3_gemm_tn_args {
    float *y;      /* [N, K], rows ldy apart: a parameter's gradient, always f32 */
    const void *x; /* [M, N], rows ldx apart */
    const void *z; /* [M, K], rows ldz apart */
    int64_t M, N, K;
    int64_t ldy, ldx, ldz; /* 0: dense */
    float alpha, beta;
    q3_dtype dtype; /* of x and z */
} q3_gemm_tn_args;

void q3_gemm_nt_cpu(const q3_gemm_nt_args *a);
void q3_gemm_nn_cpu(const q3_gemm_nn_args *a);
void q3_gemm_tn_cpu(const q3_gemm_tn_args *a);

Q3_DECLARE_SIMD(q3_gemm_nt, q3_gemm_nt_args);
Q3_DECLARE_SIMD(q3_gemm_nn, q3_gemm_nn_args);
Q3_DECLARE_SIMD(q3_gemm_tn, q3_gemm_tn_args);

/* out[i] = element (row, begin + i) of a weight with `cols` columns, i < n, as f32. */
void q3_weight_row(float *out, const q3_weight *w, int64_t row, int64_t cols, int64_t begin, int64_t n);

/* Scratch of the fast levels; each thread has its own. */
typedef struct q3_gemm_scratch {
    float panels[Q3_GEMM_COLUMNS * Q3_GEMM_TERMS]; /* of W, as the kernel reads it */
    float strip[16 * (Q3_GEMM_TERMS + 16)];        /* of X */
    float rows[8 * Q3_GEMM_TERMS];                 /* rows of W, converted */
    float few[Q3_GEMM_FEW * Q3_GEMM_TERMS];        /* rows of X, filled up with zeros */
    float tile[16 * 32];                           /* a tile of Y at an edge */
} q3_gemm_scratch;
q3_gemm_scratch *q3_gemm_own_scratch(void);

/* On the device; see kernels/cuda.h. */
void q3_gemm_nt_cuda(const q3_gemm_nt_args *a, q3_cuda *cuda);
void q3_gemm_nn_cuda(const q3_gemm_nn_args *a, q3_cuda *cuda);
void q3_gemm_tn_cuda(const q3_gemm_tn_args *a, q3_cuda *cuda);

/* A weight whose stored type is not that of the activations is converted in front of the product, into scratch that
 * belongs to the device: at most so many bytes (the largest layer of Qwen3-VL-8B, gate and up together, is 201 MB in
 * bf16); a larger weight is converted and multiplied in slices of rows, cut by its shape alone. */
enum { Q3_GEMM_SCRATCH_BYTES = 256 << 20 };

/* Makes the scratch large enough for a weight of `elements`; false when the device has no memory left. Products call it
 * themselves, but who records (q3_cuda_record_begin) or plans memory calls it before. */
bool q3_gemm_reserve(q3_cuda *cuda, int64_t elements, q3_dtype activations);

/* Keeps a bf16 copy of a weight [rows, cols] on the device, which products with bf16 activations read from then on,
 * with the same bits as without: found by w->data, which must stay as it is. False when the device has no memory left
 * (nothing has changed then). Nothing to do, and true, for bf16 weights. */
bool q3_weight_cache_add(q3_cuda *cuda, const q3_weight *w, int64_t rows, int64_t cols);

/* Frees the scratch and the copies; called before the device is closed. */
void q3_gemm_close(q3_cuda *cuda);

#endif
