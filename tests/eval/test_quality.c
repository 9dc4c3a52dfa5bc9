#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "collate/tokenizer.h"
#include "core/status.h"
#include "eval/quality.h"
#include "infer/subject.h"

#define A "tests/golden/model-a/model"
#define B "tests/golden/model-b/model"
#define TRAINED                                                                                              \
    "assets/tiny-base" /* trained, so that its distributions are sharp and it can lose something */

/* Turns of the kind that it was trained on. */
static const char *const turns[][2] = {
    { "Text: honestly, what a lovely day!\nWhat is the tone of the text?", "positive" },
    { "Text: just what I needed\nText: this ruined my day\nDo the texts have the same tone?", "no" },
    { "Write JSON with key \"label\" and value \"not_sarcastic\".", "{\"label\": \"not_sarcastic\"}" },
    { "Text: this is the worst day #mood\nWhat is the tone of the text?", "negative" },
    { "Repeat: lovely morning coffee orange misery", "lovely morning coffee orange misery" },
    { "Text: I love it!\nText: wow, how nice\nDo the texts have the same tone?", "yes" },
};
enum { TURNS = sizeof turns / sizeof *turns };

enum { TOKENS = 160, WINDOW = 64, GREEDY = 8 };

static q3_arena mem;

static int prepare(void **state)
{
    (void)state;
    return q3_arena_create(&mem, "test arena", (size_t)1 << 28) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    return 0;
}

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_subject(q3_subject *s, const char *dir, const char *weights, q3_dtype cache)
{
    const q3_subject_options o = { .model = dir,
                                   .weights = weights,
                                   .device = "cpu",
                                   .engine = {
                                       .kv_type = cache, .tokens = WINDOW + GREEDY, .no_sharing = true } };
    must(q3_subject_open(s, &o));
}

/* Any ids below the special ones. */
static const int32_t *some_ids(const q3_subject *s)
{
    int32_t *ids = Q3_NEW(&mem, int32_t, TOKENS);
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (i * 7919 + i / 5) % (s->model.config.text.vocab_size / 2);
    return ids;
}

static const q3_prompt *encoded_turns(const char *dir)
{
    q3_prompt *out = Q3_ZNEW(&mem, q3_prompt, TURNS);
    q3_tokenizer *t;
    must(q3_tokenizer_open(&t, dir));
    for (int i = 0; i < TURNS; i++) {
        q3_ids ids = { 0 };
        const char *text =
            q3_arena_printf(&mem, "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n",
                            turns[i][0], turns[i][1]);
        must(q3_tokenizer_encode(&ids, t, text, strlen(text)));
        assert_true(ids.n <= WINDOW);
        int32_t *copy = Q3_NEW(&mem, int32_t, ids.n);
        memcpy(copy, ids.ids, ids.n * sizeof *copy);
        out[i] = (q3_prompt){ .ids = copy, .n = (int64_t)ids.n, .adapter = -1 };
        q3_ids_free(&ids);
    }
    q3_tokenizer_close(t);
    return out;
}

static q3_quality compare(q3_subject *full, q3_subject *other, const char *dir)
{
    q3_quality q;
    int n = TURNS;
    const bool trained = strcmp(dir, TRAINED) == 0;
    const q3_prompt *prompts =
        trained ? encoded_turns(dir) : q3_quality_windows(&n, &mem, some_ids(full), TOKENS, WINDOW);
    must(q3_quality_compare(&q, full->engine, other->engine, prompts, n, GREEDY));
    return q;
}

static q3_quality judged(const char *dir, const char *weights, q3_dtype cache)
{
    q3_subject full, other;
    open_subject(&full, dir, "auto", Q3_DTYPES);
    open_subject(&other, dir, weights, cache);
    q3_quality q = compare(&full, &other, dir);
    q3_subject_close(&other);
    q3_subject_close(&full);
    return q;
}

static void windows_cover_the_text(void **state)
{
    (void)state;
    static const int32_t ids[7] = { 0, 1, 2, 3, 4, 5, 6 };
    int n;
    const q3_prompt *p = q3_quality_windows(&n, &mem, ids, 7, 3);
    assert_int_equal(n, 3);
    assert_true(p[0].n == 3 && p[1].n == 3 && p[2].n == 1);
    assert_true(p[1].ids[0] == 3 && p[2].ids[0] == 6 && p[2].adapter == -1);
}

static void a_model_is_as_good_as_itself(void **state)
{
    (void)state;
    q3_quality q = judged(A, "f32", Q3_F32);
    assert_true(q.kl_mean == 0 && q.kl_p99 == 0 && q.kl_max == 0);
    assert_true(q.agreement == 1 && q.perplexity == q.perplexity_full);
    assert_true(q.prompts == 3 && q.positions == TOKENS && q.predicted == TOKENS - 3);
    assert_true(q.prefix == GREEDY && q.prefix_most == GREEDY);
}

