#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "infer/sample.h"
#include "kernels/sample.h"
#include "tests/support/device.h"

typedef struct answer {
    int32_t token[8], flawed;
    double lse[8];
} answer;

/* R up to 8 */
static answer ask(q3_cuda *cuda, const void *logits, int64_t R, int64_t V, q3_dtype dtype)
{
    answer out = { .flawed = 0 };
    t_array from = t_upload(cuda, logits, q3_dtype_bytes(dtype, R * V), 0),
            token = t_upload(cuda, NULL, (size_t)R * 4, 0), lse = t_upload(cuda, NULL, (size_t)R * 8, 0),
            flawed = t_upload(cuda, &out.flawed, 4, 0);
    q3_greedy_cuda(&(q3_greedy_args){ token.at, lse.at, flawed.at, from.at, R, V, dtype }, cuda);
    t_download(out.token, &token);
    t_download(out.lse, &lse);
    t_download(&out.flawed, &flawed);
    t_drop(&from);
    t_drop(&token);
    t_drop(&lse);
    t_drop(&flawed);
    return out;
}

static int32_t likeliest(const float *row, int64_t V)
{
    const q3_sampling greedy = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 };
    float *copy = malloc((size_t)V * 4), *scratch = malloc((size_t)V * 4 + 8);
    memcpy(copy, row, (size_t)V * 4);
    int32_t id = q3_sample_next(copy, V, NULL, 0, &greedy, 0, 0, scratch);
    free(copy);
    free(scratch);
    return id;
}

static double log_sum_exp(const float *row, int64_t V)
{
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++)
        top = row[v] > top ? row[v] : top;
    for (int64_t v = 0; v < V; v++)
        sum += exp(row[v] - top);
    return top + log(sum);
}

static void the_likeliest_token_is_that_of_the_sampler(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 7, 33, 4097, 20011, 151936 };
    q3_cuda *cuda = t_device();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int dtype = Q3_F32; dtype <= Q3_BF16; dtype++) { // in bf16 there are ties
            const int64_t V = sizes[i], R = V > 100000 ? 1 : 5;
            float *x = malloc((size_t)(R * V) * 4);
            void *raw = malloc((size_t)(R * V) * 4);
            t_fill(x, R * V, 2.0f, (uint32_t)i);
            t_round(raw, x, R * V, (q3_dtype)dtype);
            t_widen(x, raw, R * V, (q3_dtype)dtype);
            answer got = ask(cuda, raw, R, V, (q3_dtype)dtype);
            assert_int_equal(got.flawed, 0);
            for (int64_t r = 0; r < R; r++) {
                assert_int_equal(got.token[r], likeliest(x + r * V, V));
                double want = log_sum_exp(x + r * V, V);
                assert_true(fabs(got.lse[r] - want) <= 1e-6 * (1 + fabs(want)));
            }
            free(x);
            free(raw);
        }
    q3_cuda_close(cuda);
}

static void ties_go_to_the_lowest_id(void **state)
{
    (void)state;
    const int64_t V = 3001;
    q3_cuda *cuda = t_device();
    float *x = malloc((size_t)V * 4);
    for (int64_t first = 0; first < V; first += 271) {
        for (int64_t v = 0; v < V; v++)
            x[v] = v == first || v == (first + 900) % V || v == (first + 1) % V ? 1.5f : -2.0f;
        assert_int_equal(ask(cuda, x, 1, V, Q3_F32).token[0], likeliest(x, V));
    }
    for (int64_t v = 0; v < V; v++)
        x[v] = -INFINITY;
    assert_int_equal(ask(cuda, x, 1, V, Q3_F32).token[0], 0);
    free(x);
    q3_cuda_close(cuda);
}

static void flaws_are_seen_wherever_they_are(void **state)
{
    (void)state;
    static const float flaws[] = { NAN, INFINITY, -INFINITY };
    const int64_t V = 1003;
    q3_cuda *cuda = t_device();
    float *x = malloc(3 * (size_t)V * 4);
    t_fill(x, 3 * V, 1.0f, 4);
    for (int64_t at = 0; at < 3 * V; at += 97) {
        const float kept = x[at];
        x[at] = flaws[at % 3];
        answer got = ask(cuda, x, 3, V, Q3_F32);
        assert_int_equal(got.flawed, 1);
        for (int64_t r = 0; r < 3; r++)
            assert_int_equal(got.token[r], likeliest(x + r * V, V));
        x[at] = kept;
    }
    x[0] = 3e38f; // large, but finite
    assert_int_equal(ask(cuda, x, 3, V, Q3_F32).flawed, 0);
    free(x);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_likeliest_token_is_that_of_the_sampler),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(flaws_are_seen_wherever_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
