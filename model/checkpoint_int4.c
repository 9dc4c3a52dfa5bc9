#include "model/checkpoint_int4.h"

#include <math.h>
#include <stdio.h>

enum { MAX_NAME = 512 };

bool q3_weights_is_int4(q3_weights *w, const q3_quantization_config *c, const char *name)
{
    const q3_st_tensor *t = c->present && c->code == Q3_I4 ? q3_weights_find(w, name) : NULL;
    return t && t->dtype == Q3_U8;
}

static q3_status find_absmax(const float **out, q3_weights *w, const char *name, int64_t blocks)
{
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s.absmax", name);
    const q3_st_tensor *t = q3_weights_find(w, full);
    if (!t)
        return q3_fail(Q3_ERR_MODEL, "%s: there is no tensor %s; is the download complete?",
                       q3_weights_dir(w), full);
    if (t->dtype != Q3_F32 || q3_st_elements(t) != blocks)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %s %s; expected F32 with %lld elements",
                       q3_weights_dir(w), t->name, t->dtype_name, q3_st_shape(t), (long long)blocks);
    *out = t->data;
    for (int64_t i = 0; i < blocks; i++)
        if (!isfinite((*out)[i]))
            return q3_fail(Q3_ERR_MODEL, "%s: tensor %s holds NaN or infinite scales", q3_weights_dir(w),
                           t->name);
    return Q3_OK;
}

q3_status q3_weights_int4(q3_quantized *out, q3_weights *w, const q3_quantization_config *c, const char *name,
                          const int64_t shape[2])
{
    const q3_st_tensor *t = q3_weights_find(w, name);
    *out = (q3_quantized){ .code = Q3_I4, .source = Q3_F32, .block = c->block, .n = shape[0] * shape[1] };
    if (!t || t->dtype != Q3_U8 || q3_st_elements(t) != (out->n + 1) / 2)
        return q3_fail(Q3_ERR_MODEL,
                       "%s: %s is %s %s; a matrix of [%lld, %lld] in int4 is U8 with %lld elements",
                       q3_weights_dir(w), name, t ? t->dtype_name : "missing", t ? q3_st_shape(t) : "",
                       (long long)shape[0], (long long)shape[1], (long long)((out->n + 1) / 2));
    out->packed = t->data;
    return find_absmax(&out->absmax, w, name, q3_quantized_blocks(out));
}

q3_status q3_int4_tensors(q3_st_tensor out[Q3_INT4_TENSORS], q3_arena *mem, const char *name,
                          const q3_quantized *q)
{
    out[0] = (q3_st_tensor){
        .name = name, .dtype = Q3_U8, .ndim = 2, .shape = { (q->n + 1) / 2, 1 }, .data = q->packed
    };
    out[1] = (q3_st_tensor){ .name = q3_arena_printf(mem, "%s.absmax", name),
                             .dtype = Q3_F32,
                             .ndim = 1,
                             .shape = { q3_quantized_blocks(q) },
                             .data = q->absmax };
    return out[1].name ? Q3_OK : Q3_ERR_MEMORY;
}
