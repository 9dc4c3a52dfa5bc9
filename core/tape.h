/* core/tape.h - the context of a step, and reverse-mode differentiation.
 *
 * Calling an op computes at once and, while recording, leaves a node; q3_backward walks the nodes in reverse.
 * Two arenas: `data` holds values (device memory), `meta` holds headers and nodes (host memory). A gradient
 * buffer is returned to the context as soon as its node is done, so backward needs little more than forward.
 *
 * Activations and their gradients have the context's dtype, on the device of `data`. What an op computes is read on
 * the host through q3_read and q3_value only.
 *
 * When `data` is full the context keeps the first failure and goes on dry: later ops infer shapes and count
 * memory but compute nothing; q3_ctx_status reports it at the end. A dry run from the start gives the exact
 * memory plan.
 */
#ifndef Q3_CORE_TAPE_H
#define Q3_CORE_TAPE_H

#include "core/device.h"
#include "core/op.h"
#include "core/profile.h"

typedef struct q3_free_grad q3_free_grad;

/* Where a recorded pass reads what it uploads: host memory of the device's choice, filled again before each replay. */
typedef struct q3_uploads {
    char *buffer;
    size_t used, bytes;
} q3_uploads;

struct q3_ctx {
    q3_arena *data;      /* values of the step, on the device that computes */
    q3_arena meta;       /* headers, nodes, on the host */
    q3_dtype dtype;      /* of activations: F32; BF16 on CUDA */
    bool recording;      /* keep nodes for backward */
    bool dry;            /* count, do not compute */
    bool poison;         /* tests: fresh values are NaN */
    q3_uploads *uploads; /* while a pass is recorded or replayed (infer/replay.h); else NULL */
    bool replaying;      /* lay down uploads and find addresses, launch nothing */
    q3_node *last;       /* newest node of the tape */
    q3_free_grad *free;  /* gradient buffers to use again */
    q3_status failed;    /* first failure of the step */
    char sentence[512];  /* its sentence */
    const char *place;   /* the last parameter that an op has worked with, for messages */
    uint64_t seed;       /* of the run */
    uint64_t micro_step; /* counts micro-batches over the run: dropout differs in each */
    q3_profile *profile; /* where the time of ops is counted; NULL: nowhere */
};

/* `data` stays the caller's. */
q3_status q3_ctx_create(q3_ctx *out, q3_arena *data);
void q3_ctx_destroy(q3_ctx *ctx);

/* Forgets the tape and all values: what was returned by ops since the last begin is gone. Clears a
 * failure. */
void q3_step_begin(q3_ctx *ctx, bool recording);

/* The first failure since q3_step_begin. */
q3_status q3_ctx_status(q3_ctx *ctx);

/* A fresh tensor in the step, of the context's type; q3_new_f32 for what is f32 always. */
q3_tensor *q3_new_f32(q3_ctx *ctx, int ndim, const int64_t *shape);
q3_tensor *q3_new(q3_ctx *ctx, int ndim, const int64_t *shape);
q3_tensor *q3_new2(q3_ctx *ctx, int64_t rows, int64_t columns);
q3_tensor *q3_like(q3_ctx *ctx, const q3_tensor *x);

/* The same values under another shape; gradients flow through. */
q3_tensor *q3_view2(q3_ctx *ctx, q3_tensor *x, int64_t rows, int64_t columns);

/* Rows [begin, begin + n) of x where they lie. Not a view: no gradient flows. */
q3_tensor *q3_rows_of(q3_ctx *ctx, const q3_tensor *x, int64_t begin, int64_t n);

/* Scratch of an op on the device: uninitialized, lives until the end of the step or the op's own rewind. Never NULL. */
void *q3_scratch(q3_ctx *ctx, size_t bytes);

/* The same on the host, for tables that q3_on_device takes: not to be touched in a dry run. */
void *q3_host_scratch(q3_ctx *ctx, size_t bytes);

/* Zeroed host memory for what is known in a dry run too: segments, rows, a block's arguments. */
void *q3_list(q3_ctx *ctx, size_t bytes);

/* What the device sees of a host array: the array itself on the CPU, a copy in the step's memory elsewhere, made
 * now. In a dry run the array is not looked at. */
const void *q3_on_device(q3_ctx *ctx, const void *host, size_t bytes);

/* Values [rows, columns] of the host as an activation; on the CPU they are used in place and must outlive the step. */
q3_tensor *q3_input(q3_ctx *ctx, const float *values, int64_t rows, int64_t columns);

/* out [numel] = a tensor's values as f32 on the host; not in a dry run. q3_value: of a single value, NaN in a dry
 * run. q3_on_host: all values, in place where they lie on the host as f32, else copied into the step's host memory. */
void q3_read(float *out, q3_ctx *ctx, const q3_tensor *t);
float q3_value(q3_ctx *ctx, const q3_tensor *t);
float *q3_on_host(q3_ctx *ctx, const q3_tensor *t);

/* For ops: a node with up to five inputs (a sixth is put into in[5]), then (after out, saved and attr are set) q3_record
 * runs forward. */
q3_node *q3_node_new(q3_ctx *ctx, enum q3_op_id id, q3_tensor *a, q3_tensor *b, q3_tensor *c, q3_tensor *d,
                     q3_tensor *e);
q3_tensor *q3_record(q3_ctx *ctx, q3_node *n);

/* For backward functions: the buffer, of t's type, that receives the gradient of t, NULL when none is wanted (or t is
 * NULL). Writers must overwrite when *beta is 0 and add when it is 1; the buffer counts as written from here
 * on. */
void *q3_grad(q3_ctx *ctx, q3_tensor *t, float *beta);

/* Adds out's gradient to t's (copies when t has none yet). */
void q3_grad_add(q3_ctx *ctx, q3_tensor *t, q3_tensor *out);

/* The same for the last reader of out's gradient: hands the buffer over where it can. */
void q3_grad_pass(q3_ctx *ctx, q3_tensor *t, q3_tensor *out);

/* d loss / d everything that needs a gradient; loss is a single value, its own gradient is `seed`. */
void q3_backward(q3_ctx *ctx, q3_tensor *loss, float seed);

/* The same from any tensor whose gradient was written by the caller into q3_grad(). */
void q3_backward_from(q3_ctx *ctx, q3_tensor *out);

/* Gradient checkpointing: y = block(x), of x's shape. Only x and y are kept; backward runs the block again
 * with the same counters and gets the same bits (Chen et al., arXiv:1604.06174). Without recording it is a
 * way to drop what a block leaves behind. */
typedef q3_tensor *q3_block(q3_ctx *ctx, const void *arg, q3_tensor *x);
q3_tensor *q3_checkpoint(q3_ctx *ctx, q3_block *block, const void *arg, q3_tensor *x);

#endif
