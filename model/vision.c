/* The vision tower: patches -> blocks -> merger, with deepstack mergers on the way. */
#include <math.h>
#include <stdio.h>

#include "model/forward.h"
#include "model/rotary.h"

typedef struct tower {
    const q3_model *m;
    const q3_forward *f;
    const q3_vision_block *block;
    const float *cos_sin;
    q3_attention_attr attention;
} tower;

static void tap(const q3_forward *f, const char *kind, int index, q3_tensor *t)
{
    char name[64];
    if (!f->tap)
        return;
    snprintf(name, sizeof name, index < 0 ? "vision.%s" : "vision.%s.%d", kind, index);
    f->tap(f->tap_arg, name, t);
}

/* One segment per frame of each picture: attention never crosses frames or pictures. */
static void frame_segments(tower *t, q3_ctx *ctx, const q3_batch *b)
{
    int64_t n = 0;
    for (int i = 0; i < b->n_images; i++)
        n += b->grids[3 * i];
    q3_segment *s = q3_list(ctx, sizeof *s * (size_t)(n + 1));
    t->attention.segments = s;
    t->attention.n_segments = n;
    int64_t at = 0;
    for (int i = 0; i < b->n_images; i++) {
        int64_t patches = (int64_t)b->grids[3 * i + 1] * b->grids[3 * i + 2];
        for (int frame = 0; frame < b->grids[3 * i]; frame++, at += patches)
            *s++ = (q3_segment){ at, patches, at, patches };
    }
    t->attention.device_segments = q3_on_device(ctx, t->attention.segments, (size_t)n * sizeof *s);
}

static void rotary_table(tower *t, q3_ctx *ctx, const q3_batch *b)
{
    const q3_vision_config *c = &t->m->config.vision;
    int head_dim = c->hidden_size / c->heads;
    size_t bytes = (size_t)b->n_patches * (size_t)head_dim * sizeof(float);
    float *table = q3_host_scratch(ctx, bytes), *at = table;
    for (int i = 0; i < b->n_images && !ctx->dry; i++) {
        const int32_t *g = b->grids + 3 * i;
        q3_rotary_vision(at, g[0], g[1], g[2], c->merge_size, head_dim);
        at += (int64_t)g[0] * g[1] * g[2] * head_dim;
    }
    t->cos_sin = q3_on_device(ctx, table, bytes);
}

/* Source coordinates along an axis of n patches in the table of `side` positions (aligned corners). */
static void tap_of(int i, int n, int side, int *low, int *high, float *weight)
{
    float at = (float)(i * (side - 1)) / (float)(n > 1 ? n - 1 : 1);
    *low = (int)at;
    *high = *low + 1 < side ? *low + 1 : side - 1;
    *weight = at - (float)*low;
}

static void picture_taps(int32_t *taps, float *weights, const int32_t *grid, int merge, int side)
{
    for (int frame = 0; frame < grid[0]; frame++)
        for (int br = 0; br < grid[1]; br += merge)
            for (int bc = 0; bc < grid[2]; bc += merge)
                for (int r = br; r < br + merge; r++)
                    for (int c = bc; c < bc + merge; c++, taps += 4, weights += 4) {
                        int r0, r1, c0, c1;
                        float dr, dc;
                        tap_of(r, grid[1], side, &r0, &r1, &dr);
                        tap_of(c, grid[2], side, &c0, &c1, &dc);
                        taps[0] = r0 * side + c0, weights[0] = (1 - dr) * (1 - dc);
                        taps[1] = r0 * side + c1, weights[1] = (1 - dr) * dc;
                        taps[2] = r1 * side + c0, weights[2] = dr * (1 - dc);
                        taps[3] = r1 * side + c1, weights[3] = dr * dc;
                    }
}

static q3_tensor *position_embedding(q3_ctx *ctx, const tower *t, const q3_batch *b)
{
    const q3_vision_config *c = &t->m->config.vision;
    int side = c->positions_side;
    int32_t *taps = q3_host_scratch(ctx, (size_t)b->n_patches * 4 * sizeof *taps);
    float *weights = q3_host_scratch(ctx, (size_t)b->n_patches * 4 * sizeof *weights);
    int64_t at = 0;
    for (int i = 0; i < b->n_images && !ctx->dry; i++) {
        const int32_t *g = b->grids + 3 * i;
        picture_taps(taps + 4 * at, weights + 4 * at, g, c->merge_size, side);
        at += (int64_t)g[0] * g[1] * g[2];
    }
    return q3_interpolate(ctx, t->m->pos_embed, taps, weights, b->n_patches);
}

