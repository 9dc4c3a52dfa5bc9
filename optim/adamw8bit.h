/* optim/adamw8bit.h - AdamW with 8-bit moments, by the rules of bitsandbytes' CUDA kernels (kernels/adamw.h).
 *
 * Two bytes of state an element and eight a block of 256, instead of eight bytes an element. Tensors below
 * Q3_ADAMW_8BIT_MIN elements keep f32 moments, where the coding would save little and cost precision.
 */
#ifndef Q3_OPTIM_ADAMW8BIT_H
#define Q3_OPTIM_ADAMW8BIT_H

#include "kernels/adamw.h"
#include "optim/params.h"

enum { Q3_ADAMW_8BIT_MIN = 4096 }; /* bitsandbytes' min_8bit_size */

/* The moments of one tensor: codes and absmax, or f32 m and v; the other pointers are NULL. */
typedef struct q3_adamw8bit_state {
    uint8_t *code1, *code2;   /* [n] */
    float *absmax1, *absmax2; /* [ceil(n / 256)] */
    float *m, *v;             /* [n] */
} q3_adamw8bit_state;

/* p [n] and its moments are updated with g [n]; update number `step` counts from 1. */
void q3_adamw8bit_step(q3_cuda *cuda, float *p, const float *g, const q3_adamw8bit_state *s, int64_t n,
                       const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay);

#endif
