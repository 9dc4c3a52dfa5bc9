#include "infer/sequence.h"

#include <string.h>

static int64_t blocks_for(int64_t tokens)
{
    return (tokens + Q3_ENGINE_BLOCK - 1) / Q3_ENGINE_BLOCK;
}

/* Behind the largest position of the prompt (transformers, Qwen3VLModel.get_rope_index: the deltas). */
static int32_t next_position(const q3_prompt *p)
{
    int32_t last = -1;
    if (!p->positions)
        return (int32_t)p->n;
    for (int64_t i = 0; i < 3 * p->n; i++)
        last = p->positions[i] > last ? p->positions[i] : last;
    return last + 1;
}

int32_t q3_sequence_position(const q3_sequence *s, int axis, int64_t token)
{
    const q3_prompt *p = s->prompt;
    if (token >= p->n)
        return s->next + (int32_t)(token - p->n);
    return p->positions ? p->positions[axis * p->n + token] : (int32_t)token;
}

/* The hashes of the pictures that have tokens in [begin, end). */
static void add_pictures(q3_sha256 *sha, const q3_sequence *s, int64_t begin, int64_t end)
{
    const int32_t *row = s->prompt->image_rows;
    for (int i = 0; i < s->prompt->n_images; i++) {
        int64_t n = q3_picture_rows(s->engine->model, s->prompt->grids + 3 * (ptrdiff_t)i);
        if (row[0] < end && row[n - 1] >= begin)
            q3_sha256_add(sha, s->pictures[i], sizeof s->pictures[i]);
        row += n;
    }
}

/* Of block b: everything that its keys and values depend on. */
static q3_block_name name_of(const q3_sequence *s, int64_t b)
{
    int64_t begin = b * Q3_ENGINE_BLOCK, end = begin + Q3_ENGINE_BLOCK;
    const q3_adapter *adapter = q3_sequence_adapter(s);
    q3_block_name name;
    q3_sha256 sha;
    q3_sha256_begin(&sha);
    if (b)
        q3_sha256_add(&sha, s->names[b - 1].hash, sizeof name.hash);
    else if (adapter)
        q3_sha256_add(&sha, adapter->hash, sizeof adapter->hash);
    q3_sha256_add(&sha, s->ids + begin, Q3_ENGINE_BLOCK * sizeof *s->ids);
    for (int axis = 0; axis < 3; axis++)
        for (int64_t t = begin; t < end; t++) {
            int32_t position = q3_sequence_position(s, axis, t);
            q3_sha256_add(&sha, &position, sizeof position);
        }
    add_pictures(&sha, s, begin, end);
    q3_sha256_end(name.hash, &sha);
    return name;
}

/* Shares the full blocks of the prompt that the cache has. */
static void find_prefix(q3_sequence *s)
{
    q3_kvcache *cache = s->engine->cache;
    while ((s->n_blocks + 1) * Q3_ENGINE_BLOCK <= s->n) {
        const q3_block_name name = name_of(s, s->n_blocks);
        int32_t block = q3_kvcache_find(cache, &name);
        if (block < 0)
            break;
        q3_kvcache_share(cache, block);
        s->names[s->n_blocks] = name;
        s->blocks[s->n_blocks++] = block;
    }
    s->cached = s->n_blocks * Q3_ENGINE_BLOCK;
    s->cached = s->cached < s->n ? s->cached : s->n - 1; // whose logits somebody will want
    s->n_named = s->cached / Q3_ENGINE_BLOCK;
    s->found = s->cached;
}

