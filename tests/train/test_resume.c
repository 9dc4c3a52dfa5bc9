/* A run that was interrupted, however and as often as it may be, ends with the same bytes as one that was not.
 * Q3_SLOW=1 kills more often and in more variants. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/log.h"
#include "core/rng.h"
#include "tests/support/run.h"
#include "train/checkpoint.h"

#define ADAPTER "adapter_model.safetensors"
#define MODEL "model/model.safetensors"

enum { SEED = 20240229, STEPS = 14, MOST = 24 };

/* Milliseconds of training; the last window of an epoch is short, and the best step is not the last one, for
 * noise is what is learned. */
#define SMALL                                                                                                \
    "quantization.load_in_4bit=false", "lora.lora_dropout=0.1",                                              \
        "data.train=tests/golden/training/data/noise.jsonl", "data.max_eval_samples=2",                      \
        "data.max_pixels=2048", "train.max_steps=14", "train.per_device_train_batch_size=1",                 \
        "train.shuffle=true", "train.learning_rate=0.05", "train.warmup_steps=0", "train.logging_steps=3",   \
        "train.eval_strategy=steps", "train.eval_steps=2", "train.save_strategy=steps",                      \
        "train.save_steps=2", "train.load_best_model_at_end=true", "eval.max_new_tokens=3",                  \
        "eval.max_samples=2"

/* The small run with further arguments. */
static q3_process small(const char *dir, const char *const *more)
{
    static const char *const overrides[] = { SMALL, "--output-dir", NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    for (; *more; more++)
        q3_process_add(&p, *more);
    return p;
}

static void run(const char *dir, const char *const *more, int want)
{
    q3_process p = small(dir, more);
    q3_run_expect(&p, want);
    q3_process_free(&p);
}

/* Exit code `want`, and a last line of stderr that holds `part`. */
static void refused(const char *dir, const char *const *more, int want, const char *part)
{
    q3_process p = small(dir, more);
    q3_run_expect(&p, want);
    if (!strstr(p.err, part))
        fail_msg("stderr lacks \"%s\":\n%s", part, p.err);
    q3_process_free(&p);
}

static void pause_for(double seconds)
{
    const struct timespec t = { (time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds)) };
    nanosleep(&t, NULL);
}

static double uniform(uint64_t index)
{
    const q3_random r = { .seed = SEED, .purpose = Q3_RANDOM_TEST };
    return q3_random_uniform(&r, index);
}

/* Starts, kills at a random time below *most seconds, resumes, until it is finished; returns the number of kills. A run
 * that was faster than its killer (the machine was busy when *most was measured) corrects *most. */
static int kill_until_finished(const char *dir, const char *const *more, double *most, uint64_t *draws)
{
    for (int kills = 0;;) {
        q3_process p = small(dir, more);
        q3_process_add(&p, "--resume");
        q3_process_add(&p, "auto");
        q3_process_start(&p);
        double wait = kills < MOST ? *most * uniform((*draws)++) : 600, begin = q3_seconds();
        while (q3_seconds() < begin + wait && !q3_process_ended(&p))
            pause_for(0.002);
        double took = q3_seconds() - begin;
        kill(p.pid, SIGKILL);
        int code = q3_process_wait(&p);
        if (code != 0 && code != 128 + SIGKILL)
            fail_msg("exit code %d after %d kills:\n%s", code, kills, p.err);
        q3_process_free(&p);
        if (code == 0 && kills == 0)
            *most = 0.8 * took;
        if (code == 0)
            return kills;
        kills++;
    }
}

/* Compares `kills` or more kills, over as many runs as that takes, with a run in one piece. */
static void killing(const char *name, const char *const *more, const char *model, int kills)
{
    char dir_name[64];
    snprintf(dir_name, sizeof dir_name, "%s-straight", name);
    const char *straight = q3_run_path(dir_name);
    double start = q3_seconds();
    run(straight, more, 0);
    double most = 0.9 * (q3_seconds() - start);
    snprintf(dir_name, sizeof dir_name, "%s-killed", name);
    const char *dir = q3_run_path(dir_name);
    uint64_t draws = 0;
    int done = 0;
    for (int round = 0; done < kills; round++) {
        assert_int_equal(q3_dir_remove(dir), Q3_OK);
        done += kill_until_finished(dir, more, &most, &draws);
        q3_run_assert_same(straight, dir, model);
        assert_true(round < 10 * kills);
    }
    print_message("%s: the same after %d kills within %.2f s, times from seed %d\n", name, done, most, SEED);
}

