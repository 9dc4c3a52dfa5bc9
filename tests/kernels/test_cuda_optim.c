/* What a step of the optimizer does on the device: norms of the gradient, clipping, and AdamW to the bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/adamw.h"
#include "kernels/gradient.h"
#include "tests/support/pair.h"

static void sum_squares(const t_case *c)
{
    // the last run takes more chunks than it has blocks
    const int64_t begin[] = { 0, 1, 8, 8, 41, 4138, 20000 }, count[] = { 1, 7, 0, 33, 4097, 8192, 300000 };
    enum { RUNS = 7, N = 320000 };
    if (c->dtype != Q3_F32)
        return;
    double blank[RUNS], got[RUNS];
    memset(blank, 0xFF, sizeof blank);
    t_pair g = t_random(c, N, 1), at = t_copy(c, Q3_I64, begin, RUNS),
           counts = t_copy(c, Q3_I64, count, RUNS);
    t_pair sums = t_copy(c, Q3_I64, blank, RUNS); // 8 bytes each
    q3_gradient_args a = { g.host, 0, at.host, counts.host, RUNS, sums.host, 0 };
    q3_gradient_sum_squares_cpu(&a);
    q3_gradient_sum_squares_cuda(
        &(q3_gradient_args){ g.device.at, 0, at.device.at, counts.device.at, RUNS, sums.device.at, 0 },
        c->cuda);
    t_download(got, &sums.device);
    for (int i = 0; i < RUNS; i++)
        assert_true(fabs(got[i] - a.sums[i]) <= 1e-13 * a.sums[i]);
    q3_gradient_sum_squares_cuda(&(q3_gradient_args){ .runs = 0 }, c->cuda);
    t_pair *all[] = { &g, &at, &counts, &sums };
    for (int i = 0; i < 4; i++)
        t_free(all[i]);
}

/* A sum is finite exactly when its gradients are. */
static void sum_overflow(const t_case *c)
{
    const float values[] = { 3e38f, 3e38f, 1, INFINITY, 1, NAN };
    const int64_t begin[] = { 0, 2, 4 }, count[] = { 2, 2, 2 };
    double got[3] = { 0 };
    t_pair g = t_copy(c, Q3_F32, values, 6), at = t_copy(c, Q3_I64, begin, 3),
           counts = t_copy(c, Q3_I64, count, 3);
    t_pair sums = t_copy(c, Q3_I64, got, 3);
    q3_gradient_sum_squares_cuda(
        &(q3_gradient_args){ g.device.at, 0, at.device.at, counts.device.at, 3, sums.device.at, 0 }, c->cuda);
    t_download(got, &sums.device);
    assert_true(isfinite(got[0]) && isinf(got[1]) && isnan(got[2]));
    t_pair *all[] = { &g, &at, &counts, &sums };
    for (int i = 0; i < 4; i++)
        t_free(all[i]);
}

