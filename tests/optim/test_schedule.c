#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "optim/schedule.h"

static void follows(const q3_schedule *s, const double *want, int64_t first, int64_t last)
{
    for (int64_t done = first; done <= last; done++)
        assert_true(fabs(q3_schedule_lr(s, done) - want[done - first]) < 6e-7);
}

/* Ten steps, three of them warm-up; values to six digits. */
static void linear_rises_and_falls_in_straight_lines(void **state)
{
    (void)state;
    static const double want[] = { 0,       .333333, .666667, 1,       .857143, .714286,
                                   .571429, .428571, .285714, .142857, 0 };
    follows(&(q3_schedule){ Q3_SCHEDULE_LINEAR, 1, 0, 3, 10 }, want, 0, 10);
}

static void cosine_ends_at_zero(void **state)
{
    (void)state;
    static const double want[] = { 0,      .333333, .666667, 1,       .950484, .811745,
                                   .61126, .38874,  .188255, .049516, 0 };
    follows(&(q3_schedule){ Q3_SCHEDULE_COSINE, 1, 0, 3, 10 }, want, 0, 10);
}

static void cosine_with_min_lr_ends_at_its_part_of_the_peak(void **state)
{
    (void)state;
    static const double want[] = { 1, .955436, .83057, .650134, .449866, .26943, .144564, .1 };
    follows(&(q3_schedule){ Q3_SCHEDULE_COSINE_WITH_MIN_LR, 1, .1, 3, 10 }, want, 3, 10);
}

static void constant_ignores_the_warm_up(void **state)
{
    (void)state;
    const q3_schedule plain = { Q3_SCHEDULE_CONSTANT, 2e-4, 0, 3, 10 };
    const q3_schedule warm = { Q3_SCHEDULE_CONSTANT_WITH_WARMUP, 2e-4, 0, 4, 10 };
    assert_true(q3_schedule_lr(&plain, 0) == 2e-4);
    assert_true(q3_schedule_lr(&warm, 0) == 0);
    assert_true(q3_schedule_lr(&warm, 1) == 2e-4 * 0.25);
    assert_true(q3_schedule_lr(&warm, 4) == 2e-4);
    assert_true(q3_schedule_lr(&warm, 99) == 2e-4);
}

/* The rates that transformers 5.17.0 logged in a run of 18 steps: lr 2e-3, cosine, 2 warm-up steps. */
static void cosine_is_that_of_transformers_to_the_last_bit(void **state)
{
    (void)state;
    static const double logged[] = {
        0.0,
        0.001,
        0.002,
        0.0019807852804032307,
        0.0019238795325112869,
        0.0018314696123025453,
        0.0017071067811865474,
        0.0015555702330196021,
        0.00138268343236509,
        0.0011950903220161284,
        0.001,
        0.0008049096779838719,
        0.0006173165676349102,
        0.00044442976698039807,
        0.00029289321881345256,
        0.00016853038769745467,
        7.612046748871326e-05,
        1.921471959676957e-05,
    };
    const q3_schedule s = { Q3_SCHEDULE_COSINE, 2e-3, 0, 2, 18 };
    for (int64_t done = 0; done < 18; done++)
        assert_true(q3_schedule_lr(&s, done) == logged[done]);
}

static void no_rate_is_negative_and_odd_lengths_are_fine(void **state)
{
    (void)state;
    for (int kind = Q3_SCHEDULE_LINEAR; kind <= Q3_SCHEDULE_CONSTANT_WITH_WARMUP; kind++)
        for (int64_t total = 0; total < 5; total++)
            for (int64_t warmup = 0; warmup < 7; warmup++)
                for (int64_t done = 0; done < 9; done++) {
                    const q3_schedule s = { (q3_schedule_kind)kind, 1, .1, warmup, total };
                    double lr = q3_schedule_lr(&s, done);
                    assert_true(lr >= 0 && lr <= 1);
                }
}

static void warm_up_steps_are_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(q3_schedule_warmup(100, 0.05), 5);
    assert_int_equal(q3_schedule_warmup(101, 0.05), 6);
    assert_int_equal(q3_schedule_warmup(18, 0.0), 0);
    assert_int_equal(q3_schedule_warmup(7, 1.0), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_rises_and_falls_in_straight_lines),
        cmocka_unit_test(cosine_ends_at_zero),
        cmocka_unit_test(cosine_with_min_lr_ends_at_its_part_of_the_peak),
        cmocka_unit_test(constant_ignores_the_warm_up),
        cmocka_unit_test(cosine_is_that_of_transformers_to_the_last_bit),
        cmocka_unit_test(no_rate_is_negative_and_odd_lengths_are_fine),
        cmocka_unit_test(warm_up_steps_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
