#include "kernels/nf4.h"

#include <math.h>

#include "kernels/dynamic_map.h"
#include "kernels/pool.h"

/* f32 midpoints of neighbouring values, as bitsandbytes' CPU backend computes them (its CUDA constants differ
 * in the last place in four of the NF4 ones). */
static const q3_nf4_steps nf4_steps = {
    { -0x1.b239bp-1f, -0x1.38a4ep-1f, -0x1.d709p-2f, -0x1.5bd4ecp-2f, -0x1.e079d8p-3f, -0x1.1a7178p-3f,
      -0x1.74f0e2p-5f, 0x1.45f5fep-5f, 0x1.ec90c4p-4f, 0x1.a0cfcp-3f, 0x1.2b05a8p-2f, 0x1.8ea7f2p-2f,
      0x1.00da08p-1f, 0x1.491b5ep-1f, 0x1.b913b4p-1f },
    { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
};
static const q3_nf4_steps fp4_steps = {
    { -0x1.aaaaacp-1f, -0x1.2aaaacp-1f, -0x1.aaaaacp-2f, -0x1.2aaaacp-2f, -0x1.aaaaacp-3f, -0x1.6p-4f,
      -0x1.555556p-9f, 0.0f, 0x1.555556p-9f, 0x1.6p-4f, 0x1.aaaaacp-3f, 0x1.2aaaacp-2f, 0x1.aaaaacp-2f,
      0x1.2aaaacp-1f, 0x1.aaaaacp-1f },
    { 11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3 },
};
static const q3_nf4_steps int4_steps = {
    { -0.875f, -0.75f, -0.625f, -0.5f, -0.375f, -0.25f, -0.125f, 0.0f, 0.125f, 0.25f, 0.375f, 0.5f, 0.625f,
      0.75f, 0.875f },
    { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
};

const q3_nf4_steps *q3_nf4_steps_of(q3_dtype code)
{
    return code == Q3_FP4 ? &fp4_steps : code == Q3_I4 ? &int4_steps : &nf4_steps;
}

static float load(const void *x, q3_dtype dtype, int64_t i)
{
    switch (dtype) {
    case Q3_BF16:
        return q3_bf16_to_f32(((const uint16_t *)x)[i]);
    case Q3_F16:
        return q3_f16_to_f32(((const uint16_t *)x)[i]);
    default:
        return ((const float *)x)[i];
    }
}

static unsigned encode(const q3_nf4_steps *steps, float y)
{
    int below = 0;
    for (int k = 0; k < 15; k++)
        below += y > steps->above[k];
    return steps->nibble[below];
}

static float absmax_of(const void *x, q3_dtype dtype, int64_t n)
{
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++)
        top = q3_larger_abs(top, load(x, dtype, i));
    return q3_bits_f32(top);
}

static void quantize_block(uint8_t *packed, float *absmax, const void *x, int64_t n,
                           const q3_nf4_quantize_args *a)
{
    const float tiny = 1e-38f;
    float m = absmax_of(x, a->dtype, n), safe = m < tiny ? tiny : m, r = 1.0f / safe;
    bool full = n == a->block;
    const q3_nf4_steps *steps = q3_nf4_steps_of(a->code);
    *absmax = full ? m : safe;
    for (int64_t i = 0; i < n; i += 2) {
        float x0 = load(x, a->dtype, i), x1 = i + 1 < n ? load(x, a->dtype, i + 1) : 0.0f;
        unsigned high = encode(steps, full ? x0 * r : x0 / safe),
                 low = encode(steps, full ? x1 * r : x1 / safe);
        packed[i / 2] = (uint8_t)(high << 4 | low);
    }
}

void q3_nf4_quantize_reference(const q3_nf4_quantize_args *a)
{
    const char *x = a->x;
    for (int64_t b = 0; b * a->block < a->n; b++) {
        int64_t at = b * a->block, n = a->n - at < a->block ? a->n - at : a->block;
        quantize_block(a->packed + at / 2, a->absmax + b, x + q3_dtype_bytes(a->dtype, at), n, a);
    }
}

/* The blocks [begin, end), as arguments of their own. */
static q3_nf4_quantize_args blocks_of(const q3_nf4_quantize_args *a, int64_t begin, int64_t end)
{
    q3_nf4_quantize_args part = *a;
    int64_t from = begin * a->block, to = end * a->block < a->n ? end * a->block : a->n;
    part.packed += from / 2;
    part.absmax += begin;
    part.x = (const char *)a->x + q3_dtype_bytes(a->dtype, from);
    part.n = to - from;
    return part;
}

static void quantize_job(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_nf4_quantize_args *a = arg;
    if (end * a->block > a->n) { // the short block has rules of its own
        q3_nf4_quantize_args tail = blocks_of(a, end - 1, end);
        q3_nf4_quantize_reference(&tail);
        end--;
    }
    if (begin < end) {
        q3_nf4_quantize_args part = blocks_of(a, begin, end);
        Q3_DISPATCH(q3_nf4_quantize, &part);
    }
}

void q3_nf4_quantize_cpu(const q3_nf4_quantize_args *a)
{
    q3_nf4_quantize_args copy = *a;
    q3_parallel((a->n + a->block - 1) / a->block, 16384 / a->block, quantize_job, &copy);
}

uint16_t q3_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) // 65520 and above round to infinity
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { // below 2^-14: the float adder rounds to multiples of 2^-24
        float a = fabsf(f) + 0.5f;
        memcpy(&u, &a, sizeof u);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    rest += 0xfffu + (rest >> 13 & 1);
    return (uint16_t)(sign | (rest - 0x38000000u) >> 13);
}

