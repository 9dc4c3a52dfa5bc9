#include "tests/support/run.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "train/checkpoint.h"

const char *q3_run_path(const char *name)
{
    enum { MOST = 256 };
    static char *kept[MOST]; // callers hold them until the end
    static int n;
    const char *root = getenv("Q3_TEST_DIR");
    assert_non_null(root);
    assert_true(n < MOST);
    assert_int_equal(q3_dir_create(root), Q3_OK);
    kept[n] = q3_path_join(root, name);
    assert_non_null(kept[n]);
    assert_int_equal(q3_dir_remove(kept[n]), Q3_OK);
    return kept[n++];
}

q3_process q3_run_start(const char *program, const char *const *overrides)
{
    q3_process p = { 0 };
    const char *const always[] = { program, "train", "--config", Q3_RUN_CONFIG, "--threads", "1" };
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        q3_process_add(&p, always[i]);
    if (getenv("Q3_TEST_DEVICE")) { // a device computes in bfloat16 unless it is told otherwise
        q3_process_add(&p, "--device");
        q3_process_add(&p, getenv("Q3_TEST_DEVICE"));
        q3_process_add(&p, "model.dtype=float32");
    }
    for (; *overrides; overrides++)
        q3_process_add(&p, *overrides);
    return p;
}

void q3_run_expect(q3_process *p, int want)
{
    if (q3_process_run(p) != want)
        fail_msg("exit code %d, want %d; stderr:\n%s", p->code, want, p->err);
}

const char *q3_run_file(const char *dir, const char *name)
{
    static char buffers[8][4096];
    static int next;
    char *out = buffers[next++ % 8];
    snprintf(out, sizeof *buffers, "%s/%s", dir, name);
    return out;
}

char *q3_run_read(const char *dir, const char *name, size_t *size)
{
    char *text;
    if (q3_file_read(&text, size, q3_run_file(dir, name), (size_t)1 << 30) != Q3_OK)
        fail_msg("%s", q3_error());
    return text;
}

void q3_run_write(const char *dir, const char *name, const char *text)
{
    if (q3_file_write(q3_run_file(dir, name), text, strlen(text)) != Q3_OK)
        fail_msg("%s", q3_error());
}

void q3_run_assert_same_file(const char *dir_a, const char *dir_b, const char *name)
{
    size_t n_a, n_b;
    char *a = q3_run_read(dir_a, name, &n_a), *b = q3_run_read(dir_b, name, &n_b);
    if (n_a != n_b || memcmp(a, b, n_a) != 0)
        fail_msg("%s differs between %s and %s", name, dir_a, dir_b);
    q3_free(a);
    q3_free(b);
}

/* The document without what time and place decide, as text (heap). */
static char *timeless(const char *name, const char *text, size_t size)
{
    static const char *const timed[] = { "eval_runtime",
                                         "eval_samples_per_second",
                                         "eval_steps_per_second",
                                         "tokens_per_second",
                                         "step_time",
                                         "data/wait_fraction",
                                         "mem/peak",
                                         "mem/gpu_peak",
                                         "train_runtime",
                                         "train_samples_per_second",
                                         "train_steps_per_second",
                                         "best_model_checkpoint" };
    q3_json doc;
    if (q3_json_parse(&doc, text, size, name, 1) != Q3_OK)
        fail_msg("%s", q3_error());
    for (size_t i = 0; i < sizeof timed / sizeof *timed; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(doc.root, timed[i]);
        cJSON *entry;
        cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(doc.root, "log_history"))
            cJSON_DeleteItemFromObjectCaseSensitive(entry, timed[i]);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(cJSON_GetObjectItemCaseSensitive(doc.root, "qwen3_sft"),
                                            "config");
    char *out = cJSON_PrintUnformatted(doc.root);
    assert_non_null(out);
    q3_json_close(&doc);
    return out;
}

static void same_document(const char *name, const char *a, size_t n_a, const char *b, size_t n_b)
{
    char *x = timeless(name, a, n_a), *y = timeless(name, b, n_b);
    if (strcmp(x, y) != 0)
        fail_msg("%s differs:\n%s\n%s", name, x, y);
    cJSON_free(x);
    cJSON_free(y);
}

void q3_run_assert_same_metrics(const char *dir_a, const char *dir_b)
{
    size_t n;
    char *a = q3_run_read(dir_a, "metrics.jsonl", &n), *b = q3_run_read(dir_b, "metrics.jsonl", &n);
    const char *x = a, *y = b;
    while (*x && *y) {
        size_t n_x = strcspn(x, "\n"), n_y = strcspn(y, "\n");
        same_document("metrics.jsonl", x, n_x, y, n_y);
        assert_true(x[n_x] == '\n' && y[n_y] == '\n');
        x += n_x + 1;
        y += n_y + 1;
    }
    if (*x || *y)
        fail_msg("metrics.jsonl of %s goes on: %s", *x ? dir_a : dir_b, *x ? x : y);
    q3_free(a);
    q3_free(b);
}

void q3_run_assert_same_state(const char *dir_a, const char *dir_b, int64_t step)
{
    char name[64];
    size_t n_a, n_b;
    snprintf(name, sizeof name, "checkpoint-%" PRId64 "/trainer_state.json", step);
    char *a = q3_run_read(dir_a, name, &n_a), *b = q3_run_read(dir_b, name, &n_b);
    same_document(name, a, n_a, b, n_b);
    q3_free(a);
    q3_free(b);
}

void q3_run_assert_same(const char *dir_a, const char *dir_b, const char *model)
{
    char name[128];
    int64_t step = q3_checkpoint_newest(dir_a);
    assert_true(step >= 0);
    assert_int_equal(q3_checkpoint_newest(dir_b), step);
    q3_run_assert_same_file(dir_a, dir_b, model);
    snprintf(name, sizeof name, "checkpoint-%" PRId64 "/%s", step, model);
    q3_run_assert_same_file(dir_a, dir_b, name);
    snprintf(name, sizeof name, "checkpoint-%" PRId64 "/optimizer.safetensors", step);
    q3_run_assert_same_file(dir_a, dir_b, name);
    q3_run_assert_same_state(dir_a, dir_b, step);
    q3_run_assert_same_metrics(dir_a, dir_b);
    q3_run_assert_same_file(dir_a, dir_b, "eval/pre_predictions.jsonl");
    q3_run_assert_same_file(dir_a, dir_b, "eval/post_predictions.jsonl");
}
