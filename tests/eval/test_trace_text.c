/* Text-only models: the tiny Qwen3ForCausalLM of tests/golden/formats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "eval/trace.h"
#include "kernels/pool.h"
#include "tests/support/golden.h"

/* The bounds of the golden files: norm of the difference over norm of the reference. */
#define FORWARD_BOUND 1e-5
#define GRADIENT_BOUND 1e-4

#define MODEL "tests/golden/formats/reranker-model"
#define PROMPTS "tests/golden/formats/reranker.safetensors"
#define BATCH "tests/golden/formats/text-forward.safetensors"

enum { YES = 77, NO = 33 }; /* tests/golden/README.md */

static char dir[400], out_path[512];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(out_path, sizeof out_path, "%s/trace.safetensors", dir);
    return q3_dir_create(dir) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_pool_stop();
    return 0;
}

static q3_safetensors *traced(const char *model, const char *batch, q3_trace_backward backward)
{
    const q3_trace_options o = { .model = model,
                                 .batch = batch,
                                 .out = out_path,
                                 .backward = backward,
                                 .device = getenv("Q3_TEST_DEVICE") };
    if (q3_trace(&o) != Q3_OK)
        fail_msg("%s", q3_error());
    return q3_golden_open(out_path);
}

/* Tokens of padding are not compared; mask NULL: there are none. */
static void compare(const q3_st_tensor *got, const q3_st_tensor *want, const q3_st_tensor *mask, double bound)
{
    assert_int_equal(got->ndim, want->ndim);
    assert_memory_equal(got->shape, want->shape, sizeof got->shape[0] * (size_t)want->ndim);
    int64_t width = want->shape[want->ndim - 1], rows = q3_st_elements(want) / width;
    double d = q3_golden_row_distance(got->data, want->data, mask ? mask->data : NULL, rows, width);
    if (!(d <= bound))
        fail_msg("%s differs by %.3g, more than %g", want->name, d, bound);
}

static void prompts_padded_on_the_left_give_the_reference_scores(void **state)
{
    (void)state;
    q3_safetensors *want = q3_golden_open(PROMPTS), *got = traced(MODEL, PROMPTS, Q3_TRACE_FORWARD);
    const q3_st_tensor *logits = q3_golden_find(got, "out.logits"),
                       *last = q3_golden_find(want, "out.last_logits");
    const float *difference = q3_golden_find(want, "out.logit_difference")->data,
                *score = q3_golden_find(want, "out.scores")->data;
    int64_t rows = logits->shape[0], length = logits->shape[1], vocab = logits->shape[2];
    assert_true(rows == 4 && vocab == last->shape[1]);
    for (int64_t i = 0; i < rows; i++) {
        const float *at = (const float *)logits->data + ((i + 1) * length - 1) * vocab;
        assert_true(q3_golden_distance(at, (const float *)last->data + i * vocab, vocab) <= FORWARD_BOUND);
        double d = (double)at[YES] - at[NO];
        assert_true(fabs(d - difference[i]) <= 1e-5);
        assert_true(fabs(1 / (1 + exp(-d)) - score[i]) <= 1e-5);
    }
    q3_safetensors_close(got);
    q3_safetensors_close(want);
}

