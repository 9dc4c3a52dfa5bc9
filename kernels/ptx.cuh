/* kernels/ptx.cuh - what is one instruction on the device, or nvcc's own syntax; kernels/device.cuh lists the words.
 *
 * The only file with inline assembly. Everything here has a twin in tests/cuda_emu/include/cuda_emu_ptx.h, which is
 * where the meaning is spelled out. Instructions are those of sm_80; section names are of the PTX ISA.
 */
#ifndef Q3_KERNELS_PTX_CUH
#define Q3_KERNELS_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda.h"

/* Before a launch: makes the device current and asks for shared memory above the 48 KiB that every kernel may have.
 * False when it is not to be had; the failure is kept. */
static inline bool q3_launch_begin(q3_cuda *cuda, const char *name, const void *kernel, size_t shared_bytes)
{
    cudaError_t error = cudaSetDevice(cuda->ordinal);
    if (!error && shared_bytes > 48 * 1024)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: kernel %s with %zu bytes of shared memory: %s", cuda->ordinal, name,
                     shared_bytes, cudaGetErrorString(error));
    return !error;
}

/* After a launch: names the kernel that was refused. The runtime keeps the error for q3_cuda_take_failure. */
static inline void q3_launch_end(q3_cuda *cuda, const char *name, dim3 grid, dim3 block)
{
    cudaError_t error = cudaPeekAtLastError();
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: kernel %s (grid %u x %u x %u, block %u x %u x %u): %s", cuda->ordinal,
                     name, grid.x, grid.y, grid.z, block.x, block.y, block.z, cudaGetErrorString(error));
}

#define Q3_LAUNCH(cuda, kernel, grid, block, shared_bytes, ...)                                              \
    do {                                                                                                     \
        q3_cuda *launch_cuda_ = (cuda);                                                                      \
        const dim3 launch_grid_ = dim3(grid), launch_block_ = dim3(block); /* = : else declared functions */ \
        size_t launch_shared_ = (shared_bytes);                                                              \
        if (q3_launch_begin(launch_cuda_, #kernel, (const void *)kernel, launch_shared_)) {                  \
            kernel<<<launch_grid_, launch_block_, launch_shared_, (cudaStream_t)launch_cuda_->stream>>>(     \
                __VA_ARGS__);                                                                                \
            q3_launch_end(launch_cuda_, #kernel, launch_grid_, launch_block_);                               \
        }                                                                                                    \
    } while (0)

#define Q3_SHARED(T, name, n) __shared__ __align__(16) T name[n]
/* One declaration of bytes serves every type: the linker takes all dynamic arrays of a block for the same memory. */
#define Q3_DYNAMIC_SHARED(T, name)                                                                           \
    extern __shared__ __align__(128) unsigned char q3_dynamic_shared[];                                      \
    T *const name = (T *)q3_dynamic_shared

static __device__ __forceinline__ uint16_t q3_bf16_bits(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
static __device__ __forceinline__ float q3_bf16_value(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}
static __device__ __forceinline__ uint16_t q3_f16_bits(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}
static __device__ __forceinline__ float q3_f16_value(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}
static __device__ __forceinline__ uint32_t q3_pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(pair.x) | (uint32_t)__bfloat16_as_ushort(pair.y) << 16;
}

/* CUDA C++ Programming Guide, "Mathematical Functions": expf and exp2f err by at most 2 units of the last place. */
static __device__ __forceinline__ float q3_exp(float x)
{
    return expf(x);
}
static __device__ __forceinline__ float q3_exp2(float x)
{
    return exp2f(x);
}

/* "Multiply-and-Accumulate Instruction: mma": d += a b, shapes m16n8k16, sums in f32. */
static __device__ __forceinline__ void q3_mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ uint32_t q3_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* "Warp-level matrix load instruction: ldmatrix". */
static __device__ __forceinline__ void q3_ldmatrix4(uint32_t (&r)[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(q3_shared_address(shared))
                 : "memory");
}
static __device__ __forceinline__ void q3_ldmatrix4_trans(uint32_t (&r)[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(q3_shared_address(shared))
                 : "memory");
}

/* "Data Movement and Conversion Instructions: Non-bulk copy": past L1; of the 16 bytes the source gives all or none, the
 * rest is zeros. The address must be valid in form only where none are read. */
static __device__ __forceinline__ void q3_copy_async16(void *shared, const void *global, bool wanted)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(q3_shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(wanted ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void q3_copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}
template <int N> static __device__ __forceinline__ void q3_copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

#endif
