/* Rows without a picture (data.allow_text_only) in training: every way to compute gives the same bytes, and without the
 * key they are an error. That the numbers are the reference's is shown in test_golden_training.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"

#define ADAPTER "adapter_model.safetensors"
#define TALKS "data.train=tests/golden/training/data/conversations.jsonl"
#define MIXED "data.train=tests/golden/training/data/mixed.jsonl"

static q3_process start(const char *dir, const char *const *more)
{
    static const char *const overrides[] = {
        "quantization.load_in_4bit=false", "data.max_pixels=4096", "data.max_eval_samples=2",
        "train.num_train_epochs=2",        "train.shuffle=true",   "eval.pre=false",
        "eval.max_new_tokens=3",           "--output-dir",         NULL
    };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    for (; *more; more++)
        q3_process_add(&p, *more);
    return p;
}

static const char *run(const char *name, const char *const *more)
{
    const char *dir = q3_run_path(name);
    q3_process p = start(dir, more);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    return dir;
}

static void checkpointing_and_kept_features_change_no_bit(void **state)
{
    (void)state;
    static const char *const choices[] = { "train.gradient_checkpointing=half",
                                           "train.gradient_checkpointing=full", "model.feature_cache=0" };
    const char *none =
        run("none", (const char *[]){ MIXED, "data.allow_text_only=true", "data.eval=", NULL });
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        const char *dir = run(
            "choice", (const char *[]){ MIXED, "data.allow_text_only=true", "data.eval=", choices[i], NULL });
        q3_run_assert_same_file(none, dir, ADAPTER);
        q3_run_assert_same_metrics(none, dir);
    }
}

/* Conversations: rows of several pictures, of one, of none. */
static void several_pictures_a_row_change_no_bit(void **state)
{
    (void)state;
    static const char *const choices[] = { "train.gradient_checkpointing=full", "model.feature_cache=0" };
    const char *none =
        run("talks", (const char *[]){ TALKS, "data.allow_text_only=true", "data.eval=", NULL });
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        const char *dir = run("talks-choice", (const char *[]){ TALKS, "data.allow_text_only=true",
                                                                "data.eval=", choices[i], NULL });
        q3_run_assert_same_file(none, dir, ADAPTER);
        q3_run_assert_same_metrics(none, dir);
    }
    const char *last = run("talks-last", (const char *[]){ TALKS, "data.allow_text_only=true",
                                                           "data.eval=", "collator.train_on=last", NULL });
    size_t n, m;
    char *all = q3_run_read(none, ADAPTER, &n), *less = q3_run_read(last, ADAPTER, &m);
    assert_true(n == m && memcmp(all, less, n) != 0);
    q3_free(all);
    q3_free(less);
}

/* The page shows what was said and the first picture. */
static void the_report_shows_conversations(void **state)
{
    (void)state;
    size_t n;
    const char *dir = run("talks-page", (const char *[]){ TALKS, "data.allow_text_only=true",
                                                          "data.eval=", "data.max_eval_samples=9", NULL });
    char *page = q3_run_read(dir, "report.html", &n);
    if (!strstr(
            page,
            "user: [picture]what a day\nassistant: a long one\nuser: and this [picture]\nassistant: worse"))
        fail_msg("no conversation in %s/report.html", dir);
    assert_non_null(strstr(page, "src=\"data:image/png;base64,"));
    q3_free(page);
}

/* The whole data set without a picture. */
static const char *texts(void)
{
    static char setting[4096];
    const char *dir = q3_run_path("texts");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, "texts.jsonl",
                 "{\"query\": \"so happy\", \"target_json\": \"{\\\"label\\\": \\\"sarcastic\\\"}\"}\n"
                 "{\"query\": \"monday\", \"image\": null, \"target_json\": \"{\\\"label\\\": "
                 "\\\"not_sarcastic\\\"}\"}\n"
                 "{\"query\": \"no seats left\", \"target_json\": \"{\\\"label\\\": \\\"sarcastic\\\"}\"}\n");
    snprintf(setting, sizeof setting, "data.train=%s/texts.jsonl", dir);
    return setting;
}

static void data_without_any_picture_are_trained(void **state)
{
    (void)state;
    static const char *const choices[] = { "none", "half", "full" };
    const char *data = texts(), *first = NULL;
    for (int i = 0; i < 3; i++) {
        char checkpointing[64];
        snprintf(checkpointing, sizeof checkpointing, "train.gradient_checkpointing=%s", choices[i]);
        const char *dir = run(choices[i], (const char *[]){ data, "data.allow_text_only=true",
                                                            "data.eval=", checkpointing, NULL });
        first = first ? first : dir;
        q3_run_assert_same_file(first, dir, ADAPTER);
        q3_run_assert_same_file(first, dir, "eval/post_predictions.jsonl");
    }
}

/* The tower's own weights are trained, and batches come that it does not see. */
static void a_trained_tower_may_have_nothing_to_see(void **state)
{
    (void)state;
    static const char *const ways[][2] = { { "lora.target_modules=all-linear", ADAPTER },
                                           { "train.tune=full", "model/model.safetensors" } };
    for (int i = 0; i < 2; i++) {
        const char *none = run("tower", (const char *[]){ MIXED, "data.allow_text_only=true",
                                                          "data.eval=", "train.per_device_train_batch_size=1",
                                                          ways[i][0], "eval.post=false", NULL });
        const char *full = run(
            "tower-full", (const char *[]){ MIXED, "data.allow_text_only=true",
                                            "data.eval=", "train.per_device_train_batch_size=1", ways[i][0],
                                            "train.gradient_checkpointing=full", "eval.post=false", NULL });
        q3_run_assert_same_file(none, full, ways[i][1]);
        q3_run_assert_same_metrics(none, full);
    }
}

static void without_the_key_a_missing_picture_is_an_error(void **state)
{
    (void)state;
    q3_process p = start(q3_run_path("refused"), (const char *[]){ MIXED, NULL });
    q3_run_expect(&p, 3);
    if (!strstr(p.err, "Qwen3 collate failed: tests/golden/training/data/mixed.jsonl:2: missing field "
                       "\"image\""))
        fail_msg("%s", p.err);
    q3_process_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpointing_and_kept_features_change_no_bit),
        cmocka_unit_test(several_pictures_a_row_change_no_bit),
        cmocka_unit_test(the_report_shows_conversations),
        cmocka_unit_test(data_without_any_picture_are_trained),
        cmocka_unit_test(a_trained_tower_may_have_nothing_to_see),
        cmocka_unit_test(without_the_key_a_missing_picture_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
