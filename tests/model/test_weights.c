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
#include "core/quantized.h"
#include "kernels/pool.h"
#include "kernels/int8.h"
#include "model/weights.h"
#include "tests/support/golden.h"

static const char *const models[] = { "tests/golden/model-a", "tests/golden/model-b" };
static const q3_load_options plain = { .code = Q3_NF4, .double_quant = true };

static q3_arena mem;
static char dir[400];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/weights", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK ||
           q3_arena_create(&mem, "test arena", (size_t)1 << 28) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    q3_pool_stop();
    return 0;
}

static const char *join(const char *a, const char *b)
{
    char *path = q3_arena_printf(&mem, "%s/%s", a, b);
    assert_non_null(path);
    return path;
}

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static q3_model load(const char *path, const q3_load_options *o)
{
    q3_model m;
    must(q3_model_load(&m, &mem, path, o));
    return m;
}

/* For models that are saved: some of their projections lie in the struct, which must stay where it is then. */
static void load_to(q3_model *m, const char *path)
{
    must(q3_model_load(m, &mem, path, &plain));
}

static void same_files(const char *a, const char *b)
{
    q3_map x, y;
    must(q3_map_open(&x, a));
    must(q3_map_open(&y, b));
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    q3_map_close(&x);
    q3_map_close(&y);
}

/* The same parameters, names, types and bits. */
static void same_parameters(const q3_model *a, const q3_model *b)
{
    assert_int_equal(a->n_params, b->n_params);
    for (int i = 0; i < a->n_params; i++) {
        const q3_tensor *x = a->params[i].tensor, *y = b->params[i].tensor;
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(q3_nbytes(x), q3_nbytes(y));
        if (memcmp(x->data, y->data, q3_nbytes(x)) != 0)
            fail_msg("%s differs", x->name);
    }
}

static void parameters_have_the_names_and_values_of_the_file(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        q3_model model = load(join(models[m], "model"), &plain);
        q3_safetensors *file = q3_golden_open(join(models[m], "model/model.safetensors"));
        assert_int_equal(model.n_params, q3_safetensors_count(file));
        int64_t text, vision, n[2] = { 0 };
        for (int i = 0; i < model.n_params; i++) {
            const q3_tensor *t = model.params[i].tensor;
            const q3_st_tensor *s = q3_golden_find(file, t->name);
            assert_int_equal(q3_nbytes(t), s->bytes);
            assert_memory_equal(t->data, s->data, s->bytes);
            assert_int_equal(model.params[i].vision, strncmp(t->name, "model.visual.", 13) == 0);
            n[model.params[i].vision] += q3_numel(t);
        }
        q3_model_parameters(&model.config, &text, &vision);
        assert_true(n[0] == text && n[1] == vision);
        assert_int_equal(model.head == model.embed, m == 0); // a is tied, b is not
        q3_safetensors_close(file);
        q3_model_close(&model);
    }
}

static void both_forms_of_config_load_the_same_model(void **state)
{
    (void)state;
    must(q3_file_copy(join(dir, "config.json"), "tests/golden/model-a/config-transformers-4.57.json"));
    must(q3_file_copy(join(dir, "model.safetensors"), "tests/golden/model-a/model/model.safetensors"));
    q3_model a = load("tests/golden/model-a/model", &plain), b = load(dir, &plain);
    same_parameters(&a, &b);
    q3_model_close(&a);
    q3_model_close(&b);
}

/* A model directory that differs from a golden one in a few tensors. */
typedef struct copy {
    q3_safetensors *file;
    q3_st_tensor tensors[256];
    int n;
} copy;

static copy *take(const char *from)
{
    copy *c = Q3_ZNEW(&mem, copy, 1);
    assert_non_null(c);
    c->file = q3_golden_open(join(from, "model.safetensors"));
    c->n = (int)q3_safetensors_count(c->file);
    for (int i = 0; i < c->n; i++)
        c->tensors[i] = *q3_safetensors_at(c->file, i);
    must(q3_file_copy(join(dir, "config.json"), join(from, "config.json")));
    return c;
}

