#include "infer/sample.h"

#include <math.h>

#include "core/rng.h"

static bool inside(int32_t id, int64_t vocab)
{
    return id >= 0 && id < vocab;
}

/* Once per distinct token; `due` is 1 for those that are not done. */
static void penalize_repetition(float *logits, int64_t vocab, const int32_t *seen, int64_t n, float penalty,
                                float *due)
{
    for (int64_t i = 0; i < n; i++)
        if (inside(seen[i], vocab))
            due[seen[i]] = 1;
    for (int64_t i = 0; i < n; i++) {
        int32_t id = seen[i];
        if (!inside(id, vocab) || due[id] == 0)
            continue;
        due[id] = 0;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

/* OpenAI's: logit - frequency * count - presence, for what was answered. */
static void penalize_answer(float *logits, int64_t vocab, const int32_t *answer, int64_t n,
                            const q3_sampling *s, float *count)
{
    for (int64_t i = 0; i < n; i++)
        if (inside(answer[i], vocab))
            count[answer[i]] = 0;
    for (int64_t i = 0; i < n; i++)
        if (inside(answer[i], vocab))
            count[answer[i]]++;
    for (int64_t i = 0; i < n; i++) {
        int32_t id = answer[i];
        if (!inside(id, vocab) || count[id] == 0)
            continue;
        logits[id] -= s->frequency_penalty * count[id] + s->presence_penalty;
        count[id] = 0;
    }
}

void q3_sample_penalize(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                        const q3_sampling *s, float *scratch)
{
    if (s->repetition_penalty != 1)
        penalize_repetition(logits, vocab, seen, n_seen, s->repetition_penalty, scratch);
    if (s->presence_penalty != 0 || s->frequency_penalty != 0)
        penalize_answer(logits, vocab, seen + n_prompt, n_seen - n_prompt, s, scratch);
}

/* The first index from i on whose value is above `under`, n if there is none. Most are not, so blocks are asked first. */
static int64_t next_above(const float *x, int64_t i, int64_t n, float under)
{
    enum { BLOCK = 32 };
    for (; i + BLOCK <= n; i += BLOCK) {
        int some = 0;
        for (int k = 0; k < BLOCK; k++)
            some |= x[i + k] > under;
        if (some)
            break;
    }
    while (i < n && !(x[i] > under))
        i++;
    return i;
}

/* The lowest index on ties. */
static int32_t likeliest(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i = next_above(x, i + 1, n, x[best]))
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

static void swap(float *a, float *b)
{
    float t = *a;
    *a = *b;
    *b = t;
}

/* Moves x[lo .. hi] about: what is behind *j is at most `pivot`, what is before *i at least (Hoare 1961, "Find"). What
 * lies between them equals it. */
static void partition(float *x, int64_t lo, int64_t hi, float pivot, int64_t *i, int64_t *j)
{
    for (*i = lo, *j = hi; *i <= *j;) {
        while (x[*i] > pivot)
            ++*i;
        while (x[*j] < pivot)
            --*j;
        if (*i <= *j)
            swap(&x[(*i)++], &x[(*j)--]);
    }
}

/* The k-th largest of n values, k from 1; the k largest come to the front. */
static float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t lo = 0, hi = n - 1, i, j;
    while (lo < hi) {
        partition(x, lo, hi, x[lo + (hi - lo) / 2], &i, &j);
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            break;
    }
    return x[k - 1];
}

/* All thresholds below are the largest float that is dropped; -INFINITY drops what is dropped already. */
static float just_below(float least)
{
    return nextafterf(least, -INFINITY);
}

/* One pass: `best` holds what may be among the k largest, and is cut down to k whenever it has grown to twice as many. */
static float top_k_under(const float *logits, int64_t n, int64_t k, float *best)
{
    int64_t kept = 0;
    float least = -INFINITY; // the k-th largest so far: no other below or beside it changes the result
    if (k >= n)
        return least;
    for (int64_t i = next_above(logits, 0, n, least); i < n; i = next_above(logits, i + 1, n, least)) {
        best[kept++] = logits[i];
        if (kept == 2 * k) {
            least = kth_largest(best, kept, k);
            kept = k;
        }
    }
    return just_below(kept > k ? kth_largest(best, kept, k) : least);
}

static int64_t candidates(float *out, const float *logits, int64_t n, float under)
{
    int64_t kept = 0;
    for (int64_t i = next_above(logits, 0, n, under); i < n; i = next_above(logits, i + 1, n, under))
        out[kept++] = logits[i];
    return kept;
}

static double mass(const float *x, int64_t n, float top)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    return sum;
}

/* The least value that stays when the least likely go while what goes weighs at most 1 - p: the first from below that,
 * with everything below it, weighs more. Found by halving instead of sorting. */
static float top_p_least(float *x, int64_t n, float p, float top)
{
    double spare = (1.0 - (double)p) * mass(x, n, top);
    int64_t lo = 0, hi = n - 1, i, j;
    while (lo < hi) {
        partition(x, lo, hi, x[lo + (hi - lo) / 2], &i, &j);
        double below = mass(x + i, hi + 1 - i, top);
        if (below > spare) {
            lo = i;
            continue;
        }
        double middle = mass(x + j + 1, i - j - 1, top);
        if (below + middle > spare || j < lo) // j < lo: by rounding alone, all would go
            return x[j + 1];
        spare -= below + middle;
        hi = j;
    }
    return x[lo];
}

