/* kernels/norm.cuh - what the norms share: how a row is spread over threads.
 *
 * A row of up to 256 elements (a head) belongs to one warp, a longer one to a block of LANES = 128 or 256 threads.
 * Thread `lane` of a row has the pieces of N elements that begin at (k LANES + lane) N. The first of them stay in
 * registers between the passes over a row; what there are more is read again, then from cache.
 */
#ifndef Q3_KERNELS_NORM_CUH
#define Q3_KERNELS_NORM_CUH

#include "kernels/wide.cuh"

/* Elements that a thread holds of an array: forward has one, backward two. Rows of 8192 and of 4096. */
enum { Q3_HELD_FORWARD = 32, Q3_HELD_BACKWARD = 16 };

template <int LANES, int N, int HELD> struct q3_pieces {
    enum {
        held = (LANES == 32 ? 8 : HELD) / N,
        rest = held * LANES * N, /* where a row goes on that no register holds */
        step = LANES * N,
    };
};

/* Sum over the threads of a row, in each of them; `shared` [32] is used by rows of a block. */
template <int LANES> static __device__ __forceinline__ float q3_row_sum(float x, float *shared)
{
    return LANES == 32 ? q3_warp_sum(x) : q3_block_sum<LANES>(x, shared);
}

/* Host: blocks, and threads of one, for rows that take LANES. */
template <int LANES> struct q3_norm_grid {
    enum { threads = LANES == 32 ? Q3_THREADS : LANES };
    static unsigned blocks(int64_t rows) { return q3_blocks(rows * LANES, threads); }
};

/* Host: launches kernel<T, N, LANES> over a->rows rows of a->C. */
#define Q3_LAUNCH_NORM(cuda, kernel, T, N, LANES, a)                                                         \
    Q3_LAUNCH(cuda, (kernel<T, N, LANES>), q3_norm_grid<LANES>::blocks((a)->rows),                           \
              q3_norm_grid<LANES>::threads, 0, *(a))
#define Q3_LAUNCH_NORM_ROWS(cuda, kernel, T, N, held, a)                                                     \
    do {                                                                                                     \
        if ((a)->C <= 256)                                                                                   \
            Q3_LAUNCH_NORM(cuda, kernel, T, N, 32, a);                                                       \
        else if ((a)->C <= 128 * held)                                                                       \
            Q3_LAUNCH_NORM(cuda, kernel, T, N, 128, a);                                                      \
        else                                                                                                 \
            Q3_LAUNCH_NORM(cuda, kernel, T, N, 256, a);                                                      \
    } while (0)

#endif
