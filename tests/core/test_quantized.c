#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/quantized.h"

enum { N = 3 * 37 }; // a short last block, and half a byte left over

static void ramp(float *x)
{
    for (int i = 0; i < N; i++)
        x[i] = (float)(i - 50) * 0.01f;
}

static void quantized_weights_come_back_nearly(void **state)
{
    (void)state;
    float x[N], w[N];
    ramp(x);
    for (int nested = 0; nested < 2; nested++) {
        q3_arena mem;
        q3_quantized q;
        assert_int_equal(q3_arena_create(&mem, "test arena", 1 << 20), Q3_OK);
        q3_quantize_args a = { "x", x, Q3_F32, N, Q3_NF4, 32, nested != 0 };
        assert_int_equal(q3_quantize(&q, &mem, &a), Q3_OK);
        assert_int_equal(q3_quantized_blocks(&q), 4);
        assert_int_equal(q3_quantized_groups(&q), 1);
        assert_true((q.nested != NULL) == (nested != 0));
        q3_dequantize(w, Q3_F32, &q);
        for (int i = 0; i < N; i++)
            if (!(fabsf(w[i] - x[i]) <=
                  0.16f * q.absmax[i / 32] * 1.02f)) // half the widest step of NF4, plus nesting
                fail_msg("element %d: %g became %g", i, (double)x[i], (double)w[i]);
        q3_weight weight = q3_quantized_weight(&q);
        assert_true(weight.dtype == Q3_NF4 && weight.block == 32 && weight.data == q.packed &&
                    weight.absmax == q.absmax);
        q3_arena_destroy(&mem);
    }
}

static void a_dry_arena_counts_the_same_bytes(void **state)
{
    (void)state;
    float x[N];
    ramp(x);
    size_t used[2];
    for (int dry = 0; dry < 2; dry++) {
        q3_arena mem;
        q3_quantized q;
        assert_int_equal(q3_arena_create(&mem, "test arena", 1 << 20), Q3_OK);
        mem.dry = dry != 0;
        q3_quantize_args a = { "x", dry ? NULL : x, Q3_F32, N, Q3_FP4, 64, true };
        assert_int_equal(q3_quantize(&q, &mem, &a), Q3_OK);
        assert_int_equal(q3_quantized_unnest(&q, &mem), Q3_OK);
        used[dry] = mem.used;
        q3_arena_destroy(&mem);
    }
    assert_int_equal(used[0], used[1]);
}

static void nan_weights_are_refused_by_name(void **state)
{
    (void)state;
    float x[N];
    ramp(x);
    x[77] = NAN;
    q3_arena mem;
    q3_quantized q;
    assert_int_equal(q3_arena_create(&mem, "test arena", 1 << 20), Q3_OK);
    q3_quantize_args a = { "layers.3.mlp", x, Q3_F32, N, Q3_NF4, 64, true };
    assert_int_equal(q3_quantize(&q, &mem, &a), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "layers.3.mlp"));
    q3_arena_destroy(&mem);
}

static void a_full_arena_is_a_status(void **state)
{
    (void)state;
    float x[N];
    ramp(x);
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        q3_arena mem;
        q3_quantized q;
        assert_in_range(i, 1, 10);
        assert_int_equal(q3_arena_create(&mem, "test arena", 1 << 20), Q3_OK);
        q3_heap_fail_at(i);
        q3_quantize_args a = { "x", x, Q3_F32, N, Q3_NF4, 64, true };
        st = q3_quantize(&q, &mem, &a);
        if (st == Q3_OK)
            st = q3_quantized_unnest(&q, &mem);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        q3_arena_destroy(&mem);
    }
}

static void code_books_are_told_apart(void **state)
{
    (void)state;
    assert_true(q3_quantized_book_is(Q3_NF4, q3_nf4_values));
    assert_true(q3_quantized_book_is(Q3_FP4, q3_fp4_values));
    assert_false(q3_quantized_book_is(Q3_NF4, q3_fp4_values));
    float odd[16];
    memcpy(odd, q3_nf4_values, sizeof odd);
    odd[3] = NAN;
    assert_false(q3_quantized_book_is(Q3_NF4, odd));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantized_weights_come_back_nearly),
        cmocka_unit_test(a_dry_arena_counts_the_same_bytes),
        cmocka_unit_test(nan_weights_are_refused_by_name),
        cmocka_unit_test(a_full_arena_is_a_status),
        cmocka_unit_test(code_books_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