/* The least value that has at least min_p of the likeliest's probability (transformers' MinPLogitsWarper). */
static float min_p_least(const float *x, int64_t n, float min_p, float top)
{
    float least = top, far = top + logf(min_p) - 1; // surely dropped, without asking exp
    for (int64_t i = 0; i < n; i++)
        if (x[i] < least && x[i] > far && exp((double)x[i] - top) >= (double)min_p)
            least = x[i];
    return least;
}

static float largest(const float *x, int64_t n)
{
    return x[likeliest(x, n)];
}

/* Divides by the temperature; returns what is dropped, and everything below it, by top-k, top-p and min-p. */
static float warp(float *logits, int64_t vocab, const q3_sampling *s, float *scratch)
{
    if (s->temperature != 1)
        for (int64_t i = 0; i < vocab; i++)
            logits[i] /= s->temperature;
    float under = s->top_k > 0 ? top_k_under(logits, vocab, s->top_k, scratch) : -INFINITY;
    int64_t n = s->top_p < 1 || s->min_p > 0 ? candidates(scratch, logits, vocab, under) : 0;
    if (!n)
        return under;
    float top = largest(scratch, n), least = -INFINITY;
    if (s->top_p < 1)
        least = top_p_least(scratch, n, s->top_p, top);
    if (s->min_p > 0)
        least = fmaxf(least, min_p_least(scratch, n, s->min_p, top));
    return fmaxf(under, just_below(least));
}

bool q3_sample_greedy(const q3_sampling *s)
{
    return !s->do_sample || s->temperature == 0;
}

void q3_sample_filter(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                      const q3_sampling *s, float *scratch)
{
    q3_sample_penalize(logits, vocab, seen, n_seen, n_prompt, s, scratch);
    if (q3_sample_greedy(s))
        return;
    float under = warp(logits, vocab, s, scratch);
    for (int64_t i = 0; i < vocab; i++)
        logits[i] = logits[i] > under ? logits[i] : -INFINITY;
}

/* The id of the one that has `before` others above `under` in front of it. */
static int32_t id_of(const float *logits, int64_t vocab, float under, int64_t before)
{
    int64_t id = next_above(logits, 0, vocab, under);
    while (before--)
        id = next_above(logits, id + 1, vocab, under);
    return (int32_t)id;
}

int32_t q3_sample_draw(float *logits, int64_t vocab, const q3_sampling *s, uint32_t request,
                       uint32_t position, float *scratch)
{
    if (q3_sample_greedy(s))
        return likeliest(logits, vocab);
    float under = warp(logits, vocab, s, scratch);
    int64_t n = candidates(scratch, logits, vocab, under);
    if (!n)
        return 0;
    int32_t best = likeliest(scratch, n);
    float top = scratch[best];
    const q3_random r = { s->seed, Q3_RANDOM_SAMPLING, position, request & 0xFFFFFF };
    double u = q3_random_uniform(&r, 0) * mass(scratch, n, top), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)scratch[i] - top);
        if (u < sum)
            return id_of(logits, vocab, under, i);
    }
    return id_of(logits, vocab, under, best);
}

int32_t q3_sample_next(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                       const q3_sampling *s, uint32_t request, uint32_t position, float *scratch)
{
    q3_sample_penalize(logits, vocab, seen, n_seen, n_prompt, s, scratch);
    return q3_sample_draw(logits, vocab, s, request, position, scratch);
}

/* Puts a token in its place among the likeliest so far; what falls off the end is gone. */
static void rank(q3_logprob *top, int n, int32_t id, float logit)
{
    int at = n - 1;
    for (; at > 0 && !(top[at - 1].logprob >= logit); at--)
        top[at] = top[at - 1];
    top[at] = (q3_logprob){ id, logit };
}

void q3_logprobs(float *own, q3_logprob *top, int n_top, const float *logits, int64_t vocab, int32_t id)
{
    Q3_CHECK(n_top <= vocab && inside(id, vocab), "%d likeliest, id %d, vocabulary %lld", n_top, (int)id,
             (long long)vocab);
    int have = 0;
    for (int64_t i = 0; i < vocab && n_top > 0; i++) {
        if (have < n_top)
            rank(top, ++have, (int32_t)i, logits[i]);
        else if (logits[i] > top[n_top - 1].logprob)
            rank(top, n_top, (int32_t)i, logits[i]);
    }
    float most = n_top > 0 ? top[0].logprob : logits[likeliest(logits, vocab)];
    double all = log(mass(logits, vocab, most));
    for (int i = 0; i < n_top; i++)
        top[i].logprob = (float)((double)top[i].logprob - most - all);
    if (own)
        *own = (float)((double)logits[id] - most - all);
}

static void describe(q3_text *out, const char *name, float value, bool off)
{
    if (!off)
        q3_text_printf(out, ", %s %g", name, (double)value);
}

void q3_sampling_describe(q3_text *out, const q3_sampling *s)
{
    bool greedy = q3_sample_greedy(s);
    if (greedy)
        q3_text_printf(out, "greedy");
    else
        q3_text_printf(out, "temperature %g", (double)s->temperature);
    describe(out, "top-k", (float)s->top_k, greedy || s->top_k <= 0);
    describe(out, "top-p", s->top_p, greedy || s->top_p >= 1);
    describe(out, "min-p", s->min_p, greedy || s->min_p <= 0);
    describe(out, "repetition penalty", s->repetition_penalty, s->repetition_penalty == 1);
    describe(out, "presence penalty", s->presence_penalty, s->presence_penalty == 0);
    describe(out, "frequency penalty", s->frequency_penalty, s->frequency_penalty == 0);
    if (!greedy)
        q3_text_printf(out, ", seed %llu", (unsigned long long)s->seed);
}
