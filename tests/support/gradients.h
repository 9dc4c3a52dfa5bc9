/* tests/support/gradients.h - made-up gradients of micro-batches, for tests of their sum. */
#ifndef Q3_TESTS_SUPPORT_GRADIENTS_H
#define Q3_TESTS_SUPPORT_GRADIENTS_H

#include "train/trainer.h"

/* out [n] of micro-batch `index`, of magnitudes so different that the order of a sum shows in its bits. */
void t_gradient(float *out, int64_t n, int64_t index);

/* A tree that begins and takes the micro-batches [begin, end); any failure stops the program. */
void t_gradients_of(q3_grad_tree *tree, q3_arena *mem, int64_t n, int64_t begin, int64_t end);

#endif
