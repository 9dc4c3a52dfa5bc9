/* kernels/cpu.h - which instruction set the CPU kernels use, chosen once at run time.
 *
 * Every kernel has a reference (double accumulators, obviously right, the oracle of the tests) and one fast
 * source, kernels/<op>_simd.c, which is compiled once per level. The public q3_<op>_cpu function picks by
 * q3_cpu_level().
 */
#ifndef Q3_KERNELS_CPU_H
#define Q3_KERNELS_CPU_H

#include <stdbool.h>
#include <stddef.h>

typedef enum q3_cpu_isa {
    Q3_CPU_REFERENCE, /* the oracle: for tests and doubts, not for speed */
    Q3_CPU_PORTABLE,  /* GNU vectors of 16 bytes: SSE2, NEON */
    Q3_CPU_AVX2,      /* AVX2 + FMA + F16C */
    Q3_CPU_AVX512,    /* AVX-512 F, BW, DQ, VL */
    Q3_CPU_LEVELS
} q3_cpu_isa;

/* The level in use: the best one of this machine until q3_cpu_set_level. */
q3_cpu_isa q3_cpu_level(void);

/* false when this build or this machine lacks the level; the level in use stays. Not while kernels run. */
bool q3_cpu_set_level(q3_cpu_isa level);
bool q3_cpu_has_level(q3_cpu_isa level);

/* "avx2 fma avx512f ...": those of the processor that concern kernels, by the compiler's names. */
void q3_cpu_features(char *text, size_t size);

const char *q3_cpu_level_name(q3_cpu_isa level);            /* "reference", "portable", "avx2", "avx512" */
bool q3_cpu_level_parse(q3_cpu_isa *out, const char *name); /* false for an unknown name */

/* Names of the functions of a *_simd.c file: Q3_SIMD(q3_gelu_forward) is q3_gelu_forward_avx2 when built for
 * AVX2. */
#define Q3_SIMD_PASTE(name, level) name##_##level
#define Q3_SIMD_EXPAND(name, level) Q3_SIMD_PASTE(name, level)
#define Q3_SIMD(name) Q3_SIMD_EXPAND(name, Q3_LEVEL)

#if defined(__x86_64__)
/* Declares the fast variants of void name(const args *a). */
#define Q3_DECLARE_SIMD(name, args)                                                                          \
    void name##_portable(const args *a);                                                                     \
    void name##_avx2(const args *a);                                                                         \
    void name##_avx512(const args *a)
/* The body of name##_cpu: the reference is name##_reference. */
#define Q3_DISPATCH(name, a)                                                                                 \
    do {                                                                                                     \
        switch (q3_cpu_level()) {                                                                            \
        case Q3_CPU_AVX512:                                                                                  \
            name##_avx512(a);                                                                                \
            break;                                                                                           \
        case Q3_CPU_AVX2:                                                                                    \
            name##_avx2(a);                                                                                  \
            break;                                                                                           \
        case Q3_CPU_PORTABLE:                                                                                \
            name##_portable(a);                                                                              \
            break;                                                                                           \
        default:                                                                                             \
            name##_reference(a);                                                                             \
        }                                                                                                    \
    } while (0)
#else
#define Q3_DECLARE_SIMD(name, args) void name##_portable(const args *a)
#define Q3_DISPATCH(name, a)                                                                                 \
    do {                                                                                                     \
        if (q3_cpu_level() == Q3_CPU_REFERENCE)                                                              \
            name##_reference(a);                                                                             \
        else                                                                                                 \
            name##_portable(a);                                                                              \
    } while (0)
#endif

#endif
