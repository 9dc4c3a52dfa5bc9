#include "model/checkpoint_8bit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 512 };

/* The tensor `part` of the module whose weight is called `name`; NULL when absent. */
static const q3_st_tensor *beside(q3_weights *w, const char *name, const char *part)
{
    char full[MAX_NAME];
    size_t n = strlen(name), tail = strlen("weight");
    if (n < tail || strcmp(name + n - tail, "weight") != 0)
        return NULL;
    int length = snprintf(full, sizeof full, "%.*s%s", (int)(n - tail), name, part);
    return length < (int)sizeof full ? q3_weights_find(w, full) : NULL;
}

bool q3_weights_is_int8(q3_weights *w, const char *name)
{
    const q3_st_tensor *t = q3_weights_find(w, name);
    return t && t->dtype == Q3_I8;
}

static q3_status check_format(q3_weights *w, const char *name)
{
    const q3_st_tensor *t = beside(w, name, "weight_format");
    if (!t)
        return Q3_OK;
    if (t->dtype != Q3_U8 || q3_st_elements(t) != 1)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %s %s; expected U8 with 1 element", q3_weights_dir(w),
                       t->name, t->dtype_name, q3_st_shape(t));
    int format = *(const uint8_t *)t->data;
    if (format != 0)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %d; int8 weights are read row by row only, format 0",
                       q3_weights_dir(w), t->name, format);
    return Q3_OK;
}

static q3_status find_absmax(const float **out, q3_weights *w, const char *name, int64_t rows)
{
    const q3_st_tensor *t = beside(w, name, "SCB");
    if (!t)
        return q3_fail(Q3_ERR_MODEL,
                       "%s: tensor %s is I8, and there is no SCB beside it; is the download complete?",
                       q3_weights_dir(w), name);
    if (t->dtype != Q3_F32 || q3_st_elements(t) != rows)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %s %s; expected F32 with %lld elements",
                       q3_weights_dir(w), t->name, t->dtype_name, q3_st_shape(t), (long long)rows);
    *out = t->data;
    for (int64_t i = 0; i < rows; i++)
        if (!isfinite((*out)[i]))
            return q3_fail(Q3_ERR_MODEL, "%s: tensor %s holds NaN or infinite scales", q3_weights_dir(w),
                           t->name);
    return Q3_OK;
}

q3_status q3_weights_int8(const int8_t **codes, const float **absmax, q3_weights *w, const char *name,
                          const int64_t shape[2])
{
    const q3_st_tensor *t = q3_weights_find(w, name);
    if (!t || t->dtype != Q3_I8)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is not stored in int8", q3_weights_dir(w), name);
    if (t->ndim != 2 || t->shape[0] != shape[0] || t->shape[1] != shape[1])
        return q3_fail(Q3_ERR_MODEL, "%s: %s is %s, and config.json makes it [%lld, %lld]", q3_weights_dir(w),
                       t->name, q3_st_shape(t), (long long)shape[0], (long long)shape[1]);
    *codes = t->data;
    Q3_TRY(check_format(w, name));
    return find_absmax(absmax, w, name, shape[0]);
}

q3_status q3_int8_tensors(q3_st_tensor out[Q3_8BIT_TENSORS], q3_arena *mem, const char *name,
                          const int8_t *codes, const float *absmax, const int64_t shape[2])
{
    static const uint8_t row_by_row = 0;
    const int module = (int)(strlen(name) - strlen("weight"));
    out[0] = (q3_st_tensor){
        .name = name, .dtype = Q3_I8, .ndim = 2, .shape = { shape[0], shape[1] }, .data = codes
    };
    out[1] = (q3_st_tensor){ .name = q3_arena_printf(mem, "%.*sSCB", module, name),
                             .dtype = Q3_F32,
                             .ndim = 1,
                             .shape = { shape[0] },
                             .data = absmax };
    out[2] = (q3_st_tensor){ .name = q3_arena_printf(mem, "%.*sweight_format", module, name),
                             .dtype = Q3_U8,
                             .data = &row_by_row };
    return out[1].name && out[2].name ? Q3_OK : Q3_ERR_MEMORY;
}
