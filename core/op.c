#include "core/op.h"

#define Q3_OP(id, stem) extern const q3_op q3_op_##stem;
#include "core/op_list.h"
#undef Q3_OP

const q3_op *const q3_ops[Q3_OP_COUNT] = {
#define Q3_OP(id, stem) &q3_op_##stem,
#include "core/op_list.h"
#undef Q3_OP
};
