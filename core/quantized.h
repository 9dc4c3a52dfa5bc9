/* core/quantized.h - a 4-bit matrix as a value: quantized in memory or bound to a file.
 *
 * Kernels use it as a q3_weight. Wraps kernels/nf4.h (the mathematics and the bytes) with memory and checks.
 * With double quantization `absmax` holds what codes, scale and offset decode to, because that is what the
 * reference computes with.
 */
#ifndef Q3_CORE_QUANTIZED_H
#define Q3_CORE_QUANTIZED_H

#include "core/arena.h"
#include "kernels/dtype.h"

typedef struct q3_quantized {
    q3_dtype code;         /* Q3_NF4, Q3_FP4, Q3_I4 */
    q3_dtype source;       /* type of the weights before, which dequantizing restores: F32, BF16, F16 */
    int block;             /* elements per absmax, along the flat index */
    int64_t n;             /* elements */
    const uint8_t *packed; /* [(n + 1) / 2] */
    const float *absmax;   /* [ceil(n / block)] */
    const uint8_t *nested; /* double quantization: code of each absmax; NULL without */
    const float *scale;    /* one a group of 256 codes */
    const float *map;      /* [256] value of each code */
    float offset;          /* mean of the scales before */
} q3_quantized;

typedef struct q3_quantize_args {
    const char *name; /* of the tensor, for messages */
    const void *x;    /* [n] */
    q3_dtype dtype;   /* of x: F32, BF16, F16 */
    int64_t n;
    q3_dtype code; /* Q3_NF4, Q3_FP4, Q3_I4 */
    int block;     /* power of two, 32 .. 4096; bitsandbytes' default is 64 */
    bool nested;   /* double quantization; not with I4 */
} q3_quantize_args;

static inline int64_t q3_quantized_blocks(const q3_quantized *q)
{
    return (q->n + q->block - 1) / q->block;
}
static inline int64_t q3_quantized_groups(const q3_quantized *q)
{
    return (q3_quantized_blocks(q) + 255) / 256;
}

static inline q3_weight q3_quantized_weight(const q3_quantized *q)
{
    return (q3_weight){ .data = q->packed, .dtype = q->code, .block = q->block, .absmax = q->absmax };
}

/* Quantizes into `mem`; a dry arena only counts. Q3_ERR_MODEL when x holds NaN or infinities,
 * Q3_ERR_MEMORY. */
q3_status q3_quantize(q3_quantized *out, q3_arena *mem, const q3_quantize_args *a);

/* w [n] of type F32, BF16 or F16: bit for bit what bitsandbytes' CUDA kernels and file format mean. */
void q3_dequantize(void *w, q3_dtype dtype, const q3_quantized *q);

/* Computes absmax from nested, scale, map and offset into `mem` (a dry arena only counts). */
q3_status q3_quantized_unnest(q3_quantized *q, q3_arena *mem);

/* true when `value` [16] is the code book of `code`, up to a last place. */
bool q3_quantized_book_is(q3_dtype code, const float *value);
/* The code book itself, [16]. */
const float *q3_quantized_book(q3_dtype code);

#endif
