/* Runs every case of the op list; see tests/support/op_case.h for what is checked. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "tests/support/op_case.h"

static const struct {
    const char *name;
    const q3_op_case *test;
} cases[Q3_OP_COUNT] = {
#define Q3_OP(id, stem) { #stem, &q3_case_##stem },
#include "core/op_list.h"
#undef Q3_OP
};

/* What a run of the op leaves: its result and the gradients of its inputs. */
typedef struct result {
    int64_t n;
    float *y;
    float *grad[Q3_CASE_INPUTS];
} result;

typedef struct bench {
    const q3_op_case *test;
    q3_case c;
    q3_arena inputs, data;
    q3_ctx ctx;
    float *dy; // the result's gradient, for every run
} bench;

static void result_free(result *r)
{
    free(r->y);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        free(r->grad[i]);
}

static float *copy(const float *x, int64_t n)
{
    return memcpy(malloc((size_t)n * sizeof *x), x, (size_t)n * sizeof *x);
}

/* Runs the op; gradients of the inputs in `wanted` (a bit each), added to `start` when given. */
static result run_with(bench *b, q3_tensor *(*apply)(const q3_case *, q3_ctx *), unsigned wanted,
                       const result *start)
{
    result r = { 0 };
    q3_step_begin(&b->ctx, true);
    for (int i = 0; i < Q3_CASE_INPUTS; i++) {
        q3_tensor *t = b->c.in[i];
        if (!t)
            continue;
        t->needs_grad = b->c.differentiable[i] && (wanted >> i & 1);
        t->grad = t->needs_grad ? malloc(q3_nbytes(t)) : NULL;
        t->grad_kept = t->needs_grad;
        t->grad_set = t->needs_grad && start;
        for (int64_t k = 0; t->grad && k < q3_numel(t); k++)
            ((float *)t->grad)[k] = start ? start->grad[i][k] : NAN;
    }
    q3_tensor *y = apply(&b->c, &b->ctx);
    assert_int_equal(q3_ctx_status(&b->ctx), Q3_OK);
    r.n = q3_numel(y);
    r.y = copy(q3_f32(y), r.n);
    if (!b->dy) {
        b->dy = malloc((size_t)r.n * sizeof(float));
        for (int64_t i = 0; i < r.n; i++)
            b->dy[i] = r.n == 1 ? 1 : q3_case_uniform(&b->c, -1, 1);
    }
    float beta, *dy = q3_grad(&b->ctx, y, &beta);
    if (dy)
        memcpy(dy, b->dy, (size_t)r.n * sizeof(float));
    q3_backward_from(&b->ctx, y);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (b->c.in[i]) {
            r.grad[i] = b->c.in[i]->grad;
            b->c.in[i]->grad = NULL;
        }
    return r;
}

static result run(bench *b, unsigned wanted, const result *start)
{
    return run_with(b, b->test->apply, wanted, start);
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return s == 0 ? sqrt(d) : sqrt(d / s);
}

static void close_enough(const bench *b, const char *what, const float *a, const float *ref, int64_t n)
{
    double bound = b->test->tolerance > 0 ? b->test->tolerance : 1e-5, d = distance(a, ref, n);
    if (!(d <= bound))
        fail_msg("variant %d, %s: relative distance %.3g, allowed %.3g", b->c.variant, what, d, bound);
}

static void results_agree(const bench *b, const char *what, const result *a, const result *ref)
{
    assert_int_equal(a->n, ref->n);
    close_enough(b, what, a->y, ref->y, ref->n);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (a->grad[i] && ref->grad[i]) {
            char name[96];
            snprintf(name, sizeof name, "%s, gradient of input %d", what, i);
            close_enough(b, name, a->grad[i], ref->grad[i], q3_numel(b->c.in[i]));
        }
}

static bool same_bits(const bench *b, const result *a, const result *ref)
{
    bool same = memcmp(a->y, ref->y, (size_t)ref->n * sizeof(float)) == 0;
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (ref->grad[i] && a->grad[i])
            same = same && memcmp(a->grad[i], ref->grad[i], q3_nbytes(b->c.in[i])) == 0;
    return same;
}

static double directional(bench *b, int input, const float *x, const float *direction, double h)
{
    q3_tensor *t = b->c.in[input];
    for (int64_t k = 0; k < q3_numel(t); k++)
        q3_f32(t)[k] = (float)(x[k] + h * direction[k]);
    result r = run(b, 0, NULL);
    double sum = 0;
    for (int64_t k = 0; k < r.n; k++)
        sum += (double)r.y[k] * b->dy[k];
    result_free(&r);
    return sum;
}

/* <grad, d> against (f(x + h d) - f(x - h d)) / 2h for f = <dy, y>; the differences are rounded to float with
 * x. */
