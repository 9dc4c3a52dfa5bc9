#include "tests/support/op_case.h"

static uint64_t mix(uint64_t z) // splitmix64 of a counter: the same inputs on every machine
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t draw(q3_case *c)
{
    return mix(++c->counter * 0x9E3779B97F4A7C15u);
}

float q3_case_uniform(q3_case *c, float lo, float hi)
{
    return lo + (hi - lo) * (float)(draw(c) >> 40) * 0x1p-24f;
}

int64_t q3_case_below(q3_case *c, int64_t n)
{
    return (int64_t)(draw(c) % (uint64_t)n);
}

q3_tensor *q3_case_parameter(q3_case *c, int64_t rows, int64_t columns, float scale)
{
    q3_tensor *t = q3_case_matrix(c, rows, columns, scale);
    t->name = "matrix";
    return t;
}

void *q3_case_alloc(q3_case *c, size_t bytes)
{
    void *p = q3_arena_zalloc(c->mem, bytes);
    Q3_CHECK(p, "%s", q3_error());
    return p;
}

q3_tensor *q3_case_tensor(q3_case *c, int ndim, const int64_t *shape, float scale)
{
    q3_tensor *t = q3_tensor_wrap(c->mem, NULL, Q3_F32, ndim, shape);
    Q3_CHECK(t, "%s", q3_error());
    float *x = q3_case_alloc(c, q3_nbytes(t));
    for (int64_t i = 0; i < q3_numel(t); i++)
        x[i] = q3_case_uniform(c, -scale, scale);
    t->data = x;
    return t;
}

q3_tensor *q3_case_matrix(q3_case *c, int64_t rows, int64_t columns, float scale)
{
    return q3_case_tensor(c, 2, (const int64_t[]){ rows, columns }, scale);
}

q3_tensor *q3_case_vector(q3_case *c, int64_t n, float scale)
{
    q3_tensor *t = q3_case_tensor(c, 1, (const int64_t[]){ n }, scale);
    t->name = "vector";
    return t;
}
