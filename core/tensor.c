#include "core/tensor.h"

#include <stdio.h>
#include <string.h>

int64_t q3_numel(const q3_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

int64_t q3_dim(const q3_tensor *t, int i)
{
    return t->shape[i < 0 ? t->ndim + i : i];
}

int64_t q3_rows(const q3_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

size_t q3_nbytes(const q3_tensor *t)
{
    return q3_dtype_bytes(t->dtype, q3_numel(t));
}

void q3_widen(float *out, const void *data, q3_dtype dtype, int64_t n)
{
    const uint16_t *half = data;
    Q3_CHECK(dtype <= Q3_F16, "type %d", (int)dtype);
    if (dtype == Q3_F32)
        memcpy(out, data, (size_t)n * sizeof *out);
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = dtype == Q3_BF16 ? q3_bf16_to_f32(half[i]) : q3_f16_to_f32(half[i]);
}

const char *q3_dtype_name(q3_dtype dtype)
{
    static const char *const names[Q3_DTYPES] = {
        "f32", "bf16", "f16", "i64", "i32", "u8", "nf4", "fp4", "i8", "i4"
    };
    return names[dtype];
}

const char *q3_shape(const q3_tensor *t)
{
    enum { BUFFERS = 8, BYTES = 96 };
    static _Thread_local char text[BUFFERS][BYTES];
    static _Thread_local int turn;
    turn = (turn + 1) % BUFFERS;
    char *s = text[turn];
    if (!t) {
        snprintf(s, BYTES, "none");
        return s;
    }
    int n = snprintf(s, BYTES, "[");
    for (int i = 0; i < t->ndim; i++)
        n += snprintf(s + n, BYTES - (size_t)n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    snprintf(s + n, BYTES - (size_t)n, "] %s", q3_dtype_name(t->dtype));
    return s;
}

q3_tensor *q3_tensor_wrap(q3_arena *mem, void *data, q3_dtype dtype, int ndim, const int64_t *shape)
{
    q3_tensor *t = Q3_ZNEW(mem, q3_tensor, 1);
    if (!t)
        return NULL;
    t->data = data;
    t->dtype = dtype;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    t->root = t;
    return t;
}
