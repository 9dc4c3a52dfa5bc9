/* kernels/nf4.cu - 4-bit weights on the device, to the bit as on the CPU (NaNs are any NaN).
 *
 *   kernel                    idea
 *   dequantize_v8             a thread has 4 independent words of 8 codes in flight, and writes 16 bytes at a time
 *   dequantize_each           one element a thread, for arrays that are not aligned to 4 (codes) and 16 bytes
 *   quantize_block_per_warp   absmax by shuffles over the bits of |x|, then a byte of two codes a lane
 *   mean_by_one_warp          torch's order has 32 columns: a lane each
 *   nest_group_per_block      a thread has one scale of a group
 *
 * Cost of dequantizing: n / 2 + n / block scales read, 2 or 4 n bytes written; bandwidth-bound. Quantizing and nesting
 * run once, when a model is read.
 */
#include "kernels/eight.cuh"
#include "kernels/nf4.cuh"

extern "C" {
#include "kernels/nf4.h"
}

namespace
{

enum { THREADS = 256, WARPS = THREADS / 32, EIGHT = 8, IN_FLIGHT = 4 };

__device__ __forceinline__ void load_book(float *value, const q3_nf4_book &book)
{
    if (threadIdx.x < 16)
        value[threadIdx.x] = book.value[threadIdx.x];
    __syncthreads();
}

__device__ __forceinline__ int64_t within(int64_t i, int64_t n)
{
    return i < n ? i : n - 1;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    dequantize_v8(T *__restrict__ w, const uint8_t *__restrict__ packed, q3_nf4_scales scales,
                  q3_nf4_book book, int64_t n)
{
    Q3_SHARED(float, value, 16);
    load_book(value, book);
    const int64_t words = n / EIGHT, step = (int64_t)gridDim.x * (THREADS * IN_FLIGHT);
    for (int64_t at = (int64_t)blockIdx.x * (THREADS * IN_FLIGHT) + threadIdx.x; at < words; at += step) {
        uint32_t codes[IN_FLIGHT];
        float scale[IN_FLIGHT], v[EIGHT];
        for (int j = 0; j < IN_FLIGHT; j++)
            codes[j] = ((const uint32_t *)packed)[within(at + j * THREADS, words)];
        if (scales.absmax)
            for (int j = 0; j < IN_FLIGHT; j++)
                scale[j] = scales.absmax[within(at + j * THREADS, words) * EIGHT >> scales.shift];
        else
            for (int j = 0; j < IN_FLIGHT; j++)
                scale[j] =
                    q3_unnested(scales.nested, within(at + j * THREADS, words) * EIGHT >> scales.shift);
        for (int j = 0; j < IN_FLIGHT; j++) {
            int64_t word = at + j * THREADS;
            for (int i = 0; i < EIGHT; i++) // a byte holds its first element in the high nibble
                v[i] = value[codes[j] >> (8 * (i / 2) + (i % 2 ? 0 : 4)) & 15] * scale[j];
            if (word < words)
                q3_store_eight(w + word * EIGHT, v);
        }
    }
    int64_t last = words * EIGHT + threadIdx.x;
    if (blockIdx.x == 0 && last < n)
        q3_set(w + last, value[q3_nibble(packed, last)] * q3_nf4_scale(scales, last));
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    dequantize_each(T *w, const uint8_t *packed, q3_nf4_scales scales, q3_nf4_book book, int64_t n)
{
    Q3_SHARED(float, value, 16);
    load_book(value, book);
    for (int64_t i = q3_first(); i < n; i += q3_stride())
        q3_set(w + i, value[q3_nibble(packed, i)] * q3_nf4_scale(scales, i));
}

template <class T> void dequantize(const q3_nf4_dequantize_args *a, q3_cuda *cuda)
{
    const q3_nf4_scales scales = q3_nf4_scales_of(a->absmax, &a->nested, a->block);
    const q3_nf4_book book = q3_nf4_book_of(a->code);
    bool aligned = (uintptr_t)a->w % 16 == 0 && (uintptr_t)a->packed % 4 == 0;
    if (aligned)
        Q3_LAUNCH(cuda, dequantize_v8<T>, q3_blocks(a->n / EIGHT, THREADS * IN_FLIGHT), THREADS, 0, (T *)a->w,
                  a->packed, scales, book, a->n);
    else
        Q3_LAUNCH(cuda, dequantize_each<T>, q3_blocks(a->n, THREADS), THREADS, 0, (T *)a->w, a->packed,
                  scales, book, a->n);
}

/* ---- quantizing ---- */

/* q3_nf4_steps as a kernel argument: an index into its bytes would put it on the stack. */
struct thresholds {
    float above[15];
    uint64_t nibbles; /* 4 bits each, that of no threshold below y lowest */
};

thresholds thresholds_of(q3_dtype code)
{
    const q3_nf4_steps *steps = q3_nf4_steps_of(code);
    thresholds t = { { 0 }, 0 };
    memcpy(t.above, steps->above, sizeof t.above);
    for (int i = 0; i < 16; i++)
        t.nibbles |= (uint64_t)steps->nibble[i] << (4 * i);
    return t;
}

__device__ __forceinline__ unsigned encode(const thresholds &t, float y)
{
    int below = 0;
    for (int k = 0; k < 15; k++)
        below += y > t.above[k];
    return (unsigned)(t.nibbles >> (4 * below)) & 15;
}

/* NaN wins over infinity, infinity over numbers: that is the order of their bits. */
template <class T> __device__ __forceinline__ float absmax_of(const T *x, int count, int lane)
{
    uint32_t top = 0;
    for (int i = lane; i < count; i += 32) {
        uint32_t bits = __float_as_uint(q3_value(x[i])) & 0x7fffffffu;
        top = bits > top ? bits : top;
    }
    for (int step = 16; step; step >>= 1) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, top, step);
        top = other > top ? other : top;
    }
    return __uint_as_float(top);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    quantize_block_per_warp(uint8_t *packed, float *absmax, const T *__restrict__ x, thresholds steps,
                            int block, int64_t n)
{
    const float tiny = 1e-38f;
    int lane = threadIdx.x & 31;
    int64_t blocks = (n + block - 1) / block;
    for (int64_t b = (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5); b < blocks;
         b += (int64_t)gridDim.x * WARPS) {
        const int64_t at = b * block;
        const T *own = x + at;
        int count = n - at < block ? (int)(n - at) : block;
        bool full = count == block;
        float m = absmax_of(own, count, lane), safe = m < tiny ? tiny : m, r = 1.0f / safe;
        if (lane == 0)
            absmax[b] = full ? m : safe;
        for (int i = 2 * lane; i < count; i += 64) {
            float x0 = q3_value(own[i]), x1 = i + 1 < count ? q3_value(own[i + 1]) : 0.0f;
            unsigned high = encode(steps, full ? x0 * r : x0 / safe),
                     low = encode(steps, full ? x1 * r : x1 / safe);
            packed[(at + i) / 2] = (uint8_t)(high << 4 | low);
        }
    }
}

template <class T> void quantize(const q3_nf4_quantize_args *a, q3_cuda *cuda)
{
    int64_t blocks = (a->n + a->block - 1) / a->block;
    Q3_LAUNCH(cuda, quantize_block_per_warp<T>, q3_blocks(blocks, WARPS), THREADS, 0, a->packed, a->absmax,
              (const T *)a->x, thresholds_of(a->code), a->block, a->n);
}

/* ---- double quantization ---- */

enum { LANES = 8, CHAINS = 4, WIDTH = LANES * CHAINS, LEVELS = 4, ROWS = 16 };

/* Sum of one of the 32 columns of x [rows, 32], as kernels/nf4.c does it. */
__device__ float column_sum(const float *__restrict__ column, int64_t rows)
{
    float level[LEVELS] = { 0, 0, 0, 0 };
    int power = 0;
    while ((int64_t)1 << power < rows)
        power++;
    power = power / LEVELS > 4 ? power / LEVELS : 4;
    const int64_t step = (int64_t)1 << power; // a multiple of ROWS
    int64_t i = 0;
    while (i + step <= rows) {
        for (int64_t end = i + step; i < end; i += ROWS) {
            float row[ROWS]; // all loads in flight, then the sums in order
            for (int k = 0; k < ROWS; k++)
                row[k] = column[(i + k) * WIDTH];
            for (int k = 0; k < ROWS; k++)
                level[0] += row[k];
        }
        for (int j = 1; j < LEVELS; j++) {
            level[j] += level[j - 1];
            level[j - 1] = 0;
            if (i & (step - 1) << (j * power))
                break;
        }
    }
    for (; i < rows; i++)
        level[0] += column[i * WIDTH];
    for (int j = 1; j < LEVELS; j++)
        level[0] += level[j];
    return level[0];
}

__global__ void mean_by_one_warp(float *mean, const float *__restrict__ x, int64_t n)
{
    Q3_SHARED(float, column, WIDTH);
    int lane = threadIdx.x;
    float own = column_sum(x + lane, n / WIDTH);
    int64_t i = n / WIDTH * WIDTH;
    for (; i + LANES <= n; i += LANES) // whole vectors left over go to the first chain
        if (lane < LANES)
            own += x[i + lane];
    column[lane] = own;
    __syncthreads();
    if (lane)
        return;
    float sum = 0;
    for (; i < n; i++)
        sum += x[i];
    for (int k = 0; k < LANES; k++) {
        float all = column[k];
        for (int c = 1; c < CHAINS; c++)
            all += column[c * LANES + k];
        sum += all;
    }
    *mean = sum / (float)n;
}

struct signed_map {
    float value[256];
};

__device__ uint8_t nearest(const float *map, float v)
{
    int low = 0, high = 255;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (map[mid] <= v)
            low = mid;
        else
            high = mid;
    }
    return (uint8_t)(v - map[low] <= map[high] - v ? low : high);
}

__global__ void __launch_bounds__(Q3_NF4_GROUP)
    nest_group_per_block(uint8_t *codes, float *scale, const float *offset, const float *absmax,
                         signed_map map, int64_t n)
{
    Q3_SHARED(float, value, 256);
    Q3_SHARED(float, sums, 32);
    value[threadIdx.x] = map.value[threadIdx.x];
    for (int64_t at = (int64_t)blockIdx.x * Q3_NF4_GROUP; at < n; at += (int64_t)gridDim.x * Q3_NF4_GROUP) {
        const int64_t i = at + threadIdx.x;
        float x = i < n ? absmax[i] - *offset : 0.0f;
        float m = q3_block_max<Q3_NF4_GROUP>(fmaxf(0.0f, fabsf(x)), sums), y = x / m;
        if (threadIdx.x == 0)
            scale[at / Q3_NF4_GROUP] = m;
        uint8_t code = 0;
        if (m > 0.0f && y == y) {
            y = y < -1.0f ? -1.0f : y > 1.0f ? 1.0f : y;
            // the nearest of 65536 points on [-1, 1]
            double point = (double)rintf((y + 1.0f) * 32767.5f);
            code = nearest(value, (float)(-1.0 + 2.0 * point / 65535.0));
        }
        if (i < n)
            codes[i] = code;
    }
}

__global__ void __launch_bounds__(THREADS) unnest_each(float *absmax, q3_nested nested, int64_t n)
{
    for (int64_t i = q3_first(); i < n; i += q3_stride())
        absmax[i] = q3_unnested(nested, i);
}

} // namespace

