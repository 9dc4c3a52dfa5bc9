#include "kernels/kv_cache.h"

#include <math.h>

#include "kernels/pool.h"

static float value_of(const void *x, q3_dtype dtype, int64_t i)
{
    return dtype == Q3_BF16 ? q3_bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static float absmax_of(const float *x, int n)
{
    uint32_t top = 0;
    for (int i = 0; i < n; i++)
        top = q3_larger_abs(top, x[i]);
    return q3_bits_f32(top);
}

/* To nearest even, within +-most. A scale of 0 or none at all: 0. Scales below the normal numbers are coarse, so that
 * quotients may lie beyond `most`. */
static int code_of(float x, float scale, float most)
{
    const float whole = 12582912.0f; // 1.5 * 2^23: above it floats are whole numbers
    if (!(scale > 0) || !isfinite(scale))
        return 0;
    float y = x / scale;
    y = y > most ? most : y < -most ? -most : y;
    return (int)(y + whole - whole);
}

static void store_i8(const q3_kv_slab *slab, int64_t at, const float *x, int D)
{
    float scale = slab->scales[at / D] = absmax_of(x, D) / 127;
    for (int c = 0; c < D; c++)
        ((int8_t *)slab->data)[at + c] = (int8_t)code_of(x[c], scale, 127);
}

static void store_i4(const q3_kv_slab *slab, int64_t at, const float *x, int D)
{
    uint8_t *codes = slab->data;
    for (int c = 0; c < D; c += Q3_KV_I4_GROUP) {
        float scale = slab->scales[(at + c) / Q3_KV_I4_GROUP] = absmax_of(x + c, Q3_KV_I4_GROUP) / 7;
        for (int i = c; i < c + Q3_KV_I4_GROUP; i += 2)
            codes[(at + i) / 2] =
                (uint8_t)((code_of(x[i], scale, 7) + 8) << 4 | (code_of(x[i + 1], scale, 7) + 8));
    }
}

/* D values x as elements [at, at + D) of the slab's flat index: one head of one token. */
static void store_head(const q3_kv_slab *slab, int64_t at, const float *x, int D)
{
    if (slab->dtype == Q3_I8)
        store_i8(slab, at, x, D);
    else if (slab->dtype == Q3_I4)
        store_i4(slab, at, x, D);
    else if (slab->dtype == Q3_BF16)
        for (int c = 0; c < D; c++)
            ((uint16_t *)slab->data)[at + c] = q3_f32_to_bf16(x[c]);
    else
        memcpy((float *)slab->data + at, x, (size_t)D * sizeof *x);
}

static void store_tokens(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_kv_store_args *a = arg;
    float x[Q3_KV_MAX_D];
    (void)thread;
    for (int64_t t = begin; t < end; t++)
        for (int k = 0; k < a->kv_heads; k++) {
            for (int c = 0; c < a->head_size; c++)
                x[c] = value_of(a->x, a->dtype, (t * a->kv_heads + k) * a->head_size + c);
            store_head(&a->slab, ((int64_t)a->rows[t] * a->kv_heads + k) * a->head_size, x, a->head_size);
        }
}

/* Tokens that are worth the start of a thread. */
static int64_t grain(int kv_heads, int head_size)
{
    return 16384 / ((int64_t)kv_heads * head_size + 1) + 1;
}

void q3_kv_store_cpu(const q3_kv_store_args *a)
{
    q3_kv_store_args copy = *a;
    q3_parallel(a->T, grain(a->kv_heads, a->head_size), store_tokens, &copy);
}

static void load_token(const q3_kv_load_args *a, int64_t token, int64_t row)
{
    int64_t C = (int64_t)a->kv_heads * a->head_size;
    for (int64_t c = 0; c < C; c++) {
        float x = q3_kv_value(&a->slab, row * C + c, a->head_size);
        if (a->dtype == Q3_BF16)
            ((uint16_t *)a->x)[token * C + c] = q3_f32_to_bf16(x);
        else
            ((float *)a->x)[token * C + c] = x;
    }
}

static void load_tokens(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_kv_load_args *a = arg;
    int64_t r = 0;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        while (a->begins[r + 1] <= t)
            r++;
        int j = (int)(t - a->begins[r]);
        load_token(a, t, (int64_t)a->tables[r * a->max_blocks + j / a->block] * a->block + j % a->block);
    }
}

void q3_kv_load_cpu(const q3_kv_load_args *a)
{
    q3_kv_load_args copy = *a;
    if (a->rows > 0)
        q3_parallel(a->begins[a->rows], grain(a->kv_heads, a->head_size), load_tokens, &copy);
}
