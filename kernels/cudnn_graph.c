#include "kernels/cudnn_graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OWNED = 256,   // descriptors of the largest graph: 119, backward with groups; each plan tried adds one
    OPS = 64,      // its operations: 30
    CONFIGS = 16,  // cuDNN 9.19 offers at most 3
    FIRST_ID = 100 // of tensors that exist inside the graph only
};

struct q3_cudnn_graph {
    const q3_cudnn_api *api;
    q3_cudnn_shape shape;
    void *handle;
    q3_cudnn_ref owned[OWNED];
    int n_owned;
    q3_cudnn_ref ops[OPS];
    int n_ops;
    int64_t next_id;
    bool has[Q3_CUDNN_TENSORS];
    q3_cudnn_ref graph, device, plan;
    q3_cudnn_ref configs[CONFIGS];
    int n_configs;
    size_t workspace_bytes;
    bool failed;
    char why[Q3_CUDNN_SENTENCE];
};

/* ---- buckets ---- */

int64_t q3_cudnn_rows_bucket(int64_t length)
{
    int64_t power =
        Q3_CUDNN_FEWEST_ROWS; // shorter sequences share it: the kernels stop at a sequence's length
    while (power < length)
        power *= 2;
    int64_t between = power / 4 * 3;
    return between % Q3_CUDNN_FEWEST_ROWS == 0 && length <= between ? between : power;
}

int64_t q3_cudnn_sequences_bucket(int64_t n)
{
    int64_t bucket = 1;
    while (bucket < n)
        bucket *= 2;
    return bucket;
}

int64_t q3_cudnn_most_sequences(const q3_cudnn_shape *shape)
{
    // 16384 rows: with 32 heads of 128 the sum of dq takes 256 MiB then
    const int64_t rows = (int64_t)Q3_CUDNN_FEWEST_ROWS * Q3_CUDNN_MOST_SEQUENCES;
    const int64_t score_bytes = 1024L << 20; // deterministic backward keeps all of dS, in bf16
    int64_t most = rows / shape->S;
    int64_t each = shape->heads * shape->S * shape->S * 2;
    if (shape->backward && shape->deterministic && most > score_bytes / each)
        most = score_bytes / each;
    int64_t bucket = 1;
    while (bucket * 2 <= most)
        bucket *= 2;
    return bucket;
}

size_t q3_cudnn_scratch_bytes(const q3_cudnn_shape *shape, q3_cudnn_tensor which)
{
    size_t rows = (size_t)(shape->B * shape->heads * shape->S) * sizeof(float);
    switch (which) {
    case Q3_CUDNN_STATS:
        return shape->backward || shape->stats ? rows : 0;
    case Q3_CUDNN_ROW_DOT:
        return shape->backward ? rows : 0;
    case Q3_CUDNN_DQ_SUM:
        return shape->backward && !shape->deterministic ? rows * (size_t)shape->head_size : 0;
    default:
        return 0;
    }
}

/* ---- descriptors: after the first failure nothing is called any more ---- */

/* Keeps the first failure, with cuDNN's own words. */
static bool check(q3_cudnn_graph *g, int status, const char *doing)
{
    if (g->failed || status == Q3_CUDNN_STATUS_SUCCESS)
        return !g->failed;
    char said[200] = "";
    g->api->last_error(said, sizeof said);
    snprintf(g->why, sizeof g->why, "cuDNN %s: %s%s%s", doing, g->api->error(status), *said ? ": " : "",
             said);
    g->failed = true;
    return false;
}

static q3_cudnn_ref create(q3_cudnn_graph *g, int type)
{
    q3_cudnn_ref d = NULL;
    if (g->failed)
        return NULL;
    if (g->n_owned == OWNED) {
        snprintf(g->why, sizeof g->why, "cuDNN graph: more than %d descriptors", OWNED);
        g->failed = true;
        return NULL;
    }
    if (check(g, g->api->descriptor_new(type, &d), "creates no descriptor"))
        g->owned[g->n_owned++] = d;
    return d;
}

