/* Time of each CUDA kernel at the shapes that it has in Qwen3-VL-8B (or another size), against what the device can do:
 *
 *   bench_kernels [--model 8b|4b|2b|tiny] [--device cuda[:N]] [--tokens 8192] [--times 15] [--only PART_OF_A_NAME]
 *
 * The rates of a large copy and of a large bf16 product are measured first. Each line is the median of so many runs
 * between two marks of the stream, bytes and operations counted as the kernels' headers do, and the share of the
 * ceiling that is nearer. Arrays hold random values; training's are larger than a device's cache.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "kernels/adamw.h"
#include "kernels/add.h"
#include "kernels/attention.h"
#include "kernels/attention_paged.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/gelu.h"
#include "kernels/gemm.h"
#include "kernels/gemv.h"
#include "kernels/gradient.h"
#include "kernels/row_store.h"
#include "kernels/layernorm.h"
#include "kernels/nf4.h"
#include "kernels/pool.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "kernels/sample.h"
#include "kernels/swiglu.h"
#include "tests/bench/probe.h"
#include "tests/bench/random_model.h"
#include "tests/bench/timing.h"

enum { RANK = 16, ROW = 2048, PAGE = 16, MAX_TOKENS = 1 << 20 };

#define RESERVED ((size_t)1 << 40) // addresses, not memory

typedef struct sizes {
    const char *name;
    int64_t hidden, inner, heads, kv_heads, head_dim, vocab, adapter; // adapter: LoRA parameters of rank 16
    int64_t vision_hidden, vision_inner;
} sizes;

/* docs/model.md */
static const sizes known[] = { { "8b", 4096, 12288, 32, 8, 128, 151936, 43646976, 1152, 4304 },
                               { "4b", 2560, 9728, 32, 8, 128, 151936, 33030144, 1024, 4096 },
                               { "2b", 2048, 6144, 16, 8, 128, 151936, 17432576, 1024, 4096 },
                               { "tiny", 64, 192, 4, 2, 32, 512, 4096, 32, 64 } };

typedef struct bench {
    q3_cuda *cuda;
    q3_arena mem;
    random_values drawn;
    sizes s;
    int64_t T, row;
    int times, taken;
    const char *only;
    probe most;
    q3_status status;
} bench;

/* Random values; read as f32 they are of the same size, for a pair of bf16 is an f32 that begins with the second. */
static void *take(bench *b, int64_t bytes)
{
    void *p = b->status ? NULL : q3_arena_alloc(&b->mem, (size_t)bytes);
    if (!p)
        b->status = Q3_ERR_MEMORY;
    else
        random_fill_bf16(b->cuda, &b->drawn, p, (size_t)bytes, b->taken++);
    return p;
}

/* n indices below `limit`, distinct where n <= limit. */
static int32_t *take_indices(bench *b, int64_t n, int64_t limit)
{
    int32_t *host = q3_malloc((size_t)n * sizeof *host), *p = take(b, 4 * n);
    for (int64_t i = 0; host && i < n; i++)
        host[i] = (int32_t)(i % limit);
    if (host && p)
        q3_device_write(b->cuda, p, host, (size_t)n * sizeof *host);
    q3_free(host);
    return p;
}

static q3_weight nf4_weight(bench *b, int64_t n)
{
    q3_weight w = { .data = take(b, (n + 1) / 2), .dtype = Q3_NF4, .block = 64 };
    uint8_t *codes = take(b, n / 64 + 1);
    float *scale = take(b, 4 * (n / 64 / 256 + 1)), *map = take(b, 1024);
    if (b->status)
        return w;
    random_fill_bits(b->cuda, &b->drawn, (void *)(uintptr_t)w.data, (size_t)(n + 1) / 2, b->taken);
    random_fill_bits(b->cuda, &b->drawn, codes, (size_t)(n / 64 + 1), b->taken + 1);
    q3_device_write(b->cuda, map, q3_nf4_nested_map(), 1024);
    w.nested = (q3_nested){ codes, scale, map, 0.035f };
    return w;
}

static q3_weight bf16_weight(bench *b, int64_t n)
{
    return (q3_weight){ .data = take(b, 2 * n), .dtype = Q3_BF16 };
}

