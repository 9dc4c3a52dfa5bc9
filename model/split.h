/* model/split.h - one model over the ranks of a group (core/group.h), for inference on CPUs.
 *
 *   tensor     each rank has some of the heads and of the MLP's width: q, k, v, gate and up by rows, o and down by columns,
 *              whose products are summed over ranks twice a layer (Shoeybi et al., arXiv:1909.08053)
 *   pipeline   each rank has some of the layers, and hands hidden states on
 *   sequence   each rank has the whole model and takes a part of the tokens of long passes; keys and values are gathered,
 *              so that every rank's cache is whole
 *
 * All ranks run the same passes (infer/mirror.h). Embedding, head and vision tower are computed by each. Weights that lie in
 * mapped files and belong to other ranks are not read; quantizing while loading, and slices that cut through blocks of 4
 * bits, cost memory on each rank all the same.
 *
 * When it pays: tensor and pipeline where a model does not fit into one machine, over a fast network (a pass moves 2 T C
 * floats a layer, or T C in all); tensor also where machines have memory bandwidth of their own, which decoding is
 * bound by. Sequence for prompts of thousands of tokens. Never on one machine whose threads one process keeps busy.
 */
#ifndef Q3_MODEL_SPLIT_H
#define Q3_MODEL_SPLIT_H

#include "core/tape.h"
#include "model/adapters.h"

/* Cuts the model for this rank, and adapters (NULL: none) that are loaded already. Slices that need memory take it from
 * `values`, headers from `mem`. A group of NULL leaves the model whole. Errors: Q3_ERR_USAGE (heads or width that the
 * ranks do not divide, fewer layers than ranks, deepstack layers beyond the first rank's, a CUDA device), Q3_ERR_MEMORY. */
q3_status q3_model_split(q3_model *m, q3_adapters *adapters, q3_arena *mem, q3_arena *values,
                         q3_split_kind kind, q3_group *group);

/* Passes of fewer tokens are not worth being cut: every rank runs them whole. */
enum { Q3_SPLIT_TOKENS = 32 };

/* Rows [begin, end) of T that are a rank's. */
void q3_split_rows(int64_t *begin, int64_t *end, int64_t T, int rank, int ranks);

/* y = the sum of all ranks' y, in place. */
void q3_split_sum(q3_ctx *ctx, const q3_split *s, q3_tensor *y);

/* [T, C]: every rank's rows of x, which has this rank's. */
q3_tensor *q3_split_gather(q3_ctx *ctx, const q3_split *s, const q3_tensor *x, int64_t T);

/* Hidden states [T, C]: from the rank before; to the rank behind, or from the last to all. */
q3_tensor *q3_split_receive(q3_ctx *ctx, const q3_split *s, int64_t T, int64_t C);
void q3_split_hand_on(q3_ctx *ctx, const q3_split *s, q3_tensor *x);

#endif
