#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "infer/beam.h"
#include "tests/support/golden_prompts.h"

enum { BEAMS = 4, ENDS = 4, PLENTY = 1024 };

static const cJSON *field(const cJSON *object, const char *key)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!found)
        fail_msg("no field %s", key);
    return found;
}

static q3_engine *engine_of(t_bed *t, int64_t tokens)
{
    q3_engine *e;
    const q3_engine_options options = { .kv_type = Q3_F32, .tokens = tokens };
    if (q3_engine_create(&e, &t->model, &t->ctx, NULL, &options) != Q3_OK)
        fail_msg("%s", q3_error());
    return e;
}

/* All blocks are free again. */
static void close_engine(q3_engine *e)
{
    assert_int_equal(q3_engine_free_blocks(e), q3_engine_blocks(e));
    q3_engine_destroy(e);
}

static q3_early_stopping early_stopping(const char *name)
{
    return strcmp(name, "never") == 0  ? Q3_EARLY_STOPPING_NEVER
           : strcmp(name, "true") == 0 ? Q3_EARLY_STOPPING_TRUE
                                       : Q3_EARLY_STOPPING_FALSE;
}

static void assert_answers(const q3_beam_answer *got, const cJSON *expected, int n)
{
    assert_int_equal(cJSON_GetArraySize(expected), n);
    for (int i = 0; i < n; i++) {
        const cJSON *want = cJSON_GetArrayItem(expected, i), *ids = field(want, "ids");
        assert_int_equal(got[i].n, cJSON_GetArraySize(ids));
        for (int k = 0; k < got[i].n; k++)
            assert_int_equal(got[i].ids[k], cJSON_GetArrayItem(ids, k)->valueint);
        assert_int_equal(got[i].ended, cJSON_IsTrue(field(want, "ended")));
        double score = field(want, "score")->valuedouble;
        assert_true(fabs(got[i].score - score) < 1e-5 * fabs(score));
    }
}

static void run_case(t_bed *t, q3_engine *e, const cJSON *c, int64_t max_new_tokens)
{
    int32_t eos[ENDS];
    q3_beam_answer out[BEAMS];
    const q3_beam_options o = { .num_beams = field(c, "num_beams")->valueint,
                                .num_returned = field(c, "num_beams")->valueint,
                                .early_stopping = early_stopping(field(c, "early_stopping")->valuestring),
                                .length_penalty = (float)field(c, "length_penalty")->valuedouble,
                                .repetition_penalty = (float)field(c, "repetition_penalty")->valuedouble,
                                .max_new_tokens = max_new_tokens,
                                .eos = eos,
                                .n_eos = cJSON_GetArraySize(field(c, "eos")) };
    assert_true(o.n_eos <= ENDS && o.num_beams <= BEAMS);
    for (int i = 0; i < o.n_eos; i++)
        eos[i] = cJSON_GetArrayItem(field(c, "eos"), i)->valueint;
    size_t mark = q3_arena_mark(&t->run);
    if (q3_beam_search(out, &t->run, e, &t->prompts[field(c, "row")->valueint], &o) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_answers(out, field(c, "answers"), o.num_returned);
    q3_arena_rewind(&t->run, mark);
}

static void answers_and_scores_are_those_of_the_reference(void **state)
{
    (void)state;
    for (int m = 0; m < T_MODELS; m++) {
        t_bed *t = &t_beds[m];
        char path[256];
        q3_json golden;
        q3_engine *e = engine_of(t, PLENTY);
        snprintf(path, sizeof path, "%s/beam.json", t->dir);
        if (q3_json_open(&golden, path, (size_t)1 << 20) != Q3_OK)
            fail_msg("%s", q3_error());
        const cJSON *cases = field(golden.root, "cases");
        assert_int_equal(cJSON_GetArraySize(cases), 72);
        for (int i = 0; i < 72; i++)
            run_case(t, e, cJSON_GetArrayItem(cases, i), field(golden.root, "max_new_tokens")->valueint);
        q3_json_close(&golden);
        close_engine(e);
    }
}

static const q3_beam_options plain = { .num_beams = BEAMS,
                                       .num_returned = 1,
                                       .length_penalty = 1,
                                       .repetition_penalty = 1,
                                       .max_new_tokens = T_ANSWER };

static void one_beam_is_greedy_search(void **state)
{
    (void)state;
    for (int m = 0; m < T_MODELS; m++)
        for (int row = 0; row < T_PROMPTS; row++) {
            t_bed *t = &t_beds[m];
            q3_engine *e = engine_of(t, PLENTY);
            q3_beam_options o = plain;
            q3_beam_answer out;
            o.num_beams = 1;
            if (q3_beam_search(&out, &t->run, e, &t->prompts[row], &o) != Q3_OK)
                fail_msg("%s", q3_error());
            assert_int_equal(out.n, T_ANSWER);
            assert_false(out.ended);
            for (int k = 0; k < T_ANSWER; k++)
                assert_int_equal(out.ids[k], t->tokens[row * T_ANSWER + k]);
            close_engine(e);
        }
}

static void a_cache_that_is_too_small_is_named_and_nothing_is_kept(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    const q3_prompt *p = &t->prompts[0];
    int64_t blocks = (p->n + Q3_ENGINE_BLOCK - 1) / Q3_ENGINE_BLOCK;
    q3_beam_answer out;
    q3_engine *e = engine_of(t, (blocks + 1) * Q3_ENGINE_BLOCK);
    assert_int_equal(q3_beam_search(&out, &t->run, e, p, &plain), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "key/value cache"));
    close_engine(e);
    e = engine_of(t, Q3_ENGINE_BLOCK);
    const q3_prompt longer = t_text_prompt(t, 0, Q3_ENGINE_BLOCK);
    assert_int_equal(q3_beam_search(&out, &t->run, e, &longer, &plain), Q3_ERR_LIMIT);
    close_engine(e);
}

static void more_candidates_than_tokens_are_refused(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    q3_beam_answer out;
    q3_engine *e = engine_of(t, PLENTY);
    q3_beam_options o = plain;
    o.num_beams = t->model.config.text.vocab_size;
    assert_int_equal(q3_beam_search(&out, &t->run, e, &t->prompts[0], &o), Q3_ERR_LIMIT);
    assert_non_null(strstr(q3_error(), "vocabulary"));
    close_engine(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_scores_are_those_of_the_reference),
        cmocka_unit_test(one_beam_is_greedy_search),
        cmocka_unit_test(a_cache_that_is_too_small_is_named_and_nothing_is_kept),
        cmocka_unit_test(more_candidates_than_tokens_are_refused),
    };
    return cmocka_run_group_tests(tests, t_beds_open, t_beds_close);
}
