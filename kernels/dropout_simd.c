#include "kernels/dropout.h"

#include "kernels/philox.h"
#include "kernels/pool.h"

enum {
    LANES = 16,       // blocks of Philox side by side, which the compiler turns into vectors
    PART = 4 * LANES, // elements they cover
    GRAIN = 64 * PART // elements a thread takes at least
};

/* factor[i] = 0 or scale for the elements [at, at + PART). */
static void draw(float factor[PART], const q3_dropout_args *a, int64_t at, float scale)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES], k0 = a->key[0], k1 = a->key[1];
    uint64_t first = ((uint64_t)a->counter[1] << 32 | a->counter[0]) + (uint64_t)at / 4;
    for (int i = 0; i < LANES; i++) {
        c0[i] = (uint32_t)(first + (uint64_t)i);
        c1[i] = (uint32_t)((first + (uint64_t)i) >> 32);
        c2[i] = a->counter[2];
        c3[i] = a->counter[3];
    }
    for (int round = 0; round < 10; round++) { // as q3_philox
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < LANES; i++) {
        factor[4 * i] = q3_philox_uniform(c0[i]) < a->p ? 0 : scale;
        factor[4 * i + 1] = q3_philox_uniform(c1[i]) < a->p ? 0 : scale;
        factor[4 * i + 2] = q3_philox_uniform(c2[i]) < a->p ? 0 : scale;
        factor[4 * i + 3] = q3_philox_uniform(c3[i]) < a->p ? 0 : scale;
    }
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_dropout_args *a = arg;
    float factor[PART], scale = 1 / (1 - a->p);
    (void)thread;
    for (int64_t at = begin; at < end; at += PART) {
        int n = end - at < PART ? (int)(end - at) : PART;
        float *y = a->y + at;
        const float *x = a->x + at;
        draw(factor, a, at, scale);
        if (a->beta != 0)
            for (int i = 0; i < n; i++)
                y[i] = a->beta * y[i] + (factor[i] != 0 ? x[i] * factor[i] : 0);
        else
            for (int i = 0; i < n; i++)
                y[i] = factor[i] != 0 ? x[i] * factor[i] : 0;
    }
}

void Q3_SIMD(q3_dropout_forward)(const q3_dropout_args *a) { q3_parallel(a->n, GRAIN, run, (void *)(uintptr_t)a); }