static const int64_t sizes[] = { 0, 1, 7, 33, 256, 4097, 4352 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static void scale(const t_case *c)
{
    for (int k = 0; k < SIZES && c->dtype == Q3_F32; k++) {
        t_pair g = t_random(c, sizes[k], 1);
        q3_gradient_scale_cpu(&(q3_gradient_args){ .g = g.host, .n = sizes[k], .factor = 0.3f });
        q3_gradient_scale_cuda(&(q3_gradient_args){ .g = g.device.at, .n = sizes[k], .factor = 0.3f },
                               c->cuda);
        t_agree_within("scaled gradient", &g, 0);
    }
}

typedef void rule_cpu(const q3_adamw_args *a);
typedef void rule_cuda(const q3_adamw_args *a, q3_cuda *cuda);

/* Scalars of step t at a learning rate of 0.01. */
static q3_adamw_args scalars(int64_t n, int t, bool bnb)
{
    double c1 = 1 - pow(0.9, t), c2 = sqrt(1 - pow(0.999, t)), lr = 0.01;
    return (q3_adamw_args){
        .n = n,
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .rest1 = (float)(1 - 0.9),
        .rest2 = (float)(1 - 0.999),
        .rate = (float)(bnb ? lr * c2 / c1 : lr / c1),
        .root = (float)c2,
        .eps = (float)(bnb ? 1e-8 * c2 : 1e-8),
        .decay = (float)(1 - lr * 0.05),
    };
}

static void f32_rule(const t_case *c, rule_cpu *cpu, rule_cuda *cuda, bool bnb)
{
    for (int k = 0; k < SIZES && c->dtype == Q3_F32; k++) {
        float *zeros = calloc((size_t)sizes[k] + 1, sizeof *zeros);
        t_pair p = t_random(c, sizes[k], 1), m = t_copy(c, Q3_F32, zeros, sizes[k]);
        t_pair v = t_copy(c, Q3_F32, zeros, sizes[k]);
        for (int t = 1; t <= 3; t++) {
            t_pair g = t_random(c, sizes[k], 10 + (uint32_t)t);
            q3_adamw_args a = scalars(sizes[k], t, bnb);
            a.p = p.host, a.g = g.host, a.m = m.host, a.v = v.host;
            cpu(&a);
            a.p = p.device.at, a.g = g.device.at, a.m = m.device.at, a.v = v.device.at;
            cuda(&a, c->cuda);
            t_free(&g);
        }
        t_agree_within("p after three steps", &p, 0);
        t_agree_within("m after three steps", &m, 0);
        t_agree_within("v after three steps", &v, 0);
        free(zeros);
    }
}

static void torch_rule(const t_case *c)
{
    f32_rule(c, q3_adamw_cpu, q3_adamw_cuda, false);
}

static void bnb_rule(const t_case *c)
{
    f32_rule(c, q3_adamw_bnb_cpu, q3_adamw_bnb_cuda, true);
}

/* Gradients of all sizes, some blocks of zeros, and a few that are not finite. */
static t_pair hard_gradient(const t_case *c, int64_t n, int t)
{
    float *g = malloc((size_t)n * sizeof *g + 1);
    t_fill(g, n, 1, 20 + (uint32_t)t);
    for (int64_t i = 0; i < n; i++) {
        g[i] *= powf(10, (float)(i % 9) - 6);
        if (i / 256 % 5 == 3)
            g[i] = t == 2 ? -0.0f : 0;
        if (i % 1000 == 999)
            g[i] = i % 2000 == 999 ? NAN : INFINITY;
    }
    t_pair p = t_copy(c, Q3_F32, g, n);
    free(g);
    return p;
}

/* States of no step yet: the codes of 0 (127 signed, 0 unsigned), absmax 0. */
static void eight_bit_rule(const t_case *c)
{
    for (int k = 0; k < SIZES && c->dtype == Q3_F32; k++) {
        int64_t n = sizes[k], blocks = (n + Q3_ADAMW_BLOCK - 1) / Q3_ADAMW_BLOCK;
        uint8_t *codes = malloc((size_t)n + 1);
        float *zeros = calloc((size_t)blocks + 1, sizeof *zeros);
        memset(codes, 127, (size_t)n);
        t_pair p = t_random(c, n, 1), code1 = t_copy(c, Q3_U8, codes, n);
        memset(codes, 0, (size_t)n);
        t_pair code2 = t_copy(c, Q3_U8, codes, n);
        t_pair absmax1 = t_copy(c, Q3_F32, zeros, blocks), absmax2 = t_copy(c, Q3_F32, zeros, blocks);
        for (int t = 1; t <= 4; t++) {
            t_pair g = hard_gradient(c, n, t);
            q3_adamw_args a = scalars(n, t, true);
            a.p = p.host, a.g = g.host, a.code1 = code1.host, a.code2 = code2.host;
            a.absmax1 = absmax1.host, a.absmax2 = absmax2.host;
            q3_adamw_8bit_cpu(&a);
            a.p = p.device.at, a.g = g.device.at, a.code1 = code1.device.at, a.code2 = code2.device.at;
            a.absmax1 = absmax1.device.at, a.absmax2 = absmax2.device.at;
            q3_adamw_8bit_cuda(&a, c->cuda);
            t_free(&g);
        }
        t_agree_within("p after four steps", &p, 0);
        t_agree_within("codes of m", &code1, 0);
        t_agree_within("codes of v", &code2, 0);
        t_agree_within("largest m of the blocks", &absmax1, 0);
        t_agree_within("largest v of the blocks", &absmax2, 0);
        free(codes);
        free(zeros);
    }
}

T_CASES(sums_of_squares_are_the_cpus, sum_squares)
T_CASES(sums_are_finite_when_gradients_are, sum_overflow)
T_CASES(scaling_has_the_cpus_bits, scale)
T_CASES(adamw_has_the_cpus_bits, torch_rule)
T_CASES(adamw_of_bitsandbytes_has_the_cpus_bits, bnb_rule)
T_CASES(adamw_in_8_bits_has_the_cpus_bits, eight_bit_rule)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_squares_are_the_cpus),
        cmocka_unit_test(sums_are_finite_when_gradients_are),
        cmocka_unit_test(scaling_has_the_cpus_bits),
        cmocka_unit_test(adamw_has_the_cpus_bits),
        cmocka_unit_test(adamw_of_bitsandbytes_has_the_cpus_bits),
        cmocka_unit_test(adamw_in_8_bits_has_the_cpus_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
