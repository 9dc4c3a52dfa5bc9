/* The norms, and the gradients that are sums over rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/layernorm.h"
#include "kernels/linear.h"
#include "kernels/rmsnorm.h"
#include "tests/support/pair.h"

/* Rows and columns: heads, hidden sizes, odd ones, rows that no registers hold, more runs than segments. */
static const int64_t shapes[][2] = { { 1, 1 },    { 3, 7 },    { 65, 33 },  { 200, 128 },
                                     { 9, 256 },  { 5, 1152 }, { 2, 4096 }, { 2, 4097 },
                                     { 2, 8200 }, { 2, 9001 }, { 1100, 8 }, { 129, 264 } };
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* A mean of a row that its variance must not drown in. */
enum { MEAN = 3 };

static t_pair random_about(const t_case *c, int64_t n, float mean, uint32_t seed)
{
    t_pair p = t_random(c, n, seed);
    void *rounded = malloc(q3_dtype_bytes(c->dtype, n) + 1);
    for (int64_t i = 0; i < n; i++)
        ((float *)p.host)[i] += mean;
    t_round(rounded, p.host, n, c->dtype);
    t_widen(p.host, rounded, n, c->dtype);
    q3_cuda_upload(c->cuda, p.device.at, rounded, q3_dtype_bytes(c->dtype, n));
    free(rounded);
    return p;
}

static void rmsnorm_forward_with(const t_case *c, int64_t rows, int64_t C, bool want_r)
{
    t_pair y = t_result(c, rows * C, 0, 0), r = t_result_f32(c, rows, 0, 0);
    t_pair x = t_random(c, rows * C, 1), w = t_random_f32(c, C, 2);
    q3_rmsnorm_args a = { y.host, want_r ? r.host : NULL, x.host, w.host, rows, C, 1e-6f, Q3_F32 };
    q3_rmsnorm_forward_cpu(&a);
    a.y = y.device.at, a.r = want_r ? r.device.at : NULL, a.x = x.device.at, a.w = w.device.at,
    a.dtype = c->dtype;
    q3_rmsnorm_forward_cuda(&a, c->cuda);
    t_agree("rmsnorm", &y);
    want_r ? t_agree("rmsnorm r", &r) : t_free(&r);
    t_free(&x);
    t_free(&w);
}

static void rmsnorm_forward(const t_case *c)
{
    for (int k = 0; k < SHAPES; k++)
        rmsnorm_forward_with(c, shapes[k][0], shapes[k][1], k % 2);
    rmsnorm_forward_with(c, 0, 64, true);
}

/* Which gradients are wanted. */
enum { DX = 1, DW = 2, DB = 4 };

static void rmsnorm_backward_with(const t_case *c, int64_t rows, int64_t C, int wanted, float dx_beta,
                                  float dw_beta)
{
    int64_t n = rows * C, runs = (rows + Q3_RMSNORM_RUN - 1) / Q3_RMSNORM_RUN;
    t_pair dx = t_result(c, n, dx_beta, 5), dw = t_result_f32(c, C, dw_beta, 6);
    t_pair dy = t_random(c, n, 1), x = t_random(c, n, 2), w = t_random_f32(c, C, 3),
           r = t_random_f32(c, rows, 4);
    t_pair partial = t_result_f32(c, runs * C, 0, 0);
    q3_rmsnorm_backward_args a = { .rows = rows, .C = C, .dx_beta = dx_beta, .dw_beta = dw_beta };
    a.dx = wanted & DX ? dx.host : NULL, a.dw = wanted & DW ? dw.host : NULL, a.partial = partial.host;
    a.dy = dy.host, a.x = x.host, a.r = r.host, a.w = w.host;
    q3_rmsnorm_backward_cpu(&a);
    a.dx = wanted & DX ? dx.device.at : NULL, a.dw = wanted & DW ? dw.device.at : NULL,
    a.partial = partial.device.at;
    a.dy = dy.device.at, a.x = x.device.at, a.r = r.device.at, a.w = w.device.at, a.dtype = c->dtype;
    q3_rmsnorm_backward_cuda(&a, c->cuda);
    wanted &DX ? t_agree("rmsnorm dx", &dx) : t_free(&dx);
    wanted &DW ? t_agree("rmsnorm dw", &dw) : t_free(&dw);
    t_free(&dy);
    t_free(&x);
    t_free(&w);
    t_free(&r);
    t_free(&partial);
}

