extern "C" {
#include "kernels/adamw.h"
}
#include <math.h>

#include "kernels/wide.cuh"

#define Q3_DYNAMIC_MAP static __device__ const float
#include "kernels/dynamic_map.h"

/* Every product and sum is rounded by itself, as kernels/adamw.c does: the compiler may not join them. */
static __device__ __forceinline__ float times(float a, float b)
{
    return __fmul_rn(a, b);
}
static __device__ __forceinline__ float plus(float a, float b)
{
    return __fadd_rn(a, b);
}

/* A rule makes p, m and v of one element new. */
struct torch_rule {
    static __device__ __forceinline__ void update(const q3_adamw_args &a, float g, float *p, float *m,
                                                  float *v)
    {
        *m = plus(*m, times(a.rest1, plus(g, -*m))); // Tensor.lerp_
        *v = plus(times(*v, a.beta2), times(times(a.rest2, g), g));
        float root = plus(__fdiv_rn(__fsqrt_rn(*v), a.root), a.eps);
        *p = plus(times(*p, a.decay), __fdiv_rn(times(-a.rate, *m), root));
    }
};

struct bnb_rule {
    static __device__ __forceinline__ void update(const q3_adamw_args &a, float g, float *p, float *m,
                                                  float *v)
    {
        *m = plus(times(*m, a.beta1), times(a.rest1, g));
        *v = plus(times(*v, a.beta2), times(times(a.rest2, g), g));
        float step = __fdiv_rn(*m, plus(__fsqrt_rn(*v), a.eps));
        *p = times(plus(*p, times(-a.rate, step)), a.decay);
    }
};

template <class RULE, int N> static __global__ void update(q3_adamw_args a)
{
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float g[N], p[N], m[N], v[N];
        q3_load(g, a.g + i);
        q3_load(p, a.p + i);
        q3_load(m, a.m + i);
        q3_load(v, a.v + i);
        for (int k = 0; k < N; k++)
            RULE::update(a, g[k], &p[k], &m[k], &v[k]);
        q3_store(a.p + i, p);
        q3_store(a.m + i, m);
        q3_store(a.v + i, v);
    }
}

/* q3_dynamic_map_index of adamw.c. */
static __device__ __forceinline__ int map_index(const float *map, float x)
{
    int k = 0;
    for (int half = 128; half; half /= 2)
        k += x >= map[k + half] ? half : 0;
    if (k == 255 || isnan(x)) // NaN is not above any entry: k is 0
        return k;
    float middle = times(plus(map[k], map[k + 1]), 0.5f);
    return k + (x > middle || (x == middle && k % 2));
}

static __device__ __forceinline__ int code_of_m(const float *map, float m, float absmax)
{
    int code = map_index(map, __fdiv_rn(m, absmax));
    if (!signbit(map[code]) != !signbit(m))
        code += m > 0 ? 1 : -1;
    return code;
}

/* One warp a block of elements; a lane holds EACH of them, 32 apart. */
enum { EACH = Q3_ADAMW_BLOCK / 32 };

static __device__ __forceinline__ void update_block(const q3_adamw_args &a, int64_t block, const float *map1,
                                                    const float *map2)
{
    const int64_t begin = block * Q3_ADAMW_BLOCK + threadIdx.x % 32;
    const float old1 = a.absmax1[block], old2 = a.absmax2[block];
    float m[EACH], v[EACH], absmax1 = 0, absmax2 = 0;
    for (int k = 0; k < EACH; k++) {
        const int64_t i = begin + 32 * k;
        m[k] = v[k] = 0;
        const float g = i < a.n ? a.g[i] : 0;
        if (i < a.n && isfinite(g)) {
            float p = a.p[i];
            m[k] = times(map1[a.code1[i]], old1);
            v[k] = times(map2[a.code2[i]], old2);
            bnb_rule::update(a, g, &p, &m[k], &v[k]);
            a.p[i] = p;
        }
        absmax1 = fmaxf(absmax1, fabsf(m[k]));
        absmax2 = fmaxf(absmax2, v[k]);
    }
    absmax1 = q3_warp_max(absmax1);
    absmax2 = q3_warp_max(absmax2);
    if (threadIdx.x % 32 == 0) {
        a.absmax1[block] = absmax1;
        a.absmax2[block] = absmax2;
    }
    for (int k = 0; k < EACH; k++)
        if (begin + 32 * k < a.n) {
            a.code1[begin + 32 * k] = (uint8_t)code_of_m(map1, m[k], absmax1);
            a.code2[begin + 32 * k] = (uint8_t)map_index(map2, __fdiv_rn(v[k], absmax2));
        }
}

static __global__ void update_8bit(q3_adamw_args a)
{
    Q3_SHARED(float, map1, 256);
    Q3_SHARED(float, map2, 256);
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        map1[i] = q3_dynamic_map_signed[i];
        map2[i] = q3_dynamic_map_unsigned[i];
    }
    __syncthreads();
    const int64_t blocks = (a.n + Q3_ADAMW_BLOCK - 1) / Q3_ADAMW_BLOCK;
    for (int64_t block = q3_first() / 32; block < blocks; block += q3_stride() / 32)
        update_block(a, block, map1, map2);
}

template <class RULE> static void launch(const q3_adamw_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<float>::elements };
    if (a->n == 0)
        return;
    if (q3_wide<float>(a->n, a->p, a->g, a->m, a->v))
        Q3_LAUNCH(cuda, (update<RULE, N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (update<RULE, 1>), q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
}

void q3_adamw_cuda(const q3_adamw_args *a, q3_cuda *cuda)
{
    launch<torch_rule>(a, cuda);
}

void q3_adamw_bnb_cuda(const q3_adamw_args *a, q3_cuda *cuda)
{
    launch<bnb_rule>(a, cuda);
}

void q3_adamw_8bit_cuda(const q3_adamw_args *a, q3_cuda *cuda)
{
    int64_t blocks = (a->n + Q3_ADAMW_BLOCK - 1) / Q3_ADAMW_BLOCK;
    if (blocks > 0)
        Q3_LAUNCH(cuda, update_8bit, q3_blocks(blocks * 32, Q3_THREADS), Q3_THREADS, 0, *a);
}