static int often(int kills)
{
    return getenv("Q3_SLOW") ? 10 * kills : kills;
}

static void killed_and_resumed_runs_end_the_same(void **state)
{
    (void)state;
    killing("adamw", (const char *[]){ NULL }, ADAPTER, often(20));
}

static void so_they_do_with_8_bit_moments(void **state)
{
    (void)state;
    killing("adamw-8bit",
            (const char *[]){ "train.optim=adamw_8bit", "quantization.load_in_4bit=true", NULL }, ADAPTER,
            often(4));
}

static void so_they_do_on_an_int8_base(void **state)
{
    (void)state;
    killing("int8", (const char *[]){ "quantization.load_in_8bit=true", NULL }, ADAPTER, often(2));
}

static void so_they_do_with_answers_in_between(void **state)
{
    (void)state;
    killing("answers", (const char *[]){ "eval.during=true", NULL }, ADAPTER, often(4));
}

static void so_they_do_when_every_weight_is_tuned(void **state)
{
    (void)state;
    killing("full", (const char *[]){ "train.tune=full", "train.learning_rate=1e-3", NULL }, MODEL, often(3));
}

/* The run in one piece that the further tests compare with. */
static const char *straight_run(void)
{
    static const char *dir;
    if (!dir) {
        dir = q3_run_path("straight");
        run(dir, (const char *[]){ NULL }, 0);
    }
    return dir;
}

/* A run that was stopped by a signal once step 2 was saved. */
static void stop(const char *dir, int signal_number)
{
    for (int attempt = 0;; attempt++) {
        q3_process p = small(dir, (const char *[]){ "--overwrite", NULL });
        q3_process_start(&p);
        while (q3_checkpoint_newest(dir) < 2 && !q3_process_ended(&p))
            pause_for(0.0005);
        kill(p.pid, signal_number);
        int code = q3_process_wait(&p);
        bool said = strstr(p.err, "everything is saved; continue with --resume") != NULL;
        q3_process_free(&p);
        if (code == 0 && attempt < 50)
            continue; // it was faster than this test on a busy machine
        assert_int_equal(code, 128 + signal_number);
        assert_true(said);
        return;
    }
}

static void a_signal_saves_the_step_and_names_itself(void **state)
{
    (void)state;
    static const int signals[] = { SIGINT, SIGTERM };
    for (int i = 0; i < 2; i++) {
        const char *dir = q3_run_path("signal");
        stop(dir, signals[i]);
        assert_false(q3_file_exists(q3_run_file(dir, "training_meta.json")));
        run(dir, (const char *[]){ "--resume", NULL }, 0);
        q3_run_assert_same(straight_run(), dir, ADAPTER);
    }
}

static void a_signal_before_the_first_step_loses_nothing(void **state)
{
    (void)state;
    const char *dir = q3_run_path("early");
    q3_process p = small(dir, (const char *[]){ "eval.max_new_tokens=3000", NULL });
    q3_process_start(&p);
    while (!q3_file_exists(q3_run_file(dir, "config.json")) && !q3_process_ended(&p))
        pause_for(0.0005);
    kill(p.pid, SIGINT);
    if (q3_process_wait(&p) != 130)
        fail_msg("exit code %d:\n%s", p.code, p.err);
    q3_process_free(&p);
    run(dir, (const char *[]){ "--resume", NULL }, 0);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
}

