#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "eval/generation.h"
#include "eval/predictions.h"
#include "model/weights.h"

enum { SAMPLES = 7, TOKENS = 24 };

#define TRAINING "tests/golden/training"
#define PREFIX "evaluate_qwen3 failed: "

static const char *const two_labels[] = { "sarcastic", "not_sarcastic" };
static const int golds[SAMPLES] = { 1, 0, 1, 0, 1, 1, 1 };

static q3_arena run, step;
static q3_model model;
static q3_ctx ctx;
static q3_tokenizer *tokenizer;
static q3_collator collator;
static q3_dataset *data;
static q3_json golden;

static int setup(void **state)
{
    (void)state;
    const q3_load_options options = { 0 };
    assert_int_equal(q3_dir_create(getenv("Q3_TEST_DIR")), Q3_OK);
    assert_int_equal(q3_arena_create(&run, "run arena", (size_t)64 << 20), Q3_OK);
    assert_int_equal(q3_arena_create(&step, "step arena", (size_t)256 << 20), Q3_OK);
    assert_int_equal(q3_ctx_create(&ctx, &step), Q3_OK);
    if (q3_model_load(&model, &run, TRAINING "/model", &options) != Q3_OK ||
        q3_tokenizer_open(&tokenizer, TRAINING "/model") != Q3_OK ||
        q3_collator_init(&collator, TRAINING "/model", tokenizer, model.config.image_token,
                         model.config.video_token, model.config.text.vocab_size) != Q3_OK ||
        q3_dataset_open(&data, TRAINING "/data/eval.jsonl", NULL) != Q3_OK ||
        q3_json_open(&golden, TRAINING "/golden.json", (size_t)1 << 20) != Q3_OK)
        fail_msg("%s", q3_error());
    collator.system_prompt = "You judge posts.";
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    q3_json_close(&golden);
    q3_dataset_close(data);
    q3_tokenizer_close(tokenizer);
    q3_model_close(&model);
    q3_ctx_destroy(&ctx);
    q3_arena_destroy(&step);
    q3_arena_destroy(&run);
    return 0;
}

static q3_generation_options settings(int64_t batch_size)
{
    return (q3_generation_options){
        .source = { .data = data, .collator = &collator, .n_samples = SAMPLES, .batch_size = batch_size },
        .max_new_tokens = TOKENS,
        .sampling = { .top_p = 1, .repetition_penalty = 1 },
        .eos = model.config.generation.eos,
        .n_eos = model.config.generation.n_eos,
        .labels = two_labels,
        .n_labels = 2,
        .forced = true,
    };
}

static q3_evaluation evaluated(const q3_generation_options *o)
{
    q3_evaluation e;
    if (q3_evaluate(&e, &ctx, &model, tokenizer, o, NULL, NULL) != Q3_OK)
        fail_msg("%s", q3_error());
    return e;
}

static void assert_refused(const q3_generation_options *o, q3_status expected, const char *sentence)
{
    q3_evaluation e;
    assert_int_equal(q3_evaluate(&e, &ctx, &model, tokenizer, o, NULL, NULL), expected);
    assert_int_equal(strncmp(q3_error(), PREFIX, strlen(PREFIX)), 0);
    if (!strstr(q3_error(), sentence))
        fail_msg("%s", q3_error());
    assert_null(e.mem.base);
    assert_null(e.predictions);
}

