/* eval/metrics.h - how good a model's labels are.
 *
 * Every sample has a gold label; a prediction is a label, a word that is no label ("unknown" in a task of two
 * labels) or nothing at all, and the last two count as wrong. Ratios with a zero denominator are 0
 * (scikit-learn's zero_division=0). macro_f1 is the mean of F1 over all labels, macro_f1_present over those
 * that occur in the gold labels. Binary precision, recall and F1 are those of the label "sarcastic". The
 * interval of the accuracy is the 95 % percentile bootstrap (Efron 1979): 1000 resamples, numbered draws, so
 * it is a function of predictions and seed.
 */
#ifndef Q3_EVAL_METRICS_H
#define Q3_EVAL_METRICS_H

#include "core/json.h"
#include "eval/answers.h"

typedef struct q3_outcome {
    int gold;            /* index into the labels */
    q3_answer answer;    /* the generated answer */
    int forced;          /* label of highest forced probability; -1: not scored */
    double forced_score; /* two labels: forced probability of label 0, for the AUROC */
    const char *source;  /* group of the sample in by_source; NULL: none */
} q3_outcome;

typedef struct q3_label_scores {
    double precision, recall, f1;
    int64_t support;   /* gold labels of this kind */
    int64_t predicted; /* predictions of this kind */
} q3_label_scores;

typedef struct q3_source_scores {
    const char *name;
    int64_t n, correct;
} q3_source_scores;

typedef struct q3_metrics {
    const q3_labels *labels; /* borrowed */
    int64_t n;               /* samples */
    int64_t correct;
    int64_t failed; /* answers without any word */
    int64_t stages[Q3_ANSWER_STAGES];
    double accuracy;
    double interval[2]; /* of the accuracy, 95 % */
    double macro_f1, macro_f1_present;
    q3_label_scores label[Q3_LABELS_MAX];
    int sarcastic; /* index of the label "sarcastic", whose scores are the binary ones; -1: no such label */
    int64_t *confusion; /* [labels->n, labels->n + 2]: gold by predicted; then other words, then failed */
    q3_source_scores *sources;
    int n_sources;
    int64_t n_other; /* predictions of words that are no labels */
    bool has_forced, has_auroc;
    double forced_accuracy;
    double forced_auroc; /* two labels, both in the gold labels; ties count one half */
} q3_metrics;

/* All of it from n outcomes; arrays lie in `mem`. Errors: Q3_ERR_MEMORY, Q3_ERR_DATA (no samples). */
q3_status q3_metrics_compute(q3_metrics *out, q3_arena *mem, const q3_labels *labels,
                             const q3_outcome *outcomes, int64_t n, uint64_t seed);

/* One JSON object with the keys accuracy, accuracy_interval, macro_f1, macro_f1_present, precision_<label>,
 * recall_.., f1_.., support_.., binary_precision, binary_recall, binary_f1, pred_dist, gold_dist,
 * num_eval_samples, num_failed_preds, parse_stages, confusion_matrix, by_source, forced_accuracy,
 * forced_auroc; what does not apply is absent. Each line begins with `indent` blanks but the first. */
void q3_metrics_write(q3_text *out, const q3_metrics *m, int indent);

#endif
