/* kernels/cudnn.h - attention through cuDNN: which calls it takes, how they become launches, what it needs.
 *
 * A call's segments are sorted by length into buckets of rows (kernels/cudnn_graph.h) and each bucket is launched in
 * batches, so that neither workspace nor plans depend on the longest segment of all. A plan is compiled the first time
 * its shape comes (about a second) and kept, the least recently used going first. What is launched depends on the
 * segments alone: same call, same bits, where backward is deterministic.
 *
 * cuDNN keeps the log of the sums as [B, heads, S] while ours is [T, heads]: a small kernel turns one into the other
 * on the way out of forward and into backward (packed logs are refused on sm_8x and sm_12x), so backward also goes
 * with the forward pass of the other kernels.
 */
#ifndef Q3_KERNELS_CUDNN_H
#define Q3_KERNELS_CUDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/cudnn_graph.h"

#ifdef __cplusplus
extern "C" {
#endif

struct q3_attention_args;
struct q3_attention_backward_args;

/* For cuda->cudnn. NULL with one sentence in `why` [Q3_CUDA_SENTENCE] where there is no cuDNN, or one too old. */
struct q3_cudnn *q3_cudnn_create(q3_cuda *cuda, char *why);
void q3_cudnn_destroy(struct q3_cudnn *cudnn); /* NULL is fine */

/* Whether cuDNN took the call (kernels/attention.h); if not, nothing is promised of the outputs and the own kernels
 * have to make them. It takes bfloat16 with a head size that is a multiple of 8, causal segments with as many keys as
 * queries (a cached prefix is not for it), and in backward all three gradients, overwritten. Not while recording: what
 * it knows of the segments is uploaded beside the launch. */
bool q3_cudnn_attention_forward(const struct q3_attention_args *a, q3_cuda *cuda);
bool q3_cudnn_attention_backward(const struct q3_attention_backward_args *a, q3_cuda *cuda);

/* Why the first call that was not taken was not; NULL while there was none. */
const char *q3_cudnn_refusal(q3_cuda *cuda);

/* Deterministic (the default) keeps backward from adding into dq in any order; over packed rows cuDNN 9.19 has that on
 * sm_90 only, and refuses elsewhere. */
void q3_cudnn_set_deterministic(q3_cuda *cuda, bool deterministic);

/* Bytes of workspace that one launch may want for segments of up to `longest` rows: the most over all buckets of
 * (heads, kv_heads, head_size, causal, backward, stats) of `shape`; 0 where cuDNN refuses them all. */
size_t q3_cudnn_workspace_bytes(q3_cuda *cuda, const q3_cudnn_shape *shape, int64_t longest);
/* Sets so many bytes of the device aside for attention, in place of those set aside before; cuda->workspace is used
 * where it is large enough. False, with nothing set aside, when the device has not got them. Not inside a step. */
bool q3_cudnn_reserve(q3_cuda *cuda, size_t bytes);

/* On the device: the log of the sums in cuDNN's form and in ours. Only the rows of sequences are written into lse; in
 * stats those beyond a sequence's length become 0. */
typedef struct q3_cudnn_stats_args {
    float *stats;           /* [B, heads, S] */
    float *lse;             /* [T, heads] */
    const int32_t *lengths; /* [B] */
    const int32_t *first;   /* [B]: row of lse that a sequence starts at */
    int64_t B, S;
    int heads;
} q3_cudnn_stats_args;

/* Makes the device the calling thread's own, as cuDNN expects. */
void q3_cudnn_use_device_cuda(q3_cuda *cuda);
void q3_cudnn_stats_to_lse_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda);
void q3_cudnn_lse_to_stats_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda);

#ifdef __cplusplus
}
#endif

#endif
