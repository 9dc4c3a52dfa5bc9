#include "kernels/attention_paged.h"

#include <math.h>

#include "kernels/attention.h"

/* One head of one query, and the tokens [first, end) that it sees. */
typedef struct query {
    int64_t at; // first element in q and o
    int64_t row;
    int kv;
    int64_t first, end;
} query;

static double query_value(const q3_attention_paged_args *a, int64_t i)
{
    return a->dtype == Q3_BF16 ? q3_bf16_to_f32(((const uint16_t *)a->q)[i]) : ((const float *)a->q)[i];
}

static void put(const q3_attention_paged_args *a, int64_t i, double x)
{
    if (a->dtype == Q3_BF16)
        ((uint16_t *)a->o)[i] = q3_f32_to_bf16((float)x);
    else
        ((float *)a->o)[i] = (float)x;
}

/* First element of token j. */
static int64_t key_at(const q3_attention_paged_args *a, const query *x, int64_t j)
{
    int64_t key = (int64_t)a->tables[x->row * a->max_blocks + j / a->block] * a->block + j % a->block;
    return (key * a->kv_heads + x->kv) * a->head_size;
}

static double score(const q3_attention_paged_args *a, const query *x, int64_t j)
{
    double sum = 0;
    int64_t k = key_at(a, x, j);
    for (int c = 0; c < a->head_size; c++)
        sum += query_value(a, x->at + c) * q3_kv_value(&a->k, k + c, a->head_size);
    return a->scale * sum;
}

static void one_query(const q3_attention_paged_args *a, const query *x)
{
    double o[Q3_ATTENTION_MAX_D] = { 0 }, largest = -INFINITY, sum = 0;
    for (int64_t j = x->first; j < x->end; j++)
        largest = fmax(largest, score(a, x, j));
    for (int64_t j = x->first; j < x->end; j++) {
        double w = exp(score(a, x, j) - largest);
        int64_t v = key_at(a, x, j);
        sum += w;
        for (int c = 0; c < a->head_size; c++)
            o[c] += w * q3_kv_value(&a->v, v + c, a->head_size);
    }
    for (int c = 0; c < a->head_size; c++)
        put(a, x->at + c, sum != 0 ? o[c] / sum : 0);
}

/* Items are the heads of the queries. */
static void some_queries(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_attention_paged_args *a = arg;
    int64_t r = 0;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int64_t t = i / a->heads;
        while (a->begins[r + 1] <= t)
            r++;
        int64_t sees = a->lengths[r] - a->begins[r + 1] + t + 1;
        int64_t first = a->window && sees > a->window ? sees - a->window : 0;
        query x = { i * a->head_size, r, (int)(i % a->heads) / (a->heads / a->kv_heads), first, sees };
        one_query(a, &x);
    }
}

static void q3_attention_paged_reference(const q3_attention_paged_args *a)
{
    q3_attention_paged_args copy = *a;
    if (a->rows > 0)
        q3_parallel((int64_t)a->begins[a->rows] * a->heads, 1, some_queries, &copy);
}

void q3_attention_paged_cpu(const q3_attention_paged_args *a)
{
    if (a->dtype == Q3_F32)
        Q3_DISPATCH(q3_attention_paged, a);
    else
        q3_attention_paged_reference(a);
}
