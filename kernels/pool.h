/* kernels/pool.h - the threads that run CPU kernels.
 *
 * q3_parallel splits [0, n) into at most as many consecutive runs as there are threads; the caller takes
 * part. Work is split over outputs only, never over a sum, so results do not depend on the number of threads.
 * Calls do not nest: a call from inside a job runs alone in its thread. Threads other than the one that
 * called q3_pool_start (loader threads) may call q3_parallel; their work runs in their own thread.
 */
#ifndef Q3_KERNELS_POOL_H
#define Q3_KERNELS_POOL_H

#include <stdint.h>

typedef void q3_job(void *arg, int64_t begin, int64_t end, int thread);

/* Starts the pool with `threads` threads in all, 0 for one per available processor; stops an earlier pool
 * first. */
void q3_pool_start(int threads);
void q3_pool_stop(void);
int q3_pool_threads(void); /* at least 1 */

/* Runs job(arg, begin, end, thread) over disjoint runs that cover [0, n), each but the last a multiple of
 * `grain`, and returns when all are done. thread in [0, q3_pool_threads()) indexes scratch memory. */
void q3_parallel(int64_t n, int64_t grain, q3_job *job, void *arg);

#endif
