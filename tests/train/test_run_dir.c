#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"
#include "train/run_dir.h"

/* A directory with a file in it, so that it counts as taken. */
static void take(const char *dir, const char *file)
{
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, file, "{}\n");
}

static void checkpoint(const char *dir, int step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%d", step);
    take(q3_run_file(dir, name), "trainer_state.json");
}

/* `want` and `want_checkpoint` are names below `base`; NULL: Q3_ERR_USAGE, no checkpoint. */
static void choose(const char *base, const char *output, q3_run_options o, const char *want,
                   const char *want_checkpoint)
{
    char *dir, *from, *resume = NULL;
    if (o.resume && strcmp(o.resume, "auto") != 0)
        o.resume = resume = q3_path_join(base, o.resume);
    char *output_dir = q3_path_join(base, output);
    q3_status st = q3_run_dir_choose(&dir, &from, output_dir, &o);
    assert_int_equal(st, want ? Q3_OK : Q3_ERR_USAGE);
    if (want)
        assert_string_equal(dir, q3_run_file(base, want));
    if (want && want_checkpoint)
        assert_string_equal(from, q3_run_file(base, want_checkpoint));
    else if (want)
        assert_null(from);
    q3_free(dir);
    q3_free(from);
    q3_free(resume);
    q3_free(output_dir);
}

static void the_first_free_name_is_taken(void **state)
{
    (void)state;
    const char *base = q3_run_path("names");
    choose(base, "x", (q3_run_options){ 0 }, "x", NULL);
    assert_int_equal(q3_dir_create(q3_run_file(base, "x")), Q3_OK);
    choose(base, "x/", (q3_run_options){ 0 }, "x", NULL); // there, but empty
    take(q3_run_file(base, "x"), "metrics.jsonl");
    choose(base, "x/", (q3_run_options){ 0 }, "x-2", NULL);
    take(q3_run_file(base, "x-2"), "metrics.jsonl");
    choose(base, "x", (q3_run_options){ 0 }, "x-3", NULL);
    choose(base, "x", (q3_run_options){ .named = true }, NULL, NULL);
    choose(base, "y", (q3_run_options){ .named = true }, "y", NULL);
    choose(base, "x", (q3_run_options){ .named = true, .overwrite = true }, "x", NULL);
    choose(base, "x", (q3_run_options){ .overwrite = true }, "x", NULL);
}

static void resuming_takes_the_newest_whole_checkpoint(void **state)
{
    (void)state;
    const q3_run_options automatic = { .resume = "auto" }, named = { .resume = "auto", .named = true };
    const char *base = q3_run_path("resume");
    choose(base, "x", automatic, "x", NULL);
    take(q3_run_file(base, "x"), "metrics.jsonl");
    choose(base, "x", automatic, "x", NULL);
    checkpoint(q3_run_file(base, "x"), 9);
    checkpoint(q3_run_file(base, "x"), 10);
    checkpoint(q3_run_file(base, "x"), 100);
    choose(base, "x", automatic, "x", "x/checkpoint-100");
    take(q3_run_file(base, "x/checkpoint-200.tmp"), "trainer_state.json");
    take(q3_run_file(base, "x/checkpoint-300"), "adapter_config.json"); // no state: not whole
    take(q3_run_file(base, "x/checkpoint-"), "trainer_state.json");
    take(q3_run_file(base, "x/checkpoint-4e9"), "trainer_state.json");
    take(q3_run_file(base, "x/checkpoint--400"), "trainer_state.json");
    take(q3_run_file(base, "x/checkpoint-99999999999999999999"), "trainer_state.json");
    choose(base, "x", automatic, "x", "x/checkpoint-100");
    checkpoint(q3_run_file(base, "x-2"), 5);
    choose(base, "x", automatic, "x-2", "x-2/checkpoint-5"); // the last run of that name
    choose(base, "x", named, "x", "x/checkpoint-100");
}

static void a_checkpoint_has_a_directory_around_it(void **state)
{
    (void)state;
    const char *base = q3_run_path("from");
    checkpoint(q3_run_file(base, "x"), 3);
    checkpoint(q3_run_file(base, "x"), 4);
    choose(base, "y", (q3_run_options){ .resume = "x/checkpoint-3" }, "x", "x/checkpoint-3");
    choose(base, "y", (q3_run_options){ .resume = "x/checkpoint-3//" }, "x", "x/checkpoint-3");
    choose(base, "y", (q3_run_options){ .resume = "x" }, "x", "x/checkpoint-4");
    choose(base, "y", (q3_run_options){ .resume = "x", .named = true }, "y", "x/checkpoint-4");
    choose(base, "x/", (q3_run_options){ .resume = "x", .named = true }, "x/", "x/checkpoint-4");
    choose(base, "y", (q3_run_options){ .resume = "z" }, NULL, NULL);
    choose(base, "y", (q3_run_options){ .resume = "x/checkpoint-3.tmp/" }, NULL, NULL);
    checkpoint(q3_run_file(base, "y"), 1);
    choose(base, "y", (q3_run_options){ .resume = "x", .named = true }, NULL, NULL); // y is another run
}

