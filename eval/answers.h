/* eval/answers.h - from what a model wrote to the label that it means.
 *
 * Words are compared in a normal form: ASCII lower case, every run of other characters than letters and
 * digits one underscore. The spellings of the sarcasm task have one name each: sarcastic, not_sarcastic (also
 * non-sarcastic, nonsarcastic, "is not sarcastic", ...) and unknown; when one of them is among the labels,
 * answers may also say yes, no, true, false or 1, 0, 2. Any other label stands for itself.
 *
 * An answer is read in stages; the first that yields a word names it:
 *   strict    the text, trimmed and without Markdown fence and <think> block, is a JSON object
 *   balanced  a JSON object stands somewhere in the text
 *   repaired  the object lacks its end, or has trailing commas, single quotes, True or False
 *   text      no object: whole words in the text, label words before yes and no, longer ones first
 *   failed    nothing of that
 * Of an object counts the first field present of label, labels, sarcastic, is_sarcastic, sarcasm. If its
 * value is no known word, only that value is searched as text; an object without such a field is searched for
 * label words.
 */
#ifndef Q3_EVAL_ANSWERS_H
#define Q3_EVAL_ANSWERS_H

#include "core/arena.h"

typedef enum q3_answer_stage {
    Q3_ANSWER_STRICT,
    Q3_ANSWER_BALANCED,
    Q3_ANSWER_REPAIRED,
    Q3_ANSWER_TEXT,
    Q3_ANSWER_FAILED,
    Q3_ANSWER_STAGES
} q3_answer_stage;

extern const char *const q3_answer_stage_names[Q3_ANSWER_STAGES];

enum { Q3_LABELS_MAX = 64, Q3_LABEL_BYTES = 64 };

typedef struct q3_labels {
    int n;
    const char *spelled[Q3_LABELS_MAX]; /* as the targets spell them; in the arena */
    const char *normal[Q3_LABELS_MAX];  /* normal form: keys of metrics; all different */
    bool sarcasm;                       /* sarcastic or not_sarcastic is among them */
} q3_labels;

typedef struct q3_answer {
    q3_answer_stage stage;
    int label;        /* index into the labels; -1: failed, or a word that is none of them ("unknown") */
    const char *word; /* normal form of the word; NULL when failed; lives as long as the labels */
} q3_answer;

/* Errors: Q3_ERR_USAGE (none, too many, too long, or two of one normal form), Q3_ERR_MEMORY. */
q3_status q3_labels_create(q3_labels *out, q3_arena *mem, const char *const *names, int n);

/* `text` of `size` bytes; anything may stand in it. Error: Q3_ERR_MEMORY. */
q3_status q3_answer_parse(q3_answer *out, const q3_labels *labels, const char *text, size_t size);

/* A label from the data: must be one of the labels in some spelling. Q3_ERR_DATA otherwise, the sentence
 * lists them; the caller puts the sample's name in front. */
q3_status q3_label_gold(int *out, const q3_labels *labels, const char *text);

#endif