/* h + proj(attention of x) */
static q3_tensor *attention(q3_ctx *ctx, const tower *t, q3_tensor *h, q3_tensor *x)
{
    int64_t width = q3_dim(x, 1);
    q3_tensor *qkv = q3_project(ctx, t->f, &t->block->qkv, x);
    q3_tensor *q = q3_rope(ctx, q3_get_columns(ctx, qkv, 0, width), t->cos_sin, t->attention.heads);
    q3_tensor *k = q3_rope(ctx, q3_get_columns(ctx, qkv, width, width), t->cos_sin, t->attention.heads);
    q3_tensor *v = q3_get_columns(ctx, qkv, 2 * width, width);
    return q3_project_add(ctx, t->f, h, &t->block->proj, q3_attention(ctx, q, k, v, t->attention));
}

static q3_tensor *block(q3_ctx *ctx, const void *arg, q3_tensor *h)
{
    const tower *t = arg;
    const float eps = 1e-6f; // fixed in the reference
    q3_tensor *a = q3_layernorm(ctx, h, t->block->norm1.w, t->block->norm1.b, eps);
    h = attention(ctx, t, h, a);
    a = q3_layernorm(ctx, h, t->block->norm2.w, t->block->norm2.b, eps);
    a = q3_gelu(ctx, q3_project(ctx, t->f, &t->block->fc1, a), true);
    return q3_project_add(ctx, t->f, h, &t->block->fc2, a);
}

/* merge^2 rows of h become one token. The final merger norms before the reshape, the deepstack mergers behind
 * it. */
static q3_tensor *merge(q3_ctx *ctx, const tower *t, const q3_merger *merger, q3_tensor *h, bool norm_first)
{
    int64_t merge2 = (int64_t)t->m->config.vision.merge_size * t->m->config.vision.merge_size;
    int64_t rows = q3_dim(h, 0) / merge2, width = q3_dim(h, 1) * merge2;
    const float eps = 1e-6f;
    if (norm_first)
        h = q3_view2(ctx, q3_layernorm(ctx, h, merger->norm.w, merger->norm.b, eps), rows, width);
    else
        h = q3_layernorm(ctx, q3_view2(ctx, h, rows, width), merger->norm.w, merger->norm.b, eps);
    h = q3_gelu(ctx, q3_project(ctx, t->f, &merger->fc1, h), false);
    return q3_project(ctx, t->f, &merger->fc2, h);
}

q3_vision_features q3_vision_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b)
{
    const q3_vision_config *c = &m->config.vision;
    int64_t head_dim = c->hidden_size / c->heads;
    q3_vision_features out = { 0 };
    tower t = { .m = m, .f = f };
    t.attention = (q3_attention_attr){ .heads = c->heads, .kv_heads = c->heads };
    t.attention.scale = (float)(1.0 / sqrt((double)head_dim));
    frame_segments(&t, ctx, b);
    rotary_table(&t, ctx, b);

    q3_tensor *h = q3_input(ctx, b->patches, b->n_patches, q3_dim(m->patch_embed.w, 1));
    h = q3_linear(ctx, h, m->patch_embed.w, m->patch_embed.b); // never has an adapter
    tap(f, "patch_embed", -1, h);
    h = q3_add(ctx, h, position_embedding(ctx, &t, b));

    tower *layers = q3_list(ctx, sizeof t * (size_t)c->depth); // backward may run a block again
    for (int i = 0; i < c->depth; i++) {
        layers[i] = t;
        layers[i].block = &m->blocks[i];
        h = q3_forget_layer(ctx, f, i) ? q3_checkpoint(ctx, block, &layers[i], h) : block(ctx, &layers[i], h);
        tap(f, "blocks", i, h);
        for (int j = 0; j < c->n_deepstack; j++)
            if (c->deepstack[j] == i) {
                out.deepstack[j] = merge(ctx, &t, &m->deepstack[j], h, false);
                tap(f, "deepstack", j, out.deepstack[j]);
            }
    }
    out.merged = merge(ctx, &t, &m->merger, h, true);
    tap(f, "merger", -1, out.merged);
    return out;
}
