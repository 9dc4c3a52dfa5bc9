/* tests/support/golden_prompts.h - the tiny golden models with the prompts and greedy answers that the reference gave. */
#ifndef Q3_SUPPORT_GOLDEN_PROMPTS_H
#define Q3_SUPPORT_GOLDEN_PROMPTS_H

#include "core/safetensors.h"
#include "core/tape.h"
#include "infer/prompt.h"
#include "model/weights.h"

enum { T_PROMPTS = 3, T_ANSWER = 24, T_MODELS = 2 };

/* A model and its golden prompts and answers. */
typedef struct t_bed {
    const char *dir; /* tests/golden/model-a */
    q3_cuda *cuda;   /* what Q3_TEST_DEVICE names; NULL: the CPU */
    q3_arena run, values, step;
    q3_model model;
    q3_ctx ctx;
    q3_safetensors *file;
    const int64_t *tokens; /* [T_PROMPTS, T_ANSWER] */
    q3_prompt prompts[T_PROMPTS];
} t_bed;

extern t_bed t_beds[T_MODELS];

/* cmocka's setup and teardown of a group. */
int t_beds_open(void **state);
int t_beds_close(void **state);

/* A prompt of text alone, of n ids that depend on the number. */
q3_prompt t_text_prompt(t_bed *t, int number, int64_t n);

#endif
