/* kernels/int8.h - int8 weights with a scale a row: the storage of LLM.int8() (Dettmers et al., arXiv:2208.07339).
 *
 *   absmax[n] = max over k of |x[n, k]|        code[n, k] = x[n, k] * fl(127 / absmax[n]), rounded to nearest even
 *   w[n, k] = fl(fl(code[n, k] * absmax[n]) * fl(1 / 127))
 *
 * These are the codes, the scales ("SCB") and the dequantized numbers of bitsandbytes' int8_vectorwise_quant and
 * int8_vectorwise_dequant. A row of zeros has codes 0. bitsandbytes' layer rounds its weights to f16 before; here they
 * are quantized from the type they have.
 *
 * Only weights are stored so: products take them as w with activations as they are (kernels/gemm.h), where bitsandbytes
 * quantizes activations to int8 too and sets columns with outliers aside. That leaves an error out, and saves
 * memory rather than time.
 *
 * NaN or infinite weights leave a NaN or infinite absmax, which the caller can look for; codes of that row are then 0.
 */
#ifndef Q3_KERNELS_INT8_H
#define Q3_KERNELS_INT8_H

#include "kernels/dtype.h"

typedef struct q3_int8_quantize_args {
    int8_t *codes;  /* out [rows, cols] */
    float *absmax;  /* out [rows] */
    const void *x;  /* [rows, cols] */
    q3_dtype dtype; /* of x: F32, BF16, F16 */
    int64_t rows, cols;
} q3_int8_quantize_args;

/* Rows are spread over the pool. */
void q3_int8_quantize_cpu(const q3_int8_quantize_args *a);

#endif
