#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "kernels/pool.h"
#include "optim/adamw.h"

enum { N = 4097 };

static const q3_adamw_hyper hyper = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01 };
static float p[N], g[N], m[N], v[N];

static void fill(uint32_t step)
{
    const q3_random r = { .seed = 5, .purpose = Q3_RANDOM_TEST, .step = step };
    for (uint64_t i = 0; i < N; i++)
        g[i] = (float)q3_random_normal(&r, i) * (i % 3 ? 1e-3f : 1.0f);
}

static void start(void)
{
    const q3_random r = { .seed = 6, .purpose = Q3_RANDOM_TEST };
    for (uint64_t i = 0; i < N; i++)
        p[i] = (float)q3_random_normal(&r, i);
    memset(m, 0, sizeof m);
    memset(v, 0, sizeof v);
}

/* The formula of the paper in double. */
typedef struct exact {
    double p, m, v;
} exact;

static void exact_step(exact *e, double grad, const q3_adamw_hyper *h, double lr, int step, bool decay)
{
    if (decay)
        e->p *= 1 - lr * h->weight_decay;
    e->m = h->beta1 * e->m + (1 - h->beta1) * grad;
    e->v = h->beta2 * e->v + (1 - h->beta2) * grad * grad;
    double mhat = e->m / (1 - pow(h->beta1, step)), vhat = e->v / (1 - pow(h->beta2, step));
    e->p -= lr * mhat / (sqrt(vhat) + h->eps);
}

static void one_step_is_within_two_ulp_of_the_formula(void **state)
{
    (void)state;
    for (int decay = 0; decay < 2; decay++) {
        start();
        fill(1);
        static float before[N];
        memcpy(before, p, sizeof p);
        q3_adamw_step(NULL, p, g, m, v, N, &hyper, 2e-4, 1, decay);
        for (int i = 0; i < N; i++) {
            exact e = { .p = (double)before[i] };
            exact_step(&e, (double)g[i], &hyper, 2e-4, 1, decay);
            double ulp = (double)(nextafterf(fabsf(before[i]), INFINITY) - fabsf(before[i]));
            assert_true(fabs((double)p[i] - e.p) <= 2 * ulp + 1e-10);
        }
    }
}

static void thirty_steps_stay_close_to_the_formula(void **state)
{
    (void)state;
    static exact e[N];
    static float first[N];
    start();
    memcpy(first, p, sizeof p);
    for (int i = 0; i < N; i++)
        e[i] = (exact){ .p = (double)p[i] };
    for (int step = 1; step <= 30; step++) {
        double lr = 1e-3 * step / 30;
        fill((uint32_t)step);
        q3_adamw_step(NULL, p, g, m, v, N, &hyper, lr, step, true);
        for (int i = 0; i < N; i++)
            exact_step(&e[i], (double)g[i], &hyper, lr, step, true);
    }
    double error = 0, moved = 0;
    for (int i = 0; i < N; i++) {
        error += pow((double)p[i] - e[i].p, 2);
        moved += pow(e[i].p - (double)first[i], 2);
    }
    assert_true(moved > 0.01);
    assert_true(sqrt(error / moved) < 1e-4); // 30 roundings of p, each half an ulp of 1 against steps of 5e-4
}

/* The rule of bitsandbytes' 32-bit optimizer: the same step, the decay behind it. */
static void the_other_rule_differs_by_the_place_of_the_decay(void **state)
{
    (void)state;
    start();
    fill(1);
    static float before[N];
    memcpy(before, p, sizeof p);
    q3_adamw_args a = q3_adamw_bnb_scalars(&hyper, 1e-2, 1, true);
    a.p = p;
    a.g = g;
    a.m = m;
    a.v = v;
    a.n = N;
    q3_adamw_bnb_cpu(&a);
    for (int i = 0; i < N; i++) {
        exact e = { .p = (double)before[i] };
        exact_step(&e, (double)g[i], &hyper, 1e-2, 1, false);
        assert_true(fabs((double)p[i] - e.p * (1 - 1e-4)) <= 1e-6 * fmax(1, fabs(e.p)));
    }
}

static void rate_zero_changes_the_moments_only(void **state)
{
    (void)state;
    start();
    fill(1);
    static float before[N];
    memcpy(before, p, sizeof p);
    q3_adamw_step(NULL, p, g, m, v, N, &hyper, 0, 1, true);
    assert_memory_equal(p, before, sizeof p);
    assert_true(m[0] == 0.1f * g[0] || fabsf(m[0] / g[0] - 0.1f) < 1e-7f);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    static float one[N];
    for (int threads = 1; threads <= 4; threads++) {
        q3_pool_start(threads);
        start();
        for (int step = 1; step <= 3; step++) {
            fill((uint32_t)step);
            q3_adamw_step(NULL, p, g, m, v, N, &hyper, 1e-3, step, true);
        }
        if (threads == 1)
            memcpy(one, p, sizeof p);
        assert_memory_equal(p, one, sizeof p);
    }
    q3_pool_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_step_is_within_two_ulp_of_the_formula),
        cmocka_unit_test(thirty_steps_stay_close_to_the_formula),
        cmocka_unit_test(the_other_rule_differs_by_the_place_of_the_decay),
        cmocka_unit_test(rate_zero_changes_the_moments_only),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
