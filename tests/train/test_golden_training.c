/* The whole pipeline from files to adapter, as transformers' Trainer, PEFT and bitsandbytes made it of the same files
 * (tests/golden/README.md). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/golden.h"
#include "tests/support/run.h"

#define GOLDEN "tests/golden/training"
#define LOSS_BOUND 1e-4
#define ADAPTER_BOUND 1e-3

static const cJSON *get(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item)
        fail_msg("no key %s", key);
    return item;
}

static void near(const cJSON *got, const cJSON *want, const char *key, double bound)
{
    double a = cJSON_GetNumberValue(get(got, key)), b = cJSON_GetNumberValue(get(want, key));
    if (!(fabs(a - b) <= bound * fabs(b)))
        fail_msg("step %g: %s is %.17g, want %.17g", cJSON_GetNumberValue(get(want, "step")), key, a, b);
}

/* One of the entries of log_history: the same keys; losses and norms near, the rest exact. */
static void compare_entry(const cJSON *got, const cJSON *want)
{
    assert_int_equal(cJSON_GetArraySize(got), cJSON_GetArraySize(want));
    for (const cJSON *w = want->child; w; w = w->next) {
        bool timed = strstr(w->string, "runtime") || strstr(w->string, "per_second");
        bool computed = strstr(w->string, "loss") || strcmp(w->string, "grad_norm") == 0;
        get(got, w->string);
        if (!timed)
            near(got, want, w->string, computed ? LOSS_BOUND : 0);
    }
}

/* The Trainer's last entry sums up; the checkpoint is older than it, and metrics.jsonl has that line. */
static void compare_history(const char *dir, const cJSON *want, int steps)
{
    q3_json doc;
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%d/trainer_state.json", steps);
    assert_int_equal(q3_json_open(&doc, q3_run_file(dir, name), 1 << 24), Q3_OK);
    const cJSON *got = get(doc.root, "log_history");
    int n = cJSON_GetArraySize(want) - 1;
    assert_int_equal(cJSON_GetArraySize(got), n);
    for (int i = 0; i < n; i++)
        compare_entry(cJSON_GetArrayItem(got, i), cJSON_GetArrayItem(want, i));
    assert_int_equal(cJSON_GetNumberValue(get(doc.root, "max_steps")), steps);
    assert_int_equal(cJSON_GetNumberValue(get(doc.root, "global_step")), steps);
    q3_json_close(&doc);
}

static void compare_summary(const char *dir, const cJSON *want)
{
    size_t n;
    q3_json doc;
    char *text = q3_run_read(dir, "metrics.jsonl", &n);
    text[--n] = 0;
    const char *last = strrchr(text, '\n') + 1;
    assert_int_equal(q3_json_parse(&doc, last, strlen(last), "metrics.jsonl", 1), Q3_OK);
    near(doc.root, want, "train_loss", LOSS_BOUND);
    near(doc.root, want, "epoch", 0);
    near(doc.root, want, "step", 0);
    get(doc.root, "train_runtime");
    q3_json_close(&doc);
    q3_free(text);
}

/* The reference fills a row that ended with the pad token; ours ends before the end token. */
static void compare_answer(const cJSON *got, const cJSON *want)
{
    enum { END = 348, PAD = 346 };
    const cJSON *ids = get(got, "output_ids"), *g = ids->child, *w = want->child;
    for (; g && w; g = g->next, w = w->next)
        assert_int_equal(g->valueint, w->valueint);
    assert_null(g);
    bool ended = w != NULL;
    if (ended)
        assert_true(w->valueint == END || w->valueint == PAD);
    for (w = ended ? w->next : NULL; w; w = w->next)
        assert_int_equal(w->valueint, PAD);
}

static void compare_answers(const char *dir, const char *name, const cJSON *want)
{
    char file[64];
    size_t n;
    snprintf(file, sizeof file, "eval/%s_predictions.jsonl", name);
    char *text = q3_run_read(dir, file, &n);
    const char *line = text;
    const cJSON *row;
    cJSON_ArrayForEach(row, get(want, "ids"))
    {
        q3_json doc;
        size_t length = strcspn(line, "\n");
        assert_int_equal(q3_json_parse(&doc, line, length, file, 1), Q3_OK);
        compare_answer(doc.root, row);
        q3_json_close(&doc);
        line += length + 1;
    }
    assert_int_equal(*line, 0);
    q3_free(text);
}

