#include "train/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "kernels/add.h"

#if defined(Q3_CUDA)
#include "kernels/nccl.h"
#endif

enum {
    ALIGN = 4, // floats: tops begin at multiples of 16 bytes, as fast exchanges and kernels like it
    MOST_RANKS = 256,
};

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

int q3_ranks_agree(const q3_ranks *ranks, int value)
{
    int all[MOST_RANKS] = { value };
    q3_group_gather(ranks->group, all, &value, sizeof value);
    for (int r = 0; r < ranks->ranks; r++)
        value = all[r] > value ? all[r] : value;
    return value;
}

q3_status q3_ranks_share_parts(const q3_ranks *ranks, void *parts, size_t bytes, int64_t window)
{
    size_t sizes[MOST_RANKS];
    int64_t begin, end;
    if (ranks->ranks == 1)
        return Q3_OK;
    for (int r = 0; r < ranks->ranks; r++) {
        q3_ranks_share(&begin, &end, window, r, ranks->ranks);
        sizes[r] = (size_t)(end - begin) * bytes;
    }
    q3_ranks_share(&begin, &end, window, ranks->rank, ranks->ranks);
    void *own = q3_malloc(sizes[ranks->rank] + 1);
    if (!own)
        return Q3_ERR_MEMORY;
    memcpy(own, (char *)parts + (size_t)begin * bytes, sizes[ranks->rank]);
    q3_group_gather_pieces(ranks->group, parts, own, sizes);
    q3_free(own);
    return Q3_OK;
}

#if defined(Q3_CUDA)

static q3_status open_nccl(q3_ranks *ranks, q3_cuda *cuda)
{
    unsigned char id[Q3_NCCL_ID];
    char why[Q3_CUDA_SENTENCE] = "";
    bool ok = ranks->rank || q3_nccl_id(id, why);
    if (!q3_ranks_agree(ranks, ok)) // no rank has made one
        ok = false;
    q3_group_broadcast(ranks->group, id, sizeof id, 0);
    ranks->nccl =
        ok && q3_nccl_describe(why) ? q3_nccl_create(cuda, id, ranks->rank, ranks->ranks, why) : NULL;
    return ranks->nccl ? Q3_OK : q3_fail(Q3_ERR_USAGE, "%d ranks: %s", ranks->ranks, why);
}

static q3_status gather(q3_ranks *ranks, q3_cuda *cuda)
{
    float *own = ranks->tops + ranks->rank * ranks->stride;
    if (cuda)
        q3_nccl_gather(ranks->nccl, ranks->tops, own, ranks->stride);
    else
        q3_group_gather(ranks->group, ranks->tops, own, (size_t)ranks->stride * sizeof *own);
    return q3_device_status(cuda);
}

void q3_ranks_close(q3_ranks *ranks)
{
    q3_nccl_destroy(ranks->nccl);
    *ranks = (q3_ranks){ 0 };
}

#else

static q3_status open_nccl(q3_ranks *ranks, q3_cuda *cuda)
{
    (void)ranks;
    (void)cuda;
    return Q3_OK;
}

static q3_status gather(q3_ranks *ranks, q3_cuda *cuda)
{
    (void)cuda;
    float *own = ranks->tops + ranks->rank * ranks->stride;
    q3_group_gather(ranks->group, ranks->tops, own, (size_t)ranks->stride * sizeof *own);
    return Q3_OK;
}

void q3_ranks_close(q3_ranks *ranks)
{
    *ranks = (q3_ranks){ 0 };
}

#endif

q3_status q3_ranks_open(q3_ranks *out, q3_group *group, q3_cuda *cuda)
{
    *out = (q3_ranks){ .rank = q3_group_rank(group), .ranks = q3_group_size(group), .group = group };
    if (out->ranks > MOST_RANKS)
        return q3_fail(Q3_ERR_LIMIT, "%d ranks; at most %d can train together", out->ranks, MOST_RANKS);
    return cuda && group ? open_nccl(out, cuda) : Q3_OK;
}

const char *q3_ranks_device(char text[16], const q3_group *group, const char *name)
{
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    bool free_choice = strcmp(name, "auto") == 0 || strcmp(name, "cuda") == 0;
    q3_cuda *first;
    if (!group || !free_choice || !local || q3_device_open(&first, name) != Q3_OK || !first)
        return name;
    q3_device_close(first);
    snprintf(text, 16, "cuda:%d", atoi(local));
    return text;
}

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
