/* core/ops.h - the catalogue: every op of the network, one line of mathematics each.
 *
 * Shapes: T tokens or rows, C width, N outputs, D head size, P patches, R supervised rows, V vocabulary. All
 * results are fresh tensors of the step, of the context's type (a loss is f32). Weights may be f32, bf16, f16 or 4-bit unless said otherwise; a
 * weight that wants a gradient is f32. Index arrays are host memory and must live until q3_backward is done.
 */
#ifndef Q3_CORE_OPS_H
#define Q3_CORE_OPS_H

#include "core/tape.h"

typedef struct q3_lora_attr {
    float scale;         /* alpha / r, or alpha / sqrt(r) with rsLoRA */
    float dropout;       /* on x, in front of A only; 0 outside training */
    uint32_t stream;     /* tells this layer's dropout from any other's */
    q3_tensor *residual; /* [T, N], is added; NULL: none */
} q3_lora_attr;

typedef struct q3_attention_attr {
    int heads;    /* query heads, a multiple of kv_heads */
    int kv_heads; /* query head h reads key head h / (heads / kv_heads) */
    float scale;
    bool causal;
    const q3_segment *segments; /* must cover every query row exactly once */
    int64_t n_segments;
    const void
        *device_segments; /* a copy by q3_on_device, for several calls; NULL: each call makes its own */
} q3_attention_attr;

/* y = a + b                                       a, b [T, C] -> [T, C] */
q3_tensor *q3_add(q3_ctx *ctx, q3_tensor *a, q3_tensor *b);

/* y = x w' + b                                    x [T, C], w [N, C], b [N] f32 or NULL -> [T, N] */
q3_tensor *q3_linear(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b);

/* y = a + x w' + b                                a [T, N] -> [T, N]; otherwise as q3_linear */
q3_tensor *q3_linear_add(q3_ctx *ctx, q3_tensor *a, q3_tensor *x, q3_tensor *w, q3_tensor *b);

/* y = x w' + b + scale drop(x) A' B'              A [r, C], B [N, r], f32 -> [T, N]
 * (Hu et al., arXiv:2106.09685) */
q3_tensor *q3_lora_linear(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b, q3_tensor *lora_a,
                          q3_tensor *lora_b, q3_lora_attr attr);

/* y_t += scale x_t A' B', begin <= t < begin + n    x [T, C], y [T, N], A [r, C], B [N, r], f32: in place, so not while
 * recording */
void q3_lora_rows(q3_ctx *ctx, q3_tensor *y, const q3_tensor *x, int64_t begin, int64_t n,
                  const q3_tensor *lora_a, const q3_tensor *lora_b, float scale);

/* y_i = x_i / (1 - p) or 0, by Philox keyed with (ctx->seed, ctx->micro_step, stream) and counted by element;
 * the same mask as q3_lora_linear draws for that stream */
q3_tensor *q3_dropout(q3_ctx *ctx, q3_tensor *x, float p, uint32_t stream);

/* y_t = table[ids_t]                              table [V, C] -> [T, C]; no gradient for the row of id
 *                                                 `skip` (-1: none) */
q3_tensor *q3_embedding(q3_ctx *ctx, q3_tensor *table, const int32_t *ids, int64_t n, int32_t skip);

/* y_i = x[rows_i]                                 x [T, C] -> [n, C]; a row may occur more than once */
q3_tensor *q3_get_rows(q3_ctx *ctx, q3_tensor *x, const int32_t *rows, int64_t n);

/* y = x with y[rows_i] = s_i                      x [T, C], s [n, C] -> [T, C]; rows distinct */
q3_tensor *q3_put_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n);

/* y = x with y[rows_i] += s_i                     x [T, C], s [n, C] -> [T, C]; rows distinct */
q3_tensor *q3_add_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n);

/* y = x[:, begin : begin + n]                     x [T, C] -> [T, n] */
q3_tensor *q3_get_columns(q3_ctx *ctx, q3_tensor *x, int64_t begin, int64_t n);

/* y_p = sum_k weights_pk table[taps_pk], k < 4    table [G, C], taps and weights [P, 4] -> [P, C] */
q3_tensor *q3_interpolate(q3_ctx *ctx, q3_tensor *table, const int32_t *taps, const float *weights,
                          int64_t n);

/* y = x / sqrt(mean(x^2) + eps) * w               x [.., C], w [C] f32; rows of C:
 *                                                 x may be [T, H D] with w [D] */
q3_tensor *q3_rmsnorm(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, float eps);

/* y = (x - mean) / sqrt(var + eps) * w + b        x [T, C], w, b [C] f32 -> [T, C] */
q3_tensor *q3_layernorm(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b, float eps);

/* pairs (i, i + D/2) of each head rotated by the token's angle; cos_sin [T, D], on the device (q3_on_device): D/2
 * cosines, then D/2 sines
 * x [T, heads D] -> the same */
q3_tensor *q3_rope(q3_ctx *ctx, q3_tensor *x, const float *cos_sin, int heads);

/* y = rope(x / rms(x) * w) of each head           x [T, heads D], w [D] f32, cos_sin as in q3_rope -> the same */
q3_tensor *q3_norm_rope(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, float eps, const float *cos_sin, int heads);

/* o = softmax(scale q k') v within segments       q [T, heads D], k, v [S, kv_heads D] -> [T, heads D] */
q3_tensor *q3_attention(q3_ctx *ctx, q3_tensor *q, q3_tensor *k, q3_tensor *v, q3_attention_attr attr);

/* y = a / (1 + exp(-a)) * u                       a, u [T, F] -> [T, F] */
q3_tensor *q3_swiglu(q3_ctx *ctx, q3_tensor *a, q3_tensor *u);

/* y = x Phi(x); the exact form with erf, or the tanh approximation */
q3_tensor *q3_gelu(q3_ctx *ctx, q3_tensor *x, bool tanh_form);

/* loss = scale sum_r -log softmax(x_r w')[targets_r]    x [R, C], w [V, C] -> [1]; logits are made a few
 * rows at a time, no [R, V] array exists */
q3_tensor *q3_cross_entropy(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, const int32_t *targets, float scale);

#endif
