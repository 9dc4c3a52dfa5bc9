#include "kernels/gemm.h"

#include "kernels/pool.h"
#include "kernels/vec.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* The tile of Y that is held in registers: UP rows (even) by two vectors. */
#if defined(__AVX512F__)
enum { UP = 14, STRIP = 16 };
#else
enum { UP = 6, STRIP = 8 };
#endif
enum {
    ACROSS = 2 * Q3_VEC,
    ROW_STRIDE =
        Q3_GEMM_TERMS + 16, // not a power of two: the rows of a strip must not compete for cache lines
    GRAIN = 200000,         // multiplications that are worth a thread
    TOGETHER = 8,           // rows of W whose scalar products are formed at once
};

#define INLINE static inline __attribute__((always_inline))

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t parts(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}
static int64_t round_up(int64_t n, int64_t to)
{
    return parts(n, to) * to;
}

/* Blocks of the sum: of equal length, a multiple of four where possible, and a function of K alone. */
static int64_t block_terms(int64_t K)
{
    int64_t blocks = parts(K, Q3_GEMM_TERMS);
    return blocks < 2 ? Q3_GEMM_TERMS : round_up(parts(K, blocks), 4);
}

/* Conversion of weights to f32. */

static void from_bf16(float *out, const uint16_t *h, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = q3_bf16_to_f32(h[i]);
}

static void from_f16(float *out, const uint16_t *h, int64_t n)
{
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(h + i))));
#endif
    for (; i < n; i++)
        out[i] = q3_f16_to_f32(h[i]);
}

/* LOOK_UP codes that begin at a byte, by a table of the 16 values times the scale that lies in registers. */
#if defined(__AVX512F__)
enum { LOOK_UP = 16 };
typedef __m512 table;

INLINE table table_of(const float *values, float scale)
{
    return _mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(scale));
}

INLINE void look_up(float *out, const uint8_t *codes, const table *t)
{
    const __m512i spread = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i shift = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
    uint64_t word;
    memcpy(&word, codes, sizeof word);
    __m512i q = _mm512_permutexvar_epi32(spread, _mm512_set1_epi64((int64_t)word));
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(_mm512_srlv_epi32(q, shift), *t));
}
#elif defined(__AVX2__)
enum { LOOK_UP = 8 };
typedef struct table {
    __m256 low, high;
} table;

INLINE table table_of(const float *values, float scale)
{
    const __m256 s = _mm256_set1_ps(scale);
    return (table){ _mm256_mul_ps(_mm256_loadu_ps(values), s),
                    _mm256_mul_ps(_mm256_loadu_ps(values + 8), s) };
}

INLINE void look_up(float *out, const uint8_t *codes, const table *t)
{
    uint32_t word;
    memcpy(&word, codes, sizeof word);
    __m256i q =
        _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)word), _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4));
    __m256 upper =
        _mm256_castsi256_ps(_mm256_slli_epi32(q, 28)); // bit 3 of the code becomes the sign: pick high
    __m256 v =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(t->low, q), _mm256_permutevar8x32_ps(t->high, q), upper);
    _mm256_storeu_ps(out, v);
}
#else
enum { LOOK_UP = 8 };
typedef struct table {
    float value[16];
} table;

INLINE table table_of(const float *values, float scale)
{
    table t;
    for (int i = 0; i < 16; i++)
        t.value[i] = values[i] * scale;
    return t;
}

INLINE void look_up(float *out, const uint8_t *codes, const table *t)
{
    for (int i = 0; i < LOOK_UP / 2; i++) {
        out[2 * i] = t->value[codes[i] >> 4];
        out[2 * i + 1] = t->value[codes[i] & 15];
    }
}
#endif

