#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "collate/pack.h"
#include "core/safetensors.h"
#include "infer/generator.h"
#include "model/weights.h"

enum { ROWS = 3, LENGTH = 31, TOKENS = 24, ROOM = 24, MODELS = 2 };

#define STEP_BYTES ((size_t)256 << 20)

static const char *const dirs[MODELS] = { "tests/golden/model-a/model", "tests/golden/model-b/model" };
static const char *const files[MODELS] = { "tests/golden/model-a/generate-greedy.safetensors",
                                           "tests/golden/model-b/generate-greedy.safetensors" };
static const q3_sampling greedy = { .top_p = 1, .repetition_penalty = 1 };
static const int32_t no_token = -1;

/* A model, its golden prompts and answers, and an engine. */
typedef struct bed {
    q3_cuda *cuda; // what Q3_TEST_DEVICE names; NULL: the CPU
    q3_arena run, values, step;
    q3_model model;
    q3_ctx ctx;
    q3_generator engine;
    q3_safetensors *file;
    const int64_t *tokens; /* [ROWS, TOKENS] */
    q3_batch prompts;
} bed;

static bed beds[MODELS];

static const void *values(const bed *t, const char *name)
{
    const q3_st_tensor *found = q3_safetensors_find(t->file, name);
    assert_non_null(found);
    return found->data;
}

/* The golden batch: which pictures are whose. Row i has pictures begin[i] .. begin[i + 1]. */
static void pictures(int begin[ROWS + 1], const bed *t)
{
    const int64_t *in = values(t, "in.input_ids"), *mask = values(t, "in.attention_mask");
    const int64_t *grid = values(t, "in.image_grid_thw");
    const q3_model_config *c = &t->model.config;
    int64_t merged = (int64_t)c->vision.merge_size * c->vision.merge_size;
    begin[0] = 0;
    for (int i = 0; i < ROWS; i++) {
        int64_t left = 0;
        for (int k = 0; k < LENGTH; k++)
            left += mask[i * LENGTH + k] && in[i * LENGTH + k] == c->image_token;
        begin[i + 1] = begin[i];
        for (; left > 0; begin[i + 1]++) {
            const int64_t *g = grid + (ptrdiff_t)3 * begin[i + 1];
            left -= g[0] * g[1] * g[2] / merged;
        }
        assert_int_equal(left, 0);
    }
}

