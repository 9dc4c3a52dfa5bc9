#include "eval/loss.h"

#include <math.h>

#include "core/log.h"

/* Mean cross-entropy of one batch, in double; 0 when nothing is supervised. */
static q3_status batch_loss(double *out, const q3_eval_loss_args *a, const q3_loaded *l)
{
    q3_ctx *ctx = a->ctx;
    q3_forward forward = { 0 };
    q3_vision_features features;
    *out = 0;
    int64_t n = l->batch.n_rows ? q3_batch_targets(&l->batch, NULL, NULL) : 0;
    if (!n)
        return Q3_OK;
    q3_step_begin(ctx, false);
    if (q3_pictures_features(&features, a->pictures, ctx, &forward, l))
        forward.features = &features;
    q3_tensor *loss = q3_qwen3vl_loss(ctx, a->model, &forward, &l->batch, 1.0f / (float)n);
    Q3_TRY(q3_ctx_status(ctx));
    *out = (double)q3_value(ctx, loss);
    if (!isfinite(*out))
        return q3_fail(Q3_ERR_FAIL, "the loss of the batch that begins with %s is %f", l->samples[0].where,
                       *out);
    return Q3_OK;
}

q3_status q3_eval_loss(q3_loss_result *out, const q3_eval_loss_args *a)
{
    q3_loader *loader;
    q3_loader_source source = a->source;
    int64_t batches = q3_loader_per_epoch(&source);
    double start = q3_seconds(), sum = 0;
    *out = (q3_loss_result){ 0 };
    q3_pictures_attach(&source, a->pictures);
    Q3_TRY(q3_loader_create(&loader, &source, 0, 1, 3));
    q3_status st = Q3_OK;
    for (int64_t i = 0; i < batches && st == Q3_OK; i++) {
        const q3_loaded *l;
        double loss;
        st = q3_loader_next(&l, loader);
        st = st ? st : batch_loss(&loss, a, l);
        if (st != Q3_OK)
            break;
        int64_t used = l->n_samples - l->n_skipped;
        sum += loss * (double)used;
        out->n_samples += used;
        out->n_batches++;
        if (a->progress)
            st = a->progress(a->arg, i + 1, batches);
    }
    q3_loader_destroy(loader);
    q3_step_begin(a->ctx, false);
    out->loss = out->n_samples ? sum / (double)out->n_samples : NAN;
    out->seconds = q3_seconds() - start;
    return st;
}