static void check_differences(bench *b, const result *ref, int input)
{
    q3_tensor *t = b->c.in[input];
    int64_t n = q3_numel(t);
    double h = b->test->difference_step > 0 ? b->test->difference_step : 1e-2;
    double bound = b->test->difference_bound > 0 ? b->test->difference_bound : 2e-3;
    float *x = copy(q3_f32(t), n), *direction = malloc((size_t)n * sizeof(float));
    double worst = 0, scale = 0;
    for (int round = 0; round < 3; round++) {
        double analytic = 0, norm = 0;
        for (int64_t k = 0; k < n; k++) {
            direction[k] = q3_case_uniform(&b->c, -1, 1);
            analytic += (double)ref->grad[input][k] * direction[k];
            norm += (double)ref->grad[input][k] * ref->grad[input][k] * direction[k] * direction[k];
        }
        double numeric =
            (directional(b, input, x, direction, h) - directional(b, input, x, direction, -h)) / (2 * h);
        worst = fmax(worst, fabs(numeric - analytic));
        scale = fmax(scale, sqrt(norm));
    }
    memcpy(q3_f32(t), x, (size_t)n * sizeof(float));
    free(x);
    free(direction);
    double noise = 2e-6 * (double)ref->n / h; // float rounding of a sum of ref->n terms below one
    if (!(worst <= bound * scale + fmin(noise, bound)))
        fail_msg("variant %d, input %d: differences are off by %.3g, scale %.3g", b->c.variant, input, worst,
                 scale);
}

static void check_accumulation(bench *b, const result *ref)
{
    result twice = run(b, ~0u, ref);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (twice.grad[i]) {
            for (int64_t k = 0; k < q3_numel(b->c.in[i]); k++)
                twice.grad[i][k] -= ref->grad[i][k];
            close_enough(b, "gradient added to itself", twice.grad[i], ref->grad[i], q3_numel(b->c.in[i]));
        }
    result_free(&twice);
}

static void check_levels(bench *b, const result *ref)
{
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++) {
        if (!q3_cpu_set_level((q3_cpu_isa)level))
            continue;
        q3_pool_start(1);
        result one = run(b, ~0u, NULL);
        results_agree(b, q3_cpu_level_name((q3_cpu_isa)level), &one, ref);
        for (int threads = 2; threads <= 3; threads++) {
            q3_pool_start(threads);
            result many = run(b, ~0u, NULL);
            if (!same_bits(b, &many, &one))
                fail_msg("variant %d, %s: %d threads give other bits", b->c.variant,
                         q3_cpu_level_name((q3_cpu_isa)level), threads);
            result_free(&many);
        }
        for (int i = 0; i < Q3_CASE_INPUTS; i++) {
            if (!one.grad[i])
                continue;
            result alone = run(b, 1u << i, NULL);
            if (!same_bits(b, &alone, &one))
                fail_msg("variant %d: the gradient of input %d alone differs", b->c.variant, i);
            result_free(&alone);
        }
        check_accumulation(b, ref);
        result_free(&one);
    }
    q3_cpu_set_level(Q3_CPU_REFERENCE);
}

static void check_formula(bench *b, const result *ref)
{
    double *want = malloc((size_t)ref->n * sizeof(double));
    float *rounded = malloc((size_t)ref->n * sizeof(float));
    b->test->expected(&b->c, want);
    for (int64_t i = 0; i < ref->n; i++)
        rounded[i] = (float)want[i];
    close_enough(b, "independent formula", ref->y, rounded, ref->n);
    free(want);
    free(rounded);
}

static void run_variant(const q3_op_case *test, int variant)
{
    bench b = { .test = test, .c = { .variant = variant, .counter = 1000u * (uint64_t)(variant + 1) } };
    assert_int_equal(q3_arena_create(&b.inputs, "inputs", (size_t)1 << 28), Q3_OK);
    assert_int_equal(q3_arena_create(&b.data, "step", (size_t)1 << 30), Q3_OK);
    assert_int_equal(q3_ctx_create(&b.ctx, &b.data), Q3_OK);
    b.ctx.poison = true;
    b.ctx.seed = 42;
    b.c.mem = &b.inputs;
    test->build(&b.c);
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    q3_pool_start(2);

    result ref = run(&b, ~0u, NULL);
    if (test->expected)
        check_formula(&b, &ref);
    if (test->plain) {
        result plain = run_with(&b, test->plain, ~0u, NULL);
        results_agree(&b, "plain ops", &plain, &ref);
        result_free(&plain);
    }
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (ref.grad[i])
            check_differences(&b, &ref, i);
    check_levels(&b, &ref);

    result_free(&ref);
    free(b.dy);
    q3_ctx_destroy(&b.ctx);
    q3_arena_destroy(&b.data);
    q3_arena_destroy(&b.inputs);
    q3_pool_stop();
}

static void run_case(void **state)
{
    const q3_op_case *test = *state;
    for (int variant = 0; variant < test->variants; variant++)
        run_variant(test, variant);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[Q3_OP_COUNT];
    size_t n = 0;
    for (int i = 0; i < Q3_OP_COUNT; i++) // usage: test_core_ops_ops [OP]
        if (argc < 2 || strcmp(argv[1], cases[i].name) == 0)
            tests[n++] =
                (struct CMUnitTest){ cases[i].name, run_case, NULL, NULL, (void *)(uintptr_t)cases[i].test };
    return n ? _cmocka_run_group_tests("ops", tests, n, NULL, NULL) : 1;
}
