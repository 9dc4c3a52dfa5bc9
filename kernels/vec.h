/* kernels/vec.h - the float vector of the instruction set that a *_simd.c file is compiled for.
 *
 * A GNU vector type. Loads and stores need no alignment. Sums over a row run in one vector of partial sums
 * and are added up by q3_vec_total as a tree, so that their order is fixed at each level.
 */
#ifndef Q3_KERNELS_VEC_H
#define Q3_KERNELS_VEC_H

#include <stdint.h>

#if defined(__AVX512F__)
enum { Q3_VEC = 16 };
#elif defined(__AVX2__)
enum { Q3_VEC = 8 };
#else
enum { Q3_VEC = 4 };
#endif

typedef float q3_vec __attribute__((vector_size(Q3_VEC * sizeof(float)), aligned(4), may_alias));

static inline q3_vec q3_vec_load(const float *x)
{
    return *(const q3_vec *)x;
}
static inline void q3_vec_store(float *x, q3_vec v)
{
    *(q3_vec *)x = v;
}
static inline q3_vec q3_vec_all(float x)
{
    return (q3_vec){ 0 } + x;
}

static inline float q3_vec_total(q3_vec v)
{
    float s[Q3_VEC];
    q3_vec_store(s, v);
    for (int half = Q3_VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            s[i] += s[i + half];
    return s[0];
}

#endif
