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
#include "core/safetensors.h"
#include "tests/support/ask.h"

#define MODEL "tests/golden/training/model"
#define DATA " --data tests/golden/training/data/eval.jsonl --samples 2 --greedy 4"
#define SMALL " --text tests/golden/training/data/noise.jsonl --window 48 --greedy 2"

static char dir[400], small[440], line[1200];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(small, sizeof small, "%s/int4", dir);
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK;
}

static q3_process asked(const char *command, int code)
{
    q3_process p = q3_ask(Q3_PROGRAM, command, NULL, 0);
    if (p.code != code)
        fail_msg("%s: %d, %s", command, p.code, p.err);
    return p;
}

static double number(const q3_json *doc, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(doc->root, key);
    if (!cJSON_IsNumber(item))
        fail_msg("%s is no number", key);
    return item->valuedouble;
}

static void a_table_tells_what_was_judged(void **state)
{
    (void)state;
    q3_process p = asked("quality --model " MODEL " --weights int8 --kv-type bf16" DATA, 0);
    assert_non_null(strstr(p.out, "full        f32 weights, f32 cache\n"));
    assert_non_null(strstr(p.out, "judged      int8 weights, bf16 cache\n"));
    assert_non_null(strstr(p.out, " tokens in 2 prompts\n"));
    assert_non_null(strstr(p.out, " nats, 0.01 may pass\n"));
    assert_non_null(strstr(p.out, " of 4 tokens\n"));
    q3_process_free(&p);
}

static void json_is_one_object(void **state)
{
    (void)state;
    q3_process p = asked("quality --json -q --model " MODEL " --weights int4-g32" SMALL, 0);
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
    assert_true(number(&doc, "kl_mean") > 0 && number(&doc, "kl_mean") <= number(&doc, "kl_max"));
    assert_true(number(&doc, "max_kl") == 0.1 && number(&doc, "common_prefix_of") == 2);
    assert_true(number(&doc, "prompts") > 1 && number(&doc, "tokens") > 48);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(doc.root, "passes")));
    q3_json_close(&doc);
    q3_process_free(&p);
}

static void the_gate_closes_with_code_1(void **state)
{
    (void)state;
    q3_process p = asked("quality --model " MODEL " --weights nf4 --max-kl 1e-6" DATA, 1);
    assert_non_null(strstr(p.out, "judged      nf4 weights")); // the table comes all the same
    assert_non_null(strstr(p.err, "the mean KL divergence from the full model is "));
    assert_non_null(strstr(p.err, " nats and 1e-06 may pass; take more bits"));
    q3_process_free(&p);
}

/* All scales of a directory times 8, as if a file had been written wrongly. */
static void spoil(void)
{
    char path[500], copy[500];
    q3_safetensors *file;
    snprintf(path, sizeof path, "%s/model.safetensors", small);
    snprintf(copy, sizeof copy, "%s/spoiled.safetensors", small);
    assert_int_equal(q3_safetensors_open(&file, path), Q3_OK);
    const int64_t n = q3_safetensors_count(file);
    q3_st_tensor *t = calloc((size_t)n, sizeof *t);
    for (int64_t i = 0; i < n; i++) {
        t[i] = *q3_safetensors_at(file, i);
        if (!strstr(t[i].name, ".absmax"))
            continue;
        float *scales = malloc(t[i].bytes);
        for (int64_t k = 0; k < q3_st_elements(&t[i]); k++)
            scales[k] = 8 * ((const float *)t[i].data)[k];
        t[i].data = scales;
    }
    assert_int_equal(q3_safetensors_write(copy, t, n), Q3_OK);
    for (int64_t i = 0; i < n; i++)
        if (strstr(t[i].name, ".absmax"))
            free((void *)(uintptr_t)t[i].data);
    free(t);
    q3_safetensors_close(file);
    assert_int_equal(rename(copy, path), 0);
}

static void a_spoiled_directory_does_not_pass(void **state)
{
    (void)state;
    snprintf(line, sizeof line, "quantize --model " MODEL " --out %s --type int4-g32", small);
    q3_process p = asked(line, 0);
    q3_process_free(&p);
    snprintf(line, sizeof line, "quality --model %s --reference " MODEL DATA, small);
    p = asked(line, 0);
    q3_process_free(&p);
    spoil();
    p = asked(line, 1);
    assert_non_null(strstr(p.err, " nats and 0.1 may pass; take more bits"));
    q3_process_free(&p);
}

static void mistakes_are_usage_errors(void **state)
{
    (void)state;
    q3_ask_refused(Q3_PROGRAM, "quality --model " MODEL, 2,
                   "there is nothing to judge: give --weights, --kv-type or --reference");
    q3_ask_refused_about(Q3_PROGRAM, "quality --weights nf4", 2, "quality needs --model DIR");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --weights int5" DATA, 2,
                         "--weights is \"int5\"; it must be auto, f32");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --kv-type fp8" DATA, 2,
                         "--kv-type is \"fp8\"; it must be auto, f32, bf16, int8 or int4");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --weights nf4 --max-kl none", 2,
                         "--max-kl is \"none\"; it must be a number of nats");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --weights nf4 --window 1", 2,
                         "--window is \"1\"");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --weights nf4 --text a --data b", 2,
                         "--text and --data are both given");
    q3_ask_refused_about(Q3_PROGRAM, "quality --model " MODEL " --weights nf4 --samples 3", 2,
                         "--samples is for --data");
    char path[500];
    snprintf(path, sizeof path, "%s/empty.txt", dir);
    assert_int_equal(q3_file_write(path, "", 0), Q3_OK);
    snprintf(line, sizeof line, "quality --model " MODEL " --weights nf4 --text %s", path);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, "has 0 tokens");
    q3_ask_refused_about(
        Q3_PROGRAM, "quality --model assets/tiny-base --reference " MODEL " --text README.md --window 16", 2,
        "only forms of one model compare");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_tells_what_was_judged), cmocka_unit_test(json_is_one_object),
        cmocka_unit_test(the_gate_closes_with_code_1),   cmocka_unit_test(a_spoiled_directory_does_not_pass),
        cmocka_unit_test(mistakes_are_usage_errors),
    };
    return cmocka_run_group_tests_name("quality command", tests, prepare, NULL);
}
