/* infer/features.h - what the vision tower sees in pictures, kept by hash on the device.
 *
 * A picture's features are M rows of the decoder's width for the embedding and for each deepstack layer. They lie in the
 * rows of one slab, wherever there is room; the pictures that were not asked for longest make it. An adapter that
 * changes the tower sees pictures in its own way.
 */
#ifndef Q3_INFER_FEATURES_H
#define Q3_INFER_FEATURES_H

#include "infer/prompt.h"
#include "model/forward.h"

typedef struct q3_features q3_features;

typedef struct q3_picture {
    const unsigned char *hash; /* [Q3_PICTURE_HASH_BYTES] */
    const int32_t *grid;       /* [3] */
    const float *patches;      /* [product of grid, Cp] */
    const q3_adapter *adapter; /* that sees it; NULL: the bare model */
} q3_picture;

/* `bytes` are kept at most, or as much as the pictures of one pass need; nothing is reserved before the first picture. Model
 * and context are borrowed. Error: Q3_ERR_MEMORY. */
q3_status q3_features_create(q3_features **out, const q3_model *model, q3_ctx *ctx, int64_t bytes);
void q3_features_destroy(q3_features *f); /* NULL is fine */

/* Merged patches of a picture. */
int64_t q3_picture_rows(const q3_model *model, const int32_t *grid);

/* Features of these pictures, with those that are not there yet seen now, together: steps of the context. They stay until
 * the next call. Errors: Q3_ERR_MEMORY, those of the context. */
q3_status q3_features_see(q3_features *f, const q3_picture *pictures, int n);

/* The places of rows [begin, begin + n) of a picture that was seen. */
void q3_features_rows(int32_t *out, const q3_features *f, const q3_picture *picture, int64_t begin,
                      int64_t n);

/* Within a step: the features at n places of q3_features_rows. */
q3_vision_features q3_features_take(const q3_features *f, q3_ctx *ctx, const int32_t *rows, int64_t n);

/* Pictures that went through the tower so far. */
int64_t q3_features_seen(const q3_features *f);

#endif
