/* optim/schedule.h - the learning rate of each step, to the last bit that of transformers' schedulers (4.57
 * and 5.17, optimization.py).
 *
 * With w warm-up steps of T, the update after `done` earlier ones uses lr * f(done):
 *   done < w: done / w (so the first step of a warm-up has rate 0), then with p = (done - w) / (T - w)
 *   linear 1 - p, cosine (1 + cos(pi p)) / 2, cosine_with_min_lr the same scaled into [min_lr_rate, 1],
 *   constant_with_warmup 1. constant is 1 throughout and knows no warm-up.
 */
#ifndef Q3_OPTIM_SCHEDULE_H
#define Q3_OPTIM_SCHEDULE_H

#include <stdint.h>

typedef enum q3_schedule_kind {
    Q3_SCHEDULE_LINEAR,
    Q3_SCHEDULE_COSINE,
    Q3_SCHEDULE_COSINE_WITH_MIN_LR,
    Q3_SCHEDULE_CONSTANT,
    Q3_SCHEDULE_CONSTANT_WITH_WARMUP,
} q3_schedule_kind;

typedef struct q3_schedule {
    q3_schedule_kind kind;
    double lr;            /* peak */
    double min_lr_rate;   /* cosine_with_min_lr: last rate as a part of the peak */
    int64_t warmup_steps; /* w */
    int64_t total_steps;  /* T */
} q3_schedule;

/* The rate of update number done + 1. */
double q3_schedule_lr(const q3_schedule *s, int64_t done);

/* ceil(total * ratio), as the Trainer forms it from warmup_ratio. */
int64_t q3_schedule_warmup(int64_t total, double ratio);

#endif
