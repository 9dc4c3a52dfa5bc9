#include "model/trainable.h"

#include <string.h>

static void widen(float *out, const q3_tensor *t)
{
    const uint16_t *h = t->data;
    if (t->dtype == Q3_F32)
        memcpy(out, t->data, q3_nbytes(t));
    else
        for (int64_t i = 0; i < q3_numel(t); i++)
            out[i] = t->dtype == Q3_BF16 ? q3_bf16_to_f32(h[i]) : q3_f16_to_f32(h[i]);
}

q3_status q3_trainable_create(q3_trainable *out, q3_arena *mem, q3_tensor *const *tensors, const char *const *names,
                              int n)
{
    *out = (q3_trainable){ .n_slots = n };
    out->slots = Q3_ZNEW(mem, q3_trainable_slot, n + 1);
    for (int i = 0; i < n; i++)
        out->n += q3_numel(tensors[i]);
    out->values = Q3_NEW(mem, float, out->n + 1);
    if (!out->slots || !out->values)
        return Q3_ERR_MEMORY;
    int64_t offset = 0;
    for (int i = 0; i < n; i++) {
        q3_tensor *t = tensors[i];
        out->slots[i] = (q3_trainable_slot){ names[i], t, offset, q3_numel(t) };
        if (t->data)
            widen(out->values + offset, t);
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
