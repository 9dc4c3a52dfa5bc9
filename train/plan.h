/* train/plan.h - what a run takes of memory, found by running the largest batch dry.
 *
 * q3_trainer_plan (train/trainer.h) is what training does before its first step. Here the same code tells all it finds,
 * mostly of a trainer that is laid out only (q3_trainer_open_dry), so before any weight is read.
 */
#ifndef Q3_TRAIN_PLAN_H
#define Q3_TRAIN_PLAN_H

#include "train/trainer.h"

enum { Q3_PLAN_CHOICES = 3 }; /* gradient checkpointing: none, half, full */

extern const char *const q3_checkpointing_names[Q3_PLAN_CHOICES];

typedef struct q3_plan {
    const char *largest;         /* the sample that sets the peak: "train.jsonl:17"; in the trainer's memory */
    int64_t tokens, patches;     /* of it */
    int64_t rows;                /* samples of the largest batch; 0: the plan did not come so far */
    int64_t batch_tokens, batch_patches, batch_supervised;
    size_t step[Q3_PLAN_CHOICES]; /* bytes of the step arena */
    size_t free;                  /* bytes of the device; 0: not known, and everything is taken to fit */
    size_t kept;                  /* of these, what the run will fill besides the step */
    int choice;                   /* the first allowed one that fits; -1: none does */
    int64_t rows_that_fit;        /* samples of the largest batch that would fit with full; 0: none. Told when choice is -1 */
    size_t growth;                /* of the gradient tree in the first window */
    size_t features;              /* that will be kept of both data sets' pictures */
} q3_plan;

/* Error Q3_ERR_MEMORY with rows > 0: everything else is told, and nothing fits. */
q3_status q3_trainer_plan_all(q3_plan *out, q3_trainer *t);

#endif
