/* infer/pictures.h - what a frozen vision tower has made of a data set's pictures, kept from epoch to epoch.
 *
 * The first pass over a sample runs the tower and leaves its features here, in host memory; later batches, once all
 * their samples are known, are neither decoded (q3_loader_source.seen) nor run through the tower. On the CPU the
 * features of a picture of more than Q3_GEMM_FEW tokens do not depend on the batch it came in (kernels/gemm.h), so the bits
 * are those of running the tower again; smaller ones are not kept. cuBLASLt promises no such thing. When the memory is used
 * up the rest of the data set is seen anew each time.
 */
#ifndef Q3_INFER_PICTURES_H
#define Q3_INFER_PICTURES_H

#include "collate/loader.h"
#include "model/qwen3vl.h"

typedef struct q3_pictures q3_pictures;

/* For the samples of one data set; at most `bytes` of features. *out is NULL, and nothing is kept, where bytes is 0, the model has
 * no tower, or its tower is trained. The model is borrowed. Error: Q3_ERR_MEMORY. */
q3_status q3_pictures_create(q3_pictures **out, const q3_model *model, int64_t n_samples, size_t bytes);
void q3_pictures_destroy(q3_pictures *p); /* NULL is fine */

/* Tells a loader that serves this data set what need not be decoded; NULL is fine. */
void q3_pictures_attach(q3_loader_source *source, const q3_pictures *p);

/* Counts a picture of as many tokens as if its features of this type were kept: for a plan, not for a run. */
void q3_pictures_count(q3_pictures *p, q3_dtype dtype, int64_t tokens);
/* What features take that are kept, or counted; NULL is fine. */
size_t q3_pictures_bytes(const q3_pictures *p);

/* The features of a batch's pictures, within the step that has begun: recalled, or made by the tower and kept. False
 * where the batch has no pictures or `p` is NULL: the network sees to itself then. */
bool q3_pictures_features(q3_vision_features *out, q3_pictures *p, q3_ctx *ctx, const q3_forward *f,
                          const q3_loaded *l);

#endif
