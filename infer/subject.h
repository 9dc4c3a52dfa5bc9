/* infer/subject.h - a model made ready to be measured: weights, device and engine, without a tokenizer.
 *
 * What quality and bench begin with. Random weights need config.json alone.
 */
#ifndef Q3_INFER_SUBJECT_H
#define Q3_INFER_SUBJECT_H

#include "infer/engine.h"
#include "infer/ground.h"
#include "model/weights.h"

typedef struct q3_subject_options {
    const char *model;   /* directory */
    const char *weights; /* a word of q3_load_options_word; NULL: auto */
    const char *device;  /* NULL: auto */
    const char *dtype; /* of activations: auto, float32 or bfloat16; NULL: auto, as infer/session.h has it */
    bool random;       /* weights from `seed` */
    uint64_t seed;
    q3_engine_options engine;
} q3_subject_options;

typedef struct q3_subject {
    q3_ground ground;
    q3_model model;
    q3_engine *engine;
} q3_subject;

/* Nothing is left to free on failure. The struct stays where it is: its parts point at each other. */
q3_status q3_subject_open(q3_subject *out, const q3_subject_options *o);
void q3_subject_close(q3_subject *s); /* fine on a zeroed one */

#endif
