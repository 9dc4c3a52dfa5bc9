/* What a run is made of: where its evaluation data come from, and what its settings reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"
#include "train/trainer.h"

static const char *folder;

static void write_split(const char *name, const char *text)
{
    const char *dir = q3_run_file(folder, name);
    char *own = q3_strdup(dir); // the buffers behind q3_run_file rotate
    assert_int_equal(q3_dir_create(own), Q3_OK);
    q3_run_write(own, "metadata.jsonl", text);
    q3_free(own);
}

/* One line of metadata; the picture is not looked at before training. */
#define LINE(query) "{\"file_name\": \"a.png\", \"query\": \"" query "\", \"target_json\": \"yes\"}\n"

static int set_up(void **state)
{
    (void)state;
    folder = q3_run_path("folder");
    assert_int_equal(q3_dir_create(folder), Q3_OK);
    return 0;
}

/* Opens the settings of tests/golden/training with the folder as data.train and up to two overrides. */
static q3_status open_with(q3_trainer *t, q3_config *config, const char *a, const char *b)
{
    char train[1024];
    snprintf(train, sizeof train, "data.train=%s", folder);
    const char *overrides[] = { train, "~data.eval", a, b };
    assert_int_equal(q3_config_load(config, Q3_RUN_CONFIG, overrides, 2 + !!a + (a && b)), Q3_OK);
    return q3_trainer_open(t, config, NULL);
}

static void expect_eval(const char *name, int64_t n, const char *setting)
{
    q3_trainer t;
    q3_config config;
    assert_int_equal(open_with(&t, &config, setting, NULL), Q3_OK);
    assert_string_equal(t.eval_name, name);
    assert_int_equal(t.n_eval, n);
    q3_trainer_close(&t);
    q3_config_free(&config);
}

static void expect_refused(q3_status want, const char *part, const char *setting)
{
    q3_trainer t;
    q3_config config;
    assert_int_equal(open_with(&t, &config, setting, NULL), want);
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
    q3_config_free(&config);
}

static void a_folder_without_splits_is_no_split_of_itself(void **state)
{
    (void)state;
    q3_run_write(folder, "metadata.jsonl", LINE("one") LINE("two"));
    expect_eval("train_slice", 2, NULL);
    expect_refused(Q3_ERR_DATA, "has no such split beside the training data", "data.eval_split=validation");
    assert_int_equal(remove(q3_run_file(folder, "metadata.jsonl")), 0);
}

static void splits_are_taken_in_the_reference_s_order(void **state)
{
    (void)state;
    write_split("train", LINE("one") LINE("two"));
    expect_eval("train_slice", 2, NULL);
    write_split("test", LINE("three") LINE("four") LINE("five"));
    expect_eval("test", 3, NULL);
    write_split("validation", LINE("six"));
    expect_eval("validation", 1, NULL);
    expect_eval("test", 3, "data.eval_split=test");
    expect_refused(Q3_ERR_DATA, "data.eval_split \"hard\": ", "data.eval_split=hard");
}

static void a_broken_split_is_not_passed_over(void **state)
{
    (void)state;
    write_split("validation", "");
    expect_refused(Q3_ERR_DATA, "metadata.jsonl", NULL);
    write_split("validation", LINE("six"));
}

static void a_file_has_no_splits(void **state)
{
    (void)state;
    q3_trainer t;
    q3_config config;
    const char *const overrides[] = { "~data.eval", "data.eval_split=test" };
    assert_int_equal(q3_config_load(&config, Q3_RUN_CONFIG, overrides, 2), Q3_OK);
    assert_int_equal(q3_trainer_open(&t, &config, NULL), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "has no splits; set data.eval instead"));
    q3_config_free(&config);
}

static void the_type_of_quantization_reaches_the_weights(void **state)
{
    (void)state;
    static const char *const settings[] = { "quantization.bnb_4bit_quant_type=nf4",
                                            "quantization.bnb_4bit_quant_type=fp4" };
    for (int i = 0; i < 2; i++) {
        q3_trainer t;
        q3_config config;
        assert_int_equal(open_with(&t, &config, settings[i], "quantization.load_in_4bit=true"), Q3_OK);
        assert_true(t.model.n_projections > 0);
        int n = 0;
        for (int k = 0; k < t.model.n_projections; k++)
            n += t.model.projections[k]->w->dtype == (i ? Q3_FP4 : Q3_NF4);
        assert_true(n > 0);
        q3_trainer_close(&t);
        q3_config_free(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_without_splits_is_no_split_of_itself),
        cmocka_unit_test(splits_are_taken_in_the_reference_s_order),
        cmocka_unit_test(a_broken_split_is_not_passed_over),
        cmocka_unit_test(a_file_has_no_splits),
        cmocka_unit_test(the_type_of_quantization_reaches_the_weights),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
