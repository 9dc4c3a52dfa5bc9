#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/int8.h"
#include "kernels/pool.h"

/* By hand: 127 / 2 = 63.5, 127 / 254 = 0.5, so that what lies half way between two codes is exact. */
static const float by_hand[5][6] = {
    { 2.0f, -2.0f, 1.0f, -1.0f, 0.0f, 0.007f },      // 127, -127, 63.5, -63.5, 0, 0.4445
    { 254.0f, 1.0f, 3.0f, -1.0f, -3.0f, 5.0f },      // 127, 0.5, 1.5, -0.5, -1.5, 2.5
    { 0.0f, -0.0f, 0.0f, 0.0f, 0.0f, 0.0f },         // zeros
    { -127.0f, 126.0f, 1.0f, 0.49f, 0.51f, -0.51f }, // codes themselves
    { 1e-40f, -1e-41f, 0.0f, 0.0f, 0.0f, 0.0f },     // 127 / absmax overflows
};
static const int8_t codes_by_hand[4][6] = {
    { 127, -127, 64, -64, 0, 0 },
    { 127, 0, 2, 0, -2, 2 },
    { 0, 0, 0, 0, 0, 0 },
    { -127, 126, 1, 0, 1, -1 },
};

static void a_small_matrix_has_the_codes_made_by_hand(void **state)
{
    (void)state;
    int8_t codes[5][6];
    float absmax[5];
    q3_int8_quantize_cpu(&(q3_int8_quantize_args){ codes[0], absmax, by_hand, Q3_F32, 5, 6 });
    assert_memory_equal(codes, codes_by_hand, sizeof codes_by_hand);
    const float want[5] = { 2, 254, 0, 127, 1e-40f };
    assert_memory_equal(absmax, want, sizeof want);
    const q3_weight w = { .data = codes, .dtype = Q3_I8, .block = 6, .absmax = absmax };
    assert_true(q3_weight_at(&w, 18) == -127 && q3_weight_at(&w, 20) == 1); // 127 * fl(1 / 127) rounds to 1
    for (int i = 0; i < 30; i++)
        if (!(fabsf(q3_weight_at(&w, i) - by_hand[i / 6][i % 6]) <= 0.5001f / 127 * absmax[i / 6] + 1e-36f))
            fail_msg("element %d: %g became %g", i, (double)by_hand[i / 6][i % 6],
                     (double)q3_weight_at(&w, i));
}

/* A value of the 16-bit types, from the f32 of the same value. */
static void every_type_and_any_threads_give_the_same_codes(void **state)
{
    (void)state;
    enum { ROWS = 301, COLS = 67 };
    static float x[ROWS * COLS];
    static uint16_t h[ROWS * COLS];
    static int8_t codes[3][ROWS * COLS];
    float absmax[3][ROWS];
    for (int i = 0; i < ROWS * COLS; i++) {
        h[i] = q3_f32_to_bf16(0.03f * sinf((float)i * 1.7f));
        x[i] = q3_bf16_to_f32(h[i]);
    }
    for (int k = 0; k < 3; k++) {
        q3_pool_start(k + 1);
        q3_int8_quantize_cpu(&(q3_int8_quantize_args){ codes[k], absmax[k], k == 1 ? (void *)h : (void *)x,
                                                       k == 1 ? Q3_BF16 : Q3_F32, ROWS, COLS });
        assert_memory_equal(codes[k], codes[0], sizeof codes[0]);
        assert_memory_equal(absmax[k], absmax[0], sizeof absmax[0]);
    }
    q3_pool_stop();
}

static void what_is_not_finite_shows_in_the_scale(void **state)
{
    (void)state;
    const float x[3][2] = { { 1, NAN }, { -INFINITY, 2 }, { 1, 2 } };
    int8_t codes[6];
    float absmax[3];
    q3_int8_quantize_cpu(&(q3_int8_quantize_args){ codes, absmax, x, Q3_F32, 3, 2 });
    assert_true(isnan(absmax[0]) && isinf(absmax[1]) && absmax[2] == 2);
    assert_memory_equal(codes, ((const int8_t[]){ 0, 0, 0, 0, 64, 127 }), sizeof codes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_matrix_has_the_codes_made_by_hand),
        cmocka_unit_test(every_type_and_any_threads_give_the_same_codes),
        cmocka_unit_test(what_is_not_finite_shows_in_the_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
