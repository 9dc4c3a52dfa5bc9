#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "core/safetensors.h"
#include "infer/sample.h"

enum { V = 200, N_SEEN = 12 };

static float logits[V], scratch[V];
static int32_t seen[N_SEEN];
static q3_safetensors *golden;

static const q3_sampling plain = { .do_sample = true, .temperature = 1, .top_p = 1, .repetition_penalty = 1 };

static int setup(void **state)
{
    (void)state;
    assert_int_equal(q3_safetensors_open(&golden, "tests/golden/formats/sampling.safetensors"), Q3_OK);
    const q3_st_tensor *t = q3_safetensors_find(golden, "previous");
    for (int i = 0; i < N_SEEN; i++)
        seen[i] = (int32_t)((const int64_t *)t->data)[i];
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    q3_safetensors_close(golden);
    return 0;
}

static void reset(void)
{
    memcpy(logits, q3_safetensors_find(golden, "logits")->data, sizeof logits);
    memset(scratch, 0xff, sizeof scratch);
}

static void softmax(double *p, const float *x, int n)
{
    double total = 0;
    for (int i = 0; i < n; i++)
        total += exp((double)x[i]);
    for (int i = 0; i < n; i++)
        p[i] = exp((double)x[i]) / total;
}

static void distributions_equal_the_reference(void **state)
{
    (void)state;
    static const struct {
        float temperature;
        int top_k;
        float top_p, penalty;
    } settings[] = { { 0.7f, 20, 0.8f, 1 },   { 0.7f, 0, 0.9f, 1 },    { 1, 50, 1, 1 },
                     { 1.5f, 5, 0.3f, 1.2f }, { 0.2f, 200, 0.95f, 1 }, { 0.7f, 20, 0.8f, 1.05f } };
    for (int s = 0; s < 6; s++) {
        char name[32];
        double p[V];
        snprintf(name, sizeof name, "probabilities.%d", s);
        const float *expected = q3_safetensors_find(golden, name)->data;
        q3_sampling chain = plain;
        chain.temperature = settings[s].temperature;
        chain.top_k = settings[s].top_k;
        chain.top_p = settings[s].top_p;
        chain.repetition_penalty = settings[s].penalty;
        reset();
        q3_sample_filter(logits, V, seen, N_SEEN, &chain, scratch);
        softmax(p, logits, V);
        for (int i = 0; i < V; i++) {
            assert_int_equal(logits[i] > -INFINITY, expected[i] > 0);
            assert_true(fabs(p[i] - expected[i]) < 2e-7);
        }
    }
}

static void a_repeated_token_is_penalized_once(void **state)
{
    (void)state;
    float x[4] = { 2, -2, 4, 1 }, buffer[4];
    const int32_t ids[] = { 0, 1, 0, 0, 1, 9, -1 };
    q3_sampling s = plain;
    s.do_sample = false;
    s.repetition_penalty = 2;
    q3_sample_filter(x, 4, ids, 7, &s, buffer);
    const float expected[4] = { 1, -4, 4, 1 };
    assert_memory_equal(x, expected, sizeof x);
}

static void greedy_takes_the_lowest_id_on_ties_and_skips_the_warpers(void **state)
{
    (void)state;
    float x[5] = { 1, 7, 3, 7, 7 }, buffer[5];
    q3_sampling s = {
        .do_sample = false, .temperature = 5, .top_k = 1, .top_p = 0.01f, .repetition_penalty = 1
    };
    assert_int_equal(q3_sample_next(x, 5, NULL, 0, 0, &s, 0, 0, buffer), 1);
    const float untouched[5] = { 1, 7, 3, 7, 7 };
    assert_memory_equal(x, untouched, sizeof x);
    s.do_sample = true;
    s.temperature = 0; // greedy too
    assert_int_equal(q3_sample_next(x, 5, NULL, 0, 0, &s, 0, 0, buffer), 1);
    s.repetition_penalty = 3;
    assert_int_equal(q3_sample_next(x, 5, (const int32_t[]){ 1 }, 1, 1, &s, 0, 0, buffer), 3);
}

static int kept(const float *x, int n)
{
    int k = 0;
    for (int i = 0; i < n; i++)
        k += x[i] > -INFINITY;
    return k;
}

static void top_k_keeps_ties_of_the_kth(void **state)
{
    (void)state;
    float x[7] = { 1, 5, 3, 3, 0, 3, 4 }, buffer[7];
    q3_sampling s = plain;
    s.top_k = 3;
    q3_sample_filter(x, 7, NULL, 0, &s, buffer);
    assert_int_equal(kept(x, 7), 5);
    assert_true(isinf(x[0]) && isinf(x[4]));
}

