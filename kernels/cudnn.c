#include "kernels/cudnn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"

enum {
    PLANS = 64, // shapes kept; a run over lengths up to 8192 meets about 40 in each direction
    TABLE = Q3_CUDNN_MOST_SEQUENCES + 4, // one more than sequences, in whole 16 bytes
    SLOTS = 32, // batches whose tables stay on the device: those of one step, for all its layers
};

typedef struct plan {
    q3_cudnn_shape shape;
    q3_cudnn_graph *graph; // NULL: cuDNN refuses the shape
    char why[Q3_CUDNN_SENTENCE];
    uint64_t used; // time of the last call; 0: free
} plan;

/* What a launch tells cuDNN, and the stats kernels, about its sequences. */
typedef struct tables {
    int32_t lengths_q[TABLE], lengths_kv[TABLE];
    int32_t offsets_q[TABLE], offsets_kv[TABLE]; // elements
    int32_t first[TABLE];                        // rows of q
} tables;

struct q3_cudnn {
    q3_cuda *cuda;
    const q3_cudnn_api *api;
    void *handle;
    bool deterministic;
    bool broken; // a launch failed: no further calls are taken
    plan plans[PLANS];
    tables held[SLOTS]; // what lies in each slot of `device`
    uint64_t held_used[SLOTS];
    tables *device; // [SLOTS], device memory
    char *reserved; // device memory
    size_t reserved_bytes;
    uint64_t clock;
    bool refused;
    char refusal[Q3_CUDNN_SENTENCE];
};

/* One call, and the batch of it that is looked at. */
typedef struct call {
    struct q3_cudnn *cudnn;
    const q3_attention_args *a;
    const q3_attention_backward_args *back; // NULL: forward
    q3_cudnn_shape shape;                   // of the batch
    int64_t n;
    int64_t segments[Q3_CUDNN_MOST_SEQUENCES][4];
} call;

__attribute__((format(printf, 2, 3))) static bool refuse(struct q3_cudnn *cudnn, const char *fmt, ...)
{
    if (!cudnn->refused) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(cudnn->refusal, sizeof cudnn->refusal, fmt, args);
        va_end(args);
        cudnn->refused = true;
    }
    return false;
}

struct q3_cudnn *q3_cudnn_create(q3_cuda *cuda, char *why)
{
    char reason[Q3_CUDNN_SENTENCE];
    const q3_cudnn_api *api = q3_cudnn_open(reason);
    if (!api) {
        snprintf(why, Q3_CUDA_SENTENCE, "%s", reason);
        return NULL;
    }
    struct q3_cudnn *cudnn = calloc(1, sizeof *cudnn);
    if (!cudnn) {
        snprintf(why, Q3_CUDA_SENTENCE, "out of memory for cuDNN");
        return NULL;
    }
    cudnn->cuda = cuda;
    cudnn->api = api;
    cudnn->deterministic = true;
    q3_cudnn_use_device_cuda(cuda);
    int status = api->create(&cudnn->handle);
    if (status == Q3_CUDNN_STATUS_SUCCESS)
        status = api->set_stream(cudnn->handle, cuda->stream);
    cudnn->device = q3_cuda_alloc(cuda, sizeof *cudnn->device * SLOTS);
    if (status == Q3_CUDNN_STATUS_SUCCESS && cudnn->device)
        return cudnn;
    snprintf(why, Q3_CUDA_SENTENCE, "cuDNN does not start: %s",
             cudnn->device ? api->error(status) : "no device memory left");
    q3_cudnn_destroy(cudnn);
    return NULL;
}

void q3_cudnn_destroy(struct q3_cudnn *cudnn)
{
    if (!cudnn)
        return;
    for (int i = 0; i < PLANS; i++)
        q3_cudnn_graph_destroy(cudnn->plans[i].graph);
    q3_cuda_free(cudnn->cuda, cudnn->reserved);
    q3_cuda_free(cudnn->cuda, cudnn->device);
    if (cudnn->handle)
        cudnn->api->destroy(cudnn->handle);
    free(cudnn);
}

