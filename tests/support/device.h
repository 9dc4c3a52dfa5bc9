/* tests/support/device.h - arrays on a CUDA device for tests, between guard zones.
 *
 * t_device() skips the test where there is no device. An array that is given no content has all bits set, which is NaN
 * in every float type: an element that a kernel forgets shows. t_download fails the test when a launch failed or when
 * something was written beside the array.
 */
#ifndef Q3_TESTS_SUPPORT_DEVICE_H
#define Q3_TESTS_SUPPORT_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct t_array {
    q3_cuda *cuda;
    char *base; /* what was allocated */
    void *at;   /* the array */
    size_t bytes, shift;
} t_array;

/* Device 0; q3_cuda_close is the caller's. */
q3_cuda *t_device(void);

/* A copy of `from`, or all bits set where it is NULL; `shift` bytes behind an address aligned to 128. */
t_array t_upload(q3_cuda *cuda, const void *from, size_t bytes, size_t shift);
void t_download(void *to, const t_array *a);
void t_drop(t_array *a);

/* Roughly normal numbers of deviation about `scale`, always the same for a seed. */
void t_fill(float *x, int64_t n, float scale, uint32_t seed);

/* x [n] as elements of `dtype` (F32, BF16, F16), rounded to nearest even; and back, exactly. */
void t_round(void *to, const float *x, int64_t n, q3_dtype dtype);
void t_widen(float *to, const void *x, int64_t n, q3_dtype dtype);

/* ||a - b|| / ||b||; NaN when a holds one. */
double t_distance(const float *a, const double *b, int64_t n);

#endif
