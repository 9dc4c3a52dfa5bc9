#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "core/status.h"

static q3_status deep(void)
{
    return q3_fail(Q3_ERR_FORMAT, "byte %d is wrong", 7);
}

static q3_status middle(void)
{
    Q3_TRY(deep());
    return Q3_OK;
}

static void context_is_put_in_front(void **state)
{
    (void)state;
    q3_status st = q3_wrap(middle(), "%s", "a.json");
    assert_int_equal(st, Q3_ERR_FORMAT);
    assert_string_equal(q3_error(), "a.json: byte 7 is wrong");
    q3_prefix(st, "Qwen3 collate failed: ");
    q3_prefix(st, "Qwen3 collate failed: ");
    assert_string_equal(q3_error(), "Qwen3 collate failed: a.json: byte 7 is wrong");
}

static void a_sentence_may_quote_the_former_one(void **state)
{
    (void)state;
    q3_fail(Q3_ERR_IO, "inner");
    q3_fail(Q3_ERR_IO, "outer (%s)", q3_error());
    assert_string_equal(q3_error(), "outer (inner)");
}

static void long_sentences_are_cut_not_overrun(void **state)
{
    (void)state;
    char big[5000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    q3_fail(Q3_ERR_IO, "%s", big);
    q3_wrap(Q3_ERR_IO, "%s", big);
    q3_prefix(Q3_ERR_IO, "prefix: ");
    assert_true(strlen(q3_error()) < 2048);
    assert_memory_equal(q3_error(), "prefix: xxx", 11);
}

static void exit_codes_follow_the_table(void **state)
{
    (void)state;
    assert_int_equal(q3_exit_code(Q3_OK), 0);
    assert_int_equal(q3_exit_code(Q3_ERR_FAIL), 1);
    assert_int_equal(q3_exit_code(q3_status_as(Q3_ERR_FORMAT, Q3_ERR_MODEL)), 4);
    assert_int_equal(q3_exit_code(q3_status_as(Q3_ERR_MEMORY, Q3_ERR_MODEL)), 5);
    assert_int_equal(q3_exit_code(Q3_ERR_USAGE), 2);
    assert_int_equal(q3_exit_code(Q3_ERR_DATA), 3);
    assert_int_equal(q3_exit_code(Q3_ERR_INTERRUPTED), 130);
}

static void the_nearest_name_is_suggested(void **state)
{
    (void)state;
    const char *const names[] = { "learning_rate", "lora_alpha", "seed" };
    assert_string_equal(q3_nearest("learning_rte", names, 3), "learning_rate");
    assert_string_equal(q3_nearest("sead", names, 3), "seed");
    assert_null(q3_nearest("zzzzzzzz", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_is_put_in_front),
        cmocka_unit_test(a_sentence_may_quote_the_former_one),
        cmocka_unit_test(long_sentences_are_cut_not_overrun),
        cmocka_unit_test(exit_codes_follow_the_table),
        cmocka_unit_test(the_nearest_name_is_suggested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
