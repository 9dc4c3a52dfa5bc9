/* Jobs of the reranker, through engine and scheduler: the tiny model of tests/golden/formats with its tokenizer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "infer/rerank.h"
#include "infer/session.h"
#include "kernels/pool.h"
#include "tests/support/golden.h"

#define FORMATS "tests/golden/formats/"
#define VL_MODEL "tests/golden/training/model/"
#define BOUND 1e-5 /* of float32, relative */

static char dir[400];
static q3_arena mem;
static q3_session session, alone; // with shared prefixes, without
static q3_reranker *reranker;

/* model/name, or vl/name. */
static void copy(const char *name, const char *from)
{
    char to[600];
    snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(q3_file_copy(to, from), Q3_OK);
}

static void open_session(q3_session *s, const char *name, bool no_sharing)
{
    char model[500];
    snprintf(model, sizeof model, "%s/%s", dir, name);
    const char *device = getenv("Q3_TEST_DEVICE");
    const q3_session_options o = { .model = model,
                                   .device = device ? device : "cpu",
                                   .dtype = "float32",
                                   .engine = { .kv_type = Q3_DTYPES, .no_sharing = no_sharing } };
    if (q3_session_open(s, &o) != Q3_OK)
        fail_msg("%s", q3_error());
}

static q3_reranker *reranker_of(const q3_session *s)
{
    q3_reranker *r;
    if (q3_reranker_create(&r, &s->model, &s->prompter, &(q3_reranker_options){ 0 }) != Q3_OK)
        fail_msg("%s", q3_error());
    return r;
}

static void make_models(void)
{
    static const char *const names[] = { "model", "vl" };
    for (int i = 0; i < 2; i++) {
        char path[500];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(q3_dir_create(path), Q3_OK);
    }
    copy("model/config.json", FORMATS "reranker-model/config.json");
    copy("model/model.safetensors", FORMATS "reranker-model/model.safetensors");
    copy("model/tokenizer.json", FORMATS "reranker-tokenizer/tokenizer.json");
    copy("model/tokenizer_config.json", FORMATS "reranker-tokenizer/tokenizer_config.json");
    copy("vl/config.json", VL_MODEL "config.json");
    copy("vl/model.safetensors", VL_MODEL "model.safetensors");
    copy("vl/preprocessor_config.json", VL_MODEL "preprocessor_config.json");
    copy("vl/tokenizer_config.json", VL_MODEL "tokenizer_config.json");
    copy("vl/tokenizer.json", FORMATS "reranker-vl/tokenizer.json");
}

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    q3_log_set_level(Q3_LOG_WARN);
    assert_int_equal(q3_arena_create(&mem, "test arena", (size_t)1 << 28), Q3_OK);
    make_models();
    open_session(&session, "model", false);
    open_session(&alone, "model", true);
    reranker = reranker_of(&session);
    return 0;
}

static int release(void **state)
{
    (void)state;
    q3_reranker_destroy(reranker);
    q3_session_close(&session);
    q3_session_close(&alone);
    q3_arena_destroy(&mem);
    q3_pool_stop();
    return 0;
}

/* ---- jobs from JSON ---- */

static q3_status parse(q3_rerank_job *out, const char *text)
{
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    q3_status st = q3_rerank_job_parse(out, &mem, json, NULL);
    cJSON_Delete(json);
    return st;
}

static void expect_documents(const char *documents, int64_t n, const char *first)
{
    char text[512];
    q3_rerank_job job;
    snprintf(text, sizeof text, "{\"query\": \"q\", \"documents\": %s}", documents);
    if (parse(&job, text) != Q3_OK)
        fail_msg("%s: %s", documents, q3_error());
    assert_int_equal(job.n, n);
    if (n)
        assert_string_equal(job.documents[0].text, first);
    q3_rerank_job_free(&job);
}

static void documents_come_in_many_forms(void **state)
{
    (void)state;
    expect_documents("[\"a\", \"b\"]", 2, "a");
    expect_documents("[{\"text\": \"a\"}, \"b\", {\"text\": \"c\"}]", 3, "a");
    expect_documents("\"[\\\"a\\\", \\\"b\\\"]\"", 2, "a"); // a list in JSON in a string
    expect_documents("\"[{\\\"text\\\": \\\"a\\\"}]\"", 1, "a");
    expect_documents("\"\\\"a\\\"\"", 1, "a");
    expect_documents("\"[a\"", 1, "[a"); // no JSON: one text
    expect_documents("\"7\"", 1, "7");
    expect_documents("\"\"", 1, "");
    expect_documents("{\"text\": \"a\"}", 1, "a");
    expect_documents("[]", 0, NULL);
    expect_documents("\"[]\"", 0, NULL);
}