static void greedy_answers_equal_the_reference(void **state)
{
    (void)state;
    const cJSON *pre =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(golden.root, "float32"), "pre");
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(pre, "ids");
    const cJSON *texts = cJSON_GetObjectItemCaseSensitive(pre, "text");
    assert_int_equal(cJSON_GetArraySize(ids), SAMPLES);
    for (int64_t batch = 2; batch <= SAMPLES; batch += 5) {
        const q3_generation_options o = settings(batch);
        q3_evaluation e = evaluated(&o);
        assert_int_equal(e.n, SAMPLES);
        for (int i = 0; i < SAMPLES; i++) {
            const q3_prediction *p = &e.predictions[i];
            assert_int_equal(p->n_output, TOKENS);
            for (int k = 0; k < TOKENS; k++)
                assert_int_equal(p->output_ids[k],
                                 cJSON_GetArrayItem(cJSON_GetArrayItem(ids, i), k)->valueint);
            assert_string_equal(p->output, cJSON_GetArrayItem(texts, i)->valuestring);
            assert_int_equal(p->gold, golds[i]);
            assert_false(p->ended);
        }
        assert_string_equal(e.predictions[0].id, "900000000000000100");
        assert_non_null(strstr(e.predictions[6].where, "eval.jsonl:7"));
        q3_evaluation_free(&e);
    }
}

static void the_batch_size_changes_nothing(void **state)
{
    (void)state;
    const q3_generation_options one = settings(1), many = settings(SAMPLES);
    q3_evaluation a = evaluated(&one), b = evaluated(&many);
    for (int i = 0; i < SAMPLES; i++) {
        const q3_prediction *p = &a.predictions[i], *q = &b.predictions[i];
        assert_int_equal(p->prompt_tokens, q->prompt_tokens);
        assert_string_equal(p->output, q->output);
        assert_int_equal(p->forced, q->forced);
        for (int k = 0; k < 2; k++)
            assert_true(fabs(p->forced_probs[k] - q->forced_probs[k]) < 1e-5);
    }
    q3_evaluation_free(&a);
    q3_evaluation_free(&b);
}

/* Softmax of the row of logits behind token `at` of the row. */
static void probabilities(double *p, const q3_row *row, int64_t at)
{
    const q3_forward forward = { 0 };
    const q3_row *const rows[] = { row };
    int64_t V = model.config.text.vocab_size;
    int32_t want = (int32_t)at;
    double sum = 0;
    q3_batch b;
    assert_int_equal(q3_pack(&b, &run, &collator, rows, 1), Q3_OK);
    q3_step_begin(&ctx, false);
    const float *x = q3_f32(q3_qwen3vl_logits(&ctx, &model, &forward, &b, &want, 1));
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)x[i]);
    for (int64_t i = 0; i < V; i++)
        p[i] = exp((double)x[i]) / sum;
}

/* p(word and what begins with a quote | prompt and prefix), token by token without a cache. */
static double likelihood(const q3_row *prompt, const char *prefix, const char *word)
{
    q3_ids before = { 0 }, all = { 0 };
    char text[128];
    double p[1024], likely = 1, closing = 0;
    snprintf(text, sizeof text, "%s%s", prefix, word);
    assert_int_equal(q3_tokenizer_encode(&before, tokenizer, prefix, strlen(prefix)), Q3_OK);
    assert_int_equal(q3_tokenizer_encode(&all, tokenizer, text, strlen(text)), Q3_OK);
    q3_row row = *prompt;
    row.n = prompt->n + (int64_t)all.n;
    row.ids = Q3_NEW(&run, int32_t, row.n);
    memcpy(row.ids, prompt->ids, (size_t)prompt->n * sizeof *row.ids);
    memcpy(row.ids + prompt->n, all.ids, all.n * sizeof *row.ids);
    for (size_t i = before.n; i < all.n; i++) {
        probabilities(p, &row, prompt->n + (int64_t)i - 1);
        likely *= p[all.ids[i]];
    }
    probabilities(p, &row, row.n - 1);
    for (int32_t id = 0; id < q3_tokenizer_size(tokenizer); id++) {
        size_t n;
        const char *token = q3_tokenizer_token(&n, tokenizer, id);
        if (token && n && token[0] == '"')
            closing += p[id];
    }
    q3_ids_free(&before);
    q3_ids_free(&all);
    return likely * closing;
}

