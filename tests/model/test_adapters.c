#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "model/adapters.h"
#include "model/qwen3vl.h"
#include "model/weights.h"
#include "tests/support/golden.h"

enum { MODELS = 2 };

static const char *const roots[MODELS] = { "tests/golden/model-a", "tests/golden/model-b" };

static q3_arena mem, step;
static q3_ctx ctx;
static q3_model model;
static q3_adapters adapters;

static void ok(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static int prepare(void **state)
{
    (void)state;
    ok(q3_arena_create(&mem, "test arena", (size_t)1 << 28));
    ok(q3_arena_create(&step, "step arena", (size_t)1 << 28));
    ok(q3_ctx_create(&ctx, &step));
    return 0;
}

static int release(void **state)
{
    (void)state;
    q3_model_close(&model);
    q3_ctx_destroy(&ctx);
    q3_arena_destroy(&step);
    q3_arena_destroy(&mem);
    return 0;
}

static const char *join(const char *a, const char *b)
{
    char *path = q3_arena_printf(&mem, "%s/%s", a, b);
    assert_non_null(path);
    return path;
}

static void open_model(const char *path)
{
    q3_model_close(&model);
    ok(q3_model_load(&model, &mem, path, &(q3_load_options){ .code = Q3_NF4 }));
    ok(q3_adapters_create(&adapters, &mem, 4));
}

static q3_status load(const char *dir)
{
    return q3_adapters_load(&adapters, &model, &mem, &mem, dir, dir);
}

/* Logits of the batch of forward-right-padded, [B, L, V] without padding, through the runs. */
static float *logits(int m, const q3_adapter_run *runs, int n_runs, q3_batch *b)
{
    const q3_model_config *c = &model.config;
    q3_safetensors *file = q3_golden_open(join(roots[m], "forward-right-padded.safetensors"));
    q3_padded p = q3_golden_batch(&mem, file, "in.");
    ok(q3_unpad(b, &mem, &p, c->image_token, c->video_token, c->vision.merge_size));
    q3_safetensors_close(file);
    int64_t n = b->n_tokens * c->text.vocab_size;
    float *out = Q3_NEW(&mem, float, n);
    const q3_forward f = { .runs = runs, .n_runs = n_runs };
    q3_step_begin(&ctx, false);
    q3_read(out, &ctx, q3_qwen3vl_logits(&ctx, &model, &f, b, NULL, 0));
    ok(q3_ctx_status(&ctx));
    return out;
}

/* What the reference gives for the same tokens with the final adapter. */
static double distance_to_golden(int m, const float *got, const q3_batch *b)
{
    q3_safetensors *file = q3_golden_open(join(roots[m], "lora-fp32-final-forward.safetensors"));
    const q3_st_tensor *want = q3_golden_find(file, "out.logits");
    int64_t V = model.config.text.vocab_size, L = want->shape[1];
    double worst = 0;
    assert_int_equal(want->shape[0], b->n_rows);
    for (int i = 0; i < b->n_rows; i++) {
        int64_t begin = b->row_begin[i], n = b->row_begin[i + 1] - begin;
        double d = q3_golden_distance(got + begin * V, (const float *)want->data + i * L * V, n * V);
        worst = d > worst ? d : worst;
    }
    q3_safetensors_close(file);
    return worst;
}

static void the_model_is_left_without_an_adapter(void **state)
{
    (void)state;
    open_model("tests/golden/model-a/model");
    ok(load("tests/golden/model-a/lora-fp32-final"));
    assert_int_equal(adapters.n, 1);
    int parts = 0;
    for (int i = 0; i < model.n_projections; i++) {
        assert_null(model.projections[i]->lora_a);
        assert_null(model.projections[i]->lora_b);
        parts += adapters.list[0].parts[i].a != NULL;
    }
    assert_int_equal(parts, 7 * model.config.text.layers);
    assert_false(adapters.list[0].vision);
    assert_true(adapters.list[0].parts[model.layers[0].q.stream].scale == 2); // alpha 16, r 8
}

static void a_run_over_all_tokens_is_the_reference(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        open_model(join(roots[m], "model"));
        ok(load(join(roots[m], "lora-fp32-final")));
        const q3_adapter_run run = { &adapters.list[0], 0, INT64_MAX };
        q3_batch b;
        assert_true(distance_to_golden(m, logits(m, &run, 1, &b), &b) < 1e-5);
        assert_true(distance_to_golden(m, logits(m, NULL, 0, &b), &b) > 1e-3);
    }
}

/* Rows do not see each other, so each is as if the others had its adapter too. */
static void runs_do_not_touch_other_tokens(void **state)
{
    (void)state;
    open_model("tests/golden/model-a/model");
    ok(load("tests/golden/model-a/lora-fp32-final"));
    ok(load("tests/golden/model-a/lora-nf4-final"));
    int64_t V = model.config.text.vocab_size;
    q3_batch b;
    const float *base = logits(0, NULL, 0, &b);
    const q3_adapter *first = &adapters.list[0], *second = &adapters.list[1];
    const q3_adapter_run all = { first, 0, INT64_MAX }, other = { second, 0, INT64_MAX };
    const float *with_first = logits(0, &all, 1, &b), *with_second = logits(0, &other, 1, &b);
    const int64_t *at = b.row_begin;
    assert_true(b.n_rows >= 3);
    const q3_adapter_run mixed[] = { { first, at[0], at[1] - at[0] },
                                     { NULL, at[1], at[2] - at[1] },
                                     { second, at[2], at[3] - at[2] } };
    const float *got = logits(0, mixed, 3, &b);
    const float *want[] = { with_first, base, with_second };
    for (int i = 0; i < 3; i++)
        assert_true(q3_golden_distance(got + at[i] * V, want[i] + at[i] * V, (at[i + 1] - at[i]) * V) < 1e-6);
    assert_true(q3_golden_distance(with_first, with_second, at[3] * V) > 1e-4);
}

