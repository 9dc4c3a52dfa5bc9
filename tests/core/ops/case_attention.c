#include <math.h>
#include <string.h>

#include "tests/support/op_case.h"

enum { MAX_SEGMENTS = 5 };

/* Segments as (queries, keys); keys lie one behind another with `gap` unused rows in front of each. */
static const struct {
    int heads, kv_heads, D, n, gap;
    bool causal;
    int64_t length[MAX_SEGMENTS][2];
} settings[] = {
    { 1, 1, 1, 1, 0, true, { { 1, 1 } } },
    { 4, 2, 32, 3, 0, true, { { 7, 7 }, { 48, 48 }, { 1, 1 } } },
    { 2, 1, 12, 4, 2, false, { { 33, 33 }, { 0, 0 }, { 7, 9 }, { 24, 65 } } },
    { 6, 2, 18, 3, 1, true, { { 5, 70 }, { 1, 33 }, { 66, 66 } } }, // cached prefixes
    { 3, 3, 16, 3, 0, true, { { 9, 4 }, { 3, 0 }, { 2, 2 } } },     // queries that see no key
    { 2, 2, 72, 2, 0, false, { { 20, 20 }, { 35, 35 } } },
    { 4, 2, 128, 1, 0, true, { { 97, 97 } } },
    { 2, 1, 16, 1, 0, true, { { 200, 210 } } },
    { 5, 1, 64, 2, 0, true, { { 1, 129 }, { 1, 40 } } }, // decoding
};

/* Unused keys and values are NaN, which must not reach the result. */
static void hide_unused(const q3_case *c, q3_tensor *t)
{
    const q3_segment *s = c->extra;
    int64_t C = q3_dim(t, -1);
    for (int i = 0; i < settings[c->variant].n; i++)
        for (int64_t k = (s[i].kv_begin - settings[c->variant].gap) * C; k < s[i].kv_begin * C; k++)
            q3_f32(t)[k] = NAN;
}

static void build(q3_case *c)
{
    int n = settings[c->variant].n, D = settings[c->variant].D;
    q3_segment *s = q3_case_alloc(c, (size_t)n * sizeof *s);
    int64_t queries = 0, keys = 0;
    for (int i = 0; i < n; i++) {
        const int64_t *length = settings[c->variant].length[i];
        keys += settings[c->variant].gap;
        s[i] = (q3_segment){ queries, length[0], keys, length[1] };
        queries += length[0];
        keys += length[1];
    }
    c->extra = s;
    c->in[0] = q3_case_matrix(c, queries, (int64_t)settings[c->variant].heads * D, 1);
    for (int i = 1; i < 3; i++)
        c->in[i] = q3_case_matrix(c, keys, (int64_t)settings[c->variant].kv_heads * D, 1);
    for (int i = 0; i < 3; i++)
        c->differentiable[i] = true;
    hide_unused(c, c->in[1]);
    hide_unused(c, c->in[2]);
}

static float scale_of(const q3_case *c)
{
    return 2 / sqrtf((float)settings[c->variant].D);
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_attention(ctx, c->in[0], c->in[1], c->in[2],
                        (q3_attention_attr){ .heads = settings[c->variant].heads,
                                             .kv_heads = settings[c->variant].kv_heads,
                                             .scale = scale_of(c),
                                             .causal = settings[c->variant].causal,
                                             .segments = c->extra,
                                             .n_segments = settings[c->variant].n });
}

/* One row: softmax over all keys, the hidden ones with weight zero. */
static void row(const q3_case *c, const q3_segment *s, int64_t i, int h, double *y)
{
    int H = settings[c->variant].heads, K = settings[c->variant].kv_heads, D = settings[c->variant].D,
        kv = h * K / H;
    const float *q = q3_f32(c->in[0]) + (s->q_begin + i) * H * D + (int64_t)h * D;
    double sum = 0, *o = y + (s->q_begin + i) * H * D + (int64_t)h * D;
    memset(o, 0, (size_t)D * sizeof *o);
    for (int64_t j = 0; j < s->kv_len; j++) {
        int64_t at = (s->kv_begin + j) * K * D + (int64_t)kv * D;
        double score = 0;
        for (int d = 0; d < D; d++)
            score += (double)q[d] * q3_f32(c->in[1])[at + d];
        bool sees = !settings[c->variant].causal || j - (s->kv_len - s->q_len) <= i;
        double w = sees ? exp(score * scale_of(c)) : 0;
        sum += w;
        for (int d = 0; d < D; d++)
            o[d] += w * q3_f32(c->in[2])[at + d];
    }
    for (int d = 0; d < D && sum > 0; d++)
        o[d] /= sum;
}

static void expected(const q3_case *c, double *y)
{
    const q3_segment *s = c->extra;
    for (int n = 0; n < settings[c->variant].n; n++)
        for (int64_t i = 0; i < s[n].q_len; i++)
            for (int h = 0; h < settings[c->variant].heads; h++)
                row(c, &s[n], i, h, y);
}

const q3_op_case q3_case_attention = { .variants = (int)(sizeof settings / sizeof *settings),
                                       .build = build,
                                       .apply = apply,
                                       .expected = expected };