static void forced_probabilities_are_those_of_the_words(void **state)
{
    (void)state;
    static const char *const prefixes[] = { NULL, "{\"is_it\":\"" };
    for (int k = 0; k < 2; k++) {
        q3_generation_options o = settings(3);
        o.source.n_samples = 3;
        o.forced_prefix = prefixes[k];
        q3_evaluation e = evaluated(&o);
        assert_int_equal(e.n, 3);
        for (int i = 0; i < 3; i++) {
            const q3_prediction *p = &e.predictions[i];
            const char *prefix = prefixes[k] ? prefixes[k] : "{\"label\": \"";
            q3_sample s;
            q3_row prompt;
            assert_int_equal(q3_dataset_get(&s, data, i), Q3_OK);
            assert_int_equal(q3_collate_row(&prompt, &run, &collator, &s, false), Q3_OK);
            assert_int_equal(p->prompt_tokens, prompt.n);
            double a = likelihood(&prompt, prefix, "sarcastic");
            double b = likelihood(&prompt, prefix, "not_sarcastic");
            assert_true(fabs(p->forced_probs[0] - a / (a + b)) < 1e-5);
            assert_true(fabs(p->forced_probs[1] - b / (a + b)) < 1e-5);
            assert_int_equal(p->forced, b > a);
            q3_sample_free(&s);
        }
        q3_evaluation_free(&e);
    }
}

static void metrics_count_the_predictions(void **state)
{
    (void)state;
    const q3_generation_options o = settings(4);
    q3_evaluation e = evaluated(&o);
    int correct = 0, failed = 0, forced = 0;
    for (int i = 0; i < SAMPLES; i++) {
        correct += e.predictions[i].answer.label == golds[i];
        failed += e.predictions[i].answer.stage == Q3_ANSWER_FAILED;
        forced += e.predictions[i].forced == golds[i];
    }
    assert_int_equal(e.metrics.n, SAMPLES);
    assert_int_equal(e.metrics.correct, correct);
    assert_int_equal(e.metrics.failed, failed);
    assert_true(e.metrics.has_forced && e.metrics.has_auroc);
    assert_true(fabs(e.metrics.forced_accuracy - (double)forced / SAMPLES) < 1e-12);
    assert_true(e.seconds > 0);
    q3_evaluation_free(&e);
}

static void an_answer_stops_at_any_end_token(void **state)
{
    (void)state;
    q3_generation_options o = settings(SAMPLES);
    static const int32_t eos[] = { 79, 203 }; // the whole first answer, the middle of the second
    o.eos = eos;
    o.n_eos = 2;
    q3_evaluation e = evaluated(&o);
    assert_int_equal(e.predictions[0].n_output, 0);
    assert_true(e.predictions[0].ended);
    assert_string_equal(e.predictions[0].output, "");
    assert_int_equal(e.predictions[0].answer.stage, Q3_ANSWER_FAILED);
    assert_int_equal(e.predictions[1].n_output, 10);
    assert_true(e.predictions[1].ended);
    assert_int_equal(e.predictions[2].n_output, TOKENS);
    q3_evaluation_free(&e);
}

static void a_gold_label_that_is_none_of_the_labels_is_named(void **state)
{
    (void)state;
    static const char *const other[] = { "sarcastic", "unknown" };
    q3_generation_options o = settings(2);
    o.labels = other;
    assert_refused(&o, Q3_ERR_DATA,
                   "eval.jsonl:1: the target {\"label\": \"not_sarcastic\"} means not_sarcastic");
    o.n_labels = 0;
    assert_refused(&o, Q3_ERR_USAGE, "eval.labels");
}

/* A data set with `line` for its only line, written beside the test's output; "%s" in it is the golden
 * image folder. */
static q3_dataset *dataset_of(const char *line)
{
    char path[512], here[512], text[2048];
    q3_dataset *out;
    snprintf(path, sizeof path, "%s/one.jsonl", getenv("Q3_TEST_DIR"));
    assert_non_null(realpath(TRAINING "/data/images", here));
    int n = snprintf(text, sizeof text, "{\"image\": \"%s/100.png\", \"query\": \"hm\"%s}\n", here, line);
    assert_int_equal(q3_file_write(path, text, (size_t)n), Q3_OK);
    if (q3_dataset_open(&out, path, NULL) != Q3_OK)
        fail_msg("%s", q3_error());
    return out;
}