/* Rows [first, first + n) of the golden prompts as a batch, each followed by the `more` tokens at `ids`. */
static q3_batch prompts_of(bed *t, int first, int n, const int32_t *ids, int64_t more)
{
    const q3_model_config *c = &t->model.config;
    const int64_t *in = values(t, "in.input_ids"), *mask = values(t, "in.attention_mask");
    const int64_t *grid = values(t, "in.image_grid_thw");
    int64_t length = LENGTH + more, skipped = 0, patches = 0;
    int64_t width = 3 * (int64_t)c->vision.temporal_patch_size * c->vision.patch_size * c->vision.patch_size;
    int64_t *padded = Q3_NEW(&t->run, int64_t, n * length), *real = Q3_NEW(&t->run, int64_t, n * length);
    int begin[ROWS + 1];
    pictures(begin, t);
    for (int i = 0; i < begin[first + n]; i++)
        *(i < begin[first] ? &skipped : &patches) += grid[3 * i] * grid[3 * i + 1] * grid[3 * i + 2];
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < length; k++) {
            padded[i * length + k] = k < LENGTH ? in[(first + i) * LENGTH + k] : ids[k - LENGTH];
            real[i * length + k] = k < LENGTH ? mask[(first + i) * LENGTH + k] : 1;
        }
    int64_t *grids = Q3_NEW(&t->run, int64_t, 3 * ROWS);
    memcpy(grids, grid + (ptrdiff_t)3 * begin[first],
           3 * (size_t)(begin[first + n] - begin[first]) * sizeof *grids);
    const q3_padded p = { .rows = n,
                          .length = length,
                          .input_ids = padded,
                          .attention_mask = real,
                          .image_grid_thw = grids,
                          .n_images = begin[first + n] - begin[first],
                          .pixel_values = (float *)values(t, "in.pixel_values") + skipped * width,
                          .n_patches = patches,
                          .patch_width = width };
    q3_batch b;
    if (q3_unpad(&b, &t->run, &p, c->image_token, c->video_token, c->vision.merge_size) != Q3_OK)
        fail_msg("%s", q3_error());
    return b;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        bed *t = &beds[i];
        const q3_load_options options = { .values = &t->values };
        const char *device = getenv("Q3_TEST_DEVICE");
        if (q3_device_open(&t->cuda, device ? device : "cpu") != Q3_OK)
            fail_msg("%s", q3_error());
        assert_int_equal(q3_arena_create(&t->run, "run arena", (size_t)64 << 20), Q3_OK);
        assert_int_equal(q3_device_arena_create(&t->values, t->cuda, "parameters", (size_t)64 << 20), Q3_OK);
        assert_int_equal(q3_device_arena_create(&t->step, t->cuda, "step arena", STEP_BYTES), Q3_OK);
        assert_int_equal(q3_ctx_create(&t->ctx, &t->step), Q3_OK);
        if (q3_model_load(&t->model, &t->run, dirs[i], &options) != Q3_OK)
            fail_msg("%s", q3_error());
        assert_int_equal(q3_safetensors_open(&t->file, files[i]), Q3_OK);
        t->tokens = values(t, "out.tokens");
        t->prompts = prompts_of(t, 0, ROWS, NULL, 0);
        assert_int_equal(q3_generator_create(&t->engine, &t->model, &t->ctx), Q3_OK);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        bed *t = &beds[i];
        q3_generator_destroy(&t->engine);
        q3_safetensors_close(t->file);
        q3_model_close(&t->model);
        q3_ctx_destroy(&t->ctx);
        q3_arena_destroy(&t->step);
        q3_arena_destroy(&t->values);
        q3_arena_destroy(&t->run);
        q3_device_close(t->cuda);
    }
    return 0;
}

static q3_generate_options greedily(int64_t max_new_tokens)
{
    return (q3_generate_options){
        .max_new_tokens = max_new_tokens, .sampling = greedy, .eos = &no_token, .n_eos = 1
    };
}

static void generate(q3_answer_ids *out, bed *t, const q3_batch *b, const q3_generate_options *o)
{
    if (q3_generator_begin(&t->engine, b, ROOM) != Q3_OK || q3_generate(out, &t->engine, o) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void assert_tokens(const q3_answer_ids *a, const int64_t *expected, int64_t n)
{
    assert_int_equal(a->n, n);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(a->ids[i], expected[i]);
}

static void greedy_answers_equal_the_reference(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        const q3_generate_options o = greedily(TOKENS);
        q3_answer_ids out[ROWS];
        generate(out, &beds[m], &beds[m].prompts, &o);
        for (int i = 0; i < ROWS; i++) {
            assert_tokens(&out[i], beds[m].tokens + i * TOKENS, TOKENS);
            assert_false(out[i].ended);
        }
    }
}

static void a_row_alone_gives_the_same_answer(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++)
        for (int i = 0; i < ROWS; i++) {
            const q3_generate_options o = greedily(TOKENS);
            const q3_batch b = prompts_of(&beds[m], i, 1, NULL, 0);
            q3_answer_ids out;
            generate(&out, &beds[m], &b, &o);
            assert_tokens(&out, beds[m].tokens + i * TOKENS, TOKENS);
        }
}

static void an_answer_has_at_most_max_new_tokens(void **state)
{
    (void)state;
    bed *t = &beds[1];
    q3_answer_ids out[ROWS];
    for (int64_t max = 0; max <= 5; max++) {
        const q3_generate_options o = greedily(max);
        generate(out, t, &t->prompts, &o);
        for (int i = 0; i < ROWS; i++) {
            assert_tokens(&out[i], t->tokens + i * TOKENS, max);
            assert_false(out[i].ended);
        }
    }
}

