#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/attention_paged.h"

enum { GUARD = 64 }; // bytes behind every array that must stay as they are

/* Sequences of a shared slab as (tokens, queries). */
enum { ROWS = 4, MAX_TABLE = 70 };
static const struct setting {
    int heads, kv_heads, D, block, max_blocks;
    int64_t window;
    int32_t rows[ROWS][2];
} settings[] = {
    { 4, 2, 16, 16, 5, 0, { { 80, 1 }, { 0, 0 }, { 1, 1 }, { 71, 1 } } },
    { 5, 1, 64, 16, 40, 0, { { 640, 1 }, { 0, 0 }, { 1, 1 }, { 631, 1 } } },
    { 8, 2, 128, 32, 9, 0, { { 288, 1 }, { 33, 0 }, { 1, 1 }, { 271, 1 } } },
    { 2, 2, 80, 1, 70, 0, { { 70, 1 }, { 0, 0 }, { 1, 1 }, { 69, 1 } } },
    { 2, 1, 256, 64, 5, 0, { { 320, 1 }, { 0, 0 }, { 1, 1 }, { 287, 1 } } },
    { 4, 2, 32, 16, 20, 30, { { 300, 1 }, { 20, 1 }, { 30, 1 }, { 290, 3 } } },   // windows
    { 4, 2, 64, 16, 20, 0, { { 300, 20 }, { 37, 37 }, { 200, 1 }, { 150, 4 } } }, // prompts among others
    { 2, 2, 128, 16, 18, 0, { { 288, 5 }, { 0, 0 }, { 33, 0 }, { 40, 33 } } },
    { 4, 2, 32, 8, 9, 40, { { 60, 30 }, { 0, 0 }, { 5, 5 }, { 41, 2 } } },
};
enum { SETTINGS = sizeof settings / sizeof *settings, TYPES = 4 };

static const q3_dtype types[TYPES] = { Q3_F32, Q3_BF16, Q3_I8, Q3_I4 };

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

