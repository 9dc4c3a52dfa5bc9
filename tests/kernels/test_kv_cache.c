#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/kv_cache.h"
#include "kernels/pool.h"

enum { S = 48, T = 29, K = 3, D = 64, BLOCK = 4, TYPES = 4 };

static const q3_dtype types[TYPES] = { Q3_F32, Q3_BF16, Q3_I8, Q3_I4 };
static uint32_t state = 5;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) + 0.5f) * 0x1p-24f;
}

static float gaussian(void)
{
    float r = sqrtf(-2 * logf(uniform()));
    return r * cosf(6.2831853f * uniform());
}

typedef struct cache {
    uint8_t data[S * K * D * 4];
    float scales[S * K * D / Q3_KV_I4_GROUP];
    q3_kv_slab slab;
} cache;

/* Bytes of 0xa5 everywhere. */
static void wipe(cache *c, q3_dtype dtype)
{
    memset(c, 0xa5, sizeof *c);
    c->slab = (q3_kv_slab){ c->data, c->scales, dtype };
}

static void store(cache *c, const float *x, const int32_t *rows, int64_t n)
{
    q3_kv_store_cpu(&(q3_kv_store_args){ c->slab, x, rows, n, K, D, Q3_F32 });
}

/* Tokens [0, n) of a sequence that has the blocks in order. */
static void load(float *x, const cache *c, int n)
{
    int32_t table[S / BLOCK], begins[2] = { 0, n };
    for (int i = 0; i < S / BLOCK; i++)
        table[i] = i;
    q3_kv_load_cpu(&(q3_kv_load_args){ x, c->slab, table, begins, 1, S / BLOCK, BLOCK, K, D, Q3_F32 });
}

static void only_the_named_rows_change(void **unused)
{
    (void)unused;
    static cache c, before;
    static float x[T * K * D], y[S * K * D], z[S * K * D];
    int32_t rows[T];
    for (int i = 0; i < T * K * D; i++)
        x[i] = gaussian();
    for (int t = 0; t < T; t++)
        rows[t] = (t * 5 + 2) % S; // 5 and 48 have no common factor
    for (int i = 0; i < TYPES; i++) {
        wipe(&c, types[i]), wipe(&before, types[i]);
        load(y, &before, S);
        store(&c, x, rows, T);
        load(z, &c, S);
        bool named[S] = { false };
        for (int t = 0; t < T; t++)
            named[rows[t]] = true;
        for (int j = 0; j < S; j++)
            assert_true(named[j] == (memcmp(y + j * K * D, z + j * K * D, K * D * sizeof *y) != 0));
        size_t used = q3_dtype_bytes(types[i], S * K * D);
        assert_memory_equal(c.data + used, before.data + used, sizeof c.data - used);
    }
}

/* Half a step of the largest value at most; f32 exactly, bf16 within 2^-9 of each value. */
static void values_come_back_within_half_a_step(void **unused)
{
    (void)unused;
    static cache c;
    static float x[T * K * D], y[T * K * D];
    int32_t rows[T];
    for (int i = 0; i < T * K * D; i++)
        x[i] = gaussian() * powf(10, (float)(i / D % 7 - 3));
    for (int t = 0; t < T; t++)
        rows[t] = t;
    for (int i = 0; i < TYPES; i++) {
        const int run = types[i] == Q3_I4 ? Q3_KV_I4_GROUP : D;
        const float half = types[i] == Q3_I8 ? 0.5f / 127 : types[i] == Q3_I4 ? 0.5f / 7 : 0;
        wipe(&c, types[i]);
        store(&c, x, rows, T);
        load(y, &c, T);
        for (int at = 0; at < T * K * D; at += run) {
            float top = 0;
            for (int j = at; j < at + run; j++)
                top = fmaxf(top, fabsf(x[j]));
            for (int j = at; j < at + run; j++)
                assert_true(fabsf(x[j] - y[j]) <=
                            (types[i] == Q3_BF16 ? fabsf(x[j]) * 0x1p-8f : half * top * 1.0001f));
        }
    }
}

/* One value, its code and scale written out. */
static void codes_are_those_of_the_header(void **unused)
{
    (void)unused;
    static cache c;
    static float x[K * D];
    const int32_t row = 1;
    x[0] = 254, x[1] = -254, x[2] = 3, x[3] = 5, x[4] = -1; // a step of 2: 1.5 and 2.5 go to 2, -0.5 to 0
    wipe(&c, Q3_I8);
    store(&c, x, &row, 1);
    const int8_t want[5] = { 127, -127, 2, 2, 0 };
    assert_memory_equal(c.data + K * D, want, 5);
    assert_true(c.scales[K] == 2);
    x[0] = 14, x[1] = -14, x[32] = -70, x[33] = 21;
    wipe(&c, Q3_I4);
    store(&c, x, &row, 1);
    const uint8_t half[3] = { 0xf1, 0xaa, 0x88 };
    assert_memory_equal(c.data + K * D / 2, half, 3);
    assert_int_equal(c.data[K * D / 2 + 16], 0x1a); // 2.1 steps of 10
    assert_true(c.scales[K * 2] == 2 && c.scales[K * 2 + 1] == 10);
}

