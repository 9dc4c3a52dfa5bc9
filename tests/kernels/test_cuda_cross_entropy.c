#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/cross_entropy.h"
#include "tests/support/device.h"

typedef struct rows_case {
    int64_t R, V;
    q3_dtype dtype;
    bool gradient, seed;
    float spread; /* deviation of the logits */
} rows_case;

/* Loss [R] and gradient [R, V] in double, of logits [R, V]. */
static void expect(double *loss, double *gradient, const float *logits, const int32_t *targets, int64_t R,
                   int64_t V, double factor)
{
    for (int64_t r = 0; r < R; r++) {
        const float *l = logits + r * V;
        double top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++)
            top = l[v] > top ? l[v] : top;
        for (int64_t v = 0; v < V; v++)
            sum += exp(l[v] - top);
        double lse = top + log(sum);
        loss[r] = lse - l[targets[r]];
        for (int64_t v = 0; v < V; v++)
            gradient[r * V + v] = (v == targets[r] ? expm1(l[v] - lse) : exp(l[v] - lse)) * factor;
    }
}

static void check_rows(q3_cuda *cuda, const rows_case *c)
{
    const int64_t n = c->R * c->V;
    const float scale = 0.125f, seed = 3.0f;
    size_t bytes = q3_dtype_bytes(c->dtype, n);
    float *x = malloc((size_t)n * 4), *got = malloc((size_t)n * 4);
    double *loss = malloc((size_t)c->R * 8), *want_loss = malloc((size_t)c->R * 8),
           *want = malloc((size_t)n * 8);
    int32_t *targets = malloc((size_t)c->R * 4);
    void *raw = malloc(bytes);
    t_fill(x, n, c->spread, (uint32_t)n);
    t_round(raw, x, n, c->dtype);
    t_widen(x, raw, n, c->dtype);
    for (int64_t r = 0; r < c->R; r++)
        targets[r] = (int32_t)(r == 0 ? c->V - 1 : r * 7919 % c->V);
    expect(want_loss, want, x, targets, c->R, c->V, (double)scale * (c->seed ? seed : 1));
    t_array logits = t_upload(cuda, raw, bytes, 0), dloss = t_upload(cuda, NULL, (size_t)c->R * 8, 0),
            dtargets = t_upload(cuda, targets, (size_t)c->R * 4, 0), dseed = t_upload(cuda, &seed, 4, 0);
    q3_cross_entropy_args a = { dloss.at, logits.at,   dtargets.at, c->R,
                                c->V,     c->gradient, scale,       c->seed ? dseed.at : NULL,
                                c->dtype };
    q3_cross_entropy_rows_cuda(&a, cuda);
    t_download(loss, &dloss);
    t_download(raw, &logits);
    for (int64_t r = 0; r < c->R; r++)
        if (!(fabs(loss[r] - want_loss[r]) <= 1e-6 * (1 + fabs(want_loss[r]))))
            fail_msg("V %lld row %lld: loss %.9g, expected %.9g", (long long)c->V, (long long)r, loss[r],
                     want_loss[r]);
    t_widen(got, raw, n, c->dtype);
    if (c->gradient) {
        double apart = t_distance(got, want, n);
        if (!(apart < (c->dtype == Q3_BF16 ? 1e-2 : 1e-5)))
            fail_msg("R %lld V %lld dtype %d: gradient is %g apart", (long long)c->R, (long long)c->V,
                     (int)c->dtype, apart);
    } else {
        assert_memory_equal(got, x, (size_t)n * 4);
    }
    t_drop(&logits);
    t_drop(&dloss);
    t_drop(&dtargets);
    t_drop(&dseed);
    free(x);
    free(got);
    free(loss);
    free(want_loss);
    free(want);
    free(targets);
    free(raw);
}

static void loss_and_gradient_are_those_of_the_formula(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 2, 7, 33, 1000, 4097, 20011 };
    q3_cuda *cuda = t_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int dtype = Q3_F32; dtype <= Q3_BF16; dtype++)
            for (int gradient = 0; gradient < 2; gradient++) {
                rows_case c = { 5, sizes[i], (q3_dtype)dtype, gradient, i % 2, i % 3 ? 3.0f : 20.0f };
                check_rows(cuda, &c);
            }
    q3_cuda_close(cuda);
}

static void the_vocabulary_of_qwen3_fits(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    check_rows(cuda, &(rows_case){ 2, 151936, Q3_BF16, true, true, 3.0f });
    check_rows(cuda, &(rows_case){ 2, 151935, Q3_F32, true, true, 3.0f });
    q3_cuda_close(cuda);
}

/* One row of f32 logits with target 0; the row's gradient in place. Returns the loss. */
static double one_row(q3_cuda *cuda, float *row, int64_t V)
{
    double loss;
    int32_t target = 0;
    t_array logits = t_upload(cuda, row, (size_t)V * 4, 0), dloss = t_upload(cuda, NULL, 8, 0),
            targets = t_upload(cuda, &target, 4, 0);
    q3_cross_entropy_args a = {
        .loss = dloss.at, .logits = logits.at, .targets = targets.at, .R = 1, .V = V
    };
    a.gradient = true;
    a.scale = 1;
    q3_cross_entropy_rows_cuda(&a, cuda);
    t_download(&loss, &dloss);
    t_download(row, &logits);
    t_drop(&logits);
    t_drop(&dloss);
    t_drop(&targets);
    return loss;
}

