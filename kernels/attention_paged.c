#include "kernels/attention_paged.h"

#include <math.h>

#include "kernels/attention.h"

static double at(const q3_attention_paged_args *a, const void *x, int64_t i)
{
    return a->dtype == Q3_BF16 ? q3_bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static void put(const q3_attention_paged_args *a, int64_t i, double x)
{
    if (a->dtype == Q3_BF16)
        ((uint16_t *)a->o)[i] = q3_f32_to_bf16((float)x);
    else
        ((float *)a->o)[i] = (float)x;
}

/* First element of key j of row r, as key head kv has it. */
static int64_t key_at(const q3_attention_paged_args *a, int64_t r, int j, int kv)
{
    int64_t key = (int64_t)a->tables[r * a->max_blocks + j / a->block] * a->block + j % a->block;
    return (key * a->kv_heads + kv) * a->head_size;
}

static double score(const q3_attention_paged_args *a, int64_t q, int64_t k)
{
    double sum = 0;
    for (int c = 0; c < a->head_size; c++)
        sum += at(a, a->q, q + c) * at(a, a->k, k + c);
    return a->scale * sum;
}

static void one_head(const q3_attention_paged_args *a, int64_t r, int h)
{
    double o[Q3_ATTENTION_MAX_D] = { 0 }, largest = -INFINITY, sum = 0;
    int64_t q = (r * a->heads + h) * a->head_size;
    int kv = h / (a->heads / a->kv_heads);
    for (int j = 0; j < a->lengths[r]; j++)
        largest = fmax(largest, score(a, q, key_at(a, r, j, kv)));
    for (int j = 0; j < a->lengths[r]; j++) {
        double w = exp(score(a, q, key_at(a, r, j, kv)) - largest);
        sum += w;
        for (int c = 0; c < a->head_size; c++)
            o[c] += w * at(a, a->v, key_at(a, r, j, kv) + c);
    }
    for (int c = 0; c < a->head_size; c++)
        put(a, q + c, sum > 0 ? o[c] / sum : 0);
}

void q3_attention_paged_cpu(const q3_attention_paged_args *a)
{
    for (int64_t r = 0; r < a->rows; r++)
        for (int h = 0; h < a->heads; h++)
            one_head(a, r, h);
}
