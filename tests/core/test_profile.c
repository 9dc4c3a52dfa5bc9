#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/ops.h"

enum { T = 6, C = 8, F = 4 };

typedef struct fixture {
    q3_arena run, step;
    q3_ctx ctx;
    q3_profile *profile;
    q3_tensor *w;
} fixture;

static void open_fixture(fixture *f)
{
    *f = (fixture){ .profile = calloc(1, sizeof *f->profile) };
    assert_non_null(f->profile);
    assert_int_equal(q3_arena_create(&f->run, "run", (size_t)1 << 24), Q3_OK);
    assert_int_equal(q3_arena_create(&f->step, "step", (size_t)1 << 24), Q3_OK);
    assert_int_equal(q3_ctx_create(&f->ctx, &f->step), Q3_OK);
    float *values = Q3_ZNEW(&f->run, float, F *C), *grads = Q3_ZNEW(&f->run, float, F *C);
    f->w = q3_tensor_wrap(&f->run, values, Q3_F32, 2, (const int64_t[]){ F, C });
    f->w->needs_grad = f->w->grad_kept = f->w->grad_set = true;
    f->w->grad = grads;
    f->ctx.profile = f->profile;
}

static void close_fixture(fixture *f)
{
    q3_ctx_destroy(&f->ctx);
    q3_arena_destroy(&f->step);
    q3_arena_destroy(&f->run);
    free(f->profile);
}

/* y = x w' twice, and back from y. */
static void step(fixture *f)
{
    static float x[T * C];
    float beta;
    q3_profile_step_begin(f->profile);
    q3_step_begin(&f->ctx, true);
    q3_linear(&f->ctx, q3_input(&f->ctx, x, T, C), f->w, NULL);
    q3_tensor *y = q3_linear(&f->ctx, q3_input(&f->ctx, x, T, C), f->w, NULL);
    q3_grad(&f->ctx, y, &beta);
    q3_backward_from(&f->ctx, y);
    q3_profile_step_end(f->profile);
}

static void calls_and_costs_are_summed(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    step(&f);
    step(&f);
    const q3_profile_row *forward = &f.profile->rows[Q3_OP_LINEAR][0], *back = forward + 1;
    assert_int_equal(f.profile->steps, 2);
    assert_int_equal(forward->calls, 4);
    assert_int_equal(back->calls, 2); // nobody asked for the gradient of the first
    assert_true(forward->cost.flops == 4 * 2.0 * T * C * F);
    assert_true(back->cost.flops == 2 * 2.0 * T * C * F); // x wants none
    assert_true(forward->cost.bytes == 4 * 4.0 * (T * C + T * F + C * F));
    assert_true(forward->seconds > 0 && back->seconds > 0);
    assert_true(forward->seconds + back->seconds <= f.profile->seconds);
    q3_profile_clear(f.profile);
    assert_int_equal(f.profile->steps + forward->calls, 0);
    close_fixture(&f);
}

static void a_dry_run_is_not_measured(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    f.ctx.dry = f.step.dry = true;
    step(&f);
    assert_int_equal(f.profile->rows[Q3_OP_LINEAR][0].calls, 0);
    close_fixture(&f);
}

static void backward_of_other_ops_is_that_of_an_element_wise_one(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    q3_step_begin(&f.ctx, true);
    q3_tensor *x = q3_new2(&f.ctx, T, C), *u = q3_new2(&f.ctx, T, C);
    q3_node n = { .op = q3_ops[Q3_OP_SWIGLU], .in = { x, u }, .out = q3_new2(&f.ctx, T, C) };
    const q3_cost forward = q3_op_cost(&n, false), back = q3_op_cost(&n, true);
    assert_true(forward.bytes == 3 * 4.0 * T * C);
    assert_true(back.flops == 2 * forward.flops && back.bytes == 1.5 * forward.bytes);
    n.out->dtype = Q3_BF16;
    assert_true(q3_op_cost(&n, false).bytes == forward.bytes / 2);
    close_fixture(&f);
}

static void nothing_is_done_without_a_profile(void **state)
{
    (void)state;
    q3_profile_step_begin(NULL);
    q3_profile_end(NULL, q3_profile_begin(NULL), Q3_PROFILE_UPDATE, false, (q3_cost){ 0 });
    q3_profile_step_end(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_and_costs_are_summed),
        cmocka_unit_test(a_dry_run_is_not_measured),
        cmocka_unit_test(backward_of_other_ops_is_that_of_an_element_wise_one),
        cmocka_unit_test(nothing_is_done_without_a_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
