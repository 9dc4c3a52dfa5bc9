#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/status.h"
#include "eval/bench.h"

#define MODEL "tests/golden/model-b/model"

enum { PROMPT = 9, NEW = 6, LARGEST = 3 };

static void percentiles_are_values_that_were_there(void **state)
{
    (void)state;
    double one[] = { 7 }, ten[] = { 10, 9, 8, 7, 6, 5, 4, 3, 2, 1 }, many[200];
    q3_percentiles p = q3_percentiles_of(one, 1);
    assert_true(p.p50 == 7 && p.p90 == 7 && p.p99 == 7);
    p = q3_percentiles_of(ten, 10);
    assert_true(p.p50 == 5 && p.p90 == 9 && p.p99 == 10);
    for (int i = 0; i < 200; i++)
        many[i] = (i * 77) % 200 + 1;
    p = q3_percentiles_of(many, 200);
    assert_true(p.p50 == 100 && p.p90 == 180 && p.p99 == 198);
    p = q3_percentiles_of(many, 0);
    assert_true(p.p50 == 0 && p.p99 == 0);
}

static void open_subject(q3_subject *s, int64_t tokens)
{
    const q3_subject_options o = { .model = MODEL,
                                   .device = "cpu",
                                   .engine = { .kv_type = Q3_DTYPES, .tokens = tokens, .no_sharing = true } };
    if (q3_subject_open(s, &o) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void ordered(const q3_percentiles *p)
{
    assert_true(p->p50 > 0 && p->p50 <= p->p90 && p->p90 <= p->p99);
}

static void requests_are_served_and_timed(void **state)
{
    (void)state;
    q3_subject s;
    open_subject(&s, LARGEST * (PROMPT + NEW + Q3_ENGINE_BLOCK));
    for (int batch = 1; batch <= LARGEST; batch += 2) {
        q3_bench b;
        const q3_bench_options o = {
            .batch = batch, .prompt_tokens = PROMPT, .new_tokens = NEW, .rounds = 2
        };
        if (q3_bench_run(&b, s.engine, &o) != Q3_OK)
            fail_msg("%s", q3_error());
        assert_true(b.prefill > 0 && b.decode > 0 && b.seconds > 0);
        ordered(&b.first);
        ordered(&b.between);
        assert_int_equal(b.requests, 2 * batch);
        assert_true(b.tokens >= b.requests * NEW / 2 && b.tokens < b.requests * NEW);
    }
    q3_subject_close(&s);
}

static void a_request_that_never_fits_is_told(void **state)
{
    (void)state;
    q3_subject s;
    q3_bench b;
    open_subject(&s, Q3_ENGINE_BLOCK);
    const q3_bench_options o = { .batch = 1, .prompt_tokens = 40, .new_tokens = NEW, .rounds = 1 };
    assert_int_equal(q3_bench_run(&b, s.engine, &o), Q3_ERR_LIMIT);
    q3_subject_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_values_that_were_there),
        cmocka_unit_test(requests_are_served_and_timed),
        cmocka_unit_test(a_request_that_never_fits_is_told),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
