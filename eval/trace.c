#include "eval/trace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "collate/pack.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "data/hub.h"
#include "model/lora.h"
#include "model/qwen3vl.h"
#include "model/weights.h"

enum { MAX_TENSORS = 4096 };

typedef struct tracer {
    const q3_trace_options *o;
    q3_cuda *cuda;              // the device that computes; NULL: the CPU
    q3_arena run, values, step; // host; device: parameters and gradients, values of the pass
    q3_ctx ctx;
    q3_model model;
    q3_trainable trainable;
    float *grads;
    q3_safetensors *file;
    q3_padded padded;
    q3_batch batch;
    q3_st_tensor out[MAX_TENSORS];
    int n_out;
    q3_status status;
} tracer;

/* The tensor `name` of the batch file, with or without "in."; NULL when absent. */
static const q3_st_tensor *input(const tracer *t, const char *name)
{
    char prefixed[64];
    snprintf(prefixed, sizeof prefixed, "in.%s", name);
    const q3_st_tensor *s = q3_safetensors_find(t->file, prefixed);
    return s ? s : q3_safetensors_find(t->file, name);
}

static q3_status integers(int64_t **out, tracer *t, const char *name, int64_t rows, int64_t columns)
{
    const q3_st_tensor *s = input(t, name);
    *out = NULL;
    if (!s)
        return Q3_OK;
    if (s->dtype != Q3_I64 || s->ndim != 2 || (rows >= 0 && s->shape[0] != rows) || s->shape[1] != columns)
        return q3_fail(Q3_ERR_DATA, "%s: %s is %s %s; I64 with %lld columns is needed", t->o->batch, s->name,
                       q3_st_shape(s), s->dtype_name, (long long)columns);
    *out = (int64_t *)(uintptr_t)s->data;
    return Q3_OK;
}

static q3_status read_pictures(tracer *t)
{
    const q3_vision_config *v = &t->model.config.vision;
    const q3_st_tensor *grid = input(t, "image_grid_thw"), *pixels = input(t, "pixel_values");
    t->padded.patch_width = 3 * (int64_t)v->temporal_patch_size * v->patch_size * v->patch_size;
    if (!grid || !grid->bytes || !pixels)
        return Q3_OK;
    if (!t->model.config.has_vision)
        return q3_fail(Q3_ERR_DATA, "%s has pictures, and %s is a text-only model", t->o->batch, t->o->model);
    Q3_TRY(integers(&t->padded.image_grid_thw, t, "image_grid_thw", -1, 3));
    if (pixels->dtype != Q3_F32 || pixels->ndim != 2 || pixels->shape[1] != t->padded.patch_width)
        return q3_fail(Q3_ERR_DATA, "%s: pixel_values is %s %s; F32 with %lld columns is needed", t->o->batch,
                       q3_st_shape(pixels), pixels->dtype_name, (long long)t->padded.patch_width);
    t->padded.n_images = grid->shape[0];
    t->padded.n_patches = pixels->shape[0];
    t->padded.pixel_values = (float *)(uintptr_t)pixels->data;
    return Q3_OK;
}

static q3_status read_batch(tracer *t)
{
    Q3_TRY(q3_safetensors_open(&t->file, t->o->batch));
    const q3_st_tensor *ids = input(t, "input_ids");
    if (!ids || ids->ndim != 2 || !ids->bytes)
        return q3_fail(Q3_ERR_DATA, "%s: has no input_ids [B, L]", t->o->batch);
    q3_padded *p = &t->padded;
    p->rows = ids->shape[0];
    p->length = ids->shape[1];
    Q3_TRY(integers(&p->input_ids, t, "input_ids", p->rows, p->length));
    Q3_TRY(integers(&p->attention_mask, t, "attention_mask", p->rows, p->length));
    Q3_TRY(integers(&p->labels, t, "labels", p->rows, p->length));
    Q3_TRY(read_pictures(t));
    int64_t vocab = t->model.config.text.vocab_size;
    for (int64_t i = 0; i < p->rows * p->length; i++) {
        int64_t id = p->input_ids[i], label = p->labels ? p->labels[i] : -100;
        if (id < 0 || id >= vocab || label >= vocab || (label < 0 && label != -100))
            return q3_fail(
                Q3_ERR_DATA,
                "%s: row %lld, token %lld: id %lld or label %lld is outside the vocabulary of %lld",
                t->o->batch, (long long)(i / p->length), (long long)(i % p->length), (long long)id,
                (long long)label, (long long)vocab);
    }
    int merge = t->model.config.has_vision ? t->model.config.vision.merge_size : 2;
    q3_status st =
        q3_unpad(&t->batch, &t->run, p, t->model.config.image_token, t->model.config.video_token, merge);
    return st == Q3_OK ? st : q3_wrap(st, "%s", t->o->batch);
}

