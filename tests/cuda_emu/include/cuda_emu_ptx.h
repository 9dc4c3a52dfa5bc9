/* tests/cuda_emu/include/cuda_emu_ptx.h - the emulated twin of kernels/ptx.cuh; kernels/device.cuh lists the words. */
#ifndef Q3_CUDA_EMU_PTX_H
#define Q3_CUDA_EMU_PTX_H

#include <cuda_runtime.h>
#include <math.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

/* As in kernels/ptx.cuh: the device is made current, shared memory above 48 KiB asked for, and what goes wrong is the
 * context's first failure. */
template <class... P, class... A>
static inline void q3_emu_launch_on(q3_cuda *cuda, const char *name, void (*kernel)(P...), dim3 grid,
                                    dim3 block, size_t shared_bytes, A &&...args)
{
    cudaError_t error = cudaSetDevice(cuda->ordinal);
    if (!error && shared_bytes > 48 * 1024)
        error = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared_bytes);
    if (!error)
        error = q3_emu_launch_kernel(name, kernel, grid, block, shared_bytes, (cudaStream_t)cuda->stream,
                                     std::forward<A>(args)...);
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: kernel %s (grid %u x %u x %u, block %u x %u x %u, %zu bytes shared): %s",
                     cuda->ordinal, name, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes,
                     cudaGetErrorString(error));
}
#define Q3_LAUNCH(cuda, kernel, grid, block, shared_bytes, ...)                                              \
    q3_emu_launch_on((cuda), #kernel, kernel, (grid), (block), (shared_bytes), __VA_ARGS__)

#define Q3_SHARED(T, name, n)                                                                                \
    static __thread q3_emu_shared_mark q3_mark_##name;                                                       \
    T(&name)                                                                                                 \
    [n] = *(T(*)[n])q3_emu_shared(&q3_mark_##name, sizeof(T) * (n), #name, q3_emu_site{ __FILE__, __LINE__ })
#define Q3_DYNAMIC_SHARED(T, name) T *const name = (T *)q3_emu_now.dynamic_shared

static inline uint16_t q3_bf16_bits(float x)
{
    return q3_f32_to_bf16(x);
}
static inline float q3_bf16_value(uint16_t bits)
{
    return q3_bf16_to_f32(bits);
}
static inline float q3_f16_value(uint16_t bits)
{
    return q3_f16_to_f32(bits);
}
/* Round to nearest even, as __float2half_rn. Small values take f32's own rounding: beside 0.5 its last place is the
 * half float's smallest number, 2^-24. */
static inline uint16_t q3_f16_bits(float x)
{
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)0x7fffu; // NaN, as the device writes it
    if (u >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); // 65520 and above round to infinity
    if (u < 0x38800000u)                   // below 2^-14, the smallest normal half float
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(u) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + (u >> 13 & 1)) >> 13));
}
static inline uint32_t q3_pack_bf16(float low, float high)
{
    return q3_bf16_bits(low) | (uint32_t)q3_bf16_bits(high) << 16;
}
static inline float q3_exp(float x)
{
    return expf(x);
}
static inline float q3_exp2(float x)
{
    return exp2f(x);
}

/* Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"), by lane: g = lane /
 * 4, t = lane % 4. a[0], a[1], a[2], a[3] hold rows g, g + 8, g, g + 8, columns 2t.., 2t.., 2t + 8.., 2t + 8..; b[0],
 * b[1] rows 2t.., 2t + 8.. of column g; d[0..1] row g, d[2..3] row g + 8, columns 2t... */
struct q3_emu_mma {
    float *d;
    const uint32_t *a, *b;
};
void q3_emu_mma_bf16(void *const (&lanes)[32], uint32_t mask);
static inline void q3_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Q3_EMU_CALLER)
{
    q3_emu_mma mine = { d, a, b };
    q3_emu_warp(q3_emu_mma_bf16, "q3_mma_bf16", 0xffffffffu, &mine, Q3_EMU_SITE);
}

/* Lane 8m + i names row i of matrix m; lane l gets elements 2 (l % 4) and the next of row l / 4, or of column l / 4. */
struct q3_emu_ldmatrix {
    const void *row;
    uint32_t r[4];
};
void q3_emu_ldmatrix4(void *const (&lanes)[32], uint32_t mask);
void q3_emu_ldmatrix4_trans(void *const (&lanes)[32], uint32_t mask);
static inline void q3_emu_ldmatrix_with(q3_emu_collective *what, const char *name, uint32_t (&r)[4],
                                        const void *shared, q3_emu_site site)
{
    if ((uintptr_t)shared % 16 || !q3_emu_in_shared(shared, 16))
        q3_emu_stop(site, "%s reads %p, which is not 16 aligned bytes of the block's shared memory", name,
                    shared);
    q3_emu_ldmatrix mine = { shared, { 0, 0, 0, 0 } };
    q3_emu_warp(what, name, 0xffffffffu, &mine, site);
    memcpy(r, mine.r, sizeof r);
}
static inline void q3_ldmatrix4(uint32_t (&r)[4], const void *shared, Q3_EMU_CALLER)
{
    q3_emu_ldmatrix_with(q3_emu_ldmatrix4, "q3_ldmatrix4", r, shared, Q3_EMU_SITE);
}
static inline void q3_ldmatrix4_trans(uint32_t (&r)[4], const void *shared, Q3_EMU_CALLER)
{
    q3_emu_ldmatrix_with(q3_emu_ldmatrix4_trans, "q3_ldmatrix4_trans", r, shared, Q3_EMU_SITE);
}

static inline void q3_copy_async16(void *shared, const void *global, bool wanted, Q3_EMU_CALLER)
{
    q3_emu_copy_async(shared, global, wanted, Q3_EMU_SITE);
}
static inline void q3_copy_async_commit(void)
{
    q3_emu_copy_commit();
}
template <int N> static inline void q3_copy_async_wait(void)
{
    q3_emu_copy_wait(N);
}

#endif
