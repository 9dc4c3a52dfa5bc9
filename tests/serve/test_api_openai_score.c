/* /v1/score, by a client over sockets in front of a tiny model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "eval/generation.h"
#include "eval/report_text.h"
#include "tests/support/http.h"
#include "tests/support/serve.h"

#define TRAINING "tests/golden/training"
#define SCORE "/v1/score"
#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"this is wonderful\"}]"
#define LABELS "\"choices\":[\"sarcastic\",\"not_sarcastic\"]"
#define PREFIX "\"prefix\":\"{\\\"label\\\": \\\"\""

static q3_serve_bed bed;

static q3_reply post(const char *body)
{
    return q3_http(bed.port, "POST", SCORE, NULL, body);
}

static double probability(q3_reply *r, int i)
{
    char path[40];
    snprintf(path, sizeof path, "choices.%d.probability", i);
    return q3_reply_number(r, path);
}

static void probabilities_sum_to_one(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{" HELLO "," PREFIX ",\"choices\":[\"sarcastic\",\"not_sarcastic\",\"a \\\"b\\\"\"]}",
        "{" HELLO ",\"choices\":[\"yes\",\"no\",\"perhaps it is\"]}",
        "{\"model\":\"tuned\"," HELLO ",\"prefix\":\"It is\",\"choices\":[\" good\",\" bad\",\"n't\"]}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        q3_reply r = post(bodies[i]);
        assert_int_equal(r.status, 200);
        assert_string_equal(q3_reply_string(&r, "object"), "score");
        assert_string_equal(q3_reply_string(&r, "model"), i == 2 ? "tuned" : "model");
        double a = probability(&r, 0), b = probability(&r, 1), c = probability(&r, 2);
        assert_true(a > 0 && b > 0 && c > 0 && fabs(a + b + c - 1) < 1e-9);
        double difference =
            q3_reply_number(&r, "choices.0.logprob") - q3_reply_number(&r, "choices.1.logprob");
        assert_true(fabs(difference - log(a / b)) < 1e-9 * (1 + fabs(difference)));
        assert_true(q3_reply_number(&r, "choices.0.logprob") < 0);
        assert_true(q3_reply_number(&r, "usage.prompt_tokens") > 5);
        q3_reply_free(&r);
    }
}

static void one_choice_is_certain(void **state)
{
    (void)state;
    q3_reply r = post("{" HELLO ",\"choices\":[\"yes\"]}");
    assert_true(probability(&r, 0) == 1);
    assert_string_equal(q3_reply_string(&r, "choices.0.text"), "yes");
    q3_reply_free(&r);
}

/* A prefix and what follows it are one text: where it is cut does not matter, as long as no quote stands there. */
static void where_the_prefix_ends_does_not_matter(void **state)
{
    (void)state;
    q3_reply a = post("{" HELLO ",\"prefix\":\"this \",\"choices\":[\"is good\"]}");
    q3_reply b = post("{" HELLO ",\"prefix\":\"this is\",\"choices\":[\" good\"]}");
    double x = q3_reply_number(&a, "choices.0.logprob"), y = q3_reply_number(&b, "choices.0.logprob");
    assert_true(fabs(x - y) < 1e-5 * fabs(x));
    q3_reply_free(&a);
    q3_reply_free(&b);
}

/* ---- beside eval ---- */

typedef struct evaluated {
    q3_arena run, step;
    q3_model model;
    q3_ctx ctx;
    q3_tokenizer *tokenizer;
    q3_collator collator;
    q3_dataset *data;
    q3_evaluation e;
} evaluated;

