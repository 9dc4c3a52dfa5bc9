#include "core/rng.h"

#include <math.h>

#include "kernels/philox.h"

void q3_random_counter(uint32_t key[2], uint32_t counter[4], const q3_random *r)
{
    Q3_CHECK(r->site < 1u << 24, "site %u needs more than 24 bits", (unsigned)r->site);
    key[0] = (uint32_t)r->seed;
    key[1] = (uint32_t)(r->seed >> 32);
    counter[0] = 0;
    counter[1] = 0;
    counter[2] = r->step;
    counter[3] = (uint32_t)r->purpose << 24 | r->site;
}

static void block(uint32_t out[4], const q3_random *r, uint64_t at)
{
    uint32_t key[2], counter[4];
    q3_random_counter(key, counter, r);
    q3_philox_block(out, key, counter, at);
}

uint32_t q3_random_u32(const q3_random *r, uint64_t index)
{
    uint32_t words[4];
    block(words, r, index / 4);
    return words[index % 4];
}

float q3_random_uniform(const q3_random *r, uint64_t index)
{
    return q3_philox_uniform(q3_random_u32(r, index));
}

uint32_t q3_random_below(const q3_random *r, uint64_t index, uint32_t n)
{
    return (uint32_t)((uint64_t)q3_random_u32(r, index) * n >> 32);
}

/* Box and Muller (1958), the cosine half. 53 bits each: the first in (0, 1], so that the logarithm exists. */
double q3_random_normal(const q3_random *r, uint64_t index)
{
    uint32_t w[4];
    block(w, r, index);
    double u = (double)(((uint64_t)w[0] << 32 | w[1]) >> 11) * 0x1p-53;
    double angle = (double)(((uint64_t)w[2] << 32 | w[3]) >> 11) * 0x1p-53 * 6.283185307179586;
    return sqrt(-2.0 * log(1.0 - u)) * cos(angle);
}

/* Matsumoto and Nishimura (1998): init_genrand. */
void q3_mt19937_seed(q3_mt19937 *g, uint64_t seed)
{
    g->state[0] = (uint32_t)seed;
    for (int i = 1; i < 624; i++)
        g->state[i] = 1812433253u * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + (uint32_t)i;
    g->next = 624;
}

static void refill(q3_mt19937 *g)
{
    uint32_t *s = g->state;
    for (int i = 0; i < 624; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7fffffffu);
        s[i] = s[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    g->next = 0;
}

uint32_t q3_mt19937_u32(q3_mt19937 *g)
{
    if (g->next >= 624)
        refill(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

float q3_mt19937_uniform(q3_mt19937 *g, float lo, float hi)
{
    float x = (float)(q3_mt19937_u32(g) & 0xFFFFFFu) * 0x1p-24f;
    float width = hi - lo;
    return fmaf(x, width, lo);
}

void q3_randperm(int64_t *out, int64_t n, uint64_t seed)
{
    q3_mt19937 g;
    q3_mt19937_seed(&g, seed);
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = 0; i + 1 < n; i++) {
        int64_t j = i + (int64_t)((uint64_t)q3_mt19937_u32(&g) % (uint64_t)(n - i));
        int64_t kept = out[i];
        out[i] = out[j];
        out[j] = kept;
    }
}