/* Without checkpoints of its own the run saves one when it is stopped while it answers at the end. */
static void a_signal_after_training_saves_it(void **state)
{
    (void)state;
    static const char *const late[] = { "train.save_strategy=no", "train.eval_strategy=no",
                                        "train.load_best_model_at_end=false", "eval.pre=false", NULL };
    const char *dir = q3_run_path("late"), *whole = q3_run_path("late-whole");
    q3_process p = small(dir, late);
    q3_process_add(&p, "eval.max_new_tokens=3000");
    q3_process_start(&p);
    while (!q3_file_exists(q3_run_file(dir, "tokenizer_config.json")) && !q3_process_ended(&p))
        pause_for(0.0005);
    kill(p.pid, SIGTERM);
    if (q3_process_wait(&p) != 143)
        fail_msg("exit code %d:\n%s", p.code, p.err);
    assert_non_null(strstr(p.err, "stopped during the post evaluation, everything is saved"));
    q3_process_free(&p);
    assert_int_equal(q3_checkpoint_newest(dir), STEPS);
    run(dir, (const char *[]){ "--resume", late[0], late[1], late[2], late[3], NULL }, 0);
    run(whole, late, 0);
    q3_run_assert_same_file(whole, dir, ADAPTER);
    q3_run_assert_same_file(whole, dir, "eval/post_predictions.jsonl");
    q3_run_assert_same_metrics(whole, dir);
}

static void nothing_to_resume_is_a_beginning(void **state)
{
    (void)state;
    const char *dir = q3_run_path("beginning");
    run(dir, (const char *[]){ "--resume", "auto", NULL }, 0);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
    assert_int_equal(q3_dir_remove(dir), Q3_OK);
    assert_int_equal(q3_dir_create(dir), Q3_OK); // there, and empty
    q3_run_write(dir, "metrics.jsonl", "{\"step\": 1, \"epoch\": 0.1, \"loss\": 1}\n{\"ste");
    run(dir, (const char *[]){ "--resume", NULL }, 0);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
}

/* Takes the end away from a finished run: what it looks like after a kill behind `step`. */
static const char *cut_copy(const char *name, int64_t step)
{
    char command[1024];
    const char *dir = q3_run_path(name);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", straight_run(), dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    for (int64_t s; (s = q3_checkpoint_newest(dir)) > step;) {
        char *path = q3_checkpoint_path(dir, s);
        assert_int_equal(q3_dir_remove(path), Q3_OK);
        q3_free(path);
    }
    return dir;
}

static int64_t best_step(void)
{
    q3_state s;
    char *config, name[64];
    snprintf(name, sizeof name, "checkpoint-%d/trainer_state.json", STEPS);
    assert_int_equal(q3_state_load(&s, &config, q3_run_file(straight_run(), name)), Q3_OK);
    int64_t step = s.best_step;
    q3_state_free(&s);
    q3_free(config);
    return step;
}

static void rotation_keeps_the_newest_and_the_best(void **state)
{
    (void)state;
    int64_t best = best_step();
    assert_true(best > 0 && best < STEPS); // or this run shows nothing
    for (int64_t step = 0; step <= STEPS; step++) {
        char *path = q3_checkpoint_path(straight_run(), step);
        assert_int_equal(q3_dir_exists(path), step == best || step == STEPS);
        q3_free(path);
    }
    char best_weights[96];
    snprintf(best_weights, sizeof best_weights, "checkpoint-%d", (int)best);
    q3_run_assert_same_file(straight_run(), q3_run_file(straight_run(), best_weights), ADAPTER);
}

static void half_a_checkpoint_is_not_seen(void **state)
{
    (void)state;
    const char *dir = cut_copy("half", best_step());
    assert_int_equal(q3_dir_create(q3_run_file(dir, "checkpoint-12.tmp")), Q3_OK);
    q3_run_write(q3_run_file(dir, "checkpoint-12.tmp"), "trainer_state.json", "{}");
    assert_int_equal(q3_dir_create(q3_run_file(dir, "checkpoint-13")), Q3_OK); // without its last file
    refused(dir, (const char *[]){ "--resume", q3_run_file(dir, "checkpoint-12.tmp"), NULL }, 2,
            "was not written to its end");
    run(dir, (const char *[]){ "--resume", NULL }, 0);
    assert_false(q3_dir_exists(q3_run_file(dir, "checkpoint-12.tmp")));
    q3_run_assert_same(straight_run(), dir, ADAPTER);
}