static void compare_adapter(const char *dir, const char *golden)
{
    q3_safetensors *got = q3_golden_open(q3_run_file(dir, "adapter_model.safetensors"));
    q3_safetensors *want = q3_golden_open(q3_run_file(golden, "adapter_model.safetensors"));
    assert_int_equal(q3_safetensors_count(got), q3_safetensors_count(want));
    for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
        const q3_st_tensor *w = q3_safetensors_at(want, i), *g;
        assert_int_equal(q3_safetensors_get(&g, got, w->name, w->dtype, w->ndim, w->shape), Q3_OK);
        double distance = q3_golden_distance(g->data, w->data, q3_st_elements(w));
        if (!(distance <= ADAPTER_BOUND))
            fail_msg("%s: off by %g", w->name, distance);
    }
    q3_safetensors_close(got);
    q3_safetensors_close(want);
}

static void compare_log(const char *dir, const cJSON *want, int steps)
{
    const cJSON *history = get(want, "log_history");
    compare_history(dir, history, steps);
    compare_summary(dir, cJSON_GetArrayItem(history, cJSON_GetArraySize(history) - 1));
    compare_answers(dir, "pre", get(want, "pre"));
    compare_answers(dir, "post", get(want, "post"));
}

static void compare_run(const char *base, const char *load_in_4bit)
{
    char init[128], final[128];
    q3_json golden;
    const char *dir = q3_run_path(base);
    snprintf(init, sizeof init, "lora.init_adapter=" GOLDEN "/%s-adapter-init", base);
    snprintf(final, sizeof final, GOLDEN "/%s-adapter-final", base);
    q3_process p =
        q3_run_start(Q3_PROGRAM, (const char *[]){ load_in_4bit, init, "--output-dir", dir, NULL });
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_int_equal(q3_json_open(&golden, GOLDEN "/golden.json", 1 << 24), Q3_OK);
    compare_log(dir, get(golden.root, base), 18);
    compare_adapter(dir, final);
    q3_json_close(&golden);
}

static void lora_on_a_float32_base_equals_the_reference(void **state)
{
    (void)state;
    compare_run("float32", "quantization.load_in_4bit=false");
}

static void lora_on_an_nf4_base_equals_the_reference(void **state)
{
    (void)state;
    compare_run("nf4", "quantization.load_in_4bit=true");
}

/* Batches of two: with a picture and without, without any, with two, and a last one of one text. */
static void rows_without_a_picture_among_others_equal_the_reference(void **state)
{
    (void)state;
    q3_json golden;
    const char *dir = q3_run_path("mixed");
    q3_process p = q3_run_start(
        Q3_PROGRAM,
        (const char *[]){ "quantization.load_in_4bit=false", "data.allow_text_only=true",
                          "lora.init_adapter=" GOLDEN "/float32-adapter-init",
                          "data.train=" GOLDEN "/data/mixed.jsonl", "data.eval=" GOLDEN "/data/mixed.jsonl",
                          "eval.batch_size=9", "--output-dir", dir, NULL });
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_int_equal(q3_json_open(&golden, GOLDEN "/mixed.json", 1 << 24), Q3_OK);
    compare_log(dir, golden.root, 9);
    q3_json_close(&golden);
}

/* The first window's loss is that of the untrained adapter. */
static void same_first_loss(const char *dir, const cJSON *want)
{
    q3_json doc;
    assert_int_equal(q3_json_open(&doc, q3_run_file(dir, "checkpoint-9/trainer_state.json"), 1 << 24), Q3_OK);
    near(get(doc.root, "log_history")->child, get(want, "log_history")->child, "loss", 1e-5);
    q3_json_close(&doc);
}

/* Several turns; pictures in several of them, two in one, and none at all. */
static void conversations_equal_the_reference(void **state)
{
    (void)state;
    q3_json golden;
    const char *dir = q3_run_path("conversations");
    q3_process p = q3_run_start(
        Q3_PROGRAM, (const char *[]){ "quantization.load_in_4bit=false", "data.allow_text_only=true",
                                      "lora.init_adapter=" GOLDEN "/float32-adapter-init",
                                      "data.train=" GOLDEN "/data/conversations.jsonl",
                                      "data.eval=" GOLDEN "/data/conversations.jsonl", "eval.batch_size=9",
                                      "--output-dir", dir, NULL });
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_int_equal(q3_json_open(&golden, GOLDEN "/conversations.json", 1 << 24), Q3_OK);
    compare_log(dir, golden.root, 9);
    same_first_loss(dir, golden.root);
    q3_json_close(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lora_on_a_float32_base_equals_the_reference),
        cmocka_unit_test(lora_on_an_nf4_base_equals_the_reference),
        cmocka_unit_test(rows_without_a_picture_among_others_equal_the_reference),
        cmocka_unit_test(conversations_equal_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