/* Adds an output; `data` must live to the end. */
static void output(tracer *t, const char *name, q3_dtype dtype, int ndim, const int64_t *shape,
                   const void *data)
{
    Q3_CHECK(t->n_out < MAX_TENSORS, "%d tensors", t->n_out);
    q3_st_tensor *s = &t->out[t->n_out++];
    *s = (q3_st_tensor){ .name = q3_arena_strdup(&t->run, name), .dtype = dtype, .ndim = ndim, .data = data };
    for (int i = 0; i < ndim; i++)
        s->shape[i] = shape[i];
    if (!s->name || !data)
        t->status = Q3_ERR_MEMORY;
}

static bool real(const q3_padded *p, int64_t at)
{
    return !p->attention_mask || p->attention_mask[at] != 0;
}

/* Values of the packed tokens [T, C] at their padded places [B, L, C]. */
static void output_tokens(tracer *t, const char *name, const q3_tensor *x)
{
    const q3_padded *p = &t->padded;
    int64_t width = q3_dim(x, -1);
    float *out = Q3_ZNEW(&t->run, float, p->rows * p->length * width);
    if (out) {
        const float *from = q3_on_host(&t->ctx, x);
        for (int64_t i = 0; i < p->rows * p->length; i++)
            if (real(p, i)) {
                memcpy(out + i * width, from, (size_t)width * sizeof *out);
                from += width;
            }
    }
    output(t, name, Q3_F32, 3, (const int64_t[]){ p->rows, p->length, width }, out);
}

static void tap(void *arg, const char *name, q3_tensor *x)
{
    tracer *t = arg;
    char full[96];
    if (t->ctx.dry) // out of memory: nothing was computed
        return;
    snprintf(full, sizeof full, "out.%s", name);
    if (strncmp(name, "text.", 5) == 0) {
        output_tokens(t, full, x);
        return;
    }
    float *copy = Q3_NEW(&t->run, float, q3_numel(x));
    if (copy)
        q3_read(copy, &t->ctx, x);
    output(t, full, Q3_F32, x->ndim, x->shape, copy);
}

static void output_positions(tracer *t)
{
    const q3_padded *p = &t->padded;
    int64_t size = p->rows * p->length, at = 0;
    int64_t *positions = Q3_ZNEW(&t->run, int64_t, 3 * size), *deltas = Q3_ZNEW(&t->run, int64_t, p->rows);
    for (int64_t i = 0; positions && deltas && i < size; i++) {
        if (!real(p, i))
            continue;
        int64_t row = i / p->length;
        for (int axis = 0; axis < 3; axis++) {
            int64_t value = t->batch.positions[axis * t->batch.n_tokens + at];
            positions[axis * size + i] = value;
            if (value + 1 > deltas[row])
                deltas[row] = value + 1; // where the next token would stand
        }
        at++;
    }
    for (int64_t row = 0; deltas && row < p->rows; row++)
        deltas[row] -= t->batch.row_begin[row + 1] - t->batch.row_begin[row];
    output(t, "out.position_ids", Q3_I64, 3, (const int64_t[]){ 3, p->rows, p->length }, positions);
    output(t, "out.rope_deltas", Q3_I64, 2, (const int64_t[]){ p->rows, 1 }, deltas);
}

static void output_gradients(tracer *t)
{
    static const char peft[] = "base_model.model.";
    for (int i = 0; t->grads && i < t->trainable.n_slots; i++) {
        const q3_trainable_slot *s = &t->trainable.slots[i];
        const char *name = strncmp(s->name, peft, sizeof peft - 1) == 0 ? s->name + sizeof peft - 1 : s->name;
        const char *saved = q3_saved_name(&t->run, &t->model.config, name);
        char full[300];
        if (!saved) {
            t->status = Q3_ERR_MEMORY;
            return;
        }
        snprintf(full, sizeof full, "grad.%s", saved);
        float *grad = Q3_NEW(&t->run, float, s->n);
        if (grad)
            q3_device_read(t->cuda, grad, t->grads + s->offset, (size_t)s->n * sizeof *grad);
        output(t, full, Q3_F32, s->tensor->ndim, s->tensor->shape, grad);
    }
}

