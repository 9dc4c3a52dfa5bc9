#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/arena.h"
#include "core/rng.h"
#include "infer/kvcache.h"

enum { BLOCKS = 6 };

static q3_block_name named(int i)
{
    q3_block_name name;
    memset(name.hash, 0, sizeof name.hash);
    name.hash[0] = 7; // all in one bucket
    name.hash[Q3_SHA256_BYTES - 1] = (unsigned char)i;
    return name;
}

static q3_kvcache *create(int32_t blocks)
{
    q3_kvcache *c;
    assert_int_equal(q3_kvcache_create(&c, blocks), Q3_OK);
    assert_int_equal(q3_kvcache_free(c), blocks);
    return c;
}

static void every_block_is_taken_once(void **state)
{
    (void)state;
    q3_kvcache *c = create(BLOCKS);
    bool seen[BLOCKS] = { false };
    for (int i = 0; i < BLOCKS; i++) {
        int32_t b = q3_kvcache_take(c);
        assert_true(b >= 0 && b < BLOCKS && !seen[b]);
        assert_int_equal(q3_kvcache_users(c, b), 1);
        seen[b] = true;
    }
    assert_int_equal(q3_kvcache_take(c), -1);
    for (int i = 0; i < BLOCKS; i++)
        q3_kvcache_release(c, i);
    assert_int_equal(q3_kvcache_free(c), BLOCKS);
    q3_kvcache_destroy(c);
}

static void a_block_is_free_when_its_last_user_has_gone(void **state)
{
    (void)state;
    q3_kvcache *c = create(BLOCKS);
    int32_t b = q3_kvcache_take(c);
    q3_kvcache_share(c, b);
    q3_kvcache_share(c, b);
    for (int left = 2; left >= 0; left--) {
        assert_int_equal(q3_kvcache_free(c), BLOCKS - 1);
        q3_kvcache_release(c, b);
        assert_int_equal(q3_kvcache_users(c, b), left);
    }
    assert_int_equal(q3_kvcache_free(c), BLOCKS);
    q3_kvcache_destroy(c);
}

static void named_blocks_are_found_until_they_are_taken_again(void **state)
{
    (void)state;
    q3_kvcache *c = create(BLOCKS);
    int32_t block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        const q3_block_name name = named(i);
        block[i] = q3_kvcache_take(c);
        assert_int_equal(q3_kvcache_find(c, &name), -1);
        q3_kvcache_name(c, block[i], &name);
        assert_int_equal(q3_kvcache_find(c, &name), block[i]);
    }
    for (int i = BLOCKS - 1; i >= 0; i--)
        q3_kvcache_release(c, block[i]);
    for (int taken = 0; taken < BLOCKS; taken++) { // ends go first
        for (int i = 0; i < BLOCKS; i++) {
            const q3_block_name name = named(i);
            assert_int_equal(q3_kvcache_find(c, &name), i < BLOCKS - taken ? block[i] : -1);
        }
        assert_int_equal(q3_kvcache_take(c), block[BLOCKS - 1 - taken]);
    }
    q3_kvcache_destroy(c);
}

static void a_found_block_is_used_again_and_not_taken(void **state)
{
    (void)state;
    q3_kvcache *c = create(BLOCKS);
    const q3_block_name name = named(1);
    int32_t b = q3_kvcache_take(c);
    q3_kvcache_name(c, b, &name);
    q3_kvcache_release(c, b);
    q3_kvcache_share(c, q3_kvcache_find(c, &name));
    assert_int_equal(q3_kvcache_free(c), BLOCKS - 1);
    for (int i = 1; i < BLOCKS; i++)
        assert_int_not_equal(q3_kvcache_take(c), b);
    assert_int_equal(q3_kvcache_take(c), -1);
    assert_int_equal(q3_kvcache_find(c, &name), b);
    q3_kvcache_destroy(c);
}

static void nameless_blocks_are_taken_before_named_ones(void **state)
{
    (void)state;
    q3_kvcache *c = create(3);
    const q3_block_name name = named(1), other = named(2);
    int32_t a = q3_kvcache_take(c), b = q3_kvcache_take(c), nameless = q3_kvcache_take(c);
    q3_kvcache_name(c, a, &name);
    q3_kvcache_name(c, b, &other);
    q3_kvcache_release(c, a);
    q3_kvcache_release(c, nameless);
    q3_kvcache_release(c, b);
    assert_int_equal(q3_kvcache_take(c), nameless);
    assert_int_equal(q3_kvcache_take(c), a);
    assert_int_equal(q3_kvcache_take(c), b);
    q3_kvcache_destroy(c);
}