static void set(q3_cudnn_graph *g, q3_cudnn_ref d, int attribute, int type, int64_t count, const void *values)
{
    if (!g->failed)
        check(g, g->api->set(d, attribute, type, count, values), "refuses an attribute");
}

static void set_ref(q3_cudnn_graph *g, q3_cudnn_ref d, int attribute, q3_cudnn_ref value)
{
    if (value)
        set(g, d, attribute, Q3_CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(q3_cudnn_graph *g, q3_cudnn_ref d, const char *doing)
{
    if (!g->failed)
        check(g, g->api->finalize(d), doing);
}

static void finalize_op(q3_cudnn_graph *g, q3_cudnn_ref op)
{
    finalize(g, op, "refuses an operation");
    if (!g->failed && g->n_ops < OPS)
        g->ops[g->n_ops++] = op;
}

/* ---- tensors: four dimensions, batch, head, row, column ---- */

typedef struct dims {
    int64_t at[4];
} dims;

static dims dims_of(int64_t b, int64_t h, int64_t row, int64_t column)
{
    return (dims){ { b, h, row, column } };
}

static dims row_major(dims d)
{
    return dims_of(d.at[1] * d.at[2] * d.at[3], d.at[2] * d.at[3], d.at[3], 1);
}

static dims transposed(dims d)
{
    return dims_of(d.at[0], d.at[1], d.at[3], d.at[2]);
}

enum placement { IN_MEMORY, INSIDE, BY_VALUE };

static q3_cudnn_ref tensor(q3_cudnn_graph *g, int64_t id, int type, dims size, dims stride,
                           q3_cudnn_ref offsets, enum placement placement)
{
    const int64_t alignment = 16; // bytes; the arenas give more
    const bool yes = true;
    q3_cudnn_ref t = create(g, Q3_CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(g, t, Q3_CUDNN_ATTR_TENSOR_DATA_TYPE, Q3_CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, t, Q3_CUDNN_ATTR_TENSOR_DIMENSIONS, Q3_CUDNN_TYPE_INT64, 4, size.at);
    set(g, t, Q3_CUDNN_ATTR_TENSOR_STRIDES, Q3_CUDNN_TYPE_INT64, 4, stride.at);
    set(g, t, Q3_CUDNN_ATTR_TENSOR_UNIQUE_ID, Q3_CUDNN_TYPE_INT64, 1, &id);
    set(g, t, Q3_CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Q3_CUDNN_TYPE_INT64, 1, &alignment);
    if (placement == INSIDE)
        set(g, t, Q3_CUDNN_ATTR_TENSOR_IS_VIRTUAL, Q3_CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (placement == BY_VALUE)
        set(g, t, Q3_CUDNN_ATTR_TENSOR_IS_BY_VALUE, Q3_CUDNN_TYPE_BOOLEAN, 1, &yes);
    set_ref(g, t, Q3_CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    finalize(g, t, "refuses a tensor");
    return t;
}

/* One of the graph's operands; `offsets` NULL where sequences lie at their stride. */
static q3_cudnn_ref operand(q3_cudnn_graph *g, q3_cudnn_tensor which, int type, dims size, dims stride,
                            q3_cudnn_ref offsets)
{
    g->has[which] = true;
    return tensor(g, which + 1, type, size, stride, offsets, IN_MEMORY);
}

static q3_cudnn_ref number(q3_cudnn_graph *g, q3_cudnn_tensor which)
{
    const dims one = dims_of(1, 1, 1, 1);
    g->has[which] = true;
    return tensor(g, which + 1, Q3_CUDNN_DATA_FLOAT, one, one, NULL, BY_VALUE);
}

static q3_cudnn_ref whole_numbers(q3_cudnn_graph *g, q3_cudnn_tensor which, int64_t n)
{
    return operand(g, which, Q3_CUDNN_DATA_INT32, dims_of(n, 1, 1, 1), dims_of(1, 1, 1, 1), NULL);
}

/* A tensor between two operations, which never exists in memory. */
static q3_cudnn_ref inside(q3_cudnn_graph *g, int type, dims size, dims stride, q3_cudnn_ref offsets)
{
    return tensor(g, g->next_id++, type, size, stride, offsets, INSIDE);
}

static q3_cudnn_ref result(q3_cudnn_graph *g, int type, dims size)
{
    return inside(g, type, size, row_major(size), NULL);
}

/* ---- operations ---- */

typedef struct pointwise_args {
    int mode;      // Q3_CUDNN_POINTWISE_...
    int precision; // data type it computes in
    int64_t axis;  // of an index
    q3_cudnn_ref x, b, mask, y;
} pointwise_args;

static void pointwise(q3_cudnn_graph *g, pointwise_args a)
{
    const float one = 1;
    q3_cudnn_ref p = create(g, Q3_CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, p, Q3_CUDNN_ATTR_POINTWISE_MODE, Q3_CUDNN_TYPE_POINTWISE_MODE, 1, &a.mode);
    set(g, p, Q3_CUDNN_ATTR_POINTWISE_MATH_PREC, Q3_CUDNN_TYPE_DATA_TYPE, 1, &a.precision);
    if (a.mode == Q3_CUDNN_POINTWISE_GEN_INDEX)
        set(g, p, Q3_CUDNN_ATTR_POINTWISE_AXIS, Q3_CUDNN_TYPE_INT64, 1, &a.axis);
    finalize(g, p, "refuses a pointwise mode");
    q3_cudnn_ref op = create(g, Q3_CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a.x);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_BDESC, a.b);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_TDESC, a.mask);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_YDESC, a.y);
    set(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, Q3_CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, Q3_CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, Q3_CUDNN_TYPE_FLOAT, 1, &one);
    finalize_op(g, op);
}

/* y = x or f(x, b), in f32. */
static void apply_to(q3_cudnn_graph *g, int mode, q3_cudnn_ref x, q3_cudnn_ref b, q3_cudnn_ref y)
{
    pointwise(g, (pointwise_args){ .mode = mode, .precision = Q3_CUDNN_DATA_FLOAT, .x = x, .b = b, .y = y });
}

static q3_cudnn_ref apply(q3_cudnn_graph *g, int mode, q3_cudnn_ref x, q3_cudnn_ref b, dims size)
{
    q3_cudnn_ref y = result(g, Q3_CUDNN_DATA_FLOAT, size);
    apply_to(g, mode, x, b, y);
    return y;
}

static void reduce_to(q3_cudnn_graph *g, int reduction, q3_cudnn_ref x, q3_cudnn_ref y)
{
    const int f32 = Q3_CUDNN_DATA_FLOAT;
    q3_cudnn_ref r = create(g, Q3_CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, r, Q3_CUDNN_ATTR_REDUCTION_OPERATOR, Q3_CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &reduction);
    set(g, r, Q3_CUDNN_ATTR_REDUCTION_COMP_TYPE, Q3_CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finalize(g, r, "refuses a reduction");
    q3_cudnn_ref op = create(g, Q3_CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    finalize_op(g, op);
}

typedef struct product_args {
    q3_cudnn_ref a, b, c;
    q3_cudnn_ref rows, columns, depth; // lengths that bound them; NULL: all
} product_args;

static void product(q3_cudnn_graph *g, product_args p)
{
    const int f32 = Q3_CUDNN_DATA_FLOAT;
    q3_cudnn_ref m = create(g, Q3_CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(g, m, Q3_CUDNN_ATTR_MATMUL_COMP_TYPE, Q3_CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finalize(g, m, "refuses a product");
    q3_cudnn_ref op = create(g, Q3_CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_DESC, m);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_ADESC, p.a);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_BDESC, p.b);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_CDESC, p.c);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, p.rows);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, p.columns);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, p.depth);
    finalize_op(g, op);
}

