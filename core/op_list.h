/* core/op_list.h - the map of the ops: Q3_OP(enumerator, stem).
 *
 * An op is one stem: core/ops/<stem>.c (shapes, forward, backward, cost), kernels/<stem>.{h,c} (the loops)
 * and tests/core/ops/case_<stem>.c (inputs and tolerances). A line here lacking one of them does not link.
 */
Q3_OP(ADD, add)                     /* y = a + b */
Q3_OP(LINEAR, linear)               /* y = (a +) x W' + b */
Q3_OP(LORA_LINEAR, lora_linear)     /* y = (a +) x W' + b + s drop(x) A' B' */
Q3_OP(DROPOUT, dropout)             /* y = x m / (1 - p) */
Q3_OP(EMBEDDING, embedding)         /* y_t = E[id_t] */
Q3_OP(GET_ROWS, get_rows)           /* y_i = x[row_i] */
Q3_OP(PUT_ROWS, put_rows)           /* y = x, y[row_i] = s_i */
Q3_OP(ADD_ROWS, add_rows)           /* y = x, y[row_i] += s_i */
Q3_OP(GET_COLUMNS, get_columns)     /* y = x[:, a:b] */
Q3_OP(INTERPOLATE, interpolate)     /* y_p = sum_k w_pk E[i_pk], four taps */
Q3_OP(RMSNORM, rmsnorm)             /* y = x / rms(x) * w */
Q3_OP(LAYERNORM, layernorm)         /* y = (x - mean) / std * w + b */
Q3_OP(ROPE, rope)                   /* rotate pairs (i, i + D/2) by an angle per token */
Q3_OP(NORM_ROPE, norm_rope)         /* rope of rmsnorm of each head */
Q3_OP(ATTENTION, attention)         /* softmax(s q k') v within segments */
Q3_OP(SWIGLU, swiglu)               /* y = silu(a) u */
Q3_OP(GELU, gelu)                   /* y = x Phi(x), exact or tanh form */
Q3_OP(CROSS_ENTROPY, cross_entropy) /* loss = s sum_r -log softmax(x_r W')[target_r] */
