#include "optim/adamw8bit.h"

#include "core/device.h"
#include "optim/adamw.h"

void q3_adamw8bit_step(q3_cuda *cuda, float *p, const float *g, const q3_adamw8bit_state *s, int64_t n,
                       const q3_adamw_hyper *hyper, double lr, int64_t step, bool decay)
{
    q3_adamw_args a = q3_adamw_bnb_scalars(hyper, lr, step, decay);
    a.p = p;
    a.g = g;
    a.n = n;
    if (s->code1) {
        a.code1 = s->code1;
        a.code2 = s->code2;
        a.absmax1 = s->absmax1;
        a.absmax2 = s->absmax2;
        Q3_CALL_ON(cuda, q3_adamw_8bit, &a);
    } else {
        a.m = s->m;
        a.v = s->v;
        Q3_CALL_ON(cuda, q3_adamw_bnb, &a);
    }
}