static double weight_bytes(const q3_weight *w, int64_t n)
{
    return w->dtype == Q3_NF4 ? (double)n / 2 + (double)n / 64 : 2.0 * (double)n;
}

/* A line of the table; the memory of the case is free again. */
static void measure(bench *b, const char *name, void (*work)(void *, q3_cuda *), void *args, double bytes,
                    double flops)
{
    if (!b->status && (!b->only || strstr(name, b->only))) {
        double t = timing_median(b->cuda, work, args, b->times);
        double copy = t > 0 ? bytes / t / b->most.copy : 0, gemm = t > 0 ? flops / t / b->most.gemm : 0;
        b->status = q3_device_status(b->cuda);
        if (!b->status)
            printf("%-34s %10.1f %9.1f %9.2f %7.1f%% of %s\n", name, 1e6 * t, t > 0 ? 1e-9 * bytes / t : 0,
                   t > 0 ? 1e-12 * flops / t : 0, 100 * (copy > gemm ? copy : gemm),
                   copy > gemm ? "copy" : "product");
        else
            q3_wrap(b->status, "%s", name);
        fflush(stdout);
    }
    q3_arena_rewind(&b->mem, 0);
}

/* Launchers as work. */
#define WORK(kernel, type)                                                                                   \
    static void work_##kernel(void *args, q3_cuda *cuda)                                                     \
    {                                                                                                        \
        q3_##kernel##_cuda((const type *)args, cuda);                                                        \
    }
WORK(nf4_dequantize, q3_nf4_dequantize_args)
WORK(gemm_nt, q3_gemm_nt_args)
WORK(gemm_nn, q3_gemm_nn_args)
WORK(gemm_tn, q3_gemm_tn_args)
WORK(gemv, q3_gemm_nt_args)
WORK(rmsnorm_forward, q3_rmsnorm_args)
WORK(rmsnorm_backward, q3_rmsnorm_backward_args)
WORK(layernorm_forward, q3_layernorm_args)
WORK(rope_rotate, q3_rope_args)
WORK(attention_forward, q3_attention_args)
WORK(attention_backward, q3_attention_backward_args)
WORK(attention_paged, q3_attention_paged_args)
WORK(swiglu_forward, q3_swiglu_args)
WORK(swiglu_backward, q3_swiglu_backward_args)
WORK(gelu_forward, q3_gelu_args)
WORK(add_forward, q3_add_args)
WORK(dropout_forward, q3_dropout_args)
WORK(cross_entropy_rows, q3_cross_entropy_args)
WORK(take_rows, q3_take_rows_args)
WORK(adamw, q3_adamw_args)
WORK(adamw_8bit, q3_adamw_args)
WORK(gradient_sum_squares, q3_gradient_args)
WORK(gradient_scale, q3_gradient_args)
WORK(cast, q3_cast_args)
WORK(row_store, q3_row_store_args)
WORK(kv_store, q3_kv_store_args)
WORK(greedy, q3_greedy_args)

static void weights(bench *b)
{
    const int64_t n = b->s.inner * b->s.hidden;
    q3_weight w = nf4_weight(b, n);
    q3_nf4_dequantize_args a = { take(b, 2 * n), Q3_BF16, w.data, NULL, w.nested, Q3_NF4, 64, n };
    measure(b, "nf4 dequantize, gate", work_nf4_dequantize, &a, weight_bytes(&w, n) + 2 * (double)n, 0);
}

/* y [T, N] = x [T, K] w', and dx from dy. */
static void product(bench *b, const char *name, int64_t N, int64_t K, bool nf4, bool back)
{
    q3_weight w = nf4 ? nf4_weight(b, N * K) : bf16_weight(b, N * K);
    void *wide = take(b, 2 * b->T * N), *narrow = take(b, 2 * b->T * K);
    q3_gemm_nt_args nt = {
        .y = wide, .x = narrow, .w = w, .M = b->T, .N = N, .K = K, .alpha = 1, .dtype = Q3_BF16
    };
    q3_gemm_nn_args nn = {
        .y = narrow, .x = wide, .w = w, .M = b->T, .N = N, .K = K, .alpha = 1, .dtype = Q3_BF16
    };
    double bytes = 2 * (double)b->T * (double)(N + K) + weight_bytes(&w, N * K),
           flops = 2 * (double)b->T * (double)N * (double)K;
    if (back)
        measure(b, name, work_gemm_nn, &nn, bytes, flops);
    else
        measure(b, name, work_gemm_nt, &nt, bytes, flops);
}

