#include "tests/support/gradients.h"

#include <math.h>

void t_gradient(float *out, int64_t n, int64_t index)
{
    uint64_t x = (uint64_t)index * 0x9e3779b97f4a7c15u + 1; // xorshift64 (Marsaglia 2003)
    for (int64_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out[i] = ldexpf((float)(int32_t)(x >> 32), -31 + (int)(x & 7));
    }
}

void t_gradients_of(q3_grad_tree *tree, q3_arena *mem, int64_t n, int64_t begin, int64_t end)
{
    q3_trainable trainable = { .n = n }; // no tensors: gradients are written as a whole
    float *gradient = q3_malloc((size_t)n * sizeof *gradient);
    Q3_CHECK(gradient && q3_grad_tree_begin(tree, mem, &trainable) == Q3_OK, "%s", q3_error());
    for (int64_t i = begin; i < end; i++) {
        t_gradient(gradient, n, i);
        q3_device_write(mem->cuda, tree->current, gradient, (size_t)n * sizeof *gradient);
        q3_status st = q3_grad_tree_push(tree, mem, &trainable);
        Q3_CHECK(st == Q3_OK, "%s", q3_error());
    }
    q3_free(gradient);
}
