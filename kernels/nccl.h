/* kernels/nccl.h - GPUs that work on one training, a process or thread each: NVIDIA's NCCL, opened at run time
 * (kernels/library.h).
 *
 * Ranks find each other by an id that one of them makes and the others are handed (by MPI, or in memory). Only values
 * are exchanged, never sums: float addition is not associative and NCCL's order is not ours, so what ranks have computed
 * is gathered by all and added by our own kernels (train/ranks.h).
 */
#ifndef Q3_KERNELS_NCCL_H
#define Q3_KERNELS_NCCL_H

#include "kernels/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct q3_nccl q3_nccl;

enum { Q3_NCCL_ID = 128 }; /* bytes of an id */

/* id [Q3_NCCL_ID]; false with one sentence in `why` [Q3_CUDA_SENTENCE] where there is no NCCL, or one too old. */
bool q3_nccl_id(unsigned char *id, char *why);

/* Joins as `rank` of `ranks`; each has a card of its own. Returns when all have joined. NULL with one sentence in `why`
 * [Q3_CUDA_SENTENCE]. Opening the library is not thread-safe: q3_nccl_id or q3_nccl_describe comes before threads do. */
q3_nccl *q3_nccl_create(q3_cuda *cuda, const unsigned char *id, int rank, int ranks, char *why);
void q3_nccl_destroy(q3_nccl *nccl); /* NULL is fine */

/* all [ranks, n]: the own [n] of every rank, in the order of ranks, on cuda->stream; own may be its place in all. Every
 * rank calls it, with the same n. What goes wrong is left with q3_cuda_fail. */
void q3_nccl_gather(q3_nccl *nccl, float *all, const float *own, int64_t n);

/* text [Q3_LIBRARY_TEXT] = version and file, true; or false with one sentence why it cannot be used. Needs no device. */
bool q3_nccl_describe(char *text);

#ifdef __cplusplus
}
#endif

#endif