/* The gradient of an adapter's A [r, K]. */
static void adapter_gradient(bench *b)
{
    const int64_t K = b->s.hidden;
    q3_gemm_tn_args a = { .y = take(b, 4 * RANK * K),
                          .x = take(b, 2 * b->T * RANK),
                          .z = take(b, 2 * b->T * K),
                          .M = b->T,
                          .N = RANK,
                          .K = K,
                          .alpha = 1,
                          .beta = 1,
                          .dtype = Q3_BF16 };
    measure(b, "gemm tn, gradient of A", work_gemm_tn, &a, 2 * (double)b->T * (double)(K + RANK),
            2 * (double)b->T * RANK * (double)K);
}

static void products(bench *b)
{
    const int64_t H = b->s.hidden, q = b->s.heads * b->s.head_dim, F = b->s.inner;
    product(b, "gemm nt, q, bf16", q, H, false, false);
    product(b, "gemm nt, q k v, bf16", q + 2 * b->s.kv_heads * b->s.head_dim, H, false, false);
    product(b, "gemm nt, gate, bf16", F, H, false, false);
    product(b, "gemm nt, gate and up, bf16", 2 * F, H, false, false);
    product(b, "gemm nt, down, bf16", H, F, false, false);
    product(b, "gemm nt, gate, nf4", F, H, true, false);
    product(b, "gemm nn, gate, bf16", F, H, false, true);
    product(b, "gemm nn, down, bf16", H, F, false, true);
    product(b, "gemm nn, gate, nf4", F, H, true, true);
    product(b, "gemm nt, adapter in, bf16", RANK, H, false, false);
    product(b, "gemm nt, adapter out, bf16", F, RANK, false, false);
    product(b, "gemm nn, adapter out, bf16", F, RANK, false, true);
    adapter_gradient(b);
    product(b, "gemm nt, head, bf16", b->s.vocab, H, false, false);
}

static void few_rows(bench *b, const char *name, int64_t M, int64_t N, bool nf4)
{
    const int64_t K = b->s.hidden;
    q3_weight w = nf4 ? nf4_weight(b, N * K) : bf16_weight(b, N * K);
    q3_gemm_nt_args a = { .y = take(b, 2 * M * N),
                          .x = take(b, 2 * M * K),
                          .w = w,
                          .M = M,
                          .N = N,
                          .K = K,
                          .alpha = 1,
                          .dtype = Q3_BF16 };
    measure(b, name, work_gemv, &a, weight_bytes(&w, N * K) + 2 * (double)M * (double)(N + K),
            2 * (double)M * (double)N * (double)K);
}

static void gemv(bench *b)
{
    few_rows(b, "gemv, 1 row, gate, nf4", 1, b->s.inner, true);
    few_rows(b, "gemv, 8 rows, gate, nf4", 8, b->s.inner, true);
    few_rows(b, "gemv, 1 row, head, bf16", 1, b->s.vocab, false);
    few_rows(b, "gemv, 8 rows, head, bf16", 8, b->s.vocab, false);
}

static void rmsnorm(bench *b, const char *name, const char *back, int64_t rows, int64_t C)
{
    const double bytes = 2 * (double)rows * (double)C;
    q3_rmsnorm_args f = { .y = take(b, 2 * rows * C),
                          .r = take(b, 4 * rows),
                          .x = take(b, 2 * rows * C),
                          .w = take(b, 4 * C),
                          .rows = rows,
                          .C = C,
                          .eps = 1e-6f,
                          .dtype = Q3_BF16 };
    measure(b, name, work_rmsnorm_forward, &f, 2 * bytes, 0);
    q3_rmsnorm_backward_args g = { .dx = take(b, 2 * rows * C),
                                   .dy = take(b, 2 * rows * C),
                                   .x = take(b, 2 * rows * C),
                                   .r = take(b, 4 * rows),
                                   .w = take(b, 4 * C),
                                   .rows = rows,
                                   .C = C,
                                   .dtype = Q3_BF16 };
    measure(b, back, work_rmsnorm_backward, &g, 3 * bytes, 0);
}

