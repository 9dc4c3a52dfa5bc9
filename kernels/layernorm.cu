extern "C" {
#include "kernels/layernorm.h"
}
#include "kernels/norm.cuh"
#include "kernels/runs.cuh"

template <int N> static __device__ __forceinline__ float total(const float (&x)[N])
{
    float sum = 0;
    for (int i = 0; i < N; i++)
        sum += x[i];
    return sum;
}

template <int N> static __device__ __forceinline__ float squares(const float (&x)[N], float m)
{
    float sum = 0;
    for (int i = 0; i < N; i++)
        sum += (x[i] - m) * (x[i] - m);
    return sum;
}

/* y = (x - m) r w + b */
template <class T, int N>
static __device__ __forceinline__ void scale(T *y, const float (&x)[N], float m, float r, const float *from_w,
                                             const float *from_b)
{
    float w[N], v[N];
    q3_load(w, from_w);
    q3_load(v, from_b);
    for (int i = 0; i < N; i++)
        v[i] += (x[i] - m) * r * w[i];
    q3_store(y, v);
}

template <class T, int N, int LANES> static __global__ void forward(q3_layernorm_args a)
{
    typedef q3_pieces<LANES, N, Q3_HELD_FORWARD> pieces;
    Q3_SHARED(float, shared, 32);
    const int lane = threadIdx.x % LANES * N;
    for (int64_t row = q3_first() / LANES; row < a.rows; row += q3_stride() / LANES) {
        const T *x = (const T *)a.x + row * a.C;
        T *y = (T *)a.y + row * a.C;
        float held[pieces::held][N], more[N], sum = 0, variance = 0;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C) {
                q3_load(held[k], x + c);
                sum += total(held[k]);
            }
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            q3_load(more, x + c);
            sum += total(more);
        }
        const float m = q3_row_sum<LANES>(sum, shared) / (float)a.C;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                variance += squares(held[k], m);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            q3_load(more, x + c);
            variance += squares(more, m);
        }
        const float r = 1 / sqrtf(q3_row_sum<LANES>(variance, shared) / (float)a.C + a.eps);
        if (a.m && lane == 0)
            a.m[row] = m;
        if (a.r && lane == 0)
            a.r[row] = r;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                scale(y + c, held[k], m, r, a.w + c, a.b + c);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            q3_load(more, x + c);
            scale(y + c, more, m, r, a.w + c, a.b + c);
        }
    }
}

/* h = (x - m) r and g = dy w, and their part of the sums of g and of g h. */
template <class T, int N>
static __device__ __forceinline__ void load_pair(float (&h)[N], float (&g)[N], float *sum_g, float *sum_gh,
                                                 const T *x, const T *dy, const float *from_w, float m,
                                                 float r)
{
    float w[N];
    q3_load(h, x);
    q3_load(g, dy);
    q3_load(w, from_w);
    for (int i = 0; i < N; i++) {
        h[i] = (h[i] - m) * r;
        g[i] *= w[i];
        *sum_g += g[i];
        *sum_gh += g[i] * h[i];
    }
}

/* dx = r (g - mean_g - h mean_gh) */
template <class T, int N>
static __device__ __forceinline__ void store_dx(T *dx, float beta, const float (&h)[N], const float (&g)[N],
                                                float r, float mean_g, float mean_gh)
{
    float v[N];
    for (int i = 0; i < N; i++)
        v[i] = r * (g[i] - mean_g - h[i] * mean_gh);
    q3_store_to(dx, beta, v);
}

