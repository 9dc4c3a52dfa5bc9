#include "core/tape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "kernels/add.h"
#include "kernels/pool.h"

#define META_BYTES ((size_t)1 << 40) // reserved addresses, not memory

struct q3_free_grad {
    void *buffer;
    size_t bytes;
    q3_free_grad *next;
};

q3_status q3_ctx_create(q3_ctx *out, q3_arena *data)
{
    *out = (q3_ctx){ .data = data };
    return q3_arena_create(&out->meta, "tape", META_BYTES);
}

void q3_ctx_destroy(q3_ctx *ctx)
{
    q3_arena_destroy(&ctx->meta);
    *ctx = (q3_ctx){ 0 };
}

void q3_step_begin(q3_ctx *ctx, bool recording)
{
    if (ctx->failed != Q3_OK) { // the overflow had switched to counting
        ctx->dry = false;
        ctx->data->dry = false;
    }
    ctx->failed = Q3_OK;
    q3_arena_reset(&ctx->meta);
    q3_arena_reset(ctx->data);
    ctx->last = NULL;
    ctx->free = NULL;
    ctx->recording = recording;
}

q3_status q3_ctx_status(q3_ctx *ctx)
{
    return ctx->failed ? q3_fail(ctx->failed, "%s", ctx->sentence) : Q3_OK;
}

void *q3_list(q3_ctx *ctx, size_t bytes)
{
    void *p = q3_arena_zalloc(&ctx->meta, bytes);
    Q3_CHECK(p, "%s", q3_error());
    return p;
}

/* Keeps the first failure; what follows is only counted. */
static void fail_dry(q3_ctx *ctx, q3_status st)
{
    ctx->failed = st;
    snprintf(ctx->sentence, sizeof ctx->sentence, "%s", q3_error());
    ctx->dry = ctx->data->dry = true;
}

/* Values of the step; on overflow the rest of the step is only counted. */
static void *value_alloc(q3_ctx *ctx, size_t bytes)
{
    void *p = q3_arena_alloc(ctx->data, bytes);
    if (!p) {
        fail_dry(ctx, Q3_ERR_MEMORY);
        p = q3_arena_alloc(ctx->data, bytes);
    }
    return p;
}

/* Fresh memory, in tests full of NaN. */
static void *fresh(q3_ctx *ctx, size_t bytes)
{
    void *p = value_alloc(ctx, bytes);
    if (ctx->poison && !ctx->dry)
        q3_device_fill(ctx->data->cuda, p, 0xff, bytes);
    return p;
}

static q3_tensor *new_tensor(q3_ctx *ctx, q3_dtype dtype, int ndim, const int64_t *shape)
{
    q3_tensor *t = q3_list(ctx, sizeof *t);
    t->dtype = dtype;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    t->root = t;
    return t;
}

q3_tensor *q3_new_f32(q3_ctx *ctx, int ndim, const int64_t *shape)
{
    q3_tensor *t = new_tensor(ctx, Q3_F32, ndim, shape);
    t->data = fresh(ctx, q3_nbytes(t));
    return t;
}

q3_tensor *q3_new(q3_ctx *ctx, int ndim, const int64_t *shape)
{
    q3_tensor *t = new_tensor(ctx, ctx->dtype, ndim, shape);
    t->data = fresh(ctx, q3_nbytes(t));
    return t;
}

q3_tensor *q3_new2(q3_ctx *ctx, int64_t rows, int64_t columns)
{
    return q3_new(ctx, 2, (const int64_t[]){ rows, columns });
}

q3_tensor *q3_like(q3_ctx *ctx, const q3_tensor *x)
{
    return q3_new(ctx, x->ndim, x->shape);
}

q3_tensor *q3_view2(q3_ctx *ctx, q3_tensor *x, int64_t rows, int64_t columns)
{
    Q3_CHECK(rows * columns == q3_numel(x), "%lld x %lld of %s", (long long)rows, (long long)columns,
             q3_shape(x));
    q3_tensor *v = q3_list(ctx, sizeof *v);
    *v = *x;
    v->ndim = 2;
    v->shape[0] = rows;
    v->shape[1] = columns;
    v->root = x->root;
    return v;
}

