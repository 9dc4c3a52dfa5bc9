#include "tests/support/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/nf4.h"

enum { GUARD = 256, PATTERN = 0xA5 };

q3_cuda *t_device(void)
{
    char why[Q3_CUDA_SENTENCE] = "";
    if (!q3_cuda_count(why)) {
        print_message("%s\n", why);
        skip();
    }
    q3_cuda *cuda = q3_cuda_open(0, why);
    if (!cuda)
        fail_msg("%s", why);
    return cuda;
}

t_array t_upload(q3_cuda *cuda, const void *from, size_t bytes, size_t shift)
{
    t_array a = { .cuda = cuda, .bytes = bytes, .shift = shift };
    size_t all = bytes + shift + 2 * GUARD;
    a.base = q3_cuda_alloc(cuda, all);
    assert_non_null(a.base);
    a.at = a.base + GUARD + shift;
    q3_cuda_fill(cuda, a.base, PATTERN, all);
    if (from && bytes)
        q3_cuda_upload(cuda, a.at, from, bytes);
    else if (bytes)
        q3_cuda_fill(cuda, a.at, 0xFF, bytes);
    return a;
}

static void check_guard(const unsigned char *guard, size_t bytes, const char *where)
{
    for (size_t i = 0; i < bytes; i++)
        if (guard[i] != PATTERN)
            fail_msg("byte %zu of the %zu %s the array was overwritten", i, bytes, where);
}

void t_download(void *to, const t_array *a)
{
    char why[Q3_CUDA_SENTENCE];
    size_t all = a->bytes + a->shift + 2 * GUARD;
    unsigned char *copy = malloc(all);
    q3_cuda_download(a->cuda, copy, a->base, all);
    if (q3_cuda_take_failure(a->cuda, why))
        fail_msg("%s", why);
    check_guard(copy, GUARD + a->shift, "before");
    check_guard(copy + GUARD + a->shift + a->bytes, GUARD, "behind");
    if (a->bytes)
        memcpy(to, copy + GUARD + a->shift, a->bytes);
    free(copy);
}

void t_drop(t_array *a)
{
    q3_cuda_free(a->cuda, a->base);
}

void t_fill(float *x, int64_t n, float scale, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 12; k++) { // twelve uniform numbers have the variance 1
            seed = seed * 1664525u + 1013904223u;
            sum += (float)(seed >> 8) * 0x1p-24f - 0.5f;
        }
        x[i] = sum * scale;
    }
}

void t_round(void *to, const float *x, int64_t n, q3_dtype dtype)
{
    for (int64_t i = 0; i < n; i++)
        if (dtype == Q3_F32)
            ((float *)to)[i] = x[i];
        else
            ((uint16_t *)to)[i] = dtype == Q3_BF16 ? q3_f32_to_bf16(x[i]) : q3_f32_to_f16(x[i]);
}

void t_widen(float *to, const void *x, int64_t n, q3_dtype dtype)
{
    const q3_weight w = { .data = x, .dtype = dtype };
    for (int64_t i = 0; i < n; i++)
        to[i] = q3_weight_at(&w, i);
}

double t_distance(const float *a, const double *b, int64_t n)
{
    double apart = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        apart += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return apart == 0 ? 0 : sqrt(apart / norm);
}
