extern "C" {
#include "kernels/rmsnorm.h"
}
#include "kernels/norm.cuh"
#include "kernels/runs.cuh"

template <int N> static __device__ __forceinline__ float squares(const float (&x)[N])
{
    float sum = 0;
    for (int i = 0; i < N; i++)
        sum += x[i] * x[i];
    return sum;
}

template <class T, int N>
static __device__ __forceinline__ void scale(T *y, const float (&x)[N], float r, const float *w)
{
    float v[N];
    q3_load(v, w);
    for (int i = 0; i < N; i++)
        v[i] *= q3_rounded<T>(x[i] * r);
    q3_store(y, v);
}

template <class T, int N, int LANES> static __global__ void forward(q3_rmsnorm_args a)
{
    typedef q3_pieces<LANES, N, Q3_HELD_FORWARD> pieces;
    Q3_SHARED(float, shared, 32);
    const int lane = threadIdx.x % LANES * N;
    for (int64_t row = q3_first() / LANES; row < a.rows; row += q3_stride() / LANES) {
        const T *x = (const T *)a.x + row * a.C;
        T *y = (T *)a.y + row * a.C;
        float held[pieces::held][N], more[N], sum = 0;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C) {
                q3_load(held[k], x + c);
                sum += squares(held[k]);
            }
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            q3_load(more, x + c);
            sum += squares(more);
        }
        const float r = 1 / sqrtf(q3_row_sum<LANES>(sum, shared) / (float)a.C + a.eps);
        if (a.r && lane == 0)
            a.r[row] = r;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                scale(y + c, held[k], r, a.w + c);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            q3_load(more, x + c);
            scale(y + c, more, r, a.w + c);
        }
    }
}

/* g = dy w; returns the sum of g x. */
template <class T, int N>
static __device__ __forceinline__ float load_pair(float (&x)[N], float (&g)[N], const T *from_x, const T *dy,
                                                  const float *from_w)
{
    float w[N], sum = 0;
    q3_load(x, from_x);
    q3_load(g, dy);
    q3_load(w, from_w);
    for (int i = 0; i < N; i++) {
        g[i] *= w[i];
        sum += g[i] * x[i];
    }
    return sum;
}

/* dx = r (g - x pull). */
template <class T, int N>
static __device__ __forceinline__ void store_dx(T *dx, float beta, const float (&x)[N], const float (&g)[N],
                                                float r, float pull)
{
    float v[N];
    for (int i = 0; i < N; i++)
        v[i] = r * (g[i] - x[i] * pull);
    q3_store_to(dx, beta, v);
}

template <class T, int N, int LANES> static __global__ void backward(q3_rmsnorm_backward_args a)
{
    typedef q3_pieces<LANES, N, Q3_HELD_BACKWARD> pieces;
    Q3_SHARED(float, shared, 32);
    const int lane = threadIdx.x % LANES * N;
    for (int64_t row = q3_first() / LANES; row < a.rows; row += q3_stride() / LANES) {
        const T *x = (const T *)a.x + row * a.C, *dy = (const T *)a.dy + row * a.C;
        T *dx = (T *)a.dx + row * a.C;
        float held_x[pieces::held][N], held_g[pieces::held][N], more_x[N], more_g[N], sum = 0;
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                sum += load_pair(held_x[k], held_g[k], x + c, dy + c, a.w + c);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step)
            sum += load_pair(more_x, more_g, x + c, dy + c, a.w + c);
        const float r = a.r[row], pull = r * r / (float)a.C * q3_row_sum<LANES>(sum, shared);
        for (int k = 0, c = lane; k < pieces::held; k++, c += pieces::step)
            if (c < a.C)
                store_dx(dx + c, a.dx_beta, held_x[k], held_g[k], r, pull);
        for (int64_t c = pieces::rest + lane; c < a.C; c += pieces::step) {
            load_pair(more_x, more_g, x + c, dy + c, a.w + c);
            store_dx(dx + c, a.dx_beta, more_x, more_g, r, pull);
        }
    }
}

/* partial [runs, C] = sum over a run's rows of dy x r; a run is dealt to 1 << shift threads. */
template <class T, int N> static __global__ void sum_runs(q3_rmsnorm_backward_args a, int shift)
{
    for (int64_t run = q3_first() >> shift; run * Q3_RMSNORM_RUN < a.rows; run += q3_stride() >> shift) {
        const int64_t begin = run * Q3_RMSNORM_RUN;
        const int64_t end = begin + Q3_RMSNORM_RUN < a.rows ? begin + Q3_RMSNORM_RUN : a.rows;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float sum[N] = { 0 };
            for (int64_t row = begin; row < end; row++) {
                float dy[N], x[N];
                q3_load(dy, (const T *)a.dy + row * a.C + c);
                q3_load(x, (const T *)a.x + row * a.C + c);
                for (int i = 0; i < N; i++)
                    sum[i] += dy[i] * x[i] * a.r[row];
            }
            q3_store(a.partial + run * a.C + c, sum);
        }
    }
}

template <class T, int N> static void launch_sums(const q3_rmsnorm_backward_args *a, q3_cuda *cuda)
{
    int64_t runs = (a->rows + Q3_RMSNORM_RUN - 1) / Q3_RMSNORM_RUN;
    int shift = q3_row_shift(a->C / N);
    if (runs > 0)
        Q3_LAUNCH(cuda, (sum_runs<T, N>), q3_blocks(runs << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
    q3_add_runs(cuda, a->dw, a->dw_beta, a->partial, runs, a->C, a->C);
}

template <class T> static void launch_forward(const q3_rmsnorm_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->C, a->y, a->x, a->w))
        Q3_LAUNCH_NORM_ROWS(cuda, forward, T, N, Q3_HELD_FORWARD, a);
    else
        Q3_LAUNCH_NORM_ROWS(cuda, forward, T, 1, Q3_HELD_FORWARD, a);
}

template <class T> static void launch_backward(const q3_rmsnorm_backward_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (a->dx && a->rows > 0) {
        if (q3_wide<T>(a->C, a->dx, a->dy, a->x, a->w))
            Q3_LAUNCH_NORM_ROWS(cuda, backward, T, N, Q3_HELD_BACKWARD, a);
        else
            Q3_LAUNCH_NORM_ROWS(cuda, backward, T, 1, Q3_HELD_BACKWARD, a);
    }
    if (a->dw) {
        if (q3_wide<T>(a->C, a->dy, a->x, a->partial))
            launch_sums<T, N>(a, cuda);
        else
            launch_sums<T, 1>(a, cuda);
    }
}

void q3_rmsnorm_forward_cuda(const q3_rmsnorm_args *a, q3_cuda *cuda)
{
    if (a->rows > 0)
        Q3_BY_TYPE(a->dtype, T, launch_forward<T>(a, cuda));
}

void q3_rmsnorm_backward_cuda(const q3_rmsnorm_backward_args *a, q3_cuda *cuda)
{
    Q3_BY_TYPE(a->dtype, T, launch_backward<T>(a, cuda));
}
