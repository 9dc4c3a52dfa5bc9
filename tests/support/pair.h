/* tests/support/pair.h - an array on the host and the same on the device, to run an op on both and compare.
 *
 * On the host elements are f32, for the CPU kernels; on the device they have the type of the case. Both begin with the
 * same values: those of a case in bfloat16 are rounded to it first. Integers have the host's bits on both.
 */
#ifndef Q3_TESTS_SUPPORT_PAIR_H
#define Q3_TESTS_SUPPORT_PAIR_H

#include "tests/support/device.h"

typedef struct t_case {
    q3_cuda *cuda;
    q3_dtype dtype; /* of activations: F32, BF16 */
    size_t shift;   /* bytes by which activations miss 16: no wide accesses then */
} t_case;

typedef struct t_pair {
    void *host;
    t_array device;
    q3_dtype dtype; /* on the device */
    int64_t n;
} t_pair;

/* Calls the test for both types, aligned and not, with the CPU's reference kernels. Skips where there is no device. */
void t_each_case(void (*test)(const t_case *c));
/* A cmocka test of that. */
#define T_CASES(name, test)                                                                                  \
    static void name(void **state)                                                                           \
    {                                                                                                        \
        (void)state;                                                                                         \
        t_each_case(test);                                                                                   \
    }

/* Activations of the case's type; parameters in f32; roughly normal, of deviation 1, always the same for a seed. */
t_pair t_random(const t_case *c, int64_t n, uint32_t seed);
t_pair t_random_f32(const t_case *c, int64_t n, uint32_t seed);
/* The same, for results: NaN on both sides where beta is 0. */
t_pair t_result(const t_case *c, int64_t n, float beta, uint32_t seed);
t_pair t_result_f32(const t_case *c, int64_t n, float beta, uint32_t seed);
/* A copy of any bytes; `n` elements of dtype. */
t_pair t_copy(const t_case *c, q3_dtype dtype, const void *from, int64_t n);

/* The device's values must be the host's to within `bound` of their norm, 0: the same bits, and are freed. */
void t_agree_within(const char *what, t_pair *p, double bound);
void t_agree(const char *what, t_pair *p); /* f32 1e-5, bf16 4e-3: twice its rounding */
void t_free(t_pair *p);

#endif
