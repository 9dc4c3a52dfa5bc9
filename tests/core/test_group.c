/* core/group.h, alone and, when mpirun has started the test, over its ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/group.h"

static q3_group *group;

static int join(void **state)
{
    (void)state;
    return q3_group_join(&group) != Q3_OK;
}

static int leave(void **state)
{
    (void)state;
    q3_group_leave(group);
    return 0;
}

static void ranks_count_from_zero(void **state)
{
    (void)state;
    int rank = q3_group_rank(group), size = q3_group_size(group);
    assert_in_range(rank, 0, size - 1);
    int all[64] = { 0 };
    assert_in_range(size, 1, 64);
    q3_group_gather(group, all, &rank, sizeof rank);
    for (int r = 0; r < size; r++)
        assert_int_equal(all[r], r);
}

static void sums_are_added_in_order_of_ranks(void **state)
{
    (void)state;
    enum { N = 1000 };
    float x[N], expected[N];
    int size = q3_group_size(group);
    for (int i = 0; i < N; i++) {
        expected[i] = 0.1f * (float)i;
        for (int r = 1; r < size; r++)
            expected[i] += 0.1f * (float)i + 1.0f / 3 * (float)r;
        x[i] = 0.1f * (float)i + (q3_group_rank(group) ? 1.0f / 3 * (float)q3_group_rank(group) : 0);
    }
    assert_int_equal(q3_group_sum(group, x, N), Q3_OK);
    assert_memory_equal(x, expected, sizeof x);
}

static void a_broadcast_reaches_all(void **state)
{
    (void)state;
    int last = q3_group_size(group) - 1;
    char word[8] = "nothing";
    if (q3_group_rank(group) == last)
        strcpy(word, "all of");
    q3_group_broadcast(group, word, sizeof word, last);
    assert_string_equal(word, "all of");
}

static void pieces_of_different_sizes_lie_end_to_end(void **state)
{
    (void)state;
    int size = q3_group_size(group), rank = q3_group_rank(group);
    size_t bytes[64], all = 0;
    char out[64 * 64] = { 0 }, own[64];
    for (int r = 0; r < size; r++)
        all += bytes[r] = (size_t)r; // the first has none
    memset(own, 'a' + rank, sizeof own);
    q3_group_gather_pieces(group, out, own, bytes);
    char *at = out;
    for (int r = 0; r < size; r++)
        for (int i = 0; i < r; i++)
            assert_int_equal(*at++, 'a' + r);
    assert_int_equal(at - out, all);
}

static void messages_come_in_order(void **state)
{
    (void)state;
    int size = q3_group_size(group), rank = q3_group_rank(group), got[2] = { 0, 0 };
    if (size == 1)
        return;
    if (rank == 0) {
        q3_group_send(group, &(int){ 11 }, sizeof(int), size - 1);
        q3_group_send(group, &(int){ 22 }, sizeof(int), size - 1);
    } else if (rank == size - 1) {
        q3_group_receive(group, &got[0], sizeof(int), 0);
        q3_group_receive(group, &got[1], sizeof(int), 0);
        assert_int_equal(got[0], 11);
        assert_int_equal(got[1], 22);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_count_from_zero),   cmocka_unit_test(sums_are_added_in_order_of_ranks),
        cmocka_unit_test(a_broadcast_reaches_all), cmocka_unit_test(pieces_of_different_sizes_lie_end_to_end),
        cmocka_unit_test(messages_come_in_order),
    };
    return cmocka_run_group_tests(tests, join, leave);
}