static void store(void *w, q3_dtype dtype, int64_t i, float f)
{
    if (dtype == Q3_F32)
        ((float *)w)[i] = f;
    else
        ((uint16_t *)w)[i] = dtype == Q3_BF16 ? q3_f32_to_bf16(f) : q3_f32_to_f16(f);
}

static void dequantize_job(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_nf4_dequantize_args *a = arg;
    const float *value = q3_4bit_values(a->code);
    for (int64_t b = begin; b < end; b++) {
        int64_t last = (b + 1) * a->block < a->n ? (b + 1) * a->block : a->n;
        for (int64_t i = b * a->block; i < last; i++) {
            unsigned nibble = i & 1 ? a->packed[i / 2] & 15 : a->packed[i / 2] >> 4;
            store(a->w, a->dtype, i, value[nibble] * a->absmax[b]);
        }
    }
}

void q3_nf4_dequantize_cpu(const q3_nf4_dequantize_args *a)
{
    q3_nf4_dequantize_args copy = *a;
    q3_parallel((a->n + a->block - 1) / a->block, 16384 / a->block, dequantize_job, &copy);
}

/* ---- double quantization ---- */

enum { LANES = 8, CHAINS = 4, WIDTH = LANES * CHAINS, LEVELS = 4 };

static void add_row(float *acc, const float *row)
{
    for (int k = 0; k < WIDTH; k++)
        acc[k] += row[k];
}

static int ceil_log2(int64_t n)
{
    int bits = 0;
    while ((int64_t)1 << bits < n)
        bits++;
    return bits;
}

/* Sums of the 32 columns of x [rows, 32]: partial sums climb LEVELS levels, so that rounding grows with the
 * logarithm (ATen/native/cpu/SumKernel.cpp, multi_row_sum). */
static void column_sums(float *acc, const float *x, int64_t rows)
{
    float level[LEVELS][WIDTH] = { { 0 } };
    int power = ceil_log2(rows) / LEVELS > 4 ? ceil_log2(rows) / LEVELS : 4;
    int64_t step = (int64_t)1 << power, i = 0;
    while (i + step <= rows) {
        for (int64_t end = i + step; i < end; i++)
            add_row(level[0], x + i * WIDTH);
        for (int j = 1; j < LEVELS; j++) {
            add_row(level[j], level[j - 1]);
            memset(level[j - 1], 0, sizeof level[j - 1]);
            if (i & (step - 1) << (j * power))
                break;
        }
    }
    for (; i < rows; i++)
        add_row(level[0], x + i * WIDTH);
    for (int j = 1; j < LEVELS; j++)
        add_row(level[0], level[j]);
    memcpy(acc, level[0], sizeof level[0]);
}

static float mean_of(const float *x, int64_t n)
{
    float acc[WIDTH], sum = 0.0f;
    int64_t i = n / WIDTH * WIDTH;
    column_sums(acc, x, n / WIDTH);
    for (; i + LANES <= n; i += LANES) // whole vectors left over go to the first chain
        for (int k = 0; k < LANES; k++)
            acc[k] += x[i + k];
    for (int c = 1; c < CHAINS; c++)
        for (int k = 0; k < LANES; k++)
            acc[k] += acc[c * LANES + k];
    for (; i < n; i++)
        sum += x[i];
    for (int k = 0; k < LANES; k++)
        sum += acc[k];
    return sum / (float)n;
}

const float *q3_nf4_nested_map(void)
{
    return q3_dynamic_map_signed;
}

static uint8_t nearest(const float *map, float v)
{
    int low = 0, high = 255;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (map[mid] <= v)
            low = mid;
        else
            high = mid;
    }
    return (uint8_t)(v - map[low] <= map[high] - v ? low : high);
}

static uint8_t map_code(float x)
{
    long i = lrintf((x + 1.0f) * 32767.5f);
    return nearest(q3_dynamic_map_signed, (float)(-1.0 + 2.0 * (double)i / 65535.0));
}

static void nest_group(uint8_t *codes, float *scale, const float *absmax, float offset, int64_t n)
{
    float m = 0.0f;
    for (int64_t i = 0; i < n; i++)
        m = fmaxf(m, fabsf(absmax[i] - offset));
    *scale = m;
    for (int64_t i = 0; i < n; i++) {
        float y = (absmax[i] - offset) / m;
        codes[i] = m > 0.0f && y == y ? map_code(y < -1.0f ? -1.0f : y > 1.0f ? 1.0f : y) : 0;
    }
}

void q3_nf4_nest_cpu(uint8_t *codes, float *scale, float *offset, const float *absmax, int64_t blocks)
{
    *offset = mean_of(absmax, blocks);
    for (int64_t i = 0; i < blocks; i += Q3_NF4_GROUP) {
        int64_t n = blocks - i < Q3_NF4_GROUP ? blocks - i : Q3_NF4_GROUP;
        nest_group(codes + i, scale + i / Q3_NF4_GROUP, absmax + i, *offset, n);
    }
}

void q3_nf4_unnest_cpu(float *absmax, const uint8_t *codes, const float *scale, float offset,
                       const float *map, int64_t blocks)
{
    for (int64_t i = 0; i < blocks; i++) {
        float product = map[codes[i]] * scale[i / Q3_NF4_GROUP];
        absmax[i] = product + offset; // a statement of its own: not to be fused
    }
}