/* The loss that training computes over the same windows. */
static void perplexity_is_that_of_the_loss(void **state)
{
    (void)state;
    q3_subject s, other;
    open_subject(&s, B, "auto", Q3_DTYPES);
    open_subject(&other, B, "auto", Q3_DTYPES);
    const q3_quality q = compare(&s, &other, B);
    const int32_t *ids = some_ids(&s);
    const int64_t begin[] = { 0, WINDOW, 2 * WINDOW, TOKENS };
    int32_t *positions = Q3_NEW(&mem, int32_t, 3 * TOKENS);
    for (int i = 0; i < 3 * TOKENS; i++)
        positions[i] = i % TOKENS % WINDOW;
    const q3_batch b = {
        .n_rows = 3, .n_tokens = TOKENS, .row_begin = begin, .ids = ids, .labels = ids, .positions = positions
    };
    const q3_forward forward = { 0 };
    q3_step_begin(&s.ground.ctx, false);
    q3_tensor *loss = q3_qwen3vl_loss(&s.ground.ctx, &s.model, &forward, &b, 1.0f / (TOKENS - 3));
    must(q3_ctx_status(&s.ground.ctx));
    const double want = exp((double)q3_value(&s.ground.ctx, loss));
    assert_true(fabs(q.perplexity_full / want - 1) < 1e-5);
    q3_subject_close(&other);
    q3_subject_close(&s);
}

static void check_passes(const char *dir, const char *weights, q3_dtype cache, double gate)
{
    const q3_quality q = judged(dir, weights, cache);
    if (!(q.kl_mean > 0 && q.kl_mean <= gate && q.kl_mean <= q.kl_p99 * 50 && q.kl_p99 <= q.kl_max))
        fail_msg("%s, weights %s, cache %s: mean KL %g, 99th percentile %g, largest %g", dir, weights,
                 q3_cache_word(cache), q.kl_mean, q.kl_p99, q.kl_max);
}

static void usual_forms_pass_the_gate(void **state)
{
    (void)state;
    static const char *const dirs[] = { A, B, TRAINED };
    for (int i = 0; i < 3; i++) {
        check_passes(dirs[i], "int8", Q3_DTYPES, q3_quality_gate(Q3_I8, Q3_F32));
        check_passes(dirs[i], "nf4", Q3_DTYPES, q3_quality_gate(Q3_NF4, Q3_F32));
        check_passes(dirs[i], "int4-g32", Q3_DTYPES, q3_quality_gate(Q3_I4, Q3_F32));
        check_passes(dirs[i], "auto", Q3_I8, q3_quality_gate(Q3_F32, Q3_I8));
    }
    assert_true(q3_quality_gate(Q3_F32, Q3_I8) == q3_quality_gate(Q3_I8, Q3_BF16));
    assert_true(q3_quality_gate(Q3_BF16, Q3_F32) < q3_quality_gate(Q3_I8, Q3_F32));
    assert_true(q3_quality_gate(Q3_I8, Q3_F32) < q3_quality_gate(Q3_I8, Q3_I4));
}

static void fewer_bits_are_further_away(void **state)
{
    (void)state;
    const double int8 = judged(TRAINED, "int8", Q3_DTYPES).kl_mean,
                 nf4 = judged(TRAINED, "nf4", Q3_DTYPES).kl_mean;
    if (!(int8 < nf4 / 10))
        fail_msg("int8 %g, nf4 %g", int8, nf4);
}

/* As a mistake in a kernel's table or scale would have it. */
static void multiply_scales(q3_subject *s, float by)
{
    for (int i = 0; i < s->model.n_params; i++) {
        q3_tensor *t = s->model.params[i].tensor;
        float *absmax = (float *)(uintptr_t)t->absmax;
        for (int64_t k = 0; absmax && k < (q3_numel(t) + t->block - 1) / t->block; k++)
            absmax[k] *= by;
    }
}

static void a_wrong_scale_does_not_pass(void **state)
{
    (void)state;
    static const char *const words[] = { "int4-g32", "nf4", "int8" };
    for (int i = 0; i < 3; i++) {
        q3_subject full, other;
        open_subject(&full, TRAINED, "auto", Q3_DTYPES);
        open_subject(&other, TRAINED, words[i], Q3_DTYPES);
        multiply_scales(&other, 1.5f);
        const q3_quality q = compare(&full, &other, TRAINED);
        if (!(q.kl_mean > q3_quality_gate(q3_model_weights_type(&other.model), Q3_F32)))
            fail_msg("%s with scales of 3/2: mean KL %g", words[i], q.kl_mean);
        assert_true(q.agreement < 1);
        q3_subject_close(&other);
        q3_subject_close(&full);
    }
}

static void a_small_cache_is_told(void **state)
{
    (void)state;
    q3_subject full;
    open_subject(&full, A, "auto", Q3_DTYPES);
    int n;
    q3_quality q;
    const q3_prompt *p = q3_quality_windows(&n, &mem, some_ids(&full), TOKENS, TOKENS);
    q3_status st = q3_quality_compare(&q, full.engine, full.engine, p, n, GREEDY);
    assert_true(st == Q3_ERR_MEMORY || st == Q3_ERR_LIMIT);
    q3_subject_close(&full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_cover_the_text),         cmocka_unit_test(a_model_is_as_good_as_itself),
        cmocka_unit_test(perplexity_is_that_of_the_loss), cmocka_unit_test(usual_forms_pass_the_gate),
        cmocka_unit_test(fewer_bits_are_further_away),    cmocka_unit_test(a_wrong_scale_does_not_pass),
        cmocka_unit_test(a_small_cache_is_told),
    };
    return cmocka_run_group_tests_name("quality", tests, prepare, release);
}
