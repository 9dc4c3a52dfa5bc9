/* infer/replay.h - passes of the network that repeat: recorded once on a CUDA device, then launched in one call.
 *
 * A pass of decoding is a few hundred launches that differ from token to token in uploaded numbers only: ids, positions,
 * rows of the cache. The second pass of a shape is recorded (kernels/cuda.h: CUDA graphs); from the third on the same
 * model code runs with its launches left out, which lays the uploads down where the recording reads them, and the
 * recording is launched. Same kernels, same memory, same bits. The CPU just runs the pass.
 */
#ifndef Q3_INFER_REPLAY_H
#define Q3_INFER_REPLAY_H

#include "core/tape.h"
#include "model/adapters.h"

typedef struct q3_replays q3_replays;

enum {
    Q3_PASS_RUNS = 8,        /* of adapters, of a pass that is recorded */
    Q3_PASS_TABLE = 1 << 19, /* bytes of its table of blocks: half of what a recording may upload */
};

/* What launches depend on: equal shapes give equal launches. */
typedef struct q3_pass_shape {
    int64_t tokens, rows, want; /* fed, sequences, rows of logits */
    int64_t likeliest, candidates, hidden; /* rows of ids and of candidates found on the device, of hidden states */
    int64_t gather;                        /* 1: not all tokens' rows, or not in their order */
    int64_t blocks;                        /* width of the tables of a paged cache */
    q3_adapter_run runs[Q3_PASS_RUNS];
} q3_pass_shape;

/* Begins a step and runs the network; the result lies in the step. */
typedef q3_tensor *q3_pass(q3_ctx *ctx, void *arg);

/* NULL on the CPU; Q3_ERR_MEMORY. */
q3_status q3_replays_create(q3_replays **out, q3_ctx *ctx);
void q3_replays_destroy(q3_replays *r); /* NULL is fine */

/* Passes that were launched as recordings, so far; 0 for NULL. */
int64_t q3_replays_launched(const q3_replays *r);

/* Forgets all recordings: the memory that they work on has moved. */
void q3_replays_forget(q3_replays *r);

/* *out is what `pass` returns. Without `r`, or for a shape that is not worth it, the pass is simply run. Status of the
 * context. */
q3_status q3_replay(q3_tensor **out, q3_replays *r, q3_ctx *ctx, const q3_pass_shape *shape, q3_pass *pass,
                    void *arg);

#endif
