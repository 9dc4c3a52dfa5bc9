/* kernels/adamw.h - one AdamW update of n parameters (Loshchilov and Hutter, arXiv:1711.05101).
 *
 *   m = b1 m + (1 - b1) g       v = b2 v + (1 - b2) g^2       c1 = 1 - b1^t, c2 = sqrt(1 - b2^t)
 *
 *   torch:          p = p (1 - lr wd);  p = p - lr / c1 * m / (sqrt(v) / c2 + eps)      decay first
 *   bitsandbytes:   p = p - lr c2 / c1 * m / (sqrt(v) + eps c2);  p = p (1 - lr wd)     decay last
 *
 * The two agree but for the place of the decay and last bits. q3_adamw_cpu follows torch.optim.AdamW (2.11,
 * one tensor at a time, f32) operation by operation; q3_adamw_bnb_cpu and q3_adamw_8bit_cpu follow the CUDA
 * kernels of bitsandbytes 0.50.2 in IEEE arithmetic, that is, up to their fast division and root.
 * Scalars are formed in double by the caller; a * b + c is two roundings. Elements (8 bits: blocks) do
 * not touch each other, so threads cannot change a bit.
 * Cost: f32 28 bytes an element, 8 bits 16 bytes.
 */
#ifndef Q3_KERNELS_ADAMW_H
#define Q3_KERNELS_ADAMW_H

#include <stdint.h>

#include "kernels/cuda.h"

enum { Q3_ADAMW_BLOCK = 256 }; /* elements that share one absmax */

typedef struct q3_adamw_args {
    float *p;       /* [n] parameters */
    const float *g; /* [n] gradients */
    float *m, *v;   /* [n] moments; f32 rules only */
    int64_t n;
    float beta1, beta2;
    float rest1, rest2; /* 1 - beta: torch rounds the double difference, CUDA subtracts in f32 */
    float rate;         /* torch: lr / c1, bitsandbytes: lr c2 / c1 */
    float root;         /* torch: c2; unused by bitsandbytes */
    float eps;          /* torch: eps, bitsandbytes: eps c2 */
    float decay;        /* 1 - lr wd; 1 when this tensor does not decay */

    uint8_t *code1, *code2;   /* 8 bits: [n] indices into the signed and the unsigned map */
    float *absmax1, *absmax2; /* 8 bits: [ceil(n / 256)] */
} q3_adamw_args;

void q3_adamw_cpu(const q3_adamw_args *a);
void q3_adamw_bnb_cpu(
    const q3_adamw_args *a); /* paged_adamw_32bit; a gradient that is not finite is not skipped */

/* Moments stored as codes of kernels/dynamic_map.h times the block's largest magnitude (Dettmers et al.,
 * arXiv:2110.02861). The update uses the new moments before they are coded. A code of m whose sign is not
 * that of m moves by one entry (wrapping: a block of zeros stores 255, which stands for 0 as absmax is 0).
 * An element with a NaN or infinite gradient keeps its parameter and forgets its moments. */
void q3_adamw_8bit_cpu(const q3_adamw_args *a);

/* Index of the entry nearest to x of a map sorted upwards; half way the even index; NaN gives 0. */
uint8_t q3_dynamic_map_index(const float map[256], float x);

/* On the device; see kernels/cuda.h. */
void q3_adamw_cuda(const q3_adamw_args *a, q3_cuda *cuda);
void q3_adamw_bnb_cuda(const q3_adamw_args *a, q3_cuda *cuda);
void q3_adamw_8bit_cuda(const q3_adamw_args *a, q3_cuda *cuda);

#endif
