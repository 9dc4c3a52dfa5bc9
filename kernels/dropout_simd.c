#include "kernels/dropout.h"

#include <string.h>

#include "kernels/philox.h"
#include "kernels/pool.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum {
    CHAINS = 2,       // vectors of blocks at once: the rounds of one are a long chain of products
    LANES = 32,       // blocks of Philox that are drawn before they are used
    PART = 4 * LANES, // elements they cover
    GRAIN = 64 * PART // elements a thread takes at least
};

/* Numbers of 32 bits, one in the low half of each 64-bit lane; the high halves may hold anything. */
#if defined(__AVX512F__)
enum { ACROSS = 8 };
#define MULTIPLY(a, b) (words) _mm512_mul_epu32((__m512i)(a), (__m512i)(b))
#elif defined(__AVX2__)
enum { ACROSS = 4 };
#define MULTIPLY(a, b) (words) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#elif defined(__SSE2__)
enum { ACROSS = 2 };
#define MULTIPLY(a, b) (words) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#else
enum { ACROSS = 2 };
#define MULTIPLY(a, b) (((a)&0xffffffffu) * (b))
#endif
typedef uint64_t words __attribute__((vector_size(8 * ACROSS), aligned(8), may_alias));

/* q3_philox for the CHAINS * ACROSS blocks from `first` on, side by side: words 0 and 1 of each
 * block in `front`, 2 and 3 in `back`. */
static void draw(uint64_t *front, uint64_t *back, const q3_dropout_args *a, uint64_t first)
{
    const words m0 = (words){ 0 } + 0xD2511F53u, m1 = (words){ 0 } + 0xCD9E8D57u;
    words c0[CHAINS], c1[CHAINS], c2[CHAINS], c3[CHAINS], step;
    for (int i = 0; i < ACROSS; i++)
        step[i] = (uint64_t)i;
    for (int g = 0; g < CHAINS; g++) {
        c0[g] = step + (first + (uint64_t)g * ACROSS);
        c1[g] = c0[g] >> 32;
        c2[g] = (words){ 0 } + a->counter[2];
        c3[g] = (words){ 0 } + a->counter[3];
    }
    for (uint32_t round = 0; round < 10; round++) {
        const words k0 = (words){ 0 } + (a->key[0] + round * 0x9E3779B9u),
                    k1 = (words){ 0 } + (a->key[1] + round * 0xBB67AE85u);
        for (int g = 0; g < CHAINS; g++) {
            words p0 = MULTIPLY(c0[g], m0), p1 = MULTIPLY(c2[g], m1);
            c0[g] = (p1 >> 32) ^ c1[g] ^ k0;
            c1[g] = p1;
            c2[g] = (p0 >> 32) ^ c3[g] ^ k1;
            c3[g] = p0;
        }
    }
    for (int g = 0; g < CHAINS; g++) {
        *(words *)(front + g * ACROSS) = (c0[g] & 0xffffffffu) | c1[g] << 32;
        *(words *)(back + g * ACROSS) = (c2[g] & 0xffffffffu) | c3[g] << 32;
    }
}

/* word[i] belongs to element at + i. */
static void draw_part(uint32_t word[PART], const q3_dropout_args *a, int64_t at)
{
    uint64_t front[LANES], back[LANES], pair[2 * LANES];
    uint64_t first = ((uint64_t)a->counter[1] << 32 | a->counter[0]) + (uint64_t)at / 4;
    for (int i = 0; i < LANES; i += CHAINS * ACROSS)
        draw(front + i, back + i, a, first + (uint64_t)i);
    for (int i = 0; i < LANES; i++) {
        pair[2 * i] = front[i];
        pair[2 * i + 1] = back[i];
    }
    memcpy(word, pair, sizeof pair); // the first word of a pair is the low half
}

/* y = beta y + x m scale for n <= PART elements; a dropped element is 0 whatever x is. */
static void apply(float *y, const float *x, const uint32_t *word, int n, const q3_dropout_args *a)
{
    const float scale = 1 / (1 - a->p), p = a->p, beta = a->beta;
    if (beta == 0)
        for (int i = 0; i < n; i++) {
            float v = x[i] * scale;
            y[i] = q3_philox_uniform(word[i]) < p ? 0 : v;
        }
    else
        for (int i = 0; i < n; i++) {
            float v = x[i] * scale;
            y[i] = beta * y[i] + (q3_philox_uniform(word[i]) < p ? 0 : v);
        }
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_dropout_args *a = arg;
    const float *x = a->x;
    float *y = a->y;
    uint32_t word[PART];
    (void)thread;
    for (int64_t at = begin; at < end; at += PART) {
        draw_part(word, a, at);
        apply(y + at, x + at, word, end - at < PART ? (int)(end - at) : PART, a);
    }
}

void Q3_SIMD(q3_dropout_forward)(const q3_dropout_args *a)
{
    q3_parallel(a->n, GRAIN, run, (void *)(uintptr_t)a);
}
