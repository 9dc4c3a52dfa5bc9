/* Ranks as threads with a device each; the emulated machine has as many as are asked for, and NCCL's stand-in. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/nccl.h"
#include "tests/support/gradients.h"
#include "train/ranks.h"

enum { N = 40001, MOST = 4, WINDOWS = 6 }; // odd, and more than crosses at a time

static const int64_t windows[WINDOWS] = { 8, 1, 5, 7, 2, 13 };

typedef struct rank {
    q3_cuda *cuda;
    const unsigned char *id;
    int rank, ranks;
    float *sums; /* [WINDOWS, N] on the host */
    char failed[512];
} rank;

static q3_status sum_windows(rank *r, q3_arena *mem, q3_nccl *nccl)
{
    q3_grad_tree tree = { 0 };
    q3_ranks ranks = { .rank = r->rank, .ranks = r->ranks, .nccl = nccl };
    for (int i = 0; i < WINDOWS; i++) {
        int64_t begin, end;
        float *sum;
        q3_ranks_share(&begin, &end, windows[i], r->rank, r->ranks);
        t_gradients_of(&tree, mem, N, begin, end);
        Q3_TRY(q3_ranks_sum(&sum, &ranks, &tree, mem, windows[i]));
        q3_device_read(r->cuda, r->sums + (size_t)i * N, sum, N * sizeof(float));
        Q3_TRY(q3_device_status(r->cuda));
    }
    return Q3_OK;
}

static void *run(void *arg)
{
    rank *r = arg;
    q3_arena mem = { 0 };
    q3_nccl *nccl = NULL;
    q3_status st = q3_device_arena_create(&mem, r->cuda, "test", (size_t)1 << 28);
    if (st == Q3_OK && r->ranks > 1 && !(nccl = q3_nccl_create(r->cuda, r->id, r->rank, r->ranks, r->failed)))
        return NULL;
    if (st == Q3_OK)
        st = sum_windows(r, &mem, nccl);
    if (st != Q3_OK)
        snprintf(r->failed, sizeof r->failed, "%s", q3_error());
    q3_nccl_destroy(nccl);
    q3_arena_destroy(&mem);
    return NULL;
}

/* sums [ranks][WINDOWS, N] */
static void run_ranks(float *sums, int ranks)
{
    rank r[MOST];
    pthread_t threads[MOST];
    unsigned char id[Q3_NCCL_ID];
    char why[Q3_CUDA_SENTENCE] = "";
    if (ranks > 1 && !q3_nccl_id(id, why))
        fail_msg("%s", why);
    for (int i = 0; i < ranks; i++) { // opening is not thread-safe
        r[i] = (rank){ q3_cuda_open(i, why), id, i, ranks, sums + (size_t)i * WINDOWS * N, "" };
        if (!r[i].cuda)
            fail_msg("%s", why);
    }
    for (int i = 0; i < ranks; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run, &r[i]), 0);
    for (int i = 0; i < ranks; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < ranks; i++) {
        if (r[i].failed[0])
            fail_msg("rank %d of %d: %s", i, ranks, r[i].failed);
        q3_cuda_close(r[i].cuda);
    }
}

static int devices(void)
{
    char why[Q3_CUDA_SENTENCE];
    setenv("Q3_CUDA_EMU_DEVICES", "4", 1); // no meaning to a real driver
    return q3_cuda_count(why);
}

static void ranks_of_devices_give_the_same_bits(void **state)
{
    (void)state;
    int n = devices();
    if (!n)
        skip();
    size_t bytes = (size_t)WINDOWS * N * sizeof(float);
    float *one = malloc(bytes), *sums = malloc(MOST * bytes);
    assert_true(one && sums);
    run_ranks(one, 1);
    for (int ranks = 2; ranks <= MOST && ranks <= n; ranks *= 2) {
        memset(sums, 0xff, MOST * bytes);
        run_ranks(sums, ranks);
        for (int i = 0; i < ranks; i++)
            assert_memory_equal(sums + (size_t)i * WINDOWS * N, one, bytes);
    }
    free(sums);
    free(one);
}

static void the_device_adds_as_the_cpu_does(void **state)
{
    (void)state;
    if (!devices())
        skip();
    q3_arena mem;
    float *sums = malloc((size_t)WINDOWS * N * sizeof *sums);
    assert_non_null(sums);
    assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 28), Q3_OK);
    run_ranks(sums, 1);
    for (int i = 0; i < WINDOWS; i++) {
        q3_grad_tree tree = { 0 };
        t_gradients_of(&tree, &mem, N, 0, windows[i]);
        assert_memory_equal(sums + (size_t)i * N, q3_grad_tree_sum(&tree, NULL), N * sizeof *sums);
    }
    q3_arena_destroy(&mem);
    free(sums);
}

static void what_nccl_refuses_is_one_sentence(void **state)
{
    (void)state;
    unsigned char id[Q3_NCCL_ID];
    char why[Q3_CUDA_SENTENCE];
    if (!devices())
        skip();
    q3_cuda *cuda = q3_cuda_open(0, why);
    assert_non_null(cuda);
    assert_true(q3_nccl_id(id, why));
    assert_null(q3_nccl_create(cuda, id, 3, 2, why));
    assert_non_null(strstr(why, "NCCL cannot join as rank 3 of 2 on cuda:0: invalid argument"));
    assert_non_null(strstr(why, "NCCL_DEBUG=INFO"));
    assert_false(q3_cuda_take_failure(cuda, why));
    q3_nccl *alone = q3_nccl_create(cuda, id, 0, 1, why);
    if (!alone)
        fail_msg("%s", why);
    q3_nccl_destroy(alone);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_of_devices_give_the_same_bits),
        cmocka_unit_test(the_device_adds_as_the_cpu_does),
        cmocka_unit_test(what_nccl_refuses_is_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
