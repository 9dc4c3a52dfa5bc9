/* kernels/kv_cache.cuh - a slab of keys or values on the device, whose type S is float, q3_bf16, int8_t or, for int4,
 * q3_kv_nibbles; see kernels/kv_cache.h. */
#ifndef Q3_KERNELS_KV_CACHE_CUH
#define Q3_KERNELS_KV_CACHE_CUH

#include "kernels/int8.cuh"

extern "C" {
#include "kernels/kv_cache.h"
}

struct q3_kv_nibbles {
    uint8_t two;
};

/* N values from element c of a head on, heads counted over all tokens; N divides D, and c. */
template <int N, class S>
static __device__ __forceinline__ void q3_kv_read(float (&v)[N], const S *data, const float *, int64_t head,
                                                  int c, int D)
{
    q3_load(v, data + head * D + c);
}
template <int N>
static __device__ __forceinline__ void q3_kv_read(float (&v)[N], const int8_t *data, const float *scales,
                                                  int64_t head, int c, int D)
{
    const q3_int8_piece<N> piece = *(const q3_int8_piece<N> *)(data + head * D + c);
    const float scale = scales[head];
    for (int i = 0; i < N; i++)
        v[i] = (float)piece.code[i] * scale;
}
template <int N>
static __device__ __forceinline__ void q3_kv_read(float (&v)[N], const q3_kv_nibbles *data,
                                                  const float *scales, int64_t head, int c, int D)
{
    const q3_int8_piece<(N + 1) / 2> piece = *(const q3_int8_piece<(N + 1) / 2> *)(data + (head * D + c) / 2);
    const float scale = scales[(head * D + c) / Q3_KV_I4_GROUP];
    const bool odd = N == 1 && c % 2;
    for (int i = 0; i < N; i++)
        v[i] = (float)(((uint8_t)piece.code[i / 2] >> (i % 2 || odd ? 0 : 4) & 15) - 8) * scale;
}

/* Runs the statement with S naming the slab's type. */
#define Q3_BY_CACHE(dtype_, S, statement)                                                                    \
    do {                                                                                                     \
        if ((dtype_) == Q3_I8) {                                                                             \
            typedef int8_t S;                                                                                \
            statement;                                                                                       \
        } else if ((dtype_) == Q3_I4) {                                                                      \
            typedef q3_kv_nibbles S;                                                                         \
            statement;                                                                                       \
        } else if ((dtype_) == Q3_BF16) {                                                                    \
            typedef q3_bf16 S;                                                                               \
            statement;                                                                                       \
        } else {                                                                                             \
            typedef float S;                                                                                 \
            statement;                                                                                       \
        }                                                                                                    \
    } while (0)

#endif
