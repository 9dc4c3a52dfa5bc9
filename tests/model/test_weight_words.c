#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "model/weights.h"
#include "tests/support/golden.h"

#define A "tests/golden/model-a/model"

static q3_arena mem;
static char dir[400];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/words", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK ||
           q3_arena_create(&mem, "test arena", (size_t)1 << 28) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    return 0;
}

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static q3_load_options options(const char *word)
{
    q3_load_options o = { 0 };
    must(q3_load_options_word(&o, word));
    return o;
}

static q3_model load(const char *path, const char *word)
{
    q3_model m;
    const q3_load_options o = options(word);
    must(q3_model_load(&m, &mem, path, &o));
    return m;
}

static void refused(const char *path, const char *word, q3_status with, const char *part)
{
    q3_model m;
    const q3_load_options o = options(word);
    assert_int_equal(q3_model_load(&m, &mem, path, &o), with);
    if (!strstr(q3_error(), part))
        fail_msg("%s: \"%s\" is not in it", q3_error(), part);
}

static const char *in_dir(const char *name)
{
    return q3_arena_printf(&mem, "%s/%s", dir, name);
}

static void each_word_has_its_form(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        q3_dtype linear, other;
        int block;
    } forms[] = {
        { "auto", Q3_F32, Q3_F32, 0 },  { "f32", Q3_F32, Q3_F32, 0 },      { "bf16", Q3_BF16, Q3_BF16, 0 },
        { "nf4", Q3_NF4, Q3_F32, 64 },  { "fp4", Q3_FP4, Q3_F32, 64 },     { "int8", Q3_I8, Q3_F32, 0 },
        { "int4", Q3_I4, Q3_F32, 128 }, { "int4-g32", Q3_I4, Q3_F32, 32 },
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        q3_model m = load(A, forms[i].word);
        const q3_tensor *down = m.layers[1].down.w;
        assert_int_equal(down->dtype, forms[i].linear);
        assert_int_equal(m.embed->dtype, forms[i].other);
        assert_int_equal(m.blocks[0].qkv.w->dtype, forms[i].other);
        assert_int_equal(m.patch_embed.w->dtype, forms[i].other);
        assert_int_equal(m.norm.w->dtype, Q3_F32);
        if (forms[i].linear != Q3_I8 && down->block != forms[i].block)
            fail_msg("%s: blocks of %d", forms[i].word, down->block);
        assert_string_equal(q3_model_weights_word(&m), i ? forms[i].word : "f32");
        q3_model_close(&m);
    }
    q3_load_options o = { .seed = 7 };
    assert_int_equal(q3_load_options_word(&o, "int5"), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "--weights is \"int5\"; it must be auto, f32"));
    must(q3_load_options_word(&o, "bf16"));
    assert_int_equal(o.seed, 7);
}

/* The same values, and the same scales beside them. */
static void same(const q3_model *a, const q3_model *b, const char *what)
{
    assert_int_equal(a->n_params, b->n_params);
    for (int i = 0; i < a->n_params; i++) {
        const q3_tensor *x = a->params[i].tensor, *y = b->params[i].tensor;
        const q3_weight u = q3_as_weight(x), v = q3_as_weight(y);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->block, y->block);
        assert_memory_equal(x->data, y->data, q3_nbytes(x));
        for (int64_t k = 0; k < q3_numel(x); k++)
            if (q3_weight_at(&u, k) != q3_weight_at(&v, k))
                fail_msg("%s: %s differs", what, x->name);
    }
    assert_int_equal(a->quantized_bytes, b->quantized_bytes);
}

static const char *const codes[] = { "nf4", "fp4", "int8", "int4", "int4-g32" };
enum { CODES = sizeof codes / sizeof *codes };

static const char *quantized(const char *word)
{
    const char *path = in_dir(word);
    const q3_load_options o = options(word);
    must(q3_model_quantize(A, path, &o));
    return path;
}

static void a_directory_holds_what_loading_would_make(void **state)
{
    (void)state;
    for (int i = 0; i < CODES; i++) {
        const char *path = quantized(codes[i]);
        q3_model stored = load(path, "auto"), made = load(A, codes[i]), asked = load(path, codes[i]);
        const q3_quantization_config *q = &stored.config.quantization;
        assert_true(q->present && q->code == made.layers[0].q.w->dtype && q->n_skip == 2);
        assert_true(stored.quantized_params > 0);
        same(&stored, &made, codes[i]);
        same(&asked, &made, codes[i]);
        q3_model_close(&stored);
        q3_model_close(&made);
        q3_model_close(&asked);
    }
}

