/* optim/adamw.h - AdamW on flat f32 buffers, with the numbers of torch.optim.AdamW. */
#ifndef Q3_OPTIM_ADAMW_H
#define Q3_OPTIM_ADAMW_H

#include "kernels/adamw.h"
#include "optim/params.h"

/* The scalars of update number `step` (from 1), in double, then rounded once; the buffers are left NULL.
 * `decay` says whether weight decay applies. */
q3_adamw_args q3_adamw_scalars(const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay);

/* The same for the rules of bitsandbytes (32 and 8 bits): its CUDA kernels form 1 - beta in f32. */
q3_adamw_args q3_adamw_bnb_scalars(const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay);

/* p, m, v [n] are updated with g [n]; update number `step` counts from 1. */
void q3_adamw_step(q3_cuda *cuda, float *p, const float *g, float *m, float *v, int64_t n, const q3_adamw_hyper *hyper,
                   double lr, int64_t step, bool decay);

#endif
