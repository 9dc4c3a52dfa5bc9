#include "tests/support/pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu.h"

void t_each_case(void (*test)(const t_case *c))
{
    q3_cpu_isa level = q3_cpu_level();
    t_case c = { .cuda = t_device() };
    assert_true(q3_cpu_set_level(Q3_CPU_REFERENCE));
    for (int i = 0; i < 4; i++) {
        c.dtype = i / 2 ? Q3_BF16 : Q3_F32;
        c.shift = i % 2 ? q3_dtype_bytes(c.dtype, 1) : 0;
        test(&c);
    }
    q3_cpu_set_level(level);
    q3_cuda_close(c.cuda);
}

static t_pair empty(q3_dtype dtype, int64_t n)
{
    t_pair p = { .host = malloc(q3_dtype_bytes(dtype == Q3_BF16 ? Q3_F32 : dtype, n) + 1),
                 .dtype = dtype,
                 .n = n };
    assert_non_null(p.host);
    return p;
}

static t_pair random_of(const t_case *c, q3_dtype dtype, size_t shift, int64_t n, uint32_t seed)
{
    t_pair p = empty(dtype, n);
    void *rounded = malloc(q3_dtype_bytes(dtype, n) + 1);
    t_fill(p.host, n, 1, seed);
    t_round(rounded, p.host, n, dtype);
    t_widen(p.host, rounded, n, dtype);
    p.device = t_upload(c->cuda, rounded, q3_dtype_bytes(dtype, n), shift);
    free(rounded);
    return p;
}

static t_pair blank_of(const t_case *c, q3_dtype dtype, size_t shift, int64_t n)
{
    t_pair p = empty(dtype, n);
    memset(p.host, 0xFF, (size_t)n * sizeof(float));
    p.device = t_upload(c->cuda, NULL, q3_dtype_bytes(dtype, n), shift);
    return p;
}

t_pair t_random(const t_case *c, int64_t n, uint32_t seed)
{
    return random_of(c, c->dtype, c->shift, n, seed);
}

t_pair t_random_f32(const t_case *c, int64_t n, uint32_t seed)
{
    return random_of(c, Q3_F32, 0, n, seed);
}

t_pair t_result(const t_case *c, int64_t n, float beta, uint32_t seed)
{
    return beta != 0 ? t_random(c, n, seed) : blank_of(c, c->dtype, c->shift, n);
}

t_pair t_result_f32(const t_case *c, int64_t n, float beta, uint32_t seed)
{
    return beta != 0 ? t_random_f32(c, n, seed) : blank_of(c, Q3_F32, 0, n);
}

t_pair t_copy(const t_case *c, q3_dtype dtype, const void *from, int64_t n)
{
    t_pair p = { .dtype = dtype, .n = n };
    size_t bytes = q3_dtype_bytes(dtype, n);
    p.host = malloc(bytes + 1);
    assert_non_null(p.host);
    memcpy(p.host, from, bytes);
    p.device = t_upload(c->cuda, from, bytes, 0);
    return p;
}

void t_agree_within(const char *what, t_pair *p, double bound)
{
    size_t bytes = q3_dtype_bytes(p->dtype, p->n);
    void *raw = malloc(bytes + 1);
    t_download(raw, &p->device);
    if (bound == 0) {
        if (memcmp(raw, p->host, bytes) != 0)
            fail_msg("%s: not the same bits", what);
    } else {
        float *got = malloc((size_t)p->n * sizeof *got + 1);
        double *want = malloc((size_t)p->n * sizeof *want + 1);
        t_widen(got, raw, p->n, p->dtype);
        for (int64_t i = 0; i < p->n; i++)
            want[i] = ((float *)p->host)[i];
        double distance = t_distance(got, want, p->n);
        if (!(distance <= bound))
            fail_msg("%s: %lld elements of type %d are %.3g from the CPU's, may be %.3g", what,
                     (long long)p->n, (int)p->dtype, distance, bound);
        free(got);
        free(want);
    }
    free(raw);
    t_free(p);
}

void t_agree(const char *what, t_pair *p)
{
    t_agree_within(what, p, p->dtype == Q3_BF16 ? 4e-3 : 1e-5);
}

void t_free(t_pair *p)
{
    t_drop(&p->device);
    free(p->host);
}
