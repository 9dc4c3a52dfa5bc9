/* infer/ground.h - what a model stands on while it answers: a device, three arenas, and the context of a pass.
 *
 * Sessions and subjects begin with it. Words are those of the command line.
 */
#ifndef Q3_INFER_GROUND_H
#define Q3_INFER_GROUND_H

#include "core/tape.h"

typedef struct q3_ground_options {
    const char *device; /* auto, cpu, cuda, cuda:N; NULL: auto */
    const char *
        dtype; /* of activations: auto, float32, bfloat16 (f32, bf16); auto and NULL: bfloat16 on CUDA, float32 on
                              the CPU */
    const char *
        attention; /* on CUDA: auto, cudnn, flash, reference, and other programs' words for them; NULL: auto */
} q3_ground_options;

typedef struct q3_ground {
    q3_cuda *cuda;   /* NULL: the CPU */
    q3_arena run;    /* headers and names, on the host */
    q3_arena values; /* parameters, on the device */
    q3_arena step;   /* activations, on the device */
    q3_ctx ctx;
} q3_ground;

/* The struct stays where it is: its parts point at each other. Errors: Q3_ERR_USAGE, Q3_ERR_MEMORY; the caller closes it
 * after a failure too. */
q3_status q3_ground_open(q3_ground *out, const q3_ground_options *o);
void q3_ground_close(q3_ground *g); /* fine on a zeroed one */

/* Index of `word` in `words`, which end with NULL; the first for NULL. Q3_ERR_USAGE lists them, as what `option` must be. */
q3_status q3_word_find(int *out, const char *const *words, const char *word, const char *option);

#endif