const char *q3_cudnn_refusal(q3_cuda *cuda)
{
    return cuda->cudnn && cuda->cudnn->refused ? cuda->cudnn->refusal : NULL;
}

void q3_cudnn_set_deterministic(q3_cuda *cuda, bool deterministic)
{
    cuda->cudnn->deterministic = deterministic;
}

/* ---- plans ---- */

static bool same_shape(const q3_cudnn_shape *a, const q3_cudnn_shape *b)
{
    return a->B == b->B && a->S == b->S && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_size == b->head_size && a->causal == b->causal && a->backward == b->backward &&
           a->stats == b->stats && a->deterministic == b->deterministic;
}

static void compile(struct q3_cudnn *cudnn, plan *p, const q3_cudnn_shape *shape)
{
    q3_cudnn_graph_destroy(p->graph);
    p->shape = *shape;
    p->graph = q3_cudnn_graph_create(cudnn->api, shape, cudnn->handle, NULL, p->why);
    if (p->graph && !q3_cudnn_graph_plan(p->graph, p->why)) {
        q3_cudnn_graph_destroy(p->graph);
        p->graph = NULL;
    }
}

static plan *plan_of(struct q3_cudnn *cudnn, const q3_cudnn_shape *shape)
{
    plan *oldest = cudnn->plans, *found = NULL;
    for (plan *p = cudnn->plans; p < cudnn->plans + PLANS && !found; p++) {
        if (p->used && same_shape(&p->shape, shape))
            found = p;
        else if (p->used < oldest->used)
            oldest = p;
    }
    if (!found) {
        found = oldest;
        if (found->graph)
            q3_cuda_wait(cudnn->cuda); // the plan that goes may still be running
        compile(cudnn, found, shape);
    }
    found->used = ++cudnn->clock;
    return found;
}

/* ---- workspace ---- */

/* Bytes of a launch's scratch, which cuDNN's own workspace follows: f32 for rows in multiples of 256, so every piece is
 * aligned like `area`. Fills in pointers, where asked, from `area` on. */
static size_t lay_out(const q3_cudnn_shape *shape, char *area, void **pointers)
{
    size_t at = 0;
    for (int i = 0; i < Q3_CUDNN_TENSORS; i++) {
        size_t bytes = q3_cudnn_scratch_bytes(shape, i);
        if (bytes && pointers)
            pointers[i] = area + at;
        at += bytes;
    }
    return at;
}

static size_t bytes_of(const call *c, const plan *p)
{
    return lay_out(&c->shape, NULL, NULL) + q3_cudnn_graph_workspace(p->graph);
}

static char *area_for(struct q3_cudnn *cudnn, size_t bytes)
{
    if (bytes <= cudnn->cuda->workspace_bytes)
        return cudnn->cuda->workspace;
    return bytes <= cudnn->reserved_bytes ? cudnn->reserved : NULL;
}

size_t q3_cudnn_workspace_bytes(q3_cuda *cuda, const q3_cudnn_shape *shape, int64_t longest)
{
    struct q3_cudnn *cudnn = cuda->cudnn;
    q3_cudnn_shape s = *shape;
    size_t most = 0;
    s.deterministic = s.backward && cudnn->deterministic;
    q3_cudnn_use_device_cuda(cuda);
    for (int64_t last = q3_cudnn_rows_bucket(longest), S = 1; S <= last; S++) {
        char why[Q3_CUDNN_SENTENCE];
        S = s.S = q3_cudnn_rows_bucket(S);
        s.B = q3_cudnn_most_sequences(&s);
        q3_cudnn_graph *g = q3_cudnn_graph_create(cudnn->api, &s, cudnn->handle, NULL, why);
        if (!g)
            continue;
        size_t bytes = lay_out(&s, NULL, NULL) + q3_cudnn_graph_config(g, 0).workspace_bytes;
        most = bytes > most ? bytes : most;
        q3_cudnn_graph_destroy(g);
    }
    return most;
}