static void rmsnorm_backward(const t_case *c)
{
    for (int k = 0; k < SHAPES; k++) {
        rmsnorm_backward_with(c, shapes[k][0], shapes[k][1], DX | DW, k % 2, k / 2 % 2);
        rmsnorm_backward_with(c, shapes[k][0], shapes[k][1], k % 2 ? DX : DW, (k + 1) % 2, (k + 1) % 2);
    }
    rmsnorm_backward_with(c, 0, 64, DX | DW, 0, 0);
}

static void layernorm_forward_with(const t_case *c, int64_t rows, int64_t C, bool want)
{
    t_pair y = t_result(c, rows * C, 0, 0), m = t_result_f32(c, rows, 0, 0), r = t_result_f32(c, rows, 0, 0);
    t_pair x = random_about(c, rows * C, MEAN, 1), w = t_random_f32(c, C, 2), b = t_random_f32(c, C, 3);
    q3_layernorm_args a = { .rows = rows, .C = C, .eps = 1e-6f };
    a.y = y.host, a.m = want ? m.host : NULL, a.r = want ? r.host : NULL, a.x = x.host, a.w = w.host,
    a.b = b.host;
    q3_layernorm_forward_cpu(&a);
    a.y = y.device.at, a.m = want ? m.device.at : NULL, a.r = want ? r.device.at : NULL;
    a.x = x.device.at, a.w = w.device.at, a.b = b.device.at, a.dtype = c->dtype;
    q3_layernorm_forward_cuda(&a, c->cuda);
    t_agree("layernorm", &y);
    want ? t_agree("layernorm m", &m) : t_free(&m);
    want ? t_agree("layernorm r", &r) : t_free(&r);
    t_free(&x);
    t_free(&w);
    t_free(&b);
}

/* Not for rows of one element: they are all mean, and r is 1 / sqrt(eps). */
static void layernorm_forward(const t_case *c)
{
    for (int k = 1; k < SHAPES; k++)
        layernorm_forward_with(c, shapes[k][0], shapes[k][1], k % 2);
    layernorm_forward_with(c, 0, 64, true);
}

static void layernorm_backward_with(const t_case *c, int64_t rows, int64_t C, int wanted, float beta)
{
    int64_t n = rows * C, runs = (rows + Q3_LAYERNORM_RUN - 1) / Q3_LAYERNORM_RUN;
    t_pair dx = t_result(c, n, beta, 5), dw = t_result_f32(c, C, 1 - beta, 6),
           db = t_result_f32(c, C, beta, 7);
    t_pair dy = t_random(c, n, 1), x = random_about(c, n, MEAN, 2), w = t_random_f32(c, C, 3);
    t_pair m = t_random_f32(c, rows, 8), r = t_random_f32(c, rows, 4);
    t_pair partial = t_result_f32(c, 2 * runs * C, 0, 0);
    q3_layernorm_backward_args a = {
        .rows = rows, .C = C, .dx_beta = beta, .dw_beta = 1 - beta, .db_beta = beta
    };
    a.dx = wanted & DX ? dx.host : NULL, a.dw = wanted & DW ? dw.host : NULL,
    a.db = wanted & DB ? db.host : NULL;
    a.partial = partial.host, a.dy = dy.host, a.x = x.host, a.m = m.host, a.r = r.host, a.w = w.host;
    q3_layernorm_backward_cpu(&a);
    a.dx = wanted & DX ? dx.device.at : NULL, a.dw = wanted & DW ? dw.device.at : NULL;
    a.db = wanted & DB ? db.device.at : NULL, a.partial = partial.device.at, a.dy = dy.device.at;
    a.x = x.device.at, a.m = m.device.at, a.r = r.device.at, a.w = w.device.at, a.dtype = c->dtype;
    q3_layernorm_backward_cuda(&a, c->cuda);
    wanted &DX ? t_agree("layernorm dx", &dx) : t_free(&dx);
    wanted &DW ? t_agree("layernorm dw", &dw) : t_free(&dw);
    wanted &DB ? t_agree("layernorm db", &db) : t_free(&db);
    t_pair *rest[] = { &dy, &x, &w, &m, &r, &partial };
    for (int i = 0; i < 6; i++)
        t_free(rest[i]);
}