static void evaluate(evaluated *v, int n)
{
    static const char *const labels[] = { "sarcastic", "not_sarcastic" };
    const q3_load_options plain = { 0 };
    assert_int_equal(q3_arena_create(&v->run, "run arena", (size_t)64 << 20), Q3_OK);
    assert_int_equal(q3_arena_create(&v->step, "step arena", (size_t)256 << 20), Q3_OK);
    assert_int_equal(q3_ctx_create(&v->ctx, &v->step), Q3_OK);
    assert_int_equal(q3_model_load(&v->model, &v->run, TRAINING "/model", &plain), Q3_OK);
    assert_int_equal(q3_tokenizer_open(&v->tokenizer, TRAINING "/model"), Q3_OK);
    const q3_model_config *c = &v->model.config;
    assert_int_equal(q3_collator_init(&v->collator, TRAINING "/model", v->tokenizer, c->image_token,
                                      c->video_token, c->text.vocab_size),
                     Q3_OK);
    v->collator.system_prompt = "You judge posts.";
    assert_int_equal(q3_dataset_open(&v->data, TRAINING "/data/eval.jsonl", NULL), Q3_OK);
    const q3_generation_options o = {
        .source = { .data = v->data, .collator = &v->collator, .n_samples = n, .batch_size = 1 },
        .max_new_tokens = 1,
        .sampling = { .top_p = 1, .repetition_penalty = 1 },
        .eos = c->generation.eos,
        .n_eos = c->generation.n_eos,
        .labels = labels,
        .n_labels = 2,
        .forced = true,
    };
    if (q3_evaluate(&v->e, &v->ctx, &v->model, v->tokenizer, &o, NULL, NULL) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void free_evaluated(evaluated *v)
{
    q3_evaluation_free(&v->e);
    q3_dataset_close(v->data);
    q3_tokenizer_close(v->tokenizer);
    q3_model_close(&v->model);
    q3_ctx_destroy(&v->ctx);
    q3_arena_destroy(&v->step);
    q3_arena_destroy(&v->run);
}

static q3_reply ask_about(const char *picture, const char *text)
{
    char *bytes;
    size_t n;
    q3_text body = { 0 };
    assert_int_equal(q3_file_read(&bytes, &n, picture, 1 << 20), Q3_OK);
    q3_text_printf(&body, "{\"model\":\"model\"," PREFIX "," LABELS ",\"messages\":[{\"role\":\"system\","
                          "\"content\":\"You judge posts.\"},{\"role\":\"user\",\"content\":["
                          "{\"type\":\"image_url\",\"image_url\":{\"url\":\"");
    q3_html_data_url(&body, bytes, n);
    q3_text_printf(&body, "\"}},{\"type\":\"text\",\"text\":");
    q3_text_json_string(&body, text, strlen(text));
    q3_text_printf(&body, "}]}]}");
    q3_reply r = post(body.data);
    assert_int_equal(r.status, 200);
    q3_text_free(&body);
    q3_free(bytes);
    return r;
}

static void a_score_is_the_forced_choice_of_eval(void **state)
{
    (void)state;
    static const char *const texts[] = { "no seats left\nCAPTION: a sunny beach",
                                         "so happy right now\nCAPTION: café terrace ☀" };
    static const char *const pictures[] = { TRAINING "/data/images/100.png",
                                            TRAINING "/data/images/101.png" };
    evaluated v = { 0 };
    evaluate(&v, 2);
    for (int i = 0; i < 2; i++) {
        const q3_prediction *p = &v.e.predictions[i];
        q3_reply r = ask_about(pictures[i], texts[i]);
        assert_true(q3_reply_number(&r, "usage.prompt_tokens") == (double)p->prompt_tokens);
        for (int k = 0; k < 2; k++)
            assert_true(fabs(probability(&r, k) - p->forced_probs[k]) < 1e-5);
        q3_reply_free(&r);
    }
    free_evaluated(&v);
}

/* ---- what is refused ---- */

static void bad_requests_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *body, *sentence;
    } cases[] = {
        { "{" HELLO "}", "choices must be a list of 1 to 256 strings" },
        { "{" HELLO ",\"choices\":\"a\"}", "choices must be a list of 1 to 256 strings" },
        { "{" HELLO ",\"choices\":[]}", "choices must be a list of 1 to 256 strings" },
        { "{" HELLO ",\"choices\":[\"a\",\"\"]}", "choices[1] must be a string that is not empty" },
        { "{" HELLO ",\"choices\":[1]}", "choices[0] must be a string that is not empty" },
        { "{" LABELS "}", "messages must be a list of at least one message" },
        { "{" HELLO "," LABELS ",\"stream\":true}",
          "a score takes no stream, no n and no form of an answer" },
        { "{" HELLO "," LABELS ",\"n\":2}", "a score takes no stream, no n and no form of an answer" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        q3_reply_expect(post(cases[i].body), 400, "error.message", cases[i].sentence);
    q3_reply r = post("{" HELLO "," LABELS ",\"prefix\":3}");
    assert_int_equal(r.status, 400);
    assert_string_equal(q3_reply_string(&r, "error.param"), "prefix");
    q3_reply_free(&r);
    q3_reply_expect(post("{\"model\":\"other\"," HELLO "," LABELS "}"), 404, "error.message",
                    "there is no model \"other\"; GET /v1/models lists them");
}

static void what_is_too_long_is_refused(void **state)
{
    (void)state;
    q3_text body = { 0 };
    q3_text_printf(&body, "{" HELLO ",\"choices\":[\"");
    for (int i = 0; i < 5000; i++)
        q3_text_printf(&body, "x ");
    q3_text_printf(&body, "\"]}");
    q3_reply r = post(body.data);
    assert_int_equal(r.status, 400);
    assert_string_equal(q3_reply_string(&r, "error.code"), "context_length_exceeded");
    assert_non_null(strstr(q3_reply_string(&r, "error.message"), "and at most 4096 are possible"));
    q3_reply_free(&r);
    q3_text_free(&body);
}

/* The model allows 4096 tokens, the cache of the tests holds 2048. */
static void what_the_cache_cannot_hold_fails_alone(void **state)
{
    (void)state;
    q3_text body = { 0 };
    q3_text_printf(&body, "{\"choices\":[\"a\"],\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 1200; i++)
        q3_text_printf(&body, "x ");
    q3_text_printf(&body, "\"}]}");
    q3_reply r = post(body.data);
    assert_int_equal(r.status, 503);
    assert_non_null(strstr(q3_reply_string(&r, "error.message"), "a key/value cache of 2048 tokens is too"));
    q3_reply_free(&r);
    q3_text_free(&body);
    r = post("{" HELLO "," LABELS "}");
    assert_int_equal(r.status, 200);
    q3_reply_free(&r);
    q3_serve_expect_idle(&bed);
}

/* ---- beside others ---- */

static void *stream_in_a_thread(void *arg)
{
    *(q3_reply *)arg =
        q3_http(bed.port, "POST", "/v1/chat/completions", NULL,
                "{" HELLO ",\"guided_regex\":\"[a-m]{400}\",\"max_tokens\":420,\"stream\":true}");
    return NULL;
}

static void scores_are_the_same_beside_answers(void **state)
{
    (void)state;
    q3_reply streams[4], alone = post("{" HELLO "," PREFIX "," LABELS "}");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, stream_in_a_thread, &streams[i]), 0);
    for (int i = 0; i < 20; i++) {
        q3_reply r = post("{" HELLO "," PREFIX "," LABELS "}");
        assert_int_equal(r.status, 200);
        assert_true(fabs(probability(&r, 0) - probability(&alone, 0)) < 1e-5);
        q3_reply_free(&r);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(streams[i].status, 200);
        assert_non_null(strstr(streams[i].body, "data: [DONE]"));
        q3_reply_free(&streams[i]);
    }
    q3_reply_free(&alone);
    q3_serve_expect_idle(&bed);
}

static void *long_stream_in_a_thread(void *arg)
{
    *(q3_reply *)arg =
        q3_http(bed.port, "POST", "/v1/chat/completions", NULL,
                "{" HELLO ",\"guided_regex\":\"a[ab]{900}\",\"max_tokens\":420,\"stream\":true}");
    return NULL;
}

/* Four answers of 400 tokens leave too little of a cache of 2048: the score comes when they have ended. */
static void a_score_waits_for_room_in_the_cache(void **state)
{
    (void)state;
    static const struct timespec moment = { .tv_nsec = 200000 };
    q3_reply streams[4];
    pthread_t threads[4];
    q3_service_stats stats;
    q3_text body = { 0 };
    q3_text_printf(&body, "{" LABELS ",\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 540; i++)
        q3_text_printf(&body, "x ");
    q3_text_printf(&body, "\"}]}");
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, long_stream_in_a_thread, &streams[i]), 0);
    for (int i = 0; i < 10000; i++, nanosleep(&moment, NULL)) {
        q3_service_stats_of(&stats, bed.service);
        if (stats.scheduler.running == 4 && stats.scheduler.free_blocks < stats.scheduler.blocks / 2)
            break;
    }
    assert_int_equal(stats.scheduler.running, 4);
    q3_reply r = post(body.data);
    assert_int_equal(r.status, 200);
    assert_true(q3_reply_number(&r, "usage.prompt_tokens") > 1024);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(streams[i].status, 200);
        q3_reply_free(&streams[i]);
    }
    q3_reply_free(&r);
    q3_text_free(&body);
    q3_serve_expect_idle(&bed);
}

static int open_bed(void **state)
{
    (void)state;
    q3_serve_open_model(&bed);
    q3_serve_listen(&bed, &(q3_service_options){ 0 }, &(q3_cog_options){ 0 });
    q3_serve_run(&bed);
    return 0;
}

static int close_bed(void **state)
{
    (void)state;
    q3_serve_hang_up(&bed);
    q3_serve_close_model(&bed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probabilities_sum_to_one),
        cmocka_unit_test(one_choice_is_certain),
        cmocka_unit_test(where_the_prefix_ends_does_not_matter),
        cmocka_unit_test(a_score_is_the_forced_choice_of_eval),
        cmocka_unit_test(bad_requests_are_refused_with_a_sentence),
        cmocka_unit_test(what_is_too_long_is_refused),
        cmocka_unit_test(what_the_cache_cannot_hold_fails_alone),
        cmocka_unit_test(scores_are_the_same_beside_answers),
        cmocka_unit_test(a_score_waits_for_room_in_the_cache),
    };
    return cmocka_run_group_tests(tests, open_bed, close_bed);
}
