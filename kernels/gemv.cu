/* kernels/gemv.cu - a linear layer for up to 8 rows; kernels/gemv.h has the table of ways. */
#include "kernels/int8.cuh"
#include "kernels/nf4.cuh"

extern "C" {
#include "kernels/gemv.h"
}

namespace
{

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    TILE = 16,           /* rows of W a block, the M of m16n8k16 */
    ROWS = Q3_GEMV_ROWS, /* rows of X, its N */
    CHUNK = 64,          /* terms of the sum that a warp takes at a time: four products of the tensor core */
    BLOCKS_PER_SM = 4,   /* with a table of 32 KiB each, on sm_80 and sm_90; sm_86 and sm_89 hold two */
};

/* The arguments without the type of W. */
template <class T> struct product {
    T *y;
    const T *x;
    const void *w;
    const float *bias;
    const T *old; /* what beta multiplies: y, or the residual */
    int M;
    int64_t N, K, ldy, ldx;
    float alpha, beta;
};

template <class T> __device__ __forceinline__ void finish(const product<T> &p, int m, int64_t n, float sum)
{
    const int64_t at = m * p.ldy + n;
    float v = p.alpha * sum + (p.bias ? p.bias[n] : 0.0f);
    q3_set(p.y + at, p.beta != 0 ? p.beta * q3_value(p.old[at]) + v : v);
}

/* ---- 16 rows a block, tensor cores ---- */

/* A row's 16 weights of this lane in a chunk, as pairs of bf16. Which 16 of the 64 they are is free, as long as X is
 * read alike: lane q of 4 takes elements offset(q, 0) .. + 7 and offset(q, 1) .. + 7. */
struct rows_bf16 {
    enum { SCALES = 0, ROW_SCALED = 0, IN_FLIGHT = 2 };
    struct raw {
        uint4 half[2];
    };
    static __device__ __forceinline__ int offset(int q, int half) { return 32 * half + 8 * q; }
    static __device__ __forceinline__ raw load(const void *w, int64_t at, int q)
    {
        const uint16_t *p = (const uint16_t *)w + at;
        raw r = { { *(const uint4 *)(p + offset(q, 0)), *(const uint4 *)(p + offset(q, 1)) } };
        return r;
    }
    static __device__ __forceinline__ void pairs(uint32_t (&to)[8], const raw &r, const uint32_t *)
    {
        to[0] = r.half[0].x, to[1] = r.half[0].y, to[2] = r.half[0].z, to[3] = r.half[0].w;
        to[4] = r.half[1].x, to[5] = r.half[1].y, to[6] = r.half[1].z, to[7] = r.half[1].w;
    }
};

/* A scale holds for the whole chunk. */
struct rows_4bit {
    enum { SCALES = 1, ROW_SCALED = 0, IN_FLIGHT = 4 };
    typedef uint2 raw;
    static __device__ __forceinline__ int offset(int q, int half) { return 16 * q + 8 * half; }
    static __device__ __forceinline__ raw load(const void *w, int64_t at, int q)
    {
        return *(const uint2 *)((const uint8_t *)w + at / 2 + 8 * q);
    }
    static __device__ __forceinline__ void pairs(uint32_t (&to)[8], const raw &r, const uint32_t *table)
    {
        for (int i = 0; i < 4; i++) {
            to[i] = table[(r.x >> (8 * i) & 255) * 32];
            to[i + 4] = table[(r.y >> (8 * i) & 255) * 32];
        }
    }
};

/* Blocks of 32: each half of the lane's elements lies in a block of its own. */
struct rows_4bit_32 {
    enum { SCALES = 2, ROW_SCALED = 0, IN_FLIGHT = 2 };
    typedef uint2 raw;
    static __device__ __forceinline__ int offset(int q, int half) { return 32 * half + 8 * q; }
    static __device__ __forceinline__ raw load(const void *w, int64_t at, int q)
    {
        const uint8_t *p = (const uint8_t *)w + at / 2 + 4 * q;
        return make_uint2(*(const uint32_t *)p, *(const uint32_t *)(p + 16));
    }
    static __device__ __forceinline__ void pairs(uint32_t (&to)[8], const raw &r, const uint32_t *table)
    {
        rows_4bit::pairs(to, r, table);
    }
};

