/* collate/pack.h - rows to a batch: packed for the engine, padded as the reference collator returns it.
 *
 * Both forms hold the same tokens; tests compare the padded one with the reference. Arrays live in the given
 * arena.
 */
#ifndef Q3_COLLATE_PACK_H
#define Q3_COLLATE_PACK_H

#include "collate/vision_sft.h"
#include "model/batch.h"

/* Lays rows end to end. Rows that are skipped are left out. labels is NULL when the rows are prompts, patches when those of
 * a row are not there (q3_collate_layout). */
q3_status q3_pack(q3_batch *out, q3_arena *mem, const q3_collator *c, const q3_row *const *rows, int n);

/* [B, L]; pads on the right for training, on the left for generation. */
typedef struct q3_padded {
    int64_t rows, length;
    int64_t *input_ids, *attention_mask, *labels; /* [B, L]; labels NULL for prompts */
    int64_t *image_grid_thw;                      /* [n_images, 3] */
    int64_t n_images;
    float *pixel_values; /* [n_patches, patch_width] */
    int64_t n_patches, patch_width;
} q3_padded;

q3_status q3_pad(q3_padded *out, q3_arena *mem, const q3_collator *c, const q3_row *const *rows, int n,
                 bool left);

/* The packed form of a padded batch, padded on either side: what `trace` reads. image_rows are the tokens
 * image_id and video_id. attention_mask, labels and pictures may be NULL. Errors: Q3_ERR_DATA. */
q3_status q3_unpad(q3_batch *out, q3_arena *mem, const q3_padded *p, int32_t image_id, int32_t video_id,
                   int merge);

#endif
