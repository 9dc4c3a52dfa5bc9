#include "infer/replay.h"

#include <string.h>

#include "core/log.h"

enum {
    RECORDINGS = 32,        // kept at a time
    MOST_TOKENS = 64,       // of a pass that is worth it: launches cost more than work
    UPLOAD_BYTES = 1 << 20, // of a pass: tables of MOST_TOKENS tokens are a tenth of it
};

typedef struct recording {
    q3_pass_shape shape;
    int64_t passes; // of this shape so far; 0: the place is free
    int64_t last;   // number of the last one, of all passes
    void *graph;    // NULL until recorded
    bool refused;   // could not be recorded
    q3_uploads uploads;
} recording;

struct q3_replays {
    q3_cuda *cuda;
    int64_t passes, launched;
    recording places[RECORDINGS];
};

q3_status q3_replays_create(q3_replays **out, q3_ctx *ctx)
{
    *out = NULL;
    if (!ctx->data->cuda)
        return Q3_OK;
    *out = q3_calloc(1, sizeof **out);
    if (!*out)
        return Q3_ERR_MEMORY;
    (*out)->cuda = ctx->data->cuda;
    return Q3_OK;
}

static void forget(q3_replays *r, recording *p)
{
    q3_device_record_free(r->cuda, p->graph);
    q3_device_pinned_free(r->cuda, p->uploads.buffer);
    *p = (recording){ 0 };
}

void q3_replays_forget(q3_replays *r)
{
    for (int i = 0; r && i < RECORDINGS; i++)
        forget(r, &r->places[i]);
}

void q3_replays_destroy(q3_replays *r)
{
    q3_replays_forget(r);
    q3_free(r);
}

/* The place of a shape; a new one takes a free place or that of the shape that was not seen for longest. */
static recording *place_of(q3_replays *r, const q3_pass_shape *shape)
{
    recording *oldest = &r->places[0];
    for (int i = 0; i < RECORDINGS; i++) {
        recording *p = &r->places[i];
        if (p->passes && memcmp(&p->shape, shape, sizeof *shape) == 0)
            return p;
        if (p->last < oldest->last)
            oldest = p;
    }
    forget(r, oldest);
    oldest->shape = *shape;
    return oldest;
}

/* Runs the pass while its launches are recorded, then launches them. */
static q3_tensor *record(q3_replays *r, recording *p, q3_ctx *ctx, q3_pass *pass, void *arg)
{
    p->uploads = (q3_uploads){ .buffer = q3_device_pinned(r->cuda, UPLOAD_BYTES), .bytes = UPLOAD_BYTES };
    if (p->uploads.buffer) {
        ctx->uploads = &p->uploads;
        ctx->data->late = true;
        q3_device_record_begin(r->cuda);
        q3_tensor *out = pass(ctx, arg);
        p->graph = q3_device_record_end(r->cuda);
        ctx->data->late = false;
        ctx->uploads = NULL;
        if (p->graph && q3_ctx_status(ctx) == Q3_OK) {
            q3_device_replay(r->cuda, p->graph);
            return out;
        }
        q3_detail("a pass of %lld tokens is not recorded: %s", (long long)p->shape.tokens, q3_error());
        q3_device_status(r->cuda); // told; the pass is run again as it is
    }
    p->refused = true;
    return pass(ctx, arg);
}

static q3_tensor *replay(q3_replays *r, recording *p, q3_ctx *ctx, q3_pass *pass, void *arg)
{
    p->uploads.used = 0;
    ctx->uploads = &p->uploads;
    ctx->replaying = ctx->data->late = true;
    q3_tensor *out = pass(ctx, arg);
    ctx->replaying = ctx->data->late = false;
    ctx->uploads = NULL;
    q3_device_replay(r->cuda, p->graph);
    r->launched++;
    return out;
}

int64_t q3_replays_launched(const q3_replays *r)
{
    return r ? r->launched : 0;
}

q3_status q3_replay(q3_tensor **out, q3_replays *r, q3_ctx *ctx, const q3_pass_shape *shape, q3_pass *pass,
                    void *arg)
{
    if (!r || shape->tokens > MOST_TOKENS) {
        *out = pass(ctx, arg);
        return q3_ctx_status(ctx);
    }
    recording *p = place_of(r, shape);
    p->last = ++r->passes;
    p->passes++;
    if (p->graph)
        *out = replay(r, p, ctx, pass, arg);
    else if (p->passes == 2 && !p->refused) // the first has made every allocation that a pass may make
        *out = record(r, p, ctx, pass, arg);
    else
        *out = pass(ctx, arg);
    Q3_TRY(q3_ctx_status(ctx));
    return q3_device_status(r->cuda);
}