q3_tensor *q3_rows_of(q3_ctx *ctx, const q3_tensor *x, int64_t begin, int64_t n)
{
    const int64_t shape[2] = { n, q3_dim(x, -1) };
    char *data = (char *)x->data + q3_dtype_bytes(x->dtype, begin * shape[1]);
    q3_tensor *out = q3_tensor_wrap(&ctx->meta, data, x->dtype, 2, shape);
    Q3_CHECK(out, "%s", q3_error());
    return out;
}

void *q3_scratch(q3_ctx *ctx, size_t bytes)
{
    return value_alloc(ctx, bytes);
}

void *q3_host_scratch(q3_ctx *ctx, size_t bytes)
{
    return ctx->data->cuda ? q3_list(ctx, bytes) : value_alloc(ctx, bytes);
}

/* A recorded upload reads the same host memory at each replay. */
static void upload_again(q3_ctx *ctx, void *to, const void *host, size_t bytes)
{
    q3_uploads *u = ctx->uploads;
    size_t room = (bytes + 63) / 64 * 64;
    Q3_CHECK(room <= u->bytes - u->used, "uploads of a pass: %zu bytes more than %zu", bytes,
             u->bytes - u->used);
    memcpy(u->buffer + u->used, host, bytes);
    if (!ctx->replaying)
        q3_device_write_pinned(ctx->data->cuda, to, u->buffer + u->used, bytes);
    u->used += room;
}

const void *q3_on_device(q3_ctx *ctx, const void *host, size_t bytes)
{
    if (!ctx->data->cuda)
        return host;
    void *p = value_alloc(ctx, bytes);
    if (!ctx->dry && ctx->uploads)
        upload_again(ctx, p, host, bytes);
    else if (!ctx->dry)
        q3_device_write(ctx->data->cuda, p, host, bytes);
    return p;
}

typedef struct rounding {
    uint16_t *to;
    const float *from;
} rounding;

static void round_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const rounding *r = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        r->to[i] = q3_f32_to_bf16(r->from[i]);
}

/* Half the bytes go to the device when it is the host that rounds. */
static void *rounded(q3_ctx *ctx, const float *values, int64_t n)
{
    rounding r = { q3_host_scratch(ctx, (size_t)n * sizeof *r.to), values };
    if (!ctx->dry)
        q3_parallel(n, 1 << 14, round_run, &r);
    return r.to;
}

q3_tensor *q3_input(q3_ctx *ctx, const float *values, int64_t rows, int64_t columns)
{
    q3_tensor *t = new_tensor(ctx, ctx->dtype, 2, (const int64_t[]){ rows, columns });
    const void *from = ctx->dtype == Q3_BF16 ? rounded(ctx, values, rows * columns) : values;
    t->data = (void *)(uintptr_t)q3_on_device(ctx, from, q3_nbytes(t));
    return t;
}

void q3_read(float *out, q3_ctx *ctx, const q3_tensor *t)
{
    if (t->dtype == Q3_F32) {
        q3_device_read(ctx->data->cuda, out, t->data, q3_nbytes(t));
        return;
    }
    size_t mark = q3_arena_mark(&ctx->meta);
    void *half = q3_host_scratch(ctx, q3_nbytes(t));
    q3_device_read(ctx->data->cuda, half, t->data, q3_nbytes(t));
    q3_widen(out, half, t->dtype, q3_numel(t));
    q3_arena_rewind(&ctx->meta, mark);
}

float q3_value(q3_ctx *ctx, const q3_tensor *t)
{
    float x = NAN;
    Q3_CHECK(q3_numel(t) == 1 && t->dtype == Q3_F32, "%s", q3_shape(t));
    if (!ctx->dry)
        q3_read(&x, ctx, t);
    return x;
}

float *q3_on_host(q3_ctx *ctx, const q3_tensor *t)
{
    if (!ctx->data->cuda && t->dtype == Q3_F32)
        return q3_f32(t);
    float *out = q3_host_scratch(ctx, (size_t)q3_numel(t) * sizeof *out);
    if (!ctx->dry)
        q3_read(out, ctx, t);
    return out;
}