static void a_checkpoint_is_named_in_several_ways(void **state)
{
    (void)state;
    char checkpoint[64];
    snprintf(checkpoint, sizeof checkpoint, "checkpoint-%d/", (int)best_step());
    const char *dir = cut_copy("named", best_step());
    q3_process p =
        q3_run_start(Q3_PROGRAM, (const char *[]){ SMALL, "--resume", q3_run_file(dir, checkpoint), NULL });
    q3_run_expect(&p, 0); // by its own path: the run goes on around it
    q3_process_free(&p);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
    dir = cut_copy("named", best_step());
    p = q3_run_start(Q3_PROGRAM, (const char *[]){ SMALL, "--resume", dir, NULL });
    q3_run_expect(&p, 0); // by the run's directory
    q3_process_free(&p);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
    refused(dir, (const char *[]){ "--resume", "tests/golden", NULL }, 2,
            "neither a checkpoint nor a directory with checkpoints");
}

static void a_run_may_go_on_elsewhere(void **state)
{
    (void)state;
    const char *from = cut_copy("from", best_step()), *dir = q3_run_path("elsewhere");
    run(dir, (const char *[]){ "--resume", from, NULL }, 0);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
    refused(dir, (const char *[]){ "--resume", from, NULL }, 2, "holds another run than");
    from = cut_copy("from", STEPS); // only the end is left to do: the best checkpoint must have come along
    dir = q3_run_path("elsewhere");
    run(dir, (const char *[]){ "--resume", from, NULL }, 0);
    q3_run_assert_same_file(straight_run(), dir, ADAPTER);
    q3_run_assert_same_metrics(straight_run(), dir);
}

static void a_finished_run_has_nothing_to_resume(void **state)
{
    (void)state;
    refused(straight_run(), (const char *[]){ "--resume", NULL }, 0, "is finished; nothing to resume");
    refused(straight_run(), (const char *[]){ "--resume", "train.max_steps=20", NULL }, 2,
            "train.max_steps (14 there, 20 here)");
}

static void another_config_is_refused_by_its_keys(void **state)
{
    (void)state;
    const char *dir = cut_copy("config", STEPS);
    refused(dir, (const char *[]){ "--resume", "lora.lora_alpha=32", "train.seed=7", NULL }, 2,
            "lora.lora_alpha (16 there, 32 here), train.seed (42 there, 7 here)");
    refused(dir, (const char *[]){ "--resume", "data.max_train_samples=8", NULL }, 2,
            "data.max_train_samples (null there, 8 here)");
    run(dir, (const char *[]){ "--resume", "train.gradient_checkpointing=full", "about=harmless", NULL }, 0);
    q3_run_assert_same(straight_run(), dir, ADAPTER);
}

static void other_data_under_the_same_name_are_refused(void **state)
{
    (void)state;
    char command[4096], setting[4096];
    const char *data = q3_run_path("data"), *dir = q3_run_path("other-data");
    snprintf(command, sizeof command, "cp -r tests/golden/training/data '%s'", data);
    assert_int_equal(system(command), 0);
    snprintf(setting, sizeof setting, "data.train=%s/train.jsonl", data);
    run(dir, (const char *[]){ setting, NULL }, 0);
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    snprintf(command, sizeof command, "head -5 tests/golden/training/data/train.jsonl > '%s/train.jsonl'",
             data);
    assert_int_equal(system(command), 0);
    refused(dir, (const char *[]){ setting, "--resume", NULL }, 2,
            "was made with 22 training samples, and data.train has 5 now");
}

static void a_damaged_checkpoint_is_refused(void **state)
{
    (void)state;
    const char *dir = cut_copy("damaged", STEPS);
    assert_int_equal(truncate(q3_run_file(dir, "checkpoint-14/optimizer.safetensors"), 5000), 0);
    refused(dir, (const char *[]){ "--resume", NULL }, 4, "checkpoint-14/optimizer.safetensors");
    q3_run_write(dir, "checkpoint-14/trainer_state.json", "{\"global_step\": 14}");
    refused(dir, (const char *[]){ "--resume", NULL }, 4, "another program wrote this checkpoint");
}

