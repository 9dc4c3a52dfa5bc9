#include "core/quantized.h"

#include <math.h>

#include "kernels/dynamic_map.h"
#include "kernels/nf4.h"

static q3_status check_finite(const float *absmax, int64_t blocks, const char *name)
{
    for (int64_t i = 0; i < blocks; i++)
        if (!isfinite(absmax[i]))
            return q3_fail(Q3_ERR_MODEL, "tensor %s holds NaN or infinite weights", name);
    return Q3_OK;
}

q3_status q3_quantize(q3_quantized *out, q3_arena *mem, const q3_quantize_args *a)
{
    Q3_CHECK(a->block >= 32 && a->block <= 4096 && (a->block & (a->block - 1)) == 0, "block %d", a->block);
    *out = (q3_quantized){ .code = a->code, .source = a->dtype, .block = a->block, .n = a->n };
    int64_t blocks = q3_quantized_blocks(out), groups = q3_quantized_groups(out);
    uint8_t *packed = q3_arena_alloc(mem, q3_dtype_bytes(a->code, a->n));
    float *absmax = Q3_NEW(mem, float, blocks);
    uint8_t *nested = a->nested ? Q3_NEW(mem, uint8_t, blocks) : NULL;
    float *scale = a->nested ? Q3_NEW(mem, float, groups) : NULL;
    if (!packed || !absmax || (a->nested && (!nested || !scale)))
        return Q3_ERR_MEMORY;
    out->packed = packed;
    out->absmax = absmax;
    out->nested = nested;
    out->scale = scale;
    out->map = a->nested ? q3_dynamic_map_signed : NULL;
    if (mem->dry)
        return Q3_OK;
    q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ .packed = packed,
                                                 .absmax = absmax,
                                                 .x = a->x,
                                                 .dtype = a->dtype,
                                                 .code = a->code,
                                                 .block = a->block,
                                                 .n = a->n });
    Q3_TRY(check_finite(absmax, blocks, a->name));
    if (a->nested) {
        q3_nf4_nest_cpu(nested, scale, &out->offset, absmax, blocks);
        q3_nf4_unnest_cpu(absmax, nested, scale, out->offset, out->map, blocks);
    }
    return Q3_OK;
}

void q3_dequantize(void *w, q3_dtype dtype, const q3_quantized *q)
{
    q3_nf4_dequantize_cpu(&(q3_nf4_dequantize_args){ .w = w,
                                                     .dtype = dtype,
                                                     .packed = q->packed,
                                                     .absmax = q->absmax,
                                                     .code = q->code,
                                                     .block = q->block,
                                                     .n = q->n });
}

q3_status q3_quantized_unnest(q3_quantized *q, q3_arena *mem)
{
    int64_t blocks = q3_quantized_blocks(q);
    float *absmax = Q3_NEW(mem, float, blocks);
    if (!absmax)
        return Q3_ERR_MEMORY;
    if (!mem->dry)
        q3_nf4_unnest_cpu(absmax, q->nested, q->scale, q->offset, q->map, blocks);
    q->absmax = absmax;
    return Q3_OK;
}

const float *q3_quantized_book(q3_dtype code)
{
    return q3_4bit_values(code);
}

bool q3_quantized_book_is(q3_dtype code, const float *value)
{
    const float *want = q3_quantized_book(code);
    for (int i = 0; i < 16; i++)
        if (!(fabsf(value[i] - want[i]) <= 1.2e-7f))
            return false;
    return true;
}
