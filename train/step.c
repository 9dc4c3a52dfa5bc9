#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "kernels/gradient.h"
#include "train/trainer.h"

int64_t q3_window_size(const q3_trainer *t, int64_t batch)
{
    int64_t left = t->per_epoch - batch % t->per_epoch; // windows never span epochs
    return left < t->accumulation ? left : t->accumulation;
}

static q3_status not_finite(const q3_trainer *t, const q3_loaded *l, double loss)
{
    char samples[256];
    int n = 0;
    samples[0] = 0;
    for (int64_t i = 0; i < l->n_samples && n < (int)sizeof samples - 64; i++)
        n += snprintf(samples + n, sizeof samples - (size_t)n, "%s%s", i ? ", " : "", l->samples[i].where);
    return q3_fail(Q3_ERR_FAIL,
                   "the loss is %s in step %lld, batch %lld; samples %s%s; lower train.learning_rate or look "
                   "at these samples",
                   isnan(loss) ? "no number" : "infinite", (long long)t->state.step + 1,
                   (long long)t->state.batch, samples, n >= (int)sizeof samples - 64 ? " ..." : "");
}

/* Forward and backward of one micro-batch. */
static q3_status micro_batch(q3_window_part *out, q3_trainer *t, const q3_loaded *l, int64_t window)
{
    const q3_batch *b = &l->batch;
    out->tokens = b->n_tokens;
    int64_t n = b->n_rows ? q3_batch_targets(b, NULL, NULL) : 0;
    if (!n)
        return Q3_OK; // every sample was skipped: it adds nothing
    bool micro_mean = t->config->train.loss_normalization == Q3_CONFIG_LOSS_MICRO_MEAN;
    double scale = micro_mean ? 1.0 / ((double)n * (double)window) : 1.0;
    q3_step_begin(&t->ctx, true);
    t->ctx.micro_step = (uint64_t)t->state.batch;
    t->ctx.profile = t->profile;
    q3_device_range_push(t->cuda, "forward");
    q3_forward forward = t->forward;
    q3_vision_features features;
    if (q3_pictures_features(&features, t->train_pictures, &t->ctx, &forward, l))
        forward.features = &features;
    q3_tensor *loss = q3_qwen3vl_loss(&t->ctx, &t->model, &forward, b, (float)scale);
    q3_device_range_pop(t->cuda);
    q3_device_range_push(t->cuda, "backward");
    q3_backward(&t->ctx, loss, 1.0f);
    q3_device_range_pop(t->cuda);
    t->ctx.profile = NULL; // evaluations have the same context
    Q3_TRY(q3_ctx_status(&t->ctx));
    double value = (double)q3_value(&t->ctx, loss);
    if (!isfinite(value))
        return not_finite(t, l, value);
    out->loss = value;
    out->supervised = n;
    return Q3_OK;
}

/* The sum of the window becomes the gradient, and the parameters move. */
static q3_status update(q3_step_result *out, q3_trainer *t, int64_t window, int64_t supervised)
{
    Q3_TRY(q3_ranks_sum(&t->params.grads, &t->ranks, &t->tree, &t->values, window));
    if (t->config->train.loss_normalization == Q3_CONFIG_LOSS_TOKEN_MEAN && supervised) {
        out->loss /= (double)supervised;
        Q3_CALL_ON(t->cuda, q3_gradient_scale,
                   (&(q3_gradient_args){ .g = t->params.grads,
                                         .n = t->params.total,
                                         .factor = (float)(1.0 / (double)supervised) }));
    }
    Q3_TRY(q3_clip_gradients(&out->grad_norm, &t->clip, t->config->train.max_grad_norm));
    q3_optimizer_step(t->optimizer, t->params.grads, out->learning_rate);
    q3_trainable_refresh(&t->trainable);
    return Q3_OK;
}

/* A micro-batch of this rank, and its gradient into the tree. */
static q3_status own_batch(q3_window_part *out, q3_trainer *t, const q3_loaded *l, int64_t window)
{
    Q3_TRY(micro_batch(out, t, l, window));
    const q3_moment sum = q3_profile_begin(t->profile);
    Q3_TRY(q3_grad_tree_push(&t->tree, &t->values, &t->trainable));
    q3_profile_end(t->profile, sum, Q3_PROFILE_UPDATE, false, (q3_cost){ 0 });
    return Q3_OK;
}

/* This rank's share of the window; then all ranks know what each micro-batch has added, or that one has failed. */
static q3_status run_window(q3_trainer *t, q3_loader *loader, int64_t window)
{
    int64_t begin, end;
    q3_status own = Q3_OK;
    q3_ranks_share(&begin, &end, window, t->ranks.rank, t->ranks.ranks);
    for (int64_t i = 0; i < window; i++) {
        const q3_loaded *l;
        t->parts[i] = (q3_window_part){ 0 };
        q3_status st = q3_loader_next(&l, loader);
        if (i >= begin && i < end && own == Q3_OK)
            own = t->parts[i].status = st ? st : own_batch(&t->parts[i], t, l, window);
        t->state.batch++;
    }
    if (own != Q3_OK && t->ranks.ranks == 1)
        return own;
    Q3_TRY(q3_ranks_share_parts(&t->ranks, t->parts, sizeof *t->parts, window));
    Q3_TRY(own);
    for (int64_t i = 0; i < window; i++)
        if (t->parts[i].status != Q3_OK)
            return q3_fail(t->parts[i].status, "another rank has failed in step %lld and says why",
                           (long long)t->state.step + 1);
    return Q3_OK;
}

static q3_status step(q3_step_result *out, q3_trainer *t, q3_loader *loader)
{
    int64_t window = q3_window_size(t, t->state.batch), supervised = 0;
    *out = (q3_step_result){ .learning_rate = q3_schedule_lr(&t->schedule, t->state.step) };
    Q3_TRY(q3_grad_tree_begin(&t->tree, &t->values, &t->trainable));
    Q3_TRY(run_window(t, loader, window));
    for (int64_t i = 0; i < window; i++) {
        out->loss += t->parts[i].loss;
        out->tokens += t->parts[i].tokens;
        supervised += t->parts[i].supervised;
    }
    const q3_moment begin = q3_profile_begin(t->profile);
    q3_device_range_push(t->cuda, "optimizer");
    q3_status st = update(out, t, window, supervised);
    q3_device_range_pop(t->cuda);
    q3_profile_end(t->profile, begin, Q3_PROFILE_UPDATE, false, (q3_cost){ 0 });
    return st ? st : q3_device_status(t->cuda);
}

q3_status q3_train_step(q3_step_result *out, q3_trainer *t, q3_loader *loader)
{
    q3_profile_step_begin(t->profile);
    q3_device_range_push(t->cuda, "step");
    q3_status st = step(out, t, loader);
    q3_device_range_pop(t->cuda);
    q3_profile_step_end(t->profile);
    Q3_TRY(st);
    t->state.step++;
    int64_t whole = (t->state.batch - 1) / t->per_epoch; // summed as transformers does, to the last bit
    t->state.epoch = (double)whole + (double)(t->state.batch - whole * t->per_epoch) / (double)t->per_epoch;
    t->state.tokens += out->tokens;
    return Q3_OK;
}