/* Elements [at, at + n) of one block. */
static void from_codes(float *out, const uint8_t *codes, const float *values, float scale, int64_t at,
                       int64_t n)
{
    const table t = table_of(values, scale);
    if (at % 2 && n > 0) {
        *out++ = values[codes[at / 2] & 15] * scale;
        at++;
        n--;
    }
    for (codes += at / 2; n >= 4 * LOOK_UP; n -= 4 * LOOK_UP, out += 4 * LOOK_UP, codes += 2 * LOOK_UP)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            look_up(out + i * LOOK_UP, codes + i * LOOK_UP / 2, &t);
    for (; n >= LOOK_UP; n -= LOOK_UP, out += LOOK_UP, codes += LOOK_UP / 2)
        look_up(out, codes, &t);
    for (int64_t i = 0; i < n; i++)
        out[i] = values[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
}

static void from_int8(float *out, const int8_t *codes, float absmax, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = q3_int8_value(codes[i], absmax);
}

static void from_blocks(float *out, const q3_weight *w, int64_t at, int64_t n)
{
    const float *values = q3_4bit_values(w->dtype);
    int64_t block = at / w->block, end = at + n;
    while (at < end) {
        int64_t stop = least(end, (block + 1) * w->block);
        if (w->dtype == Q3_I8)
            from_int8(out, (const int8_t *)w->data + at, w->absmax[block], stop - at);
        else
            from_codes(out, w->data, values, w->absmax[block], at, stop - at);
        out += stop - at;
        at = stop;
        block++;
    }
}

/* n elements from the flat index `at`: in place where they are f32, otherwise converted into `room`. */
static const float *elements(float *room, const q3_weight *w, int64_t at, int64_t n)
{
    switch (w->dtype) {
    case Q3_F32:
        return (const float *)w->data + at;
    case Q3_BF16:
        from_bf16(room, (const uint16_t *)w->data + at, n);
        return room;
    case Q3_F16:
        from_f16(room, (const uint16_t *)w->data + at, n);
        return room;
    default:
        from_blocks(room, w, at, n);
        return room;
    }
}

/* Y[M, N] = beta Y + alpha A B + bias, where A is X or X' and B is W, W' or Z; the sum has K terms. */
typedef struct product {
    float *y;
    const float *a;
    q3_weight b;
    const float *bias;
    int64_t M, N, K, ldy, lda;
    int64_t ldb; // columns of b as it is stored
    bool a_down; // a is stored [K, lda] rather than [M, lda]
    bool b_down; // b is stored [K, ldb] rather than [N, ldb]
    float alpha, beta;
    int64_t rows, strips; // strips of `rows` rows of Y
    int64_t terms;        // of a block of the sum
} product;

/* Panels of B: [K][ACROSS] each, the last of one vector where that is enough, filled up with zeros. */

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (lanes){ i, j, k, l })
typedef int lanes __attribute__((vector_size(16)));
#endif

/* Four rows of n elements become four columns of a panel. */
static void turn_four(float *to, int64_t step, const float *const from[4], int64_t n)
{
    typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
        four r0 = *(const four *)(from[0] + k), r1 = *(const four *)(from[1] + k);
        four r2 = *(const four *)(from[2] + k), r3 = *(const four *)(from[3] + k);
        four a = SHUFFLE(r0, r1, 0, 4, 1, 5), b = SHUFFLE(r2, r3, 0, 4, 1, 5);
        four c = SHUFFLE(r0, r1, 2, 6, 3, 7), d = SHUFFLE(r2, r3, 2, 6, 3, 7);
        *(four *)(to + k * step) = SHUFFLE(a, b, 0, 1, 4, 5);
        *(four *)(to + (k + 1) * step) = SHUFFLE(a, b, 2, 3, 6, 7);
        *(four *)(to + (k + 2) * step) = SHUFFLE(c, d, 0, 1, 4, 5);
        *(four *)(to + (k + 3) * step) = SHUFFLE(c, d, 2, 3, 6, 7);
    }
    for (; k < n; k++)
        for (int i = 0; i < 4; i++)
            to[k * step + i] = from[i][k];
}

static const float zeros[Q3_GEMM_TERMS];

/* B is W': columns [j, j + n) of the panel are rows of W. */
static void panel_across(q3_gemm_scratch *s, float *to, int64_t step, const product *p, int64_t j, int64_t n,
                         int64_t k0, int64_t terms)
{
    for (int64_t c = 0; c < step; c += 4) {
        const float *from[4];
        for (int64_t i = 0; i < 4; i++)
            from[i] = c + i < n
                          ? elements(s->rows + i * Q3_GEMM_TERMS, &p->b, (j + c + i) * p->ldb + k0, terms)
                          : zeros;
        turn_four(to + c, step, from, terms);
    }
}

/* B is W or Z: a row of it holds a row of every panel. */
static void panels_down(q3_gemm_scratch *s, const product *p, int64_t j0, int64_t columns, int64_t k0,
                        int64_t terms)
{
    float *to = s->panels;
    for (int64_t k = 0; k < terms; k++) {
        const float *from = elements(s->rows, &p->b, (k0 + k) * p->ldb + j0, columns);
        int64_t j = 0;
        for (; j + ACROSS <= columns; j += ACROSS) {
            q3_vec_store(to + j * terms + k * ACROSS, q3_vec_load(from + j));
            q3_vec_store(to + j * terms + k * ACROSS + Q3_VEC, q3_vec_load(from + j + Q3_VEC));
        }
        int64_t n = columns - j, step = n > Q3_VEC ? ACROSS : Q3_VEC;
        for (int64_t c = 0; n && c < step; c++)
            to[j * terms + k * step + c] = c < n ? from[j + c] : 0;
    }
}

