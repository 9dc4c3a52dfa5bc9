/* kernels/cudnn_graph.h - attention as a cuDNN operation graph, and the plan that runs it.
 *
 * cuDNN has no attention call that knows a causal mask in both directions: it recognizes a graph of matrix products,
 * pointwise operations and reductions, which has to be put together in exactly the order its matcher expects (that of
 * NVIDIA/cudnn-frontend 3929da2, node/scaled_dot_product_flash_attention.h). Operands are bfloat16, sums float32.
 *
 * Rows are packed: sequence b of B has lengths_q[b] <= S queries that start offsets_q[b] *elements* into q, and
 * lengths_kv[b] <= S keys. A length may be 0, so one graph serves all batches of up to B sequences of up to S rows.
 * Causal means query i sees keys 0..i: a causal sequence has as many keys as queries.
 *
 * Building needs no device. Engines are asked for either the device of a handle or a description in JSON, as cuDNN
 * writes it (9.8 and later), so support can be checked on a machine without a GPU (tests/cudnn).
 */
#ifndef Q3_KERNELS_CUDNN_GRAPH_H
#define Q3_KERNELS_CUDNN_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cudnn_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a graph computes; equal fields, equal plan. */
typedef struct q3_cudnn_shape {
    int64_t B, S; /* sequences, and rows that each has room for */
    int heads, kv_heads, head_size;
    bool causal;
    bool backward;
    bool stats;         /* forward: also writes the log of the sums; backward always reads it */
    bool deterministic; /* backward: dq without atomic adds, for B heads S S 2 bytes of workspace */
} q3_cudnn_shape;

/* Everything a plan is given pointers of. Device memory, 16-byte aligned. */
typedef enum q3_cudnn_tensor {
    Q3_CUDNN_Q,          /* [T, heads D] bf16 */
    Q3_CUDNN_K,          /* [T, kv_heads D] bf16 */
    Q3_CUDNN_V,          /* like k */
    Q3_CUDNN_O,          /* like q: written by forward, read by backward */
    Q3_CUDNN_STATS,      /* [B, heads, S] f32: log sum exp, natural; finite in rows beyond the lengths too */
    Q3_CUDNN_LENGTHS_Q,  /* [B] i32 */
    Q3_CUDNN_LENGTHS_KV, /* [B] i32 */
    Q3_CUDNN_OFFSETS_Q,  /* [B + 1] i32 elements; also those of o */
    Q3_CUDNN_OFFSETS_KV, /* [B + 1] i32 elements */
    Q3_CUDNN_DO,         /* like o; this and the following: backward only */
    Q3_CUDNN_DQ,         /* like q */
    Q3_CUDNN_DK,         /* like k */
    Q3_CUDNN_DV,         /* like k */
    Q3_CUDNN_DQ_SUM,     /* [B, heads, S, D] f32 scratch; not if deterministic */
    Q3_CUDNN_ROW_DOT,    /* [B, heads, S] f32 scratch: do.o */
    Q3_CUDNN_SCALE,      /* numbers by value; q3_cudnn_graph_run fills these in */
    Q3_CUDNN_MINUS_INF,
    Q3_CUDNN_ONE,
    Q3_CUDNN_TENSORS
} q3_cudnn_tensor;

/* Buckets, so that a run compiles few plans. Rows: 256, 512, 768, 1024, 1536, 2048, 3072, ... at least `length`;
 * sequences: the power of two at least n. */
enum { Q3_CUDNN_FEWEST_ROWS = 256, Q3_CUDNN_MOST_SEQUENCES = 64 };
int64_t q3_cudnn_rows_bucket(int64_t length);
int64_t q3_cudnn_sequences_bucket(int64_t n);
/* Sequences of S rows that one launch may take, a power of two: what bounds its workspace. B is not looked at. */
int64_t q3_cudnn_most_sequences(const q3_cudnn_shape *shape);
/* Bytes of the tensors of a graph that are nobody's: stats, row dots, sum of dq. */
size_t q3_cudnn_scratch_bytes(const q3_cudnn_shape *shape, q3_cudnn_tensor which);

typedef struct q3_cudnn_config {
    int64_t engine;
    size_t workspace_bytes;
} q3_cudnn_config;

typedef struct q3_cudnn_graph q3_cudnn_graph;

/* Builds the graph and asks which engines run it, best first: on the device of `handle` or, where that is NULL, on the
 * one described by `device_json`. NULL with one sentence in `why` [Q3_CUDNN_SENTENCE] when there is none. */
q3_cudnn_graph *q3_cudnn_graph_create(const q3_cudnn_api *api, const q3_cudnn_shape *shape, void *handle,
                                      const char *device_json, char *why);
void q3_cudnn_graph_destroy(q3_cudnn_graph *g); /* NULL is fine */

int q3_cudnn_graph_configs(const q3_cudnn_graph *g); /* at least 1 */
q3_cudnn_config q3_cudnn_graph_config(const q3_cudnn_graph *g, int i);

/* Compiles the first engine that lets itself be compiled (about a second). */
bool q3_cudnn_graph_plan(q3_cudnn_graph *g, char *why);
size_t q3_cudnn_graph_workspace(const q3_cudnn_graph *g); /* bytes the plan wants */

/* Puts the plan on the handle's stream. pointers [Q3_CUDNN_TENSORS]: those that the graph does not have are ignored. */
bool q3_cudnn_graph_run(q3_cudnn_graph *g, void *handle, void *const *pointers, float scale, void *workspace,
                        char *why);

#ifdef __cplusplus
}
#endif

#endif
