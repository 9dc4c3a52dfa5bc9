/* kernels/wide.cuh - N elements a thread: 16 bytes at once where a shape allows it, else one by one.
 *
 * A kernel is written for N elements at a time and instantiated twice: with N = q3_width<T>::elements where q3_wide
 * says that all rows begin on 16 bytes and hold whole pieces, and with N = 1. Rows are dealt to 1 << shift threads
 * each, so that short rows share a block and long ones use all of it:
 *
 *   for (int64_t row = q3_first() >> shift; row < rows; row += q3_stride() >> shift)
 *       for (int64_t c = q3_lane(shift) * N; c < C; c += N << shift)
 */
#ifndef Q3_KERNELS_WIDE_CUH
#define Q3_KERNELS_WIDE_CUH

#include "kernels/device.cuh"

enum { Q3_THREADS = 256 }; /* a block of the kernels that only move along elements or rows */

template <class T> static __device__ __forceinline__ void q3_load(float (&v)[1], const T *p)
{
    v[0] = q3_value(*p);
}
static __device__ __forceinline__ void q3_load(float (&v)[8], const float *p)
{
    const float4 x = ((const float4 *)p)[0], y = ((const float4 *)p)[1];
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    v[4] = y.x, v[5] = y.y, v[6] = y.z, v[7] = y.w;
}
/* 16-bit floats where f32 sets the pace: p aligned to 8 bytes. */
template <class T> static __device__ __forceinline__ void q3_load(float (&v)[4], const T *p)
{
    const uint2 x = *(const uint2 *)p;
    const uint32_t u[2] = { x.x, x.y };
    for (int i = 0; i < 4; i++) {
        T t;
        t.bits = (uint16_t)(u[i / 2] >> (i % 2 * 16));
        v[i] = q3_value(t);
    }
}
static __device__ __forceinline__ void q3_load(float (&v)[8], const q3_f16 *p)
{
    const uint4 x = *(const uint4 *)p;
    const uint32_t u[4] = { x.x, x.y, x.z, x.w };
    for (int i = 0; i < 4; i++) {
        v[2 * i] = q3_f16_value((uint16_t)u[i]);
        v[2 * i + 1] = q3_f16_value((uint16_t)(u[i] >> 16));
    }
}

template <class T> static __device__ __forceinline__ void q3_store(T *p, const float (&v)[1])
{
    q3_set(p, v[0]);
}
static __device__ __forceinline__ void q3_store(float *p, const float (&v)[8])
{
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void q3_store(q3_bf16 *p, const float (&v)[4])
{
    *(uint2 *)p = make_uint2(q3_pack_bf16(v[0], v[1]), q3_pack_bf16(v[2], v[3]));
}

/* to = beta to + v; beta is 0 (`to` is not read) or 1. */
template <class T, int N> static __device__ __forceinline__ void q3_store_to(T *to, float beta, float (&v)[N])
{
    if (beta != 0) {
        float old[N];
        q3_load(old, to);
        for (int i = 0; i < N; i++)
            v[i] += old[i];
    }
    q3_store(to, v);
}

/* This thread among the 1 << shift of its row. */
static __device__ __forceinline__ int q3_lane(int shift)
{
    return (int)threadIdx.x & ((1 << shift) - 1);
}

/* Host: as few threads as have a piece each, at most a block of them. */
static inline int q3_row_shift(int64_t pieces)
{
    int shift = 0;
    while ((1 << shift) < pieces && (1 << shift) < Q3_THREADS)
        shift++;
    return shift;
}

/* Host: whether rows of C elements of T, end to end from each of the pointers on, are made of aligned pieces of 16
 * bytes. NULL is fine. */
template <class T>
static inline bool q3_wide(int64_t C, const void *a, const void *b = NULL, const void *c = NULL,
                           const void *d = NULL, const void *e = NULL)
{
    uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d | (uintptr_t)e;
    return C % q3_width<T>::elements == 0 && all % 16 == 0;
}

#endif
