#include "infer/divergence.h"

#include <math.h>

#include "kernels/pool.h"

/* log of the sum of exp(x). */
static double log_sum(const float *x, int64_t V)
{
    double top = (double)x[0], sum = 0;
    for (int64_t v = 1; v < V; v++)
        top = (double)x[v] > top ? (double)x[v] : top;
    for (int64_t v = 0; v < V; v++)
        sum += exp((double)x[v] - top);
    return top + log(sum);
}

static int64_t likeliest(const float *x, int64_t V)
{
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
        best = x[v] > x[best] ? v : best;
    return best;
}

static q3_divergence of_row(const float *p, const float *q, int32_t next, int64_t V)
{
    const double p_norm = log_sum(p, V), q_norm = log_sum(q, V);
    q3_divergence d = { .loss_p = (double)NAN,
                        .loss_q = (double)NAN,
                        .agrees = likeliest(p, V) == likeliest(q, V) };
    for (int64_t v = 0; v < V; v++) {
        const double log_p = (double)p[v] - p_norm;
        d.kl += exp(log_p) * (log_p - ((double)q[v] - q_norm));
    }
    d.kl = d.kl > 0 ? d.kl : 0; // rounding may leave -1e-17
    if (next >= 0) {
        d.loss_p = p_norm - (double)p[next];
        d.loss_q = q_norm - (double)q[next];
    }
    return d;
}

typedef struct job {
    q3_divergence *out;
    const float *p, *q;
    const int32_t *next;
    int64_t V;
} job;

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        j->out[i] = of_row(j->p + i * j->V, j->q + i * j->V, j->next[i], j->V);
}

void q3_divergence_of(q3_divergence *out, const float *p, const float *q, const int32_t *next, int64_t n,
                      int64_t V)
{
    job j = { out, p, q, next, V };
    q3_parallel(n, 1, run_rows, &j);
}
