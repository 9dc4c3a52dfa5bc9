#include "core/tape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "kernels/add.h"

enum { META_BYTES = 1 << 30 }; // reserved, not used: a step of the largest model has some ten thousand nodes

struct q3_free_grad {
    float *buffer;
    int64_t n;
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

static void *meta_alloc(q3_ctx *ctx, size_t bytes)
{
    void *p = q3_arena_zalloc(&ctx->meta, bytes);
    Q3_CHECK(p, "%s", q3_error());
    return p;
}

/* Values of the step; on overflow the rest of the step is only counted. */
static void *value_alloc(q3_ctx *ctx, size_t bytes)
{
    void *p = q3_arena_alloc(ctx->data, bytes);
    if (!p) {
        ctx->failed = Q3_ERR_MEMORY;
        snprintf(ctx->sentence, sizeof ctx->sentence, "%s", q3_error());
        ctx->dry = ctx->data->dry = true;
        p = q3_arena_alloc(ctx->data, bytes);
    }
    return p;
}

q3_tensor *q3_new(q3_ctx *ctx, int ndim, const int64_t *shape)
{
    q3_tensor *t = meta_alloc(ctx, sizeof *t);
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    t->root = t;
    t->data = value_alloc(ctx, (size_t)q3_numel(t) * sizeof(float));
    if (ctx->poison && !ctx->dry)
        memset(t->data, 0xff, (size_t)q3_numel(t) * sizeof(float));
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
    q3_tensor *v = meta_alloc(ctx, sizeof *v);
    *v = *x;
    v->ndim = 2;
    v->shape[0] = rows;
    v->shape[1] = columns;
    v->root = x->root;
    return v;
}

void *q3_scratch(q3_ctx *ctx, size_t bytes)
{
    return value_alloc(ctx, bytes);
}

q3_node *q3_node_new(q3_ctx *ctx, enum q3_op_id id, q3_tensor *a, q3_tensor *b, q3_tensor *c, q3_tensor *d,
                     q3_tensor *e)
{
    q3_node *n = meta_alloc(ctx, sizeof *n);
    n->op = q3_ops[id];
    q3_tensor *const in[Q3_MAX_INPUTS] = { a, b, c, d, e };
    memcpy(n->in, in, sizeof in);
    return n;
}

static bool wants_grad(const q3_tensor *t)
{
    return t && t->root->needs_grad;
}

static void timed(q3_ctx *ctx, q3_node *n, bool back)
{
    double start = ctx->profile ? q3_seconds() : 0;
    (back ? n->op->backward : n->op->forward)(ctx, n);
    if (!ctx->profile)
        return;
    for (int i = 0; i < Q3_OP_COUNT; i++)
        if (q3_ops[i] == n->op)
            ctx->profile[2 * i + back] += q3_seconds() - start;
}

q3_tensor *q3_record(q3_ctx *ctx, q3_node *n)
{
    for (int i = 0; i < Q3_MAX_INPUTS; i++)
        if (ctx->recording && wants_grad(n->in[i]))
            n->out->needs_grad = true;
    timed(ctx, n, false);
    if (n->out->needs_grad) {
        n->prev = ctx->last;
        ctx->last = n;
    }
    return n->out;
}

static float *acquire(q3_ctx *ctx, int64_t n)
{
    for (q3_free_grad **at = &ctx->free; *at; at = &(*at)->next)
        if ((*at)->n == n) {
            float *buffer = (*at)->buffer;
            *at = (*at)->next;
            return buffer;
        }
    return value_alloc(ctx, (size_t)n * sizeof(float));
}

static void release(q3_ctx *ctx, q3_tensor *t)
{
    if (t->grad && !t->grad_kept) {
        q3_free_grad *f = meta_alloc(ctx, sizeof *f);
        *f = (q3_free_grad){ t->grad, q3_numel(t), ctx->free };
        ctx->free = f;
        t->grad = NULL;
    }
    t->grad_set = t->grad_set && t->grad_kept;
}

float *q3_grad(q3_ctx *ctx, q3_tensor *t, float *beta)
{
    if (!wants_grad(t))
        return NULL;
    t = t->root;
    if (!t->grad) {
        t->grad = acquire(ctx, q3_numel(t));
        t->grad_set = false;
        if (ctx->poison && !ctx->dry)
            memset(t->grad, 0xff, (size_t)q3_numel(t) * sizeof(float));
    }
    *beta = t->grad_set ? 1.0f : 0.0f;
    t->grad_set = true;
    return t->grad;
}

void q3_grad_add(q3_ctx *ctx, q3_tensor *t, q3_tensor *out)
{
    float beta, *dx = q3_grad(ctx, t, &beta);
    if (dx)
        Q3_CALL(ctx, q3_add_forward, (&(q3_add_args){ dx, beta != 0 ? dx : NULL, out->grad, q3_numel(out) }));
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
            timed(ctx, n, true);
        release(ctx, n->out);
    }
}

void q3_backward(q3_ctx *ctx, q3_tensor *loss, float seed)
{
    float beta, *g = q3_grad(ctx, loss, &beta);
    if (!g)
        return; // nothing below is trained
    if (!ctx->dry)
        *g = seed;
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
    Q3_CALL(ctx, q3_add_forward, (&(q3_add_args){ q3_f32(n->out), NULL, q3_f32(y), q3_numel(y) }));
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
        memset(x.grad, 0, (size_t)q3_numel(&x) * sizeof(float));
    ctx->last = outer;
    ctx->free = outer_free;
    q3_arena_rewind(ctx->data, data);
    q3_arena_rewind(&ctx->meta, meta);
}

static const q3_op checkpoint_op = { "checkpoint", checkpoint_forward, checkpoint_backward, NULL };

q3_tensor *q3_checkpoint(q3_ctx *ctx, q3_block *block, const void *arg, q3_tensor *x)
{
    checkpoint_block *c = meta_alloc(ctx, sizeof *c);
    *c = (checkpoint_block){ block, arg };
    q3_node *n = meta_alloc(ctx, sizeof *n);
    n->op = &checkpoint_op;
    n->in[0] = x;
    n->out = q3_like(ctx, x);
    n->attr.weights = (const void *)c;
    return q3_record(ctx, n);
}
