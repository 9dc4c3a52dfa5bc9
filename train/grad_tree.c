#include "train/grad_tree.h"

#include <string.h>

#include "kernels/add.h"

static float *fresh(q3_grad_tree *tree, q3_arena *mem)
{
    float *p = Q3_NEW(mem, float, tree->n + 1);
    return p;
}

q3_status q3_grad_tree_begin(q3_grad_tree *tree, q3_arena *mem, q3_trainable *trainable)
{
    tree->n = trainable->n;
    tree->count = 0;
    memset(tree->full, 0, sizeof tree->full);
    if (!tree->current && !(tree->current = fresh(tree, mem)))
        return Q3_ERR_MEMORY;
    if (!mem->dry)
        q3_device_fill(mem->cuda, tree->current, 0, (size_t)tree->n * sizeof(float));
    q3_trainable_bind(trainable, tree->current);
    return Q3_OK;
}

size_t q3_grad_tree_growth(const q3_grad_tree *tree, int64_t pushes)
{
    size_t buffers = 0;
    for (int level = 0; level < Q3_TREE_LEVELS && pushes >> level; level++)
        buffers += !tree->level[level];
    return buffers * (size_t)tree->n * sizeof(float);
}

static void add(q3_cuda *cuda, float *to, const float *left, const float *right, int64_t n)
{
    Q3_CALL_ON(cuda, q3_add_forward, (&(q3_add_args){ to, left, right, n, Q3_F32 }));
}

q3_status q3_grad_tree_push(q3_grad_tree *tree, q3_arena *mem, q3_trainable *trainable)
{
    int level = 0;
    for (; tree->full[level]; level++) { // as in counting: two of a kind make one of the next
        add(mem->cuda, tree->level[level], tree->level[level], tree->current, tree->n);
        float *sum = tree->level[level];
        tree->level[level] = tree->current;
        tree->current = sum;
        tree->full[level] = false;
    }
    float *spare = tree->level[level] ? tree->level[level] : fresh(tree, mem);
    if (!spare)
        return Q3_ERR_MEMORY;
    tree->level[level] = tree->current;
    tree->full[level] = true;
    tree->current = spare;
    tree->count++;
    q3_device_fill(mem->cuda, spare, 0, (size_t)tree->n * sizeof(float));
    q3_trainable_bind(trainable, spare);
    return Q3_OK;
}

float *q3_grad_tree_sum(q3_grad_tree *tree, q3_cuda *cuda)
{
    float *sum = NULL;
    for (int level = 0; level < Q3_TREE_LEVELS; level++) {
        if (!tree->full[level])
            continue;
        if (sum)
            add(cuda, tree->level[level], tree->level[level], sum, tree->n);
        sum = tree->level[level];
    }
    return sum;
}
