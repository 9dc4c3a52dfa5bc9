/* Which step is the best and when training ends for want of a better one, as transformers 5.17 decides
 * (_determine_best_metric, EarlyStoppingCallback: the expectations are what they said to the same values). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"
#include "train/best.h"
#include "train/checkpoint.h"

#define ADAPTER "adapter_model.safetensors"

typedef struct verdict {
    double value;
    bool best;
    int64_t unimproved;
    bool enough;
} verdict;

static void judge(q3_config_metric metric, int64_t patience, double threshold, const verdict *v, int n)
{
    const q3_config_train c = { .metric_for_best_model = metric,
                                .early_stopping_patience = patience,
                                .early_stopping_threshold = threshold };
    q3_state s;
    q3_state_init(&s);
    for (int i = 0; i < n; i++) {
        s.step = i;
        bool best = q3_best_update(&s, v[i].value, &c);
        if (best != v[i].best || s.unimproved != v[i].unimproved || q3_best_enough(&s, &c) != v[i].enough)
            fail_msg("%g, number %d: best %d, unimproved %d", v[i].value, i, best, (int)s.unimproved);
        assert_true(!best || (s.best_step == i && s.best_metric == v[i].value));
    }
}

#define JUDGE(metric, patience, threshold, ...)                                                              \
    judge(metric, patience, threshold, (const verdict[]){ __VA_ARGS__ },                                     \
          (int)(sizeof((const verdict[]){ __VA_ARGS__ }) / sizeof(verdict)))

static void of_losses_the_lowest_is_the_best(void **state)
{
    (void)state;
    JUDGE(Q3_CONFIG_METRIC_EVAL_LOSS, 3, 0.01, { 3, true, 0, false }, { 2.5, true, 0, false },
          { 2.495, true, 1, false }, { 2.49, true, 2, false }, { 2.4, true, 0, false },
          { 2.4, false, 1, false }, { 2.41, false, 2, false }, { 2.395, true, 3, true },
          { NAN, false, 4, true }, { 2.0, true, 0, false });
    JUDGE(Q3_CONFIG_METRIC_EVAL_LOSS, 1, 0.5, { 1, true, 0, false }, { 0.5, true, 1, true });
    JUDGE(Q3_CONFIG_METRIC_EVAL_LOSS, 2, 0, { NAN, false, 0, false }, { 2, true, 0, false },
          { 3, false, 1, false }, { 1, true, 0, false });
    JUDGE(Q3_CONFIG_METRIC_EVAL_LOSS, Q3_CONFIG_UNSET, 0, { 1, true, 0, false }, { 2, false, 1, false },
          { 2, false, 2, false });
}

static void of_answers_the_highest_is_the_best(void **state)
{
    (void)state;
    JUDGE(Q3_CONFIG_METRIC_ACCURACY, 2, 0.01, { 0.1, true, 0, false }, { 0.5, true, 0, false },
          { 0.5, false, 1, false }, { 0.51, true, 0, false }, { 0.6, true, 0, false },
          { 0.4, false, 1, false });
    JUDGE(Q3_CONFIG_METRIC_MACRO_F1, 2, 0, { 0.2, true, 0, false }, { 0.3, true, 0, false },
          { 0.3, false, 1, false }, { 0.3, false, 2, true });
}

static void a_metric_is_taken_by_its_name(void **state)
{
    (void)state;
    const q3_log_entry e = { .loss = 1, .accuracy = 2, .macro_f1 = 3, .forced_accuracy = 4 };
    for (int m = Q3_CONFIG_METRIC_EVAL_LOSS; m <= Q3_CONFIG_METRIC_FORCED; m++) {
        q3_config c;
        char setting[64];
        const q3_config_train named = { .metric_for_best_model = (q3_config_metric)m };
        const char *override = setting;
        snprintf(setting, sizeof setting, "train.metric_for_best_model=%s", q3_best_name(&named));
        assert_int_equal(q3_config_load(&c, NULL, &override, 1), Q3_OK);
        assert_int_equal(c.train.metric_for_best_model, m);
        assert_true(q3_best_value(&e, &c.train) == m + 1);
        q3_config_free(&c);
    }
}

/* Noise is learned, and step 4 of 14 is the best. */
static q3_process noisy(const char *dir, const char *const *more)
{
    static const char *const overrides[] = { "quantization.load_in_4bit=false",
                                             "data.train=tests/golden/training/data/noise.jsonl",
                                             "data.max_eval_samples=2",
                                             "data.max_pixels=2048",
                                             "train.max_steps=14",
                                             "train.per_device_train_batch_size=1",
                                             "train.shuffle=true",
                                             "train.learning_rate=0.05",
                                             "train.warmup_steps=0",
                                             "train.eval_strategy=steps",
                                             "train.eval_steps=2",
                                             "train.save_strategy=steps",
                                             "train.save_steps=2",
                                             "train.load_best_model_at_end=true",
                                             "train.early_stopping_patience=2",
                                             "train.early_stopping_threshold=0.01",
                                             "eval.pre=false",
                                             "eval.max_new_tokens=3",
                                             "--output-dir",
                                             NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    for (; *more; more++)
        q3_process_add(&p, *more);
    return p;
}

static void run(const char *dir, const char *const *more, const char *says)
{
    q3_process p = noisy(dir, more);
    q3_run_expect(&p, 0);
    if (!strstr(p.err, says))
        fail_msg("stderr lacks \"%s\":\n%s", says, p.err);
    q3_process_free(&p);
}

static void assert_holds(const char *dir, const char *name, const char *part)
{
    size_t n;
    char *text = q3_run_read(dir, name, &n);
    if (!strstr(text, part))
        fail_msg("%s lacks \"%s\":\n%s", name, part, text);
    q3_free(text);
}

#define SAYS                                                                                                 \
    "stopping    at step 8 of 14: eval_loss has not improved by more than 0.01 in 2 evaluations "            \
    "(train.early_stopping_patience)\nbest weights are those of step 4"

static const char *stopped_run(void)
{
    static const char *dir;
    if (!dir) {
        dir = q3_run_path("stopped");
        run(dir, (const char *[]){ NULL }, SAYS);
    }
    return dir;
}

static void a_run_that_improves_no_more_ends_finished(void **state)
{
    (void)state;
    const char *dir = stopped_run();
    assert_int_equal(q3_checkpoint_newest(dir), 8);
    assert_holds(dir, "training_meta.json", "\"steps\": 8,");
    assert_holds(dir, "training_meta.json", "\"stopped_early\": true,");
    assert_holds(dir, "training_meta.json", "\"best_step\": 4,");
    assert_holds(dir, "checkpoint-8/trainer_state.json",
                 "\"EarlyStoppingCallback\": {\n      \"args\": {\n        \"early_stopping_patience\": 2,\n"
                 "        \"early_stopping_threshold\": 0.01\n      },\n      \"attributes\": {\n"
                 "        \"early_stopping_patience_counter\": 2\n");
    assert_holds(dir, "checkpoint-8/trainer_state.json", "\"should_training_stop\": true");
    q3_run_assert_same_file(dir, q3_run_file(dir, "checkpoint-4"), ADAPTER);
    run(dir, (const char *[]){ "--resume", NULL }, "is finished; nothing to resume");
}

/* Stopped behind `step`, as a kill leaves it, and resumed: it ends as the run in one piece. */
static void goes_on_from(const char *name, int64_t step)
{
    const char *dir = q3_run_path(name);
    q3_process p = noisy(dir, (const char *[]){ "train.save_total_limit=0", NULL });
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    for (int64_t s; (s = q3_checkpoint_newest(dir)) > step;) {
        char *path = q3_checkpoint_path(dir, s);
        assert_int_equal(q3_dir_remove(path), Q3_OK);
        q3_free(path);
    }
    run(dir, (const char *[]){ "--resume", NULL }, SAYS);
    q3_run_assert_same_file(stopped_run(), dir, ADAPTER);
    q3_run_assert_same_state(stopped_run(), dir, 8);
    q3_run_assert_same_metrics(stopped_run(), dir);
}

static void a_resumed_run_ends_at_the_same_step(void **state)
{
    (void)state;
    goes_on_from("counted", 6); // one evaluation was counted
    goes_on_from("ended", 8);   // training has ended, its end is left to do
}

/* Nothing is answered rightly in this run, so the first step stays the best. */
static void the_best_step_may_be_that_of_the_answers(void **state)
{
    (void)state;
    const char *dir = q3_run_path("accuracy");
    run(dir, (const char *[]){ "eval.during=true", "train.metric_for_best_model=gen_eval/accuracy", NULL },
        "stopping    at step 6 of 14: gen_eval/accuracy has not improved by more than 0.01 in 2 evaluations");
    assert_holds(dir, "training_meta.json", "\"metric_for_best_model\": \"gen_eval/accuracy\",");
    assert_holds(dir, "training_meta.json",
                 "\"best_metric\": 0.0,\n  \"best_eval_loss\": null,\n  \"best_step\": 2,");
    q3_run_assert_same_file(dir, q3_run_file(dir, "checkpoint-2"), ADAPTER);
    q3_process p = noisy(dir, (const char *[]){ "--resume", "eval.during=true", "eval.max_samples=1",
                                                "train.metric_for_best_model=gen_eval/accuracy", NULL });
    q3_run_expect(&p, 2);
    assert_non_null(strstr(p.err, "eval.max_samples (null there, 1 here)"));
    q3_process_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_losses_the_lowest_is_the_best),
        cmocka_unit_test(of_answers_the_highest_is_the_best),
        cmocka_unit_test(a_metric_is_taken_by_its_name),
        cmocka_unit_test(a_run_that_improves_no_more_ends_finished),
        cmocka_unit_test(a_resumed_run_ends_at_the_same_step),
        cmocka_unit_test(the_best_step_may_be_that_of_the_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