void q3_nf4_dequantize_cuda(const q3_nf4_dequantize_args *a, q3_cuda *cuda)
{
    if (a->n == 0)
        return;
    if (a->dtype == Q3_F16)
        dequantize<q3_f16>(a, cuda);
    else
        Q3_BY_TYPE(a->dtype, T, dequantize<T>(a, cuda));
}

void q3_nf4_quantize_cuda(const q3_nf4_quantize_args *a, q3_cuda *cuda)
{
    if (a->n == 0)
        return;
    if (a->dtype == Q3_F16)
        quantize<q3_f16>(a, cuda);
    else
        Q3_BY_TYPE(a->dtype, T, quantize<T>(a, cuda));
}

void q3_nf4_nest_cuda(uint8_t *codes, float *scale, float *offset, const float *absmax, int64_t blocks,
                      q3_cuda *cuda)
{
    signed_map map;
    if (blocks == 0)
        return;
    memcpy(map.value, q3_nf4_nested_map(), sizeof map.value);
    Q3_LAUNCH(cuda, mean_by_one_warp, 1, 32, 0, offset, absmax, blocks);
    Q3_LAUNCH(cuda, nest_group_per_block, q3_blocks(blocks, Q3_NF4_GROUP), Q3_NF4_GROUP, 0, codes, scale,
              offset, absmax, map, blocks);
}

void q3_nf4_unnest_cuda(float *absmax, const q3_nested *nested, int64_t blocks, q3_cuda *cuda)
{
    if (blocks)
        Q3_LAUNCH(cuda, unnest_each, q3_blocks(blocks, THREADS), THREADS, 0, absmax, *nested, blocks);
}
