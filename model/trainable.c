#include "model/trainable.h"

q3_status q3_trainable_create(q3_trainable *out, q3_arena *mem, q3_tensor *const *tensors,
                              const char *const *names, int n)
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
            q3_widen(out->values + offset, t->data, t->dtype, q3_numel(t));
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
