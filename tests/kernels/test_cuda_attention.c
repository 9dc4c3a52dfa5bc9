#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/attention.h"

enum { MAX_SEGMENTS = 5, GUARD = 64 }; // GUARD: bytes behind every array that must stay as they are

/* Segments as (queries, keys); `gap` unused rows lie in front of each segment's keys and behind the last query. */
typedef struct setting {
    int heads, kv_heads, D, n, gap;
    bool causal;
    int64_t length[MAX_SEGMENTS][2];
} setting;

static const setting settings[] = {
    { 1, 1, 1, 1, 0, true, { { 1, 1 } } },
    { 4, 2, 32, 3, 0, true, { { 7, 7 }, { 48, 48 }, { 1, 1 } } },
    { 2, 1, 12, 4, 2, false, { { 33, 33 }, { 0, 0 }, { 7, 9 }, { 24, 65 } } },
    { 6, 2, 18, 3, 1, true, { { 5, 70 }, { 1, 33 }, { 66, 66 } } }, // cached prefixes
    { 3, 3, 16, 3, 0, true, { { 9, 4 }, { 3, 0 }, { 2, 2 } } },     // queries that see no key
    { 2, 1, 16, 2, 3, true, { { 0, 5 }, { 80, 20 } } },             // keys that no query sees
    { 2, 2, 72, 2, 0, false, { { 20, 20 }, { 35, 35 } } },          // vision
    { 2, 1, 80, 3, 2, false, { { 65, 65 }, { 1, 129 }, { 130, 3 } } },
    { 4, 2, 128, 1, 0, true, { { 97, 97 } } },
    { 4, 1, 128, 3, 1, true, { { 129, 140 }, { 3, 64 }, { 64, 64 } } },
    { 2, 1, 64, 2, 0, true, { { 200, 210 }, { 31, 33 } } },
    { 2, 1, 256, 2, 1, true, { { 40, 45 }, { 33, 33 } } }, // no tensor cores: too wide
    { 5, 1, 64, 2, 0, true, { { 1, 129 }, { 1, 40 } } },   // decoding
    { 10, 2, 128, 5, 3, true, { { 1, 520 }, { 1, 256 }, { 0, 7 }, { 1, 0 }, { 1, 257 } } },
    { 2, 2, 72, 2, 1, false, { { 3, 300 }, { 4, 2 } } },
    { 4, 2, 256, 3, 0, true, { { 4, 260 }, { 2, 1 }, { 3, 30 } } },
    { 3, 3, 16, 3, 2, true, { { 4, 2 }, { 3, 0 }, { 2, 2 } } }, // no tile, and queries that see no key
};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* Kernels that a setting runs through; what does not take its shape hands it on. */
static const struct {
    q3_attention_kind kind;
    q3_dtype dtype;
    double tolerance;
} ways[] = {
    { Q3_ATTENTION_REFERENCE, Q3_F32, 1e-5 },
    { Q3_ATTENTION_AUTO, Q3_F32, 1e-5 },
    { Q3_ATTENTION_REFERENCE, Q3_BF16, 1e-2 },
    { Q3_ATTENTION_FLASH, Q3_BF16, 1e-2 },
};
enum { WAYS = sizeof ways / sizeof *ways };

static q3_cuda *cuda;
static uint32_t state;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-23f - 1;
}

