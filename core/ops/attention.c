#include "kernels/attention.h"
#include "core/ops.h"

q3_tensor *q3_attention(q3_ctx *ctx, q3_tensor *q, q3_tensor *k, q3_tensor *v, q3_attention_attr attr)
{
    int64_t D = attr.heads > 0 ? q3_dim(q, -1) / attr.heads : 0;
    Q3_CHECK(attr.kv_heads > 0 && attr.heads % attr.kv_heads == 0 && D > 0 && D <= Q3_ATTENTION_MAX_D,
             "q %s, %d heads, %d key heads, head size at most %d", q3_shape(q), attr.heads, attr.kv_heads,
             Q3_ATTENTION_MAX_D);
    Q3_CHECK(q3_dim(q, -1) == attr.heads * D && q3_dim(k, -1) == attr.kv_heads * D &&
                 q3_numel(k) == q3_numel(v) && q3_dim(v, -1) == q3_dim(k, -1),
             "q %s, k %s, v %s, %d heads, %d key heads", q3_shape(q), q3_shape(k), q3_shape(v), attr.heads,
             attr.kv_heads);
    q3_node *n = q3_node_new(ctx, Q3_OP_ATTENTION, q, k, v, NULL, NULL);
    n->attr.heads = attr.heads;
    n->attr.kv_heads = attr.kv_heads;
    n->attr.scale = attr.scale;
    n->attr.causal = attr.causal;
    n->attr.segments = attr.segments;
    n->attr.n = attr.n_segments;
    n->attr.device_index = attr.device_segments;
    if (!attr.device_segments)
        n->attr.device_index =
            q3_on_device(ctx, attr.segments, (size_t)attr.n_segments * sizeof *attr.segments);
    n->out = q3_like(ctx, q);
    if (ctx->recording)
        n->saved[0] =
            q3_new_f32(ctx, 2, (const int64_t[]){ q3_rows(q), attr.heads }); // log of the sum of exponentials
    return q3_record(ctx, n);
}

/* Query rows are covered in order; key rows exist, and where their gradient is summed belong to one segment
 * each. */
static void check_segments(const q3_node *n, bool disjoint)
{
    int64_t queries = 0, keys = 0;
    for (int64_t i = 0; i < n->attr.n; i++) {
        const q3_segment s = n->attr.segments[i];
        Q3_CHECK(s.q_len >= 0 && s.kv_len >= 0 && s.kv_len <= INT32_MAX && s.kv_begin >= 0 &&
                     s.q_begin == queries && s.kv_begin + s.kv_len <= q3_rows(n->in[1]) &&
                     (!disjoint || !s.kv_len || s.kv_begin >= keys),
                 "segment %lld: queries %lld + %lld, keys %lld + %lld; k %s", (long long)i,
                 (long long)s.q_begin, (long long)s.q_len, (long long)s.kv_begin, (long long)s.kv_len,
                 q3_shape(n->in[1]));
        queries += s.q_len;
        if (s.kv_len)
            keys = s.kv_begin + s.kv_len;
    }
    Q3_CHECK(queries == q3_rows(n->in[0]), "segments cover %lld rows of q %s", (long long)queries,
             q3_shape(n->in[0]));
}

static q3_attention_args args_of(const q3_node *n)
{
    return (q3_attention_args){
        .o = q3_data(n->out),
        .lse = q3_f32(n->saved[0]),
        .q = q3_data(n->in[0]),
        .k = q3_data(n->in[1]),
        .v = q3_data(n->in[2]),
        .segments = (const int64_t *)n->attr.segments,
        .device_segments = n->attr.device_index,
        .n_segments = n->attr.n,
        .heads = n->attr.heads,
        .kv_heads = n->attr.kv_heads,
        .head_size = (int)(q3_dim(n->in[0], -1) / n->attr.heads),
        .scale = n->attr.scale,
        .causal = n->attr.causal,
        .dtype = n->out->dtype,
    };
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_attention_args a = args_of(n);
    if (!ctx->dry)
        check_segments(n, false);
    Q3_CALL(ctx, q3_attention_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_attention_backward_args a = { .f = args_of(n), .dout = n->out->grad };
    a.queries = q3_rows(n->in[0]);
    a.keys = q3_rows(n->in[1]);
    a.dq = q3_grad(ctx, n->in[0], &a.dq_beta);
    a.dk = q3_grad(ctx, n->in[1], &a.dk_beta);
    a.dv = q3_grad(ctx, n->in[2], &a.dv_beta);
    size_t mark = q3_arena_mark(ctx->data);
    a.delta = q3_scratch(ctx, (size_t)a.queries * (size_t)a.f.heads * sizeof(float));
    if (!ctx->dry)
        check_segments(n, true);
    Q3_CALL(ctx, q3_attention_backward, &a);
    q3_arena_rewind(ctx->data, mark);
}

static q3_cost cost(const q3_node *n)
{
    double pairs = 0;
    for (int64_t i = 0; i < n->attr.n; i++) {
        const q3_segment s = n->attr.segments[i];
        double seen = n->attr.causal ? (double)s.kv_len - 0.5 * (double)(s.q_len - 1) : (double)s.kv_len;
        pairs += (double)s.q_len * seen;
    }
    double D = (double)q3_dim(n->in[0], -1) / n->attr.heads;
    double flops = 4 * D * n->attr.heads * pairs;
    double bytes = 2 * (double)q3_nbytes(n->in[0]) + 2 * (double)q3_nbytes(n->in[1]);
    // backward forms five products where forward has two, and moves dq, dk, dv, o and do beside q, k, v
    return (q3_cost){ .flops = flops, .bytes = bytes, .back_flops = 2.5 * flops, .back_bytes = 2 * bytes };
}

const q3_op q3_op_attention = { "attention", forward, backward, cost };
