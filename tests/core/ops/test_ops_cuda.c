/* Runs every case of the op list on a CUDA device, in float32 and bfloat16, against the CPU's reference on the same
 * inputs, and against `plain` on the device where a case has one. In bfloat16 activations are rounded before either sees them. Fresh values and gradients are NaN. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/device.h"
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

static q3_cuda *device; // NULL where there is none

/* Where a case is run: on the CPU (cuda NULL) or on the device. */
typedef struct side {
    q3_cuda *cuda;
    q3_arena inputs, data; // inputs and their gradients; values of the step
    q3_ctx ctx;
} side;

/* What a run leaves, as f32 on the host. */
typedef struct result {
    int64_t n;
    float *y, *grad[Q3_CASE_INPUTS];
} result;

static void side_open(side *s, q3_cuda *cuda, q3_dtype dtype)
{
    s->cuda = cuda;
    assert_int_equal(q3_device_arena_create(&s->inputs, cuda, "inputs", (size_t)1 << 30), Q3_OK);
    assert_int_equal(q3_device_arena_create(&s->data, cuda, "step", (size_t)1 << 30), Q3_OK);
    assert_int_equal(q3_ctx_create(&s->ctx, &s->data), Q3_OK);
    s->ctx.poison = true;
    s->ctx.seed = 42;
    s->ctx.dtype = cuda ? dtype : Q3_F32;
}

static void side_close(side *s)
{
    q3_ctx_destroy(&s->ctx);
    q3_arena_destroy(&s->data);
    q3_arena_destroy(&s->inputs);
}

static void result_free(result *r)
{
    free(r->y);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        free(r->grad[i]);
}

static void *placed(side *s, const void *host, size_t bytes)
{
    void *p = q3_arena_alloc(&s->inputs, bytes);
    assert_non_null(p);
    q3_device_write(s->cuda, p, host, bytes);
    return p;
}

static bool is_activation(const q3_tensor *t)
{
    return !t->name && t->dtype == Q3_F32;
}

static void round_values(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = q3_bf16_to_f32(q3_f32_to_bf16(x[i]));
}

static void *halves(const float *x, int64_t n)
{
    uint16_t *h = malloc((size_t)n * sizeof *h + 1);
    for (int64_t i = 0; i < n; i++)
        h[i] = q3_f32_to_bf16(x[i]);
    return h;
}

/* A copy of an input on this side, in the type that the side computes in. */
static void place(side *s, q3_tensor *out, const q3_tensor *t)
{
    *out = *t;
    out->root = out;
    if (is_activation(t) && s->ctx.dtype == Q3_BF16) {
        void *h = halves(q3_f32(t), q3_numel(t));
        out->dtype = Q3_BF16;
        out->data = placed(s, h, q3_nbytes(out));
        free(h);
    } else {
        out->data = placed(s, t->data, q3_nbytes(t));
    }
    if (t->absmax)
        out->absmax = placed(s, t->absmax, (size_t)((q3_numel(t) + t->block - 1) / t->block) * sizeof(float));
}

static float *read_as(side *s, const q3_tensor *like, void *data)
{
    q3_tensor t = *like;
    float *out = malloc((size_t)q3_numel(like) * sizeof *out + 1);
    t.data = data;
    q3_read(out, &s->ctx, &t);
    return out;
}

