/* What the embedding's op case cannot see with differences: the id that gets no gradient, what a first
 * gradient overwrites. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/ops.h"

enum { V = 5, C = 3, N = 6 };

static const int32_t ids[N] = { 2, 0, 2, 4, 1, 0 };

/* The gradient of the table when token t's output gradient is t + 1 in every column. */
static void gradient(float grad[V * C], bool grad_set, int32_t skip)
{
    static float values[V * C];
    q3_arena mem, data;
    q3_ctx ctx;
    assert_int_equal(q3_arena_create(&mem, "inputs", 1 << 20), Q3_OK);
    assert_int_equal(q3_arena_create(&data, "step", 1 << 20), Q3_OK);
    assert_int_equal(q3_ctx_create(&ctx, &data), Q3_OK);
    ctx.poison = true;
    q3_step_begin(&ctx, true);
    q3_tensor *table = q3_tensor_wrap(&mem, values, Q3_F32, 2, (const int64_t[]){ V, C });
    table->needs_grad = table->grad_kept = true;
    table->grad_set = grad_set;
    table->grad = grad;
    q3_tensor *y = q3_embedding(&ctx, table, ids, N, skip);
    float beta, *dy = q3_grad(&ctx, y, &beta);
    for (int k = 0; k < N * C; k++)
        dy[k] = (float)(k / C + 1);
    q3_backward_from(&ctx, y);
    assert_int_equal(q3_ctx_status(&ctx), Q3_OK);
    q3_ctx_destroy(&ctx);
    q3_arena_destroy(&data);
    q3_arena_destroy(&mem);
}

static void assert_rows(const float *grad, const float *want)
{
    for (int k = 0; k < V * C; k++)
        assert_float_equal(grad[k], want[k / C], 0);
}

static void a_first_gradient_overwrites_all_rows(void **state)
{
    (void)state;
    float grad[V * C];
    for (int k = 0; k < V * C; k++)
        grad[k] = NAN;
    gradient(grad, false, -1);
    assert_rows(grad, (const float[]){ 8, 5, 4, 0, 4 });
}

static void the_skipped_id_gets_no_gradient(void **state)
{
    (void)state;
    float grad[V * C];
    for (int k = 0; k < V * C; k++)
        grad[k] = NAN;
    gradient(grad, false, 2);
    assert_rows(grad, (const float[]){ 8, 5, 0, 0, 4 });
}

static void the_skipped_id_keeps_what_a_tied_head_gave_it(void **state)
{
    (void)state;
    float grad[V * C];
    for (int k = 0; k < V * C; k++)
        grad[k] = 10;
    gradient(grad, true, 2);
    assert_rows(grad, (const float[]){ 18, 15, 10, 10, 14 });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_gradient_overwrites_all_rows),
        cmocka_unit_test(the_skipped_id_gets_no_gradient),
        cmocka_unit_test(the_skipped_id_keeps_what_a_tied_head_gave_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
