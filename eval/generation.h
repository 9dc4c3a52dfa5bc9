/* eval/generation.h - the model's own answers to a data set, and how often they are right.
 *
 * The prompts are answered side by side, one joining where another has met its end token; the answer is
 * read for a label (eval/answers.h) and compared with the sample's: that of its target, or its field
 * `label` where there is no target. Beside that, the forced choice: the probabilities of the labels' words
 * behind a fixed beginning of an answer, for a base model that was never tuned may not answer in the asked
 * form at all.
 *
 * A word counts with its closing quote, whatever else the token that begins with the quote holds ("}, ",):
 * the text up to there is what a label means, and how its tokens are cut differs between tokenizers.
 *
 * Errors begin with "evaluate_qwen3 failed: ".
 */
#ifndef Q3_EVAL_GENERATION_H
#define Q3_EVAL_GENERATION_H

#include "eval/loss.h"
#include "eval/metrics.h"
#include "infer/scheduler.h"

typedef struct q3_generation_options {
    q3_loader_source
        source; /* taken as prompts in file order, whatever `training` and `shuffle` say; batch_size of
                                them are answered at a time */
    int64_t max_new_tokens;
    q3_sampling
        sampling;       /* requests are numbered by sample; the seed also resamples the accuracy's interval */
    const int32_t *eos; /* [n_eos] any of them ends an answer */
    int n_eos;
    const char *const *labels; /* [n_labels] as the targets spell them */
    int n_labels;
    bool forced;               /* also the forced choice */
    const char *forced_prefix; /* what stands in front of the word; NULL: {"label": " */
} q3_generation_options;

typedef struct q3_prediction {
    const char *where;  /* "data/eval.jsonl:17" */
    const char *id;     /* NULL when the sample has none */
    const char *source; /* NULL when the sample has none */
    int64_t prompt_tokens;
    const int32_t *output_ids; /* [n_output], without the end token */
    int64_t n_output;
    bool ended;         /* by an end token, not by max_new_tokens */
    const char *output; /* [output_bytes] and a NUL: the text, without special tokens */
    size_t output_bytes;
    int gold; /* index into the labels */
    q3_answer answer;
    int forced;                 /* the likeliest label; -1: not asked for */
    const double *forced_probs; /* [n_labels], they sum to 1; NULL when not asked for */
} q3_prediction;

/* Owns all that it points to. */
typedef struct q3_evaluation {
    q3_arena mem;
    q3_labels *labels;
    q3_prediction *predictions; /* [n] in file order; samples that the collator skips are left out */
    int64_t n;
    q3_metrics metrics;
    double seconds;
} q3_evaluation;

/* `progress` is called with the samples done after every batch_size of them and the last; may be NULL. The key/value
 * cache is made for this evaluation and gone when it returns, for the weights may change; the context's step arena is
 * used and left empty. On failure there is nothing to free. Errors: those of the loader, the engine and the scheduler;
 * Q3_ERR_DATA (a sample whose label is none of the labels, named), Q3_ERR_USAGE (labels), Q3_ERR_MODEL (tokenizer and
 * model do not fit together). */
q3_status q3_evaluate(q3_evaluation *out, q3_ctx *ctx, const q3_model *model, const q3_tokenizer *tokenizer,
                      const q3_generation_options *options, q3_eval_progress *progress, void *arg);
void q3_evaluation_free(q3_evaluation *e); /* fine on a zeroed one */

/* Metrics from the predictions; the seed resamples the accuracy's interval. */
q3_status q3_evaluation_measure(q3_evaluation *e, uint64_t seed);

/* What the target of a sample means, or its label where it has no target: an index into the labels. Q3_ERR_DATA when that
 * is none of them; the sentence names the sample. */
q3_status q3_sample_gold(int *gold, const q3_labels *labels, const q3_sample *sample);

#endif