/* Runs the op; *dy is drawn at the first run. */
static result run(side *s, q3_case *c, q3_tensor *(*apply)(const q3_case *, q3_ctx *), float **dy, bool rounded)
{
    result r = { 0 };
    q3_tensor in[Q3_CASE_INPUTS];
    q3_case here = *c;
    q3_arena_reset(&s->inputs);
    q3_step_begin(&s->ctx, true);
    for (int i = 0; i < Q3_CASE_INPUTS; i++) {
        if (!c->in[i])
            continue;
        place(s, &in[i], c->in[i]);
        here.in[i] = &in[i];
        in[i].needs_grad = in[i].grad_kept = c->differentiable[i];
        in[i].grad = NULL;
        if (c->differentiable[i]) {
            in[i].grad = q3_arena_alloc(&s->inputs, q3_nbytes(&in[i]));
            q3_device_fill(s->cuda, in[i].grad, 0xff, q3_nbytes(&in[i]));
        }
    }
    q3_tensor *y = apply(&here, &s->ctx);
    if (q3_ctx_status(&s->ctx) != Q3_OK)
        fail_msg("%s", q3_error());
    r.n = q3_numel(y);
    r.y = read_as(s, y, y->data);
    if (!*dy) {
        *dy = malloc((size_t)r.n * sizeof **dy + 1);
        for (int64_t i = 0; i < r.n; i++)
            (*dy)[i] = r.n == 1 ? 1 : q3_case_uniform(c, -1, 1);
        if (rounded)
            round_values(*dy, r.n);
    }
    float beta;
    void *g = q3_grad(&s->ctx, y, &beta), *h = y->dtype == Q3_BF16 ? halves(*dy, r.n) : NULL;
    if (g)
        q3_device_write(s->cuda, g, h ? h : *dy, q3_nbytes(y));
    free(h);
    q3_backward_from(&s->ctx, y);
    if (q3_ctx_status(&s->ctx) != Q3_OK)
        fail_msg("%s", q3_error());
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (c->in[i] && c->differentiable[i])
            r.grad[i] = read_as(s, &in[i], in[i].grad);
    return r;
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

static void compare(const char *what, const q3_case *c, double bound, const result *got, const result *want)
{
    assert_int_equal(got->n, want->n);
    double d = distance(got->y, want->y, want->n);
    if (!(d <= bound))
        fail_msg("variant %d, %s: relative distance %.3g, allowed %.3g", c->variant, what, d, bound);
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        if (want->grad[i]) {
            d = distance(got->grad[i], want->grad[i], q3_numel(c->in[i]));
            if (!(d <= bound))
                fail_msg("variant %d, %s, gradient of input %d: relative distance %.3g, allowed %.3g", c->variant, what,
                         i, d, bound);
        }
}

static void run_variant(const q3_op_case *test, int variant, q3_dtype dtype)
{
    q3_arena mem;
    side cpu, cuda;
    float *dy = NULL;
    bool half = dtype == Q3_BF16;
    q3_case c = { .variant = variant, .counter = 1000u * (uint64_t)(variant + 1), .mem = &mem };
    assert_int_equal(q3_arena_create(&mem, "case", (size_t)1 << 28), Q3_OK);
    test->build(&c);
    for (int i = 0; i < Q3_CASE_INPUTS && half; i++)
        if (c.in[i] && is_activation(c.in[i]))
            round_values(q3_f32(c.in[i]), q3_numel(c.in[i]));
    side_open(&cpu, NULL, Q3_F32);
    side_open(&cuda, device, dtype);
    result want = run(&cpu, &c, test->apply, &dy, half);
    result got = run(&cuda, &c, test->apply, &dy, half), again = run(&cuda, &c, test->apply, &dy, half);
    double bound = test->tolerance > 0 ? test->tolerance : 1e-5;
    compare(half ? "bfloat16" : "float32", &c, half ? 1e-2 : bound, &got, &want);
    compare("again", &c, 0, &again, &got);
    if (test->plain) {
        result plain = run(&cuda, &c, test->plain, &dy, half);
        compare(half ? "plain ops, bfloat16" : "plain ops", &c, half ? 1e-2 : bound, &plain, &got);
        result_free(&plain);
    }
    result_free(&want);
    result_free(&got);
    result_free(&again);
    free(dy);
    side_close(&cuda);
    side_close(&cpu);
    q3_arena_destroy(&mem);
}

static void run_case(void **state)
{
    const q3_op_case *test = *state;
    if (!device)
        skip();
    for (int variant = 0; variant < test->variants; variant++) {
        run_variant(test, variant, Q3_F32);
        run_variant(test, variant, Q3_BF16);
    }
}

static int prepare(void **state)
{
    (void)state;
    if (q3_device_open(&device, "cuda") != Q3_OK)
        print_message("no device: %s\n", q3_error());
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    q3_pool_start(1);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    q3_device_close(device);
    q3_pool_stop();
    return 0;
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[Q3_OP_COUNT];
    size_t n = 0;
    for (int i = 0; i < Q3_OP_COUNT; i++) // usage: test_core_ops_ops_cuda [OP]
        if (argc < 2 || strcmp(argv[1], cases[i].name) == 0)
            tests[n++] = (struct CMUnitTest){ cases[i].name, run_case, NULL, NULL, (void *)(uintptr_t)cases[i].test };
    return n ? _cmocka_run_group_tests("ops on cuda", tests, n, prepare, finish) : 1;
}
