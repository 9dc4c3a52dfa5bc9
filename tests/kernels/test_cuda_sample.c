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
    int32_t id = q3_sample_next(copy, V, NULL, 0, 0, &greedy, 0, 0, scratch);
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

typedef struct candidates {
    int32_t count, flawed, *id;
    float *value;
} candidates;

static candidates candidates_of(q3_cuda *cuda, const void *logits, int64_t V, q3_dtype dtype,
                                const q3_sampling *s, int most)
{
    candidates c = { .id = malloc((size_t)most * 4), .value = malloc((size_t)most * 4) };
    t_array from = t_upload(cuda, logits, q3_dtype_bytes(dtype, V), 0), count = t_upload(cuda, NULL, 4, 0),
            id = t_upload(cuda, NULL, (size_t)most * 4, 0), value = t_upload(cuda, NULL, (size_t)most * 4, 0),
            flawed = t_upload(cuda, &c.flawed, 4, 0), temperature = t_upload(cuda, &s->temperature, 4, 0),
            top_k = t_upload(cuda, &s->top_k, 4, 0);
    q3_candidates_cuda(&(q3_candidates_args){ .value = value.at,
                                              .id = id.at,
                                              .count = count.at,
                                              .flawed = flawed.at,
                                              .logits = from.at,
                                              .temperature = temperature.at,
                                              .top_k = top_k.at,
                                              .R = 1,
                                              .V = V,
                                              .most = most,
                                              .dtype = dtype },
                       cuda);
    t_download(&c.count, &count);
    t_download(&c.flawed, &flawed);
    t_download(c.id, &id);
    t_download(c.value, &value);
    t_drop(&from);
    t_drop(&count);
    t_drop(&id);
    t_drop(&value);
    t_drop(&flawed);
    t_drop(&temperature);
    t_drop(&top_k);
    return c;
}

/* The same token from the candidates as from the whole row, for 20 draws. */
static void check_draws(q3_cuda *cuda, const float *row, const void *raw, int64_t V, q3_dtype dtype,
                        q3_sampling s)
{
    float *copy = malloc((size_t)V * 4), *scratch = malloc((size_t)V * 4 + 8);
    candidates c = candidates_of(cuda, raw, V, dtype, &s, (int)V);
    assert_true(c.count >= 1 && c.count <= V);
    for (int32_t i = 1; i < c.count; i++)
        assert_true(c.id[i - 1] < c.id[i]);
    q3_sampling rest = s;
    rest.temperature = 1;
    for (uint32_t position = 0; position < 20; position++) {
        memcpy(copy, row, (size_t)V * 4);
        int32_t want = q3_sample_next(copy, V, NULL, 0, 0, &s, 3, position, scratch);
        memcpy(copy, c.value, (size_t)c.count * 4);
        int32_t got = c.id[q3_sample_next(copy, c.count, NULL, 0, 0, &rest, 3, position, scratch)];
        if (got != want)
            fail_msg("V %lld top-k %d position %u: token %d, from the whole row %d", (long long)V, s.top_k,
                     position, got, want);
    }
    free(c.id);
    free(c.value);
    free(copy);
    free(scratch);
}

static void draws_from_candidates_are_those_of_the_row(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 33, 4097, 20011 };
    static const int ks[] = { 1, 20, 1024 };
    q3_cuda *cuda = t_device();
    float *x = malloc(20011 * sizeof *x);
    void *raw = malloc(20011 * sizeof *x);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof ks / sizeof *ks; k++)
            for (int dtype = Q3_F32; dtype <= Q3_BF16; dtype++) {
                q3_sampling s = {
                    .do_sample = true,
                    .temperature = k % 2 ? 0.7f : 1.3f,
                    .top_k = ks[k],
                    .top_p = dtype == Q3_F32 ? 0.8f : 1.0f,
                    .repetition_penalty = 1,
                    .seed = 42 + i,
                };
                t_fill(x, sizes[i], 2.0f, (uint32_t)(i * 10 + k));
                for (int64_t v = 5; v < sizes[i]; v += 3) // as a mask leaves them
                    x[v] = k == 1 ? -INFINITY : x[v];
                t_round(raw, x, sizes[i], (q3_dtype)dtype);
                t_widen(x, raw, sizes[i], (q3_dtype)dtype);
                check_draws(cuda, x, raw, sizes[i], (q3_dtype)dtype, s);
            }
    free(x);
    free(raw);
    q3_cuda_close(cuda);
}

