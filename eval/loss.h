/* eval/loss.h - the held-out loss as transformers' Trainer forms it: the mean over samples of the mean cross-entropy of
 * the batch they were in. So it depends on the batch size.
 */
#ifndef Q3_EVAL_LOSS_H
#define Q3_EVAL_LOSS_H

#include "infer/pictures.h"

typedef struct q3_loss_result {
    double loss;
    int64_t n_samples, n_batches;
    double seconds;
} q3_loss_result;

/* Progress: called after every batch; may be NULL. Returning another status than Q3_OK stops. */
typedef q3_status q3_eval_progress(void *arg, int64_t done, int64_t of);

typedef struct q3_eval_loss_args {
    q3_ctx *ctx; /* its step arena is used and left empty */
    const q3_model *model;
    q3_loader_source source;
    q3_pictures *pictures; /* of the source's data set; NULL: all are seen anew */
    q3_eval_progress *progress;
    void *arg; /* for `progress` */
} q3_eval_loss_args;

/* Runs over the source once, in file order, without dropout. Errors: those of the loader; Q3_ERR_FAIL when the loss is not
 * finite. */
q3_status q3_eval_loss(q3_loss_result *out, const q3_eval_loss_args *a);

#endif
