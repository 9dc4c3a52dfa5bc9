/* A training over several processes gives the bytes of a training by one. Skipped where there is no mpirun. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/run.h"

#define ADAPTER "adapter_model.safetensors"

/* Windows of 3 of 1 sample, over more epochs than one: the last window of each is short. */
#define WINDOWS                                                                                              \
    "train.max_steps=9", "train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=3",       \
        "train.shuffle=true", "train.logging_steps=2", "train.eval_strategy=steps", "train.eval_steps=3",    \
        "train.save_strategy=steps", "train.save_steps=3", "train.load_best_model_at_end=true",              \
        "eval.max_new_tokens=3", "eval.max_samples=2", "lora.lora_dropout=0.1"

static const char *const windows[] = { WINDOWS, "--output-dir", NULL };

static bool mpirun_is_there(void)
{
    return system("command -v mpirun >/dev/null 2>&1") == 0;
}

/* The process with `mpirun -n ranks` in front. */
static q3_process by_ranks(q3_process one, const char *ranks)
{
    q3_process p = { 0 };
    q3_process_add(&p, "/usr/bin/env");
    q3_process_add(&p, "mpirun");
    q3_process_add(&p, "-n");
    q3_process_add(&p, ranks);
    for (int i = 0; i < one.n; i++)
        q3_process_add(&p, one.argv[i]);
    return p;
}

static void train(const char *dir, const char *ranks, const char *more)
{
    q3_process one = q3_run_start(Q3_PROGRAM, windows);
    q3_process_add(&one, dir);
    if (more)
        q3_process_add(&one, more);
    q3_process p = ranks ? by_ranks(one, ranks) : one;
    q3_run_expect(&p, 0);
    q3_process_free(&p);
}

static void ranks_give_the_bytes_of_one(void **state)
{
    (void)state;
    if (!mpirun_is_there())
        skip();
    const char *one = q3_run_path("one"), *two = q3_run_path("two"), *four = q3_run_path("four");
    train(one, NULL, NULL);
    train(two, "2", NULL);
    train(four, "4", NULL); // the last has nothing to do
    q3_run_assert_same(one, two, ADAPTER);
    q3_run_assert_same(one, four, ADAPTER);
    q3_run_assert_same_metrics(one, two);
}

static void another_number_of_ranks_goes_on(void **state)
{
    (void)state;
    if (!mpirun_is_there())
        skip();
    const char *whole = q3_run_path("whole"), *part = q3_run_path("part");
    train(whole, NULL, NULL);
    train(part, "2", NULL);
    char command[1024]; // as if it had been stopped behind the first checkpoint
    snprintf(command, sizeof command, "cd %s && rm -rf checkpoint-6 checkpoint-9 training_meta.json " ADAPTER, part);
    assert_int_equal(system(command), 0);
    train(part, "3", "--resume");
    q3_run_assert_same(whole, part, ADAPTER);
}

static void a_mistake_ends_all_ranks_with_its_code(void **state)
{
    (void)state;
    if (!mpirun_is_there())
        skip();
    q3_process one = q3_run_start(Q3_PROGRAM, windows);
    q3_process_add(&one, q3_run_path("refused"));
    q3_process_add(&one, "data.train=nowhere.jsonl");
    q3_process p = by_ranks(one, "2");
    q3_run_expect(&p, 3);
    assert_non_null(strstr(p.err, "nowhere.jsonl: is not there"));
    q3_process_free(&p);
}

static void a_command_for_one_process_is_refused(void **state)
{
    (void)state;
    if (!mpirun_is_there())
        skip();
    q3_process one = { 0 };
    q3_process_add(&one, Q3_PROGRAM);
    q3_process_add(&one, "version");
    q3_process p = by_ranks(one, "2");
    q3_run_expect(&p, 2);
    assert_non_null(strstr(p.err, "mpirun has started 2 processes, and `version` is for one"));
    q3_process_free(&p);
}

int main(void)
{
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // Open MPI's own
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_give_the_bytes_of_one),
        cmocka_unit_test(another_number_of_ranks_goes_on),
        cmocka_unit_test(a_mistake_ends_all_ranks_with_its_code),
        cmocka_unit_test(a_command_for_one_process_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