static void quantized_directories_are_expanded(void **state)
{
    (void)state;
    for (int i = 0; i < CODES; i++) {
        const char *path = quantized(codes[i]);
        q3_model stored = load(path, "auto"), full = load(path, "f32"), half = load(path, "bf16");
        assert_int_equal(full.quantized_params, 0);
        for (int k = 0; k < stored.n_params; k++) {
            const q3_tensor *x = stored.params[k].tensor, *f = full.params[k].tensor,
                            *h = half.params[k].tensor;
            const q3_weight w = q3_as_weight(x);
            assert_int_equal(f->dtype, Q3_F32);
            assert_int_equal(h->dtype, h->ndim == 2 ? Q3_BF16 : Q3_F32);
            for (int64_t e = 0; e < q3_numel(x); e++) {
                float want = q3_weight_at(&w, e);
                if (q3_f32(f)[e] != want ||
                    (h->ndim == 2 && ((const uint16_t *)h->data)[e] != q3_f32_to_bf16(want)))
                    fail_msg("%s, %s, element %lld", codes[i], x->name, (long long)e);
            }
        }
        q3_model_close(&stored);
        q3_model_close(&full);
        q3_model_close(&half);
    }
}

static void another_quantized_form_is_refused(void **state)
{
    (void)state;
    refused("tests/golden/model-a/model-nf4", "int8", Q3_ERR_USAGE, "is quantized in another form already");
    refused("tests/golden/model-a/model-nf4", "fp4", Q3_ERR_USAGE, "is quantized in another form already");
    refused(quantized("int4"), "int4-g32", Q3_ERR_USAGE, "is quantized in another form already");
    refused(quantized("int8"), "nf4", Q3_ERR_USAGE, "is quantized in another form already");
}

static void what_a_directory_left_wide_stays_wide(void **state)
{
    (void)state;
    static const char *const skip[] = { "model.visual", "lm_head", "q_proj" };
    q3_load_options o = options("int4-g32");
    o.skip = skip;
    o.n_skip = 3;
    must(q3_model_quantize(A, in_dir("some"), &o));
    q3_model m = load(in_dir("some"), "int4-g32");
    assert_int_equal(m.layers[0].q.w->dtype, Q3_F32);
    assert_int_equal(m.layers[0].k.w->dtype, Q3_I4);
    assert_string_equal(m.config.quantization.skip[2], "q_proj");
    q3_model_close(&m);
}

/* The config of an int4 directory with one piece of text for another. */
static void edit_config(const char *path, const char *from, const char *to)
{
    char *text, *at;
    size_t size;
    q3_text out = { 0 };
    const char *config = q3_arena_printf(&mem, "%s/config.json", path);
    must(q3_file_read(&text, &size, config, 1 << 20));
    at = strstr(text, from);
    assert_non_null(at);
    q3_text_printf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    must(q3_file_write(config, out.data, out.size));
    q3_text_free(&out);
    q3_free(text);
}

static void int4_weights_that_do_not_fit_are_named(void **state)
{
    (void)state;
    const char *path = quantized("int4-g32");
    edit_config(path, "\"group_size\": 32", "\"group_size\": 64");
    refused(path, "auto", Q3_ERR_MODEL, "_proj.weight.absmax is F32 [");
    edit_config(path, "\"group_size\": 64", "\"group_size\": 48");
    refused(path, "auto", Q3_ERR_MODEL, "quantization_config.group_size is 48; expected a power of two");
    edit_config(path, "\"group_size\": 48", "\"group_size\": 16");
    refused(path, "auto", Q3_ERR_MODEL, "quantization_config.group_size is 16; expected 32 to 4096");
    edit_config(path, "\"q3_int4\"", "\"gptq\"");
    refused(path, "auto", Q3_ERR_MODEL, "quantization_config.quant_method is gptq");
}

/* Some of the many allocations. */
static void allocations_may_fail(void **state)
{
    (void)state;
    int failures = 0;
    for (int64_t n = 1;; n += 1 + n / 4) {
        size_t mark = q3_arena_mark(&mem);
        const q3_load_options int4 = options("int4-g32"), full = options("f32");
        const char *path = in_dir("failing");
        q3_model m;
        q3_heap_fail_at(n);
        q3_status st = q3_model_quantize(A, path, &int4);
        st = st ? st : q3_model_load(&m, &mem, path, &full);
        q3_heap_fail_at(0);
        if (st == Q3_OK)
            q3_model_close(&m);
        q3_arena_rewind(&mem, mark);
        if (st == Q3_OK)
            break;
        assert_int_equal(st, Q3_ERR_MEMORY);
        failures++;
    }
    assert_true(failures > 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_word_has_its_form),
        TEST(a_directory_holds_what_loading_would_make),
        TEST(quantized_directories_are_expanded),
        TEST(another_quantized_form_is_refused),
        TEST(what_a_directory_left_wide_stays_wide),
        TEST(int4_weights_that_do_not_fit_are_named),
        TEST(allocations_may_fail),
    };
    return cmocka_run_group_tests_name("weight words", tests, NULL, NULL);
}
