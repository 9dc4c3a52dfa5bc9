#include "optim/adamw.h"

#include <math.h>

#include "core/device.h"

q3_adamw_args q3_adamw_scalars(const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay)
{
    double correction1 = 1 - pow(hyper->beta1, (double)step);
    double correction2 = sqrt(1 - pow(hyper->beta2, (double)step));
    return (q3_adamw_args){
        .beta1 = (float)hyper->beta1,
        .beta2 = (float)hyper->beta2,
        .rest1 = (float)(1 - hyper->beta1),
        .rest2 = (float)(1 - hyper->beta2),
        .rate = (float)(lr / correction1),
        .root = (float)correction2,
        .eps = (float)hyper->eps,
        .decay = decay ? (float)(1 - lr * hyper->weight_decay) : 1.0f,
    };
}

q3_adamw_args q3_adamw_bnb_scalars(const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay)
{
    double correction1 = 1 - pow(hyper->beta1, (double)step);
    double correction2 = sqrt(1 - pow(hyper->beta2, (double)step));
    q3_adamw_args a = q3_adamw_scalars(hyper, lr, step, decay);
    a.rest1 = 1 - a.beta1;
    a.rest2 = 1 - a.beta2;
    a.rate = (float)(lr * correction2 / correction1);
    a.eps = (float)(hyper->eps * correction2);
    return a;
}

void q3_adamw_step(q3_cuda *cuda, float *p, const float *g, float *m, float *v, int64_t n, const q3_adamw_hyper *hyper,
                   double lr, int64_t step, bool decay)
{
    q3_adamw_args a = q3_adamw_scalars(hyper, lr, step, decay);
    a.p = p;
    a.g = g;
    a.m = m;
    a.v = v;
    a.n = n;
    Q3_CALL_ON(cuda, q3_adamw, &a);
}
