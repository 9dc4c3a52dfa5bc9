#include "infer/pictures.h"

#include <stdatomic.h>
#include <string.h>

#include "kernels/gemm.h"

/* A sample's pictures, one behind the other: parts [1 + n_deepstack][M, H] laid end to end, in the context's type. */
typedef struct kept {
    char *values;
    int64_t tokens; // M
} kept;

struct q3_pictures {
    const q3_model *model;
    int64_t n;
    q3_arena mem;        // of the values: reserved at once, taken as it fills
    kept *list;          // [n]
    atomic_uchar *known; // [n]: list[i] may be read; also a sample without a picture is known
};

q3_status q3_pictures_create(q3_pictures **out, const q3_model *model, int64_t n_samples, size_t bytes)
{
    *out = NULL;
    if (!bytes || !model->config.has_vision || q3_qwen3vl_vision_trained(model))
        return Q3_OK;
    q3_pictures *p = q3_calloc(1, sizeof *p);
    if (!p)
        return Q3_ERR_MEMORY;
    *p = (q3_pictures){ .model = model, .n = n_samples };
    p->list = q3_calloc((size_t)n_samples, sizeof *p->list);
    p->known = q3_calloc((size_t)n_samples, sizeof *p->known);
    q3_status st = p->list && p->known ? q3_arena_create(&p->mem, "features", bytes) : Q3_ERR_MEMORY;
    if (st != Q3_OK)
        q3_pictures_destroy(p);
    else
        *out = p;
    return st;
}

void q3_pictures_destroy(q3_pictures *p)
{
    if (!p)
        return;
    q3_arena_destroy(&p->mem);
    q3_free(p->list);
    q3_free(p->known);
    q3_free(p);
}

static bool known(const void *arg, int64_t index)
{
    const q3_pictures *p = arg;
    return atomic_load_explicit(&p->known[index], memory_order_acquire);
}

void q3_pictures_attach(q3_loader_source *source, const q3_pictures *p)
{
    if (!p)
        return;
    source->seen = known;
    source->seen_arg = p;
}

static int parts_of(const q3_pictures *p)
{
    return 1 + p->model->config.vision.n_deepstack;
}

static q3_tensor **part_of(q3_vision_features *f, int part)
{
    return part ? &f->deepstack[part - 1] : &f->merged;
}

/* Tokens of the sample's pictures, 0 without one. */
static int64_t tokens_of(const q3_pictures *p, const q3_row *row)
{
    int merge = p->model->config.vision.merge_size;
    return row->skipped ? 0 : q3_row_patches(row) / (merge * merge);
}

/* A part of all the batch's pictures, one behind the other. */
static q3_tensor *recall_part(const q3_pictures *p, q3_ctx *ctx, const q3_loaded *l, int part)
{
    const int64_t H = p->model->config.text.hidden_size, shape[2] = { l->batch.n_image_rows, H };
    size_t row = q3_dtype_bytes(ctx->dtype, H), at = 0, all = row * (size_t)shape[0];
    char *host = q3_host_scratch(ctx, all);
    for (int64_t i = 0; i < l->n_samples && !ctx->dry; i++) {
        size_t bytes = row * (size_t)tokens_of(p, &l->rows[i]);
        if (bytes)
            memcpy(host + at, p->list[l->indices[i]].values + (size_t)part * bytes, bytes);
        at += bytes;
    }
    q3_tensor *t =
        q3_tensor_wrap(&ctx->meta, (void *)(uintptr_t)q3_on_device(ctx, host, all), ctx->dtype, 2, shape);
    Q3_CHECK(t, "%s", q3_error());
    return t;
}

/* Bytes of the features of a picture of as many tokens; 0 where they are not kept. */
static size_t feature_bytes(const q3_pictures *p, q3_dtype dtype, int64_t tokens)
{
    size_t row = q3_dtype_bytes(dtype, p->model->config.text.hidden_size);
    return tokens <= Q3_GEMM_FEW ? 0 : row * (size_t)tokens * (size_t)parts_of(p);
}

static bool has_room(const q3_pictures *p, size_t bytes)
{
    const size_t around = 512; // alignment and red zone
    return q3_arena_mark(&p->mem) + bytes + around <= p->mem.limit;
}

void q3_pictures_count(q3_pictures *p, q3_dtype dtype, int64_t tokens)
{
    size_t bytes = feature_bytes(p, dtype, tokens);
    p->mem.dry = true;
    if (bytes && has_room(p, bytes))
        q3_arena_alloc(&p->mem, bytes);
    p->mem.dry = false;
}

size_t q3_pictures_bytes(const q3_pictures *p)
{
    return p ? p->mem.used : 0;
}

/* Keeps what the tower has made of one sample, if there is room; `at` counts the rows before it. */
static void keep(q3_pictures *p, q3_ctx *ctx, q3_vision_features *f, int64_t index, int64_t at,
                 int64_t tokens)
{
    size_t row = q3_dtype_bytes(ctx->dtype, p->model->config.text.hidden_size);
    size_t part = row * (size_t)tokens, bytes = feature_bytes(p, ctx->dtype, tokens);
    if (known(p, index) || (tokens && !bytes) || !has_room(p, bytes))
        return; // it is seen anew next time
    char *values = bytes ? q3_arena_alloc(&p->mem, bytes) : NULL;
    if (bytes && !values)
        return;
    for (int i = 0; i < parts_of(p) && bytes; i++)
        q3_device_read(ctx->data->cuda, values + (size_t)i * part,
                       (char *)(*part_of(f, i))->data + row * (size_t)at, part);
    p->list[index] = (kept){ values, tokens };
    atomic_store_explicit(&p->known[index], 1, memory_order_release);
}

bool q3_pictures_features(q3_vision_features *out, q3_pictures *p, q3_ctx *ctx, const q3_forward *f,
                          const q3_loaded *l)
{
    if (!p || !l->batch.n_images)
        return false;
    if (!l->batch.patches) {
        for (int part = 0; part < parts_of(p); part++)
            *part_of(out, part) = recall_part(p, ctx, l, part);
        return true;
    }
    *out = q3_qwen3vl_see(ctx, p->model, f, &l->batch);
    if (q3_ctx_status(ctx) != Q3_OK)
        return true; // told at the end of the step
    int64_t at = 0;
    for (int64_t i = 0; i < l->n_samples; i++) {
        int64_t tokens = tokens_of(p, &l->rows[i]);
        keep(p, ctx, out, l->indices[i], at, tokens);
        at += tokens;
    }
    return true;
}
