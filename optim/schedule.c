#include "optim/schedule.h"

#include <math.h>

static double at_least_one(int64_t n)
{
    return n > 1 ? (double)n : 1.0;
}

static double factor(const q3_schedule *s, int64_t done)
{
    int64_t w = s->warmup_steps, total = s->total_steps;
    if (s->kind == Q3_SCHEDULE_CONSTANT)
        return 1;
    if (done < w)
        return (double)done / at_least_one(w);
    if (s->kind == Q3_SCHEDULE_CONSTANT_WITH_WARMUP)
        return 1;
    if (s->kind == Q3_SCHEDULE_LINEAR)
        return fmax(0, (double)(total - done) / at_least_one(total - w));
    // Python's order of operations, which the last bit depends on: cos(pi * 0.5 cycles * 2 * progress)
    double progress = (double)(done - w) / at_least_one(total - w);
    double cosine = 0.5 * (1.0 + cos(3.141592653589793 * 0.5 * 2.0 * progress));
    if (s->kind == Q3_SCHEDULE_COSINE_WITH_MIN_LR)
        cosine = cosine * (1 - s->min_lr_rate) + s->min_lr_rate;
    return fmax(0, cosine);
}

double q3_schedule_lr(const q3_schedule *s, int64_t done)
{
    return s->lr * factor(s, done);
}

int64_t q3_schedule_warmup(int64_t total, double ratio)
{
    return (int64_t)ceil((double)total * ratio);
}
