/* collate/loader.h - batches made ahead of their use, by threads of their own.
 *
 * A batch is a pure function of (seed, epoch, index): epoch e takes the samples in the order of
 * torch.randperm under seed + e (transformers' sampler through accelerate), or in file order, and cuts it
 * into runs of batch_size; the last batch of an epoch may be short. So nothing depends on timing, and a
 * resumed run continues with the same batches.
 */
#ifndef Q3_COLLATE_LOADER_H
#define Q3_COLLATE_LOADER_H

#include "collate/pack.h"
#include "data/dataset.h"

typedef struct q3_loader_source {
    const q3_dataset *data;
    const q3_collator *collator;
    int64_t n_samples;  /* the first ones of the data set; at least 1 */
    int64_t batch_size; /* samples */
    bool training;      /* rows with targets; otherwise prompts */
    bool shuffle;
    uint64_t seed;
    bool (*wanted)(const void *arg,
                   int64_t number); /* is this batch to be made? Others come empty, with n_samples 0;
                                                        number = epoch * per_epoch + index. NULL: all */
    bool (*seen)(const void *arg,
                 int64_t index); /* need sample `index` of the data set not be decoded? A batch all of
                                                     whose samples are seen has grids and no patches. NULL: none */
    const void *arg, *seen_arg;
} q3_loader_source;

/* A batch on loan, valid until the next q3_loader_next. */
typedef struct q3_loaded {
    q3_batch batch;           /* n_rows 0 when every sample was skipped */
    int64_t epoch, index;     /* which one */
    int64_t n_samples;        /* samples looked at */
    const int64_t *indices;   /* [n_samples] in the data set */
    const q3_sample *samples; /* [n_samples] */
    const q3_row *rows;       /* [n_samples] */
    int64_t n_skipped, n_truncated;
} q3_loaded;

typedef struct q3_loader q3_loader;

/* Starts `threads` workers that keep up to `ahead` batches ready, beginning with batch `first` = epoch *
 * per_epoch + index; less than one of either counts as one. Pointers in `source` must outlive the loader. */
q3_status q3_loader_create(q3_loader **out, const q3_loader_source *source, int64_t first, int threads,
                           int ahead);
void q3_loader_destroy(q3_loader *loader); /* fine with NULL */

int64_t q3_loader_per_epoch(const q3_loader_source *source);

/* The next batch; runs on into further epochs. Errors are those of q3_dataset_get and q3_collate_row; the
 * batch behind a failed one can still be asked for. */
q3_status q3_loader_next(const q3_loaded **out, q3_loader *loader);

/* Seconds that q3_loader_next has waited for batches that were not ready, in all. */
double q3_loader_waited(const q3_loader *loader);

#endif