/* Room for everything up to `limit` tokens; ids and pictures of the prompt are set. */
static q3_status create(q3_sequence **out, q3_engine *e, const q3_prompt *prompt, int64_t limit)
{
    q3_sequence *s = q3_calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return Q3_ERR_MEMORY;
    size_t blocks = (size_t)blocks_for(limit), images = (size_t)prompt->n_images;
    *s = (q3_sequence){ .engine = e, .prompt = prompt, .limit = limit, .next = next_position(prompt) };
    s->ids = q3_malloc((size_t)limit * sizeof *s->ids);
    s->blocks = q3_malloc(blocks * sizeof *s->blocks);
    s->names = q3_malloc(blocks * sizeof *s->names);
    s->pictures = q3_malloc((images + 1) * sizeof *s->pictures);
    return s->ids && s->blocks && s->names && s->pictures ? Q3_OK : Q3_ERR_MEMORY;
}

/* A picture without a hash is like no other. */
static void know_pictures(q3_sequence *s)
{
    size_t n = (size_t)s->prompt->n_images;
    if (s->prompt->hashes && n)
        memcpy(s->pictures, s->prompt->hashes, n * sizeof *s->pictures);
    for (size_t i = 0; !s->prompt->hashes && i < n; i++) {
        uint64_t number = ++s->engine->own_pictures;
        memset(s->pictures[i], 0, sizeof s->pictures[i]);
        memcpy(s->pictures[i], &number, sizeof number);
    }
}

q3_status q3_sequence_create(q3_sequence **out, q3_engine *e, const q3_prompt *prompt, int64_t limit)
{
    *out = NULL;
    Q3_CHECK(prompt->n >= 1 && prompt->adapter < (e->adapters ? e->adapters->n : 0),
             "%lld tokens, adapter %d", (long long)prompt->n, prompt->adapter);
    if (limit < prompt->n || limit > INT32_MAX)
        return q3_fail(Q3_ERR_LIMIT, "a prompt of %lld tokens where %lld fit", (long long)prompt->n,
                       (long long)limit);
    q3_status st = create(out, e, prompt, limit);
    if (st != Q3_OK) {
        q3_sequence_destroy(*out);
        *out = NULL;
        return st;
    }
    q3_sequence *s = *out;
    memcpy(s->ids, prompt->ids, (size_t)prompt->n * sizeof *s->ids);
    s->n = prompt->n;
    know_pictures(s);
    if (!e->options.no_sharing)
        find_prefix(s);
    return Q3_OK;
}

q3_status q3_sequence_fork(q3_sequence **out, const q3_sequence *s)
{
    q3_status st = create(out, s->engine, s->prompt, s->limit);
    if (st != Q3_OK) {
        q3_sequence_destroy(*out);
        *out = NULL;
        return st;
    }
    q3_sequence *f = *out;
    f->n = s->n;
    f->cached = s->cached;
    f->found = s->found;
    f->n_blocks = blocks_for(s->cached);
    f->n_named = s->n_named;
    memcpy(f->ids, s->ids, (size_t)s->n * sizeof *s->ids);
    memcpy(f->blocks, s->blocks, (size_t)f->n_blocks * sizeof *s->blocks);
    memcpy(f->names, s->names, (size_t)s->n_named * sizeof *s->names);
    memcpy(f->pictures, s->pictures, (size_t)s->prompt->n_images * sizeof *s->pictures);
    for (int64_t i = 0; i < f->n_blocks; i++)
        q3_kvcache_share(s->engine->cache, f->blocks[i]);
    return Q3_OK;
}

/* Blocks from number n on, the last one first. */
static void release_from(q3_sequence *s, int64_t n)
{
    while (s->n_blocks > n)
        q3_kvcache_release(s->engine->cache, s->blocks[--s->n_blocks]);
}

void q3_sequence_destroy(q3_sequence *s)
{
    if (!s)
        return;
    release_from(s, 0);
    q3_free(s->ids);
    q3_free(s->blocks);
    q3_free(s->names);
    q3_free(s->pictures);
    q3_free(s);
}

const int32_t *q3_sequence_ids(int64_t *n, const q3_sequence *s)
{
    *n = s->n;
    return s->ids;
}

int64_t q3_sequence_cached(const q3_sequence *s)
{
    return s->cached;
}