static void any_end_token_ends_its_row_alone(void **state)
{
    (void)state;
    bed *t = &beds[0];
    static const int32_t eos[] = { 205, 9 }; // the 13th token of row 0, the first of row 1
    q3_generate_options o = greedily(TOKENS);
    o.eos = eos;
    o.n_eos = 2;
    q3_answer_ids out[ROWS];
    generate(out, t, &t->prompts, &o);
    assert_tokens(&out[0], t->tokens, 12);
    assert_tokens(&out[1], NULL, 0);
    assert_tokens(&out[2], t->tokens + 2 * TOKENS, TOKENS);
    assert_true(out[0].ended && out[1].ended && !out[2].ended);
}

/* log p of `id` behind everything in `b`, whose only row runs without a cache. */
static double uncached(bed *t, const q3_batch *b, int64_t at, int32_t id)
{
    const q3_forward forward = { 0 };
    int32_t row = (int32_t)at;
    int64_t V = t->model.config.text.vocab_size;
    q3_step_begin(&t->ctx, false);
    const float *x = q3_f32(q3_qwen3vl_logits(&t->ctx, &t->model, &forward, b, &row, 1));
    double sum = 0;
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)x[i]);
    return x[id] - log(sum);
}

static double uncached_score(bed *t, int row, const q3_choice *c)
{
    const q3_batch b = prompts_of(t, row, 1, c->ids, c->n);
    double sum = 0, any = 0;
    for (int64_t k = 0; k < c->n; k++)
        sum += uncached(t, &b, b.n_tokens - c->n + k - 1, c->ids[k]);
    for (int64_t k = 0; k < c->n_any; k++)
        any += exp(uncached(t, &b, b.n_tokens - 1, c->any[k]));
    return c->n_any ? sum + log(any) : sum;
}

static void scores_are(bed *t, const q3_choice *choices, int n)
{
    double out[ROWS * 8];
    if (q3_generator_begin(&t->engine, &t->prompts, ROOM) != Q3_OK ||
        q3_score(out, &t->engine, choices, n) != Q3_OK)
        fail_msg("%s", q3_error());
    for (int i = 0; i < ROWS; i++)
        for (int a = 0; a < n; a++)
            assert_true(fabs(out[i * n + a] - uncached_score(t, i, &choices[a])) <
                        1e-5 * fabs(out[i * n + a]));
}

static void scores_equal_those_without_a_cache(void **state)
{
    (void)state;
    static const int32_t ids[] = { 17, 200, 4, 99, 5 }, other[] = { 17, 200, 8 },
                         third[] = { 17, 200, 4, 98 };
    static const int32_t apart[] = { 3, 3, 3 }, any[] = { 1, 50, 300 };
    const q3_choice together[] = { { ids, 5, NULL, 0 }, { other, 3, any, 3 }, { third, 4, NULL, 0 } };
    const q3_choice nothing_shared[] = { { ids, 2, NULL, 0 },
                                         { apart, 3, any, 1 },
                                         { apart + 1, 1, NULL, 0 } };
    const q3_choice one_begins_the_other[] = { { ids, 2, any, 2 }, { ids, 5, any, 2 }, { ids, 3, NULL, 0 } };
    const q3_choice words[] = { { ids, 1, NULL, 0 }, { other + 1, 1, NULL, 0 } };
    for (int m = 0; m < MODELS; m++) {
        scores_are(&beds[m], together, 3);
        scores_are(&beds[m], nothing_shared, 3);
        scores_are(&beds[m], one_begins_the_other, 3);
        scores_are(&beds[m], words, 2);
        scores_are(&beds[m], together, 1);
    }
}

static void one_beginning_serves_scores_and_answers(void **state)
{
    (void)state;
    bed *t = &beds[1];
    static const int32_t ids[] = { 17, 200, 4, 99, 5 };
    const q3_choice choice = { ids, 5, NULL, 0 };
    const q3_generate_options o = greedily(TOKENS);
    q3_answer_ids out[ROWS];
    double before[ROWS], after[ROWS];
    generate(out, t, &t->prompts, &o);
    assert_int_equal(q3_score(before, &t->engine, &choice, 1), Q3_OK);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(q3_generate(out, &t->engine, &o), Q3_OK);
        for (int i = 0; i < ROWS; i++)
            assert_tokens(&out[i], t->tokens + i * TOKENS, TOKENS);
    }
    assert_int_equal(q3_score(after, &t->engine, &choice, 1), Q3_OK);
    assert_memory_equal(before, after, sizeof before);
}

