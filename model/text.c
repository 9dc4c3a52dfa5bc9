/* The text decoder: tokens and visual features -> hidden states. */
#include <math.h>
#include <stdio.h>

#include "kernels/attention_paged.h"
#include "model/offload.h"
#include "model/share.h"
#include "model/rotary.h"
#include "model/split.h"

typedef struct decoder {
    const q3_model *m;
    const q3_forward *f;
    const q3_kv *kv; // the pass's cache; NULL: none
    int64_t gather;  // tokens of the pass, where this rank has a part of them; else 0
    const q3_text_layer *layer;
    int index;
    const float *cos_sin;
    q3_attention_attr attention;
} decoder;

static q3_tensor *project_all(q3_ctx *ctx, const q3_forward *f, q3_tensor *a, const q3_proj *p, q3_tensor *x)
{
    if (!p->lora_a)
        return q3_linear_add(ctx, a, x, p->w, p->b);
    q3_lora_attr attr = { p->lora_scale, f->training ? p->lora_dropout : 0, p->stream, a };
    return q3_lora_linear(ctx, x, p->w, p->b, p->lora_a, p->lora_b, attr);
}

q3_tensor *q3_project_add(q3_ctx *ctx, const q3_forward *f, q3_tensor *a, const q3_proj *p, q3_tensor *x)
{
    q3_tensor *y = project_all(ctx, f, a, p, x);
    for (int i = 0; i < f->n_runs; i++) {
        const q3_adapter_run *r = &f->runs[i];
        const q3_adapter_part *part = r->adapter ? &r->adapter->parts[p->stream] : NULL;
        int64_t rows = q3_rows(x) - r->begin;
        if (part && part->a && rows > 0)
            q3_lora_rows(ctx, y, x, r->begin, rows < r->n ? rows : r->n, part->a, part->b, part->scale);
    }
    return y;
}

q3_tensor *q3_project(q3_ctx *ctx, const q3_forward *f, const q3_proj *p, q3_tensor *x)
{
    return q3_project_add(ctx, f, NULL, p, x);
}

static void store(q3_ctx *ctx, const decoder *d, const q3_kv_slab *slab, const q3_tensor *x)
{
    const q3_kv_store_args a = { .slab = *slab,
                                 .x = q3_data(x),
                                 .rows = d->kv->slots,
                                 .T = q3_dim(x, 0),
                                 .kv_heads = d->attention.kv_heads,
                                 .head_size = d->m->config.text.head_dim,
                                 .dtype = x->dtype };
    Q3_CALL(ctx, q3_kv_store, &a);
}

/* Keys and values go to their slots, and what the rows' blocks hold is attended to. */
static q3_tensor *attend_to_blocks(q3_ctx *ctx, const decoder *d, q3_tensor *q, q3_tensor *k, q3_tensor *v)
{
    const q3_kv *kv = d->kv;
    q3_tensor *o = q3_like(ctx, q);
    if (d->gather) {
        k = q3_split_gather(ctx, &d->m->split, k, d->gather);
        v = q3_split_gather(ctx, &d->m->split, v, d->gather);
    }
    store(ctx, d, &kv->k[d->index], k);
    store(ctx, d, &kv->v[d->index], v);
    const q3_attention_paged_args a = { .o = q3_data(o),
                                        .q = q3_data(q),
                                        .k = kv->k[d->index],
                                        .v = kv->v[d->index],
                                        .tables = kv->tables,
                                        .lengths = kv->lengths,
                                        .begins = kv->begins,
                                        .rows = d->attention.n_segments,
                                        .most_queries = kv->most,
                                        .max_blocks = kv->max_blocks,
                                        .block = kv->block,
                                        .heads = d->attention.heads,
                                        .kv_heads = d->attention.kv_heads,
                                        .head_size = d->m->config.text.head_dim,
                                        .window = kv->window,
                                        .scale = d->attention.scale,
                                        .dtype = q->dtype };
    Q3_CALL(ctx, q3_attention_paged, &a);
    return o;
}

static q3_tensor *attend(q3_ctx *ctx, const decoder *d, q3_tensor *q, q3_tensor *k, q3_tensor *v)
{
    if (d->kv)
        return attend_to_blocks(ctx, d, q, k, v);
    return q3_attention(ctx, q, k, v, d->attention);
}

/* x + y w': what a branch ends with. Ranks that share the width of w each have a part of the product. */
static q3_tensor *join(q3_ctx *ctx, const decoder *d, q3_tensor *x, const q3_proj *p, q3_tensor *y)
{
    if (d->m->split.kind != Q3_SPLIT_TENSOR)
        return q3_project_add(ctx, d->f, x, p, y);
    q3_tensor *part = q3_project(ctx, d->f, p, y);
    q3_split_sum(ctx, &d->m->split, part);
    return q3_add(ctx, x, part);
}

/* x + o(attention of h) */
static q3_tensor *attention(q3_ctx *ctx, const decoder *d, q3_tensor *x, q3_tensor *h)
{
    const q3_text_layer *l = d->layer;
    const float eps = d->m->config.text.rms_eps;
    q3_tensor *q = q3_project(ctx, d->f, &l->q, h);
    q = q3_norm_rope(ctx, q, l->q_norm.w, eps, d->cos_sin, d->attention.heads);
    q3_tensor *k = q3_project(ctx, d->f, &l->k, h);
    k = q3_norm_rope(ctx, k, l->k_norm.w, eps, d->cos_sin, d->attention.kv_heads);
    q3_tensor *v = q3_project(ctx, d->f, &l->v, h);
    return join(ctx, d, x, &l->o, attend(ctx, d, q, k, v));
}

