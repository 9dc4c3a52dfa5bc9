/* kernels/attention.h - softmax attention within segments, grouped query heads, block by block (Dao et al.,
 * arXiv:2205.14135; the backward pass of Dao, arXiv:2307.08691, without atomics).
 *
 *   s_ij = scale q_i.k_j    P_ij = exp(s_ij - L_i),  L_i = log sum_j exp(s_ij)    o_i = sum_j P_ij v_j
 *   dP_ij = do_i.v_j        dS_ij = P_ij (dP_ij - delta_i),  delta_i = do_i.o_i
 *   dq_i = scale sum_j dS_ij k_j      dk_j = scale sum_i dS_ij q_i      dv_j = sum_i P_ij do_i
 *
 * Query head h reads key head h / (heads / kv_heads); dk and dv sum over the query heads of a group. Causal:
 * query i of a segment sees its first kv_len - q_len + i + 1 keys. A query that sees no key gets zeros. Keys
 * and values outside the segments are never read.
 *
 * Segments: forward takes any; the op asks for queries in order without gaps, and backward for keys that
 * ascend and belong to one segment each, for each work item owns the rows that it writes. Items: forward and
 * dq take (segment, key head, block of queries and heads of the group), dk and dv take (segment, key head,
 * block of keys). Results do not depend on the number of threads.
 *
 * Cost forward: 4 D flops for each visible pair of a query head and a key, 10 D backward (14 D here: both
 * passes make the scores again). Memory: q, k, v, o once, and L; no [T, S] array exists. Compute-bound;
 * bandwidth-bound for single queries, which the fast source takes with its vectors along the head.
 *
 *   causal, 1 thread of an EPYC (Zen 5), forward / backward ms      portable      AVX2           AVX-512
 *   16 segments of 48, 4 heads of 32, 2 key heads                   0.48 / 1.6    0.27 / 0.87    0.17 / 0.76
 *   1 segment of 512, 16 heads of 128, 8 key heads                  40 / 131      18 / 56        7.2 / 28
 */
#ifndef Q3_KERNELS_ATTENTION_H
#define Q3_KERNELS_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

enum { Q3_ATTENTION_MAX_D = 256 };

typedef struct q3_attention_args {
    void *o;                 /* [T, heads D] */
    float *lse;              /* [T, heads]: L; NULL when not wanted */
    const void *q;           /* [T, heads D] */
    const void *k, *v;       /* [S, kv_heads D] */
    const int64_t *segments; /* host, [n_segments, 4]: first query, queries, first key, keys */
    const int64_t *device_segments; /* the same on the device; not looked at on the CPU */
    int64_t n_segments;
    int heads, kv_heads, head_size;
    float scale;
    bool causal;
    q3_dtype dtype; /* of all but lse and delta, which are f32 */
} q3_attention_args;

typedef struct q3_attention_backward_args {
    q3_attention_args f;             /* o and lse as forward left them; only read */
    const void *dout;                /* [T, heads D] */
    float *delta;                    /* [T, heads]: scratch */
    int64_t queries, keys;           /* T and S */
    void *dq, *dk, *dv;              /* like q, k, v; NULL when not wanted */
    float dq_beta, dk_beta, dv_beta; /* 0 overwrites all rows, those of no segment with zero; 1 adds */
} q3_attention_backward_args;

void q3_attention_forward_cpu(const q3_attention_args *a);
void q3_attention_backward_cpu(const q3_attention_backward_args *a);

Q3_DECLARE_SIMD(q3_attention_forward, q3_attention_args);
Q3_DECLARE_SIMD(q3_attention_backward, q3_attention_backward_args);

/* Keys that query i of a segment sees. */
static inline int64_t q3_attention_visible(bool causal, int64_t q_len, int64_t kv_len, int64_t i)
{
    int64_t n = causal ? kv_len - q_len + i + 1 : kv_len;
    return n < 0 ? 0 : n;
}

/* On the device; see kernels/cuda.h. */
void q3_attention_forward_cuda(const q3_attention_args *a, q3_cuda *cuda);
void q3_attention_backward_cuda(const q3_attention_backward_args *a, q3_cuda *cuda);

#endif