static void a_job_has_the_defaults_of_the_request(void **state)
{
    (void)state;
    q3_rerank_job job;
    assert_int_equal(parse(&job, "{\"query\": \"q\", \"documents\": [], \"instruction\": null}"), Q3_OK);
    assert_true(job.top_k == 5 && job.batch_size == 8 && !job.instruction);
    assert_int_equal(parse(&job, "{\"query\": {\"text\": \"q\"}, \"documents\": [], \"instruction\": \"i\", "
                                 "\"top_k\": 100, \"batch_size\": 32}"),
                     Q3_OK);
    assert_true(job.top_k == 100 && job.batch_size == 32);
    assert_string_equal(job.instruction, "i");
    assert_string_equal(job.query.text, "q");
}

static void pictures_are_read_and_given_back(void **state)
{
    (void)state;
    q3_rerank_job job;
    assert_int_equal(parse(&job,
                           "{\"query\": {\"image\": \"" FORMATS "images/rgb-120x88.jpg\"}, \"documents\": "
                           "[{\"text\": \"a\", \"image\": [\"" FORMATS "images/rgb-120x88.jpg\", \"" FORMATS
                           "images/rgb-120x88.jpg\"]}]}"),
                     Q3_OK);
    assert_true(job.query.n_pictures == 1 && !job.query.text);
    assert_true(job.documents[0].n_pictures == 2 && job.documents[0].pictures[1].width > 0);
    q3_rerank_job_free(&job);
    assert_int_equal(job.n, 0);
}

static void bad_jobs_are_refused_with_a_reason(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        { "[]", "an object with query and documents" },
        { "{\"documents\": []}", "query is missing" },
        { "{\"query\": \"q\"}", "documents is missing" },
        { "{\"query\": 1, \"documents\": []}", "query: must be a text" },
        { "{\"query\": {}, \"documents\": []}", "query: has neither text nor image" },
        { "{\"query\": \"q\", \"documents\": 1}", "documents: must be a text" },
        { "{\"query\": \"q\", \"documents\": [\"a\", 1]}", "documents[1]: must be a text" },
        { "{\"query\": \"q\", \"documents\": [{\"text\": 1}]}", "documents[0]: text must be a string" },
        { "{\"query\": \"q\", \"documents\": [{\"text\": \"\", \"video\": \"v\"}]}",
          "documents[0]: has a video" },
        { "{\"query\": \"q\", \"documents\": [{\"image\": 1}]}", "documents[0]: image must be a path" },
        { "{\"query\": \"q\", \"documents\": [{\"image\": \"no/such.png\"}]}", "no/such.png" },
        { "{\"query\": \"q\", \"documents\": [{\"image\": [\"" FORMATS "images/rgb-120x88.jpg\", 1]}]}",
          "image must be" },
        { "{\"query\": \"q\", \"documents\": [], \"top_k\": 0}", "top_k must be an integer from 1 to 100" },
        { "{\"query\": \"q\", \"documents\": [], \"top_k\": 2.5}", "top_k" },
        { "{\"query\": \"q\", \"documents\": [], \"batch_size\": 33}",
          "batch_size must be an integer from 1 to 32" },
        { "{\"query\": \"q\", \"documents\": [], \"instruction\": 3}", "instruction must be a string" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_rerank_job job;
        assert_int_equal(parse(&job, cases[i].text), Q3_ERR_DATA);
        if (!strstr(q3_error(), cases[i].sentence))
            fail_msg("\"%s\" lacks \"%s\"", q3_error(), cases[i].sentence);
    }
}

/* ---- answers ---- */

