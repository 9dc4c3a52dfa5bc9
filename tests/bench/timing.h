/* tests/bench/timing.h - seconds of work that is handed to a device, or done at once on the CPU. */
#ifndef Q3_BENCH_TIMING_H
#define Q3_BENCH_TIMING_H

#include "kernels/cuda.h"

/* The median of `times` runs between two marks of the device's stream, after one that is not counted. What fails is
 * found by q3_device_status. */
double timing_median(q3_cuda *cuda, void (*work)(void *arg, q3_cuda *cuda), void *arg, int times);

/* The median of n numbers, which are sorted. */
double timing_middle(double *seconds, int n);

#endif
