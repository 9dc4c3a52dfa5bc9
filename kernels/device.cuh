/* kernels/device.cuh - the CUDA that the .cu files are written in.
 *
 * A small subset, so that the same sources run on a CPU under tests/cuda_emu: threads of a block, __syncthreads,
 * __syncwarp, warp shuffles and votes, shared memory through Q3_SHARED and Q3_DYNAMIC_SHARED, launches through
 * Q3_LAUNCH, and the wrappers of kernels/ptx.cuh for what is one instruction: conversions, mma.sync, ldmatrix,
 * cp.async. No atomics on floats, no cooperative groups, no inline assembly outside ptx.cuh.
 *
 * Sums run in a fixed order that depends on shapes alone: same inputs, same bits.
 */
#ifndef Q3_KERNELS_DEVICE_CUH
#define Q3_KERNELS_DEVICE_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

/* 16-bit floats as they lie in memory; arithmetic is in f32. */
struct q3_bf16 {
    uint16_t bits;
};
struct q3_f16 {
    uint16_t bits;
};

/* Provided by the next include, for nvcc and for the emulator alike:
 *
 *   Q3_LAUNCH(cuda, kernel, grid, block, shared_bytes, arguments...)   `kernel` in parentheses if it has commas;
 *                                  more than 48 KiB of dynamic shared memory are asked for by the macro
 *   Q3_SHARED(T, name, n)          a shared array of the block; Q3_DYNAMIC_SHARED(T, name) the launch's own
 *   uint16_t q3_bf16_bits(float), q3_f16_bits(float)         round to nearest even
 *   float q3_bf16_value(uint16_t), q3_f16_value(uint16_t)
 *   uint32_t q3_pack_bf16(float low, float high)             two at once
 *   float q3_exp(float), q3_exp2(float)                      expf and exp2f to within 2 units of the last place
 *   void q3_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])      d += a b, m16n8k16
 *   void q3_ldmatrix4(uint32_t (&r)[4], const void *shared), q3_ldmatrix4_trans(...)     four 8x8 matrices of b16
 *   void q3_copy_async16(void *shared, const void *global, bool wanted)                  zeros where not wanted
 *   void q3_copy_async_commit(void), template <int N> q3_copy_async_wait(void)           all but the newest N groups
 */
#if defined(__CUDACC__)
#include "kernels/ptx.cuh"
#else
#include "cuda_emu_ptx.h"
#endif

static __device__ __forceinline__ float q3_value(float x)
{
    return x;
}
static __device__ __forceinline__ float q3_value(q3_bf16 x)
{
    return q3_bf16_value(x.bits);
}
static __device__ __forceinline__ float q3_value(q3_f16 x)
{
    return q3_f16_value(x.bits);
}

static __device__ __forceinline__ void q3_set(float *to, float x)
{
    *to = x;
}
static __device__ __forceinline__ void q3_set(q3_bf16 *to, float x)
{
    to->bits = q3_bf16_bits(x);
}
static __device__ __forceinline__ void q3_set(q3_f16 *to, float x)
{
    to->bits = q3_f16_bits(x);
}

/* x as it would be read back from an array of T. */
template <class T> static __device__ __forceinline__ float q3_rounded(float x)
{
    T t;
    q3_set(&t, x);
    return q3_value(t);
}

/* beta is 0 (y is not read) or 1. */
template <class T> static __device__ __forceinline__ void q3_add_to(T *to, float beta, float x)
{
    q3_set(to, beta != 0 ? q3_value(*to) + x : x);
}

/* Elements of 16 bytes: 4 f32, 8 bf16. */
template <class T> struct q3_width {
    enum { elements = 16 / sizeof(T) };
};

static __device__ __forceinline__ void q3_load(float (&v)[4], const float *p) /* p aligned to 16 bytes */
{
    const float4 x = *(const float4 *)p;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}
static __device__ __forceinline__ void q3_load(float (&v)[8], const q3_bf16 *p)
{
    const uint4 x = *(const uint4 *)p;
    const uint32_t u[4] = { x.x, x.y, x.z, x.w };
    for (int i = 0; i < 4; i++) {
        v[2 * i] = q3_bf16_value((uint16_t)u[i]);
        v[2 * i + 1] = q3_bf16_value((uint16_t)(u[i] >> 16));
    }
}
static __device__ __forceinline__ void q3_store(float *p, const float (&v)[4])
{
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
}
static __device__ __forceinline__ void q3_store(q3_bf16 *p, const float (&v)[8])
{
    *(uint4 *)p = make_uint4(q3_pack_bf16(v[0], v[1]), q3_pack_bf16(v[2], v[3]), q3_pack_bf16(v[4], v[5]),
                             q3_pack_bf16(v[6], v[7]));
}

/* Over the 32 lanes of a warp, the result in every lane; the order is a butterfly. */
static __device__ __forceinline__ float q3_warp_sum(float x)
{
    for (int step = 16; step; step >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
static __device__ __forceinline__ float q3_warp_max(float x)
{
    for (int step = 16; step; step >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/* Over a block of THREADS (a multiple of 32), the result in every thread. `shared` [32] may be used again right away:
 * the barrier in front protects it. */
template <int THREADS> static __device__ __forceinline__ float q3_block_sum(float x, float *shared)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    x = q3_warp_sum(x);
    __syncthreads();
    if (lane == 0)
        shared[warp] = x;
    __syncthreads();
    return q3_warp_sum(lane < THREADS / 32 ? shared[lane] : 0.0f);
}
template <int THREADS> static __device__ __forceinline__ float q3_block_max(float x, float *shared)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    x = q3_warp_max(x);
    __syncthreads();
    if (lane == 0)
        shared[warp] = x;
    __syncthreads();
    return q3_warp_max(lane < THREADS / 32 ? shared[lane] : shared[0]);
}

/* First element of this thread and the distance to its next, in a launch over n elements. */
static __device__ __forceinline__ int64_t q3_first(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
static __device__ __forceinline__ int64_t q3_stride(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* Host: blocks of `threads` that cover n elements, at least 1 and few enough for any grid; kernels stride. */
static inline unsigned q3_blocks(int64_t n, int threads)
{
    const int64_t most = 1 << 20;
    int64_t blocks = (n + threads - 1) / threads;
    return (unsigned)(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

/* Host: runs the statement with T standing for the type of the activations. */
#define Q3_BY_TYPE(dtype_, T, statement)                                                                     \
    do {                                                                                                     \
        if ((dtype_) == Q3_BF16) {                                                                           \
            typedef q3_bf16 T;                                                                               \
            statement;                                                                                       \
        } else {                                                                                             \
            typedef float T;                                                                                 \
            statement;                                                                                       \
        }                                                                                                    \
    } while (0)

#endif
