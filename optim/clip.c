#include "optim/clip.h"

#include <math.h>

#include "kernels/gradient.h"

q3_status q3_clip_create(q3_clip *out, q3_arena *mem, q3_arena *values, const q3_params *params)
{
    *out = (q3_clip){ .params = params, .cuda = values->cuda };
    size_t bytes = (size_t)params->n * sizeof(int64_t);
    out->norms = Q3_NEW(mem, double, params->n);
    int64_t *runs = Q3_NEW(mem, int64_t, 2 * params->n);
    out->sums = Q3_NEW(values, double, params->n);
    out->begin = Q3_NEW(values, int64_t, params->n);
    out->count = Q3_NEW(values, int64_t, params->n);
    if (!out->norms || !runs || !out->sums || !out->begin || !out->count)
        return Q3_ERR_MEMORY;
    if (mem->dry || values->dry)
        return Q3_OK;
    for (int i = 0; i < params->n; i++) {
        runs[i] = params->table[i].offset;
        runs[params->n + i] = params->table[i].n;
    }
    q3_device_write(out->cuda, out->begin, runs, bytes);
    q3_device_write(out->cuda, out->count, runs + params->n, bytes);
    return Q3_OK;
}

static q3_status name_the_culprit(const q3_clip *clip, int tensor)
{
    const q3_param *p = &clip->params->table[tensor];
    float *g = q3_malloc((size_t)p->n * sizeof *g);
    if (!g)
        return Q3_ERR_MEMORY;
    q3_device_read(clip->cuda, g, clip->params->grads + p->offset, (size_t)p->n * sizeof *g);
    int64_t first = 0, bad = 0;
    for (int64_t i = p->n - 1; i >= 0; i--) {
        if (!isfinite(g[i])) {
            first = i;
            bad++;
        }
    }
    float value = g[first];
    q3_free(g);
    return q3_fail(Q3_ERR_FAIL,
                   "the gradient of %s is not finite: %lld of %lld elements, the first (%lld) is %g; "
                   "a lower learning rate or float32 may help",
                   p->name, (long long)bad, (long long)p->n, (long long)first, (double)value);
}

q3_status q3_clip_gradients(double *total, q3_clip *clip, double max_norm)
{
    const q3_params *p = clip->params;
    q3_gradient_args a = { .g = p->grads,
                           .n = p->total,
                           .begin = clip->begin,
                           .count = clip->count,
                           .runs = p->n,
                           .sums = clip->sums };
    Q3_CALL_ON(clip->cuda, q3_gradient_sum_squares, &a);
    q3_device_read(clip->cuda, clip->norms, clip->sums, (size_t)p->n * sizeof *clip->norms);
    Q3_TRY(q3_device_status(clip->cuda));
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
        Q3_CALL_ON(clip->cuda, q3_gradient_scale, &a);
    }
    return Q3_OK;
}