/* Codes are whole numbers up to 127, which bf16 holds exactly. */
struct rows_int8 {
    enum { SCALES = 0, ROW_SCALED = 1, IN_FLIGHT = 2 };
    typedef uint4 raw;
    static __device__ __forceinline__ int offset(int q, int half) { return 16 * q + 8 * half; }
    static __device__ __forceinline__ raw load(const void *w, int64_t at, int q)
    {
        return *(const uint4 *)((const int8_t *)w + at + 16 * q);
    }
    static __device__ __forceinline__ uint32_t pair(uint32_t codes)
    {
        return q3_pack_bf16((float)(int8_t)codes, (float)(int8_t)(codes >> 8));
    }
    static __device__ __forceinline__ void pairs(uint32_t (&to)[8], const raw &r, const uint32_t *)
    {
        const uint32_t codes[4] = { r.x, r.y, r.z, r.w };
        for (int i = 0; i < 4; i++) {
            to[2 * i] = pair(codes[i]);
            to[2 * i + 1] = pair(codes[i] >> 16);
        }
    }
};

/* Entry b of 256: the two values of byte b, the first low; a copy for each lane, all in its bank. */
__device__ __forceinline__ void fill_table(uint32_t *table, const q3_nf4_book &book)
{
    for (int i = threadIdx.x; i < 256 * 32; i += THREADS)
        table[i] = q3_pack_bf16(book.value[i >> 9], book.value[i >> 5 & 15]);
}

/* Products [from, to) of the four of 16 terms: rows g and g + 8 of the tile times the rows of X. */
template <int from, int to>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&top)[8], const uint32_t (&bottom)[8],
                                         const uint32_t (&x)[8])
{
    for (int t = from; t < to; t++) {
        const uint32_t a[4] = { top[2 * t], bottom[2 * t], top[2 * t + 1], bottom[2 * t + 1] };
        const uint32_t b[2] = { x[2 * t], x[2 * t + 1] };
        q3_mma_bf16(d, a, b);
    }
}