static void the_order_is_best_first_and_stable(void **state)
{
    (void)state;
    const double logits[] = { 1, 3, -2, 3, 0, 1, 3 };
    const int64_t want[] = { 1, 3, 6, 0, 5, 4, 2 };
    int64_t order[7], many[100];
    double falling[100];
    q3_rerank_order(order, logits, 7);
    assert_memory_equal(order, want, sizeof want);
    for (int i = 0; i < 100; i++)
        falling[i] = i * 37 % 100;
    q3_rerank_order(many, falling, 100);
    for (int i = 0; i < 100; i++)
        assert_true(falling[many[i]] == 99 - i);
    q3_rerank_order(order, logits, 0);
}

static void assert_written(const q3_rerank_job *job, const double *logits, bool as_logits, bool pretty,
                           const char *want)
{
    q3_text out = { 0 };
    q3_rerank_write(&out, job, logits, as_logits, pretty);
    assert_string_equal(out.data, want);
    q3_text_free(&out);
}

/* Both probabilities round to 1: the logits still put the second first. */
static void the_answer_has_the_keys_of_the_request_and_six_digits(void **state)
{
    (void)state;
    q3_rerank_side documents[] = { { .text = "größer \"a\"" }, { .text = "b" }, { 0 } };
    const q3_rerank_job job = {
        .query = { .text = "q" }, .documents = documents, .n = 3, .top_k = 2, .batch_size = 8
    };
    const double logits[] = { 20.12345678, 20.5, -1 };
    assert_written(
        &job, logits, false, false,
        "{\"instruction\": \"" Q3_RERANK_INSTRUCTION
        "\", \"query\": \"q\", \"results\": [{\"document\": \"b\", \"score\": 1, \"index\": 1}, "
        "{\"document\": \"größer \\\"a\\\"\", \"score\": 1, \"index\": 0}], \"total_documents\": 3}");
    assert_written(
        &(q3_rerank_job){ .instruction = "i", .documents = documents + 2, .n = 1, .top_k = 5 },
        (const double[]){ -1.23456789 }, true, true,
        "{\n  \"instruction\": \"i\",\n  \"query\": null,\n  \"results\": [\n    {\n      \"document\": "
        "null,\n      \"score\": -1.23457,\n      \"index\": 0\n    }\n  ],\n  \"total_documents\": 1\n}");
    assert_written(
        &(q3_rerank_job){ .instruction = "i", .top_k = 5 }, logits, false, true,
        "{\n  \"instruction\": \"i\",\n  \"query\": null,\n  \"results\": [],\n  \"total_documents\": 0\n}");
}

/* ---- through the engine ---- */

static void keep_logit(void *arg, const float *hidden, int64_t n)
{
    *(double *)arg = q3_rerank_logit(reranker, hidden, n);
}

static void no_failure(void *arg, const q3_outcome_of_request *outcome)
{
    (void)arg;
    if (outcome->finish == Q3_FINISH_FAILED)
        fail_msg("%s", q3_error());
}

static bool near_enough(double got, double want)
{
    return fabs(got - want) <= BOUND * fmax(fabs(want), 1e-3);
}

/* The left-padded prompts of the golden file, all at once. */
static void one_row_of_the_head_gives_the_reference_scores(void **state)
{
    (void)state;
    q3_safetensors *file = q3_golden_open(FORMATS "reranker.safetensors");
    const q3_padded p = q3_golden_batch(&mem, file, "in.");
    const float *difference = q3_golden_find(file, "out.logit_difference")->data,
                *score = q3_golden_find(file, "out.scores")->data;
    double logits[4];
    assert_int_equal(p.rows, 4);
    for (int64_t b = 0; b < p.rows; b++) {
        q3_request r = { .logprobs = -1, .on_hidden = keep_logit, .on_end = no_failure, .arg = &logits[b] };
        int32_t *ids = Q3_NEW(&mem, int32_t, p.length);
        uint64_t ticket;
        r.prompt = (q3_prompt){ .ids = ids, .adapter = -1 };
        for (int64_t i = 0; i < p.length; i++)
            if (p.attention_mask[b * p.length + i])
                ids[r.prompt.n++] = (int32_t)p.input_ids[b * p.length + i];
        assert_int_equal(q3_scheduler_submit(&ticket, session.scheduler, &r), Q3_OK);
    }
    assert_int_equal(q3_scheduler_run(session.scheduler), Q3_OK);
    for (int b = 0; b < 4; b++) {
        if (!near_enough(logits[b], difference[b]))
            fail_msg("row %d: %.9g, want %.9g", b, logits[b], difference[b]);
        assert_true(fabs(q3_rerank_probability(logits[b]) - score[b]) <= BOUND);
    }
    q3_safetensors_close(file);
}