bool q3_cudnn_reserve(q3_cuda *cuda, size_t bytes)
{
    struct q3_cudnn *cudnn = cuda->cudnn;
    q3_cuda_wait(cuda);
    q3_cuda_free(cuda, cudnn->reserved);
    cudnn->reserved = bytes ? q3_cuda_alloc(cuda, bytes) : NULL;
    cudnn->reserved_bytes = cudnn->reserved ? bytes : 0;
    return !bytes || cudnn->reserved;
}

/* ---- which calls are taken ---- */

static bool takes_segments(struct q3_cudnn *cudnn, const q3_attention_args *a)
{
    const int64_t q_row = (int64_t)a->heads * a->head_size, kv_row = (int64_t)a->kv_heads * a->head_size;
    for (int64_t i = 0; i < a->n_segments; i++) {
        const int64_t *s = a->segments + 4 * i; // first query, queries, first key, keys
        if (s[1] && (s[3] < 1 || (a->causal && s[3] != s[1])))
            return refuse(cudnn, "cuDNN attention takes no cached prefix: %lld queries see %lld keys",
                          (long long)s[1], (long long)s[3]);
        if ((s[0] + s[1]) * q_row > INT32_MAX || (s[2] + s[3]) * kv_row > INT32_MAX)
            return refuse(cudnn, "cuDNN attention takes at most %lld rows of %lld elements",
                          (long long)(INT32_MAX / q_row), (long long)q_row);
    }
    return true;
}

static bool misaligned(const void *p)
{
    return (uintptr_t)p % 16 != 0; // bytes, as the graph promises
}

static bool takes(struct q3_cudnn *cudnn, const q3_attention_args *a)
{
    if (cudnn->broken)
        return false;
    if (a->dtype != Q3_BF16)
        return refuse(cudnn, "cuDNN attention is for bfloat16");
    if (a->head_size % 8)
        return refuse(cudnn, "cuDNN attention wants head sizes that are multiples of 8, not %d",
                      a->head_size);
    if (misaligned(a->q) || misaligned(a->k) || misaligned(a->v) || misaligned(a->o))
        return refuse(cudnn, "cuDNN attention wants rows aligned to 16 bytes");
    return takes_segments(cudnn, a);
}

static bool takes_backward(struct q3_cudnn *cudnn, const q3_attention_backward_args *b)
{
    int generation = cudnn->cuda->sm / 10;
    if (!takes(cudnn, &b->f))
        return false;
    if (!b->dq || !b->dk || !b->dv || b->dq_beta != 0 || b->dk_beta != 0 || b->dv_beta != 0)
        return refuse(cudnn, "cuDNN attention makes the gradients of q, k and v together, and adds to none");
    if (misaligned(b->dout) || misaligned(b->dq) || misaligned(b->dk) || misaligned(b->dv))
        return refuse(cudnn, "cuDNN attention wants rows aligned to 16 bytes");
    if ((generation == 8 || generation == 12) && cudnn->api->version() < Q3_CUDNN_OLDEST_PACKED)
        return refuse(cudnn, "cuDNN attention on sm_%d wants cuDNN 9.18.1 or later for training",
                      cudnn->cuda->sm);
    return true;
}

/* ---- batches ---- */

static int64_t bucket_of(const int64_t *segment)
{
    int64_t longer = segment[1] > segment[3] ? segment[1] : segment[3];
    return segment[1] ? q3_cudnn_rows_bucket(longer) : 0;
}

/* The smallest bucket above S that has segments; 0: none. */
static int64_t next_bucket(const q3_attention_args *a, int64_t S)
{
    int64_t next = 0;
    for (int64_t i = 0; i < a->n_segments; i++) {
        int64_t bucket = bucket_of(a->segments + 4 * i);
        if (bucket > S && (!next || bucket < next))
            next = bucket;
    }
    return next;
}