static void a_sure_prediction_keeps_its_small_gradient(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    float row[3] = { 20.0f, 2.0f, 1.0f };
    double rest = exp(-18.0) + exp(-19.0), loss = one_row(cuda, row, 3);
    assert_true(fabs(loss - log1p(rest)) < 1e-13);
    assert_true(fabs(row[0] + rest / (1 + rest)) < 1e-6 * rest);
    q3_cuda_close(cuda);
}

static void flawed_logits_make_the_loss_nan(void **state)
{
    (void)state;
    static const int64_t places[] = { 1, 2, 500, 1000, 4098 };
    const int64_t V = 4099;
    q3_cuda *cuda = t_device();
    float *row = malloc((size_t)V * 4);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        t_fill(row, V, 1.0f, 9);
        row[places[i]] = i % 2 ? INFINITY : NAN;
        assert_true(isnan(one_row(cuda, row, V)));
    }
    free(row);
    q3_cuda_close(cuda);
}

static void logits_of_minus_infinity_weigh_nothing(void **state)
{
    (void)state;
    const int64_t V = 3001;
    q3_cuda *cuda = t_device();
    float *row = malloc((size_t)V * 4);
    for (int64_t v = 0; v < V; v++)
        row[v] = v < 2 ? -1e30f : -INFINITY;
    double loss = one_row(cuda, row, V);
    assert_true(fabs(loss - log(2.0)) < 1e-12);
    assert_true(row[0] == -0.5f && row[1] == 0.5f);
    for (int64_t v = 2; v < V; v++)
        assert_true(row[v] == 0);
    free(row);
    q3_cuda_close(cuda);
}

static void the_total_adds_all_rows(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 0, 1, 7, 512, 513, 5003 };
    q3_cuda *cuda = t_device();
    double *loss = malloc(5003 * sizeof *loss);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double want = 0;
        float total;
        for (int64_t r = 0; r < sizes[i]; r++)
            want += loss[r] = 1.0 / (double)(r + 3);
        t_array from = t_upload(cuda, loss, (size_t)sizes[i] * 8, 0), to = t_upload(cuda, NULL, 4, 0);
        q3_cross_entropy_total_cuda(&(q3_cross_entropy_total_args){ to.at, from.at, sizes[i], 0.25f }, cuda);
        t_download(&total, &to);
        assert_true(fabs(total - 0.25 * want) <= 1e-6 * want);
        t_drop(&from);
        t_drop(&to);
    }
    free(loss);
    q3_cuda_close(cuda);
}

static void check_spread(q3_cuda *cuda, int64_t n, q3_dtype dtype, float beta, size_t shift)
{
    const float seed = -1.5f;
    size_t bytes = q3_dtype_bytes(dtype, n);
    float *x = malloc((size_t)n * 4), *y = malloc((size_t)n * 4);
    double *want = malloc((size_t)n * 8);
    void *rx = malloc(bytes), *ry = malloc(bytes);
    t_fill(x, n, 1.0f, 1);
    t_fill(y, n, 1.0f, 2);
    t_round(rx, x, n, dtype);
    t_round(ry, y, n, dtype);
    t_widen(x, rx, n, dtype);
    t_widen(y, ry, n, dtype);
    for (int64_t i = 0; i < n; i++)
        want[i] = (beta != 0 ? beta * y[i] : 0) + (double)seed * x[i];
    t_array saved = t_upload(cuda, rx, bytes, shift),
            dx = t_upload(cuda, beta != 0 ? ry : NULL, bytes, shift), dseed = t_upload(cuda, &seed, 4, 0);
    q3_cross_entropy_spread_args a = { dx.at, saved.at, dseed.at, n, beta, dtype };
    q3_cross_entropy_spread_cuda(&a, cuda);
    t_download(ry, &dx);
    t_widen(y, ry, n, dtype);
    assert_true(t_distance(y, want, n) < (dtype == Q3_BF16 ? 1e-2 : 1e-5));
    t_drop(&saved);
    t_drop(&dx);
    t_drop(&dseed);
    free(x);
    free(y);
    free(want);
    free(rx);
    free(ry);
}

static void a_saved_gradient_is_spread(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 7, 33, 4097 };
    q3_cuda *cuda = t_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int beta = 0; beta < 2; beta++) {
            check_spread(cuda, sizes[i], Q3_F32, (float)beta, 0);
            check_spread(cuda, sizes[i], Q3_BF16, (float)beta, 0);
            check_spread(cuda, sizes[i], Q3_BF16, (float)beta, 2);
        }
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_and_gradient_are_those_of_the_formula),
        cmocka_unit_test(the_vocabulary_of_qwen3_fits),
        cmocka_unit_test(a_sure_prediction_keeps_its_small_gradient),
        cmocka_unit_test(flawed_logits_make_the_loss_nan),
        cmocka_unit_test(logits_of_minus_infinity_weigh_nothing),
        cmocka_unit_test(the_total_adds_all_rows),
        cmocka_unit_test(a_saved_gradient_is_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
