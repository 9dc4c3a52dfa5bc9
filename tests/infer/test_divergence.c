#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "infer/divergence.h"
#include "kernels/pool.h"

static double kl(const float *p, const float *q, int64_t V)
{
    q3_divergence d;
    q3_divergence_of(&d, p, q, (const int32_t[]){ -1 }, 1, V);
    assert_true(isnan(d.loss_p) && isnan(d.loss_q));
    return d.kl;
}

static void kl_is_that_of_the_formula(void **state)
{
    (void)state;
    const float even[2] = { 0, 0 }, odd[2] = { logf(3), 0 }, moved[2] = { 500 + logf(3), 500 };
    const double want = 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25);
    assert_true(fabs(kl(even, odd, 2) - want) < 1e-7);
    assert_true(fabs(kl(even, moved, 2) - want) < 1e-4); // logits are f32: 500 leaves 3e-5
    assert_true(fabs(kl(odd, even, 2) - (0.75 * log(1.5) + 0.25 * log(0.5))) < 1e-7);
    assert_true(kl(odd, odd, 2) == 0);
    const float sure[3] = { 3e4f, 0, 0 }, other[3] = { 0, 3e4f, 0 };
    assert_true(fabs(kl(sure, other, 3) - 3e4) < 1e-6 && kl(sure, sure, 3) == 0);
}

static void losses_and_likeliest_tokens_are_told(void **state)
{
    (void)state;
    const float p[6] = { 0, 0, logf(2), 5, 5, 1 }, q[6] = { 0, 0, 0, 1, 5, 5 };
    q3_divergence d[2];
    q3_divergence_of(d, p, q, (const int32_t[]){ 2, 0 }, 2, 3);
    assert_true(fabs(d[0].loss_p - log(2)) < 1e-7 && fabs(d[0].loss_q - log(3)) < 1e-7);
    assert_false(d[0].agrees); // a tie in q: the lowest id
    assert_false(d[1].agrees);
    q3_divergence_of(d, p, p, (const int32_t[]){ 2, 0 }, 2, 3);
    assert_true(d[0].agrees && d[1].agrees && d[1].loss_p == d[1].loss_q);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { N = 13, V = 301 };
    float *p = malloc(N * V * sizeof *p), *q = malloc(N * V * sizeof *q);
    int32_t next[N];
    q3_divergence one[N], many[N];
    for (int i = 0; i < N * V; i++) {
        p[i] = sinf((float)i);
        q[i] = p[i] + 0.1f * cosf(3 * (float)i);
    }
    for (int i = 0; i < N; i++)
        next[i] = i;
    q3_divergence_of(one, p, q, next, N, V);
    q3_pool_start(3);
    q3_divergence_of(many, p, q, next, N, V);
    q3_pool_stop();
    for (int i = 0; i < N; i++)
        assert_true(one[i].kl > 0 && one[i].kl == many[i].kl && one[i].loss_q == many[i].loss_q);
    free(p);
    free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kl_is_that_of_the_formula),
        cmocka_unit_test(losses_and_likeliest_tokens_are_told),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests_name("divergence", tests, NULL, NULL);
}
