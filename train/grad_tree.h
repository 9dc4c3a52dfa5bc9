/* train/grad_tree.h - the gradient of a window as a sum in fixed order.
 *
 * Micro-batch gradients are added by a fixed binary tree over their index in the window, so that the sum does not depend
 * on how the window is spread over machines (train/ranks.h): level l holds the sum of 2^l micro-batches.
 */
#ifndef Q3_TRAIN_GRAD_TREE_H
#define Q3_TRAIN_GRAD_TREE_H

#include "model/trainable.h"

enum { Q3_TREE_LEVELS = 32 };

typedef struct q3_grad_tree {
    float *level[Q3_TREE_LEVELS]; /* [n] each, made when first needed */
    bool full[Q3_TREE_LEVELS];
    float *current; /* what backward adds to */
    int64_t n;
    int64_t count; /* micro-batches of the window so far */
} q3_grad_tree;

/* Clears the tree for a new window; binds the model's gradients to its current buffer. Buffers lie in `mem`, on the
 * device. */
q3_status q3_grad_tree_begin(q3_grad_tree *tree, q3_arena *mem, q3_trainable *trainable);
/* The current buffer joins the tree and is replaced by a zeroed one. */
q3_status q3_grad_tree_push(q3_grad_tree *tree, q3_arena *mem, q3_trainable *trainable);
/* Bytes of the buffers that a window of as many micro-batches will make besides. */
size_t q3_grad_tree_growth(const q3_grad_tree *tree, int64_t pushes);
/* The sum of the window; valid until the next begin. */
float *q3_grad_tree_sum(q3_grad_tree *tree, q3_cuda *cuda);

#endif