static void candidates_are_few_and_never_overflow(void **state)
{
    (void)state;
    const int64_t V = 20011;
    const q3_sampling s = { .temperature = 0.7f, .top_k = 20 };
    q3_cuda *cuda = t_device();
    float *x = malloc((size_t)V * 4);
    t_fill(x, V, 2.0f, 8);
    candidates c = candidates_of(cuda, x, V, Q3_F32, &s, 64);
    assert_true(c.count >= 20 && c.count <= 64);
    free(c.id);
    free(c.value);
    for (int64_t v = 0; v < V; v++)
        x[v] = 1; // all tie
    c = candidates_of(cuda, x, V, Q3_F32, &s, 64);
    assert_int_equal(c.count, V);
    for (int i = 0; i < 64; i++)
        assert_int_equal(c.id[i], i);
    free(c.id);
    free(c.value);
    free(x);
    q3_cuda_close(cuda);
}

static void a_top_k_beyond_a_block_leaves_everything(void **state)
{
    (void)state;
    const int64_t V = 5003;
    q3_cuda *cuda = t_device();
    float *x = malloc((size_t)V * 4);
    t_fill(x, V, 2.0f, 9);
    candidates c = candidates_of(cuda, x, V, Q3_F32,
                                 &(q3_sampling){ .temperature = 1, .top_k = Q3_CANDIDATES_TOP_K + 1 }, 64);
    assert_int_equal(c.count, V);
    free(c.id);
    free(c.value);
    free(x);
    q3_cuda_close(cuda);
}

static void candidates_tell_of_flaws(void **state)
{
    (void)state;
    static const float flaws[] = { NAN, INFINITY, -INFINITY };
    const int64_t V = 5003;
    const q3_sampling s = { .temperature = 0.5f, .top_k = 3 };
    q3_cuda *cuda = t_device();
    float *x = malloc((size_t)V * 4);
    t_fill(x, V, 2.0f, 9);
    for (int64_t at = -1; at < V; at += 557) {
        const float kept = at < 0 ? 0 : x[at];
        if (at >= 0)
            x[at] = flaws[at % 3];
        candidates c = candidates_of(cuda, x, V, Q3_F32, &s, 64);
        assert_int_equal(c.flawed, at >= 0);
        if (at >= 0)
            x[at] = kept;
        free(c.id);
        free(c.value);
    }
    free(x);
    q3_cuda_close(cuda);
}

static void rows_have_settings_of_their_own(void **state)
{
    (void)state;
    enum { R = 3, V = 2003, MOST = 64 };
    static const float temperatures[R] = { 0.7f, 1.0f, 1.9f };
    static const int32_t ks[R] = { 5, 1, 20 };
    q3_cuda *cuda = t_device();
    float *x = malloc(sizeof *x * R * V), value[R * MOST];
    int32_t count[R], id[R * MOST];
    t_fill(x, R * V, 2.0f, 3);
    t_array from = t_upload(cuda, x, sizeof *x * R * V, 0), counts = t_upload(cuda, NULL, sizeof count, 0),
            ids = t_upload(cuda, NULL, sizeof id, 0), values = t_upload(cuda, NULL, sizeof value, 0),
            temperature = t_upload(cuda, temperatures, sizeof temperatures, 0),
            top_k = t_upload(cuda, ks, sizeof ks, 0);
    q3_candidates_cuda(&(q3_candidates_args){ .value = values.at,
                                              .id = ids.at,
                                              .count = counts.at,
                                              .logits = from.at,
                                              .temperature = temperature.at,
                                              .top_k = top_k.at,
                                              .R = R,
                                              .V = V,
                                              .most = MOST,
                                              .dtype = Q3_F32 },
                       cuda);
    t_download(count, &counts);
    t_download(id, &ids);
    t_download(value, &values);
    for (int r = 0; r < R; r++) {
        candidates c = candidates_of(cuda, x + r * V, V, Q3_F32,
                                     &(q3_sampling){ .temperature = temperatures[r], .top_k = ks[r] }, MOST);
        assert_int_equal(count[r], c.count);
        assert_memory_equal(id + r * MOST, c.id, (size_t)c.count * sizeof *id);
        assert_memory_equal(value + r * MOST, c.value, (size_t)c.count * sizeof *value);
        free(c.id);
        free(c.value);
    }
    t_drop(&from);
    t_drop(&counts);
    t_drop(&ids);
    t_drop(&values);
    t_drop(&temperature);
    t_drop(&top_k);
    free(x);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_likeliest_token_is_that_of_the_sampler),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(flaws_are_seen_wherever_they_are),
        cmocka_unit_test(draws_from_candidates_are_those_of_the_row),
        cmocka_unit_test(candidates_are_few_and_never_overflow),
        cmocka_unit_test(a_top_k_beyond_a_block_leaves_everything),
        cmocka_unit_test(candidates_tell_of_flaws),
        cmocka_unit_test(rows_have_settings_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