static void odd_numbers_stay_odd(void **unused)
{
    (void)unused;
    static cache c;
    static float x[4 * K * D], y[4 * K * D];
    const int32_t rows[4] = { 0, 1, 2, 3 };
    for (int i = 0; i < K * D; i++) {
        x[i] = 1;
        x[K * D + i] = 1;
        x[3 * K * D + i] = (float)(i % 250 - 125) * 0x1p-149f; // a scale of a step of the smallest number
    }
    x[5] = NAN, x[K * D + 70] = INFINITY;
    for (int i = 2; i < TYPES; i++) {
        wipe(&c, types[i]);
        store(&c, x, rows, 4);
        load(y, &c, 4);
        const int run = types[i] == Q3_I4 ? Q3_KV_I4_GROUP : D;
        for (int j = 0; j < 2 * K * D; j++) {
            bool broken = j / run == 5 / run || j / run == (K * D + 70) / run;
            assert_true(broken ? isnan(y[j]) : fabsf(y[j] - 1) < 1e-6f);
        }
        for (int j = 2 * K * D; j < 3 * K * D; j++)
            assert_true(y[j] == 0);
        for (int j = 3 * K * D; j < 4 * K * D; j++)
            assert_true(fabsf(y[j]) <= 0x1p-142f);
    }
}

/* The figures of the header. */
static void gaussian_data_lose_little(void **unused)
{
    (void)unused;
    enum { N = 16, WIDE = 128 };
    static uint8_t data[N * WIDE * 4];
    static float x[N * WIDE], y[N * WIDE], scales[N * 4];
    const int32_t rows[N] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }, table = 0,
                  begins[2] = { 0, N };
    const double most[TYPES] = { 0, 0.002, 0.008, 0.11 };
    for (int i = 0; i < TYPES; i++) {
        double error = 0, norm = 0;
        for (int round = 0; round < 8; round++) {
            q3_kv_slab slab = { data, scales, types[i] };
            for (int j = 0; j < N * WIDE; j++)
                x[j] = gaussian();
            q3_kv_store_cpu(&(q3_kv_store_args){ slab, x, rows, N, 1, WIDE, Q3_F32 });
            q3_kv_load_cpu(&(q3_kv_load_args){ y, slab, &table, begins, 1, 1, N, 1, WIDE, Q3_F32 });
            for (int j = 0; j < N * WIDE; j++) {
                error += (double)(x[j] - y[j]) * (x[j] - y[j]);
                norm += (double)x[j] * x[j];
            }
        }
        assert_true(sqrt(error / norm) <= most[i]);
    }
}

/* Sequences whose blocks are anywhere, in either type, by any number of threads. */
static void sequences_are_laid_end_to_end(void **unused)
{
    (void)unused;
    static cache c;
    static float x[S * K * D], y[S * K * D];
    static uint16_t half[S * K * D];
    const int32_t tables[3 * 4] = { 7, 2, 5, -1, -1, -1, -1, -1, 1, 9, 0, 4 }, begins[4] = { 0, 9, 9, 25 };
    int32_t rows[S];
    for (int i = 0; i < S * K * D; i++)
        x[i] = gaussian();
    for (int t = 0; t < S; t++)
        rows[t] = t;
    for (int i = 0; i < TYPES; i++)
        for (int threads = 1; threads <= 3; threads++) {
            q3_pool_start(threads);
            wipe(&c, types[i]);
            store(&c, x, rows, S);
            q3_kv_load_args a = { y, c.slab, tables, begins, 3, 4, BLOCK, K, D, Q3_F32 };
            q3_kv_load_cpu(&a);
            a.x = half, a.dtype = Q3_BF16;
            q3_kv_load_cpu(&a);
            for (int t = 0; t < 25; t++) {
                int r = t < 9 ? 0 : 2, j = t - begins[r], row = tables[r * 4 + j / BLOCK] * BLOCK + j % BLOCK;
                for (int e = 0; e < K * D; e++) {
                    assert_true(y[t * K * D + e] == q3_kv_value(&c.slab, row * K * D + e, D));
                    assert_int_equal(half[t * K * D + e], q3_f32_to_bf16(y[t * K * D + e]));
                }
            }
            q3_pool_stop();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_named_rows_change),
        cmocka_unit_test(values_come_back_within_half_a_step),
        cmocka_unit_test(codes_are_those_of_the_header),
        cmocka_unit_test(odd_numbers_stay_odd),
        cmocka_unit_test(gaussian_data_lose_little),
        cmocka_unit_test(sequences_are_laid_end_to_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
