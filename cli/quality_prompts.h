/* cli/quality_prompts.h - what quality judges by: windows of a text, or samples with their pictures and answers. */
#ifndef Q3_CLI_QUALITY_PROMPTS_H
#define Q3_CLI_QUALITY_PROMPTS_H

#include "infer/prompt.h"

typedef struct q3_quality_prompts {
    q3_arena mem; /* holds everything */
    q3_prompt *prompts;
    int n;
    int64_t longest; /* tokens */
} q3_quality_prompts;

typedef struct q3_quality_source {
    const char *dir; /* of the model: its tokenizer, and how it sees pictures */
    const q3_model_config *config;
    const char *text; /* file; NULL: the built-in text. Cut into windows */
    int64_t window;   /* tokens */
    const char
        *data; /* JSONL or a directory of pictures (data/dataset.h): in place of the text; NULL: the text */
    int64_t samples; /* most of them that are taken, from the first on */
} q3_quality_source;

/* Nothing is left to free on failure. Errors: Q3_ERR_DATA, Q3_ERR_MODEL, Q3_ERR_MEMORY. */
q3_status q3_quality_prompts_make(q3_quality_prompts *out, const q3_quality_source *source);
void q3_quality_prompts_free(q3_quality_prompts *p); /* fine on a zeroed one */

#endif