static void lay_out_panels(q3_gemm_scratch *s, const product *p, int64_t j0, int64_t columns, int64_t k0,
                           int64_t terms)
{
    if (p->b_down) {
        panels_down(s, p, j0, columns, k0, terms);
        return;
    }
    for (int64_t j = 0; j < columns; j += ACROSS) {
        int64_t n = least(ACROSS, columns - j);
        panel_across(s, s->panels + j * terms, n > Q3_VEC ? ACROSS : Q3_VEC, p, j0 + j, n, k0, terms);
    }
}

/* n of the `left` columns from `from` on; where a whole strip is there it is copied, which costs less than a
 * part. */
static void lay_out_strip_down(float *to, const float *from, int64_t lda, int64_t n, int64_t left,
                               int64_t terms)
{
    for (int64_t k = 0; k < terms && left >= STRIP; k++)
        for (int i = 0; i < STRIP; i += Q3_VEC)
            q3_vec_store(to + k * STRIP + i, q3_vec_load(from + k * lda + i));
    for (int64_t k = 0; k < terms && left < STRIP; k++)
        for (int i = 0; i < STRIP; i++)
            to[k * STRIP + i] = i < n ? from[k * lda + i] : 0;
}

/* A strip of A: [rows][ROW_STRIDE], or [K][STRIP] where a is stored that way; from n to `rows` it is zero. */
static void lay_out_strip(float *to, const product *p, int64_t i0, int64_t n, int64_t rows, int64_t k0,
                          int64_t terms)
{
    if (p->a_down) {
        lay_out_strip_down(to, p->a + k0 * p->lda + i0, p->lda, n, p->M - i0, terms);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        const float *from = i < n ? p->a + (i0 + i) * p->lda + k0 : zeros;
        int64_t k = 0;
        for (; k + Q3_VEC <= terms; k += Q3_VEC)
            q3_vec_store(to + i * ROW_STRIDE + k, q3_vec_load(from + k));
        for (; k < terms; k++)
            to[i * ROW_STRIDE + k] = from[k];
    }
}

/* The tile: y [rows, vectors], and how it is finished. */
typedef struct corner {
    float *y;
    int64_t ldy;
    const float *bias; // NULL after the first block of the sum
    float alpha, beta;
} corner;

/* `rows` and `vectors` are constants wherever this is expanded, so that sum[][] is a set of registers. */
INLINE void tile(int rows, int vectors, bool down, const float *a, const float *b, int64_t terms,
                 const corner *c)
{
    const int row = down ? 1 : ROW_STRIDE, next = down ? STRIP : 1;
    q3_vec sum[UP][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = q3_vec_all(0);
    for (int64_t k = 0; k < terms; k++) {
        q3_vec b0 = q3_vec_load(b), b1 = q3_vec_load(b + (vectors - 1) * Q3_VEC);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            sum[i][0] += a[i * row] * b0;
            if (vectors == 2)
                sum[i][1] += a[i * row] * b1;
        }
        a += next;
        b += vectors * Q3_VEC;
    }
    q3_vec bias[2] = { q3_vec_all(0), q3_vec_all(0) };
    for (int j = 0; j < vectors && c->bias; j++)
        bias[j] = q3_vec_load(c->bias + j * Q3_VEC);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            float *y = c->y + i * c->ldy + j * Q3_VEC;
            q3_vec v = sum[i][j] * c->alpha + bias[j];
            if (c->beta != 0)
                v += q3_vec_load(y) * c->beta;
            q3_vec_store(y, v);
        }
}

#define TILE(rows)                                                                                           \
    case rows:                                                                                               \
        if (vectors == 2)                                                                                    \
            tile(rows, 2, down, a, b, terms, c);                                                             \
        else                                                                                                 \
            tile(rows, 1, down, a, b, terms, c);                                                             \
        return;

INLINE void pick_tile(int64_t rows, int vectors, bool down, const float *a, const float *b, int64_t terms,
                      const corner *c)
{
    switch (rows) {
        TILE(2)
        TILE(4)
        TILE(6)
#if defined(__AVX512F__)
        TILE(8)
        TILE(10)
        TILE(12)
        TILE(14)
#endif
    }
}