static void drawn_answers_depend_on_the_request_and_not_on_the_batch(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_generate_options o = greedily(TOKENS);
    o.sampling = (q3_sampling){ .do_sample = true,
                                .temperature = 0.8f,
                                .top_k = 20,
                                .top_p = 0.9f,
                                .repetition_penalty = 1.1f,
                                .seed = 5 };
    o.first_request = 40;
    q3_answer_ids together[ROWS], alone;
    int64_t drawn[ROWS * TOKENS];
    generate(together, t, &t->prompts, &o);
    for (int i = 0; i < ROWS * TOKENS; i++)
        drawn[i] = together[i / TOKENS].ids[i % TOKENS];
    for (int i = 0; i < ROWS; i++) {
        const q3_batch b = prompts_of(t, i, 1, NULL, 0);
        o.first_request = 40 + (uint32_t)i;
        generate(&alone, t, &b, &o);
        assert_tokens(&alone, drawn + i * TOKENS, TOKENS);
    }
    o.first_request = 7;
    generate(together, t, &t->prompts, &o);
    int differ = 0;
    for (int i = 0; i < ROWS * TOKENS; i++)
        differ += together[i / TOKENS].ids[i % TOKENS] != drawn[i];
    assert_true(differ > TOKENS);
}

static void the_penalty_sees_prompt_and_answer(void **state)
{
    (void)state;
    bed *t = &beds[0]; // its greedy answers repeat themselves
    q3_generate_options o = greedily(TOKENS);
    o.sampling.repetition_penalty = 1e6f;
    q3_answer_ids out[ROWS];
    generate(out, t, &t->prompts, &o);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < TOKENS; k++) {
            for (int j = 0; j < k; j++)
                assert_int_not_equal(out[i].ids[j], out[i].ids[k]);
            for (int64_t j = t->prompts.row_begin[i]; j < t->prompts.row_begin[i + 1]; j++)
                assert_int_not_equal(t->prompts.ids[j], out[i].ids[k]);
        }
}

static void repeated_runs_take_no_more_memory(void **state)
{
    (void)state;
    bed *t = &beds[0];
    static const int32_t ids[] = { 17, 200, 4 };
    const q3_choice choice = { ids, 3, NULL, 0 };
    const q3_generate_options o = greedily(TOKENS);
    q3_answer_ids out[ROWS];
    double score[ROWS];
    size_t used = 0, peak = 0, limit = 0, step = 0;
    for (int round = 0; round < 4; round++) {
        generate(out, t, &t->prompts, &o);
        assert_int_equal(q3_score(score, &t->engine, &choice, 1), Q3_OK);
        if (round) {
            assert_int_equal(t->engine.cache.used, used);
            assert_int_equal(t->engine.cache.peak, peak);
            assert_int_equal(t->engine.cache.limit, limit);
            assert_int_equal(t->step.peak, step);
        }
        used = t->engine.cache.used;
        peak = t->engine.cache.peak;
        limit = t->engine.cache.limit;
        step = t->step.peak;
    }
    assert_int_equal(q3_generator_begin(&t->engine, &t->prompts, 1), Q3_OK); // a smaller run keeps what there is
    assert_int_equal(t->engine.cache.limit, limit);
}

static void a_batch_of_nothing_is_fine(void **state)
{
    (void)state;
    bed *t = &beds[0];
    const q3_batch none = { 0 };
    const q3_generate_options o = greedily(1);
    assert_int_equal(q3_generator_begin(&t->engine, &none, ROOM), Q3_OK);
    assert_int_equal(t->engine.n_rows, 0);
    assert_int_equal(q3_generate(NULL, &t->engine, &o), Q3_OK);
    assert_int_equal(q3_score(NULL, &t->engine, NULL, 0), Q3_OK);
}