/* What is written and read again has the same metrics, to the last digit. */
static void assert_read_back(const q3_evaluation *e, const q3_generation_options *o)
{
    q3_evaluation again;
    q3_text here = { 0 }, there = { 0 };
    assert_int_equal(q3_evaluation_write(e, getenv("Q3_TEST_DIR"), "again"), Q3_OK);
    if (q3_evaluation_read(&again, getenv("Q3_TEST_DIR"), "again", o->labels, o->n_labels,
                           o->sampling.seed) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_metrics_write(&here, &e->metrics, 0);
    q3_metrics_write(&there, &again.metrics, 0);
    assert_int_equal(here.size, there.size);
    assert_memory_equal(here.data, there.data, here.size);
    q3_text_free(&here);
    q3_text_free(&there);
    q3_evaluation_free(&again);
}

static void without_a_target_the_label_is_gold(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        int gold;
    } cases[] = { { ", \"label\": \"Not Sarcastic\", \"source\": \"here\"", 1 },
                  { ", \"label\": 1", 0 },
                  { ", \"label\": \"sarcastic\", \"target_json\": \"{\\\"label\\\": \\\"not_sarcastic\\\"}\"",
                    1 },
                  { ", \"label\": \"cheese\"", -1 },
                  { "", -1 },
                  { ", \"target_json\": \"cheese\"", -1 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_generation_options o = settings(1);
        q3_dataset *ds = dataset_of(cases[i].fields);
        o.source.data = ds;
        o.source.n_samples = 1;
        if (cases[i].gold < 0) {
            assert_refused(&o, Q3_ERR_DATA, "one.jsonl:1: ");
        } else {
            q3_evaluation e = evaluated(&o);
            assert_int_equal(e.predictions[0].gold, cases[i].gold);
            assert_null(e.predictions[0].id);
            assert_int_equal(e.metrics.n_sources, i == 0);
            assert_read_back(&e, &o);
            q3_evaluation_free(&e);
        }
        q3_dataset_close(ds);
    }
}

typedef struct calls {
    int n;
    int64_t done[8];
    int stop_at;
} calls;

static q3_status note(void *arg, int64_t done, int64_t of)
{
    calls *c = arg;
    assert_int_equal(of, SAMPLES);
    c->done[c->n++] = done;
    return c->n == c->stop_at ? q3_fail(Q3_ERR_INTERRUPTED, "enough") : Q3_OK;
}

static void progress_counts_samples_and_may_stop(void **state)
{
    (void)state;
    const q3_generation_options o = settings(3);
    q3_evaluation e;
    calls c = { 0 };
    assert_int_equal(q3_evaluate(&e, &ctx, &model, tokenizer, &o, note, &c), Q3_OK);
    assert_int_equal(c.n, 3);
    assert_int_equal(c.done[0], 3);
    assert_int_equal(c.done[2], SAMPLES);
    q3_evaluation_free(&e);
    c = (calls){ .stop_at = 2 };
    assert_int_equal(q3_evaluate(&e, &ctx, &model, tokenizer, &o, note, &c), Q3_ERR_INTERRUPTED);
    assert_string_equal(q3_error(), PREFIX "enough");
    assert_int_equal(c.n, 2);
    assert_int_equal(step.used, 0);
}

static q3_json read_json(const char *ending)
{
    char path[512];
    q3_json doc;
    snprintf(path, sizeof path, "%s/eval/pre%s", getenv("Q3_TEST_DIR"), ending);
    if (q3_json_open(&doc, path, (size_t)1 << 20) != Q3_OK)
        fail_msg("%s", q3_error());
    return doc;
}

static const cJSON *field(const cJSON *object, const char *key)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!found)
        fail_msg("no field %s", key);
    return found;
}

