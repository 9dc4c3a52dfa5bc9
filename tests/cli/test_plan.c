#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "data/image.h"
#include "tests/support/run.h"

static q3_process plan(const char *const *more)
{
    q3_process p = { .argv = { Q3_PROGRAM, "plan", "--device", "cpu", "--config", Q3_RUN_CONFIG }, .n = 6 };
    for (int i = 0; more[i]; i++)
        q3_process_add(&p, more[i]);
    q3_process_run(&p);
    return p;
}

static void expect_code(const q3_process *p, int code)
{
    if (p->code != code)
        fail_msg("exit code %d instead of %d\n%s%s", p->code, code, p->out, p->err);
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no \"%s\" in:\n%s", part, text);
}

static cJSON *parsed(const q3_process *p)
{
    cJSON *root = cJSON_Parse(p->out);
    if (!root)
        fail_msg("no JSON: %s%s", p->out, p->err);
    return root;
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(object, key);
    if (!cJSON_IsNumber(item))
        fail_msg("no number \"%s\"", key);
    return item->valuedouble;
}

static void the_plan_is_that_of_the_training(void **state)
{
    (void)state;
    char memory[512];
    q3_process p = plan((const char *const[]){ "train.gradient_checkpointing=half", "--json", NULL });
    expect_code(&p, 0);
    cJSON *root = parsed(&p);
    const cJSON *step = cJSON_GetObjectItem(root, "step_bytes");
    assert_true(number(step, "none") > number(step, "half") && number(step, "half") > number(step, "full"));
    assert_string_equal(cJSON_GetObjectItem(root, "gradient_checkpointing")->valuestring, "half");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(root, "fits")));
    assert_true(number(cJSON_GetObjectItem(root, "batch"), "samples") == 2);
    snprintf(memory, sizeof memory, "memory      %s for a step (gradient checkpointing half), %s for weights",
             q3_bytes((uint64_t)number(step, "half")), q3_bytes((uint64_t)number(root, "before_step_bytes")));
    cJSON_Delete(root);
    q3_process_free(&p);
    const char *output = q3_run_path("run");
    p = q3_run_start(Q3_PROGRAM, (const char *const[]){ "train.gradient_checkpointing=half", "eval.pre=false",
                                                        "eval.post=false", "train.max_steps=3", NULL });
    q3_process_add(&p, "--output-dir");
    q3_process_add(&p, output);
    q3_run_expect(&p, 0);
    contains(p.err, memory);
    q3_process_free(&p);
}

static void each_part_is_told(void **state)
{
    (void)state;
    q3_process p = plan((const char *const[]){ "train.gradient_accumulation_steps=4", NULL });
    expect_code(&p, 0);
    static const char *const parts[] = { "device      cpu: ",
                                         " in nf4 (",
                                         " in f32 (",
                                         " stay in the mapped files\n",
                                         "\ntrained     ",
                                         "\ngradients   ",
                                         "the tree of a window of 4 micro-batches\n",
                                         "\noptimizer   ",
                                         "\nfeatures    ",
                                         "with gradient checkpointing none: taken\n",
                                         "peak        set by tests/golden/training/data/train.jsonl:",
                                         "\ntotal       ",
                                         ", of which a step may take " };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        contains(p.out, parts[i]);
    assert_null(strstr(p.out, "\nhelp "));
    q3_process_free(&p);
}

/* Pictures of which the header alone is there: nobody decodes them for the plan. */
static const char *big_pictures(void)
{
    static char setting[4200];
    const char *home = q3_run_path("big");
    const q3_image big = { .width = 4000, .height = 4000, .rgb = calloc(4000 * 4000, 3) };
    unsigned char *png;
    size_t size;
    q3_text text = { 0 };
    assert_non_null(big.rgb);
    assert_int_equal(q3_dir_create(home), Q3_OK);
    assert_int_equal(q3_image_encode_png(&png, &size, &big), Q3_OK);
    free(big.rgb);
    assert_int_equal(q3_file_write(q3_run_file(home, "big.png"), png, size), Q3_OK);
    q3_free(png);
    for (int i = 0; i < 500; i++)
        q3_text_printf(&text, "{\"image\": \"big.png\", \"query\": \"x\", \"target_json\": \"y\"}\n");
    assert_false(text.failed);
    q3_run_write(home, "train.jsonl", text.data);
    q3_text_free(&text);
    snprintf(setting, sizeof setting, "data.train=%s/train.jsonl", home);
    return setting;
}

static void what_does_not_fit_has_exit_code_5_and_a_remedy_that_fits(void **state)
{
    (void)state;
    char batch[64];
    const char *data = big_pictures();
    const char *more[] = { data,
                           "data.max_pixels=999999999",
                           "collator.max_length=1000000",
                           "--json",
                           "train.per_device_train_batch_size=500",
                           NULL };
    q3_process p = plan(more);
    expect_code(&p, 5);
    contains(p.err, "qwen3-sft: a step needs ");
    contains(p.err, "the largest sample is ");
    cJSON *root = parsed(&p);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(root, "fits")));
    int rows = (int)number(root, "samples_that_fit");
    assert_true(rows > 0 && rows < 500);
    cJSON_Delete(root);
    q3_process_free(&p);
    snprintf(batch, sizeof batch, "train.per_device_train_batch_size=%d",
             rows - rows / 4); // memory is not ours alone
    more[4] = batch;
    p = plan(more);
    expect_code(&p, 0);
    q3_process_free(&p);
    more[3] = "train.gradient_checkpointing=none";
    more[4] = "train.per_device_train_batch_size=500";
    p = plan(more);
    expect_code(&p, 5);
    contains(p.out, ": it does not fit\nhelp        train.per_device_train_batch_size=");
    q3_process_free(&p);
}

static void what_stops_training_stops_the_plan(void **state)
{
    (void)state;
    static const struct {
        const char *setting;
        int code;
    } cases[] = {
        { "data.train=tests/golden/none.jsonl", 3 },
        { "collator.max_length=10", 3 },
        { "model.path=tests/golden/none", 4 },
        { "lora.target_modules=no_such_proj", 2 },
        { "train.batch=1", 2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_process p = plan((const char *const[]){ cases[i].setting, NULL });
        expect_code(&p, cases[i].code);
        assert_string_equal(p.out, "");
        q3_process_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_that_of_the_training),
        cmocka_unit_test(each_part_is_told),
        cmocka_unit_test(what_does_not_fit_has_exit_code_5_and_a_remedy_that_fits),
        cmocka_unit_test(what_stops_training_stops_the_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