static q3_status forward_backward(tracer *t)
{
    bool back = t->o->backward != Q3_TRACE_FORWARD, again = t->o->checkpointing != Q3_CHECKPOINT_NONE;
    const q3_forward f = { .checkpointing = t->o->checkpointing, .tap = again ? NULL : tap, .tap_arg = t };
    q3_step_begin(&t->ctx, back);
    q3_tensor *hidden = q3_qwen3vl_hidden(&t->ctx, &t->model, &f, &t->batch, NULL, t->batch.n_tokens);
    q3_tensor *logits = q3_linear(&t->ctx, hidden, t->model.head, NULL);
    Q3_TRY(q3_ctx_status(&t->ctx));
    output_tokens(t, "out.logits", logits);
    int64_t n = t->batch.labels ? q3_batch_targets(&t->batch, NULL, NULL) : 0;
    if (back && !n)
        return q3_fail(Q3_ERR_DATA, "%s: no supervised token, so there is nothing to differentiate",
                       t->o->batch);
    if (!n)
        return Q3_OK;
    int32_t *rows = Q3_NEW(&t->run, int32_t, n), *targets = Q3_NEW(&t->run, int32_t, n);
    float *value = Q3_NEW(&t->run, float, 1);
    if (!rows || !targets || !value)
        return Q3_ERR_MEMORY;
    q3_batch_targets(&t->batch, rows, targets);
    q3_tensor *x = q3_get_rows(&t->ctx, hidden, rows, n);
    q3_tensor *loss = q3_cross_entropy(&t->ctx, x, t->model.head, targets, 1.0f / (float)n);
    Q3_TRY(q3_ctx_status(&t->ctx));
    *value = q3_value(&t->ctx, loss);
    output(t, "out.loss", Q3_F32, 1, (const int64_t[]){ 1 }, value);
    if (back)
        q3_backward(&t->ctx, loss, 1.0f);
    return q3_ctx_status(&t->ctx);
}

static q3_status prepare(tracer *t)
{
    const q3_load_options load = { .load_in_4bit = t->o->load_in_4bit,
                                   .load_in_8bit = t->o->load_in_8bit,
                                   .code = Q3_NF4,
                                   .double_quant = true,
                                   .values = &t->values };
    q3_lora_config lora;
    Q3_TRY(q3_device_open(&t->cuda, t->o->device ? t->o->device : "cpu"));
    if (t->o->bf16 && !t->cuda)
        return q3_fail(Q3_ERR_USAGE, "--dtype is bfloat16, and the CPU computes in float32");
    Q3_TRY(q3_arena_create(&t->run, "run arena", (size_t)1 << 40));
    Q3_TRY(q3_device_arena_create(&t->values, t->cuda, "parameters", (size_t)1 << 40));
    Q3_TRY(q3_device_arena_create(&t->step, t->cuda, "step arena", (size_t)1 << 40));
    Q3_TRY(q3_ctx_create(&t->ctx, &t->step));
    t->ctx.dtype = t->o->bf16 ? Q3_BF16 : Q3_F32;
    const char *model, *adapter = t->o->adapter;
    Q3_TRY(q3_hub_place(&model, &t->run, t->o->model, NULL));
    Q3_TRY(q3_model_load(&t->model, &t->run, model, &load));
    if (adapter) {
        Q3_TRY(q3_hub_place(&adapter, &t->run, adapter, NULL));
        Q3_TRY(q3_lora_load(&t->trainable, &lora, &t->model, &t->run, adapter));
    }
    if (t->o->backward == Q3_TRACE_LORA && !t->o->adapter)
        return q3_fail(Q3_ERR_USAGE, "--backward lora needs --adapter: gradients of which adapter?");
    if (t->o->backward == Q3_TRACE_FULL && t->o->adapter)
        return q3_fail(Q3_ERR_USAGE, "--backward full is for a model without --adapter");
    if (t->o->backward == Q3_TRACE_FULL)
        Q3_TRY(q3_model_train_all(&t->trainable, &t->model, &t->run));
    if (t->trainable.n)
        Q3_TRY(q3_trainable_shadow(&t->trainable, &t->values, t->ctx.dtype));
    if (t->o->backward == Q3_TRACE_FORWARD)
        return Q3_OK;
    t->grads = Q3_NEW(&t->values, float, t->trainable.n + 1);
    if (!t->grads)
        return Q3_ERR_MEMORY;
    q3_device_fill(t->cuda, t->grads, 0, (size_t)t->trainable.n * sizeof *t->grads);
    q3_trainable_bind(&t->trainable, t->grads);
    return Q3_OK;
}

static q3_status trace(tracer *t)
{
    Q3_TRY(prepare(t));
    Q3_TRY(q3_status_as(read_batch(t), Q3_ERR_DATA));
    Q3_TRY(forward_backward(t));
    output_positions(t);
    output_gradients(t);
    Q3_TRY(q3_device_status(t->cuda));
    return t->status ? t->status : q3_safetensors_write(t->o->out, t->out, t->n_out);
}

q3_status q3_trace(const q3_trace_options *options)
{
    tracer *t = q3_calloc(1, sizeof *t);
    if (!t)
        return Q3_ERR_MEMORY;
    t->o = options;
    q3_status st = trace(t);
    q3_safetensors_close(t->file);
    q3_model_close(&t->model);
    q3_ctx_destroy(&t->ctx);
    q3_arena_destroy(&t->step);
    q3_arena_destroy(&t->values);
    q3_arena_destroy(&t->run);
    q3_device_close(t->cuda);
    q3_free(t);
    return st;
}
