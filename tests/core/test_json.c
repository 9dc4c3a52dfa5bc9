/* core/json.h: texts that are refused, and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/json.h"

static q3_status parse(q3_json *doc, const char *text)
{
    return q3_json_parse(doc, text, strlen(text), "a.json", 1);
}

static void refused(const char *text, const char *sentence)
{
    q3_json doc;
    assert_int_equal(parse(&doc, text), Q3_ERR_FORMAT);
    assert_string_equal(q3_error(), sentence);
}

static void mistakes_are_told_with_their_place(void **state)
{
    (void)state;
    refused("{\"a\": 1,\n \"b\": }", "a.json:2:7: not valid JSON here");
    refused("", "a.json:1:1: the JSON text ends too early");
    refused("[1] [2]", "a.json:1:5: unexpected text behind the JSON value");
    refused("[\"\xff\"]", "a.json:1:3: not valid UTF-8");
}

static void a_nul_in_a_string_is_refused_and_not_cut(void **state)
{
    (void)state;
    q3_json doc;
    refused("{\"a\": \"x\\u0000y\"}", "a.json:1:9: a NUL character, which no text here may hold");
    refused("[\"\\\\\\u0000\"]", "a.json:1:5: a NUL character, which no text here may hold");
    assert_int_equal(parse(&doc, "[\"\\\\u0000\"]"), Q3_OK); // a backslash and five letters
    assert_string_equal(cJSON_GetArrayItem(doc.root, 0)->valuestring, "\\u0000");
    q3_json_close(&doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_told_with_their_place),
        cmocka_unit_test(a_nul_in_a_string_is_refused_and_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
