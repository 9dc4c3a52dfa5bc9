#include "train/ranks.h"

#include "kernels/add.h"

#if defined(Q3_CUDA)
#include "kernels/nccl.h"
#endif

enum { ALIGN = 4 }; // floats: tops begin at multiples of 16 bytes, as fast exchanges and kernels like it

/* Micro-batches of a full run. */
static int64_t run_of(int64_t window, int ranks)
{
    int64_t run = 1;
    while (run * ranks < window)
        run *= 2;
    return run;
}

void q3_ranks_share(int64_t *begin, int64_t *end, int64_t window, int rank, int ranks)
{
    int64_t run = run_of(window, ranks), first = run * rank, behind = first + run;
    *begin = first < window ? first : window;
    *end = behind < window ? behind : window;
}

static void add(q3_cuda *cuda, float *to, const float *right, int64_t n)
{
    Q3_CALL_ON(cuda, q3_add_forward, (&(q3_add_args){ to, to, right, n, Q3_F32 }));
}

/* As q3_grad_tree does it: pairs of equal size while there are any, then what is left, the smallest first. */
float *q3_ranks_add_tops(q3_cuda *cuda, float *tops, int64_t stride, int64_t n, int64_t window, int ranks)
{
    int64_t run = run_of(window, ranks), full = window / run;
    float *sum = window % run ? tops + full * stride : NULL; // of the run that is cut short
    for (int64_t step = 1; 2 * step <= full; step *= 2)
        for (int64_t i = 0; i + 2 * step <= full; i += 2 * step)
            add(cuda, tops + i * stride, tops + (i + step) * stride, n);
    for (int64_t size = 1; size <= full; size *= 2) {
        if (!(full & size))
            continue;
        float *top = tops + full / (2 * size) * (2 * size) * stride;
        if (sum)
            add(cuda, top, sum, n);
        sum = top;
    }
    return sum;
}

#if defined(Q3_CUDA)

static q3_status gather(q3_ranks *ranks, q3_cuda *cuda)
{
    q3_nccl_gather(ranks->nccl, ranks->tops, ranks->tops + ranks->rank * ranks->stride, ranks->stride);
    return q3_device_status(cuda);
}

#else

static q3_status gather(q3_ranks *ranks, q3_cuda *cuda)
{
    (void)cuda;
    return q3_fail(Q3_ERR_USAGE,
                   "%d ranks: gradients are exchanged between CUDA devices, and this build has no CUDA",
                   ranks->ranks);
}

#endif

q3_status q3_ranks_sum(float **out, q3_ranks *ranks, q3_grad_tree *tree, q3_arena *mem, int64_t window)
{
    float *own = q3_grad_tree_sum(tree, mem->cuda);
    *out = own;
    if (ranks->ranks == 1)
        return Q3_OK;
    ranks->stride = (tree->n + ALIGN - 1) / ALIGN * ALIGN;
    if (!ranks->tops && !(ranks->tops = Q3_NEW(mem, float, ranks->ranks * ranks->stride)))
        return Q3_ERR_MEMORY;
    if (own)
        q3_device_copy(mem->cuda, ranks->tops + ranks->rank * ranks->stride, own,
                       (size_t)tree->n * sizeof(float));
    Q3_TRY(gather(ranks, mem->cuda));
    *out = q3_ranks_add_tops(mem->cuda, ranks->tops, ranks->stride, tree->n, window, ranks->ranks);
    return Q3_OK;
}