static void reshape(q3_cudnn_graph *g, q3_cudnn_ref x, q3_cudnn_ref y)
{
    q3_cudnn_ref op = create(g, Q3_CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_ref(g, op, Q3_CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    finalize_op(g, op);
}

/* ---- what both directions share ---- */

typedef struct common {
    dims q_size, kv_size;      // [B, heads, S, D], [B, kv_heads, S, D]
    dims score_size, row_size; // [B, heads, S, S], [B, heads, S, 1]
    dims q_stride, kv_stride;  // element distances; those between sequences are nominal
    q3_cudnn_ref offsets_q, offsets_kv;
    q3_cudnn_ref lengths_q, lengths_kv;
    q3_cudnn_ref q, kt; // queries; keys with rows and columns exchanged
    q3_cudnn_ref scale, minus_inf;
} common;

static common common_of(q3_cudnn_graph *g)
{
    const q3_cudnn_shape *s = &g->shape;
    const int64_t B = s->B, S = s->S, H = s->heads, K = s->kv_heads, D = s->head_size;
    common c = { .q_size = dims_of(B, H, S, D), .kv_size = dims_of(B, K, S, D) };
    c.score_size = dims_of(B, H, S, S);
    c.row_size = dims_of(B, H, S, 1);
    c.q_stride = dims_of(S * H * D, D, H * D, 1);
    c.kv_stride = dims_of(S * K * D, D, K * D, 1);
    c.offsets_q = whole_numbers(g, Q3_CUDNN_OFFSETS_Q, B + 1);
    c.offsets_kv = whole_numbers(g, Q3_CUDNN_OFFSETS_KV, B + 1);
    c.lengths_q = whole_numbers(g, Q3_CUDNN_LENGTHS_Q, B);
    c.lengths_kv = whole_numbers(g, Q3_CUDNN_LENGTHS_KV, B);
    c.q = operand(g, Q3_CUDNN_Q, Q3_CUDNN_DATA_BFLOAT16, c.q_size, c.q_stride, c.offsets_q);
    c.kt = operand(g, Q3_CUDNN_K, Q3_CUDNN_DATA_BFLOAT16, transposed(c.kv_size), transposed(c.kv_stride),
                   c.offsets_kv);
    c.scale = number(g, Q3_CUDNN_SCALE);
    c.minus_inf = number(g, Q3_CUDNN_MINUS_INF);
    return c;
}

static q3_cudnn_ref stats_of(q3_cudnn_graph *g, const common *c)
{
    return operand(g, Q3_CUDNN_STATS, Q3_CUDNN_DATA_FLOAT, c->row_size, row_major(c->row_size), NULL);
}

/* Number of the row (axis 2) or column (axis 3) of each score. */
static q3_cudnn_ref indices(q3_cudnn_graph *g, const common *c, q3_cudnn_ref s, int64_t axis, int precision)
{
    q3_cudnn_ref y = result(g, Q3_CUDNN_DATA_INT32, c->score_size);
    pointwise(g, (pointwise_args){ Q3_CUDNN_POINTWISE_GEN_INDEX, precision, .axis = axis, .x = s, .y = y });
    return y;
}

static q3_cudnn_ref truth(q3_cudnn_graph *g, const common *c, int mode, q3_cudnn_ref x, q3_cudnn_ref b)
{
    q3_cudnn_ref y = result(g, Q3_CUDNN_DATA_BOOLEAN, c->score_size);
    pointwise(g,
              (pointwise_args){ .mode = mode, .precision = Q3_CUDNN_DATA_BOOLEAN, .x = x, .b = b, .y = y });
    return y;
}

static q3_cudnn_ref where(q3_cudnn_graph *g, const common *c, q3_cudnn_ref mask, q3_cudnn_ref s)
{
    q3_cudnn_ref y = result(g, Q3_CUDNN_DATA_FLOAT, c->score_size);
    pointwise(g, (pointwise_args){ Q3_CUDNN_POINTWISE_BINARY_SELECT, Q3_CUDNN_DATA_FLOAT, .x = s,
                                   .b = c->minus_inf, .mask = mask, .y = y });
    return y;
}

/* scale q k', -inf beyond the lengths. The matcher tells the two masks apart by the precision of their indices. */
static q3_cudnn_ref scores(q3_cudnn_graph *g, const common *c)
{
    q3_cudnn_ref s = result(g, Q3_CUDNN_DATA_FLOAT, c->score_size);
    product(g,
            (product_args){ .a = c->q, .b = c->kt, .c = s, .rows = c->lengths_q, .columns = c->lengths_kv });
    s = apply(g, Q3_CUDNN_POINTWISE_MUL, s, c->scale, c->score_size);
    q3_cudnn_ref row = indices(g, c, s, 2, Q3_CUDNN_DATA_INT32);
    q3_cudnn_ref column = indices(g, c, s, 3, Q3_CUDNN_DATA_INT32);
    row = truth(g, c, Q3_CUDNN_POINTWISE_CMP_LT, row, c->lengths_q);
    column = truth(g, c, Q3_CUDNN_POINTWISE_CMP_LT, column, c->lengths_kv);
    return where(g, c, truth(g, c, Q3_CUDNN_POINTWISE_LOGICAL_AND, row, column), s);
}

static q3_cudnn_ref causal(q3_cudnn_graph *g, const common *c, q3_cudnn_ref s)
{
    if (!g->shape.causal)
        return s;
    q3_cudnn_ref row = indices(g, c, s, 2, Q3_CUDNN_DATA_FLOAT);
    q3_cudnn_ref column = indices(g, c, s, 3, Q3_CUDNN_DATA_FLOAT);
    return where(g, c, truth(g, c, Q3_CUDNN_POINTWISE_CMP_GE, row, column), s);
}

/* ---- the two graphs ---- */

static void build_forward(q3_cudnn_graph *g)
{
    const common c = common_of(g);
    q3_cudnn_ref v = operand(g, Q3_CUDNN_V, Q3_CUDNN_DATA_BFLOAT16, c.kv_size, c.kv_stride, c.offsets_kv);
    q3_cudnn_ref o = operand(g, Q3_CUDNN_O, Q3_CUDNN_DATA_BFLOAT16, c.q_size, c.q_stride, c.offsets_q);
    q3_cudnn_ref s = causal(g, &c, scores(g, &c));
    q3_cudnn_ref most = result(g, Q3_CUDNN_DATA_FLOAT, c.row_size);
    reduce_to(g, Q3_CUDNN_REDUCE_TENSOR_MAX, s, most);
    s = apply(g, Q3_CUDNN_POINTWISE_SUB, s, most, c.score_size);
    s = apply(g, Q3_CUDNN_POINTWISE_EXP, s, NULL, c.score_size);
    q3_cudnn_ref sum = result(g, Q3_CUDNN_DATA_FLOAT, c.row_size);
    reduce_to(g, Q3_CUDNN_REDUCE_TENSOR_ADD, s, sum);
    // the matcher wants the logarithm in the graph even where nobody reads it
    q3_cudnn_ref stats = g->shape.stats ? stats_of(g, &c) : result(g, Q3_CUDNN_DATA_FLOAT, c.row_size);
    q3_cudnn_ref log_sum = apply(g, Q3_CUDNN_POINTWISE_LOG, sum, NULL, c.row_size);
    apply_to(g, Q3_CUDNN_POINTWISE_ADD, most, log_sum, stats);
    q3_cudnn_ref p = result(g, Q3_CUDNN_DATA_BFLOAT16, c.score_size);
    apply_to(g, Q3_CUDNN_POINTWISE_DIV, s, sum, p);
    product(g, (product_args){ .a = p, .b = v, .c = o, .rows = c.lengths_q, .depth = c.lengths_kv });
}

/* do.o of each row, which goes through memory. */
static q3_cudnn_ref row_dots(q3_cudnn_graph *g, const common *c, q3_cudnn_ref dout, q3_cudnn_ref o,
                             q3_cudnn_ref one)
{
    const int64_t S = g->shape.S, H = g->shape.heads, D = g->shape.head_size;
    q3_cudnn_ref products =
        inside(g, Q3_CUDNN_DATA_FLOAT, c->q_size, dims_of(H * S * D, S * D, H * D, 1), NULL);
    apply_to(g, Q3_CUDNN_POINTWISE_MUL, dout, o, products);
    q3_cudnn_ref sum = result(g, Q3_CUDNN_DATA_FLOAT, c->row_size);
    reduce_to(g, Q3_CUDNN_REDUCE_TENSOR_ADD, products, sum);
    q3_cudnn_ref y =
        operand(g, Q3_CUDNN_ROW_DOT, Q3_CUDNN_DATA_FLOAT, c->row_size, row_major(c->row_size), NULL);
    apply_to(g, Q3_CUDNN_POINTWISE_MUL, sum, one, y);
    return y;
}

/* out [B, kv_heads, S, D] = x' y for scores x and rows y; with groups the sum over their heads. */
static void transposed_product(q3_cudnn_graph *g, const common *c, q3_cudnn_ref x, q3_cudnn_ref y,
                               q3_cudnn_ref out)
{
    const int64_t S = g->shape.S, H = g->shape.heads;
    const dims stride = dims_of(H * S * S, S * S, 1, S);
    q3_cudnn_ref xt = inside(g, Q3_CUDNN_DATA_BFLOAT16, c->score_size, stride, NULL);
    reshape(g, x, xt);
    bool grouped = g->shape.heads != g->shape.kv_heads;
    q3_cudnn_ref all = grouped ? result(g, Q3_CUDNN_DATA_BFLOAT16, c->q_size) : out;
    product(g, (product_args){ .a = xt, .b = y, .c = all, .rows = c->lengths_kv, .depth = c->lengths_q });
    if (grouped)
        reduce_to(g, Q3_CUDNN_REDUCE_TENSOR_ADD, all, out);
}

static void build_dq(q3_cudnn_graph *g, const common *c, q3_cudnn_ref ds, q3_cudnn_ref dq)
{
    q3_cudnn_ref k = inside(g, Q3_CUDNN_DATA_BFLOAT16, c->kv_size, c->kv_stride, c->offsets_kv);
    reshape(g, c->kt, k);
    product_args p = { .a = ds, .b = k, .c = dq, .rows = c->lengths_q, .depth = c->lengths_kv };
    if (!g->shape.deterministic) // blocks of keys add to dq in any order, in f32
        p.c = operand(g, Q3_CUDNN_DQ_SUM, Q3_CUDNN_DATA_FLOAT, c->q_size, row_major(c->q_size), NULL);
    product(g, p);
    if (p.c != dq)
        apply_to(g, Q3_CUDNN_POINTWISE_IDENTITY, p.c, NULL, dq);
}

static void build_backward(q3_cudnn_graph *g)
{
    const int bf16 = Q3_CUDNN_DATA_BFLOAT16;
    const common c = common_of(g);
    q3_cudnn_ref vt =
        operand(g, Q3_CUDNN_V, bf16, transposed(c.kv_size), transposed(c.kv_stride), c.offsets_kv);
    q3_cudnn_ref o = operand(g, Q3_CUDNN_O, bf16, c.q_size, c.q_stride, c.offsets_q);
    q3_cudnn_ref dout = operand(g, Q3_CUDNN_DO, bf16, c.q_size, c.q_stride, c.offsets_q);
    q3_cudnn_ref dq = operand(g, Q3_CUDNN_DQ, bf16, c.q_size, c.q_stride, c.offsets_q);
    q3_cudnn_ref dk = operand(g, Q3_CUDNN_DK, bf16, c.kv_size, c.kv_stride, c.offsets_kv);
    q3_cudnn_ref dv = operand(g, Q3_CUDNN_DV, bf16, c.kv_size, c.kv_stride, c.offsets_kv);
    q3_cudnn_ref dots = row_dots(g, &c, dout, o, number(g, Q3_CUDNN_ONE));

    q3_cudnn_ref p = apply(g, Q3_CUDNN_POINTWISE_SUB, scores(g, &c), stats_of(g, &c), c.score_size);
    p = apply(g, Q3_CUDNN_POINTWISE_EXP, causal(g, &c, p), NULL, c.score_size);
    transposed_product(g, &c, p, dout, dv);

    q3_cudnn_ref ds = result(g, Q3_CUDNN_DATA_FLOAT, c.score_size);
    product(g, (product_args){ .a = dout, .b = vt, .c = ds, .rows = c.lengths_q, .columns = c.lengths_kv });
    ds = apply(g, Q3_CUDNN_POINTWISE_SUB, ds, dots, c.score_size);
    ds = apply(g, Q3_CUDNN_POINTWISE_MUL, ds, p, c.score_size);
    ds = apply(g, Q3_CUDNN_POINTWISE_MUL, ds, c.scale, c.score_size);
    transposed_product(g, &c, ds, c.q, dk);
    build_dq(g, &c, ds, dq);
}

/* ---- engines and plans ---- */

static void build_graph(q3_cudnn_graph *g)
{
    (g->shape.backward ? build_backward : build_forward)(g);
    g->graph = create(g, Q3_CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, g->graph, Q3_CUDNN_ATTR_OPERATIONGRAPH_OPS, Q3_CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->ops);
    if (g->handle)
        set(g, g->graph, Q3_CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Q3_CUDNN_TYPE_HANDLE, 1, &g->handle);
    finalize(g, g->graph, "refuses the graph");
}

static void describe_device(q3_cudnn_graph *g, const char *json)
{
    g->device = create(g, Q3_CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    set(g, g->device, Q3_CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Q3_CUDNN_TYPE_CHAR, (int64_t)strlen(json),
        json);
    finalize(g, g->device, "refuses the description of the device");
}

static void ask_engines(q3_cudnn_graph *g)
{
    const int mode = Q3_CUDNN_HEUR_MODE_A;
    q3_cudnn_ref h = create(g, Q3_CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_ref(g, h, Q3_CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, g->graph);
    set(g, h, Q3_CUDNN_ATTR_ENGINEHEUR_MODE, Q3_CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_ref(g, h, Q3_CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->device);
    finalize(g, h, "has no engine for this shape");
    for (int i = 0; i < CONFIGS; i++)
        g->configs[i] = create(g, Q3_CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t n = 0;
    if (!g->failed)
        check(g,
              g->api->get(h, Q3_CUDNN_ATTR_ENGINEHEUR_RESULTS, Q3_CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS, &n,
                          g->configs),
              "names no engines");
    g->n_configs = (int)n;
    if (!g->failed && n < 1) {
        snprintf(g->why, sizeof g->why, "cuDNN has no engine for this shape");
        g->failed = true;
    }
}

q3_cudnn_graph *q3_cudnn_graph_create(const q3_cudnn_api *api, const q3_cudnn_shape *shape, void *handle,
                                      const char *device_json, char *why)
{
    q3_cudnn_graph *g = calloc(1, sizeof *g);
    if (!g) {
        snprintf(why, Q3_CUDNN_SENTENCE, "out of memory for a cuDNN graph");
        return NULL;
    }
    *g = (q3_cudnn_graph){ .api = api, .shape = *shape, .handle = handle, .next_id = FIRST_ID };
    if (!handle && device_json)
        describe_device(g, device_json);
    build_graph(g);
    ask_engines(g);
    if (!g->failed)
        return g;
    snprintf(why, Q3_CUDNN_SENTENCE, "%s", g->why);
    q3_cudnn_graph_destroy(g);
    return NULL;
}

void q3_cudnn_graph_destroy(q3_cudnn_graph *g)
{
    if (!g)
        return;
    while (g->n_owned)
        g->api->descriptor_drop(g->owned[--g->n_owned]);
    free(g);
}

int q3_cudnn_graph_configs(const q3_cudnn_graph *g)
{
    return g->n_configs;
}

q3_cudnn_config q3_cudnn_graph_config(const q3_cudnn_graph *g, int i)
{
    int64_t n = 0, bytes = 0;
    q3_cudnn_config config = { .engine = -1 };
    q3_cudnn_ref engine = NULL;
    if (g->api->descriptor_new(Q3_CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) == Q3_CUDNN_STATUS_SUCCESS) {
        g->api->get(g->configs[i], Q3_CUDNN_ATTR_ENGINECFG_ENGINE, Q3_CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                    &engine);
        g->api->get(engine, Q3_CUDNN_ATTR_ENGINE_GLOBAL_INDEX, Q3_CUDNN_TYPE_INT64, 1, &n, &config.engine);
        g->api->descriptor_drop(engine);
    }
    g->api->get(g->configs[i], Q3_CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, Q3_CUDNN_TYPE_INT64, 1, &n, &bytes);
    config.workspace_bytes = (size_t)bytes;
    return config;
}

static q3_cudnn_ref compile(q3_cudnn_graph *g, q3_cudnn_ref config)
{
    q3_cudnn_ref plan = create(g, Q3_CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (g->handle)
        set(g, plan, Q3_CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Q3_CUDNN_TYPE_HANDLE, 1, &g->handle);
    set_ref(g, plan, Q3_CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    set_ref(g, plan, Q3_CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, g->device);
    finalize(g, plan, "compiles no plan");
    int64_t n = 0, bytes = 0;
    if (!g->failed)
        check(g,
              g->api->get(plan, Q3_CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Q3_CUDNN_TYPE_INT64, 1, &n,
                          &bytes),
              "does not tell a plan's workspace");
    g->workspace_bytes = (size_t)bytes;
    return g->failed ? NULL : plan;
}

bool q3_cudnn_graph_plan(q3_cudnn_graph *g, char *why)
{
    for (int i = 0; i < g->n_configs && !g->plan; i++) {
        g->failed = false; // another engine may do
        g->plan = compile(g, g->configs[i]);
    }
    if (!g->plan)
        snprintf(why, Q3_CUDNN_SENTENCE, "%s", g->why);
    return g->plan;
}

size_t q3_cudnn_graph_workspace(const q3_cudnn_graph *g)
{
    return g->workspace_bytes;
}

bool q3_cudnn_graph_run(q3_cudnn_graph *g, void *handle, void *const *pointers, float scale, void *workspace,
                        char *why)
{
    float numbers[] = { scale, -INFINITY, 1 };
    void *values[Q3_CUDNN_TENSORS];
    int64_t ids[Q3_CUDNN_TENSORS], n = 0;
    for (int i = 0; i < Q3_CUDNN_TENSORS; i++) {
        if (!g->has[i])
            continue;
        ids[n] = i + 1;
        values[n++] = i < Q3_CUDNN_SCALE ? pointers[i] : &numbers[i - Q3_CUDNN_SCALE];
    }
    int before = g->n_owned;
    q3_cudnn_ref pack = create(g, Q3_CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(g, pack, Q3_CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Q3_CUDNN_TYPE_INT64, n, ids);
    set(g, pack, Q3_CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Q3_CUDNN_TYPE_VOID_PTR, n, values);
    set(g, pack, Q3_CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Q3_CUDNN_TYPE_VOID_PTR, 1, &workspace);
    finalize(g, pack, "refuses the pointers");
    if (!g->failed)
        check(g, g->api->execute(handle, g->plan, pack), "does not run the plan");
    if (g->n_owned > before)
        g->api->descriptor_drop(g->owned[--g->n_owned]);
    if (g->failed)
        snprintf(why, Q3_CUDNN_SENTENCE, "%s", g->why);
    return !g->failed;
}
