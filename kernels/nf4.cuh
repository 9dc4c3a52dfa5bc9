/* kernels/nf4.cuh - what kernels on 4-bit weights share on the device: the code book and the scales.
 *
 * Both travel as kernel arguments. The book is copied to shared memory by the block that uses it: 16 floats lie in 16
 * banks, so any 32 lookups of a warp take one step. A scale is read as it is stored; double quantization is undone
 * where the scale is needed, with two roundings (kernels/nf4.h).
 */
#ifndef Q3_KERNELS_NF4_CUH
#define Q3_KERNELS_NF4_CUH

#include "kernels/device.cuh"

struct q3_nf4_book {
    float value[16];
};

struct q3_nf4_scales {
    const float *absmax; /* NULL: nested */
    q3_nested nested;
    int shift; /* elements per scale: 1 << shift */
};

/* fl(fl(a b) + c): nvcc would fuse the plain expression. */
static __device__ __forceinline__ float q3_multiply_then_add(float a, float b, float c)
{
#if defined(__CUDACC__)
    return __fadd_rn(__fmul_rn(a, b), c);
#else
    float product = a * b;
    return product + c;
#endif
}

static __device__ __forceinline__ float q3_unnested(const q3_nested &s, int64_t block)
{
    return q3_multiply_then_add(s.map[s.codes[block]], s.scale[block >> 8], s.offset);
}

/* The scale of the block that holds element i of the flat index. */
static __device__ __forceinline__ float q3_nf4_scale(const q3_nf4_scales &s, int64_t i)
{
    int64_t block = i >> s.shift;
    return s.absmax ? s.absmax[block] : q3_unnested(s.nested, block);
}

static __device__ __forceinline__ unsigned q3_nibble(const uint8_t *packed, int64_t i)
{
    return packed[i >> 1] >> (i & 1 ? 0 : 4) & 15;
}

/* Host: the arguments. `block` is a power of two. */
static inline q3_nf4_book q3_nf4_book_of(q3_dtype code)
{
    q3_nf4_book book;
    memcpy(book.value, q3_4bit_values(code), sizeof book.value);
    return book;
}
static inline q3_nf4_scales q3_nf4_scales_of(const float *absmax, const q3_nested *nested, int block)
{
    int shift = 0;
    while (1 << shift < block)
        shift++;
    q3_nf4_scales scales = { absmax, *nested, shift };
    return scales;
}

#endif