static void layernorm_backward(const t_case *c)
{
    for (int k = 0; k < SHAPES; k++) {
        layernorm_backward_with(c, shapes[k][0], shapes[k][1], DX | DW | DB, k % 2);
        layernorm_backward_with(c, shapes[k][0], shapes[k][1], 1 << k % 3, (k + 1) % 2);
    }
    layernorm_backward_with(c, 0, 64, DX | DW | DB, 0);
}

static void bias_with(const t_case *c, int64_t M, int64_t N, float beta)
{
    t_pair db = t_result_f32(c, N, beta, 1), dy = t_random(c, M * N, 2);
    q3_linear_bias_cpu(&(q3_linear_bias_args){ db.host, dy.host, M, N, beta, Q3_F32 });
    q3_linear_bias_cuda(&(q3_linear_bias_args){ db.device.at, dy.device.at, M, N, beta, c->dtype }, c->cuda);
    t_agree("bias gradient", &db);
    t_free(&dy);
}

static void bias(const t_case *c)
{
    for (int k = 0; k < SHAPES; k++)
        bias_with(c, shapes[k][0], shapes[k][1], k % 2);
    bias_with(c, 0, 33, 0);
    bias_with(c, 0, 33, 1);
}

/* The same where the workspace holds the sums of some columns only, and an answer where it holds none. */
static void small_workspace(const t_case *c)
{
    char why[Q3_CUDA_SENTENCE];
    size_t bytes = c->cuda->workspace_bytes;
    c->cuda->workspace_bytes = 3 * 32 * sizeof(float) + 60;
    bias_with(c, 3 * 64, 100, 0);
    bias_with(c, 3 * 64, 72, 1);
    t_pair db = t_result_f32(c, 8, 1, 1), dy = t_random(c, 8 * 1000, 2);
    q3_linear_bias_cuda(&(q3_linear_bias_args){ db.device.at, dy.device.at, 1000, 8, 0, c->dtype }, c->cuda);
    c->cuda->workspace_bytes = bytes;
    assert_true(q3_cuda_take_failure(c->cuda, why));
    assert_string_equal(why, "bias gradient of 1000 rows: a workspace of 444 bytes is too small");
    t_free(&db);
    t_free(&dy);
}

T_CASES(rmsnorm_is_the_cpus, rmsnorm_forward)
T_CASES(rmsnorm_gradients_are_the_cpus, rmsnorm_backward)
T_CASES(layernorm_is_the_cpus, layernorm_forward)
T_CASES(layernorm_gradients_are_the_cpus, layernorm_backward)
T_CASES(bias_gradients_are_the_cpus, bias)
T_CASES(bias_gradients_fit_any_workspace, small_workspace)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_is_the_cpus),         cmocka_unit_test(rmsnorm_gradients_are_the_cpus),
        cmocka_unit_test(layernorm_is_the_cpus),       cmocka_unit_test(layernorm_gradients_are_the_cpus),
        cmocka_unit_test(bias_gradients_are_the_cpus), cmocka_unit_test(bias_gradients_fit_any_workspace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
