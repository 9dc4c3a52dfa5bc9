/* What metrics.jsonl says of time and memory: it is there, it is plausible, and it is nowhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"

static q3_process run(const char *dir, const char *const *more)
{
    static const char *const overrides[] = { "quantization.load_in_4bit=false",
                                             "train.eval_strategy=no",
                                             "eval.pre=false",
                                             "eval.post=false",
                                             "--output-dir",
                                             NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    for (; *more; more++)
        q3_process_add(&p, *more);
    q3_run_expect(&p, 0);
    return p;
}

static double value(const cJSON *line, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(line, key);
    if (!cJSON_IsNumber(item))
        fail_msg("%s is missing", key);
    return item->valuedouble;
}

static int count(const char *text, const char *part)
{
    int n = 0;
    while ((text = strstr(text, part)) != NULL) {
        text += strlen(part);
        n++;
    }
    return n;
}

static void every_log_has_step_time_waiting_and_memory(void **state)
{
    (void)state;
    const char *dir = q3_run_path("plain");
    q3_process p = run(dir, (const char *[]){ "train.max_steps=4", "train.logging_steps=2", NULL });
    const char *peak = strstr(p.err, "cuda:") ? "mem/gpu_peak" : "mem/peak";
    q3_process_free(&p);
    size_t size;
    char *text = q3_run_read(dir, "metrics.jsonl", &size);
    int lines = 0;
    double before = 0;
    for (char *at = text; *at; at += strcspn(at, "\n") + 1) {
        q3_json doc;
        assert_int_equal(q3_json_parse(&doc, at, strcspn(at, "\n"), "metrics.jsonl", 1), Q3_OK);
        if (cJSON_HasObjectItem(doc.root, "loss")) {
            double step = value(doc.root, "step_time"), waited = value(doc.root, "data/wait_fraction");
            assert_true(step > 0 && step < 60);
            assert_true(waited >= 0 && waited <= 1);
            assert_true(value(doc.root, peak) >= 1e6 && value(doc.root, peak) >= before);
            before = value(doc.root, peak);
            lines++;
        }
        q3_json_close(&doc);
    }
    assert_int_equal(lines, 2);
    q3_free(text);
    text = q3_run_read(dir, "checkpoint-4/trainer_state.json", &size);
    assert_true(strstr(text, "\"log_history\"") && strstr(text, "\"grad_norm\""));
    assert_true(!strstr(text, "step_time") && !strstr(text, "wait_fraction") && !strstr(text, "mem/"));
    q3_free(text);
}

enum { SIDE = 1500, HEADER = 54, ROWS = 4 };

/* A BMP that takes far longer to read than the tiny model to train on, and rows that name it. */
static const char *slow_data(void)
{
    static char setting[4096];
    const char *dir = q3_run_path("slow");
    size_t size = HEADER + 3 * (size_t)SIDE * SIDE;
    unsigned char *bmp = q3_calloc(size, 1);
    const uint32_t fields[] = { (uint32_t)size, 0, HEADER, 40, SIDE, SIDE, 1 | 24 << 16 }; // BITMAPINFOHEADER
    bmp[0] = 'B';
    bmp[1] = 'M';
    for (size_t i = 0; i < 4 * sizeof fields / sizeof *fields; i++)
        bmp[2 + i] = (unsigned char)(fields[i / 4] >> 8 * (i % 4));
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_int_equal(q3_file_write(q3_run_file(dir, "big.bmp"), bmp, size), Q3_OK);
    q3_free(bmp);
    q3_text rows = { 0 };
    for (int i = 0; i < ROWS; i++)
        q3_text_printf(&rows, "{\"query\": \"%d\", \"image\": \"big.bmp\", \"target_json\": \"so\"}\n", i);
    q3_run_write(dir, "train.jsonl", rows.data);
    q3_text_free(&rows);
    snprintf(setting, sizeof setting, "data.train=%s/train.jsonl", dir);
    return setting;
}

static void a_slow_loader_is_told_once_with_the_remedy(void **state)
{
    (void)state;
    const char *data = slow_data(), *one = q3_run_path("one"), *two = q3_run_path("two");
    const char *more[] = { data,
                           "data.eval=",
                           "data.max_pixels=1024",
                           "model.feature_cache=0",
                           "train.max_steps=3",
                           "train.logging_steps=1",
                           "train.per_device_train_batch_size=4",
                           "train.gradient_accumulation_steps=1",
                           "train.shuffle=true",
                           NULL,
                           NULL };
    q3_process p = run(one, more);
    assert_int_equal(count(p.err, "waiting for the loader; raise train.dataloader_num_workers (1)"), 1);
    q3_process_free(&p);
    more[9] = "train.dataloader_num_workers=3";
    p = run(two, more);
    q3_process_free(&p);
    q3_run_assert_same_file(one, two, "adapter_model.safetensors");
    q3_run_assert_same_metrics(one, two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_log_has_step_time_waiting_and_memory),
        cmocka_unit_test(a_slow_loader_is_told_once_with_the_remedy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
