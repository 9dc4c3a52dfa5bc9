#include "tests/cuda_emu/probe.h"

#include "kernels/device.cuh"

template <class T> __global__ static void axpy_kernel(T *y, const T *x, float factor, int64_t n)
{
    for (int64_t i = q3_first(); i < n; i += q3_stride())
        q3_set(&y[i], factor * q3_value(x[i]) + q3_value(y[i]));
}

void probe_axpy(q3_cuda *cuda, void *y, const void *x, float factor, int64_t n, bool bf16)
{
    Q3_BY_TYPE(bf16 ? Q3_BF16 : Q3_F32, T,
               Q3_LAUNCH(cuda, axpy_kernel<T>, q3_blocks(n, 256), 256, 0, (T *)y, (const T *)x, factor, n));
}

template <int THREADS>
__global__ static void __launch_bounds__(THREADS)
    rows_kernel(float *sum, float *max_, const float *x, int64_t C)
{
    Q3_SHARED(float, shared, 32);
    float s = 0, m = -INFINITY;
    for (int64_t c = threadIdx.x; c < C; c += THREADS) {
        float v = x[blockIdx.x * C + c];
        s += v;
        m = fmaxf(m, v);
    }
    s = q3_block_sum<THREADS>(s, shared);
    m = q3_block_max<THREADS>(m, shared);
    if (threadIdx.x == 0) {
        sum[blockIdx.x] = s;
        max_[blockIdx.x] = m;
    }
}

void probe_rows(q3_cuda *cuda, float *sum, float *max, const float *x, int64_t R, int64_t C)
{
    Q3_LAUNCH(cuda, rows_kernel<128>, (unsigned)R, 128, 0, sum, max, x, C);
}

/* A block makes 64 x 64 of c with four warps, each 16 rows; 32 deep a stage, two stages. */
enum { TILE = 64, DEEP = 32, A_LD = DEEP + 8, B_LD = TILE + 8, STAGE = TILE * A_LD + DEEP * B_LD };

static __device__ void load_stage(q3_bf16 *s, const q3_bf16 *a, const q3_bf16 *b, int M, int N, int K, int k0)
{
    int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    for (int i = threadIdx.x; i < TILE * DEEP / 8; i += blockDim.x) {
        int m = i / (DEEP / 8), k = i % (DEEP / 8) * 8;
        bool inside = m0 + m < M && k0 + k < K;
        q3_copy_async16(s + m * A_LD + k, a + (inside ? (int64_t)(m0 + m) * K + k0 + k : 0), inside);
    }
    for (int i = threadIdx.x; i < TILE * DEEP / 8; i += blockDim.x) {
        int k = i / (TILE / 8), n = i % (TILE / 8) * 8;
        bool inside = k0 + k < K && n0 + n < N;
        q3_copy_async16(s + TILE * A_LD + k * B_LD + n, b + (inside ? (int64_t)(k0 + k) * N + n0 + n : 0),
                        inside);
    }
    q3_copy_async_commit();
}

static __device__ void multiply_stage(float (&sum)[8][4], const q3_bf16 *s)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const q3_bf16 *sa = s + 16 * warp * A_LD, *sb = s + TILE * A_LD;
    for (int k = 0; k < DEEP; k += 16) {
        uint32_t a[4];
        q3_ldmatrix4(a, sa + lane % 16 * A_LD + k + lane / 16 * 8);
        for (int n = 0; n < 8; n += 2) {
            uint32_t b[4]; // rows k.., k + 8.. of columns 8n.., then of the next eight
            q3_ldmatrix4_trans(b, sb + (k + lane % 16) * B_LD + 8 * n + lane / 16 * 8);
            const uint32_t low[2] = { b[0], b[1] }, high[2] = { b[2], b[3] };
            q3_mma_bf16(sum[n], a, low);
            q3_mma_bf16(sum[n + 1], a, high);
        }
    }
}

__global__ static void __launch_bounds__(128)
    matmul_kernel(float *c, const q3_bf16 *a, const q3_bf16 *b, int M, int N, int K)
{
    Q3_DYNAMIC_SHARED(q3_bf16, stages);
    float sum[8][4] = {};
    load_stage(stages, a, b, M, N, K, 0);
    for (int k = 0, now = 0; k < K; k += DEEP, now ^= 1) {
        load_stage(stages + (now ^ 1) * STAGE, a, b, M, N, K, k + DEEP); // zeros behind the end
        q3_copy_async_wait<1>();
        __syncthreads();
        multiply_stage(sum, stages + now * STAGE);
        __syncthreads();
    }
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int n = 0; n < 8; n++)
        for (int i = 0; i < 4; i++) {
            int row = blockIdx.y * TILE + 16 * warp + lane / 4 + i / 2 * 8;
            int column = blockIdx.x * TILE + 8 * n + lane % 4 * 2 + i % 2;
            if (row < M && column < N)
                c[(int64_t)row * N + column] = sum[n][i];
        }
}