static void rope(bench *b)
{
    const int64_t n = b->T * b->s.heads * b->s.head_dim;
    q3_rope_args a = { .y = take(b, 2 * n),
                       .x = take(b, 2 * n),
                       .cos_sin = take(b, 4 * b->T * b->s.head_dim),
                       .T = b->T,
                       .heads = (int)b->s.heads,
                       .D = (int)b->s.head_dim,
                       .dtype = Q3_BF16 };
    measure(b, "rope, q", work_rope_rotate, &a, 4 * (double)n + 4 * (double)(b->T * b->s.head_dim), 0);
}

/* Rows of equal length; `shape` is kept by the caller, for the segments of the host must outlive the launch. */
static q3_attention_args attention_args(bench *b, int64_t *segments)
{
    const int64_t B = b->T / b->row, q = b->T * b->s.heads * b->s.head_dim,
                  kv = b->T * b->s.kv_heads * b->s.head_dim;
    for (int64_t i = 0; i < B; i++)
        memcpy(segments + 4 * i, (int64_t[]){ i * b->row, b->row, i * b->row, b->row }, 4 * sizeof *segments);
    int64_t *device = take(b, B * 4 * (int64_t)sizeof *device);
    if (device)
        q3_device_write(b->cuda, device, segments, (size_t)B * 4 * sizeof *device);
    return (q3_attention_args){ .o = take(b, 2 * q),
                                .lse = take(b, 4 * b->T * b->s.heads),
                                .q = take(b, 2 * q),
                                .k = take(b, 2 * kv),
                                .v = take(b, 2 * kv),
                                .segments = segments,
                                .device_segments = device,
                                .n_segments = B,
                                .heads = (int)b->s.heads,
                                .kv_heads = (int)b->s.kv_heads,
                                .head_size = (int)b->s.head_dim,
                                .scale = 1 / sqrtf((float)b->s.head_dim),
                                .causal = true,
                                .dtype = Q3_BF16 };
}

/* 2 products of D over the visible half, backward 5. */
static void attention(bench *b, const char *name, const char *back, q3_attention_kind kind)
{
    const int64_t q = b->T * b->s.heads * b->s.head_dim, kv = b->T * b->s.kv_heads * b->s.head_dim;
    const double flops = 4 * (double)q * 0.5 * (double)(b->row + 1), bytes = 4 * (double)(q + kv);
    int64_t *segments = q3_malloc((size_t)(b->T / b->row) * 4 * sizeof *segments);
    if (!segments)
        b->status = Q3_ERR_MEMORY;
    if (b->status)
        return;
    b->cuda->attention = kind;
    q3_attention_args f = attention_args(b, segments);
    measure(b, name, work_attention_forward, &f, bytes, flops);
    q3_attention_backward_args g = { .f = attention_args(b, segments),
                                     .dout = take(b, 2 * q),
                                     .delta = take(b, 4 * b->T * b->s.heads),
                                     .queries = b->T,
                                     .keys = b->T,
                                     .dq = take(b, 2 * q),
                                     .dk = take(b, 2 * kv),
                                     .dv = take(b, 2 * kv) };
    if (!b->status) // o and lse that belong to q, k, v
        q3_attention_forward_cuda(&g.f, b->cuda);
    measure(b, back, work_attention_backward, &g, 2 * bytes, 2.5 * flops);
    q3_free(segments);
}

static q3_kv_slab take_slab(bench *b, q3_dtype dtype, int64_t tokens)
{
    const int K = (int)b->s.kv_heads, D = (int)b->s.head_dim;
    const int64_t scales = tokens * q3_kv_scales(dtype, K, D);
    return (q3_kv_slab){ take(b, (int64_t)q3_dtype_bytes(dtype, tokens * K * D)),
                         scales ? take(b, 4 * scales) : NULL, dtype };
}