static void logits_that_are_not_finite_are_reported(void **state)
{
    (void)state;
    bed *t = &beds[0];
    float *w = q3_f32(t->model.norm.w), kept, bad = NAN;
    q3_device_read(t->cuda, &kept, w, sizeof kept);
    q3_device_write(t->cuda, w, &bad, sizeof bad);
    assert_int_equal(q3_generator_begin(&t->engine, &t->prompts, ROOM), Q3_ERR_FAIL);
    assert_non_null(strstr(q3_error(), "not finite"));
    assert_int_equal(t->engine.n_rows, 0);
    q3_device_write(t->cuda, w, &kept, sizeof kept);
}

static void a_cache_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    q3_generator e;
    assert_int_equal(q3_generator_create(&e, &beds[0].model, &beds[0].ctx), Q3_OK);
    assert_int_equal(q3_generator_begin(&e, &beds[0].prompts, INT32_MAX), Q3_ERR_LIMIT);
    assert_int_equal(q3_generator_begin(&e, &beds[0].prompts, INT32_MAX / 4), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "key/value cache"));
    q3_generator_destroy(&e);
}

static void a_full_step_arena_is_an_error_and_the_engine_goes_on(void **state)
{
    (void)state;
    bed *t = &beds[0];
    const q3_generate_options o = greedily(TOKENS);
    q3_answer_ids out[ROWS];
    size_t limit = t->step.limit;
    t->step.limit = 64 << 10;
    assert_int_equal(q3_generator_begin(&t->engine, &t->prompts, ROOM), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "step arena"));
    t->step.limit = limit;
    generate(out, t, &t->prompts, &o);
    assert_tokens(&out[2], t->tokens + 2 * TOKENS, TOKENS);
}

/* Every request before the network runs: the arenas, two lists of slabs, the slabs with their headers, six
 * arrays. */
static void each_failing_allocation_of_the_cache_is_an_error(void **state)
{
    (void)state;
    bed *t = &beds[0];
    int64_t requests = (t->cuda ? 1 : 2) + 2 + 4 * t->model.config.text.layers + 6;
    for (int64_t n = 1; n <= requests; n++) {
        q3_generator e;
        assert_int_equal(q3_generator_create(&e, &t->model, &t->ctx), Q3_OK);
        q3_heap_fail_at(n);
        assert_int_equal(q3_generator_begin(&e, &t->prompts, ROOM), Q3_ERR_MEMORY);
        q3_heap_fail_at(0);
        q3_generator_destroy(&e);
    }
}

/* The reference's tokens came from them too: see greedy_answers_equal_the_reference. */
static void decoding_is_recorded_on_a_device(void **state)
{
    (void)state;
    bed *t = &beds[0];
    const q3_generate_options o = greedily(TOKENS);
    q3_answer_ids out[ROWS];
    int64_t before = q3_replays_launched(t->engine.replays);
    generate(out, t, &t->prompts, &o);
    int64_t launched = q3_replays_launched(t->engine.replays) - before;
    if (t->cuda)
        assert_true(launched >= TOKENS / 2);
    else
        assert_int_equal(launched, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_answers_equal_the_reference),
        cmocka_unit_test(a_row_alone_gives_the_same_answer),
        cmocka_unit_test(decoding_is_recorded_on_a_device),
        cmocka_unit_test(an_answer_has_at_most_max_new_tokens),
        cmocka_unit_test(any_end_token_ends_its_row_alone),
        cmocka_unit_test(scores_equal_those_without_a_cache),
        cmocka_unit_test(one_beginning_serves_scores_and_answers),
        cmocka_unit_test(drawn_answers_depend_on_the_request_and_not_on_the_batch),
        cmocka_unit_test(the_penalty_sees_prompt_and_answer),
        cmocka_unit_test(repeated_runs_take_no_more_memory),
        cmocka_unit_test(a_batch_of_nothing_is_fine),
        cmocka_unit_test(logits_that_are_not_finite_are_reported),
        cmocka_unit_test(a_cache_that_does_not_fit_is_refused),
        cmocka_unit_test(a_full_step_arena_is_an_error_and_the_engine_goes_on),
        cmocka_unit_test(each_failing_allocation_of_the_cache_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
