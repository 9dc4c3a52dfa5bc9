#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/json.h"
#include "kernels/gradient.h"
#include "kernels/pool.h"
#include "model/weights.h"
#include "tests/support/golden.h"
#include "train/trainer.h"

/* Six optimizer steps of two micro-batches with PEFT and torch's AdamW; see tests/golden/README.md. */
enum { STEPS = 6, MICRO = 2 };
#define BOUND 1e-4

typedef struct run {
    q3_arena mem, values;
    q3_ctx ctx;
    q3_model model;
    q3_trainable trainable;
    q3_lora_config lora;
    q3_params params;
    q3_clip clip;
    q3_optimizer *optimizer;
    q3_grad_tree tree;
    q3_forward forward;
    q3_safetensors *batches;
    double micro_sum[MICRO], norm, lr; /* of the last step */
    int64_t supervised;
} run;

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_optimizer(run *r)
{
    q3_param *table = Q3_NEW(&r->mem, q3_param, r->trainable.n_slots);
    assert_non_null(table);
    for (int i = 0; i < r->trainable.n_slots; i++) {
        const q3_trainable_slot *s = &r->trainable.slots[i];
        table[i] = (q3_param){ s->name, s->offset, s->n, q3_param_decays(s->name) };
    }
    r->params = (q3_params){
        .values = r->trainable.values, .total = r->trainable.n, .table = table, .n = r->trainable.n_slots
    };
    const q3_adamw_hyper hyper = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01 };
    must(q3_clip_create(&r->clip, &r->mem, &r->mem, &r->params));
    must(q3_optimizer_create(&r->optimizer, &r->mem, &r->mem, Q3_OPTIMIZER_ADAMW, &r->params, &hyper));
}

static run *open_run(const char *golden, const char *model)
{
    char path[256];
    run *r = calloc(1, sizeof *r);
    assert_non_null(r);
    must(q3_arena_create(&r->mem, "run arena", (size_t)1 << 28));
    must(q3_arena_create(&r->values, "step arena", (size_t)1 << 28));
    must(q3_ctx_create(&r->ctx, &r->values));
    r->forward.training = true;
    snprintf(path, sizeof path, "%s/%s", golden, model);
    must(q3_model_load(&r->model, &r->mem, path, &(q3_load_options){ .code = Q3_NF4 }));
    snprintf(path, sizeof path, "%s/lora-fp32-init", golden);
    must(q3_lora_load(&r->trainable, &r->lora, &r->model, &r->mem, path));
    open_optimizer(r);
    snprintf(path, sizeof path, "%s/lora-batches.safetensors", golden);
    r->batches = q3_golden_open(path);
    return r;
}

static void close_run(run *r)
{
    q3_safetensors_close(r->batches);
    q3_model_close(&r->model);
    q3_ctx_destroy(&r->ctx);
    q3_arena_destroy(&r->values);
    q3_arena_destroy(&r->mem);
    free(r);
}

static void micro_batch(run *r, int step, int micro)
{
    char prefix[16];
    q3_batch b;
    size_t mark = q3_arena_mark(&r->mem);
    snprintf(prefix, sizeof prefix, "%d-%d.", step, micro);
    const q3_padded p = q3_golden_batch(&r->mem, r->batches, prefix);
    must(q3_unpad(&b, &r->mem, &p, r->model.config.image_token, r->model.config.video_token, 2));
    q3_step_begin(&r->ctx, true);
    q3_tensor *loss = q3_qwen3vl_loss(&r->ctx, &r->model, &r->forward, &b, 1);
    q3_backward(&r->ctx, loss, 1);
    must(q3_ctx_status(&r->ctx));
    r->micro_sum[micro] = *q3_f32(loss);
    r->supervised += q3_batch_targets(&b, NULL, NULL);
    q3_arena_rewind(&r->mem, mark);
}

/* As train/step.c with loss_normalization token_mean. */
static void train_step(run *r, int step)
{
    const q3_schedule schedule = {
        .kind = Q3_SCHEDULE_COSINE, .lr = 2e-3, .warmup_steps = 2, .total_steps = STEPS
    };
    r->supervised = 0;
    r->lr = q3_schedule_lr(&schedule, step);
    must(q3_grad_tree_begin(&r->tree, &r->mem, &r->trainable));
    for (int micro = 0; micro < MICRO; micro++) {
        micro_batch(r, step, micro);
        must(q3_grad_tree_push(&r->tree, &r->mem, &r->trainable));
    }
    r->params.grads = q3_grad_tree_sum(&r->tree, NULL);
    q3_gradient_scale_cpu(&(q3_gradient_args){
        .g = r->params.grads, .n = r->params.total, .factor = (float)(1.0 / (double)r->supervised) });
    must(q3_clip_gradients(&r->norm, &r->clip, 1.0));
    q3_optimizer_step(r->optimizer, r->params.grads, r->lr);
}

static void near(double got, double want, int step, const char *what)
{
    if (!(fabs(got - want) <= BOUND * fabs(want)))
        fail_msg("step %d: %s is %.9g, want %.9g", step + 1, what, got, want);
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    assert_true(cJSON_IsNumber(v));
    return v->valuedouble;
}