static double slab_bytes(const bench *b, q3_dtype dtype, int64_t tokens)
{
    const int K = (int)b->s.kv_heads, D = (int)b->s.head_dim;
    return (double)q3_dtype_bytes(dtype, tokens * K * D) + 4 * (double)(tokens * q3_kv_scales(dtype, K, D));
}

static void paged(bench *b, const char *name, int64_t rows, q3_dtype cache)
{
    const int64_t length = b->row, pages = length / PAGE, q = rows * b->s.heads * b->s.head_dim;
    q3_attention_paged_args a = { .o = take(b, 2 * q),
                                  .q = take(b, 2 * q),
                                  .k = take_slab(b, cache, rows * length),
                                  .v = take_slab(b, cache, rows * length),
                                  .tables = take_indices(b, rows * pages, rows * pages),
                                  .rows = rows,
                                  .most_queries = 1,
                                  .max_blocks = (int)pages,
                                  .block = PAGE,
                                  .heads = (int)b->s.heads,
                                  .kv_heads = (int)b->s.kv_heads,
                                  .head_size = (int)b->s.head_dim,
                                  .scale = 1 / sqrtf((float)b->s.head_dim),
                                  .dtype = Q3_BF16 };
    int32_t host[2 * 64 + 1], *device = take(b, (2 * rows + 1) * 4); // lengths, begins
    for (int64_t i = 0; i < rows; i++)
        host[i] = (int32_t)length;
    for (int64_t i = 0; i <= rows; i++)
        host[rows + i] = (int32_t)i;
    if (device)
        q3_device_write(b->cuda, device, host, (size_t)(2 * rows + 1) * sizeof *host);
    a.lengths = device, a.begins = device + rows;
    measure(b, name, work_attention_paged, &a, 2 * slab_bytes(b, cache, rows * length),
            4 * (double)q * (double)length);
}

static void all_attention(bench *b)
{
    attention(b, "attention forward, own", "attention backward, own", Q3_ATTENTION_FLASH);
    if (b->cuda->cudnn)
        attention(b, "attention forward, cuDNN", "attention backward, cuDNN", Q3_ATTENTION_CUDNN);
    paged(b, "attention of 1 query, paged", 1, Q3_BF16);
    paged(b, "attention of 32 queries, paged", 32, Q3_BF16);
    paged(b, "attention of 32 queries, int8", 32, Q3_I8);
    paged(b, "attention of 32 queries, int4", 32, Q3_I4);
}

static void elementwise(bench *b)
{
    const int64_t n = b->T * b->s.inner, m = b->T * b->s.hidden;
    q3_swiglu_args f = { take(b, 2 * n), take(b, 2 * n), take(b, 2 * n), n, Q3_BF16 };
    measure(b, "swiglu forward", work_swiglu_forward, &f, 6 * (double)n, 0);
    q3_swiglu_backward_args g = { .da = take(b, 2 * n),
                                  .du = take(b, 2 * n),
                                  .dy = take(b, 2 * n),
                                  .a = take(b, 2 * n),
                                  .u = take(b, 2 * n),
                                  .n = n,
                                  .dtype = Q3_BF16 };
    measure(b, "swiglu backward", work_swiglu_backward, &g, 10 * (double)n, 0);
    q3_add_args add = { take(b, 2 * m), take(b, 2 * m), take(b, 2 * m), m, Q3_BF16 };
    measure(b, "add", work_add_forward, &add, 6 * (double)m, 0);
    q3_dropout_args drop = { .y = take(b, 2 * m), .x = take(b, 2 * m), .n = m, .p = 0.05f, .dtype = Q3_BF16 };
    measure(b, "dropout", work_dropout_forward, &drop, 4 * (double)m, 0);
    q3_cast_args cast = { .y = take(b, 2 * b->s.adapter),
                          .x = take(b, 4 * b->s.adapter),
                          .rows = 1,
                          .cols = b->s.adapter,
                          .y_dtype = Q3_BF16,
                          .x_dtype = Q3_F32 };
    measure(b, "cast, adapter to bf16", work_cast, &cast, 6 * (double)b->s.adapter, 0);
}

