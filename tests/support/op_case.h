/* tests/support/op_case.h - one test case for each op of core/op_list.h; tests/core/ops/test_ops.c runs them
 * all.
 *
 * A case builds inputs for each of its variants (shapes, settings) and applies the op. The harness checks,
 * for each variant: central differences of the reference along random directions; the reference against
 * `plain` (the same result from other ops) and against `expected` (an independent float64 formula) where
 * given; every CPU level of the machine against the reference; the same bits with 1, 2 and 3 threads; each
 * input's gradient asked for alone; gradients that add to what is there. Fresh values are NaN, so that
 * nothing unwritten goes unseen.
 */
#ifndef Q3_TESTS_SUPPORT_OP_CASE_H
#define Q3_TESTS_SUPPORT_OP_CASE_H

#include "core/ops.h"

enum { Q3_CASE_INPUTS = 6 };

typedef struct q3_case {
    int variant;
    q3_arena *mem;                       /* inputs live here for the whole variant */
    uint64_t counter;                    /* of the random numbers drawn so far */
    q3_tensor *in[Q3_CASE_INPUTS];       /* set by build; NULL where absent */
    bool differentiable[Q3_CASE_INPUTS]; /* inputs whose gradient is tested (f32 only) */
    void *extra;                         /* the case's own settings for this variant */
} q3_case;

typedef struct q3_op_case {
    int variants;
    void (*build)(q3_case *c);
    q3_tensor *(*apply)(const q3_case *c, q3_ctx *ctx);
    q3_tensor *(*plain)(const q3_case *c, q3_ctx *ctx); /* optional */
    void (*expected)(const q3_case *c, double *y);      /* optional: the values of the result */
    double tolerance; /* levels, plain and expected against the reference, norm over norm; 0 means 1e-5 */
    double difference_step;  /* of central differences; 0 means 1e-2 */
    double difference_bound; /* their bound, relative to the sum of the two norms' scale; 0 means 2e-3 */
} q3_op_case;

/* f32 tensors with values uniform in [-scale, scale]. Vectors and parameters have a name, which tells them from
 * activations: they stay f32 whatever the op computes in. */
q3_tensor *q3_case_tensor(q3_case *c, int ndim, const int64_t *shape, float scale);
q3_tensor *q3_case_matrix(q3_case *c, int64_t rows, int64_t columns, float scale);
q3_tensor *q3_case_parameter(q3_case *c, int64_t rows, int64_t columns, float scale);
q3_tensor *q3_case_vector(q3_case *c, int64_t n, float scale);

float q3_case_uniform(q3_case *c, float lo, float hi);
int64_t q3_case_below(q3_case *c, int64_t n); /* an integer in [0, n) */
void *q3_case_alloc(q3_case *c, size_t bytes);

#define Q3_OP(id, stem) extern const q3_op_case q3_case_##stem;
#include "core/op_list.h"
#undef Q3_OP

#endif
