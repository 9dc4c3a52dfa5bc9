/* kernels/attention_paged.h - attention of single queries to keys and values that lie in blocks of a shared slab
 * (Kwon et al., arXiv:2309.06180): decoding.
 *
 *   o_r = sum_j softmax_j(scale q_r.k_j) v_j      j in [0, lengths_r), at row tables[r][j / block] block + j % block
 *
 * Row r is one sequence's newest query; it sees all its keys. lengths_r = 0: o_r is zero and the table is not read. On
 * the device lengths and tables are read by the kernels, and the launch depends on rows and max_blocks alone, so that
 * a recording (q3_cuda_record_begin) can be replayed as sequences grow.
 *
 * Cost: keys and values once for each group of up to 4 query heads. Bandwidth-bound.
 */
#ifndef Q3_KERNELS_ATTENTION_PAGED_H
#define Q3_KERNELS_ATTENTION_PAGED_H

#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_attention_paged_args {
    void *o;                /* [rows, heads D] */
    const void *q;          /* [rows, heads D] */
    const void *k, *v;      /* [n_blocks block, kv_heads D] */
    const int32_t *tables;  /* [rows, max_blocks]: the blocks of each sequence in order */
    const int32_t *lengths; /* [rows], at most max_blocks block */
    int64_t rows;
    int max_blocks, block; /* block: keys in one */
    int heads, kv_heads, head_size;
    float scale;
    q3_dtype dtype; /* of o, q, k, v: F32, BF16 */
} q3_attention_paged_args;

/* double accumulators; the oracle of the device's. */
void q3_attention_paged_cpu(const q3_attention_paged_args *a);

/* On the device; see kernels/cuda.h. Head sizes up to 256 whose rows are whole pieces of 16 bytes. */
void q3_attention_paged_cuda(const q3_attention_paged_args *a, q3_cuda *cuda);

#endif