static void assert_line(const q3_evaluation *e, int i, const char *line, size_t size, bool forced)
{
    const q3_prediction *p = &e->predictions[i];
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, line, size, "line", i + 1), Q3_OK);
    assert_string_equal(field(doc.root, "id")->valuestring, p->id);
    assert_int_equal(field(doc.root, "prompt_tokens")->valueint, p->prompt_tokens);
    assert_string_equal(field(doc.root, "output")->valuestring, p->output);
    assert_int_equal(cJSON_GetArraySize(field(doc.root, "output_ids")), TOKENS);
    assert_int_equal(cJSON_GetArrayItem(field(doc.root, "output_ids"), 3)->valueint, p->output_ids[3]);
    assert_string_equal(field(doc.root, "stage")->valuestring, q3_answer_stage_names[p->answer.stage]);
    assert_int_equal(cJSON_IsNull(field(doc.root, "pred")), p->answer.word == NULL);
    assert_string_equal(field(doc.root, "gold")->valuestring, two_labels[golds[i]]);
    assert_int_equal(cJSON_HasObjectItem(doc.root, "forced"), forced);
    assert_int_equal(cJSON_HasObjectItem(doc.root, "forced_probs"), forced);
    if (forced) {
        assert_string_equal(field(doc.root, "forced")->valuestring, two_labels[p->forced]);
        assert_true(cJSON_GetArrayItem(field(doc.root, "forced_probs"), 1)->valuedouble ==
                    p->forced_probs[1]);
    }
    q3_json_close(&doc);
}

static void the_files_say_what_was_found(void **state)
{
    (void)state;
    for (int forced = 0; forced < 2; forced++) {
        q3_generation_options o = settings(4);
        o.forced = forced;
        q3_evaluation e = evaluated(&o);
        assert_int_equal(q3_evaluation_write(&e, getenv("Q3_TEST_DIR"), "pre"), Q3_OK);
        q3_json doc = read_json(".json");
        assert_int_equal(field(doc.root, "num_eval_samples")->valueint, SAMPLES);
        assert_true(field(doc.root, "accuracy")->valuedouble == e.metrics.accuracy);
        assert_int_equal(cJSON_HasObjectItem(doc.root, "forced_accuracy"), forced);
        q3_json_close(&doc);
        char path[512], *text;
        size_t size;
        snprintf(path, sizeof path, "%s/eval/pre_predictions.jsonl", getenv("Q3_TEST_DIR"));
        assert_int_equal(q3_file_read(&text, &size, path, (size_t)1 << 20), Q3_OK);
        char *line = text;
        for (int i = 0; i < SAMPLES; i++) {
            char *end = strchr(line, '\n');
            assert_non_null(end);
            assert_line(&e, i, line, (size_t)(end - line), forced);
            line = end + 1;
        }
        assert_true(line == text + size);
        assert_read_back(&e, &o);
        q3_free(text);
        q3_evaluation_free(&e);
    }
}

static void a_directory_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    const q3_generation_options o = settings(4);
    q3_evaluation e = evaluated(&o);
    assert_int_not_equal(q3_evaluation_write(&e, TRAINING "/golden.json", "pre"), Q3_OK);
    assert_int_equal(strncmp(q3_error(), PREFIX, strlen(PREFIX)), 0);
    q3_evaluation_free(&e);
    q3_evaluation_free(&e); // nothing is left to free
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_answers_equal_the_reference),
        cmocka_unit_test(the_batch_size_changes_nothing),
        cmocka_unit_test(forced_probabilities_are_those_of_the_words),
        cmocka_unit_test(metrics_count_the_predictions),
        cmocka_unit_test(an_answer_stops_at_any_end_token),
        cmocka_unit_test(a_gold_label_that_is_none_of_the_labels_is_named),
        cmocka_unit_test(without_a_target_the_label_is_gold),
        cmocka_unit_test(progress_counts_samples_and_may_stop),
        cmocka_unit_test(the_files_say_what_was_found),
        cmocka_unit_test(a_directory_that_cannot_be_written_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
