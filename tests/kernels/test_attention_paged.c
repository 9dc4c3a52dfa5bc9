#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/attention_paged.h"

/* Sequences as (tokens, queries): the last `queries` of its tokens. */
enum { MAX_ROWS = 4 };
typedef struct setting {
    int heads, kv_heads, D, block;
    int64_t window;
    int rows;
    int32_t sequences[MAX_ROWS][2];
} setting;

static const setting settings[] = {
    { 1, 1, 1, 1, 0, 1, { { 1, 1 } } },
    { 4, 2, 32, 16, 0, 4, { { 70, 1 }, { 0, 0 }, { 64, 1 }, { 129, 1 } } }, // decoding
    { 4, 2, 32, 16, 0, 3, { { 50, 50 }, { 90, 7 }, { 33, 0 } } },           // prompts, and a row that waits
    { 6, 2, 64, 8, 0, 2, { { 200, 130 }, { 65, 2 } } },                     // 3 heads a key head
    { 5, 1, 96, 64, 0, 3, { { 1, 1 }, { 1100, 3 }, { 17, 17 } } },
    { 2, 2, 128, 32, 0, 1, { { 1700, 1 } } }, // more keys than a part has
    { 8, 1, 256, 16, 0, 2, { { 40, 5 }, { 530, 1 } } },
    { 4, 2, 32, 16, 100, 3, { { 900, 1 }, { 700, 70 }, { 60, 60 } } }, // windows
    { 2, 1, 64, 4, 1, 2, { { 70, 70 }, { 600, 2 } } },
    { 3, 1, 18, 3, 0, 2, { { 75, 75 }, { 20, 1 } } }, // no whole vectors, no int4
    { 8, 1, 256, 16, 0, 1, { { 1100, 28 } } },        // for many_parts_are_added_up_in_rounds alone
};
enum { ROUNDS = sizeof settings / sizeof *settings - 1, SETTINGS = ROUNDS, TYPES = 4 };

static const q3_dtype types[TYPES] = { Q3_F32, Q3_BF16, Q3_I8, Q3_I4 };

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

