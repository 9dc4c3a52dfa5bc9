#include "kernels/kv_cache.cuh"

/* ---- store: one warp a head of a token, whose values it keeps in registers */

static const int STORE_THREADS = 128, PIECES = Q3_KV_MAX_D / 32;

/* Bits of |x|: NaN wins over infinity, infinity over numbers. */
static __device__ __forceinline__ uint32_t size_of(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

static __device__ __forceinline__ float warp_absmax(uint32_t size)
{
    for (int step = 16; step; step >>= 1) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, size, step);
        size = other > size ? other : size;
    }
    return __uint_as_float(size);
}

/* As code_of in kernels/kv_cache.c. */
static __device__ __forceinline__ int code_of(float x, float scale, float most)
{
    const float whole = 12582912.0f;
    if (!(scale > 0) || scale > 3.4028235e38f)
        return 0;
    float y = x / scale;
    y = y > most ? most : y < -most ? -most : y;
    return (int)(y + whole - whole);
}

static __device__ void store_i8(const float (&x)[PIECES], const q3_kv_slab &slab, int64_t head, int D)
{
    const int lane = threadIdx.x % 32;
    uint32_t most = 0;
    for (int n = 0; n < PIECES; n++)
        most = size_of(x[n]) > most ? size_of(x[n]) : most;
    const float scale = warp_absmax(most) / 127;
    if (lane == 0)
        slab.scales[head] = scale;
    for (int n = 0; n < PIECES; n++)
        if (n * 32 + lane < D)
            ((int8_t *)slab.data)[head * D + n * 32 + lane] = (int8_t)code_of(x[n], scale, 127);
}

static __device__ void store_i4(const float (&x)[PIECES], const q3_kv_slab &slab, int64_t head, int D)
{
    const int lane = threadIdx.x % 32;
    for (int n = 0; n < PIECES && n * 32 < D; n++) {
        const float scale = warp_absmax(size_of(x[n])) / 7;
        const int code = code_of(x[n], scale, 7) + 8, next = __shfl_xor_sync(0xffffffffu, code, 1);
        if (lane == 0)
            slab.scales[(head * D + n * 32) / Q3_KV_I4_GROUP] = scale;
        if (lane % 2 == 0)
            ((uint8_t *)slab.data)[(head * D + n * 32 + lane) / 2] = (uint8_t)(code << 4 | next);
    }
}

template <class S>
static __device__ void store_floats(const float (&x)[PIECES], const q3_kv_slab &slab, int64_t head, int D)
{
    for (int n = 0; n < PIECES; n++)
        if (n * 32 + (int)threadIdx.x % 32 < D)
            q3_set((S *)slab.data + head * D + n * 32 + threadIdx.x % 32, x[n]);
}

template <class T> static __global__ void __launch_bounds__(STORE_THREADS) store_heads(q3_kv_store_args a)
{
    const int K = a.kv_heads, D = a.head_size, lane = threadIdx.x % 32;
    for (int64_t i = q3_first() / 32; i < a.T * K; i += q3_stride() / 32) {
        const int64_t head = (int64_t)a.rows[i / K] * K + i % K;
        float x[PIECES];
        for (int n = 0; n < PIECES; n++)
            x[n] = n * 32 + lane < D ? q3_value(((const T *)a.x)[i * D + n * 32 + lane]) : 0;
        if (a.slab.dtype == Q3_I8)
            store_i8(x, a.slab, head, D);
        else if (a.slab.dtype == Q3_I4)
            store_i4(x, a.slab, head, D);
        else if (a.slab.dtype == Q3_BF16)
            store_floats<q3_bf16>(x, a.slab, head, D);
        else
            store_floats<float>(x, a.slab, head, D);
    }
}

extern "C" void q3_kv_store_cuda(const q3_kv_store_args *a, q3_cuda *cuda)
{
    if (a->head_size > Q3_KV_MAX_D)
        return q3_cuda_fail(cuda, "a cache on a CUDA device takes heads of up to %d elements, not %d",
                            (int)Q3_KV_MAX_D, a->head_size);
    if (a->T > 0)
        Q3_BY_TYPE(a->dtype, T,
                   Q3_LAUNCH(cuda, store_heads<T>, q3_blocks(a->T * a->kv_heads * 32, STORE_THREADS),
                             STORE_THREADS, 0, *a));
}

/* ---- load: one warp a token; those that a sequence does not have are passed over, for nothing is known here of how
 * many there are */

template <class T, class S, int N>
static __global__ void __launch_bounds__(Q3_THREADS) load_tokens(q3_kv_load_args a, int64_t most)
{
    const int D = a.head_size, C = a.kv_heads * D;
    for (int64_t i = q3_first() / 32; i < a.rows * most; i += q3_stride() / 32) {
        const int64_t r = i / most;
        const int j = (int)(i % most), begin = a.begins[r];
        if (j >= a.begins[r + 1] - begin)
            continue;
        const int64_t row = (int64_t)a.tables[r * a.max_blocks + j / a.block] * a.block + j % a.block;
        for (int c = (int)threadIdx.x % 32 * N; c < C; c += 32 * N) {
            float v[N];
            q3_kv_read(v, (const S *)a.slab.data, a.slab.scales, row * a.kv_heads + c / D, c % D, D);
            for (int e = 0; e < N; e++)
                q3_set((T *)a.x + (int64_t)(begin + j) * C + c + e, v[e]);
        }
    }
}

template <class T> static void launch_load(const q3_kv_load_args *a, q3_cuda *cuda)
{
    const int64_t most = (int64_t)a->max_blocks * a->block;
    const dim3 grid(q3_blocks(a->rows * most * 32, Q3_THREADS));
    if (a->head_size % 4 == 0)
        Q3_BY_CACHE(a->slab.dtype, S, Q3_LAUNCH(cuda, (load_tokens<T, S, 4>), grid, Q3_THREADS, 0, *a, most));
    else
        Q3_BY_CACHE(a->slab.dtype, S, Q3_LAUNCH(cuda, (load_tokens<T, S, 1>), grid, Q3_THREADS, 0, *a, most));
}

extern "C" void q3_kv_load_cuda(const q3_kv_load_args *a, q3_cuda *cuda)
{
    if (a->rows > 0 && a->max_blocks > 0)
        Q3_BY_TYPE(a->dtype, T, launch_load<T>(a, cuda));
}