static q3_st_tensor *tensor(copy *c, const char *name)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    fail_msg("no %s", name);
    return NULL;
}

static void put(copy *c)
{
    must(q3_safetensors_write(join(dir, "model.safetensors"), c->tensors, c->n));
}

static void refused(const char *path, const q3_load_options *o, const char *words)
{
    q3_model m;
    q3_status st = q3_model_load(&m, &mem, path, o);
    q3_model_close(&m);
    assert_int_equal(st, Q3_ERR_MODEL);
    if (!strstr(q3_error(), words))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), words);
}

static void a_head_in_a_tied_model_is_not_used_and_a_missing_one_is_tied(void **state)
{
    (void)state;
    copy *c = take("tests/golden/model-a/model");
    c->tensors[c->n] = *tensor(c, "model.language_model.embed_tokens.weight");
    c->tensors[c->n++].name = "lm_head.weight";
    put(c);
    q3_model m = load(dir, &plain);
    assert_ptr_equal(m.head, m.embed);
    q3_model_close(&m);
    q3_safetensors_close(c->file);

    c = take("tests/golden/model-b/model");
    *tensor(c, "lm_head.weight") = c->tensors[c->n - 1];
    c->n--;
    put(c);
    m = load(dir, &plain);
    assert_ptr_equal(m.head, m.embed);
    q3_model_close(&m);
    q3_safetensors_close(c->file);
}

static void tensors_that_do_not_fit_the_config_are_named(void **state)
{
    (void)state;
    static const char *const names[] = { "model.language_model.layers.2.mlp.up_proj.weight",
                                         "model.visual.blocks.1.norm2.bias",
                                         "model.visual.patch_embed.proj.weight",
                                         "model.language_model.embed_tokens.weight" };
    copy *c = take("tests/golden/model-a/model");
    for (int i = 0; i < 4; i++) {
        q3_st_tensor *t = tensor(c, names[i]), good = *t;
        t->shape[0]--; // too small
        put(c);
        refused(dir, &plain, names[i]);
        *t = c->tensors[--c->n]; // missing
        put(c);
        refused(dir, &plain, names[i]);
        c->tensors[c->n++] = *t;
        *t = good;
    }
    c->tensors[c->n] = *tensor(c, "model.visual.blocks.1.norm2.bias");
    c->tensors[c->n++].name = "model.visual.blocks.7.norm2.bias"; // one too many
    put(c);
    refused(dir, &plain, "model.visual.blocks.7.norm2.bias");
    q3_safetensors_close(c->file);
    refused(join(dir, "nowhere"), &plain, "nowhere");
}

static void four_bits_on_loading_are_those_of_the_quantized_directory(void **state)
{
    (void)state;
    q3_load_options o = plain;
    o.load_in_4bit = true;
    for (int m = 0; m < 2; m++) {
        q3_model a = load(join(models[m], "model"), &o), b = load(join(models[m], "model-nf4"), &plain);
        same_parameters(&a, &b);
        assert_true(a.quantized_params > 0 && a.quantized_params == b.quantized_params &&
                    a.quantized_bytes == b.quantized_bytes);
        for (int i = 0; i < a.n_params; i++) {
            const q3_tensor *x = a.params[i].tensor, *y = b.params[i].tensor;
            assert_int_equal(x->dtype == Q3_NF4, strstr(x->name, "_proj.weight") != NULL);
            if (x->dtype == Q3_NF4)
                assert_memory_equal(x->absmax, y->absmax, (size_t)((q3_numel(x) + 63) / 64) * sizeof(float));
        }
        q3_model_close(&a);
        q3_model_close(&b);
    }
}

static void check_int8(const q3_tensor *x, const q3_tensor *full)
{
    assert_int_equal(x->block, x->shape[1]);
    const q3_weight a = q3_as_weight(x), b = q3_as_weight(full);
    for (int64_t i = 0; i < q3_numel(x); i++)
        if (!(fabsf(q3_weight_at(&a, i) - q3_weight_at(&b, i)) <= 0.5001f / 127 * x->absmax[i / x->block]))
            fail_msg("%s, element %lld: %g became %g", x->name, (long long)i, (double)q3_weight_at(&b, i),
                     (double)q3_weight_at(&a, i));
}

