/* tests/core/ops/case_linear.h - frozen weights of any storage type for the cases of ops that multiply by
 * one. */
#ifndef Q3_TESTS_CORE_OPS_CASE_LINEAR_H
#define Q3_TESTS_CORE_OPS_CASE_LINEAR_H

#include "tests/support/op_case.h"

/* A weight [rows, columns] with values up to about one: f32, bf16, or 4-bit with blocks of 32. */
q3_tensor *q3_case_weight(q3_case *c, q3_dtype dtype, int64_t rows, int64_t columns);

#endif