static bool visit_batch(call *c, bool (*visit)(call *c))
{
    c->shape.B = q3_cudnn_sequences_bucket(c->n);
    bool ok = !c->n || visit(c);
    c->n = 0;
    return ok;
}

static bool each_batch(call *c, bool (*visit)(call *c))
{
    for (int64_t S = next_bucket(c->a, 0); S; S = next_bucket(c->a, S)) {
        c->shape.S = S;
        int64_t most = q3_cudnn_most_sequences(&c->shape);
        for (int64_t i = 0; i < c->a->n_segments; i++) {
            const int64_t *segment = c->a->segments + 4 * i;
            if (bucket_of(segment) != S)
                continue;
            memcpy(c->segments[c->n++], segment, sizeof *c->segments);
            if (c->n == most && !visit_batch(c, visit))
                return false;
        }
        if (!visit_batch(c, visit))
            return false;
    }
    return true;
}

/* There is a plan for the batch, and room for it. */
static bool ready(call *c)
{
    const plan *p = plan_of(c->cudnn, &c->shape);
    if (!p->graph)
        return refuse(c->cudnn, "%s (%s%s, %lld rows, %d/%d heads of %d)", p->why,
                      c->back ? "backward" : "forward", c->shape.deterministic ? ", deterministic" : "",
                      (long long)c->shape.S, c->shape.heads, c->shape.kv_heads, c->shape.head_size);
    size_t bytes = bytes_of(c, p);
    if (!area_for(c->cudnn, bytes))
        return refuse(c->cudnn, "cuDNN attention wants %zu bytes of workspace for %lld segments of %lld rows",
                      bytes, (long long)c->n, (long long)c->shape.S);
    return true;
}

static void fill_tables(const call *c, tables *t)
{
    const int64_t q_row = (int64_t)c->shape.heads * c->shape.head_size;
    const int64_t kv_row = (int64_t)c->shape.kv_heads * c->shape.head_size;
    memset(t, 0, sizeof *t); // sequences beyond the batch have length 0
    for (int64_t i = 0; i < c->n; i++) {
        const int64_t *s = c->segments[i];
        t->first[i] = (int32_t)s[0];
        t->lengths_q[i] = (int32_t)s[1];
        t->lengths_kv[i] = (int32_t)s[3];
        t->offsets_q[i] = (int32_t)(s[0] * q_row);
        t->offsets_kv[i] = (int32_t)(s[2] * kv_row);
    }
    const int64_t *last = c->segments[c->n - 1];
    for (int64_t i = c->n; i <= c->shape.B; i++) {
        t->offsets_q[i] = (int32_t)((last[0] + last[1]) * q_row);
        t->offsets_kv[i] = (int32_t)((last[2] + last[3]) * kv_row);
    }
}

/* The batch's tables on the device: those of another layer, or uploaded in place of the least recently used. */
static tables *device_tables(const call *c)
{
    struct q3_cudnn *cudnn = c->cudnn;
    tables wanted;
    int slot = 0;
    bool held = false;
    fill_tables(c, &wanted);
    for (int i = 0; i < SLOTS && !held; i++) {
        held = cudnn->held_used[i] && !memcmp(&cudnn->held[i], &wanted, sizeof wanted);
        if (held || cudnn->held_used[i] < cudnn->held_used[slot])
            slot = i;
    }
    if (!held) {
        cudnn->held[slot] = wanted;
        q3_cuda_upload(cudnn->cuda, cudnn->device + slot, &wanted, sizeof wanted);
    }
    cudnn->held_used[slot] = ++cudnn->clock;
    return cudnn->device + slot;
}

