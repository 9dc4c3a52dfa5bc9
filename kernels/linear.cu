extern "C" {
#include "kernels/linear.h"
}
#include "kernels/runs.cuh"

enum { RUN = 64 }; /* rows */

/* partial [runs, N]; a run is dealt to 1 << shift threads. */
template <class T, int W> static __global__ void sum_runs(q3_linear_bias_args a, float *partial, int shift)
{
    for (int64_t run = q3_first() >> shift; run * RUN < a.M; run += q3_stride() >> shift) {
        const int64_t end = run * RUN + RUN < a.M ? run * RUN + RUN : a.M;
        for (int64_t n = q3_lane(shift) * W; n < a.N; n += W << shift) {
            float sum[W] = { 0 };
#pragma unroll 4
            for (int64_t m = run * RUN; m < end; m++) {
                float dy[W];
                q3_load(dy, (const T *)a.dy + m * a.N + n);
                for (int k = 0; k < W; k++)
                    sum[k] += dy[k];
            }
            q3_store(partial + run * a.N + n, sum);
        }
    }
}

template <class T, int W> static void launch(const q3_linear_bias_args *a, q3_cuda *cuda, int64_t runs)
{
    int shift = q3_row_shift(a->N / W);
    Q3_LAUNCH(cuda, (sum_runs<T, W>), q3_blocks(runs << shift, Q3_THREADS), Q3_THREADS, 0, *a,
              (float *)cuda->workspace, shift);
}

template <class T> static void launch(const q3_linear_bias_args *a, q3_cuda *cuda, int64_t runs)
{
    if (q3_wide<T>(a->N, a->dy, cuda->workspace))
        launch<T, q3_width<T>::elements>(a, cuda, runs);
    else
        launch<T, 1>(a, cuda, runs);
}

void q3_linear_bias_cuda(const q3_linear_bias_args *a, q3_cuda *cuda)
{
    int64_t runs = (a->M + RUN - 1) / RUN;
    size_t bytes = (size_t)runs * (size_t)a->N * sizeof(float);
    if (bytes > cuda->workspace_bytes) {
        q3_cuda_fail(cuda, "bias gradient of %lld rows of %lld: needs %zu bytes of workspace, there are %zu",
                     (long long)a->M, (long long)a->N, bytes, cuda->workspace_bytes);
        return;
    }
    if (runs > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda, runs));
    q3_add_runs(cuda, a->db, a->beta, (const float *)cuda->workspace, runs, a->N, a->N);
}