int64_t q3_sequence_found(const q3_sequence *s)
{
    return s->found;
}

bool q3_sequence_push(q3_sequence *s, const int32_t *ids, int64_t n)
{
    if (n > s->limit - s->n)
        return false;
    memcpy(s->ids + s->n, ids, (size_t)n * sizeof *ids);
    s->n += n;
    return true;
}

void q3_sequence_truncate(q3_sequence *s, int64_t n)
{
    Q3_CHECK(n >= s->prompt->n && n <= s->n, "%lld of %lld tokens, the prompt has %lld", (long long)n,
             (long long)s->n, (long long)s->prompt->n);
    s->n = n;
    s->cached = s->cached < n ? s->cached : n;
    if (s->n_named > s->cached / Q3_ENGINE_BLOCK)
        s->n_named = s->cached / Q3_ENGINE_BLOCK;
    release_from(s, blocks_for(s->cached));
}

void q3_sequence_evict(q3_sequence *s)
{
    release_from(s, 0);
    s->cached = 0;
    s->n_named = 0;
}

/* The tokens of a block, in all layers. */
static void copy_block(const q3_engine *e, int32_t to, int32_t from)
{
    const q3_text_config *c = &e->model->config.text;
    q3_cuda *cuda = e->ctx->data->cuda;
    size_t scales = (size_t)(Q3_ENGINE_BLOCK * q3_kv_scales(e->options.kv_type, c->kv_heads, c->head_dim));
    size_t bytes = q3_dtype_bytes(e->options.kv_type, (int64_t)Q3_ENGINE_BLOCK * c->kv_heads * c->head_dim);
    for (int i = 0; i < 2 * c->layers; i++) {
        const q3_kv_slab *slab = i < c->layers ? &e->k[i] : &e->v[i - c->layers];
        char *data = slab->data;
        q3_device_copy(cuda, data + (size_t)to * bytes, data + (size_t)from * bytes, bytes);
        if (scales)
            q3_device_copy(cuda, slab->scales + (size_t)to * scales, slab->scales + (size_t)from * scales,
                           scales * sizeof(float));
    }
}

/* The block that the next token goes to must be the sequence's alone, and findable by nobody. */
static void own_block(q3_sequence *s, int64_t b)
{
    q3_kvcache *cache = s->engine->cache;
    int32_t old = s->blocks[b];
    if (q3_kvcache_users(cache, old) == 1) {
        q3_kvcache_unname(cache, old);
        return;
    }
    s->blocks[b] = q3_kvcache_take(cache);
    copy_block(s->engine, s->blocks[b], old);
    q3_kvcache_release(cache, old);
}

bool q3_sequence_reserve(q3_sequence *s, int64_t n)
{
    q3_kvcache *cache = s->engine->cache;
    int64_t at = s->cached / Q3_ENGINE_BLOCK, blocks = blocks_for(s->cached + n);
    bool there = at < s->n_blocks, shared = there && q3_kvcache_users(cache, s->blocks[at]) > 1;
    int64_t more = blocks > s->n_blocks ? blocks - s->n_blocks : 0;
    Q3_CHECK(s->cached + n <= s->limit, "%lld tokens behind %lld, limit %lld", (long long)n,
             (long long)s->cached, (long long)s->limit);
    if (more + shared > q3_kvcache_free(cache))
        return false;
    if (there)
        own_block(s, at);
    while (more--)
        s->blocks[s->n_blocks++] = q3_kvcache_take(cache);
    return true;
}

void q3_sequence_advance(q3_sequence *s, int64_t cached)
{
    s->cached = cached;
    if (s->engine->options.no_sharing)
        return;
    for (; (s->n_named + 1) * Q3_ENGINE_BLOCK <= cached; s->n_named++) {
        s->names[s->n_named] = name_of(s, s->n_named);
        q3_kvcache_name(s->engine->cache, s->blocks[s->n_named], &s->names[s->n_named]);
    }
}