q3_node *q3_node_new(q3_ctx *ctx, enum q3_op_id id, q3_tensor *a, q3_tensor *b, q3_tensor *c, q3_tensor *d,
                     q3_tensor *e)
{
    q3_node *n = q3_list(ctx, sizeof *n);
    n->op = q3_ops[id];
    q3_tensor *const in[Q3_MAX_INPUTS] = { a, b, c, d, e, NULL };
    memcpy(n->in, in, sizeof in);
    return n;
}

static bool wants_grad(const q3_tensor *t)
{
    return t && t->root->needs_grad;
}

/* A launch that failed is told with its op, the parameter it works with or the last one before it, and its shape. */
static void check_device(q3_ctx *ctx, const q3_node *n, bool back)
{
    for (int i = 0; i < Q3_MAX_INPUTS; i++)
        if (n->in[i] && n->in[i]->name)
            ctx->place = n->in[i]->name;
    if (ctx->dry || !ctx->data->cuda)
        return;
    q3_status st = q3_device_status(ctx->data->cuda);
    if (st != Q3_OK)
        fail_dry(ctx, q3_wrap(st, "%s%s at %s, %s", n->op->name, back ? " backward" : "",
                              ctx->place ? ctx->place : "the beginning", q3_shape(n->out)));
}

static int id_of(const q3_op *op)
{
    int id = 0;
    while (q3_ops[id] != op)
        id++;
    return id;
}

static void run_node(q3_ctx *ctx, q3_node *n, bool back)
{
    q3_cuda *cuda = ctx->dry ? NULL : ctx->data->cuda;
    q3_profile *profile =
        ctx->dry || !n->op->cost ? NULL : ctx->profile; // a checkpoint's ops count for themselves
    const q3_moment begin = q3_profile_begin(profile);
    q3_device_range_push(cuda, n->op->name);
    (back ? n->op->backward : n->op->forward)(ctx, n);
    q3_device_range_pop(cuda);
    if (profile)
        q3_profile_end(profile, begin, id_of(n->op), back, q3_op_cost(n, back));
    check_device(ctx, n, back);
}

q3_tensor *q3_record(q3_ctx *ctx, q3_node *n)
{
    for (int i = 0; i < Q3_MAX_INPUTS; i++)
        if (ctx->recording && wants_grad(n->in[i]))
            n->out->needs_grad = true;
    run_node(ctx, n, false);
    if (n->out->needs_grad) {
        n->prev = ctx->last;
        ctx->last = n;
    }
    return n->out;
}

static void *acquire(q3_ctx *ctx, size_t bytes)
{
    for (q3_free_grad **at = &ctx->free; *at; at = &(*at)->next)
        if ((*at)->bytes == bytes) {
            void *buffer = (*at)->buffer;
            *at = (*at)->next;
            return buffer;
        }
    return value_alloc(ctx, bytes);
}

static void release(q3_ctx *ctx, q3_tensor *t)
{
    if (t->grad && !t->grad_kept) {
        q3_free_grad *f = q3_list(ctx, sizeof *f);
        *f = (q3_free_grad){ t->grad, q3_nbytes(t), ctx->free };
        ctx->free = f;
        t->grad = NULL;
    }
    t->grad_set = t->grad_set && t->grad_kept;
}

void *q3_grad(q3_ctx *ctx, q3_tensor *t, float *beta)
{
    if (!wants_grad(t))
        return NULL;
    t = t->root;
    if (!t->grad) {
        t->grad = acquire(ctx, q3_nbytes(t));
        t->grad_set = false;
        if (ctx->poison && !ctx->dry)
            q3_device_fill(ctx->data->cuda, t->grad, 0xff, q3_nbytes(t));
    }
    *beta = t->grad_set ? 1.0f : 0.0f;
    t->grad_set = true;
    return t->grad;
}

void q3_grad_add(q3_ctx *ctx, q3_tensor *t, q3_tensor *out)
{
    float beta;
    void *dx = q3_grad(ctx, t, &beta);
    if (dx)
        Q3_CALL(ctx, q3_add_forward,
                (&(q3_add_args){ dx, beta != 0 ? dx : NULL, out->grad, q3_numel(out), out->dtype }));
}