static void tile_across(int64_t rows, int vectors, const float *a, const float *b, int64_t terms,
                        const corner *c)
{
    pick_tile(rows, vectors, false, a, b, terms, c);
}

static void tile_down(int64_t rows, int vectors, const float *a, const float *b, int64_t terms,
                      const corner *c)
{
    pick_tile(rows, vectors, true, a, b, terms, c);
}

static void copy_tile(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            to[i * ldt + j] = from[i * ldf + j];
}

/* One tile of Y, `up` by `across` of which exist; at an edge it is finished aside, by the same
 * instructions. */
static void tile_of(const product *p, q3_gemm_scratch *s, const float *panel, int64_t terms, int64_t up,
                    int64_t across, corner c)
{
    int vectors = across > Q3_VEC ? 2 : 1;
    bool whole = up % 2 == 0 && across == vectors * Q3_VEC;
    float bias[ACROSS] = { 0 }, *y = c.y, *aside = s->tile;
    int64_t ldy = c.ldy;
    if (!whole) {
        if (c.beta != 0)
            copy_tile(aside, ACROSS, y, ldy, up, across);
        if (c.bias) {
            copy_tile(bias, 0, c.bias, 0, 1, across);
            c.bias = bias;
        }
        c.y = aside;
        c.ldy = ACROSS;
    }
    (p->a_down ? tile_down : tile_across)(round_up(up, 2), vectors, s->strip, panel, terms, &c);
    if (!whole)
        copy_tile(y, ldy, aside, ACROSS, up, across);
}

/* Strips [begin, end) of the columns [j0, j0 + columns) of Y. */
static void columns_of(const product *p, int64_t j0, int64_t columns, int64_t begin, int64_t end)
{
    q3_gemm_scratch *s = q3_gemm_own_scratch();
    int64_t k0 = 0;
    do {
        int64_t terms = least(p->terms, p->K - k0);
        lay_out_panels(s, p, j0, columns, k0, terms);
        for (int64_t strip = begin; strip < end; strip++) {
            int64_t i0 = strip * p->rows, up = least(p->rows, p->M - i0);
            lay_out_strip(s->strip, p, i0, up, round_up(up, 2), k0, terms);
            for (int64_t j = 0; j < columns; j += ACROSS) {
                const corner c = { p->y + i0 * p->ldy + j0 + j, p->ldy,
                                   k0 || !p->bias ? NULL : p->bias + j0 + j, p->alpha, k0 ? 1 : p->beta };
                tile_of(p, s, s->panels + j * terms, terms, up, least(ACROSS, columns - j), c);
            }
        }
        k0 += terms;
    } while (k0 < p->K);
}

/* Units are (block of columns, strip), strips first. */
static void run_product(void *arg, int64_t begin, int64_t end, int thread)
{
    const product *p = arg;
    (void)thread;
    while (begin < end) {
        int64_t j0 = begin / p->strips * Q3_GEMM_COLUMNS, strip = begin % p->strips;
        int64_t stop = least(p->strips, strip + end - begin);
        columns_of(p, j0, least(Q3_GEMM_COLUMNS, p->N - j0), strip, stop);
        begin += stop - strip;
    }
}

static void multiply(product *p)
{
    if (p->M <= 0 || p->N <= 0)
        return;
    p->rows = round_up(parts(p->M, parts(p->M, UP)), 2);
    p->strips = parts(p->M, p->rows);
    p->terms = block_terms(p->K);
    int64_t work = p->rows * least(p->N, Q3_GEMM_COLUMNS) * (p->K + 1);
    q3_parallel(p->strips * parts(p->N, Q3_GEMM_COLUMNS), parts(GRAIN, work), run_product, p);
}

/* A few rows: scalar products of rows of X and rows of W, one vector of partial sums each. */

INLINE void add_products(q3_vec sum[TOGETHER], const float *const w[TOGETHER], const float *x, int64_t n)
{
    q3_vec s[TOGETHER];
#pragma GCC unroll 8
    for (int i = 0; i < TOGETHER; i++)
        s[i] = sum[i];
    for (int64_t k = 0; k < n; k += Q3_VEC) {
        q3_vec v = q3_vec_load(x + k);
#pragma GCC unroll 8
        for (int i = 0; i < TOGETHER; i++)
            s[i] += v * q3_vec_load(w[i] + k);
    }
#pragma GCC unroll 8
    for (int i = 0; i < TOGETHER; i++)
        sum[i] = s[i];
}

