/* core/rng.h - randomness: counted for our own use, drawn from torch's generator where its numbers are
 * wanted.
 *
 * Counted: a number is a pure function of (seed, purpose, step, site, index), by kernels/philox.h. There is
 * no state to save or to share between threads; a resumed run sees the numbers of the uninterrupted one.
 *
 *   key = seed (64 bits)   counter = { block (64), step (32), purpose (8) << 24 | site (24 bits) }
 *
 * Drawn: MT19937 as torch's CPU generator uses it (init_genrand with the low 32 bits of the seed), for the
 * initial LoRA values and the sampler's permutations, which thereby equal those of PEFT and of transformers'
 * Trainer.
 */
#ifndef Q3_CORE_RNG_H
#define Q3_CORE_RNG_H

#include "core/status.h"

/* What a number is for; purposes never share numbers. The values are part of what a resumed run depends
 * on. */
typedef enum q3_purpose {
    Q3_RANDOM_DROPOUT = 1,
    Q3_RANDOM_SAMPLING = 2,
    Q3_RANDOM_BOOTSTRAP = 3,
    Q3_RANDOM_SHUFFLE = 4,
    Q3_RANDOM_INIT = 5,
    Q3_RANDOM_NOISE = 6,
    Q3_RANDOM_TEST = 7,
} q3_purpose;

/* One sequence of numbers, indexed from 0. */
typedef struct q3_random {
    uint64_t seed;
    q3_purpose purpose;
    uint32_t step; /* micro-step, epoch, token position: whatever counts upwards in time */
    uint32_t site; /* below 2^24: which layer and tensor, which sequence; whatever happens at the same time */
} q3_random;

/* What a kernel needs: it computes q3_philox_block(out, key, counter, i / 4)[i % 4] for index i. */
void q3_random_counter(uint32_t key[2], uint32_t counter[4], const q3_random *r);

uint32_t q3_random_u32(const q3_random *r, uint64_t index);
float q3_random_uniform(const q3_random *r, uint64_t index); /* [0, 1), multiples of 2^-24 */
uint32_t q3_random_below(const q3_random *r, uint64_t index,
                         uint32_t n);                        /* [0, n), n >= 1; bias below n / 2^32 */
double q3_random_normal(const q3_random *r, uint64_t index); /* N(0, 1); spends a whole block per index */

/* torch's CPU generator (at::mt19937). */
typedef struct q3_mt19937 {
    uint32_t state[624];
    int next; /* index of the next word; 624: a new batch is due */
} q3_mt19937;

void q3_mt19937_seed(q3_mt19937 *g, uint64_t seed);
uint32_t q3_mt19937_u32(q3_mt19937 *g);

/* Tensor.uniform_(lo, hi) for one float32: fma(u & 0xFFFFFF scaled by 2^-24, hi - lo, lo), all in f32. */
float q3_mt19937_uniform(q3_mt19937 *g, float lo, float hi);

/* torch.randperm(n) under manual_seed(seed), n < 2^32 / 20 (torch draws 64-bit words beyond that). */
void q3_randperm(int64_t *out, int64_t n, uint64_t seed);

#endif
