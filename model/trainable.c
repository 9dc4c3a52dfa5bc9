#include "model/trainable.h"

#include "kernels/cast.h"

q3_status q3_trainable_set(q3_trainable *t, int slot, const void *data, q3_dtype dtype)
{
    const q3_trainable_slot *s = &t->slots[slot];
    if (t->dry)
        return Q3_OK;
    if (!t->cuda) {
        q3_widen(t->values + s->offset, data, dtype, s->n);
        return Q3_OK;
    }
    float *wide = q3_malloc((size_t)s->n * sizeof *wide);
    if (!wide)
        return Q3_ERR_MEMORY;
    q3_widen(wide, data, dtype, s->n);
    q3_device_write(t->cuda, t->values + s->offset, wide, (size_t)s->n * sizeof *wide);
    q3_free(wide);
    return Q3_OK;
}

/* The values a tensor had before it became trainable. */
static q3_status take_over(q3_trainable *t, int slot, const q3_tensor *w)
{
    if (!t->cuda || t->dry)
        return q3_trainable_set(t, slot, w->data, w->dtype);
    void *data = q3_malloc(q3_nbytes(w));
    if (!data)
        return Q3_ERR_MEMORY;
    q3_device_read(t->cuda, data, w->data, q3_nbytes(w));
    q3_status st = q3_trainable_set(t, slot, data, w->dtype);
    q3_free(data);
    return st;
}

q3_status q3_trainable_create(q3_trainable *out, q3_arena *mem, q3_arena *values, q3_tensor *const *tensors,
                              const char *const *names, int n)
{
    *out = (q3_trainable){ .n_slots = n, .cuda = values->cuda, .dry = values->dry };
    out->slots = Q3_ZNEW(mem, q3_trainable_slot, n + 1);
    for (int i = 0; i < n; i++)
        out->n += q3_numel(tensors[i]);
    out->values = Q3_NEW(values, float, out->n + 1);
    if (!out->slots || !out->values)
        return Q3_ERR_MEMORY;
    int64_t offset = 0;
    for (int i = 0; i < n; i++) {
        q3_tensor *t = tensors[i];
        out->slots[i] = (q3_trainable_slot){ names[i], t, offset, q3_numel(t) };
        if (t->data)
            Q3_TRY(take_over(out, i, t));
        t->data = out->values + offset;
        t->dtype = Q3_F32;
        t->half = NULL;
        offset += q3_numel(t);
    }
    return Q3_OK;
}

/* A tensor that does not begin on 16 bytes there, which a product wants, goes without. */
q3_status q3_trainable_shadow(q3_trainable *t, q3_arena *values, q3_dtype activations)
{
    const int64_t aligned = 16 / (int64_t)sizeof *t->shadow;
    if (!t->cuda || activations != Q3_BF16)
        return Q3_OK;
    t->shadow = Q3_NEW(values, uint16_t, t->n + 1);
    if (!t->shadow)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < t->n_slots; i++)
        if (t->slots[i].offset % aligned == 0)
            t->slots[i].tensor->half = t->shadow + t->slots[i].offset;
    q3_trainable_refresh(t);
    return Q3_OK;
}

void q3_trainable_refresh(const q3_trainable *t)
{
#if defined(Q3_CUDA)
    const q3_cast_args a = {
        .y = t->shadow, .x = t->values, .rows = 1, .cols = t->n, .y_dtype = Q3_BF16, .x_dtype = Q3_F32
    };
    if (t->shadow && !t->dry)
        q3_cast_cuda(&a, t->cuda);
#else
    (void)t; // the CPU computes in f32
#endif
}

void q3_trainable_bind(q3_trainable *t, float *grads)
{
    for (int i = 0; i < t->n_slots; i++) {
        q3_tensor *w = t->slots[i].tensor;
        w->needs_grad = w->grad_kept = w->grad_set = grads != NULL;
        w->grad = grads ? grads + t->slots[i].offset : NULL;
    }
}
