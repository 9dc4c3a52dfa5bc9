/* model/share.h - the share of a pass that is this rank's, where ranks share the tokens (model/split.h, sequence). */
#ifndef Q3_MODEL_SHARE_H
#define Q3_MODEL_SHARE_H

#include "model/forward.h"

typedef struct q3_share {
    bool cut;            /* false: everything is this rank's, and the rest is as it was */
    int64_t begin, end;  /* tokens of the pass */
    q3_forward forward;  /* with the runs of adapters that fall into the part */
    q3_kv kv;            /* with the part's queries; every rank stores the keys and values of all */
    int32_t *image_rows; /* [n_image_rows] of the part */
    int64_t n_image_rows;
    q3_vision_features vision; /* their features */
} q3_share;

/* Lists live in the step. `vision` may be NULL. */
q3_share q3_share_of(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                     const q3_vision_features *vision);

#endif
