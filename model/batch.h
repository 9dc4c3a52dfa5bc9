/* model/batch.h - what the network eats: rows of tokens laid end to end, no padding anywhere.
 *
 * All arrays are host memory owned by whoever made the batch (collate/), constant during the step. T tokens
 * in B rows, P patches of n_images pictures, M merged visual tokens (P / merge^2).
 */
#ifndef Q3_MODEL_BATCH_H
#define Q3_MODEL_BATCH_H

#include <stdint.h>

typedef struct q3_batch {
    int n_rows;               /* B */
    int64_t n_tokens;         /* T */
    const int64_t *row_begin; /* [B + 1]: row b is tokens row_begin[b] .. row_begin[b+1] */
    const int32_t *ids;       /* [T], each in [0, V) */
    const int32_t *labels;    /* [T], predicted by token t - 1; -100 where not trained. NULL: no loss */
    const int32_t *positions; /* [3, T]: time, height, width (docs/model.md) */
    int n_images;
    const int32_t *grids;      /* [n_images, 3]: frames, rows, columns of patches; rows and columns even */
    const float *patches;      /* [P, Cp], Cp = 3 tpatch patch^2, merge order */
    int64_t n_patches;         /* P */
    const int32_t *image_rows; /* [M]: the tokens that receive the merged visual tokens, ascending */
    int64_t n_image_rows;      /* M */
} q3_batch;

#endif
