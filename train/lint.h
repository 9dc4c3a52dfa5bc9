/* train/lint.h - every sample of a run looked at as training and evaluation would see it, and all that is wrong told at
 * once: what q3_train would stop at, or skip, one by one.
 *
 * Pictures are decoded whole. A sample that would stop a run or be left out is a finding that counts; one that is
 * there twice, or in both data sets, is a warning. Sentences begin with file and line.
 */
#ifndef Q3_TRAIN_LINT_H
#define Q3_TRAIN_LINT_H

#include "eval/answers.h"
#include "train/trainer.h"

typedef enum q3_lint_kind {
    Q3_LINT_RECORD,  /* no JSON object, or a field is missing, empty or of a wrong type */
    Q3_LINT_PICTURE, /* cannot be read or decoded, or is beyond the processor's bounds */
    Q3_LINT_TEXT,    /* a control token in a text, no supervised token */
    Q3_LINT_LENGTH,  /* longer than collator.max_length */
    Q3_LINT_GOLD,    /* to be judged, and its target means none of eval.labels */
    Q3_LINT_LABEL,   /* from here on warnings. Its label is none of eval.labels, or its target means another */
    Q3_LINT_CUT,     /* collator.on_overflow cuts its answer */
    Q3_LINT_TWICE,   /* picture and question stand in the same data set before */
    Q3_LINT_LEAK,    /* an evaluation sample: picture and question stand in the training data */
    Q3_LINT_KINDS
} q3_lint_kind;

typedef struct q3_lint_about {
    const char *name;    /* "picture": of findings as data */
    const char *heading; /* which samples these are */
    const char *remedy;
} q3_lint_about;

extern const q3_lint_about q3_lint_kinds[Q3_LINT_KINDS];

static inline bool q3_lint_counts(q3_lint_kind kind)
{
    return kind < Q3_LINT_LABEL;
}

typedef struct q3_lint_finding {
    q3_lint_kind kind;
    int set;        /* index into sets */
    int64_t sample; /* in the data set, from 1 */
    char *sentence; /* heap */
} q3_lint_finding;

typedef struct q3_lint_range {
    int64_t min, median, max, total;
} q3_lint_range;

typedef struct q3_lint_set {
    const char *name, *path; /* "train", and where it lies; borrowed from config and trainer */
    int64_t n, usable;       /* samples; those without a finding that counts */
    q3_lint_range tokens, supervised; /* of the usable ones */
    int64_t n_pictures, n_sizes;      /* decoded pictures, and how many sizes they have */
    int smallest[2], largest[2];      /* width, height, by area */
    int64_t labels[Q3_LABELS_MAX];    /* usable samples by what their target means */
    int64_t unlabelled;               /* it means none of eval.labels */
} q3_lint_set;

typedef struct q3_lint {
    q3_lint_finding *findings; /* [n]: by kind, then data set, then sample; heap */
    int64_t n, counts[Q3_LINT_KINDS];
    q3_lint_set sets[2]; /* training, and evaluation where it is not a slice of the same */
    int n_sets;
    q3_labels labels;
    q3_trainer trainer; /* data and collator (q3_trainer_open_data) */
} q3_lint;

/* Looks at all samples, with the pool's threads. Errors are those of opening config, tokenizer and data sets; a bad sample
 * is none. Nothing is left to free on failure. */
q3_status q3_lint_run(q3_lint *out, q3_config *config);
void q3_lint_free(q3_lint *lint);

/* Samples that would stop a run or be left out. */
int64_t q3_lint_unusable(const q3_lint *lint);

#endif