static float *numbers(int64_t n)
{
    float *x = zeroed((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = uniform();
    return x;
}

/* A cache of S tokens, each value of which is NaN, or has a scale that is. */
static q3_kv_slab slab_of_nan(q3_dtype dtype, int64_t S, int kv_heads, int D)
{
    int64_t n = S * kv_heads * D, scales = S * q3_kv_scales(dtype, kv_heads, D);
    q3_kv_slab slab = { zeroed(q3_dtype_bytes(dtype, n)), zeroed((size_t)scales * sizeof(float)), dtype };
    memset(slab.data, 0xff, q3_dtype_bytes(dtype, n));
    memset(slab.scales, 0xff, (size_t)scales * sizeof(float));
    return slab;
}

static void release_slab(q3_kv_slab *slab)
{
    free(slab->data), free(slab->scales);
}

/* Sequences with all their tokens in a slab. Blocks are dealt out in turn, from behind; block 0 is nobody's. */
typedef struct problem {
    const setting *s;
    int max_blocks;
    int32_t *tables;
    q3_kv_slab k, v;
    float *q; // of all tokens, sequence after sequence
    int64_t first[MAX_ROWS];
} problem;

static void fill(problem *p, q3_kv_slab *slab, int r, int length)
{
    const setting *s = p->s;
    int32_t *rows = zeroed((size_t)length * sizeof *rows);
    float *x = numbers((int64_t)length * s->kv_heads * s->D);
    for (int j = 0; j < length; j++)
        rows[j] = p->tables[r * p->max_blocks + j / s->block] * s->block + j % s->block;
    q3_kv_store_cpu(&(q3_kv_store_args){ *slab, x, rows, length, s->kv_heads, s->D, Q3_F32 });
    free(rows), free(x);
}

static problem problem_of(int index, q3_dtype dtype)
{
    problem p = { .s = &settings[index] };
    const setting *s = p.s;
    int64_t tokens = 0;
    state = 3 + (uint32_t)index;
    for (int r = 0; r < s->rows; r++) {
        int blocks = (s->sequences[r][0] + s->block - 1) / s->block;
        p.max_blocks = blocks > p.max_blocks ? blocks : p.max_blocks;
        p.first[r] = tokens;
        tokens += s->sequences[r][0];
    }
    int all = s->rows * p.max_blocks + 1;
    p.tables = zeroed((size_t)all * sizeof *p.tables);
    p.k = slab_of_nan(dtype, (int64_t)all * s->block, s->kv_heads, s->D);
    p.v = slab_of_nan(dtype, (int64_t)all * s->block, s->kv_heads, s->D);
    p.q = numbers(tokens * s->heads * s->D);
    for (int r = 0; r < s->rows; r++) {
        for (int i = 0; i < p.max_blocks; i++)
            p.tables[r * p.max_blocks + i] =
                i * s->block < s->sequences[r][0] ? all - 1 - (i * s->rows + r) : INT32_MAX;
        fill(&p, &p.k, r, s->sequences[r][0]);
        fill(&p, &p.v, r, s->sequences[r][0]);
    }
    return p;
}

static void release(problem *p)
{
    release_slab(&p->k), release_slab(&p->v);
    free(p->tables), free(p->q);
}

typedef int32_t pairs[MAX_ROWS][2];

/* o of the last what[r][1] of the first what[r][0] tokens of each sequence, one behind another, n values. */
static float *attend(const problem *p, pairs what, int64_t *n)
{
    const setting *s = p->s;
    int64_t C = (int64_t)s->heads * s->D;
    int32_t lengths[MAX_ROWS], begins[MAX_ROWS + 1] = { 0 }, most = 0;
    for (int r = 0; r < s->rows; r++) {
        lengths[r] = what[r][0];
        begins[r + 1] = begins[r] + what[r][1];
        most = what[r][1] > most ? what[r][1] : most;
    }
    *n = begins[s->rows] * C;
    float *q = zeroed((size_t)*n * sizeof *q), *o = zeroed((size_t)*n * sizeof *o);
    for (int r = 0; r < s->rows; r++)
        memcpy(q + begins[r] * C, p->q + (p->first[r] + what[r][0] - what[r][1]) * C,
               (size_t)(what[r][1] * C) * sizeof *q);
    for (int64_t i = 0; i < *n; i++)
        o[i] = NAN;
    q3_attention_paged_cpu(&(q3_attention_paged_args){ .o = o,
                                                       .q = q,
                                                       .k = p->k,
                                                       .v = p->v,
                                                       .tables = p->tables,
                                                       .lengths = lengths,
                                                       .begins = begins,
                                                       .rows = s->rows,
                                                       .most_queries = most,
                                                       .max_blocks = p->max_blocks,
                                                       .block = s->block,
                                                       .heads = s->heads,
                                                       .kv_heads = s->kv_heads,
                                                       .head_size = s->D,
                                                       .window = s->window,
                                                       .scale = 4 / sqrtf((float)s->D) });
    free(q);
    return o;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

/* All levels against the oracle, any number of threads with the same bits. */
static void check(int index, q3_dtype dtype)
{
    problem p = problem_of(index, dtype);
    int64_t n;
    pairs what;
    memcpy(what, p.s->sequences, sizeof what);
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    float *want = attend(&p, what, &n);
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++) {
        float *first = NULL;
        for (int threads = 1; q3_cpu_set_level((q3_cpu_isa)level) && threads <= 3; threads++) {
            q3_pool_start(threads);
            float *got = attend(&p, what, &n);
            double d = distance(got, want, n);
            if (!(d < 2e-6))
                fail_msg("setting %d, type %d, %s: relative distance %g", index, dtype,
                         q3_cpu_level_name((q3_cpu_isa)level), d);
            if (first && memcmp(first, got, (size_t)n * sizeof *got) != 0)
                fail_msg("setting %d, type %d, %s: %d threads give other bits", index, dtype,
                         q3_cpu_level_name((q3_cpu_isa)level), threads);
            free(first);
            first = got;
        }
        free(first);
    }
    q3_pool_stop();
    free(want);
    release(&p);
}

static void every_type_and_level_agrees_with_the_oracle(void **unused)
{
    (void)unused;
    for (int index = 0; index < SETTINGS; index++)
        for (int t = 0; t < TYPES; t++)
            if (types[t] != Q3_I4 || settings[index].D % Q3_KV_I4_GROUP == 0)
                check(index, types[t]);
}

/* Every token of every sequence as a query, so many at a time that no two sequences are cut alike, beside each other. */
static void check_chunks(int index, q3_dtype dtype)
{
    const int32_t step[MAX_ROWS] = { 1, 29, 64, 300 };
    problem p = problem_of(index, dtype);
    int64_t C = (int64_t)p.s->heads * p.s->D, n, some;
    pairs all = { { 0 } }, what = { { 0 } };
    for (int r = 0; r < p.s->rows; r++)
        all[r][0] = all[r][1] = p.s->sequences[r][0];
    float *want = attend(&p, all, &n);
    for (int64_t done = 0; done < n / C;) {
        for (int r = 0; r < p.s->rows; r++) {
            int32_t left = all[r][0] - what[r][0];
            what[r][1] = left < step[r] ? left : step[r];
            what[r][0] += what[r][1];
        }
        float *got = attend(&p, what, &some);
        for (int r = 0, at = 0; r < p.s->rows; at += what[r++][1])
            assert_memory_equal(got + at * C, want + (p.first[r] + what[r][0] - what[r][1]) * C,
                                (size_t)(what[r][1] * C) * sizeof *got);
        done += some / C;
        free(got);
    }
    free(want);
    release(&p);
}

static void bits_do_not_depend_on_how_sequences_are_cut(void **unused)
{
    (void)unused;
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++)
        for (int index = 1; q3_cpu_set_level((q3_cpu_isa)level) && index < SETTINGS; index++)
            if (settings[index].D < 128) {
                q3_pool_start(1 + index % 3);
                check_chunks(index, types[index % 3]);
            }
    q3_pool_stop();
}

/* One thread finds enough items in 7 blocks of rows; more threads divide their keys, for the sums of two parts at a time. */
static void many_parts_are_added_up_in_rounds(void **unused)
{
    (void)unused;
    problem p = problem_of(ROUNDS, Q3_I8);
    pairs what = { { 1100, 28 } };
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++) {
        int64_t n;
        if (!q3_cpu_set_level((q3_cpu_isa)level))
            continue;
        float *want = attend(&p, what, &n);
        q3_pool_start(3);
        float *got = attend(&p, what, &n);
        q3_pool_stop();
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        free(got), free(want);
    }
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_level_agrees_with_the_oracle),
        cmocka_unit_test(bits_do_not_depend_on_how_sequences_are_cut),
        cmocka_unit_test(many_parts_are_added_up_in_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
