#include "model/trainable.h"

q3_status q3_trainable_set(q3_trainable *t, int slot, const void *data, q3_dtype dtype)
{
    const q3_trainable_slot *s = &t->slots[slot];
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
    if (!t->cuda)
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
    *out = (q3_trainable){ .n_slots = n, .cuda = values->cuda };
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
        offset += q3_numel(t);
    }
    return Q3_OK;
}

void q3_trainable_bind(q3_trainable *t, float *grads)
{
    for (int i = 0; i < t->n_slots; i++) {
        q3_tensor *w = t->slots[i].tensor;
        w->needs_grad = w->grad_kept = w->grad_set = grads != NULL;
        w->grad = grads ? grads + t->slots[i].offset : NULL;
    }
}
