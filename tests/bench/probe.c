#include "tests/bench/probe.h"

#include "core/log.h"
#include "tests/bench/random_model.h"
#include "tests/bench/timing.h"

#if defined(Q3_CUDA)
#include "kernels/cublaslt.h"

typedef struct job {
    void *a, *b, *c;
    size_t bytes;
    int64_t size;
} job;

static void copy(void *arg, q3_cuda *cuda)
{
    const job *j = arg;
    q3_device_copy(cuda, j->b, j->a, j->bytes);
}

static void multiply(void *arg, q3_cuda *cuda)
{
    const job *j = arg;
    const q3_matmul_args p = { .c = j->c,
                               .a = j->a,
                               .b = j->b,
                               .m = j->size,
                               .n = j->size,
                               .k = j->size,
                               .b_transposed = true,
                               .in = Q3_BF16,
                               .out = Q3_BF16,
                               .alpha = 1 };
    q3_cublaslt_matmul(&p, cuda);
}

q3_status probe_measure(probe *out, q3_cuda *cuda, size_t copy_bytes, int64_t gemm_size, int times)
{
    const size_t matrix = 2 * (size_t)(gemm_size * gemm_size),
                 block = matrix > copy_bytes ? matrix : copy_bytes;
    random_values drawn;
    q3_arena mem;
    *out = (probe){ 0 };
    if (!cuda)
        return Q3_OK;
    Q3_TRY(
        q3_device_arena_create(&mem, cuda, "probe", 3 * block + ((size_t)64 << 20))); // and the drawn values
    job j = { q3_arena_alloc(&mem, block), q3_arena_alloc(&mem, block), q3_arena_alloc(&mem, matrix),
              copy_bytes, gemm_size };
    q3_status st = j.a && j.b && j.c ? random_values_create(&drawn, &mem) : Q3_ERR_MEMORY;
    if (st == Q3_OK) {
        random_fill_bf16(cuda, &drawn, j.a, block, 1);
        out->copy = 2 * (double)copy_bytes / timing_median(cuda, copy, &j, times);
        random_fill_bf16(cuda, &drawn, j.b, matrix, 2);
        out->gemm = 2.0 * (double)gemm_size * (double)gemm_size * (double)gemm_size /
                    timing_median(cuda, multiply, &j, times);
        st = q3_device_status(cuda);
    }
    q3_arena_destroy(&mem);
    return st;
}

#else

q3_status probe_measure(probe *out, q3_cuda *cuda, size_t copy_bytes, int64_t gemm_size, int times)
{
    (void)cuda, (void)copy_bytes, (void)gemm_size, (void)times;
    *out = (probe){ 0 };
    return Q3_OK;
}

#endif