void probe_matmul(q3_cuda *cuda, float *c, const uint16_t *a, const uint16_t *b, int M, int N, int K)
{
    dim3 grid((unsigned)(N + TILE - 1) / TILE, (unsigned)(M + TILE - 1) / TILE);
    Q3_LAUNCH(cuda, matmul_kernel, grid, 128, 2 * STAGE * sizeof(q3_bf16), c, (const q3_bf16 *)a,
              (const q3_bf16 *)b, M, N, K);
}

__global__ static void warp_kernel(int32_t *out)
{
    int lane = threadIdx.x;
    const unsigned all = 0xffffffffu;
    out[0 * 32 + lane] = __shfl_sync(all, 100 + lane, 5);
    out[1 * 32 + lane] = __shfl_sync(all, 100 + lane, lane + 1, 8);
    out[2 * 32 + lane] = __shfl_xor_sync(all, 100 + lane, 3);
    out[3 * 32 + lane] = __shfl_down_sync(all, 100 + lane, 2, 16);
    out[4 * 32 + lane] = __shfl_up_sync(all, 100 + lane, 2, 16);
    out[5 * 32 + lane] = (int32_t)__ballot_sync(all, lane % 3 == 0);
    out[6 * 32 + lane] = __any_sync(all, lane == 7);
    out[7 * 32 + lane] = __all_sync(all, lane < 31);
    // halves that go their own ways, one of them twice
    if (lane < 16) {
        int32_t v = __shfl_xor_sync(0x0000ffffu, 100 + lane, 1);
        out[8 * 32 + lane] = __shfl_xor_sync(0x0000ffffu, v, 2);
    } else {
        out[8 * 32 + lane] = (int32_t)__ballot_sync(0xffff0000u, lane % 2);
    }
    __syncwarp();
    out[9 * 32 + lane] = (int32_t)(__shfl_sync(all, 1.5 + lane, 31 - lane) * 2);
    out[10 * 32 + lane] = (int32_t)q3_warp_max((float)(lane * 7 % 32));
}

void probe_warp(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, warp_kernel, 1, 32, 0, out);
}

__global__ static void atomics_kernel(unsigned *counts)
{
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    atomicAdd(&counts[0], 1u);
    atomicMax(&counts[1], block * blockDim.x * blockDim.y * blockDim.z + thread);
}

void probe_atomics(q3_cuda *cuda, unsigned *counts, int blocks)
{
    Q3_LAUNCH(cuda, atomics_kernel, dim3((unsigned)blocks, 2, 3), dim3(5, 4, 3), 0, counts);
}

__global__ static void convert_kernel(uint16_t *half, uint16_t *brain, float *back, const float *x, int64_t n)
{
    for (int64_t i = q3_first(); i < n; i += q3_stride()) {
        half[i] = q3_f16_bits(x[i]);
        brain[i] = q3_bf16_bits(x[i]);
        back[i] = q3_f16_value(half[i]);
    }
}

void probe_convert(q3_cuda *cuda, uint16_t *half, uint16_t *brain, float *back, const float *x, int64_t n)
{
    Q3_LAUNCH(cuda, convert_kernel, q3_blocks(n, 256), 256, 0, half, brain, back, x, n);
}

__global__ static void bits_kernel(uint32_t *out, uint32_t a, uint32_t b, uint32_t selector)
{
    out[0] = __byte_perm(a, b, selector);
    out[1] = (uint32_t)__popc(a);
    out[2] = (uint32_t)__clz((int)b);
    out[3] = __float_as_uint(__fmul_rn(2.0f, __uint_as_float(0x3f800000u)));
}

void probe_bits(q3_cuda *cuda, uint32_t *out, uint32_t a, uint32_t b, uint32_t selector)
{
    Q3_LAUNCH(cuda, bits_kernel, 1, 1, 0, out, a, b, selector);
}

