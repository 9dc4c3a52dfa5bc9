/* optim/params.h - what an optimizer sees of the trainable parameters: one flat buffer, a table of
 * tensors. */
#ifndef Q3_OPTIM_PARAMS_H
#define Q3_OPTIM_PARAMS_H

#include "core/status.h"

typedef struct q3_param {
    const char *name;
    int64_t offset; /* first element in the flat buffers */
    int64_t n;      /* elements */
    bool decay;     /* weight decay applies, see q3_param_decays */
} q3_param;

typedef struct q3_params {
    float *values; /* [total] */
    float *grads;  /* [total] */
    int64_t total;
    const q3_param *table; /* [n], disjoint runs of the buffers */
    int n;
} q3_params;

typedef struct q3_adamw_hyper {
    double beta1, beta2; /* in [0, 1) */
    double eps;          /* at least 0 */
    double weight_decay; /* at least 0; decoupled: each step multiplies by 1 - lr * weight_decay */
} q3_adamw_hyper;

/* Whether weight decay applies to a parameter of this name: biases and norms are left alone
 * (transformers 4.57 Trainer.get_decay_parameter_names). LoRA A and B decay. */
bool q3_param_decays(const char *name);

#endif
