#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "kernels/philox.h"

/* Known answers of Random123 1.14 (kat_vectors, philox4x32 with 10 rounds). */
static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        q3_philox(out, cases[i].key, cases[i].counter);
        assert_memory_equal(out, cases[i].want, sizeof out);
    }
}

static void a_block_number_carries_into_the_second_word(void **state)
{
    (void)state;
    const uint32_t key[2] = { 5, 6 }, start[4] = { 0xfffffffe, 3, 7, 8 }, later[4] = { 1, 4, 7, 8 };
    uint32_t a[4], b[4];
    q3_philox_block(a, key, start, 3);
    q3_philox(b, key, later);
    assert_memory_equal(a, b, sizeof a);
}

static void uniform_numbers_lie_in_the_half_open_unit_interval(void **state)
{
    (void)state;
    assert_true(q3_philox_uniform(0) == 0.0f);
    assert_true(q3_philox_uniform(0xffffffff) == 1.0f - 0x1p-24f);
    const q3_random r = { .seed = 1, .purpose = Q3_RANDOM_TEST };
    double sum = 0, squares = 0;
    enum { n = 20000 };
    for (int i = 0; i < n; i++) {
        double u = (double)q3_random_uniform(&r, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    // Mean 1/2 and second moment 1/3 within five standard errors.
    assert_true(fabs(sum / n - 0.5) < 5 * 0.2887 / sqrt(n));
    assert_true(fabs(squares / n - 1.0 / 3) < 5 * 0.2981 / sqrt(n));
}

static void normal_numbers_have_mean_0_and_variance_1(void **state)
{
    (void)state;
    const q3_random r = { .seed = 2, .purpose = Q3_RANDOM_TEST };
    double sum = 0, squares = 0;
    enum { n = 20000 };
    for (int i = 0; i < n; i++) {
        double x = q3_random_normal(&r, (uint64_t)i);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
    }
    assert_true(fabs(sum / n) < 5 / sqrt(n));
    assert_true(fabs(squares / n - 1) < 5 * 1.4142 / sqrt(n));
}

static void every_part_of_the_name_changes_the_numbers(void **state)
{
    (void)state;
    const q3_random base = { .seed = 42, .purpose = Q3_RANDOM_TEST, .step = 3, .site = 9 };
    q3_random other[5] = { base, base, base, base, base };
    other[0].seed = 43;
    other[1].seed = 42 | (uint64_t)1 << 32;
    other[2].purpose = Q3_RANDOM_DROPOUT;
    other[3].step = 4;
    other[4].site = 10;
    for (int i = 0; i < 5; i++)
        assert_int_not_equal(q3_random_u32(&base, 0), q3_random_u32(&other[i], 0));
    assert_int_equal(q3_random_u32(&base, 7), q3_random_u32(&base, 7));
}

/* What a kernel computes from key and counter is what the host sees. */
static void a_kernel_sees_the_numbers_of_the_host(void **state)
{
    (void)state;
    const q3_random r = {
        .seed = 0x123456789abcdef0u, .purpose = Q3_RANDOM_DROPOUT, .step = 77, .site = 0xabcdef
    };
    uint32_t key[2], counter[4], out[4];
    q3_random_counter(key, counter, &r);
    for (uint64_t i = 0; i < 9; i++) {
        q3_philox_block(out, key, counter, i / 4);
        assert_int_equal(out[i % 4], q3_random_u32(&r, i));
    }
}

static void below_reaches_every_value_and_no_other(void **state)
{
    (void)state;
    const q3_random r = { .seed = 4, .purpose = Q3_RANDOM_TEST };
    int seen[7] = { 0 };
    for (uint64_t i = 0; i < 700; i++) {
        uint32_t x = q3_random_below(&r, i, 7);
        assert_true(x < 7);
        seen[x]++;
    }
    for (int k = 0; k < 7; k++)
        assert_in_range(seen[k], 50, 150);
    assert_int_equal(q3_random_below(&r, 0, 1), 0);
}

/* C++ standard, [rand.predef]: the 10000th word after the default seed 5489. */
static void mt19937_gives_the_word_of_the_standard(void **state)
{
    (void)state;
    q3_mt19937 g;
    q3_mt19937_seed(&g, 5489);
    uint32_t u = 0;
    for (int i = 0; i < 10000; i++)
        u = q3_mt19937_u32(&g);
    assert_int_equal(u, 4123659995u);
}

static void only_the_low_32_bits_of_a_torch_seed_count(void **state)
{
    (void)state;
    q3_mt19937 a, b;
    q3_mt19937_seed(&a, 42);
    q3_mt19937_seed(&b, 42 | (uint64_t)9 << 32);
    assert_int_equal(q3_mt19937_u32(&a), q3_mt19937_u32(&b));
}

/* PEFT with seed 42, in 16, rank 4, out 24: both default initialisations are drawn and dropped, then A
 * comes. */
static void initial_lora_values_are_those_of_peft(void **state)
{
    (void)state;
    enum { in = 16, rank = 4, out = 24 };
    static const float want[4] = { 0.22723788f, 0.0549376011f, 0.0321600139f, -0.220313698f };
    q3_mt19937 g;
    q3_mt19937_seed(&g, 42);
    for (int i = 0; i < rank * in + out * rank; i++)
        (void)q3_mt19937_u32(&g);
    float bound = (float)(1 / sqrt(in));
    for (int i = 0; i < 4; i++) {
        float a = q3_mt19937_uniform(&g, -bound, bound);
        assert_memory_equal(&a, &want[i], sizeof a);
    }
}

static void permutations_are_those_of_torch(void **state)
{
    (void)state;
    static const int64_t ten[] = { 2, 6, 1, 8, 4, 5, 0, 9, 3, 7 };
    static const int64_t eight[] = { 6, 3, 0, 7, 2, 1, 4, 5 };
    static const int64_t next[] = { 4, 5, 7, 1, 3, 2, 6, 0 };
    int64_t got[10];
    q3_randperm(got, 10, 42);
    assert_memory_equal(got, ten, sizeof ten);
    q3_randperm(got, 8, 42);
    assert_memory_equal(got, eight, sizeof eight);
    q3_randperm(got, 8, 43);
    assert_memory_equal(got, next, sizeof next);
    got[0] = -1;
    q3_randperm(got, 0, 42);
    assert_int_equal(got[0], -1);
    q3_randperm(got, 1, 42);
    assert_int_equal(got[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(a_block_number_carries_into_the_second_word),
        cmocka_unit_test(uniform_numbers_lie_in_the_half_open_unit_interval),
        cmocka_unit_test(normal_numbers_have_mean_0_and_variance_1),
        cmocka_unit_test(every_part_of_the_name_changes_the_numbers),
        cmocka_unit_test(a_kernel_sees_the_numbers_of_the_host),
        cmocka_unit_test(below_reaches_every_value_and_no_other),
        cmocka_unit_test(mt19937_gives_the_word_of_the_standard),
        cmocka_unit_test(only_the_low_32_bits_of_a_torch_seed_count),
        cmocka_unit_test(initial_lora_values_are_those_of_peft),
        cmocka_unit_test(permutations_are_those_of_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
