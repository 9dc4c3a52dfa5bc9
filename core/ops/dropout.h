/* core/ops/dropout.h - which mask belongs to a call: shared by dropout and lora_linear.
 *
 * The mask is a function of (run's seed, micro-step of the call, stream of the call), see core/rng.h: purpose
 * dropout, the stream as the site. The node keeps the latter two, so backward draws what forward drew.
 */
#ifndef Q3_CORE_OPS_DROPOUT_H
#define Q3_CORE_OPS_DROPOUT_H

#include "core/tape.h"
#include "kernels/dropout.h"

/* Fills attr.dropout and attr.key of a node; checks p in [0, 1) and stream < 2^24. */
void q3_dropout_attr(const q3_ctx *ctx, q3_node *n, float p, uint32_t stream);

/* Arguments of the kernel for y = beta y + drop(x) over `count` elements. */
q3_dropout_args q3_dropout_args_of(const q3_ctx *ctx, const q3_node *n, void *y, const void *x,
                                   int64_t count, float beta);

#endif