static void vision(bench *b)
{
    const int64_t C = b->s.vision_hidden, n = b->T * b->s.vision_inner;
    q3_layernorm_args a = { .y = take(b, 2 * b->T * C),
                            .x = take(b, 2 * b->T * C),
                            .w = take(b, 4 * C),
                            .b = take(b, 4 * C),
                            .rows = b->T,
                            .C = C,
                            .eps = 1e-6f,
                            .dtype = Q3_BF16 };
    measure(b, "layernorm forward, vision", work_layernorm_forward, &a, 4 * (double)(b->T * C), 0);
    q3_gelu_args g = {
        .y = take(b, 2 * n), .x = take(b, 2 * n), .n = n, .tanh_form = true, .dtype = Q3_BF16
    };
    measure(b, "gelu forward, vision", work_gelu_forward, &g, 4 * (double)n, 0);
}

static void tokens(bench *b)
{
    const int64_t V = b->s.vocab, H = b->s.hidden,
                  R = ((int64_t)1 << 28) / V < b->T ? ((int64_t)1 << 28) / V : b->T;
    q3_cross_entropy_args ce = { .loss = take(b, 8 * R),
                                 .logits = take(b, 2 * R * V),
                                 .targets = take_indices(b, R, V),
                                 .R = R,
                                 .V = V,
                                 .gradient = true,
                                 .scale = 1e-4f,
                                 .dtype = Q3_BF16 };
    measure(b, "cross-entropy and gradient", work_cross_entropy_rows, &ce, 6 * (double)(R * V), 0);
    q3_take_rows_args take_rows = { .y = take(b, 2 * b->T * H),
                                    .x = bf16_weight(b, V * H),
                                    .index = take_indices(b, b->T, V),
                                    .n = b->T,
                                    .C = H,
                                    .dtype = Q3_BF16 };
    measure(b, "embedding", work_take_rows, &take_rows, 4 * (double)(b->T * H), 0);
    const int64_t width = b->s.kv_heads * b->s.head_dim;
    q3_row_store_args kv = { take(b, 2 * b->T * width),
                             take(b, 2 * b->T * width),
                             take_indices(b, b->T, b->T),
                             b->T,
                             width,
                             Q3_BF16 };
    measure(b, "row store", work_row_store, &kv, 4 * (double)(b->T * width), 0);
    q3_kv_store_args store = { take_slab(b, Q3_I8, b->T),
                               take(b, 2 * b->T * width),
                               take_indices(b, b->T, b->T),
                               b->T,
                               (int)b->s.kv_heads,
                               (int)b->s.head_dim,
                               Q3_BF16 };
    measure(b, "kv store, int8", work_kv_store, &store,
            2 * (double)(b->T * width) + slab_bytes(b, Q3_I8, b->T), 0);
    q3_greedy_args greedy = { .token = take(b, 4 * 32),
                              .lse = take(b, 8 * 32),
                              .logits = take(b, 2 * 32 * V),
                              .R = 32,
                              .V = V,
                              .dtype = Q3_BF16 };
    measure(b, "greedy choice of 32 rows", work_greedy, &greedy, 2 * 32 * (double)V, 0);
}

static void optimizer(bench *b)
{
    const int64_t n = b->s.adapter;
    const q3_adamw_args a = { .p = take(b, 4 * n),
                              .g = take(b, 4 * n),
                              .n = n,
                              .beta1 = 0.9f,
                              .beta2 = 0.999f,
                              .rest1 = 0.1f,
                              .rest2 = 0.001f,
                              .rate = 1e-4f,
                              .root = 1,
                              .eps = 1e-8f,
                              .decay = 1 };
    q3_adamw_args f32 = a, coded = a;
    f32.m = take(b, 4 * n);
    f32.v = take(b, 4 * n);
    q3_device_fill(b->cuda, f32.v, 0, b->status ? 0 : 4 * (size_t)n); // no negative variance
    measure(b, "adamw, f32", work_adamw, &f32, 28 * (double)n, 0);
    coded.p = take(b, 4 * n);
    coded.g = take(b, 4 * n);
    coded.code1 = take(b, n);
    coded.code2 = take(b, n);
    coded.absmax1 = take(b, 4 * (n / Q3_ADAMW_BLOCK + 1));
    coded.absmax2 = take(b, 4 * (n / Q3_ADAMW_BLOCK + 1));
    measure(b, "adamw, 8 bits", work_adamw_8bit, &coded, 16 * (double)n, 0);
    q3_gradient_args g = { .g = take(b, 4 * n), .n = n, .factor = 1 };
    measure(b, "gradient scale", work_gradient_scale, &g, 8 * (double)n, 0);
    int64_t run[2] = { 0, n }, *device;
    g.g = take(b, 4 * n);
    g.begin = device = take(b, 16);
    g.count = device ? device + 1 : NULL;
    g.runs = 1;
    g.sums = take(b, 8);
    if (!b->status)
        q3_device_write(b->cuda, device, run, sizeof run);
    measure(b, "gradient sum of squares", work_gradient_sum_squares, &g, 4 * (double)n, 0);
}

