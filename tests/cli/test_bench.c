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
#include "tests/support/ask.h"

#define MODEL "tests/golden/model-a/model"
#define SMALL " --prompt-tokens 20 --new-tokens 4 --rounds 1"

static char dir[400], line[1200];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK;
}

static q3_process asked(const char *command)
{
    q3_process p = q3_ask(Q3_PROGRAM, command, NULL, 0);
    if (p.code != 0)
        fail_msg("%s: %d, %s", command, p.code, p.err);
    return p;
}

static const cJSON *item(const cJSON *object, const char *key)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!found)
        fail_msg("there is no %s", key);
    return found;
}

static void a_table_has_a_line_for_each_batch(void **state)
{
    (void)state;
    q3_process p = asked("bench --model " MODEL " --batch 1,3 --device cpu" SMALL);
    assert_non_null(strstr(p.out, "weights     f32, 1.8"));
    assert_non_null(strstr(p.out, "cache       f32, "));
    assert_non_null(strstr(p.out, "requests    20 tokens, answers of 4\n"));
    assert_non_null(strstr(p.out, "\n    1 "));
    assert_non_null(strstr(p.out, "\n    3 "));
    assert_non_null(strstr(p.out, "\npeak memory "));
    q3_process_free(&p);
}

static void random_weights_need_config_json_alone(void **state)
{
    (void)state;
    char path[500];
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(q3_file_copy(path, MODEL "/config.json"), Q3_OK);
    snprintf(
        line, sizeof line,
        "bench --model %s --random-weights --seed 3 --weights int4-g32 --kv-type int8 --batch 2 --json" SMALL,
        dir);
    q3_process p = asked(line);
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
    assert_string_equal(item(doc.root, "weights")->valuestring, "int4-g32");
    assert_string_equal(item(doc.root, "kv_type")->valuestring, "int8");
    const cJSON *runs = item(doc.root, "runs"), *one = cJSON_GetArrayItem(runs, 0);
    assert_int_equal(cJSON_GetArraySize(runs), 1);
    assert_int_equal(item(one, "batch")->valueint, 2);
    assert_true(item(one, "prefill_tokens_per_second")->valuedouble > 0);
    assert_true(item(one, "decode_tokens_per_second")->valuedouble > 0);
    assert_true(item(item(one, "first_token_seconds"), "p99")->valuedouble > 0);
    assert_true(item(doc.root, "peak_memory_bytes")->valuedouble >
                item(doc.root, "weight_bytes")->valuedouble);
    q3_json_close(&doc);
    q3_process_free(&p);
}

static void mistakes_are_usage_errors(void **state)
{
    (void)state;
    q3_ask_refused_about(Q3_PROGRAM, "bench --batch 1", 2, "bench needs --model DIR");
    static const char *const lists[] = { "0", "1,", ",1", "1;2", "2000", "x" };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        snprintf(line, sizeof line, "bench --model " MODEL " --batch \"%s\"", lists[i]);
        q3_ask_refused_about(Q3_PROGRAM, line, 2,
                             "it must be up to 16 numbers from 1 to 1024 with commas between");
    }
    q3_ask_refused_about(Q3_PROGRAM, "bench --model " MODEL " --seed 1", 2, "--seed is for --random-weights");
    q3_ask_refused_about(Q3_PROGRAM, "bench --model " MODEL " --new-tokens 1", 2, "--new-tokens is \"1\"");
    q3_ask_refused_about(Q3_PROGRAM, "bench --model " MODEL " --prompt-tokens 100000", 2,
                         "is longer than the ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_has_a_line_for_each_batch),
        cmocka_unit_test(random_weights_need_config_json_alone),
        cmocka_unit_test(mistakes_are_usage_errors),
    };
    return cmocka_run_group_tests_name("bench command", tests, prepare, NULL);
}
