#include "core/op.h"

#define Q3_OP(id, stem) extern const q3_op q3_op_##stem;
#include "core/op_list.h"
#undef Q3_OP

const q3_op *const q3_ops[Q3_OP_COUNT] = {
#define Q3_OP(id, stem) &q3_op_##stem,
#include "core/op_list.h"
#undef Q3_OP
};

q3_cost q3_op_cost(const q3_node *n, bool back)
{
    const q3_cost c = n->op->cost(n);
    if (!back)
        return (q3_cost){ .flops = c.flops, .bytes = c.bytes };
    if (c.back_flops > 0 || c.back_bytes > 0)
        return (q3_cost){ .flops = c.back_flops, .bytes = c.back_bytes };
    return (q3_cost){ .flops = 2 * c.flops, .bytes = 1.5 * c.bytes };
}
