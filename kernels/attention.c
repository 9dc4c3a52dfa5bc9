#include "kernels/attention.h"

#include <math.h>
#include <string.h>

/* One query head of one segment; the reference walks them one after the other. */
typedef struct pair {
    int64_t q_begin, q_len, kv_begin, kv_len;
    int h, kv;
} pair;

static pair pair_of(const q3_attention_args *a, int64_t segment, int h)
{
    const int64_t *s = a->segments + 4 * segment;
    return (pair){ s[0], s[1], s[2], s[3], h, h / (a->heads / a->kv_heads) };
}

static int64_t query_at(const q3_attention_args *a, const pair *p, int64_t i)
{
    return ((p->q_begin + i) * a->heads + p->h) * a->head_size;
}

static int64_t key_at(const q3_attention_args *a, const pair *p, int64_t j)
{
    return ((p->kv_begin + j) * a->kv_heads + p->kv) * a->head_size;
}

static double dot(const float *x, const float *y, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * y[i];
    return sum;
}

/* scale q_i.k_j */
static double score(const q3_attention_args *a, const pair *p, int64_t i, int64_t j)
{
    const float *q = a->q, *k = a->k;
    return (double)a->scale * dot(q + query_at(a, p, i), k + key_at(a, p, j), a->head_size);
}

/* log sum_j exp(s_ij); -INFINITY when the query sees no key. */
static double log_sum(const q3_attention_args *a, const pair *p, int64_t i)
{
    int64_t n = q3_attention_visible(a->causal, p->q_len, p->kv_len, i);
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        largest = fmax(largest, score(a, p, i, j));
    for (int64_t j = 0; j < n; j++)
        sum += exp(score(a, p, i, j) - largest);
    return n ? largest + log(sum) : -INFINITY;
}

static double probability(const q3_attention_args *a, const pair *p, int64_t i, int64_t j, double lse)
{
    return exp(score(a, p, i, j) - lse);
}

static void forward_row(const q3_attention_args *a, const pair *p, int64_t i)
{
    double o[Q3_ATTENTION_MAX_D] = { 0 }, lse = log_sum(a, p, i);
    int64_t n = q3_attention_visible(a->causal, p->q_len, p->kv_len, i), at = query_at(a, p, i);
    const float *v = a->v;
    float *out = a->o;
    for (int64_t j = 0; j < n; j++) {
        double w = probability(a, p, i, j, lse);
        for (int c = 0; c < a->head_size; c++)
            o[c] += w * v[key_at(a, p, j) + c];
    }
    for (int c = 0; c < a->head_size; c++)
        out[at + c] = (float)o[c];
    if (a->lse)
        a->lse[at / a->head_size] = n ? (float)lse : 0;
}

static void q3_attention_forward_reference(const q3_attention_args *a)
{
    for (int64_t s = 0; s < a->n_segments; s++)
        for (int h = 0; h < a->heads; h++) {
            pair p = pair_of(a, s, h);
            for (int64_t i = 0; i < p.q_len; i++)
                forward_row(a, &p, i);
        }
}

/* P_ij and dS_ij. */
static void weights_of(const q3_attention_backward_args *b, const pair *p, int64_t i, int64_t j, double *w,
                       double *ds)
{
    const q3_attention_args *a = &b->f;
    const float *dout = (const float *)b->dout + query_at(a, p, i), *v = a->v, *o = a->o;
    *w = probability(a, p, i, j, a->lse[query_at(a, p, i) / a->head_size]);
    *ds =
        *w * (dot(dout, v + key_at(a, p, j), a->head_size) - dot(dout, o + query_at(a, p, i), a->head_size));
}

static void backward_query(const q3_attention_backward_args *b, const pair *p, int64_t i)
{
    const q3_attention_args *a = &b->f;
    const float *k = a->k;
    float *to = (float *)b->dq + query_at(a, p, i);
    double dq[Q3_ATTENTION_MAX_D] = { 0 }, w, ds;
    int64_t n = q3_attention_visible(a->causal, p->q_len, p->kv_len, i);
    for (int64_t j = 0; j < n; j++) {
        weights_of(b, p, i, j, &w, &ds);
        for (int c = 0; c < a->head_size; c++)
            dq[c] += ds * k[key_at(a, p, j) + c];
    }
    for (int c = 0; c < a->head_size; c++)
        to[c] += (float)(a->scale * dq[c]);
}

/* Sums over the queries of all heads of the group of p->h, which is the group's first. */
static void backward_key(const q3_attention_backward_args *b, const pair *p, int64_t j)
{
    const q3_attention_args *a = &b->f;
    const float *q = a->q, *dout = b->dout;
    float *to_k = b->dk, *to_v = b->dv;
    double dk[Q3_ATTENTION_MAX_D] = { 0 }, dv[Q3_ATTENTION_MAX_D] = { 0 }, w, ds;
    pair member = *p;
    for (member.h = p->h; member.h < p->h + a->heads / a->kv_heads; member.h++)
        for (int64_t i = 0; i < p->q_len; i++) {
            if (j >= q3_attention_visible(a->causal, p->q_len, p->kv_len, i))
                continue;
            weights_of(b, &member, i, j, &w, &ds);
            for (int c = 0; c < a->head_size; c++) {
                dk[c] += ds * q[query_at(a, &member, i) + c];
                dv[c] += w * dout[query_at(a, &member, i) + c];
            }
        }
    for (int c = 0; c < a->head_size; c++) {
        if (to_k)
            to_k[key_at(a, p, j) + c] += (float)(a->scale * dk[c]);
        if (to_v)
            to_v[key_at(a, p, j) + c] += (float)dv[c];
    }
}

static void clear(float *x, float beta, int64_t n)
{
    if (x && beta == 0)
        memset(x, 0, (size_t)n * sizeof *x);
}

static void q3_attention_backward_reference(const q3_attention_backward_args *b)
{
    const q3_attention_args *a = &b->f;
    for (int64_t s = 0; s < a->n_segments; s++)
        for (int h = 0; h < a->heads; h++) {
            pair p = pair_of(a, s, h);
            for (int64_t i = 0; b->dq && i < p.q_len; i++)
                backward_query(b, &p, i);
            for (int64_t j = 0; (b->dk || b->dv) && h % (a->heads / a->kv_heads) == 0 && j < p.kv_len; j++)
                backward_key(b, &p, j);
        }
}

void q3_attention_forward_cpu(const q3_attention_args *a)
{
    Q3_DISPATCH(q3_attention_forward, a);
}

/* The passes below only add. */
void q3_attention_backward_cpu(const q3_attention_backward_args *a)
{
    int64_t width = (int64_t)a->f.kv_heads * a->f.head_size;
    clear(a->dq, a->dq_beta, a->queries * a->f.heads * a->f.head_size);
    clear(a->dk, a->dk_beta, a->keys * width);
    clear(a->dv, a->dv_beta, a->keys * width);
    Q3_DISPATCH(q3_attention_backward, a);
}
