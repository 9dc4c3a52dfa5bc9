#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "kernels/pool.h"
#include "optim/clip.h"

enum { A = 5000, GAP = 3, B = 1, C = 9001, TOTAL = A + GAP + B + C };

static const q3_param table[] = {
    { "first", 0, A, true },
    { "single", A + GAP, B, true },
    { "empty", A + GAP + B, 0, true },
    { "last", A + GAP + B, C, true },
};
static float grads[TOTAL], values[TOTAL];
static const q3_params params = { values, grads, TOTAL, table, 4 };

static q3_arena arena;
static q3_clip clip;

static int prepare(void **state)
{
    (void)state;
    assert_int_equal(q3_arena_create(&arena, "test", 1 << 20), Q3_OK);
    assert_int_equal(q3_clip_create(&clip, &arena, &arena, &params), Q3_OK);
    const q3_random r = { .seed = 1, .purpose = Q3_RANDOM_TEST };
    for (uint64_t i = 0; i < TOTAL; i++)
        grads[i] = (float)q3_random_normal(&r, i);
    for (int i = 0; i < GAP; i++)
        grads[A + i] = 0; // belongs to no tensor
    return 0;
}

static int finish(void **state)
{
    (void)state;
    q3_arena_destroy(&arena);
    return 0;
}

static double plain_norm(void)
{
    double sum = 0;
    for (int i = 0; i < TOTAL; i++)
        sum += (double)grads[i] * (double)grads[i];
    return sqrt(sum);
}

static void the_norm_is_that_of_all_gradients(void **state)
{
    (void)state;
    double want = plain_norm(), got;
    assert_int_equal(q3_clip_gradients(&got, &clip, 0), Q3_OK);
    assert_true(fabs(got - want) < 1e-12 * want);
    assert_true(clip.norms[2] == 0);
    assert_true(fabs(clip.norms[1] - fabs((double)grads[A + GAP])) < 1e-12);
    assert_true(fabs(hypot(hypot(clip.norms[0], clip.norms[1]), clip.norms[3]) - want) < 1e-12 * want);
}

static void a_large_gradient_is_scaled_to_the_bound(void **state)
{
    (void)state;
    double before, after;
    float first = grads[0];
    assert_int_equal(q3_clip_gradients(&before, &clip, 1.0), Q3_OK);
    assert_true(before > 50);
    assert_true(grads[0] == first * (float)(1.0 / (before + 1e-6)));
    assert_int_equal(q3_clip_gradients(&after, &clip, 0), Q3_OK);
    assert_true(fabs(after - 1) < 1e-6);
}

static void a_small_gradient_stays_as_it_is(void **state)
{
    (void)state;
    static float kept[TOTAL];
    double total;
    memcpy(kept, grads, sizeof kept);
    assert_int_equal(q3_clip_gradients(&total, &clip, 1e6), Q3_OK);
    assert_memory_equal(kept, grads, sizeof kept);
    assert_int_equal(q3_clip_gradients(&total, &clip, 0), Q3_OK);
    assert_memory_equal(kept, grads, sizeof kept);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    static float start[TOTAL], one[TOTAL];
    memcpy(start, grads, sizeof start);
    double first = 0;
    for (int threads = 1; threads <= 4; threads++) {
        double total;
        memcpy(grads, start, sizeof start);
        q3_pool_start(threads);
        assert_int_equal(q3_clip_gradients(&total, &clip, 0.5), Q3_OK);
        if (threads == 1) {
            first = total;
            memcpy(one, grads, sizeof one);
        }
        assert_memory_equal(&total, &first, sizeof total);
        assert_memory_equal(grads, one, sizeof one);
    }
    q3_pool_stop();
}

static void a_gradient_that_is_not_finite_is_named(void **state)
{
    (void)state;
    double total;
    float first = grads[0];
    grads[A + GAP + B + 8000] = NAN;
    grads[A + GAP + B + 77] = INFINITY;
    assert_int_equal(q3_clip_gradients(&total, &clip, 1.0), Q3_ERR_FAIL);
    assert_non_null(
        strstr(q3_error(), "the gradient of last is not finite: 2 of 9001 elements, the first (77) is inf"));
    assert_true(grads[0] == first);
}

static void the_largest_floats_do_not_overflow(void **state)
{
    (void)state;
    double total;
    grads[0] = grads[1] = 3e38f;
    assert_int_equal(q3_clip_gradients(&total, &clip, 1.0), Q3_OK);
    assert_true(fabs(total / (3e38 * sqrt(2)) - 1) < 1e-6);
    assert_true(fabs((double)grads[0] - sqrt(0.5)) < 1e-6);
}

static void a_full_arena_is_a_status(void **state)
{
    (void)state;
    for (int64_t n = 1;; n++) {
        q3_clip other;
        size_t mark = q3_arena_mark(&arena);
        q3_heap_fail_at(n);
        q3_status st = q3_clip_create(&other, &arena, &arena, &params);
        q3_heap_fail_at(0);
        q3_arena_rewind(&arena, mark);
        if (st == Q3_OK) {
            assert_int_equal(n, 6);
            break;
        }
        assert_int_equal(st, Q3_ERR_MEMORY);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_norm_is_that_of_all_gradients),
        TEST(a_large_gradient_is_scaled_to_the_bound),
        TEST(a_small_gradient_stays_as_it_is),
        TEST(threads_do_not_change_a_bit),
        TEST(a_gradient_that_is_not_finite_is_named),
        TEST(the_largest_floats_do_not_overflow),
        TEST(a_full_arena_is_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