/* x + down(silu(gate(h)) up(h)) */
static q3_tensor *mlp(q3_ctx *ctx, const decoder *d, q3_tensor *x, q3_tensor *h)
{
    q3_tensor *gate = q3_project(ctx, d->f, &d->layer->gate, h);
    q3_tensor *up = q3_project(ctx, d->f, &d->layer->up, h);
    return join(ctx, d, x, &d->layer->down, q3_swiglu(ctx, gate, up));
}

static q3_tensor *decoder_layer(q3_ctx *ctx, const void *arg, q3_tensor *x)
{
    const decoder *d = arg;
    float eps = d->m->config.text.rms_eps;
    x = attention(ctx, d, x, q3_rmsnorm(ctx, x, d->layer->attn_norm.w, eps));
    return mlp(ctx, d, x, q3_rmsnorm(ctx, x, d->layer->mlp_norm.w, eps));
}

static const q3_segment *row_segments(q3_ctx *ctx, const q3_batch *b)
{
    q3_segment *s = q3_list(ctx, sizeof *s * (size_t)(b->n_rows + 1));
    for (int i = 0; i < b->n_rows; i++) {
        int64_t begin = b->row_begin[i], n = b->row_begin[i + 1] - begin;
        s[i] = (q3_segment){ begin, n, begin, n };
    }
    return s;
}

static decoder decoder_of(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b)
{
    const q3_text_config *c = &m->config.text;
    decoder d = { .m = m, .f = f, .kv = f->kv };
    size_t bytes = (size_t)b->n_tokens * (size_t)c->head_dim * sizeof(float);
    float *table = q3_host_scratch(ctx, bytes);
    if (!ctx->dry)
        q3_rotary_text(table, b->positions, b->n_tokens, c->head_dim, c->rope_theta, c->mrope_section);
    d.cos_sin = q3_on_device(ctx, table, bytes);
    d.attention = (q3_attention_attr){
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .scale = (float)(1.0 / sqrt((double)c->head_dim)),
        .causal = true,
        .n_segments = b->n_rows,
    };
    if (f->kv)
        return d;
    const q3_segment *segments = row_segments(ctx, b);
    d.attention.segments = segments;
    d.attention.device_segments = q3_on_device(ctx, segments, (size_t)b->n_rows * sizeof *segments);
    return d;
}

static void tap(const q3_forward *f, int layer, q3_tensor *x)
{
    char name[64];
    if (!f->tap)
        return;
    snprintf(name, sizeof name, "text.layers.%d", layer);
    f->tap(f->tap_arg, name, x);
}

/* What comes into this process' first layer. */
static q3_tensor *enter(q3_ctx *ctx, const q3_model *m, const q3_batch *b, const q3_vision_features *vision)
{
    if (m->split.first)
        return q3_split_receive(ctx, &m->split, b->n_tokens, m->config.text.hidden_size);
    q3_tensor *x = q3_embedding(ctx, m->embed, b->ids, b->n_tokens, m->config.pad);
    return vision ? q3_put_rows(ctx, x, vision->merged, b->image_rows, b->n_image_rows) : x;
}

/* What the last layer has made, whole and for everybody. */
static q3_tensor *leave(q3_ctx *ctx, const q3_model *m, const q3_batch *b, const q3_share *part, q3_tensor *x)
{
    if (part->cut)
        return q3_split_gather(ctx, &m->split, x, b->n_tokens);
    if (m->split.kind == Q3_SPLIT_PIPELINE)
        q3_split_hand_on(ctx, &m->split, x);
    return x;
}

q3_tensor *q3_text_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                           const q3_vision_features *vision)
{
    const q3_text_config *c = &m->config.text;
    decoder d = decoder_of(ctx, m, f, b);
    q3_share part = q3_share_of(ctx, m, f, b, vision);
    decoder *layers = q3_list(ctx, sizeof d * (size_t)c->layers);
    q3_tensor *x = enter(ctx, m, b, vision);
    const int32_t *image_rows = b->image_rows;
    int64_t n_image_rows = b->n_image_rows;
    if (part.cut) {
        x = q3_rows_of(ctx, x, part.begin, part.end - part.begin);
        d.f = &part.forward;
        d.kv = &part.kv;
        d.gather = b->n_tokens;
        d.cos_sin += part.begin * c->head_dim;
        image_rows = part.image_rows;
        n_image_rows = part.n_image_rows;
        vision = n_image_rows ? &part.vision : NULL;
    }
    for (int i = m->split.first; i < m->split.end; i++) {
        layers[i] = d; // stays: backward may run the layer again
        layers[i].layer = &m->layers[i];
        layers[i].index = i;
        q3_offload_before(m, i);
        x = q3_forget_layer(ctx, f, i) ? q3_checkpoint(ctx, decoder_layer, &layers[i], x)
                                       : decoder_layer(ctx, &layers[i], x);
        q3_offload_behind(m, i);
        tap(f, i, x);
        if (vision && i < m->config.vision.n_deepstack)
            x = q3_add_rows(ctx, x, vision->deepstack[i], image_rows, n_image_rows);
    }
    return leave(ctx, m, b, &part, x);
}
