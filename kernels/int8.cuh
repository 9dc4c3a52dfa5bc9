/* kernels/int8.cuh - int8 codes and their scale on the device; kernels/int8.h says what they mean. */
#ifndef Q3_KERNELS_INT8_CUH
#define Q3_KERNELS_INT8_CUH

#include "kernels/wide.cuh"

/* As q3_int8_value: two products, so nothing is fused. */
static __device__ __forceinline__ float q3_int8(int8_t code, float absmax)
{
    return (float)code * absmax * Q3_INT8_STEP;
}

/* N codes of one row; p aligned to N bytes. */
template <int N> struct alignas(N) q3_int8_piece {
    int8_t code[N];
};
template <int N> static __device__ __forceinline__ void q3_int8_load(float (&v)[N], const int8_t *p, float absmax)
{
    const q3_int8_piece<N> piece = *(const q3_int8_piece<N> *)p;
    for (int i = 0; i < N; i++)
        v[i] = q3_int8(piece.code[i], absmax);
}

#endif