enum { MOST = 16 };

static q3_rerank_job job_of_file(cJSON **json, const char *path)
{
    char *text;
    size_t size;
    q3_rerank_job job;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    *json = cJSON_Parse(text);
    q3_free(text);
    if (q3_rerank_job_parse(&job, &mem, *json, NULL) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_true(job.n > 4 && job.n <= MOST);
    return job;
}

static void run(double *logits, int64_t *cached, q3_session *s, const q3_rerank_job *job)
{
    if (q3_rerank_run(logits, cached, s->scheduler, reranker, job, -1) != Q3_OK)
        fail_msg("%s", q3_error());
}

/* Text to score, in one go: prompts and logit differences of transformers. */
static void whole_jobs_give_the_reference_scores(void **state)
{
    (void)state;
    cJSON *json;
    const q3_rerank_job job = job_of_file(&json, FORMATS "reranker-scores.json");
    double logits[MOST];
    run(logits, NULL, &session, &job);
    for (int64_t i = 0; i < job.n; i++) {
        q3_prompt prompt;
        const cJSON *ids = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "ids"), (int)i);
        assert_int_equal(
            q3_rerank_prompt(&prompt, &mem, reranker, job.instruction, &job.query, &job.documents[i]), Q3_OK);
        assert_int_equal(prompt.n, cJSON_GetArraySize(ids));
        for (int64_t t = 0; t < prompt.n; t++)
            assert_int_equal(prompt.ids[t], cJSON_GetArrayItem(ids, (int)t)->valueint);
        double want = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "logits"), (int)i)->valuedouble;
        if (!near_enough(logits[i], want))
            fail_msg("document %d: %.9g, want %.9g", (int)i, logits[i], want);
    }
    cJSON_Delete(json);
}

/* The same for texts and pictures; pictures of the query are part of the shared prefix. */
static void pictures_give_the_reference_scores(void **state)
{
    (void)state;
    cJSON *json;
    q3_session vl;
    open_session(&vl, "vl", false);
    q3_reranker *r = reranker_of(&vl);
    q3_rerank_job job = job_of_file(&json, FORMATS "reranker-vl/scores.json");
    double logits[MOST];
    int64_t cached;
    if (q3_rerank_run(logits, &cached, vl.scheduler, r, &job, -1) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_true(cached >= (job.n - 1) * 100);
    for (int64_t i = 0; i < job.n; i++) {
        double want = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "logits"), (int)i)->valuedouble;
        if (!near_enough(logits[i], want))
            fail_msg("document %d: %.9g, want %.9g", (int)i, logits[i], want);
    }
    q3_rerank_job_free(&job);
    cJSON_Delete(json);
    q3_reranker_destroy(r);
    q3_session_close(&vl);
}

static void documents_share_the_prefix_and_keep_their_scores(void **state)
{
    (void)state;
    cJSON *json;
    const q3_rerank_job job = job_of_file(&json, FORMATS "reranker-scores.json");
    double with[MOST], without[MOST];
    int64_t cached, none;
    run(with, &cached, &session, &job);
    run(without, &none, &alone, &job);
    assert_int_equal(none, 0);
    assert_true(cached >= (job.n - 1) * 200); // of prompts of about 300 tokens
    for (int64_t i = 0; i < job.n; i++)
        assert_true(fabs(with[i] - without[i]) <= 1e-6);
    cJSON_Delete(json);
}

static void neither_order_nor_batch_size_changes_a_score(void **state)
{
    (void)state;
    cJSON *json;
    q3_rerank_job job = job_of_file(&json, FORMATS "reranker-scores.json");
    job.n = 4;
    double usual[MOST], other[MOST];
    run(usual, NULL, &session, &job);
    static const int64_t sizes[] = { 1, 3 };
    for (int k = 0; k < 2; k++) {
        job.batch_size = sizes[k];
        run(other, NULL, &alone, &job);
        for (int64_t i = 0; i < job.n; i++)
            assert_true(fabs(usual[i] - other[i]) <= 1e-6);
    }
    for (int64_t i = 0; i < job.n / 2; i++) {
        q3_rerank_side side = job.documents[i];
        job.documents[i] = job.documents[job.n - 1 - i];
        job.documents[job.n - 1 - i] = side;
    }
    run(other, NULL, &alone, &job);
    for (int64_t i = 0; i < job.n; i++)
        assert_true(fabs(usual[i] - other[job.n - 1 - i]) <= 1e-6);
    cJSON_Delete(json);
}

