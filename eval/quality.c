#include "eval/quality.h"

#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "infer/divergence.h"

enum { ROWS = 16 }; // distributions of a pass: a vocabulary of 152 k takes 10 MB then, twice

/* ---- both engines over a window ---- */

/* [0]: the full one. */
typedef struct both {
    q3_engine *engine[2];
    q3_sequence *sequence[2];
    const q3_model_config *config;
} both;

static void end(both *b)
{
    for (int i = 0; i < 2; i++) {
        q3_sequence_destroy(b->sequence[i]);
        b->sequence[i] = NULL;
    }
}

static q3_status begin(both *b, const q3_prompt *prompt, int64_t more)
{
    for (int i = 0; i < 2; i++)
        Q3_TRY(q3_sequence_create(&b->sequence[i], b->engine[i], prompt, prompt->n + more));
    return Q3_OK;
}

/* The next n tokens through one engine. */
static q3_status feed(q3_feed *out, q3_engine *engine, q3_sequence *s, int64_t n, q3_want want)
{
    *out = (q3_feed){ .sequence = s, .n = n, .want = want };
    if (!q3_sequence_reserve(s, n))
        return q3_fail(Q3_ERR_MEMORY,
                       "the key/value cache has no room for %lld tokens more; lower the window",
                       (long long)n);
    return q3_engine_pass(engine, out, 1, NULL);
}

static q3_status compare_prompt(q3_divergence *out, both *b, const q3_prompt *prompt)
{
    q3_status st = begin(b, prompt, 0);
    for (int64_t at = 0; st == Q3_OK && at < prompt->n; at += ROWS) {
        const int64_t rows = prompt->n - at < ROWS ? prompt->n - at : ROWS;
        int32_t next[ROWS];
        q3_feed fed[2];
        for (int i = 0; st == Q3_OK && i < 2; i++)
            st = feed(&fed[i], b->engine[i], b->sequence[i], rows, Q3_WANT_ALL);
        for (int64_t i = 0; i < rows; i++)
            next[i] = at + i + 1 < prompt->n ? prompt->ids[at + i + 1] : -1;
        if (st == Q3_OK)
            q3_divergence_of(out + at, fed[0].values, fed[1].values, next, rows, b->config->text.vocab_size);
    }
    end(b);
    return st;
}

static bool is_end(const q3_model_config *c, int32_t id)
{
    for (int i = 0; i < c->generation.n_eos; i++)
        if (c->generation.eos[i] == id)
            return true;
    return false;
}

/* Tokens that both go on with alike, at most `most`. */
static q3_status common_prefix(int64_t *out, both *b, const q3_prompt *prompt, int64_t most)
{
    int64_t alike = 0;
    q3_status st = begin(b, prompt, most);
    for (int64_t fresh = prompt->n; st == Q3_OK && alike < most; fresh = 1) {
        q3_feed fed[2];
        for (int i = 0; st == Q3_OK && i < 2; i++)
            st = feed(&fed[i], b->engine[i], b->sequence[i], fresh, Q3_WANT_LIKELIEST);
        if (st != Q3_OK || fed[0].likeliest != fed[1].likeliest)
            break;
        alike = is_end(b->config, fed[0].likeliest) ? most : alike + 1;
        for (int i = 0; i < 2 && alike < most; i++)
            q3_sequence_push(b->sequence[i], &fed[0].likeliest, 1);
    }
    end(b);
    *out = alike;
    return st;
}

/* ---- all of them ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static q3_status summarize(q3_quality *out, const q3_divergence *p, int64_t n)
{
    double *kl = q3_calloc((size_t)n, sizeof *kl), loss[2] = { 0 };
    int64_t agreed = 0, predicted = 0;
    if (!kl)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        kl[i] = p[i].kl;
        out->kl_mean += p[i].kl / (double)n;
        agreed += p[i].agrees;
        if (isnan(p[i].loss_q))
            continue;
        loss[0] += p[i].loss_p;
        loss[1] += p[i].loss_q;
        predicted++;
    }
    qsort(kl, (size_t)n, sizeof *kl, by_value);
    out->kl_p99 = kl[(n - 1) * 99 / 100];
    out->kl_max = kl[n - 1];
    out->positions = n;
    out->predicted = predicted;
    out->agreement = (double)agreed / (double)n;
    out->perplexity_full = exp(loss[0] / (double)predicted);
    out->perplexity = exp(loss[1] / (double)predicted);
    q3_free(kl);
    return Q3_OK;
}

q3_prompt *q3_quality_windows(int *n, q3_arena *mem, const int32_t *ids, int64_t n_ids, int64_t window)
{
    *n = (int)((n_ids + window - 1) / window);
    q3_prompt *out = Q3_ZNEW(mem, q3_prompt, *n + 1);
    for (int i = 0; out && i < *n; i++) {
        const int64_t at = i * window;
        out[i] =
            (q3_prompt){ .ids = ids + at, .n = n_ids - at < window ? n_ids - at : window, .adapter = -1 };
    }
    return out;
}

q3_status q3_quality_compare(q3_quality *out, q3_engine *full, q3_engine *other, const q3_prompt *prompts,
                             int n_prompts, int64_t greedy)
{
    both b = { .engine = { full, other }, .config = &q3_engine_model(full)->config };
    int64_t tokens = 0, at = 0;
    for (int i = 0; i < n_prompts; i++)
        tokens += prompts[i].n;
    Q3_CHECK(tokens > n_prompts, "%lld tokens in %d prompts", (long long)tokens, n_prompts);
    Q3_CHECK(q3_engine_settings(full)->no_sharing && q3_engine_settings(other)->no_sharing,
             "%d prompts are to be computed whole", n_prompts);
    *out = (q3_quality){ .prompts = n_prompts, .prefix_most = greedy };
    q3_divergence *positions = q3_calloc((size_t)tokens, sizeof *positions);
    q3_status st = positions ? Q3_OK : Q3_ERR_MEMORY;
    for (int i = 0; st == Q3_OK && i < n_prompts; at += prompts[i++].n) {
        int64_t alike = 0;
        st = compare_prompt(positions + at, &b, &prompts[i]);
        st = st ? st : common_prefix(&alike, &b, &prompts[i], greedy);
        out->prefix += (double)alike / n_prompts;
    }
    st = st ? st : summarize(out, positions, tokens);
    q3_free(positions);
    return st;
}

static double gate_of(q3_dtype dtype)
{
    return q3_is_4bit(dtype) ? 0.1 : dtype == Q3_I8 ? 0.01 : 1e-3;
}

double q3_quality_gate(q3_dtype weights, q3_dtype cache)
{
    return fmax(gate_of(weights), gate_of(cache));
}
