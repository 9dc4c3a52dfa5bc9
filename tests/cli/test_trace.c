#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "eval/trace.h"
#include "kernels/pool.h"
#include "tests/support/golden.h"
#include "tests/support/ask.h"

/* tests/eval/test_trace.c compares the numbers with the reference; here the options must arrive. */
#define MODEL "tests/golden/model-a/model"
#define ADAPTER "tests/golden/model-a/lora-fp32-final"

static char dir[400], batch[440], out[440], expected[440], line[1600];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    q3_arena mem;
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(batch, sizeof batch, "%s/batch.safetensors", dir);
    snprintf(out, sizeof out, "%s/out.safetensors", dir);
    snprintf(expected, sizeof expected, "%s/expected.safetensors", dir);
    if (q3_dir_remove(dir) || q3_dir_create(dir) || q3_arena_create(&mem, "test arena", (size_t)1 << 26))
        return 1;
    q3_safetensors *file = q3_golden_open("tests/golden/model-a/forward-right-padded.safetensors");
    const q3_padded p = q3_golden_batch(&mem, file, "in.");
    q3_golden_write(batch, &p);
    q3_safetensors_close(file);
    q3_arena_destroy(&mem);
    return 0;
}

static int release(void **state)
{
    (void)state;
    q3_pool_stop();
    return 0;
}

static const char *command(const char *options)
{
    snprintf(line, sizeof line, "trace --model " MODEL " --batch %s --out %s %s", batch, out, options);
    return line;
}

static void run(const char *options)
{
    q3_process p = q3_ask(Q3_PROGRAM, command(options), NULL, 0);
    if (p.code != 0 || *p.out)
        fail_msg("%s: exit %d: %s", line, p.code, p.err);
    q3_process_free(&p);
}

static bool same_file(const char *a, const char *b)
{
    q3_map x, y;
    assert_int_equal(q3_map_open(&x, a), Q3_OK);
    assert_int_equal(q3_map_open(&y, b), Q3_OK);
    bool same = x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    q3_map_close(&x);
    q3_map_close(&y);
    return same;
}

/* The program with `options` writes what q3_trace makes of `o`. */
static void assert_traced(const char *options, q3_trace_options o)
{
    o.model = MODEL;
    o.batch = batch;
    o.out = expected;
    if (q3_trace(&o) != Q3_OK)
        fail_msg("%s", q3_error());
    run(options);
    if (!same_file(out, expected))
        fail_msg("%s: not what q3_trace writes", options);
}

static void each_option_reaches_the_trace(void **state)
{
    (void)state;
    assert_traced("", (q3_trace_options){ 0 });
    assert_traced("--dtype float32 --load-in-4bit", (q3_trace_options){ .load_in_4bit = true });
    assert_traced("--load-in-8bit", (q3_trace_options){ .load_in_8bit = true });
    assert_traced("--adapter " ADAPTER, (q3_trace_options){ .adapter = ADAPTER });
    assert_traced("--adapter " ADAPTER " --backward lora",
                  (q3_trace_options){ .adapter = ADAPTER, .backward = Q3_TRACE_LORA });
    assert_traced("--backward full", (q3_trace_options){ .backward = Q3_TRACE_FULL });
    assert_traced("--backward full --gradient-checkpointing half",
                  (q3_trace_options){ .backward = Q3_TRACE_FULL, .checkpointing = Q3_CHECKPOINT_HALF });
    assert_traced("--backward=full --gradient_checkpointing=full",
                  (q3_trace_options){ .backward = Q3_TRACE_FULL, .checkpointing = Q3_CHECKPOINT_FULL });
}

static void both_loss_words_and_any_threads_give_the_same_bits(void **state)
{
    (void)state;
    char first[440];
    run("--backward full --loss micro_mean --threads 1");
    snprintf(first, sizeof first, "%s/first.safetensors", dir);
    assert_int_equal(rename(out, first), 0);
    run("--backward full --loss token_mean --threads 3");
    assert_true(same_file(out, first));
}

static void mistakes_are_usage_errors(void **state)
{
    (void)state;
    remove(out);
    q3_ask_refused(Q3_PROGRAM, "trace --model " MODEL " --out x", 2,
                   "trace needs --batch FILE (see qwen3-sft trace --help)");
    q3_ask_refused(Q3_PROGRAM, command("--dtype bfloat16"), 2,
                   "--dtype is bfloat16, and the CPU computes in float32");
    q3_ask_refused(Q3_PROGRAM, command("--backward qlora"), 2,
                   "--backward is \"qlora\"; it must be lora or full");
    q3_ask_refused(Q3_PROGRAM, command("--loss mean"), 2,
                   "--loss is \"mean\"; it must be micro_mean or token_mean");
    q3_ask_refused(Q3_PROGRAM, command("--gradient-checkpointing full"), 2,
                   "--gradient-checkpointing full needs --backward lora or full");
    q3_ask_refused_about(Q3_PROGRAM, command("--backward lora"), 2, "--backward lora needs --adapter");
    q3_ask_refused_about(Q3_PROGRAM, command("--backward full --adapter " ADAPTER), 2, "--adapter");
    assert_false(q3_file_exists(out));
}

static void bad_batches_are_data_errors(void **state)
{
    (void)state;
    char bad[440];
    snprintf(bad, sizeof bad, "%s/bad.safetensors", dir);
    int64_t ids[] = { 1, 320 };
    q3_st_tensor t = { .name = "input_ids", .dtype = Q3_I64, .ndim = 2, .shape = { 1, 2 }, .data = ids };
    snprintf(line, sizeof line, "trace --model " MODEL " --batch %s --out %s", bad, out);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, bad); // absent
    assert_int_equal(q3_safetensors_write(bad, &t, 1), Q3_OK);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, "row 0, token 1: id 320");
    ids[1] = 300; // a picture's place without a picture
    assert_int_equal(q3_safetensors_write(bad, &t, 1), Q3_OK);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, bad);
    t.dtype = Q3_F32;
    assert_int_equal(q3_safetensors_write(bad, &t, 1), Q3_OK);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, "I64");
    t.name = "ids";
    assert_int_equal(q3_safetensors_write(bad, &t, 1), Q3_OK);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, "input_ids");
    assert_int_equal(q3_file_write(bad, "not a batch", 11), Q3_OK);
    q3_ask_refused_about(Q3_PROGRAM, line, 3, bad);
    assert_false(q3_file_exists(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_option_reaches_the_trace),
        cmocka_unit_test(both_loss_words_and_any_threads_give_the_same_bits),
        cmocka_unit_test(mistakes_are_usage_errors),
        cmocka_unit_test(bad_batches_are_data_errors),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