static void merging_gives_the_same_logits(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        open_model(join(roots[m], "model"));
        ok(load(join(roots[m], "lora-fp32-final")));
        ok(q3_adapter_merge(&model, &mem, &adapters.list[0]));
        q3_batch b;
        assert_true(distance_to_golden(m, logits(m, NULL, 0, &b), &b) < 1e-5);
        q3_model_close(&model);
        open_model(join(roots[m], "model")); // whose files are as they were
        assert_true(distance_to_golden(m, logits(m, NULL, 0, &b), &b) > 1e-3);
    }
}

/* The values are multiplied out in f32 and rounded once. */
static void half_matrices_stay_half(void **state)
{
    (void)state;
    static const q3_dtype types[] = { Q3_BF16, Q3_F16 };
    open_model("tests/golden/model-a/model");
    ok(load("tests/golden/model-a/lora-fp32-final"));
    for (int k = 0; k < 2; k++) {
        q3_tensor *w = model.layers[k].gate.w;
        const q3_adapter_part *part = &adapters.list[0].parts[model.layers[k].gate.stream];
        int64_t n = q3_numel(w), C = w->shape[1], r = part->a->shape[0];
        const float *a = part->a->data, *b = part->b->data;
        float *before = Q3_NEW(&mem, float, n), *after = Q3_NEW(&mem, float, n);
        uint16_t *half = Q3_NEW(&mem, uint16_t, n);
        for (int64_t i = 0; i < n; i++)
            half[i] =
                types[k] == Q3_BF16 ? q3_f32_to_bf16(0.01f * (float)(i % 97)) : (uint16_t)(0x3000 + i % 97);
        w->data = half;
        w->dtype = types[k];
        q3_widen(before, half, types[k], n);
        q3_adapter one = { .name = "one", .parts = Q3_ZNEW(&mem, q3_adapter_part, model.n_projections) };
        one.parts[model.layers[k].gate.stream] = *part;
        ok(q3_adapter_merge(&model, &mem, &one));
        assert_true(w->dtype == types[k] && w->data != half);
        q3_widen(after, w->data, types[k], n);
        for (int64_t i = 0; i < n; i++) {
            double want = before[i];
            for (int64_t j = 0; j < r; j++)
                want += (double)part->scale * b[i / C * r + j] * a[j * C + i % C];
            double unit = types[k] == Q3_BF16 ? 1.0 / 256 : 1.0 / 2048; // half a step, relative
            double size = want < 0 ? -want : want, off = after[i] - want;
            assert_true((off < 0 ? -off : off) <= 1.01 * unit * size + 1e-6);
        }
    }
    q3_model_close(&model);
}

static void quantized_matrices_are_not_merged_into(void **state)
{
    (void)state;
    open_model("tests/golden/model-a/model-nf4");
    ok(load("tests/golden/model-a/lora-nf4-final"));
    assert_int_equal(q3_adapter_merge(&model, &mem, &adapters.list[0]), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "quantized"));
}

static void the_hash_is_that_of_the_values(void **state)
{
    (void)state;
    open_model("tests/golden/model-a/model");
    ok(load("tests/golden/model-a/lora-fp32-init"));
    ok(load("tests/golden/model-a/lora-fp32-final"));
    ok(load("tests/golden/model-a/lora-fp32-init"));
    const size_t bytes = sizeof adapters.list[0].hash;
    assert_memory_equal(adapters.list[0].hash, adapters.list[2].hash, bytes);
    assert_memory_not_equal(adapters.list[0].hash, adapters.list[1].hash, bytes);
}

static void an_adapter_of_the_tower_says_so(void **state)
{
    (void)state;
    static const char *const targets[] = { "attn.qkv" };
    const q3_lora_config config = { .r = 2, .alpha = 4, .targets = targets, .n_targets = 1, .base = "model" };
    const char *base = getenv("Q3_TEST_DIR"), *dir = join(base ? base : "/tmp/q3-test", "tower");
    q3_trainable t;
    open_model("tests/golden/model-a/model");
    ok(q3_dir_create(dir));
    ok(q3_lora_create(&t, &model, &mem, &config, 3));
    ok(q3_lora_save(&t, &config, dir));
    ok(load(dir));
    assert_true(adapters.list[0].vision);
}

static void a_directory_that_is_none_changes_nothing(void **state)
{
    (void)state;
    open_model("tests/golden/model-a/model");
    assert_int_equal(load("tests/golden/model-b/lora-fp32-final"), Q3_ERR_MODEL); // other shapes
    assert_int_equal(load("tests/golden/nowhere"), Q3_ERR_MODEL);
    assert_int_equal(adapters.n, 0);
    assert_true(model.values == &mem);
    for (int i = 0; i < model.n_projections; i++)
        assert_null(model.projections[i]->lora_a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_model_is_left_without_an_adapter),
        cmocka_unit_test(a_run_over_all_tokens_is_the_reference),
        cmocka_unit_test(runs_do_not_touch_other_tokens),
        cmocka_unit_test(merging_gives_the_same_logits),
        cmocka_unit_test(half_matrices_stay_half),
        cmocka_unit_test(quantized_matrices_are_not_merged_into),
        cmocka_unit_test(the_hash_is_that_of_the_values),
        cmocka_unit_test(an_adapter_of_the_tower_says_so),
        cmocka_unit_test(a_directory_that_is_none_changes_nothing),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
