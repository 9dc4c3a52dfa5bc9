/* tests/bench/probe.h - what the device can do at most, measured: the rates that all others are compared with. */
#ifndef Q3_BENCH_PROBE_H
#define Q3_BENCH_PROBE_H

#include "core/device.h"

typedef struct probe {
    double copy; /* bytes/s, read and written counted, of a copy within the device's memory */
    double gemm; /* flop/s of a square bf16 product by cuBLASLt, random values */
} probe;

/* Copies of `copy_bytes` and products of `gemm_size` cubed; the median of `times`. Zeros on the CPU. */
q3_status probe_measure(probe *out, q3_cuda *cuda, size_t copy_bytes, int64_t gemm_size, int times);

enum { PROBE_COPY_BYTES = 1 << 30, PROBE_GEMM_SIZE = 8192 }; /* large enough for any device of today */

#endif
