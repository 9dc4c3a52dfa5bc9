#include "optim/clip.h"

#include <math.h>

#include "kernels/gradient.h"

q3_status q3_clip_create(q3_clip *out, q3_arena *mem, const q3_params *params)
{
    *out = (q3_clip){ .params = params };
    out->norms = Q3_NEW(mem, double, params->n);
    out->begin = Q3_NEW(mem, int64_t, params->n);
    out->count = Q3_NEW(mem, int64_t, params->n);
    if (!out->norms || !out->begin || !out->count)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < params->n && !mem->dry; i++) {
        out->begin[i] = params->table[i].offset;
        out->count[i] = params->table[i].n;
    }
    return Q3_OK;
}

static q3_status name_the_culprit(const q3_clip *clip, int tensor)
{
    const q3_param *p = &clip->params->table[tensor];
    const float *g = clip->params->grads + p->offset;
    int64_t first = 0, bad = 0;
    for (int64_t i = p->n - 1; i >= 0; i--) {
        if (!isfinite(g[i])) {
            first = i;
            bad++;
        }
    }
    return q3_fail(Q3_ERR_FAIL,
                   "the gradient of %s is not finite: %lld of %lld elements, the first (%lld) is %g; "
                   "a lower learning rate or float32 may help",
                   p->name, (long long)bad, (long long)p->n, (long long)first, (double)g[first]);
}

q3_status q3_clip_gradients(double *total, q3_clip *clip, double max_norm)
{
    const q3_params *p = clip->params;
    q3_gradient_args a = { .g = p->grads,
                           .n = p->total,
                           .begin = clip->begin,
                           .count = clip->count,
                           .runs = p->n,
                           .sums = clip->norms };
    q3_gradient_sum_squares_cpu(&a);
    double sum = 0;
    for (int i = 0; i < p->n; i++) {
        if (!isfinite(clip->norms[i]))
            return name_the_culprit(clip, i);
        sum += clip->norms[i];
        clip->norms[i] = sqrt(clip->norms[i]);
    }
    *total = sqrt(sum);
    double factor = max_norm / (*total + 1e-6);
    if (max_norm > 0 && factor < 1) {
        a.factor = (float)factor;
        q3_gradient_scale_cpu(&a);
    }
    return Q3_OK;
}
