/* kernels/philox.h - Philox4x32-10: random numbers as a function of a counter (Salmon, Moraes, Dror and Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 *   out = philox(key, counter): 128 bits of output for 128 bits of counter under a 64-bit key; ten rounds.
 *
 * Nothing is stored between draws, so any thread can compute any element of a mask, in any order, and compute
 * it again in the backward pass. core/rng.h says how seed, purpose and step make up key and counter; a kernel
 * gets both and counts in the first two words. Checked against the known answers of the authors' Random123
 * library.
 */
#ifndef Q3_KERNELS_PHILOX_H
#define Q3_KERNELS_PHILOX_H

#include <stdint.h>

/* The same functions on the host and in kernels. */
#ifdef __CUDACC__
#define Q3_PHILOX static __host__ __device__ __forceinline__
#else
#define Q3_PHILOX static inline
#endif

Q3_PHILOX void q3_philox(uint32_t out[4], const uint32_t key[2], const uint32_t counter[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; // golden ratio
        k1 += 0xBB67AE85u; // sqrt(3) - 1
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Block `block` of the sequence that starts at `counter`: the number is added to the first two words (64
 * bits). */
Q3_PHILOX void q3_philox_block(uint32_t out[4], const uint32_t key[2], const uint32_t counter[4], uint64_t block)
{
    uint64_t low = ((uint64_t)counter[1] << 32 | counter[0]) + block;
    const uint32_t at[4] = { (uint32_t)low, (uint32_t)(low >> 32), counter[2], counter[3] };
    q3_philox(out, key, at);
}

/* The upper 24 bits as a float in [0, 1): every value is a multiple of 2^-24 and exact. */
Q3_PHILOX float q3_philox_uniform(uint32_t u)
{
    return (float)(u >> 8) * 0x1p-24f;
}

#endif
