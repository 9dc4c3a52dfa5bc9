#include "infer/sample.h"

#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "core/rng.h"

static void penalize(float *logits, int64_t vocab, const int32_t *seen, int64_t n, float penalty)
{
    // Once per distinct token: a token is done when it occurs earlier. Marking needs a bit per token.
    unsigned char *done = q3_calloc((size_t)(vocab + 7) / 8, 1);
    Q3_CHECK(done, "%s", q3_error());
    for (int64_t i = 0; i < n; i++) {
        int32_t id = seen[i];
        if (id < 0 || id >= vocab || (done[id / 8] >> (id % 8) & 1))
            continue;
        done[id / 8] |= (unsigned char)(1u << (id % 8));
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
    q3_free(done);
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static float *sorted(const float *logits, int64_t n)
{
    float *s = q3_malloc((size_t)n * sizeof *s);
    Q3_CHECK(s, "%s", q3_error());
    for (int64_t i = 0; i < n; i++)
        s[i] = logits[i];
    qsort(s, (size_t)n, sizeof *s, descending);
    return s;
}

static void keep_at_least(float *logits, int64_t n, float least)
{
    for (int64_t i = 0; i < n; i++)
        if (logits[i] < least)
            logits[i] = -INFINITY;
}

static void keep_top_k(float *logits, int64_t n, int k)
{
    if (k >= n)
        return;
    float *s = sorted(logits, n);
    keep_at_least(logits, n, s[k - 1]);
    q3_free(s);
}

/* Drops from the least likely upwards while what is dropped weighs at most 1 - p; one token always stays. */
static void keep_top_p(float *logits, int64_t n, float p)
{
    float *s = sorted(logits, n);
    double total = 0, dropped = 0;
    for (int64_t i = 0; i < n; i++)
        total += exp((double)s[i] - s[0]);
    int64_t kept = n;
    while (kept > 1 && (dropped += exp((double)s[kept - 1] - s[0])) <= (1.0 - (double)p) * total)
        kept--;
    keep_at_least(logits, n, s[kept - 1]);
    q3_free(s);
}

static bool greedy(const q3_sampling *s) { return !s->do_sample || s->temperature == 0; }

void q3_sample_filter(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, const q3_sampling *s)
{
    if (s->repetition_penalty != 1)
        penalize(logits, vocab, seen, n_seen, s->repetition_penalty);
    if (greedy(s))
        return;
    if (s->temperature != 1)
        for (int64_t i = 0; i < vocab; i++)
            logits[i] /= s->temperature;
    if (s->top_k > 0)
        keep_top_k(logits, vocab, s->top_k);
    if (s->top_p < 1)
        keep_top_p(logits, vocab, s->top_p);
}

static int32_t likeliest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

int32_t q3_sample_next(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, const q3_sampling *s,
                       uint32_t request, uint32_t position)
{
    q3_sample_filter(logits, vocab, seen, n_seen, s);
    int32_t best = likeliest(logits, vocab);
    if (greedy(s))
        return best;
    double total = 0, sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        total += exp((double)logits[i] - logits[best]);
    const q3_random r = { s->seed, Q3_RANDOM_SAMPLING, position, request & 0xFFFFFF };
    double u = q3_random_uniform(&r, 0) * total;
    for (int64_t i = 0; i < vocab; i++) {
        sum += exp((double)logits[i] - logits[best]);
        if (u < sum)
            return (int32_t)i;
    }
    return best;
}