static void without_labels_every_hidden_state_is_told_and_no_loss(void **state)
{
    (void)state;
    q3_safetensors *got = traced(MODEL, PROMPTS, Q3_TRACE_FORWARD);
    static const char *const names[] = { "out.text.layers.0", "out.text.layers.1", "out.text.layers.2",
                                         "out.text.norm",     "out.logits",        "out.position_ids",
                                         "out.rope_deltas" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        q3_golden_find(got, names[i]);
    assert_int_equal(q3_safetensors_count(got), sizeof names / sizeof *names);
    q3_safetensors_close(got);
}

static bool begins(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Every out.* and grad.* of the golden file whose name begins with `prefix`; returns their number. */
static int compare_all(const q3_safetensors *got, const char *prefix)
{
    q3_safetensors *want = q3_golden_open(BATCH);
    const q3_st_tensor *mask = q3_golden_find(want, "in.attention_mask");
    int n = 0;
    for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
        const q3_st_tensor *t = q3_safetensors_at(want, i);
        const char *name = t->name + strlen(prefix);
        if (!begins(t->name, prefix) || (!begins(name, "out.") && !begins(name, "grad.")))
            continue;
        bool tokens = t->ndim == 3, gradient = begins(name, "grad.");
        compare(q3_golden_find(got, name), t, tokens ? mask : NULL,
                gradient ? GRADIENT_BOUND : FORWARD_BOUND);
        n++;
    }
    q3_safetensors_close(want);
    return n;
}

static void hidden_states_loss_and_gradients_equal_the_reference(void **state)
{
    (void)state;
    q3_safetensors *got = traced(MODEL, BATCH, Q3_TRACE_FULL);
    int norms = 3 * 4 + 1, projections = 7; // of all layers; of the first
    assert_int_equal(compare_all(got, ""), 6 + norms + projections + 1);
    assert_non_null(q3_safetensors_find(got, "grad.model.embed_tokens.weight"));
    q3_safetensors_close(got);
}

/* A copy of the model as `name`, whose config has `from` replaced by `to`; with `tied`, without its head. */
static const char *model_with(const char *name, const char *from, const char *to, bool tied)
{
    static char model[500];
    char path[600], *text;
    size_t size;
    snprintf(model, sizeof model, "%s/%s", dir, name);
    assert_int_equal(q3_dir_create(model), Q3_OK);
    assert_int_equal(q3_file_read(&text, &size, MODEL "/config.json", 1 << 20), Q3_OK);
    char *at = strstr(text, from);
    assert_non_null(at);
    q3_text config = { 0 };
    q3_text_append(&config, text, (size_t)(at - text));
    q3_text_printf(&config, "%s%s", to, at + strlen(from));
    snprintf(path, sizeof path, "%s/config.json", model);
    assert_int_equal(q3_file_write(path, config.data, config.size), Q3_OK);
    q3_text_free(&config);
    q3_free(text);
    q3_safetensors *file = q3_golden_open(MODEL "/model.safetensors");
    q3_st_tensor tensors[64];
    int n = 0;
    for (int64_t i = 0; i < q3_safetensors_count(file); i++)
        if (!tied || strcmp(q3_safetensors_at(file, i)->name, "lm_head.weight") != 0)
            tensors[n++] = *q3_safetensors_at(file, i);
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    assert_int_equal(q3_safetensors_write(path, tensors, n), Q3_OK);
    q3_safetensors_close(file);
    return model;
}

/* The form of Qwen3-Reranker-0.6B and -4B. */
static void a_head_that_is_the_embedding_gives_the_reference(void **state)
{
    (void)state;
    const char *model =
        model_with("tied", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", true);
    q3_safetensors *got = traced(model, BATCH, Q3_TRACE_FULL);
    assert_int_equal(compare_all(got, "tied."), 3);
    assert_null(q3_safetensors_find(got, "grad.lm_head.weight"));
    q3_safetensors_close(got);
}

/* transformers 4.x: rope_theta beside a rope_scaling of null, as the released rerankers have it. */
static void the_older_form_of_the_config_gives_the_reference(void **state)
{
    (void)state;
    const char *model = model_with("older",
                                   "\"rope_parameters\": {\n    \"rope_theta\": 1000000.0,\n"
                                   "    \"rope_type\": \"default\"\n  }",
                                   "\"rope_theta\": 1000000, \"rope_scaling\": null", false);
    q3_safetensors *got = traced(model, BATCH, Q3_TRACE_FULL);
    assert_true(compare_all(got, "") > 20);
    q3_safetensors_close(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_padded_on_the_left_give_the_reference_scores),
        cmocka_unit_test(without_labels_every_hidden_state_is_told_and_no_loss),
        cmocka_unit_test(hidden_states_loss_and_gradients_equal_the_reference),
        cmocka_unit_test(a_head_that_is_the_embedding_gives_the_reference),
        cmocka_unit_test(the_older_form_of_the_config_gives_the_reference),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