static void eight_bits_on_loading_are_near_by_half_a_step(void **state)
{
    (void)state;
    q3_load_options o = plain;
    o.load_in_8bit = true;
    q3_model a = load("tests/golden/model-a/model", &o), b = load("tests/golden/model-a/model", &plain);
    int64_t n = 0, bytes = 0;
    for (int i = 0; i < a.n_params; i++) {
        const q3_tensor *x = a.params[i].tensor, *y = b.params[i].tensor;
        assert_int_equal(x->dtype == Q3_I8, strstr(x->name, "_proj.weight") != NULL);
        if (x->dtype != Q3_I8)
            continue;
        check_int8(x, y);
        n += q3_numel(x);
        bytes += q3_numel(x) + 4 * x->shape[0];
    }
    assert_true(n > 0 && n == a.quantized_params && bytes == a.quantized_bytes);
    q3_model_close(&a);
    q3_model_close(&b);
}

static void add_tensor(copy *c, const char *module, const char *part, q3_dtype dtype, int64_t n,
                       const void *data)
{
    q3_st_tensor t = { .dtype = dtype, .ndim = n > 1, .shape = { n }, .data = data };
    t.name = q3_arena_printf(&mem, "%s%s", module, part);
    c->tensors[c->n++] = t;
}

/* The projections in int8, as bitsandbytes stores them. */
static copy *take_in_int8(const char *from)
{
    static const uint8_t row_by_row = 0;
    copy *c = take(from);
    for (int i = 0, n = c->n; i < n; i++) {
        q3_st_tensor *t = &c->tensors[i];
        if (!strstr(t->name, "_proj.weight"))
            continue;
        int8_t *codes = Q3_NEW(&mem, int8_t, q3_st_elements(t));
        float *absmax = Q3_NEW(&mem, float, t->shape[0]);
        q3_int8_quantize_cpu(
            &(q3_int8_quantize_args){ codes, absmax, t->data, t->dtype, t->shape[0], t->shape[1] });
        const char *module =
            q3_arena_printf(&mem, "%.*s", (int)(strlen(t->name) - strlen("weight")), t->name);
        add_tensor(c, module, "SCB", Q3_F32, t->shape[0], absmax);
        add_tensor(c, module, "weight_format", Q3_U8, 1, &row_by_row);
        t->dtype = Q3_I8;
        t->dtype_name = NULL;
        t->data = codes;
    }
    return c;
}

/* The 4-bit model's config, with the one word for the other; the length stays. */
static void put_int8_config(void)
{
    static const char *const four = "\"load_in_4bit\": true", *const eight = "\"load_in_8bit\": false";
    char *text, *at;
    size_t size;
    must(q3_file_read(&text, &size, "tests/golden/model-a/model-nf4/config.json", 1 << 20));
    at = strstr(text, four);
    assert_non_null(at);
    memcpy(at, "\"load_in_4bit\":false", strlen(four));
    at = strstr(text, eight);
    assert_non_null(at);
    memcpy(at, "\"load_in_8bit\":  true", strlen(eight));
    must(q3_file_write(join(dir, "config.json"), text, size));
    q3_free(text);
}

static void an_int8_directory_is_read_as_it_is(void **state)
{
    (void)state;
    q3_load_options o = plain;
    o.load_in_8bit = true;
    copy *c = take_in_int8("tests/golden/model-a/model");
    put_int8_config();
    put(c);
    q3_model a = load("tests/golden/model-a/model", &o), b = load(dir, &plain);
    assert_true(b.config.quantization.present && b.config.quantization.code == Q3_I8);
    assert_true(b.quantized_params > 0 && a.quantized_params == b.quantized_params &&
                a.quantized_bytes == b.quantized_bytes);
    same_parameters(&a, &b);
    for (int i = 0; i < a.n_params; i++) {
        const q3_tensor *x = a.params[i].tensor, *y = b.params[i].tensor;
        assert_int_equal(x->block, y->block);
        if (x->dtype == Q3_I8)
            assert_memory_equal(x->absmax, y->absmax, (size_t)x->shape[0] * sizeof(float));
    }
    q3_model_close(&a);
    q3_model_close(&b);
    q3_safetensors_close(c->file);
}

