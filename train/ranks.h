/* train/ranks.h - a window's gradient when its micro-batches are spread over ranks (processes with a GPU each).
 *
 * The sum over a window is a fixed binary tree over the micro-batches' index in it (q3_grad_tree). Every rank owns an
 * aligned run of 2^k of them, the smallest power of two that lets all ranks together cover the window, and adds its own
 * subtree. The tops are gathered by all ranks and added in the order of the tree by each, so any number of ranks gives the
 * bits of one rank, on every rank. The last run may be cut short and later ranks may have none: windows that are a power of
 * two times the number of ranks leave nobody idle.
 */
#ifndef Q3_TRAIN_RANKS_H
#define Q3_TRAIN_RANKS_H

#include "core/device.h"
#include "core/group.h"
#include "train/grad_tree.h"

struct q3_nccl;

typedef struct q3_ranks {
    int rank, ranks;
    q3_group *group;      /* borrowed; NULL where there is one rank */
    struct q3_nccl *nccl; /* of GPUs; NULL on the CPU, whose values go through the group */
    float *tops;          /* [ranks, stride], made when first needed */
    int64_t stride;
} q3_ranks;

/* The ranks of a group, which meet here once; with a device of each their GPUs find each other too. Errors: Q3_ERR_USAGE
 * (no NCCL). */
q3_status q3_ranks_open(q3_ranks *out, q3_group *group, q3_cuda *cuda);
void q3_ranks_close(q3_ranks *ranks);

/* "cuda:1" for the second rank of this machine where the config says "auto" or "cuda" and there is a group of CUDA devices;
 * otherwise the name itself. In `text` [16] where it is made. */
const char *q3_ranks_device(char text[16], const q3_group *group, const char *name);

/* The largest of all ranks' values. */
int q3_ranks_agree(const q3_ranks *ranks, int value);

/* Every micro-batch's part of the window, from the rank that has run it: parts [window] of `bytes` each. */
q3_status q3_ranks_share_parts(const q3_ranks *ranks, void *parts, size_t bytes, int64_t window);

/* Micro-batches [*begin, *end) of the window are this rank's; none when they are equal. */
void q3_ranks_share(int64_t *begin, int64_t *end, int64_t window, int rank, int ranks);

/* *out = the gradient of the window, from trees that hold every rank's share; valid until the next begin of the tree, or
 * the next sum. All ranks call it. Buffers lie in `mem`, on the device. Errors: Q3_ERR_MEMORY, Q3_ERR_FAIL (the
 * exchange). */
q3_status q3_ranks_sum(float **out, q3_ranks *ranks, q3_grad_tree *tree, q3_arena *mem, int64_t window);

/* The second half: tops [ranks, stride], of which n values count, are added in place; where the sum lies is returned. Tops
 * of ranks without a share are not read. */
float *q3_ranks_add_tops(q3_cuda *cuda, float *tops, int64_t stride, int64_t n, int64_t window, int ranks);

#endif