/* Counting decides what stays: a value stays when fewer than k are larger. */
static void top_k_agrees_with_counting(void **state)
{
    (void)state;
    static const int sizes[] = { 1, 2, 7, 33, 200 };
    for (int round = 0; round < 500; round++) {
        int n = sizes[round % 5];
        const q3_random r = { 11, Q3_RANDOM_TEST, (uint32_t)round, 0 };
        float x[V], before[V];
        for (int i = 0; i < n; i++) // few values: many ties
            before[i] = x[i] = (float)q3_random_below(&r, (uint64_t)i, 1 + (uint32_t)round / 10);
        q3_sampling s = plain;
        s.top_k = 1 + (int)q3_random_below(&r, V, (uint32_t)n + 2);
        q3_sample_filter(x, n, NULL, 0, &s, scratch);
        for (int i = 0; i < n; i++) {
            int larger = 0;
            for (int j = 0; j < n; j++)
                larger += before[j] > before[i];
            assert_int_equal(x[i] > -INFINITY, larger < s.top_k);
        }
    }
}

static void top_p_keeps_the_token_that_crosses(void **state)
{
    (void)state;
    const float base[4] = { logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f) };
    static const struct {
        float p;
        int kept;
    } cases[] = { { 0.001f, 1 }, { 0.49f, 1 }, { 0.51f, 2 }, { 0.79f, 2 },
                  { 0.81f, 3 },  { 0.96f, 4 }, { 1, 4 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float x[4], buffer[4];
        memcpy(x, base, sizeof x);
        q3_sampling s = plain;
        s.top_p = cases[i].p;
        q3_sample_filter(x, 4, NULL, 0, &s, buffer);
        assert_int_equal(kept(x, 4), cases[i].kept);
        assert_true(x[0] > -INFINITY);
    }
}

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { DRAWS = 20000 };
    const float base[5] = { logf(0.1f), logf(0.4f), logf(0.2f), logf(0.25f), logf(0.05f) };
    int counts[5] = { 0 };
    q3_sampling s = plain;
    s.seed = 3407;
    for (uint32_t i = 0; i < DRAWS; i++) {
        float x[5], buffer[5];
        memcpy(x, base, sizeof x);
        counts[q3_sample_next(x, 5, NULL, 0, 0, &s, i % 7, i / 7, buffer)]++;
    }
    for (int i = 0; i < 5; i++) // 5 standard deviations are at most 0.0173
        assert_true(fabs((double)counts[i] / DRAWS - exp((double)base[i])) < 0.0173);
}

static void a_draw_depends_on_seed_request_and_position_alone(void **state)
{
    (void)state;
    q3_sampling s = plain;
    int differ[3] = { 0 };
    for (uint32_t i = 0; i < 50; i++) {
        int32_t ids[5];
        for (int k = 0; k < 5; k++) {
            s.seed = k == 2 ? 8 : 7;
            reset();
            ids[k] = q3_sample_next(logits, V, NULL, 0, 0, &s, k == 3 ? i + 100 : i, k == 4 ? i + 100 : i,
                                    scratch);
        }
        assert_int_equal(ids[0], ids[1]);
        for (int k = 0; k < 3; k++)
            differ[k] += ids[k + 2] != ids[0];
    }
    for (int k = 0; k < 3; k++)
        assert_true(differ[k] > 5);
}

static void dropped_tokens_are_never_drawn(void **state)
{
    (void)state;
    q3_sampling s = plain;
    s.temperature = 3;
    s.top_k = 4;
    for (uint32_t i = 0; i < 500; i++) {
        reset();
        int32_t id = q3_sample_next(logits, V, NULL, 0, 0, &s, 0, i, scratch);
        assert_true(logits[id] > -INFINITY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions_equal_the_reference),
        cmocka_unit_test(a_repeated_token_is_penalized_once),
        cmocka_unit_test(greedy_takes_the_lowest_id_on_ties_and_skips_the_warpers),
        cmocka_unit_test(top_k_keeps_ties_of_the_kth),
        cmocka_unit_test(top_k_agrees_with_counting),
        cmocka_unit_test(top_p_keeps_the_token_that_crosses),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(a_draw_depends_on_seed_request_and_position_alone),
        cmocka_unit_test(dropped_tokens_are_never_drawn),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