static void a_named_directory_is_not_overwritten_unasked(void **state)
{
    (void)state;
    const char *dir = cut_copy("overwrite", STEPS);
    refused(dir, (const char *[]){ NULL }, 2,
            "holds another run; give --resume to continue it, --overwrite to replace it");
    refused(dir, (const char *[]){ "--overwrite", "--resume", NULL }, 2, "exclude each other");
    q3_run_write(dir, "left-over", "");
    run(dir, (const char *[]){ "--overwrite", NULL }, 0);
    assert_false(q3_file_exists(q3_run_file(dir, "left-over")));
    q3_run_assert_same(straight_run(), dir, ADAPTER);
    const char *model = q3_run_path("not-a-run");
    assert_int_equal(q3_dir_create(model), Q3_OK);
    q3_run_write(model, "config.json", "{}"); // as every model has it
    refused(model, (const char *[]){ "--overwrite", NULL }, 2, "does not look like a run's directory");
    assert_true(q3_file_exists(q3_run_file(model, "config.json")));
}

/* The directory of the config gives way to the next free name, and resuming finds the last one used. */
static void a_taken_name_gets_a_number(void **state)
{
    (void)state;
    char setting[4200], second[4200];
    const char *dir = cut_copy("number", STEPS);
    snprintf(setting, sizeof setting, "train.output_dir=%s", dir);
    snprintf(second, sizeof second, "%s", q3_run_path("number-2"));
    const char *const more[] = { SMALL, setting, "--resume", NULL };
    const char *const fresh[] = { SMALL, setting, NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, fresh);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    q3_run_assert_same(straight_run(), second, ADAPTER);
    assert_false(q3_file_exists(q3_run_file(dir, "training_meta.json"))); // the first one was left alone
    assert_int_equal(unlink(q3_run_file(second, "training_meta.json")), 0);
    p = q3_run_start(Q3_PROGRAM, more);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_true(q3_file_exists(q3_run_file(second, "training_meta.json")));
    assert_false(q3_file_exists(q3_run_file(dir, "training_meta.json")));
}

static void threads_and_checkpointing_change_no_bit(void **state)
{
    (void)state;
    static const char *const variants[][4] = { { "--threads", "2", NULL },
                                               { "--threads", "3", NULL },
                                               { "train.gradient_checkpointing=none", NULL },
                                               { "train.gradient_checkpointing=half", NULL },
                                               { "train.gradient_checkpointing=full", "--threads", "2",
                                                 NULL } };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const char *dir = q3_run_path("variant");
        run(dir, variants[i], 0);
        q3_run_assert_same(straight_run(), dir, ADAPTER);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotation_keeps_the_newest_and_the_best),
        cmocka_unit_test(killed_and_resumed_runs_end_the_same),
        cmocka_unit_test(so_they_do_with_8_bit_moments),
        cmocka_unit_test(so_they_do_on_an_int8_base),
        cmocka_unit_test(so_they_do_with_answers_in_between),
        cmocka_unit_test(so_they_do_when_every_weight_is_tuned),
        cmocka_unit_test(a_signal_saves_the_step_and_names_itself),
        cmocka_unit_test(a_signal_before_the_first_step_loses_nothing),
        cmocka_unit_test(nothing_to_resume_is_a_beginning),
        cmocka_unit_test(half_a_checkpoint_is_not_seen),
        cmocka_unit_test(a_checkpoint_is_named_in_several_ways),
        cmocka_unit_test(a_run_may_go_on_elsewhere),
        cmocka_unit_test(a_finished_run_has_nothing_to_resume),
        cmocka_unit_test(another_config_is_refused_by_its_keys),
        cmocka_unit_test(other_data_under_the_same_name_are_refused),
        cmocka_unit_test(a_signal_after_training_saves_it),
        cmocka_unit_test(a_damaged_checkpoint_is_refused),
        cmocka_unit_test(a_named_directory_is_not_overwritten_unasked),
        cmocka_unit_test(a_taken_name_gets_a_number),
        cmocka_unit_test(threads_and_checkpointing_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
