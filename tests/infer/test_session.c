#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/log.h"
#include "infer/answer.h"
#include "infer/conversation.h"
#include "kernels/pool.h"

#define MODEL "tests/golden/training/model"
#define LORA "tests/golden/training/float32-adapter-final"

static const q3_session_adapter two[] = { { "one", LORA }, { "two", LORA } };
static const q3_answer_options greedy = {
    .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 }, .max_new_tokens = 6, .logprobs = 1
};

static q3_session_options options_with(int n_adapters, bool merge)
{
    return (q3_session_options){ .model = MODEL,
                                 .adapters = two,
                                 .n_adapters = n_adapters,
                                 .merge = merge,
                                 .device = "cpu",
                                 .engine = { .kv_type = Q3_DTYPES, .tokens = 256 } };
}

static void refused(q3_status code, const char *sentence, const q3_session_options *o)
{
    q3_session s;
    assert_int_equal(q3_session_open(&s, o), code);
    assert_string_equal(q3_error(), sentence);
    assert_null(s.ground.run.base);
}

static void what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    q3_session_options o = options_with(2, true);
    refused(Q3_ERR_USAGE, "--merge is for one adapter, and there are 2", &o);
    o = options_with(0, false);
    o.model = NULL;
    refused(Q3_ERR_USAGE, "no model is given; use --model DIR", &o);
    o = options_with(0, false);
    o.dtype = "bfloat16";
    refused(Q3_ERR_USAGE, "--dtype is bfloat16, and the CPU computes in float32; use auto or float32", &o);
    o = options_with(0, false);
    o.attention = "magic";
    refused(Q3_ERR_USAGE,
            "--attn is \"magic\"; it must be auto, cudnn, flash, reference, sdpa, flash_attention_2 or naive",
            &o);
    o = options_with(0, false);
    o.model = "tests/golden/model-a/model-nf4";
    o.weights = "int8";
    refused(
        Q3_ERR_USAGE,
        "tests/golden/model-a/model-nf4 is quantized in another form already "
        "(model.language_model.layers.0.self_attn.q_proj.weight); take the weights as they are, or a model "
        "that is not quantized",
        &o);
    const q3_session_adapter same[] = { { "one", LORA }, { "one", LORA } };
    o = options_with(2, false);
    o.adapters = same;
    refused(Q3_ERR_USAGE, "two adapters are called \"one\"; write --adapter NAME=DIR", &o);
}

static void adapters_are_found_by_name(void **state)
{
    (void)state;
    q3_session s;
    q3_session_options o = options_with(2, false);
    int number;
    assert_int_equal(q3_session_open(&s, &o), Q3_OK);
    assert_string_equal(s.name, "model");
    assert_int_equal(q3_session_adapter_find(&number, &s, "two"), Q3_OK);
    assert_int_equal(number, 1);
    static const char *const bare[] = { NULL, "", "base" };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q3_session_adapter_find(&number, &s, bare[i]), Q3_OK);
        assert_int_equal(number, -1);
    }
    assert_int_equal(q3_session_adapter_find(&number, &s, "three"), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "there is no adapter \"three\"; there are: base, one, two");
    q3_session_close(&s);
    o = options_with(1, true);
    assert_int_equal(q3_session_open(&s, &o), Q3_OK);
    assert_int_equal(q3_session_adapter_find(&number, &s, "one"), Q3_OK);
    assert_int_equal(number, -1); // a part of the weights
    q3_session_close(&s);
    q3_session_close(&s); // fine once more
}

/* Values of half the size hold what rounding leaves of them. */
static void weights_are_rounded_to_bfloat16_when_asked(void **state)
{
    (void)state;
    q3_session full, half;
    q3_session_options o = options_with(0, false);
    assert_int_equal(q3_session_open(&full, &o), Q3_OK);
    o.weights = "bf16";
    assert_int_equal(q3_session_open(&half, &o), Q3_OK);
    int n = 0;
    for (int i = 0; i < full.model.n_params; i++) {
        const q3_tensor *x = full.model.params[i].tensor, *y = half.model.params[i].tensor;
        if (y->dtype != Q3_BF16)
            continue;
        n++;
        for (int64_t k = 0; k < q3_numel(x); k++)
            assert_int_equal(((const uint16_t *)y->data)[k], q3_f32_to_bf16(((const float *)x->data)[k]));
    }
    assert_true(n > 10);
    q3_session_close(&full);
    q3_session_close(&half);
}

/* Opens, asks, closes. */
static q3_status answer(q3_text *out)
{
    q3_session s;
    q3_arena mem;
    q3_prompt prompt;
    q3_answer a = { 0 };
    q3_conversation c = { 0 };
    const q3_session_options o = options_with(1, false);
    Q3_TRY(q3_arena_create(&mem, "test arena", (size_t)1 << 24));
    q3_status st = q3_session_open(&s, &o);
    st = st ? st : q3_conversation_ask(&c, "is it");
    st = st ? st : q3_conversation_prompt(&prompt, &mem, &c, &s.prompter);
    st = st ? st : q3_answer_begin(&a, &s, &prompt, 0, &greedy);
    st = st ? st : q3_scheduler_run(s.scheduler);
    st = st ? st : q3_answer_status(&a);
    if (st == Q3_OK)
        q3_text_append(out, a.text.data, a.text.size);
    q3_answer_free(&a);
    q3_session_close(&s);
    q3_conversation_free(&c);
    q3_arena_destroy(&mem);
    return st;
}

/* The n-th request for memory fails: first each one, then fewer and fewer of them. */
static void running_out_of_memory_is_reported(void **state)
{
    (void)state;
    q3_status st = Q3_ERR_MEMORY;
    q3_text want = { 0 }, out = { 0 };
    assert_int_equal(answer(&want), Q3_OK);
    for (int64_t n = 1; st != Q3_OK; n += 1 + n / 6) {
        out.size = 0;
        q3_heap_fail_at(n);
        st = answer(&out);
        q3_heap_fail_at(0);
        if (st != Q3_OK && st != Q3_ERR_MEMORY)
            fail_msg("request %lld: %d, %s", (long long)n, (int)st, q3_error());
    }
    assert_int_equal(out.size, want.size);
    assert_memory_equal(out.data, want.data, want.size);
    q3_text_free(&want);
    q3_text_free(&out);
}

static int quiet(void **state)
{
    (void)state;
    q3_pool_start(1);
    q3_log_set_level(Q3_LOG_WARN);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    q3_pool_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_go_together_is_refused),
        cmocka_unit_test(adapters_are_found_by_name),
        cmocka_unit_test(weights_are_rounded_to_bfloat16_when_asked),
        cmocka_unit_test(running_out_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, quiet, stop);
}