static void int8_weights_that_do_not_fit_are_named(void **state)
{
    (void)state;
    static const float scales[1] = { NAN };
    static const uint8_t other = 3;
    copy *c = take_in_int8("tests/golden/model-a/model");
    q3_st_tensor *t = tensor(c, "model.language_model.layers.2.mlp.up_proj.weight"), good = *t;
    t->shape[0]--;
    put(c);
    refused(dir, &plain, "layers.2.mlp.up_proj.weight is ");
    *t = good;
    t = tensor(c, "model.language_model.layers.2.mlp.up_proj.weight_format"), good = *t;
    t->data = &other;
    put(c);
    refused(dir, &plain, "up_proj.weight_format is 3; int8 weights are read row by row");
    *t = good;
    t = tensor(c, "model.language_model.layers.2.mlp.up_proj.SCB"), good = *t;
    t->shape[0] = 1;
    t->data = scales;
    put(c);
    refused(dir, &plain, "up_proj.SCB is F32 [1]; expected F32 with ");
    t->shape[0] = good.shape[0];
    float *nan = Q3_ZNEW(&mem, float, t->shape[0]);
    nan[0] = NAN;
    t->data = nan;
    put(c);
    refused(dir, &plain, "up_proj.SCB holds NaN");
    *t = c->tensors[--c->n];
    put(c);
    refused(dir, &plain, "there is no SCB beside it");
    q3_safetensors_close(c->file);
}

static void modules_are_skipped_by_their_beginning_or_end(void **state)
{
    (void)state;
    static const char *const names[] = { "model.visual", "down_proj" };
    const q3_load_options own = { .skip = names, .n_skip = 2 };
    assert_true(q3_module_skipped(&plain, "model.visual.blocks.0.attn.qkv"));
    assert_true(q3_module_skipped(&plain, "lm_head"));
    assert_false(q3_module_skipped(&plain, "model.language_model.layers.0.mlp.down_proj"));
    assert_true(q3_module_skipped(&own, "model.language_model.layers.0.mlp.down_proj"));
    assert_false(q3_module_skipped(&own, "lm_head"));
    assert_false(q3_module_skipped(&own, "model.language_model.layers.0.mlp.up_proj"));
}

static q3_model random_model(uint64_t seed, int threads)
{
    q3_pool_start(threads);
    q3_load_options o = plain;
    o.random = true;
    o.seed = seed;
    q3_model m = load("tests/golden/model-b/model", &o);
    q3_pool_stop();
    return m;
}

static void random_weights_depend_on_the_seed_alone(void **state)
{
    (void)state;
    q3_model a = random_model(5, 1), b = random_model(5, 3), c = random_model(6, 1);
    same_parameters(&a, &b);
    assert_memory_not_equal(a.embed->data, c.embed->data, q3_nbytes(a.embed));
    assert_memory_not_equal(a.layers[0].q.w->data, a.layers[1].q.w->data, q3_nbytes(a.layers[0].q.w));
    double sum = 0, squares = 0, n = (double)q3_numel(a.embed);
    for (int64_t i = 0; i < q3_numel(a.embed); i++) {
        sum += q3_f32(a.embed)[i];
        squares += (double)q3_f32(a.embed)[i] * q3_f32(a.embed)[i];
    }
    assert_true(fabs(sum / n) < 0.002 &&
                fabs(sqrt(squares / n) - 0.08) < 0.002); // initializer_range of the config
    assert_true(q3_f32(a.norm.w)[3] == 1 && q3_f32(a.blocks[1].fc1.b)[2] == 0 &&
                q3_f32(a.merger.norm.w)[0] == 1);
}

