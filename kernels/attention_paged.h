/* kernels/attention_paged.h - causal attention of new queries to keys and values that lie in blocks of a shared
 * slab (Kwon et al., arXiv:2309.06180): decoding, and chunks of prompts.
 *
 *   o_i = sum_j softmax_j(scale q_i.k_j) v_j      j at row tables[r][j / block] block + j % block
 *
 * Row r is one sequence: queries begins[r] .. begins[r + 1], the last of which is token lengths_r - 1; query i sees the
 * tokens up to its own, and with a window the last `window` of these. lengths_r = 0: no queries. On the device lengths
 * and tables are read by the kernels, and for single queries (most_queries 1) the launch depends on rows and max_blocks
 * alone, so that a recording (q3_cuda_record_begin) can be replayed as sequences grow.
 *
 * The bits of a query's output depend on its own sequence alone, not on how its tokens are cut into passes: keys are
 * taken in runs that begin at multiples of a fixed number. On the device rows of more than 4 bf16 queries without a
 * window go to the kernels with tensor cores, with other bits, if the keys that a row may have fit the workspace; all
 * other queries are taken one by one.
 *
 * Cost: keys and values once for each group of query heads and block of queries. Bandwidth-bound for single queries.
 *
 *   1 thread of a busy EPYC (Zen 3), 16 heads of 128, 8 key heads; it reads memory at 8 GB/s
 *                                                                      f32       bf16      int8       int4
 *   1 query each of 8 sequences of 1024 tokens, AVX2 / portable, ms    14 / 16   11 / 11   8.5 / 11   7.7 / 13
 *   the last 256 of 1024 tokens, AVX2 / portable, GFLOP/s              36 / 16   38 / 18   40 / 15    34 / 13
 */
#ifndef Q3_KERNELS_ATTENTION_PAGED_H
#define Q3_KERNELS_ATTENTION_PAGED_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/kv_cache.h"
#include "kernels/pool.h"

typedef struct q3_attention_paged_args {
    void *o;               /* [T, heads D] */
    const void *q;         /* [T, heads D] */
    q3_kv_slab k, v;       /* [n_blocks block, kv_heads D] */
    const int32_t *tables; /* [rows, max_blocks]: the blocks of each sequence in order */
    const int32_t
        *lengths; /* [rows]: tokens of the sequence, the new ones included; at most max_blocks block */
    const int32_t *begins; /* [rows + 1]: where the queries of each begin */
    int64_t rows;
    int64_t most_queries;  /* of a row */
    int max_blocks, block; /* block: keys in one */
    int heads, kv_heads, head_size;
    int64_t window; /* tokens that a query sees, itself included; 0: all */
    float scale;
    q3_dtype dtype; /* of o and q: F32, BF16 */
} q3_attention_paged_args;

/* double accumulators; the oracle of the others. Fast levels: f32 activations. */
void q3_attention_paged_cpu(const q3_attention_paged_args *a);

Q3_DECLARE_SIMD(q3_attention_paged, q3_attention_paged_args);

/* On the device; see kernels/cuda.h. Head sizes up to 256 whose rows are whole pieces of 16 bytes. Rows with more than
 * one query are served as well, by whatever is fast. */
void q3_attention_paged_cuda(const q3_attention_paged_args *a, q3_cuda *cuda);

#endif
