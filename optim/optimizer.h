/* optim/optimizer.h - the optimizer of a run: one flat f32 buffer of parameters, its gradients, its states.
 *
 * The trainer owns values and gradients, laid out by a table of tensors; the optimizer owns the states, which
 * live in the run arena. 8-bit states follow bitsandbytes: a tensor below 4096 elements keeps f32 states
 * (optim/adamw8bit.h). Where host and device memory are one, paged_adamw_8bit is adamw_8bit.
 * A step allocates nothing, and its result does not depend on the number of threads.
 */
#ifndef Q3_OPTIM_OPTIMIZER_H
#define Q3_OPTIM_OPTIMIZER_H

#include "core/device.h"
#include "kernels/dtype.h"
#include "optim/params.h"

typedef enum q3_optimizer_kind {
    Q3_OPTIMIZER_ADAMW,
    Q3_OPTIMIZER_ADAMW_8BIT,
    Q3_OPTIMIZER_PAGED_ADAMW_8BIT,
} q3_optimizer_kind;

/* One array of state, in the form in which a checkpoint keeps it. A loader may overwrite `data`
 * (q3_device_write). */
typedef struct q3_optimizer_state {
    const char *name; /* "state.<parameter>.exp_avg", .exp_avg_sq; 8 bits: .c1 .c2 .absmax1 .absmax2 */
    q3_dtype dtype;   /* Q3_F32 or Q3_U8 */
    int64_t n;
    void *data; /* on the device */
} q3_optimizer_state;

typedef struct q3_optimizer q3_optimizer;

/* States start at zero. `params` and the hyperparameters are copied, but for params->grads, which is not
 * looked at; names and values stay with the caller and must outlive the optimizer. States lie in `values`, an arena of
 * the device on which parameters and gradients are, the rest in `mem`. Dry `values` are only counted; with a dry `mem` the optimizer is NULL. Errors: Q3_ERR_USAGE (a hyperparameter out of
 * range), Q3_ERR_MEMORY. */
q3_status q3_optimizer_create(q3_optimizer **out, q3_arena *mem, q3_arena *values, q3_optimizer_kind kind,
                              const q3_params *params, const q3_adamw_hyper *hyper);

/* One update of all parameters; grads [params->total], laid out as the values. */
void q3_optimizer_step(q3_optimizer *optimizer, const float *grads, double lr);

/* Updates made so far, the t of bias correction; set it after loading states. */
int64_t q3_optimizer_steps(const q3_optimizer *optimizer);
void q3_optimizer_set_steps(q3_optimizer *optimizer, int64_t steps);

/* All states in table order, *n of them. Borrowed. */
const q3_optimizer_state *q3_optimizer_states(const q3_optimizer *optimizer, int *n);

#endif
