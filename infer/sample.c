#include "infer/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

/* Once per distinct token; `done` has a bit for each. */
static void penalize(float *logits, int64_t vocab, const int32_t *seen, int64_t n, float penalty,
                     unsigned char *done)
{
    memset(done, 0, (size_t)(vocab + 7) / 8);
    for (int64_t i = 0; i < n; i++) {
        int32_t id = seen[i];
        if (id < 0 || id >= vocab || (done[id / 8] >> (id % 8) & 1))
            continue;
        done[id / 8] |= (unsigned char)(1u << (id % 8));
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

static void keep_at_least(float *logits, int64_t n, float least)
{
    for (int64_t i = 0; i < n; i++)
        if (logits[i] < least)
            logits[i] = -INFINITY;
}

/* Copies what is not dropped yet. */
static int64_t candidates(float *out, const float *logits, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (logits[i] > -INFINITY)
            out[kept++] = logits[i];
    return kept;
}

static void swap(float *a, float *b)
{
    float t = *a;
    *a = *b;
    *b = t;
}

/* The k-th largest of n values, k from 1; they are moved about (Hoare 1961, "Find"). */
static float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = x[lo + (hi - lo) / 2];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j)
                swap(&x[i++], &x[j--]);
        }
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            break;
    }
    return x[k - 1];
}

static void keep_top_k(float *logits, int64_t n, int k, float *scratch)
{
    int64_t kept = candidates(scratch, logits, n);
    if (k < kept)
        keep_at_least(logits, n, kth_largest(scratch, kept, k));
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Drops from the least likely upwards while what is dropped weighs at most 1 - p; one token always stays. */
static void keep_top_p(float *logits, int64_t n, float p, float *s)
{
    int64_t kept = candidates(s, logits, n);
    if (!kept)
        return;
    qsort(s, (size_t)kept, sizeof *s, descending);
    double total = 0, dropped = 0;
    for (int64_t i = 0; i < kept; i++)
        total += exp((double)s[i] - s[0]);
    while (kept > 1 && (dropped += exp((double)s[kept - 1] - s[0])) <= (1.0 - (double)p) * total)
        kept--;
    keep_at_least(logits, n, s[kept - 1]);
}

bool q3_sample_greedy(const q3_sampling *s)
{
    return !s->do_sample || s->temperature == 0;
}

/* Behind the penalties. */
static void warp(float *logits, int64_t vocab, const q3_sampling *s, float *scratch)
{
    if (q3_sample_greedy(s))
        return;
    if (s->temperature != 1)
        for (int64_t i = 0; i < vocab; i++)
            logits[i] /= s->temperature;
    if (s->top_k > 0)
        keep_top_k(logits, vocab, s->top_k, scratch);
    if (s->top_p < 1)
        keep_top_p(logits, vocab, s->top_p, scratch);
}

void q3_sample_penalize(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                        const q3_sampling *s, float *scratch)
{
    (void)n_prompt;
    if (s->repetition_penalty != 1)
        penalize(logits, vocab, seen, n_seen, s->repetition_penalty, (unsigned char *)scratch);
}

void q3_sample_filter(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, const q3_sampling *s,
                      float *scratch)
{
    q3_sample_penalize(logits, vocab, seen, n_seen, n_seen, s, scratch);
    warp(logits, vocab, s, scratch);
}

static int32_t likeliest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

int32_t q3_sample_draw(float *logits, int64_t vocab, const q3_sampling *s, uint32_t request,
                       uint32_t position, float *scratch)
{
    warp(logits, vocab, s, scratch);
    int32_t best = likeliest(logits, vocab);
    if (q3_sample_greedy(s))
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

int32_t q3_sample_next(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                       const q3_sampling *s, uint32_t request, uint32_t position, float *scratch)
{
    q3_sample_penalize(logits, vocab, seen, n_seen, n_prompt, s, scratch);
    return q3_sample_draw(logits, vocab, s, request, position, scratch);
}
