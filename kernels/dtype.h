/* kernels/dtype.h - element types, and weights as kernels see them. */
#ifndef Q3_KERNELS_DTYPE_H
#define Q3_KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum q3_dtype {
    Q3_F32,
    Q3_BF16,
    Q3_F16,
    Q3_I64,
    Q3_I32,
    Q3_U8,
    Q3_NF4, /* bitsandbytes: two codes a byte, the first in the high nibble; blocks along the flat index */
    Q3_FP4,
    Q3_I8, /* bitsandbytes' int8: a code an element and a scale a row, kernels/int8.h */
    Q3_I4, /* ours: as NF4, with evenly spaced values (kernels/nf4.h) */
    Q3_DTYPES
} q3_dtype;

/* Scales of 4-bit blocks in 8 bits: absmax_b = fl(fl(map[codes_b] * scale[b / 256]) + offset). */
typedef struct q3_nested {
    const uint8_t *codes; /* one a block; NULL: not nested */
    const float *scale;   /* one a group of 256 blocks */
    const float *map;     /* [256] */
    float offset;
} q3_nested;

/* A matrix operand [rows, cols], row-major, in whatever form it is stored. Borrowed pointers. */
typedef struct q3_weight {
    const void *data;
    q3_dtype dtype;      /* F32, BF16, F16, NF4, FP4, I4, I8 */
    int block;           /* 4 bits: elements per absmax, along the flat index, straddling rows; I8: cols */
    const float *absmax; /* 4 bits: [ceil(rows*cols / block)], not double quantized any more; I8: [rows] */
    q3_nested nested;    /* CUDA, where absmax is NULL: the scales as double quantization stores them */
    const void *half;    /* CUDA: the same values in bf16, kept so by whoever changes them; NULL: none */
} q3_weight;

/* Bytes of n elements; 4 bits: (n + 1) / 2. */
static inline size_t q3_dtype_bytes(q3_dtype t, int64_t n)
{
    switch (t) {
    case Q3_I64:
        return (size_t)n * 8;
    case Q3_F32:
    case Q3_I32:
        return (size_t)n * 4;
    case Q3_BF16:
    case Q3_F16:
        return (size_t)n * 2;
    case Q3_NF4:
    case Q3_FP4:
    case Q3_I4:
        return ((size_t)n + 1) / 2;
    default:
        return (size_t)n;
    }
}

static inline float q3_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The larger of `top`, the bits of an absolute value, and those of |x|: in their order NaN wins over infinity, and infinity
 * over numbers. */
static inline uint32_t q3_larger_abs(uint32_t top, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffffu;
    return bits > top ? bits : top;
}

static inline float q3_bits_f32(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t q3_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

static inline float q3_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 1023, u;
    if (e == 31) {
        u = sign | 0x7f800000u | (m << 13);
    } else if (e) {
        u = sign | ((e + 112) << 23) | (m << 13);
    } else { // subnormal: m * 2^-24 is exact in f32
        float f = (float)m * 5.9604644775390625e-8f;
        memcpy(&u, &f, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The 16 values of the 4-bit codes, by nibble. The first two are bitsandbytes' (0.50.2; Dettmers et al.,
 * arXiv:2305.14314, appendix E). */
static const float q3_nf4_values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
static const float q3_fp4_values[16] = {
    0.0f,  0.005208333333f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -0.005208333333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f,
};
/* (i - 7.5) / 8: kernels/nf4.h says why. */
static const float q3_int4_values[16] = {
    -0.9375f, -0.8125f, -0.6875f, -0.5625f, -0.4375f, -0.3125f, -0.1875f, -0.0625f,
    0.0625f,  0.1875f,  0.3125f,  0.4375f,  0.5625f,  0.6875f,  0.8125f,  0.9375f,
};

static inline bool q3_is_4bit(q3_dtype t)
{
    return t == Q3_NF4 || t == Q3_FP4 || t == Q3_I4;
}

/* The [16] values of a 4-bit code. */
static inline const float *q3_4bit_values(q3_dtype code)
{
    return code == Q3_FP4 ? q3_fp4_values : code == Q3_I4 ? q3_int4_values : q3_nf4_values;
}

/* What an int8 code stands for, rounded twice as bitsandbytes rounds it: fl(fl(code * absmax) * fl(1 / 127)). */
#define Q3_INT8_STEP 7.874015718698502e-3f
static inline float q3_int8_value(int8_t code, float absmax)
{
    return (float)code * absmax * Q3_INT8_STEP;
}

/* Element i of a weight's flat index, as f32. */
static inline float q3_weight_at(const q3_weight *w, int64_t i)
{
    switch (w->dtype) {
    case Q3_BF16:
        return q3_bf16_to_f32(((const uint16_t *)w->data)[i]);
    case Q3_F16:
        return q3_f16_to_f32(((const uint16_t *)w->data)[i]);
    case Q3_NF4:
    case Q3_FP4:
    case Q3_I4: {
        int code = ((const uint8_t *)w->data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        return q3_4bit_values(w->dtype)[code] * w->absmax[i / w->block];
    }
    case Q3_I8:
        return q3_int8_value(((const int8_t *)w->data)[i], w->absmax[i / w->block]);
    default:
        return ((const float *)w->data)[i];
    }
}

#endif
