/* train --profile, on the CPU or on the device that Q3_TEST_DEVICE names: a table at the end, and nothing else changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/run.h"

static q3_process run(const char *dir, const char *profile)
{
    q3_process p = q3_run_start(Q3_PROGRAM, (const char *const[]){ "train.max_steps=3", "eval.pre=false",
                                                                   "eval.post=false", "--output-dir", dir,
                                                                   profile, NULL });
    q3_run_expect(&p, 0);
    return p;
}

static void assert_tells(const q3_process *p, const char *part)
{
    if (!strstr(p->err, part))
        fail_msg("no \"%s\" in\n%s", part, p->err);
}

/* The line of an op: every number in it is one. */
static void assert_row(const q3_process *p, const char *op, const char *pass)
{
    char start[64];
    long long calls;
    double seconds, share;
    snprintf(start, sizeof start, "\n  %-14s %-8s", op, pass);
    assert_tells(p, start);
    const char *line = strstr(p->err, start) + strlen(start);
    assert_int_equal(sscanf(line, "%lld %lf %lf", &calls, &seconds, &share), 3);
    assert_true(calls > 0 && seconds >= 0 && share >= 0 && share <= 100);
}

static void a_table_shows_every_op(void **state)
{
    (void)state;
    const char *plain = q3_run_path("plain"), *measured = q3_run_path("measured");
    q3_process p = run(plain, NULL), q = run(measured, "--profile");
    assert_null(strstr(p.err, "ceilings"));
    assert_tells(&q, "profile     2 steps, "); // the first is not counted
    assert_tells(&q, getenv("Q3_TEST_DEVICE") ? "product of bf16 " : "product of f32 ");
    assert_row(&q, "lora_linear", "forward");
    assert_row(&q, "lora_linear", "backward");
    assert_row(&q, "attention", "forward");
    assert_row(&q, "cross_entropy", "backward");
    assert_row(&q, "update", "");
    assert_null(strstr(q.err, "nan"));
    assert_null(strstr(q.err, "inf "));
    q3_run_assert_same_file(plain, measured, "adapter_model.safetensors");
    q3_process_free(&p);
    q3_process_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_table_shows_every_op) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