static void table(bench *b)
{
    printf("%-34s %10s %9s %9s %8s\n", "kernel", "us", "GB/s", "TFLOP/s", "of most");
    weights(b);
    products(b);
    gemv(b);
    rmsnorm(b, "rmsnorm forward", "rmsnorm backward", b->T, b->s.hidden);
    rmsnorm(b, "rmsnorm forward, heads", "rmsnorm backward, heads", b->T * b->s.heads, b->s.head_dim);
    rope(b);
    all_attention(b);
    elementwise(b);
    vision(b);
    tokens(b);
    optimizer(b);
}

static q3_status run(bench *b, const char *device)
{
    bool small = strcmp(b->s.name, "tiny") == 0;
    Q3_TRY(q3_device_open(&b->cuda, device));
    if (!b->cuda)
        return q3_fail(Q3_ERR_USAGE, "bench_kernels measures a CUDA device, and \"%s\" is none", device);
    printf("device     %s\n", q3_device_describe(b->cuda));
    Q3_TRY(probe_measure(&b->most, b->cuda, small ? 1 << 20 : PROBE_COPY_BYTES, small ? 64 : PROBE_GEMM_SIZE,
                         small ? 1 : 9));
    printf("most       copy %.0f GB/s, bf16 product %.1f TFLOP/s\n", 1e-9 * b->most.copy,
           1e-12 * b->most.gemm);
    printf("shapes     of %s, %lld tokens in rows of %lld\n\n", b->s.name, (long long)b->T,
           (long long)b->row);
    q3_arena values;
    Q3_TRY(q3_device_arena_create(&values, b->cuda, "random values", (size_t)64 << 20));
    b->status = random_values_create(&b->drawn, &values);
    if (!b->status)
        b->status = q3_device_arena_create(&b->mem, b->cuda, "arrays", RESERVED);
    if (!b->status)
        table(b);
    q3_arena_destroy(&b->mem);
    q3_arena_destroy(&values);
    return b->status;
}

static bool option(bench *b, const char **device, const char *name, const char *value)
{
    if (strcmp(name, "--model") == 0) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(known[i].name, value) == 0)
                return b->s = known[i], true;
        return false;
    }
    if (strcmp(name, "--device") == 0)
        return (*device = value) != NULL;
    if (strcmp(name, "--only") == 0)
        return (b->only = value) != NULL;
    if (strcmp(name, "--tokens") == 0)
        return (b->T = strtoll(value, NULL, 10)) >= PAGE && b->T <= MAX_TOKENS &&
               b->T % (b->row = b->T < ROW ? b->T : ROW) == 0 && b->row % PAGE == 0;
    if (strcmp(name, "--times") == 0)
        return (b->times = (int)strtol(value, NULL, 10)) >= 1;
    return false;
}

int main(int argc, char **argv)
{
    bench b = { .s = known[0], .T = 8192, .row = ROW, .times = 15 };
    const char *device = "cuda";
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(&b, &device, argv[i], argv[i + 1]))
            return fprintf(stderr,
                           "bench_kernels: %s is not understood (--tokens: below %d a multiple of %d, above "
                           "of %d)\n",
                           argv[i], ROW, PAGE, ROW),
                   2;
    q3_pool_start(0);
    q3_status st = run(&b, device);
    if (st != Q3_OK)
        fprintf(stderr, "%s\n", q3_error());
    q3_device_close(b.cuda);
    q3_pool_stop();
    return q3_exit_code(st);
}
