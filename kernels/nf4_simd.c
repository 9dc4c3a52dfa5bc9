#include "kernels/nf4.h"

/* Whole blocks only. Written as plain loops over 32 elements, which the compiler turns into vectors of the
 * level; all operations are exact or rounded once, so every level gives the bits of the reference. */
enum { CHUNK = 32 };

static void load_chunk(float *to, const void *x, q3_dtype dtype, int64_t at)
{
    const uint16_t *h = (const uint16_t *)x + at;
    if (dtype == Q3_F32)
        memcpy(to, (const float *)x + at, CHUNK * sizeof *to);
    else if (dtype == Q3_BF16)
        for (int i = 0; i < CHUNK; i++)
            to[i] = q3_bf16_to_f32(h[i]);
    else
        for (int i = 0; i < CHUNK; i++)
            to[i] = q3_f16_to_f32(h[i]);
}

static float block_absmax(const float *x, int n)
{
    int32_t top = 0;
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float m;
    memcpy(&m, &top, sizeof m);
    return m;
}

static void encode_chunk(uint8_t *packed, const float *x, float r, const q3_nf4_steps *steps, bool ordered)
{
    int32_t below[CHUNK];
    for (int i = 0; i < CHUNK; i++) {
        float y = x[i] * r;
        int32_t n = 0;
        for (int k = 0; k < 15; k++)
            n += y > steps->above[k];
        below[i] = n;
    }
    for (int i = 0; i < CHUNK / 2; i++)
        packed[i] = (uint8_t)(below[2 * i] << 4 | below[2 * i + 1]);
    if (!ordered)
        for (int i = 0; i < CHUNK / 2; i++)
            packed[i] = (uint8_t)(steps->nibble[packed[i] >> 4] << 4 | steps->nibble[packed[i] & 15]);
}

void Q3_SIMD(q3_nf4_quantize)(const q3_nf4_quantize_args *a)
{
    float x[4096];
    const q3_nf4_steps steps = *q3_nf4_steps_of(a->code);
    for (int64_t b = 0; b * a->block < a->n; b++) {
        int64_t at = b * a->block;
        for (int i = 0; i < a->block; i += CHUNK)
            load_chunk(x + i, a->x, a->dtype, at + i);
        float m = block_absmax(x, a->block);
        float r = 1.0f / (m < 1e-38f ? 1e-38f : m);
        a->absmax[b] = m;
        for (int i = 0; i < a->block; i += CHUNK)
            encode_chunk(a->packed + (at + i) / 2, x + i, r, &steps, a->code != Q3_FP4);
    }
}
