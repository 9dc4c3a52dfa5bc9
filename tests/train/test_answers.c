/* Answers that a run gives at its evaluations (eval.during): what they leave, and what they leave alone. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"
#include "train/checkpoint.h"

#define ADAPTER "adapter_model.safetensors"

enum { STEPS = 6 };

/* With dropout, which would show a random number that is drawn from elsewhere. */
#define SMALL                                                                                                \
    "quantization.load_in_4bit=false", "lora.lora_dropout=0.1", "data.max_eval_samples=3",                   \
        "data.max_pixels=2048", "train.max_steps=6", "train.shuffle=true", "train.warmup_steps=0",           \
        "train.logging_steps=3", "train.eval_strategy=steps", "train.eval_steps=2",                          \
        "train.save_strategy=steps", "train.save_steps=2", "train.load_best_model_at_end=true",              \
        "eval.pre=false", "eval.batch_size=1"

static q3_process small(const char *dir, const char *const *more)
{
    static const char *const overrides[] = { SMALL, "--output-dir", NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    for (; *more; more++)
        q3_process_add(&p, *more);
    return p;
}

static void run(const char *dir, const char *const *more)
{
    q3_process p = small(dir, more);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
}

/* The run in one piece. */
static const char *straight_run(void)
{
    static const char *dir;
    if (!dir) {
        dir = q3_run_path("answers");
        run(dir, (const char *[]){ "eval.during=true", "eval.max_new_tokens=3", NULL });
    }
    return dir;
}

static void training_does_not_notice_them(void **state)
{
    (void)state;
    const char *dir = q3_run_path("silent"), *straight = straight_run();
    run(dir, (const char *[]){ "eval.max_new_tokens=3", NULL });
    q3_run_assert_same_file(straight, dir, ADAPTER);
    q3_run_assert_same_file(straight, dir, "eval/post_predictions.jsonl");
    q3_run_assert_same_file(q3_run_file(straight, "checkpoint-6"), q3_run_file(dir, "checkpoint-6"), ADAPTER);
    q3_run_assert_same_file(q3_run_file(straight, "checkpoint-6"), q3_run_file(dir, "checkpoint-6"),
                            "optimizer.safetensors");
    assert_false(q3_file_exists(q3_run_file(dir, "eval/step-2.json")));
}

/* Lines of the file with this in them. */
static int lines_with(const char *dir, const char *name, const char *part)
{
    size_t n;
    int lines = 0;
    char *text = q3_run_read(dir, name, &n);
    for (const char *at = text; (at = strstr(at, part)) != NULL; at++)
        lines++;
    q3_free(text);
    return lines;
}

static void every_evaluation_leaves_its_answers(void **state)
{
    (void)state;
    const char *dir = straight_run();
    for (int step = 2; step <= STEPS; step += 2) {
        char name[64], line[64];
        snprintf(name, sizeof name, "eval/step-%d.json", step);
        assert_true(q3_file_exists(q3_run_file(dir, name)));
        snprintf(name, sizeof name, "eval/step-%d_predictions.jsonl", step);
        assert_int_equal(lines_with(dir, name, "\"output\": "), 3);
        snprintf(line, sizeof line, "{\"step\": %d, ", step);
        assert_true(lines_with(dir, "metrics.jsonl", line) >= 2); // the loss, the answers
    }
    assert_int_equal(lines_with(dir, "metrics.jsonl", "\"gen_eval/accuracy\": "), STEPS / 2);
    assert_int_equal(lines_with(dir, "metrics.jsonl", "\"gen_eval/macro_f1\": "), STEPS / 2);
    assert_int_equal(lines_with(dir, "report.html", "Answers in the course of training"), 1);
}

static void they_are_those_of_the_checkpoint(void **state)
{
    (void)state;
    const char *out = q3_run_path("judged");
    q3_process p = { 0 };
    const char *const args[] = { Q3_PROGRAM,  "eval",
                                 "--config",  q3_run_file(straight_run(), "config.json"),
                                 "--threads", "1",
                                 "--adapter", q3_run_file(straight_run(), "checkpoint-6"),
                                 "--out",     out };
    for (size_t i = 0; i < sizeof args / sizeof *args; i++)
        q3_process_add(&p, args[i]);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    size_t n, m;
    char *a = q3_run_read(straight_run(), "eval/step-6_predictions.jsonl", &n),
         *b = q3_run_read(out, "eval/eval_predictions.jsonl", &m);
    assert_string_equal(a, b);
    q3_free(a);
    q3_free(b);
}

static bool evaluated(const char *dir)
{
    return q3_file_exists(q3_run_file(dir, "metrics.jsonl")) && lines_with(dir, "metrics.jsonl", "eval_loss");
}

/* The loss of step 2 is known when the signal comes, and its answers take long. */
static void a_signal_within_them_loses_nothing(void **state)
{
    (void)state;
    const char *dir = q3_run_path("stopped");
    q3_process p = small(dir, (const char *[]){ "eval.during=true", "eval.max_new_tokens=1000", NULL });
    q3_process_start(&p);
    while (!evaluated(dir) && !q3_process_ended(&p))
        nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
    kill(p.pid, SIGINT);
    if (q3_process_wait(&p) != 130)
        fail_msg("exit code %d:\n%s", p.code, p.err);
    if (!strstr(p.err, "stopped during the step-2 evaluation, everything is saved; continue with --resume"))
        fail_msg("%s", p.err);
    q3_process_free(&p);
    assert_int_equal(q3_checkpoint_newest(dir), 2);
    assert_int_equal(lines_with(dir, "metrics.jsonl", "gen_eval/accuracy"), 0);
    run(dir, (const char *[]){ "--resume", "eval.during=true", "eval.max_new_tokens=3", NULL });
    q3_run_assert_same_file(straight_run(), dir, ADAPTER);
    q3_run_assert_same_file(straight_run(), dir, "eval/step-2_predictions.jsonl");
    q3_run_assert_same_state(straight_run(), dir, STEPS);
    q3_run_assert_same_metrics(straight_run(), dir);
}

/* Evaluations between two saves: the best step is saved all the same. */
static void the_best_step_is_there_at_the_end(void **state)
{
    (void)state;
    q3_state s;
    char *config;
    const char *dir = q3_run_path("sparse");
    run(dir, (const char *[]){ "data.train=tests/golden/training/data/noise.jsonl", "lora.lora_dropout=0",
                               "data.max_eval_samples=2", "train.max_steps=14", "train.learning_rate=0.05",
                               "train.per_device_train_batch_size=1", "train.save_steps=6", "eval.post=false",
                               NULL });
    assert_int_equal(q3_state_load(&s, &config, q3_run_file(dir, "checkpoint-14/trainer_state.json")), Q3_OK);
    assert_true(s.best_step < 14 && s.best_step % 6 != 0); // or this run shows nothing
    char *best = q3_checkpoint_path(dir, s.best_step);
    q3_run_assert_same_file(dir, best, ADAPTER);
    q3_free(best);
    q3_free(config);
    q3_state_free(&s);
}

/* A penalty that no token survives twice: the answers change. */
static void the_repetition_penalty_may_be_set(void **state)
{
    (void)state;
    const char *dir = q3_run_path("penalty");
    size_t n;
    run(dir,
        (const char *[]){ "eval.during=true", "eval.max_new_tokens=3", "eval.repetition_penalty=50", NULL });
    q3_run_assert_same_file(straight_run(), dir, ADAPTER);
    char *a = q3_run_read(straight_run(), "eval/step-6_predictions.jsonl", &n),
         *b = q3_run_read(dir, "eval/step-6_predictions.jsonl", &n);
    assert_string_not_equal(a, b);
    q3_free(a);
    q3_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_does_not_notice_them),
        cmocka_unit_test(every_evaluation_leaves_its_answers),
        cmocka_unit_test(they_are_those_of_the_checkpoint),
        cmocka_unit_test(a_signal_within_them_loses_nothing),
        cmocka_unit_test(the_best_step_is_there_at_the_end),
        cmocka_unit_test(the_repetition_penalty_may_be_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
