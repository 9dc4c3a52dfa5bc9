#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/quantized.h"
#include "eval/trace.h"
#include "model/checkpoint_files.h"
#include "tests/support/ask.h"
#include "tests/support/golden.h"

#define A "tests/golden/model-a/"
#define B "tests/golden/model-b/"
#define TRAINING "tests/golden/training/"

static char dir[400], out[440], batch[440], line[1200];
static q3_arena mem;

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(out, sizeof out, "%s/out", dir);
    snprintf(batch, sizeof batch, "%s/batch.safetensors", dir);
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK ||
           q3_arena_create(&mem, "test arena", (size_t)1 << 30) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    return 0;
}

static int clean(void **state)
{
    (void)state;
    q3_arena_reset(&mem);
    return q3_dir_remove(out) != Q3_OK;
}

static const char *command(const char *model, const char *adapter, const char *options)
{
    snprintf(line, sizeof line, "merge --model %s --adapter %s --out %s %s", model, adapter, out, options);
    return line;
}

/* Runs the command; expects `said` on stderr. */
static void merged(const char *model, const char *adapter, const char *options, const char *said)
{
    q3_process p = q3_ask(Q3_PROGRAM, command(model, adapter, options), NULL, 0);
    if (p.code != 0 || !strstr(p.err, said))
        fail_msg("%s: %d, %s", line, p.code, p.err);
    q3_process_free(&p);
}

static const float *logits(const char *model, const char *adapter, const char *name, int64_t *n)
{
    char path[500];
    snprintf(path, sizeof path, "%s/%s.safetensors", dir, name);
    const q3_trace_options o = { .model = model, .adapter = adapter, .batch = batch, .out = path };
    if (q3_trace(&o) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_safetensors *file = q3_golden_open(path);
    const q3_st_tensor *t = q3_golden_find(file, "out.logits");
    float *copy = Q3_NEW(&mem, float, q3_st_elements(t));
    memcpy(copy, t->data, t->bytes);
    *n = q3_st_elements(t);
    q3_safetensors_close(file);
    return copy;
}

/* The distance between the logits of `out` and those of the model with its adapter. */
static double apart(const char *golden, const char *model, const char *adapter)
{
    q3_safetensors *file = q3_golden_open(golden);
    q3_padded p = q3_golden_batch(&mem, file, "in.");
    q3_golden_write(batch, &p);
    q3_safetensors_close(file);
    int64_t n, m;
    const float *want = logits(model, adapter, "adapted", &n), *got = logits(out, NULL, "merged", &m);
    assert_int_equal(n, m);
    return q3_golden_distance(got, want, n);
}

static void merged_weights_compute_what_the_adapter_does(void **state)
{
    (void)state;
    merged(A "model", A "lora-fp32-final", "", "merged into float32");
    assert_true(apart(A "forward-right-padded.safetensors", A "model", A "lora-fp32-final") < 1e-5);
    assert_true(apart(A "forward-right-padded.safetensors", A "model", NULL) > 1e-3); // it does something
    clean(NULL);
    merged(B "model", B "lora-fp32-final", "--dtype float32", "merged into float32");
    assert_true(apart(B "forward-left-padded.safetensors", B "model", B "lora-fp32-final") < 1e-5);
}

static void a_quantized_model_is_expanded_first(void **state)
{
    (void)state;
    merged(A "model-nf4", A "lora-nf4-final", "", "the model is in nf4: its weights are expanded first");
    assert_true(apart(A "forward-right-padded.safetensors", A "model-nf4", A "lora-nf4-final") < 1e-5);
    clean(NULL);
    static const char *const types[] = { "int8", "int4-g32" };
    for (int i = 0; i < 2; i++) {
        char small[440], said[80];
        snprintf(small, sizeof small, "%s/%s", dir, types[i]);
        snprintf(line, sizeof line, "quantize --model " A "model --out %s --type %s", small, types[i]);
        q3_process p = q3_ask(Q3_PROGRAM, line, NULL, 0);
        assert_int_equal(p.code, 0);
        q3_process_free(&p);
        snprintf(said, sizeof said, "the model is in %s: its weights", types[i]);
        merged(small, A "lora-fp32-final", "", said);
        assert_true(apart(A "forward-right-padded.safetensors", small, A "lora-fp32-final") < 1e-5);
        clean(NULL);
    }
}

static void bfloat16_rounds_each_weight_once(void **state)
{
    (void)state;
    merged(B "model", B "lora-fp32-final", "--dtype bfloat16", "merged into bfloat16");
    char keep[440];
    snprintf(keep, sizeof keep, "%s/bf16", dir);
    assert_int_equal(rename(out, keep), 0);
    merged(B "model", B "lora-fp32-final", "", "merged into float32");
    q3_weights *half, *full;
    assert_int_equal(q3_weights_open(&half, keep), Q3_OK);
    assert_int_equal(q3_weights_open(&full, out), Q3_OK);
    assert_int_equal(q3_weights_count(half), q3_weights_count(full));
    for (int64_t i = 0; i < q3_weights_count(half); i++) {
        const q3_st_tensor *h = q3_weights_at(half, i), *f = q3_weights_at(full, i);
        assert_string_equal(h->name, f->name);
        for (int64_t k = 0; k < q3_st_elements(f); k++)
            assert_int_equal(((const uint16_t *)h->data)[k], q3_f32_to_bf16(((const float *)f->data)[k]));
    }
    q3_weights_close(half);
    q3_weights_close(full);
}

static void the_tokenizer_comes_along(void **state)
{
    (void)state;
    merged(TRAINING "model", TRAINING "float32-adapter-final", "", "merged into");
    static const char *const files[] = { "tokenizer.json", "tokenizer_config.json",
                                         "preprocessor_config.json", "config.json" };
    char path[600];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", out, files[i]);
        assert_true(q3_file_exists(path));
    }
    snprintf(path, sizeof path, "%s/adapter_config.json", out);
    assert_false(q3_file_exists(path));
}

static void mistakes_leave_nothing(void **state)
{
    (void)state;
    q3_ask_refused_about(Q3_PROGRAM, "merge --model " A "model --out x", 2, "merge needs --adapter DIR");
    q3_ask_refused_about(Q3_PROGRAM, command(A "model", B "lora-fp32-final", ""), 4,
                         "adapter_model.safetensors");
    q3_ask_refused_about(Q3_PROGRAM, command(A "model", A "lora-fp32-final", "--dtype f16"), 2,
                         "--dtype is \"f16\"; it must be float32, bfloat16, f32 or bf16");
    q3_ask_refused_about(Q3_PROGRAM, command(A "model", A "lora-fp32-final", "--device cuda"), 2,
                         "merge works on the CPU alone");
    char path[600];
    snprintf(path, sizeof path, "%s.tmp", out);
    assert_false(q3_dir_exists(out) || q3_dir_exists(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(merged_weights_compute_what_the_adapter_does, clean),
        cmocka_unit_test_setup(a_quantized_model_is_expanded_first, clean),
        cmocka_unit_test_setup(bfloat16_rounds_each_weight_once, clean),
        cmocka_unit_test_setup(the_tokenizer_comes_along, clean),
        cmocka_unit_test_setup(mistakes_leave_nothing, clean),
    };
    return cmocka_run_group_tests_name("merge", tests, prepare, release);
}