static void saved_models_are_the_reference_files(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        const char *from = join(models[m], "model");
        q3_model model, again;
        q3_trainable all;
        load_to(&model, from);
        must(q3_model_train_all(&all, &model, &mem));
        assert_int_equal(all.n_slots, model.n_params);
        must(q3_model_save(&model, from, dir, Q3_F32));
        same_files(join(dir, "model.safetensors"), join(from, "model.safetensors"));
        same_files(join(dir, "config.json"), join(from, "config.json"));
        same_files(join(dir, "generation_config.json"), join(from, "generation_config.json"));
        again = load(dir, &plain);
        same_parameters(&model, &again);
        q3_model_close(&model);
        q3_model_close(&again);
    }
}

static void trained_values_are_what_is_saved(void **state)
{
    (void)state;
    q3_model model, again;
    q3_trainable all;
    load_to(&model, "tests/golden/model-b/model");
    must(q3_model_train_all(&all, &model, &mem));
    for (int64_t i = 0; i < all.n; i++)
        all.values[i] += 0.5f;
    must(q3_model_save(&model, "tests/golden/model-b/model", dir, Q3_F32));
    again = load(dir, &plain);
    same_parameters(&model, &again);
    assert_memory_equal(again.head->data, model.head->data, q3_nbytes(again.head));
    q3_model_close(&model);
    q3_model_close(&again);
}

static void bf16_models_round_each_value(void **state)
{
    (void)state;
    const char *from = "tests/golden/model-a/model";
    q3_model model, again;
    q3_trainable all;
    load_to(&model, from);
    must(q3_model_train_all(&all, &model, &mem));
    must(q3_model_save(&model, from, dir, Q3_BF16));
    q3_safetensors *file = q3_golden_open(join(dir, "model.safetensors")),
                   *old = q3_golden_open(join(from, "model.safetensors"));
    for (int64_t i = 0; i < q3_safetensors_count(file); i++) {
        const q3_st_tensor *t = q3_safetensors_at(file, i), *w = q3_golden_find(old, t->name);
        assert_int_equal(t->dtype, Q3_BF16);
        assert_int_equal(t->ndim, w->ndim);
        assert_memory_equal(t->shape, w->shape, sizeof t->shape[0] * (size_t)t->ndim);
        for (int64_t k = 0; k < q3_st_elements(t); k++)
            assert_int_equal(((const uint16_t *)t->data)[k], q3_f32_to_bf16(((const float *)w->data)[k]));
    }
    again = load(dir, &plain);
    assert_int_equal(again.config.dtype, Q3_BF16);
    assert_int_equal(again.layers[0].q.w->dtype, Q3_BF16);
    assert_int_equal(again.norm.w->dtype, Q3_F32); // widened
    q3_safetensors_close(file);
    q3_safetensors_close(old);
    q3_model_close(&model);
    q3_model_close(&again);
}

static void a_quantized_model_cannot_be_trained_whole(void **state)
{
    (void)state;
    q3_model model = load("tests/golden/model-a/model-nf4", &plain);
    q3_trainable all;
    assert_int_equal(q3_model_train_all(&all, &model, &mem), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "4 bits"));
    q3_model_close(&model);
}

static void quantized_directories_equal_those_of_bitsandbytes(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        const char *want = join(models[m], "model-nf4");
        must(q3_model_quantize(join(models[m], "model"), dir, &plain));
        same_files(join(dir, "model.safetensors"), join(want, "model.safetensors"));
        same_files(join(dir, "config.json"), join(want, "config.json"));
        same_files(join(dir, "generation_config.json"), join(want, "generation_config.json"));
    }
    char again[500];
    snprintf(again, sizeof again, "%s/again", dir);
    assert_int_equal(q3_model_quantize(dir, again, &plain), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "4 bits already"));
}

/* The names of a text-only model have no "language_model." in its own class. */
/* Types that the quantizer cannot read are refused, not taken for floats. */
static void matrices_of_other_types_are_not_quantized(void **state)
{
    (void)state;
    copy *c = take("tests/golden/model-a/model");
    q3_st_tensor *w = tensor(c, "model.language_model.layers.0.self_attn.q_proj.weight");
    w->dtype = Q3_DTYPES;
    w->dtype_name = "F8_E4M3";
    put(c);
    assert_int_equal(q3_model_quantize(dir, join(dir, "nf4"), &plain), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "self_attn.q_proj.weight is F8_E4M3"));
    q3_safetensors_close(c->file);
}

