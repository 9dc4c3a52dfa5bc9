/* Ranks played one after the other on the CPU: whatever their number, the sum has the bits of one rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/gradients.h"
#include "train/ranks.h"

enum { N = 37, MOST_RANKS = 8, MOST_WINDOW = 21 };

static float *sum_of_ranks(q3_arena *mem, int64_t window, int ranks)
{
    float *tops = Q3_NEW(mem, float, ranks *(N + 3));
    assert_non_null(tops);
    memset(tops, 0xff, (size_t)ranks * (N + 3) * sizeof *tops); // NaN where a rank has no share
    for (int r = 0; r < ranks; r++) {
        q3_grad_tree tree = { 0 };
        int64_t begin, end;
        q3_ranks_share(&begin, &end, window, r, ranks);
        t_gradients_of(&tree, mem, N, begin, end);
        const float *top = q3_grad_tree_sum(&tree, NULL);
        assert_int_equal(top != NULL, begin < end);
        if (top)
            memcpy(tops + r * (N + 3), top, N * sizeof *top);
    }
    return q3_ranks_add_tops(NULL, tops, N + 3, N, window, ranks);
}

static void any_number_of_ranks_gives_the_same_bits(void **state)
{
    (void)state;
    for (int64_t window = 1; window <= MOST_WINDOW; window++) {
        q3_arena mem;
        q3_grad_tree tree = { 0 };
        assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 30), Q3_OK);
        t_gradients_of(&tree, &mem, N, 0, window);
        const float *one = q3_grad_tree_sum(&tree, NULL);
        for (int ranks = 1; ranks <= MOST_RANKS; ranks++)
            assert_memory_equal(sum_of_ranks(&mem, window, ranks), one, N * sizeof *one);
        q3_arena_destroy(&mem);
    }
}

/* The test would see another order. */
static void the_order_of_the_sum_shows(void **state)
{
    (void)state;
    q3_arena mem;
    q3_grad_tree forwards = { 0 }, shifted = { 0 };
    assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 30), Q3_OK);
    t_gradients_of(&forwards, &mem, N, 0, 8);
    t_gradients_of(&shifted, &mem, N, 1, 8);
    float *sum = q3_grad_tree_sum(&shifted, NULL), first[N];
    t_gradient(first, N, 0);
    for (int i = 0; i < N; i++)
        sum[i] += first[i];
    assert_memory_not_equal(sum, q3_grad_tree_sum(&forwards, NULL), sizeof first);
    q3_arena_destroy(&mem);
}

static void shares_cover_the_window_in_aligned_runs(void **state)
{
    (void)state;
    for (int64_t window = 0; window <= MOST_WINDOW; window++)
        for (int ranks = 1; ranks <= MOST_RANKS; ranks++) {
            int64_t next = 0, run = 0;
            for (int r = 0; r < ranks; r++) {
                int64_t begin, end;
                q3_ranks_share(&begin, &end, window, r, ranks);
                assert_int_equal(begin, next);
                assert_true(end >= begin && end <= window);
                run = r ? run : end - begin;
                assert_true(r == 0 || begin == window || begin % run == 0);
                next = end;
            }
            assert_int_equal(next, window);
        }
}

static void one_rank_exchanges_nothing(void **state)
{
    (void)state;
    q3_arena mem;
    q3_grad_tree tree = { 0 };
    q3_ranks ranks = { .ranks = 1 };
    float *sum;
    assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 30), Q3_OK);
    t_gradients_of(&tree, &mem, N, 0, 3);
    assert_int_equal(q3_ranks_sum(&sum, &ranks, &tree, &mem, 3), Q3_OK);
    assert_ptr_equal(sum, q3_grad_tree_sum(&tree, NULL));
    q3_arena_destroy(&mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_gives_the_same_bits),
        cmocka_unit_test(the_order_of_the_sum_shows),
        cmocka_unit_test(shares_cover_the_window_in_aligned_runs),
        cmocka_unit_test(one_rank_exchanges_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