static void a_name_belongs_to_the_first_that_has_it(void **state)
{
    (void)state;
    q3_kvcache *c = create(BLOCKS);
    const q3_block_name name = named(1);
    int32_t a = q3_kvcache_take(c), b = q3_kvcache_take(c);
    q3_kvcache_name(c, a, &name);
    q3_kvcache_name(c, b, &name);
    assert_int_equal(q3_kvcache_find(c, &name), a);
    assert_false(q3_kvcache_named(c, b));
    q3_kvcache_unname(c, a);
    assert_int_equal(q3_kvcache_find(c, &name), -1);
    q3_kvcache_name(c, b, &name);
    assert_int_equal(q3_kvcache_find(c, &name), b);
    q3_kvcache_destroy(c);
}

/* Against counting: users of each block, and where each name is. */
static void counts_and_names_hold_in_any_order(void **state)
{
    (void)state;
    enum { N = 13, NAMES = 20, STEPS = 20000 };
    q3_kvcache *c = create(N);
    int users[N] = { 0 }, name_of[N], block_of[NAMES], used = 0;
    memset(name_of, 0xff, sizeof name_of);
    memset(block_of, 0xff, sizeof block_of);
    const q3_random r = { 5, Q3_RANDOM_TEST, 0, 0 };
    for (uint32_t step = 0; step < STEPS; step++) {
        int what = (int)q3_random_below(&r, 4 * (uint64_t)step, 4);
        int32_t b = (int32_t)q3_random_below(&r, 4 * (uint64_t)step + 1, N);
        int k = (int)q3_random_below(&r, 4 * (uint64_t)step + 2, NAMES);
        const q3_block_name name = named(k);
        if (what == 0 && used < N) {
            b = q3_kvcache_take(c);
            assert_true(b >= 0 && users[b] == 0);
            if (name_of[b] >= 0)
                block_of[name_of[b]] = -1;
            name_of[b] = -1;
            users[b] = 1;
        } else if (what == 1 && users[b]) {
            q3_kvcache_release(c, b);
            users[b]--;
        } else if (what == 2 && q3_kvcache_find(c, &name) >= 0) {
            b = q3_kvcache_find(c, &name);
            q3_kvcache_share(c, b);
            users[b]++;
        } else if (what == 3 && users[b]) {
            q3_kvcache_name(c, b, &name);
            if (block_of[k] < 0) {
                if (name_of[b] >= 0)
                    block_of[name_of[b]] = -1;
                name_of[b] = k;
                block_of[k] = b;
            }
        }
        used = 0;
        for (int i = 0; i < N; i++) {
            used += users[i] > 0;
            assert_int_equal(q3_kvcache_users(c, i), users[i]);
        }
        assert_int_equal(q3_kvcache_free(c), N - used);
        assert_int_equal(q3_kvcache_find(c, &name), block_of[k]);
    }
    for (int i = 0; i < N; i++)
        for (; users[i]; users[i]--)
            q3_kvcache_release(c, i);
    assert_int_equal(q3_kvcache_free(c), N);
    q3_kvcache_destroy(c);
}

static void a_failing_allocation_is_an_error(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 3; n++) {
        q3_kvcache *c;
        q3_heap_fail_at(n);
        assert_int_equal(q3_kvcache_create(&c, BLOCKS), Q3_ERR_MEMORY);
        q3_heap_fail_at(0);
        assert_null(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_is_taken_once),
        cmocka_unit_test(a_block_is_free_when_its_last_user_has_gone),
        cmocka_unit_test(named_blocks_are_found_until_they_are_taken_again),
        cmocka_unit_test(a_found_block_is_used_again_and_not_taken),
        cmocka_unit_test(nameless_blocks_are_taken_before_named_ones),
        cmocka_unit_test(a_name_belongs_to_the_first_that_has_it),
        cmocka_unit_test(counts_and_names_hold_in_any_order),
        cmocka_unit_test(a_failing_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