static void only_runs_are_emptied(void **state)
{
    (void)state;
    const char *model = q3_run_path("model"), *run = q3_run_path("run");
    take(model, "config.json");
    assert_int_equal(q3_run_dir_prepare(model, true), Q3_ERR_USAGE);
    assert_true(q3_file_exists(q3_run_file(model, "config.json")));
    take(run, "metrics.jsonl");
    take(run, "config.json");
    take(q3_run_file(run, "checkpoint-7.tmp"), "trainer_state.json");
    take(q3_run_file(run, "checkpoint-6.old.tmp"), "trainer_state.json");
    checkpoint(run, 6);
    assert_int_equal(q3_run_dir_prepare(run, false),
                     Q3_OK); // what a kill left half-done goes, the rest stays
    assert_false(q3_dir_exists(q3_run_file(run, "checkpoint-7.tmp")));
    assert_false(q3_dir_exists(q3_run_file(run, "checkpoint-6.old.tmp")));
    assert_true(q3_dir_exists(q3_run_file(run, "checkpoint-6")) &&
                q3_file_exists(q3_run_file(run, "config.json")));
    assert_int_equal(q3_run_dir_prepare(run, true), Q3_OK);
    assert_true(q3_dir_exists(run));
    assert_false(q3_dir_exists(q3_run_file(run, "checkpoint-6")) ||
                 q3_file_exists(q3_run_file(run, "config.json")));
}

static void cut(const char *before, int64_t step, const char *after)
{
    size_t n;
    const char *dir = q3_run_path("cut");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, "metrics.jsonl", before);
    assert_int_equal(q3_metrics_cut(dir, step, false), Q3_OK);
    char *text = q3_run_read(dir, "metrics.jsonl", &n);
    assert_string_equal(text, after);
    q3_free(text);
}

static void metrics_end_at_the_checkpoint(void **state)
{
    (void)state;
    static const char one[] = "{\"step\": 1, \"loss\": 1.5}\n", two[] = "{\"step\": 2, \"eval_loss\": 2.5}\n";
    char text[512];
    snprintf(text, sizeof text, "%s%s{\"step\": 3, \"loss\": 1}\n", one, two);
    cut(text, 3, text);
    cut(text, 0, "");
    cut(text, -1, "");
    snprintf(text, sizeof text, "%s%s{\"step\": 3, \"loss\": 1}\n", two, one);
    cut(text, 1, one);
    snprintf(text, sizeof text,
             "%s{\"step\": 1, \"gen_eval/post_accuracy\": 1}\n{\"step\": 1, \"train_runtime\": 2}\n", one);
    cut(text, 1, one);
    snprintf(text, sizeof text, "%s{\"step\": 2, \"eval_lo", one); // as a kill leaves it
    cut(text, 2, one);
    snprintf(text, sizeof text, "%s\n[]\n{\"step\": \"x\"}\n{}\nnonsense\n%s", one, two);
    cut(text, 2, "{\"step\": 1, \"loss\": 1.5}\n{\"step\": 2, \"eval_loss\": 2.5}\n");
}

static void answers_that_were_not_saved_are_given_again(void **state)
{
    (void)state;
    size_t n;
    static const char kept[] = "{\"step\": 1, \"gen_eval/accuracy\": 1}\n{\"step\": 2, \"eval_loss\": 2.5}\n";
    const char *dir = q3_run_path("cut");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    char text[512];
    snprintf(text, sizeof text, "%s{\"step\": 2, \"gen_eval/accuracy\": 1}\n", kept);
    cut(text, 2, text);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, "metrics.jsonl", text);
    assert_int_equal(q3_metrics_cut(dir, 2, true), Q3_OK);
    char *after = q3_run_read(dir, "metrics.jsonl", &n);
    assert_string_equal(after, kept);
    q3_free(after);
}

static void metrics_are_appended(void **state)
{
    (void)state;
    size_t n;
    const char *dir = q3_run_path("append");
    assert_int_equal(q3_metrics_append(dir, "a\n", 2, false), Q3_ERR_IO); // no such directory
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_int_equal(q3_metrics_append(dir, "a\n", 2, false), Q3_OK);
    assert_int_equal(q3_metrics_append(dir, "b\n", 2, true), Q3_OK);
    char *text = q3_run_read(dir, "metrics.jsonl", &n);
    assert_string_equal(text, "a\nb\n");
    q3_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_free_name_is_taken),
        cmocka_unit_test(resuming_takes_the_newest_whole_checkpoint),
        cmocka_unit_test(a_checkpoint_has_a_directory_around_it),
        cmocka_unit_test(only_runs_are_emptied),
        cmocka_unit_test(metrics_end_at_the_checkpoint),
        cmocka_unit_test(answers_that_were_not_saved_are_given_again),
        cmocka_unit_test(metrics_are_appended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