/* Copies n elements and fills up with zeros to a whole vector. */
static void copy_padded(float *to, const float *from, int64_t n)
{
    int64_t end = round_up(n, Q3_VEC);
    for (int64_t i = 0; i < n; i++)
        to[i] = from[i];
    for (int64_t i = n; i < end; i++)
        to[i] = 0;
}

/* The sum of a vector's elements: quarters first, each of four numbers. */
INLINE float total(q3_vec v)
{
    typedef float four __attribute__((vector_size(16)));
    four q[Q3_VEC / 4];
    memcpy(q, &v, sizeof q);
    for (int half = Q3_VEC / 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            q[i] += q[i + half];
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

static void few_columns(const q3_gemm_nt_args *a, int64_t n0, int64_t columns)
{
    q3_gemm_scratch *s = q3_gemm_own_scratch();
    q3_vec sum[Q3_GEMM_FEW][TOGETHER];
    memset(sum, 0, (size_t)a->M * sizeof sum[0]);
    for (int64_t k0 = 0; k0 < a->K; k0 += Q3_GEMM_TERMS) {
        int64_t terms = least(Q3_GEMM_TERMS, a->K - k0);
        bool padded = terms % Q3_VEC != 0;
        bool copied =
            padded || (a->M > 1 && a->w.dtype == Q3_F32); // rows of 2^n elements would evict each other
        const float *w[TOGETHER];
        for (int64_t i = 0; i < TOGETHER; i++) {
            float *room = s->rows + i * Q3_GEMM_TERMS;
            int64_t n =
                n0 + least(i, columns - 1); // beyond the last row its product is formed again, and dropped
            w[i] = elements(room, &a->w, n * a->K + k0, terms);
            if (copied) {
                copy_padded(room, w[i], terms);
                w[i] = room;
            }
        }
        for (int64_t m = 0; m < a->M; m++) {
            const float *x = (const float *)a->x + m * a->ldx + k0;
            if (padded)
                copy_padded(s->few + m * Q3_GEMM_TERMS, x, terms);
            add_products(sum[m], w, padded ? s->few + m * Q3_GEMM_TERMS : x, terms);
        }
    }
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t i = 0; i < columns; i++) {
            float *y = (float *)a->y + m * a->ldy + n0 + i;
            float v = total(sum[m][i]) * a->alpha + (a->bias ? a->bias[n0 + i] : 0);
            *y = a->beta != 0 ? v + a->beta * *y : v;
        }
}

static void run_few(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gemm_nt_args *a = arg;
    (void)thread;
    for (int64_t n = begin; n < end; n += TOGETHER)
        few_columns(a, n, least(TOGETHER, end - n));
}

void Q3_SIMD(q3_gemm_nt)(const q3_gemm_nt_args *a)
{
    if (a->M <= Q3_GEMM_FEW) {
        if (a->M > 0)
            q3_parallel(a->N, round_up(parts(GRAIN, a->M * (a->K + 1)), TOGETHER), run_few,
                        (void *)(uintptr_t)a);
        return;
    }
    product p = { .y = a->y,
                  .a = a->x,
                  .b = a->w,
                  .bias = a->bias,
                  .M = a->M,
                  .N = a->N,
                  .K = a->K,
                  .ldy = a->ldy,
                  .lda = a->ldx,
                  .ldb = a->K,
                  .alpha = a->alpha,
                  .beta = a->beta };
    multiply(&p);
}

void Q3_SIMD(q3_gemm_nn)(const q3_gemm_nn_args *a)
{
    product p = { .y = a->y,
                  .a = a->x,
                  .b = a->w,
                  .M = a->M,
                  .N = a->K,
                  .K = a->N,
                  .ldy = a->ldy,
                  .lda = a->ldx,
                  .ldb = a->K,
                  .b_down = true,
                  .alpha = a->alpha,
                  .beta = a->beta };
    multiply(&p);
}

void Q3_SIMD(q3_gemm_tn)(const q3_gemm_tn_args *a)
{
    product p = { .y = a->y,
                  .a = a->x,
                  .b = { .data = a->z, .dtype = Q3_F32 },
                  .M = a->N,
                  .N = a->K,
                  .K = a->M,
                  .ldy = a->ldy,
                  .lda = a->ldx,
                  .ldb = a->ldz,
                  .a_down = true,
                  .b_down = true,
                  .alpha = a->alpha,
                  .beta = a->beta };
    multiply(&p);
}