static void point_at_operands(const call *c, tables *t, void **pointers)
{
    pointers[Q3_CUDNN_Q] = (void *)c->a->q;
    pointers[Q3_CUDNN_K] = (void *)c->a->k;
    pointers[Q3_CUDNN_V] = (void *)c->a->v;
    pointers[Q3_CUDNN_O] = c->a->o;
    pointers[Q3_CUDNN_LENGTHS_Q] = t->lengths_q;
    pointers[Q3_CUDNN_LENGTHS_KV] = t->lengths_kv;
    pointers[Q3_CUDNN_OFFSETS_Q] = t->offsets_q;
    pointers[Q3_CUDNN_OFFSETS_KV] = t->offsets_kv;
    if (c->back) {
        pointers[Q3_CUDNN_DO] = (void *)c->back->dout;
        pointers[Q3_CUDNN_DQ] = c->back->dq;
        pointers[Q3_CUDNN_DK] = c->back->dk;
        pointers[Q3_CUDNN_DV] = c->back->dv;
    }
}

static bool launch(call *c)
{
    struct q3_cudnn *cudnn = c->cudnn;
    plan *p = plan_of(cudnn, &c->shape);
    tables *t = device_tables(c);
    void *pointers[Q3_CUDNN_TENSORS] = { NULL };
    char *area = area_for(cudnn, bytes_of(c, p)), why[Q3_CUDNN_SENTENCE];
    size_t scratch = lay_out(&c->shape, area, pointers);
    point_at_operands(c, t, pointers);
    const q3_cudnn_stats_args stats = { .stats = pointers[Q3_CUDNN_STATS],
                                        .lse = c->a->lse,
                                        .lengths = t->lengths_q,
                                        .first = t->first,
                                        .B = c->shape.B,
                                        .S = c->shape.S,
                                        .heads = c->shape.heads };
    if (c->back)
        q3_cudnn_lse_to_stats_cuda(&stats, cudnn->cuda);
    if (!q3_cudnn_graph_run(p->graph, cudnn->handle, pointers, c->a->scale, area + scratch, why)) {
        cudnn->broken = true;
        return refuse(cudnn, "%s", why);
    }
    if (c->shape.stats)
        q3_cudnn_stats_to_lse_cuda(&stats, cudnn->cuda);
    return true;
}

static call call_of(q3_cuda *cuda, const q3_attention_args *a)
{
    call c = { .cudnn = cuda->cudnn, .a = a };
    c.shape = (q3_cudnn_shape){
        .heads = a->heads, .kv_heads = a->kv_heads, .head_size = a->head_size, .causal = a->causal
    };
    return c;
}

bool q3_cudnn_attention_forward(const q3_attention_args *a, q3_cuda *cuda)
{
    call c = call_of(cuda, a);
    if (!c.cudnn || !takes(c.cudnn, a))
        return false;
    c.shape.stats = a->lse;
    q3_cudnn_use_device_cuda(cuda);
    return each_batch(&c, ready) && each_batch(&c, launch);
}

/* Rows that no query of a segment reaches get a gradient of zero. */
static void zero_gaps(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    int64_t queries = 0, keys = 0, D = b->f.head_size;
    for (int64_t i = 0; i < b->f.n_segments; i++) {
        const int64_t *s = b->f.segments + 4 * i;
        queries += s[1];
        keys += s[1] ? s[3] : 0;
    }
    if (queries != b->queries)
        q3_cuda_fill(cuda, b->dq, 0, q3_dtype_bytes(Q3_BF16, b->queries * b->f.heads * D));
    if (keys != b->keys) {
        q3_cuda_fill(cuda, b->dk, 0, q3_dtype_bytes(Q3_BF16, b->keys * b->f.kv_heads * D));
        q3_cuda_fill(cuda, b->dv, 0, q3_dtype_bytes(Q3_BF16, b->keys * b->f.kv_heads * D));
    }
}

bool q3_cudnn_attention_backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    call c = call_of(cuda, &b->f);
    if (!c.cudnn || !takes_backward(c.cudnn, b))
        return false;
    c.back = b;
    c.shape.backward = true;
    c.shape.deterministic = c.cudnn->deterministic;
    q3_cudnn_use_device_cuda(cuda);
    if (!each_batch(&c, ready))
        return false;
    zero_gaps(b, cuda);
    return each_batch(&c, launch);
}
