#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "data/dataset.h"
#include "data/json_array.h"
#include "data/jsonl.h"

static const q3_data_keys TEXTS = { .allow_text_only = true };

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

static q3_jsonl *open_text(const char *text)
{
    q3_jsonl *f;
    if (q3_jsonl_open_memory(&f, text, strlen(text), "d/a.json", &TEXTS) != Q3_OK)
        fail_msg("%s", q3_error());
    return f;
}

static void assert_sample(const q3_jsonl *f, int64_t index, const char *where, const char *query)
{
    q3_sample s;
    if (q3_jsonl_get(&s, f, index) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_string_equal(s.where, where);
    assert_string_equal(s.query, query);
    q3_sample_free(&s);
}

static void elements_are_samples_named_by_their_line(void **state)
{
    (void)state;
    q3_jsonl *f =
        open_text("\xEF\xBB\xBF [\r\n  {\"query\": \"a\",\n   \"tags\": [1, {\"x\": []}, \"]}\"]},\n"
                  "\n  {\"query\": \"b\\\"\\u00e9\"}, {\"query\": \"c\"}\n]\n");
    assert_int_equal(q3_jsonl_size(f), 3);
    assert_sample(f, 0, "d/a.json:2", "a");
    assert_sample(f, 1, "d/a.json:5", "b\"\xC3\xA9");
    assert_sample(f, 2, "d/a.json:5:27", "c"); // not the first of its line
    q3_jsonl_close(f);
}

/* As MMSD2.0 has it; columns count characters. */
static void samples_of_one_line_are_told_apart_by_column(void **state)
{
    (void)state;
    q3_jsonl *f =
        open_text("[{\"id\":900000000000000001,\"text\":\"\xC3\xA9\"},{\"text\":\"b\"},{\"text\":7}]");
    q3_sample s;
    assert_int_equal(q3_jsonl_get(&s, f, 0), Q3_OK);
    assert_string_equal(s.id, "900000000000000001");
    q3_sample_free(&s);
    assert_sample(f, 0, "d/a.json:1", "\xC3\xA9");
    assert_sample(f, 1, "d/a.json:1:39", "b");
    assert_int_equal(q3_jsonl_get(&s, f, 2), Q3_ERR_DATA);
    assert_string_equal(q3_error(), "d/a.json:1:53: \"text\" must be a string");
    q3_jsonl_close(f);
}

static void an_unusable_element_is_refused_when_it_is_asked_for(void **state)
{
    (void)state;
    q3_jsonl *f = open_text("[{\"query\": \"a\"},\n 5,\n {\"query\": \"b\",\n  \"caption\": 1},\n"
                            " {\"query\": \"\xFF\"},\n {\"query\": \"\\ud800\"},\n {\"caption\": \"\"}]");
    static const char *const errors[] = { "d/a.json:2: a sample must be a JSON object",
                                          "d/a.json:4:3: \"caption\" must be a string",
                                          "d/a.json:5:13: not valid UTF-8",
                                          "d/a.json:6:", "d/a.json:7: missing field \"query\"" };
    q3_sample s;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(q3_jsonl_get(&s, f, i + 1), Q3_ERR_DATA);
        assert_int_equal(strncmp(q3_error(), errors[i], strlen(errors[i])), 0);
    }
    q3_jsonl_close(f);
}

static void malformed_arrays_are_refused_with_line_and_column(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        { "", "1:1: the JSON text ends too early" },
        { "{\"query\": \"a\"}\n{}", "1:1: expected [, with which an array begins; a file of one" },
        { "[{}", "1:4: the JSON text ends too early" },
        { "[{},", "1:5: the JSON text ends too early" },
        { "[{},]", "1:5: nothing stands behind the comma" },
        { "[{\"a\": 1,}]", "1:10: nothing stands behind the comma" },
        { "[{}\n {}]", "2:2: expected , or ]" },
        { "[{\"a\": 1 \"b\": 2}]", "1:10: expected , or }" },
        { "[{\"a\" 1}]", "1:7: expected : behind the key" },
        { "[{a: 1}]", "1:3: expected a key in quotes" },
        { "[{'a': 1}]", "1:3: expected a key in quotes" },
        { "[{\"a\": \"b\n\"}]", "1:10: a line break or control character" },
        { "[\"\\x\"]", "1:4: no such escape" },
        { "[\"\\u12g4\"]", "1:7: \\u needs four" },
        { "[\"abc", "1:6: the JSON text ends too early" },
        { "[01]", "1:3: expected , or ]" },
        { "[-]", "1:3: a number lacks a digit" },
        { "[1.]", "1:4: a number lacks a digit" },
        { "[1e+]", "1:5: a number lacks a digit" },
        { "[.5]", "1:2: expected a value" },
        { "[NaN]", "1:2: expected a value" },
        { "[nul]", "1:2: expected a value" },
        { "[}]", "1:2: expected a value" },
        { "[{]", "1:3: expected a key" },
        { "[{}] []", "1:6: unexpected text behind the array" },
        { "[\"\xC3\xA9\xE2\x82\xAC\" x]", "1:7: expected , or ]" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        q3_jsonl *f;
        if (q3_jsonl_open_memory(&f, bad[i][0], strlen(bad[i][0]), "a.json", &TEXTS) != Q3_ERR_DATA)
            fail_msg("accepted: %s", bad[i][0]);
        assert_null(f);
        if (strncmp(q3_error(), "a.json:", 7) != 0 ||
            strncmp(q3_error() + 7, bad[i][1], strlen(bad[i][1])) != 0)
            fail_msg("%s: \"%s\" is not \"%s\"", bad[i][0], q3_error(), bad[i][1]);
    }
    q3_jsonl *f;
    assert_int_equal(q3_jsonl_open_memory(&f, " [ ] ", 5, "a.json", &TEXTS), Q3_ERR_DATA);
    assert_string_equal(q3_error(), "a.json: the file holds no samples");
}