static void compare_step(const run *r, int step, const cJSON *want)
{
    double sum = 0;
    for (int micro = 0; micro < MICRO; micro++) {
        const cJSON *loss = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(want, "micro_losses"), micro);
        near(r->micro_sum[micro] / (double)r->supervised, cJSON_GetNumberValue(loss), step,
             "a micro-batch's loss");
        sum += r->micro_sum[micro];
    }
    near(sum / (double)r->supervised, number(want, "loss"), step, "the loss");
    near(r->norm, number(want, "grad_norm"), step, "the gradient norm");
    assert_true(r->lr == number(want, "learning_rate"));
}

static void compare_adapter(const run *r, const char *dir)
{
    char path[256];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    q3_safetensors *file = q3_golden_open(path);
    assert_int_equal(q3_safetensors_count(file), r->trainable.n_slots);
    for (int i = 0; i < r->trainable.n_slots; i++) {
        const q3_trainable_slot *s = &r->trainable.slots[i];
        double d =
            q3_golden_distance(r->trainable.values + s->offset, q3_golden_find(file, s->name)->data, s->n);
        if (!(d <= BOUND))
            fail_msg("%s differs by %.3g", s->name, d);
    }
    q3_safetensors_close(file);
}

static void six_steps_equal_the_reference(const char *golden, const char *model, const char *tag)
{
    char path[256], key[32];
    q3_json doc;
    run *r = open_run(golden, model);
    snprintf(path, sizeof path, "%s/golden.json", golden);
    must(q3_json_open(&doc, path, 1 << 20));
    snprintf(key, sizeof key, "lora_%s", tag);
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(doc.root, key);
    assert_int_equal(cJSON_GetArraySize(steps), STEPS);
    for (int step = 0; step < STEPS; step++) {
        train_step(r, step);
        compare_step(r, step, cJSON_GetArrayItem(steps, step));
    }
    snprintf(path, sizeof path, "%s/lora-%s-final", golden, tag);
    compare_adapter(r, path);
    q3_json_close(&doc);
    close_run(r);
}

static void six_float32_steps_equal_peft(void **state)
{
    (void)state;
    six_steps_equal_the_reference("tests/golden/model-a", "model", "fp32");
    six_steps_equal_the_reference("tests/golden/model-b", "model", "fp32");
}

static void six_nf4_steps_equal_peft(void **state)
{
    (void)state;
    six_steps_equal_the_reference("tests/golden/model-a", "model-nf4", "nf4");
    six_steps_equal_the_reference("tests/golden/model-b", "model-nf4", "nf4");
}

/* Adapter values after two steps with the given way of computing them. */
static float *two_steps(q3_checkpointing checkpointing, float dropout, int threads)
{
    q3_pool_start(threads);
    run *r = open_run("tests/golden/model-a", "model-nf4");
    r->forward.checkpointing = checkpointing;
    for (int i = 0; i < r->model.n_projections; i++)
        r->model.projections[i]->lora_dropout = dropout;
    for (int step = 1; step < 3; step++) // the first one has rate 0
        train_step(r, step);
    size_t bytes = (size_t)r->trainable.n * sizeof(float);
    float *values = malloc(bytes);
    assert_non_null(values);
    memcpy(values, r->trainable.values, bytes);
    close_run(r);
    q3_pool_stop();
    return values;
}

static void dropout_is_the_same_under_checkpointing_and_threads(void **state)
{
    (void)state;
    run *r = open_run("tests/golden/model-a", "model");
    size_t bytes = (size_t)r->trainable.n * sizeof(float);
    close_run(r);
    float *plain = two_steps(Q3_CHECKPOINT_NONE, 0.3f, 1), *again = two_steps(Q3_CHECKPOINT_FULL, 0.3f, 2);
    float *half = two_steps(Q3_CHECKPOINT_HALF, 0.3f, 3), *none = two_steps(Q3_CHECKPOINT_NONE, 0, 1);
    assert_memory_equal(plain, again, bytes);
    assert_memory_equal(plain, half, bytes);
    assert_memory_not_equal(plain, none, bytes);
    free(plain);
    free(again);
    free(half);
    free(none);
}

/* A frozen vision tower leaves nothing on the tape, checkpointed or not. */
static void frozen_parts_are_not_differentiated(void **state)
{
    (void)state;
    for (int c = Q3_CHECKPOINT_NONE; c <= Q3_CHECKPOINT_FULL; c++) {
        run *r = open_run("tests/golden/model-a", "model");
        q3_batch b;
        r->forward.checkpointing = (q3_checkpointing)c;
        const q3_padded p = q3_golden_batch(&r->mem, r->batches, "0-1.");
        must(q3_unpad(&b, &r->mem, &p, r->model.config.image_token, r->model.config.video_token, 2));
        assert_true(b.n_images > 0);
        must(q3_grad_tree_begin(&r->tree, &r->mem, &r->trainable));
        q3_step_begin(&r->ctx, true);
        q3_vision_features features = q3_vision_forward(&r->ctx, &r->model, &r->forward, &b);
        assert_false(features.merged->needs_grad);
        assert_null(r->ctx.last);
        assert_true(q3_text_forward(&r->ctx, &r->model, &r->forward, &b, &features)->needs_grad);
        assert_non_null(r->ctx.last);
        close_run(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_float32_steps_equal_peft),
        cmocka_unit_test(six_nf4_steps_equal_peft),
        cmocka_unit_test(dropout_is_the_same_under_checkpointing_and_threads),
        cmocka_unit_test(frozen_parts_are_not_differentiated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