void q3_grad_pass(q3_ctx *ctx, q3_tensor *t, q3_tensor *out)
{
    if (wants_grad(t) && !t->root->grad && out->grad && !out->grad_kept) {
        t->root->grad = out->grad;
        t->root->grad_set = true;
        out->grad = NULL;
    } else {
        q3_grad_add(ctx, t, out);
    }
}

static void walk(q3_ctx *ctx)
{
    while (ctx->last) {
        q3_node *n = ctx->last;
        ctx->last = n->prev;
        if (n->out->grad_set)
            run_node(ctx, n, true);
        release(ctx, n->out);
    }
}

void q3_backward(q3_ctx *ctx, q3_tensor *loss, float seed)
{
    float beta, *g = q3_grad(ctx, loss, &beta);
    if (!g)
        return; // nothing below is trained
    if (!ctx->dry)
        q3_device_write(ctx->data->cuda, g, &seed, sizeof seed);
    walk(ctx);
}

void q3_backward_from(q3_ctx *ctx, q3_tensor *out)
{
    if (out->root->grad_set)
        walk(ctx);
}

/* Checkpoint node: not in the op list, for it computes nothing of its own. */
typedef struct checkpoint_block {
    q3_block *block;
    const void *arg;
} checkpoint_block;

static void checkpoint_forward(q3_ctx *ctx, q3_node *n)
{
    const checkpoint_block *c = (const void *)n->attr.weights;
    size_t data = q3_arena_mark(ctx->data), meta = q3_arena_mark(&ctx->meta);
    q3_node *outer = ctx->last;
    // recorded only to learn whether anything in it is trained
    q3_tensor *y = c->block(ctx, c->arg, n->in[0]);
    ctx->last = outer;
    n->out->needs_grad = y->needs_grad;
    Q3_CALL(ctx, q3_add_forward,
            (&(q3_add_args){ q3_data(n->out), NULL, q3_data(y), q3_numel(y), y->dtype }));
    q3_arena_rewind(ctx->data, data);
    q3_arena_rewind(&ctx->meta, meta);
}

static void checkpoint_backward(q3_ctx *ctx, q3_node *n)
{
    const checkpoint_block *c = (const void *)n->attr.weights;
    q3_tensor x = *n->in[0]; // a leaf of the inner tape that shares x's gradient
    float beta = 0;
    x.grad = q3_grad(ctx, n->in[0], &beta);
    x.grad_set = beta != 0;
    x.grad_kept = true;
    x.needs_grad = x.grad != NULL;
    x.root = &x;

    q3_node *outer = ctx->last;
    q3_free_grad *outer_free = ctx->free;
    size_t data = q3_arena_mark(ctx->data), meta = q3_arena_mark(&ctx->meta);
    ctx->last = NULL;
    ctx->free = NULL;
    q3_tensor *y = c->block(ctx, c->arg, &x);
    y->grad = n->out->grad;
    y->grad_set = y->grad_kept = true;
    walk(ctx);
    if (x.grad && !x.grad_set && !ctx->dry) // the block did not depend on x
        q3_device_fill(ctx->data->cuda, x.grad, 0, q3_nbytes(&x));
    ctx->last = outer;
    ctx->free = outer_free;
    q3_arena_rewind(ctx->data, data);
    q3_arena_rewind(&ctx->meta, meta);
}

static const q3_op checkpoint_op = { "checkpoint", checkpoint_forward, checkpoint_backward, NULL };

q3_tensor *q3_checkpoint(q3_ctx *ctx, q3_block *block, const void *arg, q3_tensor *x)
{
    checkpoint_block *c = q3_list(ctx, sizeof *c);
    *c = (checkpoint_block){ block, arg };
    q3_node *n = q3_list(ctx, sizeof *n);
    n->op = &checkpoint_op;
    n->in[0] = x;
    n->out = q3_like(ctx, x);
    n->attr.weights = (const void *)c;
    return q3_record(ctx, n);
}
