#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "core/file.h"
#include "model/checkpoint_files.h"
#include "tests/support/ask.h"

#define MODEL "tests/golden/model-a/model"
#define REFERENCE "tests/golden/model-a/model-nf4"

static char dir[400], out[440], line[1200];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(out, sizeof out, "%s/out", dir);
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK;
}

/* Each test begins without the output. */
static int clean(void **state)
{
    (void)state;
    return q3_dir_remove(out) != Q3_OK;
}

static const char *command(const char *model, const char *options)
{
    snprintf(line, sizeof line, "quantize --model %s --out %s %s", model, out, options);
    return line;
}

static q3_process quantized(const char *options)
{
    q3_process p = q3_ask(Q3_PROGRAM, command(MODEL, options), NULL, 0);
    if (p.code != 0)
        fail_msg("%s: %s", line, p.err);
    return p;
}

static void assert_same_file(const char *a, const char *b)
{
    q3_map x, y;
    assert_int_equal(q3_map_open(&x, a), Q3_OK);
    assert_int_equal(q3_map_open(&y, b), Q3_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    q3_map_close(&x);
    q3_map_close(&y);
}

/* The type of a tensor of the output, NULL when there is none. */
static q3_dtype stored_type(const char *name)
{
    q3_weights *w;
    assert_int_equal(q3_weights_open(&w, out), Q3_OK);
    const q3_st_tensor *t = q3_weights_find(w, name);
    q3_dtype dtype = t ? t->dtype : Q3_DTYPES;
    q3_weights_close(w);
    return dtype;
}

#define ATTENTION "model.language_model.layers.0.self_attn.q_proj.weight"
#define MLP "model.language_model.layers.0.mlp.down_proj.weight"
#define VISION "model.visual.blocks.0.attn.qkv.weight"

static void the_files_are_those_of_bitsandbytes(void **state)
{
    (void)state;
    char path[600];
    q3_process p = quantized("");
    snprintf(path, sizeof path, "%s\n", out);
    assert_string_equal(p.out, path);
    assert_non_null(strstr(p.err, "quantized 28 matrices"));
    assert_non_null(strstr(p.err, ": weights of 1.82 MiB became 1.28 MiB\n"));
    q3_process_free(&p);
    static const char *const files[] = { "config.json", "generation_config.json", "model.safetensors" };
    for (int i = 0; i < 3; i++) {
        char want[200];
        snprintf(path, sizeof path, "%s/%s", out, files[i]);
        snprintf(want, sizeof want, REFERENCE "/%s", files[i]);
        assert_same_file(path, want);
    }
    snprintf(path, sizeof path, "%s.tmp", out);
    assert_false(q3_dir_exists(path));
}

static void the_tokenizer_comes_along(void **state)
{
    (void)state;
    char path[600];
    q3_process p = q3_ask(Q3_PROGRAM, command("tests/golden/training/model", "-q"), NULL, 0);
    assert_int_equal(p.code, 0);
    assert_string_equal(p.err, "");
    q3_process_free(&p);
    static const char *const files[] = { "tokenizer.json", "tokenizer_config.json",
                                         "preprocessor_config.json" };
    for (int i = 0; i < 3; i++) {
        char want[200];
        snprintf(path, sizeof path, "%s/%s", out, files[i]);
        snprintf(want, sizeof want, "tests/golden/training/model/%s", files[i]);
        assert_same_file(path, want);
    }
}

static void options_change_what_is_written(void **state)
{
    (void)state;
    q3_process p = quantized("--type fp4 --no-double-quant");
    q3_process_free(&p);
    assert_int_equal(stored_type(MLP), Q3_U8);
    assert_int_equal(stored_type(MLP ".quant_state.bitsandbytes__fp4"), Q3_U8);
    assert_int_equal(stored_type(MLP ".nested_absmax"), Q3_DTYPES);
    assert_int_equal(stored_type(MLP ".absmax"), Q3_F32);
    assert_int_equal(stored_type(VISION), Q3_F32);
    clean(NULL);
    p = quantized("--skip-modules=self_attn.q_proj,model.language_model.layers.1");
    q3_process_free(&p);
    assert_int_equal(stored_type(ATTENTION), Q3_F32);
    assert_int_equal(stored_type(MLP), Q3_U8);
    assert_int_equal(stored_type(MLP ".quant_state.bitsandbytes__nf4"), Q3_U8);
    assert_int_equal(stored_type(MLP ".nested_absmax"), Q3_F32);
    assert_int_equal(stored_type("model.language_model.layers.1.mlp.down_proj.weight"), Q3_F32);
    assert_int_equal(stored_type(VISION), Q3_U8);
    clean(NULL);
    p = quantized("--skip-modules=");
    q3_process_free(&p);
    assert_int_equal(stored_type(ATTENTION), Q3_U8);
    assert_int_equal(stored_type(VISION), Q3_U8);
}

static void what_is_there_is_not_overwritten(void **state)
{
    (void)state;
    char path[600], sentence[600];
    assert_int_equal(q3_dir_create(out), Q3_OK); // empty is as good as absent
    q3_process p = quantized("");
    q3_process_free(&p);
    snprintf(path, sizeof path, "%s/model.safetensors", out);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    snprintf(sentence, sizeof sentence, "--out %s exists and is not an empty directory; name a new one", out);
    q3_ask_refused(Q3_PROGRAM, command(MODEL, ""), 2, sentence);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    clean(NULL);
    assert_int_equal(q3_file_write(out, "x", 1), Q3_OK);
    q3_ask_refused(Q3_PROGRAM, command(MODEL, ""), 2, sentence);
}

static void leftovers_of_an_interrupted_run_go_away(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s.tmp/shard", out);
    assert_int_equal(q3_dir_create(path), Q3_OK);
    q3_process p = quantized("");
    q3_process_free(&p);
    snprintf(path, sizeof path, "%s/shard", out);
    assert_false(q3_dir_exists(path));
    snprintf(path, sizeof path, "%s.tmp", out);
    assert_false(q3_dir_exists(path));
}

static void mistakes_are_usage_errors(void **state)
{
    (void)state;
    q3_ask_refused(Q3_PROGRAM, "quantize --model " MODEL, 2,
                   "quantize needs --out DIR (see qwen3-sft quantize --help)");
    q3_ask_refused(Q3_PROGRAM, command(MODEL, "--type int3"), 2,
                   "--type is \"int3\"; it must be nf4, fp4, int8, int4 or int4-g32");
    q3_ask_refused(Q3_PROGRAM, command(MODEL, "--skip-modules a,,b"), 2,
                   "--skip-modules has an empty name; write --skip-modules a,b");
    q3_ask_refused_about(Q3_PROGRAM, command(MODEL, "--skip-modules qproj"), 2,
                         "--skip-modules: \"qproj\" is no linear layer; they are called e.g. model.");
    q3_ask_refused_about(Q3_PROGRAM, command(MODEL, "--device cuda"), 2, "--device is \"cuda\"");
    q3_ask_refused_about(Q3_PROGRAM, command(REFERENCE, ""), 4, "the model is in 4 bits already");
    assert_false(q3_dir_exists(out));
}

static void a_failed_write_leaves_nothing(void **state)
{
    (void)state;
    static const char *const words[] = { Q3_PROGRAM, "quantize", "--model", MODEL, "--out", out };
    char path[600];
    q3_process p = { .file_limit = 500000 }; // model.safetensors has more
    for (int i = 0; i < 6; i++)
        q3_process_add(&p, words[i]);
    assert_int_not_equal(q3_process_run(&p), 0);
    assert_non_null(strstr(p.err, "cannot be written"));
    assert_string_equal(p.out, "");
    q3_process_free(&p);
    snprintf(path, sizeof path, "%s.tmp", out);
    assert_false(q3_dir_exists(out) || q3_dir_exists(path));
    snprintf(line, sizeof line, "quantize --model " MODEL " --out /proc/qwen3-sft-test/out");
    q3_ask_refused_about(Q3_PROGRAM, line, 1, "/proc/qwen3-sft-test: cannot be created");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_files_are_those_of_bitsandbytes, clean),
        cmocka_unit_test_setup(the_tokenizer_comes_along, clean),
        cmocka_unit_test_setup(options_change_what_is_written, clean),
        cmocka_unit_test_setup(what_is_there_is_not_overwritten, clean),
        cmocka_unit_test_setup(leftovers_of_an_interrupted_run_go_away, clean),
        cmocka_unit_test_setup(mistakes_are_usage_errors, clean),
        cmocka_unit_test_setup(a_failed_write_leaves_nothing, clean),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