static void *zeroed(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

/* n numbers that both types can say. */
static float *numbers(int64_t n, q3_dtype dtype)
{
    float *x = zeroed((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = dtype == Q3_BF16 ? q3_bf16_to_f32(q3_f32_to_bf16(uniform())) : uniform();
    return x;
}

static float *constants(int64_t n, float value)
{
    float *x = zeroed((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = value;
    return x;
}

/* A copy on the device in the given type, with a guard behind it. */
static void *put(const void *x, int64_t n, q3_dtype dtype)
{
    size_t bytes = q3_dtype_bytes(dtype, n);
    uint8_t *host = zeroed(bytes + GUARD), *device = q3_cuda_alloc(cuda, bytes + GUARD);
    assert_non_null(device);
    memset(host, 0x5a, bytes + GUARD);
    if (dtype == Q3_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)(void *)host)[i] = q3_f32_to_bf16(((const float *)x)[i]);
    else
        memcpy(host, x, bytes);
    q3_cuda_upload(cuda, device, host, bytes + GUARD);
    free(host);
    return device;
}

/* Back as f32, and freed there. */
static float *take(void *device, int64_t n, q3_dtype dtype)
{
    size_t bytes = q3_dtype_bytes(dtype, n);
    uint8_t *host = zeroed(bytes + GUARD);
    float *x = zeroed((size_t)n * sizeof *x);
    q3_cuda_download(cuda, host, device, bytes + GUARD);
    q3_cuda_free(cuda, device);
    for (int i = 0; i < GUARD; i++)
        assert_int_equal(host[bytes + (size_t)i], 0x5a);
    for (int64_t i = 0; i < n; i++)
        x[i] = dtype == Q3_BF16 ? q3_bf16_to_f32(((uint16_t *)(void *)host)[i]) : ((float *)(void *)host)[i];
    free(host);
    return x;
}

static void no_failure(void)
{
    char why[Q3_CUDA_SENTENCE] = "";
    bool failed = q3_cuda_take_failure(cuda, why);
    assert_string_equal(why, "");
    assert_false(failed);
}

static void near(const char *what, int index, int way, const float *got, const float *want, int64_t n,
                 double tolerance)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (!(sqrt(difference) <= tolerance * sqrt(norm)))
        fail_msg("%s, setting %d, way %d: off by %g of %g", what, index, way, sqrt(difference), sqrt(norm));
}

/* One setting with its inputs, and what the CPU makes of them. */
typedef struct problem {
    const setting *s;
    int64_t segments[4 * MAX_SEGMENTS];
    int64_t T, S, used; // queries, keys, queries of segments
    float *q, *k, *v, *dout, *dq, *dk, *dv;
    float beta;
} problem;

static int64_t queries_of(const problem *p)
{
    return p->T * p->s->heads * p->s->D;
}
static int64_t keys_of(const problem *p)
{
    return p->S * p->s->kv_heads * p->s->D;
}

/* Unused keys and values are NaN, which must not reach the result. */
static void hide_unused(const problem *p, float *x)
{
    int64_t C = (int64_t)p->s->kv_heads * p->s->D;
    for (int i = 0; i < p->s->n; i++)
        for (int64_t c = (p->segments[4 * i + 2] - p->s->gap) * C; c < p->segments[4 * i + 2] * C; c++)
            x[c] = NAN;
}

static problem problem_of(int index, q3_dtype dtype, float beta)
{
    problem p = { .s = &settings[index], .beta = beta };
    for (int i = 0; i < p.s->n; i++) {
        p.S += p.s->gap;
        memcpy(p.segments + 4 * i, (int64_t[]){ p.T, p.s->length[i][0], p.S, p.s->length[i][1] },
               4 * sizeof(int64_t));
        p.T += p.s->length[i][0];
        p.S += p.s->length[i][1];
    }
    p.used = p.T;
    p.T += p.s->gap;
    state = 77 + (uint32_t)index;
    p.q = numbers(queries_of(&p), dtype), p.dout = numbers(queries_of(&p), dtype);
    p.k = numbers(keys_of(&p), dtype), p.v = numbers(keys_of(&p), dtype);
    hide_unused(&p, p.k), hide_unused(&p, p.v);
    p.dq = beta != 0 ? numbers(queries_of(&p), dtype) : constants(queries_of(&p), NAN);
    p.dk = beta != 0 ? numbers(keys_of(&p), dtype) : constants(keys_of(&p), NAN);
    p.dv = beta != 0 ? numbers(keys_of(&p), dtype) : constants(keys_of(&p), NAN);
    return p;
}

static void release(problem *p)
{
    float *all[] = { p->q, p->k, p->v, p->dout, p->dq, p->dk, p->dv };
    for (int i = 0; i < 7; i++)
        free(all[i]);
}

typedef struct result {
    float *o, *lse, *dq, *dk, *dv;
} result;

static void release_result(result *r)
{
    float *all[] = { r->o, r->lse, r->dq, r->dk, r->dv };
    for (int i = 0; i < 5; i++)
        free(all[i]);
}

static q3_attention_args args_of(const problem *p, q3_dtype dtype)
{
    return (q3_attention_args){ .segments = p->segments,
                                .n_segments = p->s->n,
                                .heads = p->s->heads,
                                .kv_heads = p->s->kv_heads,
                                .head_size = p->s->D,
                                .scale = 2 / sqrtf((float)p->s->D),
                                .causal = p->s->causal,
                                .dtype = dtype };
}

static float *copy(const float *x, int64_t n)
{
    return memcpy(zeroed((size_t)n * sizeof *x), x, (size_t)n * sizeof *x);
}

static result on_cpu(const problem *p)
{
    result r = { .o = constants(queries_of(p), 0), .lse = constants(p->T * p->s->heads, 0) };
    q3_attention_args a = args_of(p, Q3_F32);
    a.o = r.o, a.lse = r.lse, a.q = p->q, a.k = p->k, a.v = p->v;
    q3_attention_forward_cpu(&a);
    r.dq = copy(p->dq, queries_of(p)), r.dk = copy(p->dk, keys_of(p)), r.dv = copy(p->dv, keys_of(p));
    float *delta = zeroed((size_t)(p->T * p->s->heads) * sizeof *delta);
    q3_attention_backward_args b = { .f = a,
                                     .dout = p->dout,
                                     .delta = delta,
                                     .queries = p->T,
                                     .keys = p->S,
                                     .dq = r.dq,
                                     .dk = r.dk,
                                     .dv = r.dv,
                                     .dq_beta = p->beta,
                                     .dk_beta = p->beta,
                                     .dv_beta = p->beta };
    q3_attention_backward_cpu(&b);
    free(delta);
    return r;
}

static result on_device(const problem *p, q3_dtype dtype)
{
    int64_t n = queries_of(p), m = keys_of(p), rows = p->T * p->s->heads;
    float *nan = constants(n > rows ? n : rows, NAN);
    q3_attention_args a = args_of(p, dtype);
    void *q = put(p->q, n, dtype), *k = put(p->k, m, dtype), *v = put(p->v, m, dtype);
    void *dout = put(p->dout, n, dtype), *segments = put(p->segments, 4 * p->s->n, Q3_I64);
    a.q = q, a.k = k, a.v = v, a.device_segments = segments;
    a.o = put(nan, n, dtype), a.lse = put(nan, rows, Q3_F32);
    q3_attention_forward_cuda(&a, cuda);
    q3_attention_backward_args b = { .f = a,
                                     .dout = dout,
                                     .delta = put(nan, rows, Q3_F32),
                                     .queries = p->T,
                                     .keys = p->S,
                                     .dq = put(p->dq, n, dtype),
                                     .dk = put(p->dk, m, dtype),
                                     .dv = put(p->dv, m, dtype),
                                     .dq_beta = p->beta,
                                     .dk_beta = p->beta,
                                     .dv_beta = p->beta };
    q3_attention_backward_cuda(&b, cuda);
    result r = { take(a.o, n, dtype), take(a.lse, rows, Q3_F32), take(b.dq, n, dtype), take(b.dk, m, dtype),
                 take(b.dv, m, dtype) };
    void *inputs[] = { q, k, v, dout, segments };
    for (int i = 0; i < 5; i++)
        q3_cuda_free(cuda, inputs[i]);
    free(take(b.delta, rows, Q3_F32));
    free(nan);
    no_failure();
    return r;
}

static void compare(int index, int way, float beta)
{
    q3_dtype dtype = ways[way].dtype;
    double tolerance = ways[way].tolerance;
    cuda->attention = ways[way].kind;
    problem p = problem_of(index, dtype, beta);
    int64_t rows = p.used * p.s->heads;
    result want = on_cpu(&p), got = on_device(&p, dtype);
    near("o", index, way, got.o, want.o, rows * p.s->D, tolerance);
    near("lse", index, way, got.lse, want.lse, rows, tolerance);
    near("dq", index, way, got.dq, want.dq, queries_of(&p), tolerance);
    near("dk", index, way, got.dk, want.dk, keys_of(&p), tolerance);
    near("dv", index, way, got.dv, want.dv, keys_of(&p), tolerance);
    for (int64_t i = rows * p.s->D; i < queries_of(&p); i++)
        assert_true(got.dq[i] == (beta != 0 ? p.dq[i] : 0.0f));
    release_result(&want), release_result(&got);
    release(&p);
}

static void both_passes_agree_with_the_cpu(void **unused)
{
    (void)unused;
    for (int index = 0; index < SETTINGS; index++)
        for (int way = 0; way < WAYS; way++)
            compare(index, way, 0);
}

static void gradients_are_added(void **unused)
{
    (void)unused;
    const int some[] = { 2, 3, 5, 7, 8, 12 };
    for (int n = 0; n < 6; n++)
        for (int way = 0; way < WAYS; way++)
            compare(some[n], way, 1);
}

static void same_bits(const float *x, const float *y, int64_t n)
{
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
}

/* Twice on a card; in the emulator, under orders of its threads that differ. */
static void same_inputs_give_the_same_bits(void **unused)
{
    (void)unused;
    const int some[] = { 5, 7, 8, 12 };
    for (int n = 0; n < 4 * WAYS; n++) {
        q3_dtype dtype = ways[n % WAYS].dtype;
        cuda->attention = ways[n % WAYS].kind;
        problem p = problem_of(some[n / WAYS], dtype, 0);
        result first = on_device(&p, dtype);
        for (int schedule = 1; schedule < 4; schedule++) {
            setenv("Q3_CUDA_EMU_SCHEDULE", (const char *[]){ "1", "2", "3" }[schedule - 1], 1);
            result again = on_device(&p, dtype);
            same_bits(first.o, again.o, p.used * p.s->heads * p.s->D);
            same_bits(first.lse, again.lse, p.used * p.s->heads);
            same_bits(first.dq, again.dq, queries_of(&p));
            same_bits(first.dk, again.dk, keys_of(&p));
            same_bits(first.dv, again.dv, keys_of(&p));
            release_result(&again);
        }
        unsetenv("Q3_CUDA_EMU_SCHEDULE");
        release_result(&first);
        release(&p);
    }
}

/* A segment's result does not depend on the segments beside it: tile shapes follow the longest. */
static void segments_ignore_each_other(void **unused)
{
    (void)unused;
    for (int way = 0; way < WAYS; way++) {
        cuda->attention = ways[way].kind;
        problem p = problem_of(9, ways[way].dtype, 0),
                alone = p; // its last segment has 64 queries, the first 129
        setting one = { p.s->heads, p.s->kv_heads, p.s->D, 1, p.s->gap, true, { { 64, 64 } } };
        alone.s = &one;
        memcpy(alone.segments, p.segments + 8, 4 * sizeof *p.segments);
        result x = on_device(&p, ways[way].dtype), y = on_device(&alone, ways[way].dtype);
        int64_t C = (int64_t)p.s->heads * p.s->D, first = p.segments[8];
        same_bits(x.o + first * C, y.o + first * C, 64 * C);
        same_bits(x.dq + first * C, y.dq + first * C, 64 * C);
        release_result(&x), release_result(&y);
        release(&p);
    }
}

static void unwanted_results_may_be_missing(void **unused)
{
    (void)unused;
    for (int way = 0; way < WAYS; way++) {
        q3_dtype dtype = ways[way].dtype;
        cuda->attention = ways[way].kind;
        problem p = problem_of(8, dtype, 0);
        result whole = on_device(&p, dtype);
        int64_t n = queries_of(&p), m = keys_of(&p), rows = p.T * p.s->heads;
        q3_attention_args a = args_of(&p, dtype);
        void *held[] = { put(p.q, n, dtype),         put(p.k, m, dtype),    put(p.v, m, dtype),
                         put(p.segments, 4, Q3_I64), put(p.dout, n, dtype), put(whole.lse, rows, Q3_F32),
                         put(whole.o, n, dtype) };
        a.q = held[0], a.k = held[1], a.v = held[2], a.device_segments = held[3];
        a.o = put(p.q, n, dtype);
        q3_attention_forward_cuda(&a, cuda); // no lse
        float *o = take(a.o, n, dtype);
        same_bits(o, whole.o, n);
        a.o = held[6], a.lse = held[5];
        q3_attention_backward_args b = { .f = a, .dout = held[4], .queries = p.T, .keys = p.S };
        b.delta = put(whole.lse, rows, Q3_F32);
        b.dv = put(p.dv, m, dtype);
        q3_attention_backward_cuda(&b, cuda); // dv alone
        float *dv = take(b.dv, m, dtype);
        same_bits(dv, whole.dv, m);
        q3_cuda_free(cuda, b.delta);
        for (int i = 0; i < 7; i++)
            q3_cuda_free(cuda, held[i]);
        free(o), free(dv);
        release_result(&whole);
        release(&p);
        no_failure();
    }
}

/* Rows that do not all fit the workspace at once. */
static void a_small_workspace_gives_the_same_bits(void **unused)
{
    (void)unused;
    const int decoding = 13;
    size_t all = cuda->workspace_bytes;
    problem p = problem_of(decoding, Q3_F32, 0);
    cuda->attention = Q3_ATTENTION_AUTO;
    result x = on_device(&p, Q3_F32);
    cuda->workspace_bytes = 2 * 3 * 10 * (128 + 2) * sizeof(float); // 2 rows of 3 runs and 10 heads
    result y = on_device(&p, Q3_F32);
    same_bits(x.o, y.o, p.used * 10 * 128);
    cuda->workspace_bytes = 100;
    q3_attention_args a = args_of(&p, Q3_F32);
    char why[Q3_CUDA_SENTENCE] = "";
    q3_attention_forward_cuda(&a, cuda);
    assert_true(q3_cuda_take_failure(cuda, why));
    assert_non_null(strstr(why, "attention to 520 keys needs a workspace of"));
    cuda->workspace_bytes = all;
    release_result(&x), release_result(&y);
    release(&p);
}

static int open_device(void **unused)
{
    char why[Q3_CUDA_SENTENCE] = "";
    (void)unused;
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    cuda = q3_cuda_open(0, why);
    return cuda ? 0 : -1;
}

static int close_device(void **unused)
{
    (void)unused;
    q3_cuda_close(cuda);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_passes_agree_with_the_cpu),
        cmocka_unit_test(gradients_are_added),
        cmocka_unit_test(same_inputs_give_the_same_bits),
        cmocka_unit_test(segments_ignore_each_other),
        cmocka_unit_test(unwanted_results_may_be_missing),
        cmocka_unit_test(a_small_workspace_gives_the_same_bits),
    };
    char why[Q3_CUDA_SENTENCE] = "";
    if (!q3_cuda_count(why)) { // a setup cannot skip
        print_message("%s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, open_device, close_device);
}