/* n numbers that bf16 can say. */
static float *numbers(int64_t n)
{
    float *x = zeroed((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = q3_bf16_to_f32(q3_f32_to_bf16(uniform()));
    return x;
}

/* A copy on the device with a guard behind it. */
static void *put(const void *x, size_t bytes)
{
    uint8_t *host = zeroed(bytes + GUARD), *device = q3_cuda_alloc(cuda, bytes + GUARD);
    assert_non_null(device);
    memset(host, 0x5a, bytes + GUARD);
    if (x)
        memcpy(host, x, bytes);
    q3_cuda_upload(cuda, device, host, bytes + GUARD);
    free(host);
    return device;
}

static void *put_floats(const float *x, int64_t n, q3_dtype dtype)
{
    uint16_t *half = zeroed((size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = q3_f32_to_bf16(x[i]);
    void *device = put(dtype == Q3_BF16 ? (const void *)half : x, q3_dtype_bytes(dtype, n));
    free(half);
    return device;
}

/* Back, and freed there. */
static void *take(void *device, size_t bytes)
{
    uint8_t *host = zeroed(bytes + GUARD);
    q3_cuda_download(cuda, host, device, bytes + GUARD);
    q3_cuda_free(cuda, device);
    for (int i = 0; i < GUARD; i++)
        assert_int_equal(host[bytes + (size_t)i], 0x5a);
    return host;
}

static float *take_floats(void *device, int64_t n, q3_dtype dtype)
{
    void *host = take(device, q3_dtype_bytes(dtype, n));
    float *x = zeroed((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = dtype == Q3_BF16 ? q3_bf16_to_f32(((uint16_t *)host)[i]) : ((float *)host)[i];
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

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

/* ---- slabs */

static size_t data_bytes(const q3_kv_slab *slab, int64_t heads, int D)
{
    return q3_dtype_bytes(slab->dtype, heads * D);
}
static size_t scale_bytes(const q3_kv_slab *slab, int64_t heads, int D)
{
    return (size_t)(heads * q3_kv_scales(slab->dtype, 1, D)) * sizeof(float);
}

static q3_kv_slab slab_on_device(const q3_kv_slab *host, int64_t heads, int D)
{
    return (q3_kv_slab){ put(host->data, data_bytes(host, heads, D)),
                         put(host->scales, scale_bytes(host, heads, D)), host->dtype };
}

static void release_slab(q3_kv_slab *slab, bool device)
{
    void *all[] = { slab->data, slab->scales };
    for (int i = 0; i < 2; i++)
        device ? q3_cuda_free(cuda, all[i]) : free(all[i]);
}

/* All bytes 0xff, which is NaN in each type; rows [first, n) hold numbers. */
static q3_kv_slab slab_of(q3_dtype dtype, int32_t first, int32_t n, int kv_heads, int D)
{
    int64_t heads = (int64_t)n * kv_heads;
    q3_kv_slab slab = { NULL, NULL, dtype };
    slab.data = memset(zeroed(data_bytes(&slab, heads, D)), 0xff, data_bytes(&slab, heads, D));
    slab.scales = memset(zeroed(scale_bytes(&slab, heads, D)), 0xff, scale_bytes(&slab, heads, D));
    float *x = numbers((n - first) * kv_heads * D);
    int32_t *rows = zeroed((size_t)n * sizeof *rows);
    for (int32_t i = first; i < n; i++)
        rows[i - first] = i;
    q3_kv_store_cpu(&(q3_kv_store_args){ slab, x, rows, n - first, kv_heads, D, Q3_F32 });
    free(x), free(rows);
    return slab;
}

/* ---- attention */

typedef struct problem {
    const struct setting *s;
    q3_attention_paged_args a; // arrays on the host
    int32_t tables[ROWS * MAX_TABLE], lengths[ROWS], begins[ROWS + 1];
    int64_t n, heads; // elements of q; key heads of the slab
} problem;

/* Block 0 belongs to nobody; the others are dealt out in turn, from behind, and those not needed are no block. */
static problem *problem_of(int index, q3_dtype cache)
{
    problem *p = zeroed(sizeof *p);
    const struct setting *s = p->s = &settings[index];
    int32_t blocks = ROWS * s->max_blocks + 1, most = 0;
    for (int r = 0; r < ROWS; r++) {
        p->lengths[r] = s->rows[r][0];
        p->begins[r + 1] = p->begins[r] + s->rows[r][1];
        most = s->rows[r][1] > most ? s->rows[r][1] : most;
        for (int i = 0; i < s->max_blocks; i++)
            p->tables[r * s->max_blocks + i] =
                i * s->block < p->lengths[r] ? blocks - 1 - (i * ROWS + r) : INT32_MAX;
    }
    state = 5 + (uint32_t)index;
    p->n = (int64_t)p->begins[ROWS] * s->heads * s->D;
    p->heads = (int64_t)blocks * s->block * s->kv_heads;
    p->a = (q3_attention_paged_args){ .q = numbers(p->n),
                                      .k = slab_of(cache, s->block, blocks * s->block, s->kv_heads, s->D),
                                      .v = slab_of(cache, s->block, blocks * s->block, s->kv_heads, s->D),
                                      .tables = p->tables,
                                      .lengths = p->lengths,
                                      .begins = p->begins,
                                      .rows = ROWS,
                                      .most_queries = most,
                                      .max_blocks = s->max_blocks,
                                      .block = s->block,
                                      .heads = s->heads,
                                      .kv_heads = s->kv_heads,
                                      .head_size = s->D,
                                      .window = s->window,
                                      .scale = 2 / sqrtf((float)s->D) };
    return p;
}

static void release(problem *p)
{
    release_slab(&p->a.k, false), release_slab(&p->a.v, false);
    free((void *)(uintptr_t)p->a.q);
    free(p);
}

static float *on_cpu(problem *p)
{
    q3_attention_paged_args a = p->a;
    float *o = a.o = zeroed((size_t)p->n * sizeof *o);
    q3_attention_paged_cpu(&a);
    return o;
}

static float *on_device(problem *p, q3_dtype dtype)
{
    q3_attention_paged_args a = p->a;
    void *held[] = { put_floats(a.q, p->n, dtype),
                     put(p->tables, ROWS * (size_t)a.max_blocks * sizeof(int32_t)),
                     put(p->lengths, sizeof p->lengths), put(p->begins, sizeof p->begins) };
    a.q = held[0], a.tables = held[1], a.lengths = held[2], a.begins = held[3];
    a.k = slab_on_device(&p->a.k, p->heads, a.head_size);
    a.v = slab_on_device(&p->a.v, p->heads, a.head_size);
    a.dtype = dtype;
    a.o = put(NULL, q3_dtype_bytes(dtype, p->n));
    q3_attention_paged_cuda(&a, cuda);
    for (int i = 0; i < 4; i++)
        q3_cuda_free(cuda, held[i]);
    release_slab(&a.k, true), release_slab(&a.v, true);
    float *o = take_floats(a.o, p->n, dtype);
    no_failure();
    return o;
}

static bool has(int index, q3_dtype cache)
{
    return cache != Q3_I4 || settings[index].D % Q3_KV_I4_GROUP == 0;
}

static void every_type_of_cache_agrees_with_the_cpu(void **unused)
{
    (void)unused;
    for (int index = 0; index < SETTINGS; index++)
        for (int t = 0; t < TYPES; t++) {
            if (!has(index, types[t]))
                continue;
            problem *p = problem_of(index, types[t]);
            float *want = on_cpu(p);
            for (int half = 0; half < 2; half++) {
                float *got = on_device(p, half ? Q3_BF16 : Q3_F32);
                double d = distance(got, want, p->n);
                if (!(d <= (half ? 1e-2 : 1e-5)))
                    fail_msg("setting %d, cache %d, %s queries: off by %g", index, types[t],
                             half ? "bf16" : "f32", d);
                free(got);
            }
            free(want);
            release(p);
        }
}

/* The last query of a row that has some, alone. */
static void bits_do_not_depend_on_how_sequences_are_cut(void **unused)
{
    (void)unused;
    const struct {
        int index;
        q3_dtype dtype;
    } some[] = { { 5, Q3_BF16 }, { 8, Q3_F32 }, { 6, Q3_F32 } }; // rows with 3 queries; with all of them
    for (int i = 0; i < 3; i++) {
        problem *p = problem_of(some[i].index, Q3_I8);
        const int64_t C = (int64_t)p->s->heads * p->s->D;
        float *all = on_device(p, some[i].dtype), *q = (float *)(uintptr_t)p->a.q;
        int32_t begins[ROWS + 1];
        memcpy(begins, p->begins, sizeof begins);
        for (int r = 0; r < ROWS; r++) {
            const bool there = begins[r + 1] > begins[r];
            if (there) // rows move up one by one: what is read lies behind what is written
                memmove(q + p->begins[r] * C, q + (begins[r + 1] - 1) * C, (size_t)C * sizeof *q);
            p->begins[r + 1] = p->begins[r] + there;
        }
        p->n = p->begins[ROWS] * C;
        p->a.most_queries = 1;
        float *alone = on_device(p, some[i].dtype);
        for (int r = 0; r < ROWS; r++)
            if (p->begins[r + 1] > p->begins[r])
                assert_memory_equal(alone + p->begins[r] * C, all + (begins[r + 1] - 1) * C,
                                    (size_t)C * sizeof *all);
        free(all), free(alone);
        release(p);
    }
}

/* Without room for the keys of a row, queries are taken one by one; without any there is a sentence. */
static void a_small_workspace_will_do(void **unused)
{
    (void)unused;
    const size_t all = cuda->workspace_bytes;
    problem *p = problem_of(6, Q3_BF16);
    float *want = on_cpu(p);
    cuda->workspace_bytes = 100000;
    float *got = on_device(p, Q3_BF16);
    assert_true(distance(got, want, p->n) <= 1e-2);
    cuda->workspace_bytes = all;
    free(want), free(got);
    release(p);
}

static void what_is_not_taken_is_said(void **unused)
{
    (void)unused;
    char why[Q3_CUDA_SENTENCE] = "";
    q3_attention_paged_args a = {
        .rows = 1, .max_blocks = 1, .block = 16, .heads = 1, .kv_heads = 1, .head_size = 18
    };
    q3_attention_paged_cuda(&a, cuda);
    assert_true(q3_cuda_take_failure(cuda, why));
    assert_non_null(strstr(why, "not 18"));
    a.k.dtype = Q3_I8;
    q3_attention_paged_cuda(&a, cuda);
    assert_true(q3_cuda_take_failure(cuda, why));
    assert_non_null(strstr(why, "of one type"));
    q3_kv_store_cuda(&(q3_kv_store_args){ .T = 1, .kv_heads = 1, .head_size = 257 }, cuda);
    assert_true(q3_cuda_take_failure(cuda, why));
    assert_non_null(strstr(why, "not 257"));
}

/* ---- store and load */

/* Numbers of many sizes; some heads of zeros, some with a NaN or an infinity, some so small that scales vanish. */
static float *wild_numbers(int64_t n)
{
    float *x = numbers(n);
    for (int64_t i = 0; i < n; i++)
        x[i] *= ldexpf(1, (int)(i / 16 % 7) * 25 - 130);
    for (int64_t i = 64; i < 192 && i < n; i++)
        x[i] = 0;
    if (n > 300)
        x[200] = NAN, x[290] = -INFINITY;
    return x;
}

static void stored_bits_are_those_of_the_cpu(void **unused)
{
    (void)unused;
    enum { S = 40, T = 13, K = 3 };
    const int sizes[] = { 64, 128, 96, 256, 18, 7 };
    int32_t rows[T];
    for (int t = 0; t < T; t++)
        rows[t] = (t * 7 + 3) % S;
    for (int i = 0; i < 6 * TYPES * 2; i++) {
        const int D = sizes[i / 2 / TYPES];
        const q3_dtype dtype = i % 2 ? Q3_BF16 : Q3_F32, cache = types[i / 2 % TYPES];
        if (cache == Q3_I4 && D % Q3_KV_I4_GROUP)
            continue;
        state = (uint32_t)i;
        float *x = wild_numbers(T * K * D);
        for (int e = 0; e < T * K * D && dtype == Q3_BF16; e++)
            x[e] = q3_bf16_to_f32(q3_f32_to_bf16(x[e]));
        q3_kv_slab want = slab_of(cache, 0, S, K, D), got = slab_on_device(&want, S * K, D);
        q3_kv_store_cpu(&(q3_kv_store_args){ want, x, rows, T, K, D, Q3_F32 });
        void *device = put_floats(x, T * K * D, dtype), *at = put(rows, sizeof rows);
        q3_kv_store_cuda(&(q3_kv_store_args){ got, device, at, T, K, D, dtype }, cuda);
        got.data = take(got.data, data_bytes(&want, S * K, D));
        got.scales = take(got.scales, scale_bytes(&want, S * K, D));
        no_failure();
        assert_memory_equal(got.data, want.data, data_bytes(&want, S * K, D));
        for (size_t e = 0; e < scale_bytes(&want, S * K, D) / sizeof(float); e++) // NaN have many bits
            assert_true(got.scales[e] == want.scales[e] || (isnan(got.scales[e]) && isnan(want.scales[e])));
        q3_cuda_free(cuda, device), q3_cuda_free(cuda, at);
        release_slab(&want, false), release_slab(&got, false);
        free(x);
    }
}

static void loaded_bits_are_those_of_the_cpu(void **unused)
{
    (void)unused;
    enum { BLOCK = 4, BLOCKS = 12, K = 3, MOST = 4, TOKENS = 25 };
    const int32_t tables[3 * MOST] = { 7, 2, 5, -1, -1, -1, -1, -1, 1, 9, 0, 4 };
    const int32_t begins[4] = { 0, 9, 9, TOKENS };
    const int sizes[] = { 64, 96, 18 };
    for (int i = 0; i < 3 * TYPES * 2; i++) {
        const int D = sizes[i / 2 / TYPES];
        const q3_dtype dtype = i % 2 ? Q3_BF16 : Q3_F32, cache = types[i / 2 % TYPES];
        if (cache == Q3_I4 && D % Q3_KV_I4_GROUP)
            continue;
        const size_t bytes = q3_dtype_bytes(dtype, TOKENS * K * D);
        q3_kv_slab slab = slab_of(cache, 0, BLOCK * BLOCKS, K, D);
        q3_kv_load_args a = { zeroed(bytes), slab, tables, begins, 3, MOST, BLOCK, K, D, dtype };
        void *want = a.x;
        q3_kv_load_cpu(&a);
        void *held[] = { put(tables, sizeof tables), put(begins, sizeof begins) };
        a.slab = slab_on_device(&slab, (int64_t)BLOCK * BLOCKS * K, D);
        a.tables = held[0], a.begins = held[1], a.x = put(NULL, bytes);
        q3_kv_load_cuda(&a, cuda);
        void *got = take(a.x, bytes);
        no_failure();
        assert_memory_equal(got, want, bytes);
        q3_cuda_free(cuda, held[0]), q3_cuda_free(cuda, held[1]);
        release_slab(&a.slab, true), release_slab(&slab, false);
        free(want), free(got);
    }
}

static int open_device(void **unused)
{
    char why[Q3_CUDA_SENTENCE] = "";
    (void)unused;
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
        cmocka_unit_test(every_type_of_cache_agrees_with_the_cpu),
        cmocka_unit_test(bits_do_not_depend_on_how_sequences_are_cut),
        cmocka_unit_test(a_small_workspace_will_do),
        cmocka_unit_test(what_is_not_taken_is_said),
        cmocka_unit_test(stored_bits_are_those_of_the_cpu),
        cmocka_unit_test(loaded_bits_are_those_of_the_cpu),
    };
    char why[Q3_CUDA_SENTENCE] = "";
    if (!q3_cuda_count(why)) { // a setup cannot skip
        print_message("%s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, open_device, close_device);
}
