#include "kernels/adamw.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/dynamic_map.h"
#include "kernels/pool.h"

static void torch_rule(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_adamw_args *a = arg;
    for (int64_t i = begin; i < end; i++) {
        float g = a->g[i], p = a->p[i] * a->decay;
        float m = a->m[i] + a->rest1 * (g - a->m[i]); // Tensor.lerp_
        float v = a->v[i] * a->beta2 + a->rest2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        a->p[i] = p + -a->rate * m / (sqrtf(v) / a->root + a->eps);
    }
}

static void bnb_rule(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_adamw_args *a = arg;
    for (int64_t i = begin; i < end; i++) {
        float g = a->g[i];
        float m = a->m[i] * a->beta1 + a->rest1 * g;
        float v = a->v[i] * a->beta2 + a->rest2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        a->p[i] = (a->p[i] + -a->rate * (m / (sqrtf(v) + a->eps))) * a->decay;
    }
}

/* Largest k with map[k] <= x, by eight halvings of [0, 256); then the nearer neighbour. */
uint8_t q3_dynamic_map_index(const float map[256], float x)
{
    if (isnan(x))
        return 0;
    int k = 0;
    for (int half = 128; half; half /= 2)
        k += x >= map[k + half] ? half : 0;
    if (k == 255)
        return 255;
    float middle = (map[k] + map[k + 1]) * 0.5f;
    bool up = x > middle || (x == middle && k % 2);
    return (uint8_t)(k + up);
}

static uint8_t code_of_m(float m, float absmax)
{
    uint8_t code = q3_dynamic_map_index(q3_dynamic_map_signed, m / absmax);
    if (!signbit(q3_dynamic_map_signed[code]) != !signbit(m))
        code = (uint8_t)(code + (m > 0 ? 1 : -1));
    return code;
}

static void update_block(const q3_adamw_args *a, int64_t block)
{
    int64_t begin = block * Q3_ADAMW_BLOCK;
    int count = (int)(a->n - begin < Q3_ADAMW_BLOCK ? a->n - begin : Q3_ADAMW_BLOCK);
    const float *g = a->g + begin;
    float *p = a->p + begin, m[Q3_ADAMW_BLOCK], v[Q3_ADAMW_BLOCK];
    uint8_t *code1 = a->code1 + begin, *code2 = a->code2 + begin;
    float absmax1 = 0, absmax2 = 0;
    for (int i = 0; i < count; i++) {
        bool skip = !isfinite(g[i]);
        float old_m = q3_dynamic_map_signed[code1[i]] * a->absmax1[block];
        float old_v = q3_dynamic_map_unsigned[code2[i]] * a->absmax2[block];
        m[i] = skip ? 0 : old_m * a->beta1 + a->rest1 * g[i];
        v[i] = skip ? 0 : old_v * a->beta2 + a->rest2 * g[i] * g[i];
        absmax1 = fmaxf(absmax1, fabsf(m[i]));
        absmax2 = fmaxf(absmax2, v[i]);
        if (!skip)
            p[i] = (p[i] + -a->rate * (m[i] / (sqrtf(v[i]) + a->eps))) * a->decay;
    }
    a->absmax1[block] = absmax1;
    a->absmax2[block] = absmax2;
    for (int i = 0; i < count; i++) {
        code1[i] = code_of_m(m[i], absmax1);
        code2[i] = q3_dynamic_map_index(q3_dynamic_map_unsigned, v[i] / absmax2);
    }
}

static void update_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t block = begin; block < end; block++)
        update_block(arg, block);
}

void q3_adamw_cpu(const q3_adamw_args *a)
{
    q3_parallel(a->n, 4096, torch_rule, (void *)(uintptr_t)a);
}

void q3_adamw_bnb_cpu(const q3_adamw_args *a)
{
    q3_parallel(a->n, 4096, bnb_rule, (void *)(uintptr_t)a);
}

void q3_adamw_8bit_cpu(const q3_adamw_args *a)
{
    int64_t blocks = (a->n + Q3_ADAMW_BLOCK - 1) / Q3_ADAMW_BLOCK;
    q3_parallel(blocks, 16, update_blocks, (void *)(uintptr_t)a);
}
