/* kernels/nf4.h - 4-bit weights: NF4, FP4 and int4 codes, a scale per block (Dettmers et al., arXiv:2305.14314).
 *
 * A matrix is flattened row-major and cut into blocks of `block` elements, which may straddle rows; the last
 * one may be short. Per block: absmax = max |x|, y = x / absmax, code = index of the nearest of 16 values;
 * two codes a byte, the first in the high nibble. The scales may be quantized too ("double quantization"):
 * minus their mean, in groups of 256, to the signed 8-bit map of kernels/dynamic_map.h with one f32 scale a
 * group.
 *
 * For NF4 and FP4 the bytes are those of bitsandbytes 0.50.2 on the CPU, whose rules in the corners are:
 *   - code = number of midpoints of neighbouring values below y, so ties go to the lower value (FP4 lists its
 *     values in rising order with -0 before nibble 8, so 0 < y <= 0.0026 is nibble 8);
 *   - full blocks multiply by 1 / max(absmax, 1e-38), rounded once; the short block divides, and stores 1e-38
 *     for an absmax of 0; an odd element count is padded with a zero;
 *   - absmax codes go through a grid of 65536 points on [-1, 1]: the map value nearest to the nearest grid
 *     point. A group that is all zero has codes 0 and scale 0;
 *   - the mean of the scales is summed in f32 in torch's order (ATen cascade sum, 8 lanes, one thread).
 * Undoing rounds twice: fl(fl(map[code] * scale) + offset), never fused.
 *
 * int4 (ours, follows the same rules) has evenly spaced values, for blocks of 32 or 128: (i - 7.5) / 8. Like its
 * thresholds k / 8 they are exact in bf16, so the tensor core multiplies them without an error of its own. Of the even
 * codes it leaves the least error on N(0, 1) (distance over norm, 2 million numbers):
 *
 *   block   (i - 8) / 7   (i - 7.5) / 7.5   (i - 8) / 8   (i - 7.5) / 8   NF4
 *   32      0.0971        0.0906            0.0938        0.0889          0.0873
 *   64      0.1075        0.1004            0.0992        0.0963          0.0920
 *   128     0.1173        0.1095            0.1056        0.1038          0.0956
 *
 * None of them is 0, and the largest number of a block comes back as 15/16 of itself.
 *
 * Cost: quantizing reads each weight once; 15 comparisons an element. Blocks are spread over the pool. Any
 * level gives the same bits. NaN or infinite weights leave a NaN or infinite absmax, which the caller can
 * look for.
 */
#ifndef Q3_KERNELS_NF4_H
#define Q3_KERNELS_NF4_H

#include <stdbool.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"

enum { Q3_NF4_GROUP = 256 }; /* scales per group of the double quantization: the one size bitsandbytes has */

typedef struct q3_nf4_quantize_args {
    uint8_t *packed; /* out [(n + 1) / 2] */
    float *absmax;   /* out [ceil(n / block)] */
    const void *x;   /* [n] */
    q3_dtype dtype;  /* of x: F32, BF16, F16 */
    q3_dtype code;   /* Q3_NF4, Q3_FP4, Q3_I4 */
    int block;       /* a power of two in 32 .. 4096 */
    int64_t n;
} q3_nf4_quantize_args;

void q3_nf4_quantize_cpu(const q3_nf4_quantize_args *a);
void q3_nf4_quantize_reference(const q3_nf4_quantize_args *a);
Q3_DECLARE_SIMD(q3_nf4_quantize, q3_nf4_quantize_args);

typedef struct q3_nf4_dequantize_args {
    void *w;        /* out [n] */
    q3_dtype dtype; /* of w: F32, BF16, F16 (rounded to nearest even) */
    const uint8_t *packed;
    const float *absmax; /* [ceil(n / block)] */
    q3_nested nested;    /* CUDA: in place of absmax where that is NULL */
    q3_dtype code;
    int block;
    int64_t n;
} q3_nf4_dequantize_args;

/* w = code value * absmax, one f32 product, along the flat index. */
void q3_nf4_dequantize_cpu(const q3_nf4_dequantize_args *a);

/* Double quantization of `blocks` scales: codes [blocks], scale [ceil(blocks / 256)], and their mean in
 * *offset. */
void q3_nf4_nest_cpu(uint8_t *codes, float *scale, float *offset, const float *absmax, int64_t blocks);

/* The scales again; `map` is the 256 values that the codes index. */
void q3_nf4_unnest_cpu(float *absmax, const uint8_t *codes, const float *scale, float offset,
                       const float *map, int64_t blocks);

/* The 256 values that the codes of q3_nf4_nest_* index (kernels/dynamic_map.h, the signed one). */
const float *q3_nf4_nested_map(void);

/* Round to nearest even, overflow to infinity, NaN stays NaN. */
uint16_t q3_f32_to_f16(float f);

/* The 15 thresholds between neighbouring values (ascending) and the nibble of each count of thresholds below
 * y. */
typedef struct q3_nf4_steps {
    float above[15];
    uint8_t nibble[16];
} q3_nf4_steps;
const q3_nf4_steps *q3_nf4_steps_of(q3_dtype code);

/* On the device; see kernels/cuda.h. */
void q3_nf4_quantize_cuda(const q3_nf4_quantize_args *a, q3_cuda *cuda);
void q3_nf4_dequantize_cuda(const q3_nf4_dequantize_args *a, q3_cuda *cuda);

/* As the CPU's, to the bit, all arrays on the device; the mean is left in *offset [1], on the device too. */
void q3_nf4_nest_cuda(uint8_t *codes, float *scale, float *offset, const float *absmax, int64_t blocks,
                      q3_cuda *cuda);
void q3_nf4_unnest_cuda(float *absmax, const q3_nested *nested, int64_t blocks, q3_cuda *cuda);

#endif
