#include "infer/engine.h"

#include <string.h>

#include "core/log.h"
#include "infer/sequence.h"

#define FEATURE_BYTES ((int64_t)256 << 20) // of options.feature_bytes 0
#define PASS_ADDRESSES ((size_t)1 << 36)   // reserved, not memory

/* Text layers that this process computes. */
static int layers_here(const q3_engine *e)
{
    return e->model->split.end - e->model->split.first;
}

static const struct {
    const char *word;
    q3_dtype type;
} cache_words[] = {
    { "auto", Q3_DTYPES }, { "f32", Q3_F32 }, { "bf16", Q3_BF16 }, { "int8", Q3_I8 }, { "int4", Q3_I4 }
};
enum { CACHE_WORDS = sizeof cache_words / sizeof *cache_words };

const char *q3_cache_word(q3_dtype type)
{
    for (int i = 0; i < CACHE_WORDS; i++)
        if (cache_words[i].type == type)
            return cache_words[i].word;
    return "unknown";
}

q3_status q3_cache_type(q3_dtype *out, const char *word)
{
    *out = Q3_DTYPES;
    for (int i = 0; word && i < CACHE_WORDS; i++)
        if (strcmp(cache_words[i].word, word) == 0) {
            *out = cache_words[i].type;
            return Q3_OK;
        }
    return word ? q3_fail(Q3_ERR_USAGE, "--kv-type is \"%.40s\"; it must be auto, f32, bf16, int8 or int4",
                          word)
                : Q3_OK;
}

/* A token's keys and values in one layer. */
static size_t layer_bytes(const q3_model *m, q3_dtype type)
{
    const q3_text_config *c = &m->config.text;
    return 2 * (q3_dtype_bytes(type, (int64_t)c->kv_heads * c->head_dim) +
                (size_t)q3_kv_scales(type, c->kv_heads, c->head_dim) * sizeof(float));
}

size_t q3_cache_token_bytes(const q3_model *m, q3_dtype type)
{
    return (size_t)m->config.text.layers * layer_bytes(m, type);
}

/* In all of this process' layers. */
static size_t token_bytes(const q3_engine *e)
{
    return (size_t)layers_here(e) * layer_bytes(e->model, e->options.kv_type);
}

static q3_status check_type(const q3_engine *e)
{
    q3_dtype type = e->options.kv_type;
    int D = e->model->config.text.head_dim;
    if (type != Q3_F32 && type != Q3_BF16 && type != Q3_I8 && type != Q3_I4)
        return q3_fail(Q3_ERR_USAGE, "the key/value cache stores f32, bf16, int8 or int4");
    if (type == Q3_I4 && D % Q3_KV_I4_GROUP != 0)
        return q3_fail(
            Q3_ERR_USAGE,
            "the key/value cache cannot store int4: heads of this model have %d values, no multiple of %d; "
            "take int8 or bf16",
            D, Q3_KV_I4_GROUP);
    return Q3_OK;
}

/* Defaults, and how many blocks that makes. */
static q3_status settle(q3_engine *e)
{
    q3_engine_options *o = &e->options;
    o->kv_type = o->kv_type == Q3_DTYPES ? e->ctx->dtype : o->kv_type;
    o->feature_bytes = o->feature_bytes ? o->feature_bytes : FEATURE_BYTES;
    Q3_TRY(check_type(e));
    size_t available = q3_device_available(e->ctx->data->cuda), one = token_bytes(e);
    int64_t tokens = o->tokens ? o->tokens : e->model->config.text.max_positions;
    if (!o->tokens && available && (size_t)tokens > available / 2 / one)
        tokens = (int64_t)(available / 2 / one);
    tokens = (tokens + Q3_ENGINE_BLOCK - 1) / Q3_ENGINE_BLOCK * Q3_ENGINE_BLOCK;
    if (tokens < Q3_ENGINE_BLOCK || tokens > INT32_MAX)
        return q3_fail(Q3_ERR_LIMIT, "a key/value cache of %lld tokens; from 1 to %d are supported",
                       (long long)o->tokens, INT32_MAX / Q3_ENGINE_BLOCK * Q3_ENGINE_BLOCK);
    if (available && (size_t)tokens > available / one)
        return q3_fail(
            Q3_ERR_MEMORY,
            "the key/value cache of %lld tokens needs %s and %s of memory are available; let it hold fewer "
            "tokens, or store them in fewer bits",
            (long long)tokens, q3_bytes((size_t)tokens * one), q3_bytes(available));
    o->tokens = tokens;
    e->n_blocks = (int32_t)(tokens / Q3_ENGINE_BLOCK);
    return Q3_OK;
}

