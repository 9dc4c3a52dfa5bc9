/* `qwen3-sft eval` says of an adapter what the run that made it said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"

#define SMALL                                                                                                \
    "quantization.load_in_4bit=false", "data.max_pixels=2048", "train.max_steps=3", "train.warmup_steps=0",  \
        "train.learning_rate=0.05", "eval.max_new_tokens=5"

static const char *run_dir;

static int set_up(void **state)
{
    (void)state;
    run_dir = q3_run_path("run");
    q3_process p =
        q3_run_start(Q3_PROGRAM, (const char *[]){ SMALL, "train.eval_strategy=steps", "train.eval_steps=3",
                                                   "--output-dir", run_dir, NULL });
    q3_run_expect(&p, 0);
    assert_int_equal(strncmp(p.out, run_dir, strlen(run_dir)), 0); // what a training prints is its directory
    assert_string_equal(p.out + strlen(run_dir), "\n");
    q3_process_free(&p);
    return 0;
}

/* eval with the small settings and what is given. */
static q3_process judge(const char *const *more)
{
    static const char *const first[] = { Q3_PROGRAM,  "eval", "--config", Q3_RUN_CONFIG,
                                         "--threads", "1",    "-q",       SMALL };
    q3_process p = { 0 };
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        q3_process_add(&p, first[i]);
    for (; *more; more++)
        q3_process_add(&p, *more);
    return p;
}

static double number(const char *text, size_t size, const char *key)
{
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, text, size, "output", 1), Q3_OK);
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(doc.root, key);
    assert_true(cJSON_IsNumber(item));
    double value = item->valuedouble;
    q3_json_close(&doc);
    return value;
}

/* eval_loss of the one line of metrics.jsonl that has it. */
static double loss_of_the_run(void)
{
    size_t n;
    char *text = q3_run_read(run_dir, "metrics.jsonl", &n);
    const char *line = strstr(text, "\"eval_loss\"");
    assert_non_null(line);
    while (line > text && line[-1] != '\n')
        line--;
    double loss = number(line, strcspn(line, "\n"), "eval_loss");
    q3_free(text);
    return loss;
}

static void an_adapter_is_judged_as_in_its_run(void **state)
{
    (void)state;
    const char *out = q3_run_path("judged");
    q3_process p = judge((const char *[]){ "--adapter", run_dir, "--out", out, NULL });
    q3_run_expect(&p, 0);
    assert_true(number(p.out, strlen(p.out), "eval_loss") == loss_of_the_run());
    assert_int_equal(number(p.out, strlen(p.out), "eval_samples"), 7);
    q3_process_free(&p);
    size_t n, m;
    char *a = q3_run_read(out, "eval/eval_predictions.jsonl", &n),
         *b = q3_run_read(run_dir, "eval/post_predictions.jsonl", &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    q3_free(a);
    q3_free(b);
    assert_true(q3_file_exists(q3_run_file(out, "eval/eval.json")));
}

static void without_an_adapter_the_base_is_judged(void **state)
{
    (void)state;
    const char *out = q3_run_path("bare");
    q3_process p = judge((const char *[]){ "--out", out, NULL });
    q3_run_expect(&p, 0);
    assert_true(number(p.out, strlen(p.out), "eval_loss") > loss_of_the_run() + 0.1); // training helped
    q3_process_free(&p);
    size_t n, m;
    char *a = q3_run_read(out, "eval/eval_predictions.jsonl", &n),
         *b = q3_run_read(run_dir, "eval/pre_predictions.jsonl", &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    q3_free(a);
    q3_free(b);
}

static void the_batch_size_of_answers_is_not_that_of_the_loss(void **state)
{
    (void)state;
    q3_process p =
        judge((const char *[]){ "--adapter", run_dir, "eval.batch_size=3", "eval.max_samples=2", NULL });
    q3_run_expect(&p, 0);
    assert_true(number(p.out, strlen(p.out), "eval_loss") == loss_of_the_run());
    q3_process_free(&p);
}

static void refused(const char *const *more, int code, const char *sentence)
{
    q3_process p = judge(more);
    q3_run_expect(&p, code);
    assert_string_equal(p.out, "");
    if (!strstr(p.err, sentence)) // a warning about the chat template stands before it
        fail_msg("want: %s\ngot: %s", sentence, p.err);
    q3_process_free(&p);
}

static void mistakes_are_told(void **state)
{
    (void)state;
    refused((const char *[]){ "--adapter", "tests/golden/none", NULL }, 4,
            "qwen3-sft: evaluate_qwen3 failed: tests/golden/none/adapter_config.json: ");
    refused((const char *[]){ "data.eval=tests/golden/none.jsonl", NULL }, 3,
            "qwen3-sft: evaluate_qwen3 failed: tests/golden/none.jsonl: ");
    refused((const char *[]){ "--out", "tests/golden/README.md/x", NULL }, 1,
            "qwen3-sft: evaluate_qwen3 failed: tests/golden/README.md/x: cannot be created");
    refused((const char *[]){ "eval.labels=yes,no", NULL }, 3, "qwen3-sft: evaluate_qwen3 failed: ");
    refused((const char *[]){ "~data.eval", "~data.train", NULL }, 2, "qwen3-sft: data.train is not set");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_is_judged_as_in_its_run),
        cmocka_unit_test(without_an_adapter_the_base_is_judged),
        cmocka_unit_test(the_batch_size_of_answers_is_not_that_of_the_loss),
        cmocka_unit_test(mistakes_are_told),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