template <class T, int N, int LANES> static __global__ void backward(q3_layernorm_backward_args a)
{
    typedef q3_pieces<LANES, N, Q3_HELD_BACKWARD> pieces;
    Q3_SHARED(float, shared, 32);
    const int lane = threadIdx.x % LANES * N;
    for (int64_t row = q3_first() / LANES; row < a.rows; row += q3_stride() / LANES) {
        const T *x = (const T *)a.x + row * a.C, *dy = (const T *)a.dy + row * a.C;
        T *dx = (T *)a.dx + row * a.C;
        const float m = a.m[row], r = a.r[row];
        float held_h[pieces::held][N], held_g[pieces::held][N], more_h[N], more_g[N], g = 0, gh = 0;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                load_pair(held_h[k], held_g[k], &g, &gh, x + c, dy + c, a.w + c, m, r);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step)
            load_pair(more_h, more_g, &g, &gh, x + c, dy + c, a.w + c, m, r);
        g = q3_row_sum<LANES>(g, shared) / (float)a.C;
        gh = q3_row_sum<LANES>(gh, shared) / (float)a.C;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                store_dx(dx + c, a.dx_beta, held_h[k], held_g[k], r, g, gh);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            float unused_g = 0, unused_gh = 0;
            load_pair(more_h, more_g, &unused_g, &unused_gh, x + c, dy + c, a.w + c, m, r);
            store_dx(dx + c, a.dx_beta, more_h, more_g, r, g, gh);
        }
    }
}

/* partial [runs, 2, C] = sums over a run's rows of dy h and of dy; a run is dealt to 1 << shift threads. */
template <class T, int N> static __global__ void sum_runs(q3_layernorm_backward_args a, int shift)
{
    for (int64_t run = q3_first() >> shift; run * Q3_LAYERNORM_RUN < a.rows; run += q3_stride() >> shift) {
        const int64_t begin = run * Q3_LAYERNORM_RUN;
        const int64_t end = begin + Q3_LAYERNORM_RUN < a.rows ? begin + Q3_LAYERNORM_RUN : a.rows;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float dw[N] = { 0 }, db[N] = { 0 };
            for (int64_t row = begin; row < end; row++) {
                float dy[N], x[N];
                q3_load(dy, (const T *)a.dy + row * a.C + c);
                q3_load(x, (const T *)a.x + row * a.C + c);
                for (int i = 0; i < N; i++) {
                    dw[i] += dy[i] * ((x[i] - a.m[row]) * a.r[row]);
                    db[i] += dy[i];
                }
            }
            q3_store(a.partial + run * 2 * a.C + c, dw);
            q3_store(a.partial + run * 2 * a.C + a.C + c, db);
        }
    }
}

template <class T, int N> static void launch_sums(const q3_layernorm_backward_args *a, q3_cuda *cuda)
{
    int64_t runs = (a->rows + Q3_LAYERNORM_RUN - 1) / Q3_LAYERNORM_RUN;
    int shift = q3_row_shift(a->C / N);
    if (runs > 0)
        Q3_LAUNCH(cuda, (sum_runs<T, N>), q3_blocks(runs << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
    if (a->dw)
        q3_add_runs(cuda, a->dw, a->dw_beta, a->partial, runs, a->C, 2 * a->C);
    if (a->db)
        q3_add_runs(cuda, a->db, a->db_beta, a->partial + a->C, runs, a->C, 2 * a->C);
}

template <class T> static void launch_forward(const q3_layernorm_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->C, a->y, a->x, a->w, a->b))
        Q3_LAUNCH_NORM_ROWS(cuda, forward, T, N, Q3_HELD_FORWARD, a);
    else
        Q3_LAUNCH_NORM_ROWS(cuda, forward, T, 1, Q3_HELD_FORWARD, a);
}

template <class T> static void launch_backward(const q3_layernorm_backward_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (a->dx && a->rows > 0) {
        if (q3_wide<T>(a->C, a->dx, a->dy, a->x, a->w))
            Q3_LAUNCH_NORM_ROWS(cuda, backward, T, N, Q3_HELD_BACKWARD, a);
        else
            Q3_LAUNCH_NORM_ROWS(cuda, backward, T, 1, Q3_HELD_BACKWARD, a);
    }
    if (a->dw || a->db) {
        if (q3_wide<T>(a->C, a->dy, a->x, a->partial))
            launch_sums<T, N>(a, cuda);
        else
            launch_sums<T, 1>(a, cuda);
    }
}

void q3_layernorm_forward_cuda(const q3_layernorm_args *a, q3_cuda *cuda)
{
    if (a->rows > 0)
        Q3_BY_TYPE(a->dtype, T, launch_forward<T>(a, cuda));
}

void q3_layernorm_backward_cuda(const q3_layernorm_backward_args *a, q3_cuda *cuda)
{
    Q3_BY_TYPE(a->dtype, T, launch_backward<T>(a, cuda));
}