static q3_status create_slab(q3_kv_slab *out, q3_engine *e)
{
    const q3_text_config *c = &e->model->config.text;
    q3_dtype type = e->options.kv_type;
    int64_t scales = e->options.tokens * q3_kv_scales(type, c->kv_heads, c->head_dim);
    *out = (q3_kv_slab){ .dtype = type };
    out->data =
        q3_arena_alloc(&e->slabs, q3_dtype_bytes(type, e->options.tokens * c->kv_heads * c->head_dim));
    out->scales = scales ? Q3_NEW(&e->slabs, float, scales) : NULL;
    return out->data && (!scales || out->scales) ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status create(q3_engine *e)
{
    const q3_text_config *c = &e->model->config.text;
    const size_t around = 512; // of each array: alignment and red zone
    Q3_TRY(settle(e));
    Q3_TRY(q3_replays_create(&e->replays, e->ctx));
    Q3_TRY(q3_features_create(&e->features, e->model, e->ctx, e->options.feature_bytes));
    Q3_TRY(q3_kvcache_create(&e->cache, e->n_blocks));
    Q3_TRY(q3_arena_create(&e->pass, "a pass", PASS_ADDRESSES));
    Q3_TRY(
        q3_device_arena_create(&e->slabs, e->ctx->data->cuda, "key/value cache",
                               token_bytes(e) * (size_t)e->options.tokens + 4 * (size_t)c->layers * around));
    e->k = q3_calloc(2 * (size_t)c->layers, sizeof *e->k);
    if (!e->k)
        return Q3_ERR_MEMORY;
    e->v = e->k + c->layers;
    for (int i = e->model->split.first; i < e->model->split.end; i++) {
        Q3_TRY(create_slab(&e->k[i], e));
        Q3_TRY(create_slab(&e->v[i], e));
    }
    const q3_split *split = &e->model->split;
    if (split->kind == Q3_SPLIT_NONE || q3_group_rank(split->group))
        return Q3_OK;
    const q3_tensor *patches = e->model->patch_embed.w;
    return q3_mirror_open(&e->mirror, split->group, patches ? q3_dim(patches, 1) : 0);
}

q3_status q3_engine_create(q3_engine **out, const q3_model *model, q3_ctx *ctx, const q3_adapters *adapters,
                           const q3_engine_options *options)
{
    *out = NULL;
    q3_engine *e = q3_calloc(1, sizeof *e);
    if (!e)
        return Q3_ERR_MEMORY;
    e->model = model;
    e->ctx = ctx;
    e->adapters = adapters;
    e->options = *options;
    q3_status st = create(e);
    if (st == Q3_OK)
        *out = e;
    else
        q3_engine_destroy(e);
    return st;
}

void q3_engine_destroy(q3_engine *e)
{
    if (!e)
        return;
    q3_mirror_close(e->mirror);
    q3_replays_destroy(e->replays);
    q3_features_destroy(e->features);
    q3_kvcache_destroy(e->cache);
    q3_arena_destroy(&e->pass);
    q3_arena_destroy(&e->slabs);
    q3_free(e->k);
    q3_free(e);
}

const q3_model *q3_engine_model(const q3_engine *e)
{
    return e->model;
}

const q3_engine_options *q3_engine_settings(const q3_engine *e)
{
    return &e->options;
}

int64_t q3_engine_blocks(const q3_engine *e)
{
    return e->n_blocks;
}

int64_t q3_engine_free_blocks(const q3_engine *e)
{
    return q3_kvcache_free(e->cache);
}