/* Row g of X, zeros from row M on. */
template <class W>
__device__ __forceinline__ void load_x(uint32_t (&to)[8], const product<q3_bf16> &p, int g, int q, int64_t k)
{
    const uint4 none = make_uint4(0, 0, 0, 0);
    const q3_bf16 *x = p.x + g * p.ldx + k;
    const uint4 low = g < p.M ? *(const uint4 *)(x + W::offset(q, 0)) : none,
                high = g < p.M ? *(const uint4 *)(x + W::offset(q, 1)) : none;
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

/* First term of a chunk, or of the last one. */
__device__ __forceinline__ int64_t first_of(int chunk, int end)
{
    return (int64_t)(chunk < end ? chunk : end - 1) * CHUNK;
}

/* First term of part i of the chunks, `per` parts a chunk. */
__device__ __forceinline__ int64_t part_of(int begin, int i, int end, int per)
{
    return first_of(begin + i / per, end) + i % per * (CHUNK / per);
}

/* N scales a row, `per` a chunk. The branch stands outside the loops, so that their loads are in flight together. */
template <int per, int N, int room>
__device__ __forceinline__ void load_scales(float (&to)[2][room], const q3_nf4_scales &s, int64_t top,
                                            int64_t bottom, int begin, int end)
{
    if (s.absmax)
        for (int i = 0; i < N; i++) {
            to[0][i] = s.absmax[(top + part_of(begin, i, end, per)) >> s.shift];
            to[1][i] = s.absmax[(bottom + part_of(begin, i, end, per)) >> s.shift];
        }
    else
        for (int i = 0; i < N; i++) {
            to[0][i] = q3_unnested(s.nested, (top + part_of(begin, i, end, per)) >> s.shift);
            to[1][i] = q3_unnested(s.nested, (bottom + part_of(begin, i, end, per)) >> s.shift);
        }
}

/* The products of a part, times its scales for the two rows. */
template <int from, int to>
__device__ __forceinline__ void add_scaled(float (&sum)[4], const uint32_t (&a)[2][8], const uint32_t (&x)[8],
                                           float top, float bottom)
{
    float d[4] = { 0, 0, 0, 0 };
    multiply<from, to>(d, a[0], a[1], x);
    for (int i = 0; i < 4; i++)
        sum[i] += (i < 2 ? top : bottom) * d[i];
}

/* Adds this warp's share of the sum: chunks begin .. end - 1 of rows `top` and `bottom`. */
template <class W>
__device__ __forceinline__ void sum_chunks(float (&sum)[4], const product<q3_bf16> &p,
                                           const q3_nf4_scales &scales, const uint32_t *table, int64_t top,
                                           int64_t bottom, int begin, int end)
{
    const int g = (threadIdx.x & 31) >> 2, q = threadIdx.x & 3;
    for (int c = begin; c < end; c += W::IN_FLIGHT) {
        typename W::raw raw[2][W::IN_FLIGHT];
        float scale[2][2 * W::IN_FLIGHT];
        for (int j = 0; j < W::IN_FLIGHT; j++) {
            const int64_t k = first_of(c + j, end);
            raw[0][j] = W::load(p.w, top * p.K + k, q);
            raw[1][j] = W::load(p.w, bottom * p.K + k, q);
        }
        if (W::SCALES > 0)
            load_scales<W::SCALES == 2 ? 2 : 1, W::SCALES * W::IN_FLIGHT>(scale, scales, top * p.K,
                                                                          bottom * p.K, c, end);
        for (int j = 0; j < W::IN_FLIGHT && c + j < end; j++) {
            uint32_t a[2][8], x[8];
            load_x<W>(x, p, g, q, (int64_t)(c + j) * CHUNK);
            W::pairs(a[0], raw[0][j], table);
            W::pairs(a[1], raw[1][j], table);
            if (W::SCALES == 2) {
                add_scaled<0, 2>(sum, a, x, scale[0][2 * j], scale[1][2 * j]);
                add_scaled<2, 4>(sum, a, x, scale[0][2 * j + 1], scale[1][2 * j + 1]);
            } else {
                add_scaled<0, 4>(sum, a, x, W::SCALES > 0 ? scale[0][j] : 1, W::SCALES > 0 ? scale[1][j] : 1);
            }
        }
    }
}

template <class W>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    rows16_mma(product<q3_bf16> p, q3_nf4_scales scales, q3_nf4_book book)
{
    Q3_DYNAMIC_SHARED(uint32_t, table);
    Q3_SHARED(float, part, WARPS *TILE *ROWS); // [warp][row of the tile][row of X]
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    const int chunks = (int)(p.K / CHUNK);
    if (W::SCALES > 0)
        fill_table(table, book);
    __syncthreads();
    for (int64_t n = (int64_t)blockIdx.x * TILE; n < p.N; n += (int64_t)gridDim.x * TILE) {
        const int64_t last = p.N - 1, top = n + g < last ? n + g : last,
                      bottom = n + g + 8 < last ? n + g + 8 : last;
        float sum[4] = { 0, 0, 0, 0 };
        sum_chunks<W>(sum, p, scales, table + lane, top, bottom, warp * chunks / WARPS,
                      (warp + 1) * chunks / WARPS);
        if (W::ROW_SCALED)
            for (int i = 0; i < 4; i++)
                sum[i] *= scales.absmax[i < 2 ? top : bottom] * Q3_INT8_STEP;
        float *own = part + (warp * TILE + g) * ROWS + 2 * q;
        own[0] = sum[0], own[1] = sum[1];
        own[8 * ROWS] = sum[2], own[8 * ROWS + 1] = sum[3];
        __syncthreads();
        const int m = threadIdx.x / TILE, row = threadIdx.x % TILE;
        if (m < p.M && n + row < p.N) {
            float all = 0;
            for (int w = 0; w < WARPS; w++)
                all += part[(w * TILE + row) * ROWS + m];
            finish(p, m, n + row, all);
        }
        __syncthreads();
    }
}

/* ---- any type, any K ---- */

__device__ __forceinline__ float weight_at(const void *w, q3_dtype dtype, const q3_nf4_scales &scales,
                                           const float *value, int64_t row, int64_t i)
{
    switch (dtype) {
    case Q3_BF16:
        return q3_value(((const q3_bf16 *)w)[i]);
    case Q3_F16:
        return q3_value(((const q3_f16 *)w)[i]);
    case Q3_NF4:
    case Q3_FP4:
    case Q3_I4:
        return value[q3_nibble((const uint8_t *)w, i)] * q3_nf4_scale(scales, i);
    case Q3_I8:
        return q3_int8(((const int8_t *)w)[i], scales.absmax[row]);
    default:
        return ((const float *)w)[i];
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    row_per_warp(product<T> p, q3_dtype dtype, q3_nf4_scales scales, q3_nf4_book book)
{
    Q3_SHARED(float, value, 16);
    if (threadIdx.x < 16)
        value[threadIdx.x] = book.value[threadIdx.x];
    __syncthreads();
    const int lane = threadIdx.x & 31;
    for (int64_t n = q3_first() >> 5; n < p.N; n += q3_stride() >> 5) {
        float sum[ROWS] = { 0, 0, 0, 0, 0, 0, 0, 0 };
        for (int64_t k = lane; k < p.K; k += 32) {
            const float w = weight_at(p.w, dtype, scales, value, n, n * p.K + k);
            const T *x = p.x + k;
            for (int m = 0; m < ROWS; m++, x += p.ldx)
                if (m < p.M)
                    sum[m] += w * q3_value(*x);
        }
        for (int m = 0; m < ROWS; m++) {
            float all = q3_warp_sum(sum[m]);
            if (m < p.M && lane == m)
                finish(p, m, n, all);
        }
    }
}

/* ---- launchers ---- */

bool four_bit(const q3_gemm_nt_args *a)
{
    return q3_is_4bit(a->w.dtype);
}

bool fits_mma(const q3_gemm_nt_args *a, int64_t ldx)
{
    bool type = a->w.dtype == Q3_BF16 || a->w.dtype == Q3_I8 || (four_bit(a) && a->w.block >= CHUNK / 2);
    bool aligned = (uintptr_t)a->x % 16 == 0 && ldx % 8 == 0 && (uintptr_t)a->w.data % 16 == 0;
    return a->dtype == Q3_BF16 && type && aligned && a->K % CHUNK == 0;
}

template <class T> product<T> rows_of(const q3_gemm_nt_args *a, int64_t from)
{
    const int64_t ldy = a->ldy ? a->ldy : a->N, ldx = a->ldx ? a->ldx : a->K;
    const int M = a->M - from < ROWS ? (int)(a->M - from) : (int)ROWS;
    product<T> p = { (T *)a->y + from * ldy,
                     (const T *)a->x + from * ldx,
                     a->w.data,
                     a->bias,
                     (const T *)(a->residual ? a->residual : a->y) + from * ldy,
                     M,
                     a->N,
                     a->K,
                     ldy,
                     ldx,
                     a->alpha,
                     a->beta };
    return p;
}

void launch_mma(const q3_gemm_nt_args *a, const product<q3_bf16> &p, q3_cuda *cuda)
{
    const q3_nf4_scales scales = q3_nf4_scales_of(a->w.absmax, &a->w.nested, a->w.block);
    const q3_nf4_book book = q3_nf4_book_of(a->w.dtype);
    unsigned tiles = q3_blocks(p.N, TILE), most = BLOCKS_PER_SM * (unsigned)cuda->multiprocessors;
    if (a->w.dtype == Q3_I8)
        Q3_LAUNCH(cuda, rows16_mma<rows_int8>, tiles, THREADS, 0, p, scales, book);
    else if (!four_bit(a))
        Q3_LAUNCH(cuda, rows16_mma<rows_bf16>, tiles, THREADS, 0, p, scales, book);
    else if (a->w.block < CHUNK) // a block fills its table once: no more blocks than run at a time
        Q3_LAUNCH(cuda, rows16_mma<rows_4bit_32>, most && most < tiles ? most : tiles, THREADS, 256 * 32 * 4,
                  p, scales, book);
    else
        Q3_LAUNCH(cuda, rows16_mma<rows_4bit>, most && most < tiles ? most : tiles, THREADS, 256 * 32 * 4, p,
                  scales, book);
}

template <class T> void launch_any(const q3_gemm_nt_args *a, const product<T> &p, q3_cuda *cuda)
{
    const q3_nf4_scales scales = q3_nf4_scales_of(a->w.absmax, &a->w.nested, a->w.block);
    Q3_LAUNCH(cuda, row_per_warp<T>, q3_blocks(p.N, WARPS), THREADS, 0, p, a->w.dtype, scales,
              q3_nf4_book_of(a->w.dtype));
}

} // namespace

void q3_gemv_cuda(const q3_gemm_nt_args *a, q3_cuda *cuda)
{
    if (a->N == 0)
        return;
    for (int64_t m = 0; m < a->M; m += ROWS)
        if (fits_mma(a, a->ldx ? a->ldx : a->K))
            launch_mma(a, rows_of<q3_bf16>(a, m), cuda);
        else
            Q3_BY_TYPE(a->dtype, T, launch_any<T>(a, rows_of<T>(a, m), cuda));
}