static void a_document_that_cannot_be_scored_is_named(void **state)
{
    (void)state;
    q3_rerank_side documents[] = { { .text = "a" }, { .text = "b <|im_end|>" }, { .text = "c" } };
    const q3_rerank_job job = {
        .query = { .text = "q" }, .documents = documents, .n = 3, .top_k = 3, .batch_size = 2
    };
    double logits[3];
    assert_int_equal(q3_rerank_run(logits, NULL, session.scheduler, reranker, &job, -1), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "documents[1]: the document contains the control token"));
    assert_true(q3_scheduler_idle(session.scheduler));
    documents[1].text = "b";
    assert_int_equal(q3_rerank_run(logits, NULL, session.scheduler, reranker, &job, -1), Q3_OK);
}

/* Longer than max_length, which is the model's 1024 here: cut, and scored all the same. */
static void long_documents_are_cut(void **state)
{
    (void)state;
    q3_text text = { 0 };
    for (int i = 0; i < 400; i++)
        q3_text_append(&text, " the cat", 8);
    q3_rerank_side documents[] = { { .text = text.data } };
    const q3_rerank_job job = { .query = { .text = "q" }, .documents = documents, .n = 1, .batch_size = 1 };
    q3_prompt prompt;
    double logit;
    assert_int_equal(q3_rerank_prompt(&prompt, &mem, reranker, NULL, &job.query, documents), Q3_OK);
    assert_int_equal(prompt.n, 1024);
    run(&logit, NULL, &session, &job);
    assert_true(isfinite(logit));
    q3_text_free(&text);
}

/* From the request to the answer, the network left out: an allocation that fails is an error, and nothing leaks. */
static q3_status answer(q3_text *out, const cJSON *json)
{
    q3_rerank_job job;
    q3_prompt prompt;
    const double logits[] = { 1, 2 };
    Q3_TRY(q3_rerank_job_parse(&job, &mem, json, NULL));
    q3_status st = q3_rerank_prompt(&prompt, &mem, reranker, NULL, &job.query, &job.documents[0]);
    if (st == Q3_OK)
        q3_rerank_write(out, &job, logits, false, true);
    q3_rerank_job_free(&job);
    return out->failed ? Q3_ERR_MEMORY : st;
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    cJSON *json =
        cJSON_Parse("{\"query\": \"q\", \"documents\": \"[\\\"a\\\", {\\\"text\\\": \\\"b\\\"}]\"}");
    q3_status st = Q3_ERR_MEMORY;
    int n = 0;
    for (; st != Q3_OK && n < 1000; n++) {
        q3_text out = { 0 };
        size_t mark = q3_arena_mark(&mem);
        q3_heap_fail_at(n + 1);
        st = answer(&out, json);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        if (st == Q3_OK && strstr(out.data, "[\\\"a")) // a list that could not be parsed is no text
            fail_msg("allocation %d: %s", n, out.data);
        q3_text_free(&out);
        q3_arena_rewind(&mem, mark);
    }
    assert_true(n > 15 && n < 1000);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_come_in_many_forms),
        cmocka_unit_test(a_job_has_the_defaults_of_the_request),
        cmocka_unit_test(pictures_are_read_and_given_back),
        cmocka_unit_test(bad_jobs_are_refused_with_a_reason),
        cmocka_unit_test(the_order_is_best_first_and_stable),
        cmocka_unit_test(the_answer_has_the_keys_of_the_request_and_six_digits),
        cmocka_unit_test(one_row_of_the_head_gives_the_reference_scores),
        cmocka_unit_test(whole_jobs_give_the_reference_scores),
        cmocka_unit_test(pictures_give_the_reference_scores),
        cmocka_unit_test(documents_share_the_prefix_and_keep_their_scores),
        cmocka_unit_test(neither_order_nor_batch_size_changes_a_score),
        cmocka_unit_test(a_document_that_cannot_be_scored_is_named),
        cmocka_unit_test(long_documents_are_cut),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