__global__ static void neighbour_kernel(int32_t *out, bool wait)
{
    Q3_SHARED(int32_t, shared, 256);
    shared[threadIdx.x] = (int32_t)threadIdx.x;
    if (wait)
        __syncthreads();
    out[threadIdx.x] = shared[(threadIdx.x + 1) % 256];
}

void probe_neighbour(q3_cuda *cuda, int32_t *out, bool wait)
{
    Q3_LAUNCH(cuda, neighbour_kernel, 1, 256, 0, out, wait);
}

__global__ static void copy_kernel(float *out, const float *in, bool wait)
{
    Q3_SHARED(float, shared, 128);
    q3_copy_async16(&shared[4 * threadIdx.x], &in[4 * threadIdx.x], true);
    q3_copy_async_commit();
    if (wait)
        q3_copy_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++)
        out[32 * i + threadIdx.x] = shared[32 * i + threadIdx.x];
}

void probe_copy(q3_cuda *cuda, float *out, const float *in, bool wait)
{
    Q3_LAUNCH(cuda, copy_kernel, 1, 32, 0, out, in, wait);
}

__global__ static void shape_kernel(int *out)
{
    if (!out)
        __syncthreads();
}

void probe_shape(q3_cuda *cuda, int *out, unsigned blocks, unsigned y, unsigned threads, size_t shared_bytes)
{
    Q3_LAUNCH(cuda, shape_kernel, dim3(blocks, y), threads, shared_bytes, out);
}

__global__ static void divergent_barrier_kernel(int32_t *out)
{
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

void probe_divergent_barrier(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, divergent_barrier_kernel, 1, 64, 0, out);
}

__global__ static void left_before_barrier_kernel(int32_t *out)
{
    if (threadIdx.x == 33)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

void probe_left_before_barrier(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, left_before_barrier_kernel, 1, 64, 0, out);
}

__global__ static void mask_without_caller_kernel(int32_t *out)
{
    out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, (int)threadIdx.x, 1);
}

void probe_mask_without_caller(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, mask_without_caller_kernel, 1, 32, 0, out);
}

__global__ static void mask_with_gone_lane_kernel(int32_t *out)
{
    if (threadIdx.x >= 30)
        return;
    out[threadIdx.x] = (int32_t)__ballot_sync(0xffffffffu, 1);
}

void probe_mask_with_gone_lane(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, mask_with_gone_lane_kernel, 1, 64, 0, out);
}

__global__ static void masks_differ_kernel(int32_t *out)
{
    unsigned mask = threadIdx.x < 8 ? 0x0000ffffu : 0xffffffffu;
    out[threadIdx.x] = (int32_t)__ballot_sync(mask, 1);
}

void probe_masks_differ(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, masks_differ_kernel, 1, 32, 0, out);
}

__global__ static void short_warp_kernel(int32_t *out)
{
    out[threadIdx.x] = (int32_t)q3_warp_sum(1);
}

void probe_short_warp(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, short_warp_kernel, 1, 48, 0, out);
}

__global__ static void deadlock_kernel(int32_t *out)
{
    if (threadIdx.x % 2)
        __syncthreads();
    out[threadIdx.x] = (int32_t)__ballot_sync(0xffffffffu, 1);
}

void probe_deadlock(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, deadlock_kernel, 1, 64, 0, out);
}

#ifndef __CUDACC__ // ptxas refuses the first, the others would be undefined on a card
__global__ static void much_static_shared_kernel(int32_t *out)
{
    Q3_SHARED(int32_t, some, 8192);
    Q3_SHARED(int32_t, more, 4097);
    some[threadIdx.x] = more[threadIdx.x] = 1;
    out[threadIdx.x] = some[threadIdx.x];
}

void probe_much_static_shared(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, much_static_shared_kernel, 1, 64, 0, out);
}

__global__ static void misaligned_copy_kernel(int32_t *out)
{
    Q3_SHARED(int32_t, shared, 64);
    q3_copy_async16(&shared[4], &out[1], true);
    q3_copy_async_wait<0>();
}

void probe_misaligned_copy(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, misaligned_copy_kernel, 1, 1, 0, out);
}

__global__ static void out_of_bounds_shared_kernel(int32_t *out)
{
    Q3_DYNAMIC_SHARED(int32_t, shared);
    out[threadIdx.x] = shared[threadIdx.x + 1];
}

void probe_out_of_bounds_shared(q3_cuda *cuda, int32_t *out)
{
    Q3_LAUNCH(cuda, out_of_bounds_shared_kernel, 1, 64, 64 * sizeof(int32_t), out);
}
#endif