static q3_status count(void *arg, const q3_json_element *e)
{
    (void)e;
    ++*(int *)arg;
    return Q3_OK;
}

/* The scan allows what the parser of the elements allows, and no level more. */
static void nesting_has_the_limit_of_the_parser(void **state)
{
    (void)state;
    for (int levels = CJSON_NESTING_LIMIT; levels <= CJSON_NESTING_LIMIT + 1; levels++) {
        char text[2 * CJSON_NESTING_LIMIT + 5];
        size_t n = 2 * (size_t)levels + 2;
        memset(text, '[', n / 2);
        memset(text + n / 2, ']', n / 2);
        int elements = 0;
        q3_json doc;
        bool fits = levels <= CJSON_NESTING_LIMIT;
        assert_int_equal(q3_json_array_scan(text, n, "a.json", count, &elements), fits ? Q3_OK : Q3_ERR_DATA);
        assert_int_equal(elements, fits);
        assert_int_equal(q3_json_parse(&doc, text + 1, n - 2, "a.json", 1), fits ? Q3_OK : Q3_ERR_FORMAT);
        q3_json_close(&doc);
    }
}

static void every_cut_of_an_array_is_refused(void **state)
{
    (void)state;
    static const char text[] = "[{\"a\": [true, -0.5e+3, \"\\u00e9\\\\\"], \"b\": {}}, null]";
    int n = 0;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        char *copy = q3_malloc(i + 1); // so that sanitizers see a byte too far
        memcpy(copy, text, i);
        assert_int_equal(q3_json_array_scan(copy, i, "a.json", count, &n), Q3_ERR_DATA);
        q3_free(copy);
    }
    n = 0;
    assert_int_equal(q3_json_array_scan(text, sizeof text - 1, "a.json", count, &n), Q3_OK);
    assert_int_equal(n, 2);
}

static void a_json_file_is_a_data_set(void **state)
{
    (void)state;
    static const char text[] = "[\n {\"query\": \"a\", \"image\": \"x/1.png\"},\n {\"query\": \"b\"}\n]\n";
    char path[4096];
    q3_dataset *ds;
    q3_sample s;
    snprintf(path, sizeof path, "%s/train.json", getenv("Q3_TEST_DIR"));
    assert_int_equal(q3_dir_create(getenv("Q3_TEST_DIR")), Q3_OK);
    assert_int_equal(q3_file_write(path, text, sizeof text - 1), Q3_OK);
    assert_int_equal(q3_dataset_open(&ds, path, &TEXTS), Q3_OK);
    assert_int_equal(q3_dataset_size(ds), 2);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_OK);
    assert_non_null(strstr(s.pictures[0].path, "/x/1.png")); // beside the file
    q3_sample_free(&s);
    q3_dataset_close(ds);
    assert_int_equal(q3_dataset_open(&ds, "assets/absent.json", NULL), Q3_ERR_DATA);
    assert_error("assets/absent.json: No such file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_are_samples_named_by_their_line),
        cmocka_unit_test(samples_of_one_line_are_told_apart_by_column),
        cmocka_unit_test(an_unusable_element_is_refused_when_it_is_asked_for),
        cmocka_unit_test(malformed_arrays_are_refused_with_line_and_column),
        cmocka_unit_test(nesting_has_the_limit_of_the_parser),
        cmocka_unit_test(every_cut_of_an_array_is_refused),
        cmocka_unit_test(a_json_file_is_a_data_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