static void a_wrong_initializer_range_is_the_models_fault(void **state)
{
    (void)state;
    char *text;
    size_t size;
    must(q3_file_read(&text, &size, "tests/golden/model-a/model/config.json", 1 << 20));
    char *at = strstr(text, "\"initializer_range\": 0.08");
    assert_non_null(at);
    memcpy(strstr(at, "0.08"), "true", 4);
    must(q3_file_write(join(dir, "config.json"), text, size));
    q3_free(text);
    q3_load_options o = plain;
    o.random = true;
    refused(dir, &o, "\"initializer_range\" must be a number");
}

static void text_only_models_keep_their_names(void **state)
{
    (void)state;
    const char *from = "tests/golden/formats/reranker-model";
    q3_model model;
    q3_trainable all;
    load_to(&model, from);
    must(q3_model_train_all(&all, &model, &mem));
    must(q3_model_save(&model, from, dir, Q3_F32));
    same_files(join(dir, "model.safetensors"), join(from, "model.safetensors"));
    must(q3_model_save(&model, from, dir, Q3_BF16));
    q3_model_close(&model);
    must(q3_model_quantize(from, dir, &plain));
    q3_safetensors *file = q3_golden_open(join(dir, "model.safetensors"));
    q3_golden_find(file, "model.layers.0.self_attn.q_proj.weight.absmax");
    q3_golden_find(file, "model.norm.weight");
    q3_safetensors_close(file);
    model = load(dir, &plain);
    assert_int_equal(model.layers[0].q.w->dtype, Q3_NF4);
    q3_model_close(&model);
}

static q3_status load_train_save(const char *path)
{
    q3_model m;
    q3_trainable all;
    char nf4[500];
    snprintf(nf4, sizeof nf4, "%s/nf4", dir);
    q3_status st = q3_model_load(&m, &mem, path, &plain);
    st = st ? st : q3_model_train_all(&all, &m, &mem);
    st = st ? st : q3_model_save(&m, path, dir, Q3_BF16);
    q3_model_close(&m);
    return st ? st : q3_model_quantize(path, nf4, &plain);
}

/* Some of the many allocations: every one at first, then further and further apart. */
static void allocations_may_fail(void **state)
{
    (void)state;
    int failures = 0;
    for (int64_t n = 1;; n += 1 + n / 8) {
        size_t mark = q3_arena_mark(&mem);
        q3_heap_fail_at(n);
        q3_status st = load_train_save("tests/golden/model-a/model");
        q3_heap_fail_at(0);
        q3_arena_rewind(&mem, mark);
        if (st == Q3_OK)
            break;
        assert_int_equal(st, Q3_ERR_MEMORY);
        failures++;
    }
    assert_true(failures > 40);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(parameters_have_the_names_and_values_of_the_file),
        TEST(both_forms_of_config_load_the_same_model),
        TEST(a_head_in_a_tied_model_is_not_used_and_a_missing_one_is_tied),
        TEST(tensors_that_do_not_fit_the_config_are_named),
        TEST(four_bits_on_loading_are_those_of_the_quantized_directory),
        TEST(eight_bits_on_loading_are_near_by_half_a_step),
        TEST(an_int8_directory_is_read_as_it_is),
        TEST(int8_weights_that_do_not_fit_are_named),
        TEST(modules_are_skipped_by_their_beginning_or_end),
        TEST(random_weights_depend_on_the_seed_alone),
        TEST(saved_models_are_the_reference_files),
        TEST(trained_values_are_what_is_saved),
        TEST(bf16_models_round_each_value),
        TEST(a_quantized_model_cannot_be_trained_whole),
        TEST(quantized_directories_equal_those_of_bitsandbytes),
        TEST(matrices_of_other_types_are_not_quantized),
        TEST(a_wrong_initializer_range_is_the_models_fault),
        TEST(text_only_models_keep_their_names),
        TEST(allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
