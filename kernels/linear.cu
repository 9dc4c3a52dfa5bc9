extern "C" {
#include "kernels/linear.h"
}
#include "kernels/runs.cuh"

enum { RUN = 64 }; /* rows */

/* partial [runs, columns] of columns [begin, begin + columns); a run is dealt to 1 << shift threads. */
template <class T, int W>
static __global__ void sum_runs(q3_linear_bias_args a, float *partial, int64_t begin, int64_t columns,
                                int shift)
{
    for (int64_t run = q3_first() >> shift; run * RUN < a.M; run += q3_stride() >> shift) {
        const int64_t end = run * RUN + RUN < a.M ? run * RUN + RUN : a.M;
        for (int64_t n = q3_lane(shift) * W; n < columns; n += W << shift) {
            float sum[W] = { 0 };
            for (int64_t m = run * RUN; m < end; m++) {
                float dy[W];
                q3_load(dy, (const T *)a.dy + m * a.N + begin + n);
                for (int k = 0; k < W; k++)
                    sum[k] += dy[k];
            }
            q3_store(partial + run * columns + n, sum);
        }
    }
}

template <class T, int W>
static void launch(const q3_linear_bias_args *a, q3_cuda *cuda, int64_t runs, int64_t begin, int64_t columns)
{
    int shift = q3_row_shift(columns / W);
    Q3_LAUNCH(cuda, (sum_runs<T, W>), q3_blocks(runs << shift, Q3_THREADS), Q3_THREADS, 0, *a,
              (float *)cuda->workspace, begin, columns, shift);
}

template <class T>
static void launch(const q3_linear_bias_args *a, q3_cuda *cuda, int64_t runs, int64_t begin, int64_t columns)
{
    if (q3_wide<T>(a->N, a->dy, cuda->workspace))
        launch<T, q3_width<T>::elements>(a, cuda, runs, begin, columns);
    else
        launch<T, 1>(a, cuda, runs, begin, columns);
}

/* As many columns at a time as the workspace holds sums of. */
void q3_linear_bias_cuda(const q3_linear_bias_args *a, q3_cuda *cuda)
{
    enum { ALIGN = 32 }; // columns: whole pieces of 16 bytes
    float *partial = (float *)cuda->workspace;
    int64_t runs = (a->M + RUN - 1) / RUN, room = (int64_t)(cuda->workspace_bytes / sizeof(float));
    int64_t most = runs > 0 ? room / runs / ALIGN * ALIGN : a->N;
    if (most == 0) {
        q3_cuda_fail(cuda, "bias gradient of %lld rows: a workspace of %zu bytes is too small",
                     (long long)a->M, cuda->workspace_bytes);
        return;
    }
    for (int64_t begin = 0; begin < a->N; begin += most) {
        int64_t columns = a->N - begin < most ? a->N - begin : most;
        if (runs > 0)
            Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda, runs, begin, columns));
        q3_add_runs(cuda, a->db + begin, a->beta, partial, runs, columns, columns);
    }
}
