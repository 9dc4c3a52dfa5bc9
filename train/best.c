#include "train/best.h"

#include <math.h>

const char *q3_best_name(const q3_config_train *c)
{
    static const char *const names[] = { [Q3_CONFIG_METRIC_EVAL_LOSS] = "eval_loss",
                                         [Q3_CONFIG_METRIC_ACCURACY] = "gen_eval/accuracy",
                                         [Q3_CONFIG_METRIC_MACRO_F1] = "gen_eval/macro_f1",
                                         [Q3_CONFIG_METRIC_FORCED] = "gen_eval/forced_accuracy" };
    return names[c->metric_for_best_model];
}

bool q3_best_of_answers(const q3_config_train *c)
{
    return c->metric_for_best_model != Q3_CONFIG_METRIC_EVAL_LOSS;
}

double q3_best_value(const q3_log_entry *e, const q3_config_train *c)
{
    switch (c->metric_for_best_model) {
    case Q3_CONFIG_METRIC_ACCURACY:
        return e->accuracy;
    case Q3_CONFIG_METRIC_MACRO_F1:
        return e->macro_f1;
    case Q3_CONFIG_METRIC_FORCED:
        return e->forced_accuracy;
    case Q3_CONFIG_METRIC_EVAL_LOSS:
        break;
    }
    return e->loss;
}

bool q3_best_update(q3_state *s, double value, const q3_config_train *c)
{
    bool first = isnan(s->best_metric);
    bool better = q3_best_of_answers(c) ? value > s->best_metric : value < s->best_metric;
    bool best = first ? !isnan(value) : better;
    bool improved = first || (better && fabs(value - s->best_metric) > c->early_stopping_threshold);
    s->unimproved = improved ? 0 : s->unimproved + 1;
    if (best) {
        s->best_metric = value;
        s->best_step = s->step;
    }
    return best;
}

bool q3_best_enough(const q3_state *s, const q3_config_train *c)
{
    return c->early_stopping_patience > 0 && s->unimproved >= c->early_stopping_patience;
}
