/* core/ops/rows.h - what the ops that address rows by number share: get_rows, put_rows, add_rows,
 * embedding. */
#ifndef Q3_CORE_OPS_ROWS_H
#define Q3_CORE_OPS_ROWS_H

#include "core/tape.h"

/* Every number of attr.index names a row of in[0]; in a dry run they are not looked at. */
void q3_check_rows(const q3_ctx *ctx, const q3_node *n);

/* y = x, then rows of y replaced by (or with `add`, increased by) those of s: the node and its forward
 * pass. */
q3_node *q3_rows_node(q3_ctx *ctx, enum q3_op_id id, q3_tensor *x, q3_tensor *s, const int32_t *rows,
                      int64_t n);
void q3_rows_forward(q3_ctx *ctx, q3_node *n, bool add);

/* ds = the rows of dy that s went to. */
void q3_rows_backward(q3_ctx *ctx, q3_node *n);

#endif
