/* kernels/cublaslt.h - matrix products by NVIDIA's cuBLASLt, which is opened at run time (kernels/library.h).
 *
 *   C[m, n] = beta C + alpha op(A)[m, k] op(B)[k, n] + bias[n]      row-major, rows ld apart; beta may take another
 *                                                                  array than C
 *
 * cuBLASLt is column-major: a row-major matrix is its transpose there, so C' = op(B)' op(A)' is what it is asked for.
 *
 *   types of A and B, of C    sums
 *   f32, f32                  f32, never TF32
 *   bf16, bf16                f32, rounded once when C is written
 *   bf16, f32                 f32
 *
 * Same inputs, same bits (on one model of card with one version of the library): the first algorithm that cuBLASLt's
 * heuristic names is taken, nothing is timed; parts of a split sum are added in a fixed order, in f32 (reduction
 * schemes NONE and COMPUTE_TYPE); the workspace has one size everywhere. Pointers count as aligned to at most 16 bytes,
 * all that tensor cores ask for, so that the choice does not depend on where an arena has put a matrix.
 *
 * Algorithms are kept by shape, with their descriptors: a shape seen before allocates nothing, on host or device. The
 * table is 8 ways wide; what was used longest ago makes room.
 */
#ifndef Q3_KERNELS_CUBLASLT_H
#define Q3_KERNELS_CUBLASLT_H

#include "kernels/cuda.h"
#include "kernels/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct q3_matmul_args {
    void *c;               /* [m, n] */
    const void *a;         /* [m, k], or [k, m] if a_transposed */
    const void *b;         /* [k, n], or [n, k] if b_transposed */
    const void *bias;      /* [n] of c's type, aligned to 16 bytes; or NULL */
    const void *addend;    /* [m, n] of c's type, rows ldc apart: what beta multiplies; NULL: c */
    int64_t m, n, k;       /* m or n of 0: nothing is done; k at least 1 */
    int64_t ldc, lda, ldb; /* elements from row to row, as stored; 0: dense */
    bool a_transposed, b_transposed;
    q3_dtype in, out;  /* F32 or BF16: of a and b, of c */
    float alpha, beta; /* beta 0: c is not read */
} q3_matmul_args;

/* Opens the library and its handle on cuda's device, which is the current one; NULL with one sentence in `why`
 * [Q3_CUDA_SENTENCE]. Takes 32 MiB of the device for itself: cuda->workspace stays the caller's. */
struct q3_cublaslt *q3_cublaslt_create(q3_cuda *cuda, char *why);
void q3_cublaslt_destroy(struct q3_cublaslt *lt); /* NULL is fine */

/* text [Q3_LIBRARY_TEXT] = version and file, true; or false with one sentence why it cannot be used. Needs no device. */
bool q3_cublaslt_describe(char *text);

/* On cuda->stream, through cuda->cublaslt; what goes wrong is left with q3_cuda_fail. */
void q3_cublaslt_matmul(const q3_matmul_args *a, q3_cuda *cuda);

#ifdef __cplusplus
}
#endif

#endif
