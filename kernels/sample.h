/* kernels/sample.h - what generation asks of rows of logits, so that they need not leave the device.
 *
 * Greedy:
 *
 *   token_r = the index of the largest logit of row r, the lowest one on ties      lse_r = log sum_v exp(l_rv)
 *   flawed  = 1 when a logit of any row is NaN or infinite; left alone otherwise
 *
 * As infer/sample.c chooses greedily: a NaN is never the largest, unless it comes first.
 *
 * Candidates, where top-k sampling will draw: v = l / temperature of the logits that can be among the k largest, and a
 * few more, by rising id. infer/sample.c, given these for its row and a temperature of 1, takes the very token that it
 * takes from the whole row: its top-k drops the same ones, and what it drops adds nothing to its sums. Its own sums are
 * in double and in order, which is why the draw itself is left to it.
 *
 * Cost: logits read once, for candidates three times; a block a row.
 */
#ifndef Q3_KERNELS_SAMPLE_H
#define Q3_KERNELS_SAMPLE_H

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_greedy_args {
    int32_t *token;     /* out [R] or NULL */
    double *lse;        /* out [R] or NULL */
    int32_t *flawed;    /* out, one value, or NULL */
    const void *logits; /* [R, V] */
    int64_t R, V;
    q3_dtype dtype; /* of the logits: F32 or BF16 */
} q3_greedy_args;

enum { Q3_CANDIDATES_TOP_K = 1024 };

/* Rows have settings of their own, on the device like all else: a recorded pass (infer/replay.h) reads them anew. */
typedef struct q3_candidates_args {
    float *value;    /* out [R, most] */
    int32_t *id;     /* out [R, most] */
    int32_t *count;  /* out [R]: candidates of the row; where it exceeds `most`, those behind are not written */
    int32_t *flawed; /* out, one value, or NULL; as above */
    const void *logits;       /* [R, V] */
    const float *temperature; /* [R], above 0 */
    const int32_t *top_k;     /* [R], 1 .. Q3_CANDIDATES_TOP_K; with more everything is a candidate */
    int64_t R, V;
    int most;
    q3_dtype dtype; /* of the logits: F32 or BF16 */
} q3_candidates_args;

/* On the device; see kernels/cuda.h. */
void q3_greedy_cuda(const q3_greedy_args *a, q3_cuda *cuda);
void q3_candidates_cuda(const q3_candidates_args *a, q3_cuda *cuda);

#endif
