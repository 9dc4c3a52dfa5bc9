/* kernels/eight.cuh - eight elements of any float type at once, in accesses of 16 bytes. */
#ifndef Q3_KERNELS_EIGHT_CUH
#define Q3_KERNELS_EIGHT_CUH

#include "kernels/device.cuh"

static __device__ __forceinline__ void q3_load_eight(float (&v)[8],
                                                     const float *p) /* p aligned to 16 bytes */
{
    const float4 low = ((const float4 *)p)[0], high = ((const float4 *)p)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
static __device__ __forceinline__ void q3_load_eight(float (&v)[8], const q3_bf16 *p)
{
    q3_load(v, p);
}
static __device__ __forceinline__ void q3_load_eight(float (&v)[8], const q3_f16 *p)
{
    const uint4 x = *(const uint4 *)p;
    const uint32_t u[4] = { x.x, x.y, x.z, x.w };
    for (int i = 0; i < 4; i++) {
        v[2 * i] = q3_f16_value((uint16_t)u[i]);
        v[2 * i + 1] = q3_f16_value((uint16_t)(u[i] >> 16));
    }
}

static __device__ __forceinline__ void q3_store_eight(float *p, const float (&v)[8])
{
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void q3_store_eight(q3_bf16 *p, const float (&v)[8])
{
    q3_store(p, v);
}
static __device__ __forceinline__ uint32_t q3_pack_f16(float low, float high)
{
    return q3_f16_bits(low) | (uint32_t)q3_f16_bits(high) << 16;
}
static __device__ __forceinline__ void q3_store_eight(q3_f16 *p, const float (&v)[8])
{
    *(uint4 *)p = make_uint4(q3_pack_f16(v[0], v[1]), q3_pack_f16(v[2], v[3]), q3_pack_f16(v[4], v[5]),
                             q3_pack_f16(v[6], v[7]));
}

#endif
