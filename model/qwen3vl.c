#include "model/qwen3vl.h"

#include <string.h>

/* Does anything in the tower want a gradient, its own weights or adapters on them? */
static bool vision_trained(const q3_model *m)
{
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].vision && m->params[i].tensor->needs_grad)
            return true;
    for (int i = 0; i < m->n_projections; i++) {
        const q3_proj *p = m->projections[i];
        if (p->lora_a && p->lora_a->needs_grad && strncmp(p->path, "model.visual.", 13) == 0)
            return true;
    }
    return false;
}

/* A frozen tower leaves nothing for backward. */
static q3_vision_features see(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b)
{
    bool recording = ctx->recording;
    ctx->recording = recording && vision_trained(m);
    q3_vision_features out = q3_vision_forward(ctx, m, f, b);
    ctx->recording = recording;
    return out;
}

q3_tensor *q3_qwen3vl_hidden(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                             const int32_t *rows, int64_t n)
{
    q3_vision_features vision;
    const q3_vision_features *seen = f->features;
    if (!seen && b->n_images) {
        vision = see(ctx, m, f, b);
        seen = &vision;
    }
    q3_tensor *x = q3_text_forward(ctx, m, f, b, seen);
    if (rows)
        x = q3_get_rows(ctx, x, rows, n);
    x = q3_rmsnorm(ctx, x, m->norm.w, m->config.text.rms_eps);
    if (f->tap)
        f->tap(f->tap_arg, "text.norm", x);
    return x;
}

q3_tensor *q3_qwen3vl_logits(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                             const int32_t *rows, int64_t n)
{
    return q3_linear(ctx, q3_qwen3vl_hidden(ctx, m, f, b, rows, n), m->head, NULL);
}

int64_t q3_batch_targets(const q3_batch *b, int32_t *rows, int32_t *targets)
{
    int64_t n = 0;
    for (int i = 0; i < b->n_rows; i++)
        for (int64_t t = b->row_begin[i]; t + 1 < b->row_begin[i + 1]; t++)
            if (b->labels[t + 1] >= 0) {
                if (rows)
                    rows[n] = (int32_t)t;
                if (targets)
                    targets[n] = b->labels[t + 1];
                n++;
            }
    return n;
}

q3_tensor *q3_qwen3vl_loss(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                           float scale)
{
    int64_t n = q3_batch_targets(b, NULL, NULL);
    if (!n)
        return NULL;
    int32_t *rows = q3_list(ctx, (size_t)n * sizeof *rows);
    int32_t *targets = q3_list(ctx, (size_t)n * sizeof *targets);
    q3_batch_targets(b, rows, targets);
    return q3_cross_entropy(ctx, q3_qwen3vl_hidden(ctx, m, f, b, rows, n), m->head, targets, scale);
}
