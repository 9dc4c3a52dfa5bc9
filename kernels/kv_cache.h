/* kernels/kv_cache.h - keys or values of a paged cache, in the type they are stored in.
 *
 *   F32, BF16   the values
 *   I8          code = x / scale rounded to nearest even, scale = max |x| / 127 over a token's head (D values)
 *   I4          code = x / scale likewise in -7 .. 7, stored + 8, two a byte, the first in the high nibble;
 *               scale = max |x| / 7 over each run of 32 values of a head, which D must be a multiple of
 *
 * Scales are f32 and lie in an array of their own: [S, K] for I8, [S, K D / 32] for I4, where S counts tokens and
 * K key heads. A head of 128 takes 132 bytes in I8 and 80 in I4, where bf16 takes 256: 52 % and 31 %. A value that is
 * not finite makes all values of its scale NaN. Of Gaussian data, bf16 loses 0.17 % of the norm, I8 0.66 %, I4 9.7 %.
 */
#ifndef Q3_KERNELS_KV_CACHE_H
#define Q3_KERNELS_KV_CACHE_H

#include "kernels/cuda.h"
#include "kernels/dtype.h"

enum { Q3_KV_I4_GROUP = 32, Q3_KV_MAX_D = 256 }; /* MAX_D: of a head */

typedef struct q3_kv_slab {
    void *data;     /* [S, K D] */
    float *scales;  /* I8, I4; NULL otherwise */
    q3_dtype dtype; /* F32, BF16, I8, I4 */
} q3_kv_slab;

/* Scales of one token. */
static inline int64_t q3_kv_scales(q3_dtype dtype, int kv_heads, int head_size)
{
    return dtype == Q3_I8 ? kv_heads : dtype == Q3_I4 ? (int64_t)kv_heads * head_size / Q3_KV_I4_GROUP : 0;
}

/* Element i of the flat index of [S, K D]. */
static inline float q3_kv_value(const q3_kv_slab *slab, int64_t i, int head_size)
{
    switch (slab->dtype) {
    case Q3_BF16:
        return q3_bf16_to_f32(((const uint16_t *)slab->data)[i]);
    case Q3_I8:
        return (float)((const int8_t *)slab->data)[i] * slab->scales[i / head_size];
    case Q3_I4: {
        int code = ((const uint8_t *)slab->data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        return (float)(code - 8) * slab->scales[i / Q3_KV_I4_GROUP];
    }
    default:
        return ((const float *)slab->data)[i];
    }
}

typedef struct q3_kv_store_args {
    q3_kv_slab slab;     /* out: rows rows_t = x_t */
    const void *x;       /* [T, K D] */
    const int32_t *rows; /* [T], distinct, each in [0, S) */
    int64_t T;
    int kv_heads, head_size;
    q3_dtype dtype; /* of x: F32, BF16 */
} q3_kv_store_args;

void q3_kv_store_cpu(const q3_kv_store_args *a);
void q3_kv_store_cuda(const q3_kv_store_args *a, q3_cuda *cuda);

/* Tokens of a sequence out of its blocks: x_j = slab row of token j, j in [0, n) for each sequence, laid end to end. */
typedef struct q3_kv_load_args {
    void *x; /* out [sum of lengths, K D] */
    q3_kv_slab slab;
    const int32_t *tables; /* [rows, max_blocks]: the blocks of each sequence in order */
    const int32_t *begins; /* [rows + 1]: where the tokens of each begin in x */
    int64_t rows;
    int max_blocks, block;
    int kv_heads, head_size;
    q3_dtype dtype; /* of x: F32, BF16 */
} q3_kv_load_args;

void q3_kv_load_cpu(const q3_kv_load_args *a);
void q3_kv_load_cuda(const q3_kv_load_args *a, q3_cuda *cuda);

#endif
