#include "train/residency.h"

#include "core/log.h"

#if defined(Q3_CUDA)
#include "kernels/cudnn.h"
#include "kernels/gemm.h"

static int64_t elements(const q3_tensor *w)
{
    return w ? q3_numel(w) : 0;
}

/* What lies in another type than that of the activations. */
static bool converted(const q3_trainer *t, const q3_tensor *w)
{
    return w && w->dtype != t->ctx.dtype && !w->needs_grad;
}

static q3_status reserve_scratch(q3_trainer *t)
{
    int64_t most = converted(t, t->model.head) ? elements(t->model.head) : 0;
    for (int i = 0; i < t->model.n_projections; i++) {
        const q3_tensor *w = t->model.projections[i]->w;
        if (w->dtype != t->ctx.dtype && elements(w) > most)
            most = elements(w);
    }
    if (most && !q3_gemm_reserve(t->cuda, most, t->ctx.dtype))
        return q3_fail(Q3_ERR_MEMORY, "%s has no memory left to expand a weight of %s elements",
                       t->cuda->name, q3_count((uint64_t)most));
    return Q3_OK;
}

/* cuDNN may do without: what it refuses the own kernels take. */
static void reserve_attention(q3_trainer *t, int64_t tokens, int64_t patches)
{
    const q3_text_config *c = &t->model.config.text;
    const q3_vision_config *v = &t->model.config.vision;
    if (!t->cuda->cudnn)
        return;
    const q3_cudnn_shape text = { .heads = c->heads,
                                  .kv_heads = c->kv_heads,
                                  .head_size = c->head_dim,
                                  .causal = true,
                                  .backward = true,
                                  .stats = true,
                                  .deterministic = true };
    const q3_cudnn_shape vision = { .heads = v->heads,
                                    .kv_heads = v->heads,
                                    .head_size = v->hidden_size / v->heads };
    size_t bytes = q3_cudnn_workspace_bytes(t->cuda, &text, tokens);
    size_t other = q3_cudnn_workspace_bytes(t->cuda, &vision, patches);
    bytes = bytes > other ? bytes : other;
    if (bytes && !q3_cudnn_reserve(t->cuda, bytes))
        q3_info("attention   cuDNN would want %s of workspace; the program's own kernels serve",
                q3_bytes(bytes));
}

q3_status q3_trainer_set_aside(q3_trainer *t, int64_t tokens, int64_t patches)
{
    if (!t->cuda)
        return Q3_OK;
    reserve_attention(t, tokens, patches);
    return reserve_scratch(t);
}

/* Keys and values of the largest batch of an evaluation. */
static size_t cache_bytes(const q3_trainer *t, int64_t tokens)
{
    const q3_text_config *c = &t->model.config.text;
    int64_t rows = t->config->eval.batch_size, most = t->config->train.per_device_train_batch_size;
    int64_t slots = (rows > most ? rows : most) * (tokens + t->config->eval.max_new_tokens);
    return q3_dtype_bytes(t->ctx.dtype, 2 * (int64_t)c->layers * slots * c->kv_heads * c->head_dim);
}

q3_status q3_trainer_cache_weights(q3_trainer *t, int64_t tokens)
{
    q3_config_cache choice = t->config->model.weight_cache;
    if (!t->cuda || t->ctx.dtype != Q3_BF16 || choice == Q3_CONFIG_CACHE_OFF)
        return Q3_OK;
    size_t kept = t->step_plan + cache_bytes(t, tokens), available = q3_device_available(t->cuda);
    kept += available / 20; // the device's own needs, and pieces that do not fit together
    int64_t cached = 0, n = 0;
    for (int i = t->model.n_projections - 1; i >= 0;
         i--) { // the decoder's, which serve backward too, stand last
        const q3_tensor *w = t->model.projections[i]->w;
        if (!converted(t, w))
            continue;
        n++;
        size_t bytes = q3_dtype_bytes(Q3_BF16, q3_numel(w));
        const q3_weight form = q3_as_weight(w);
        bool fits = choice == Q3_CONFIG_CACHE_ON || kept + bytes <= q3_device_available(t->cuda);
        if (fits && q3_weight_cache_add(t->cuda, &form, w->shape[0], w->shape[1]))
            cached++;
        else if (choice == Q3_CONFIG_CACHE_ON)
            return q3_fail(
                Q3_ERR_MEMORY,
                "model.weight_cache is on, and %s has no room for all expanded weights; set it to auto",
                t->cuda->name);
    }
    if (n)
        q3_info("weights     %lld of %lld stay expanded to bfloat16", (long long)cached, (long long)n);
    return q3_device_status(t->cuda);
}

#else

q3_status q3_trainer_set_aside(q3_trainer *t, int64_t tokens, int64_t patches)
{
    (void)t, (void)tokens, (void)patches;
    return Q3_OK;
}

q3_status q3_trainer_cache_weights(q3_trainer *t, int64_t tokens)
{
    (void)t, (void)tokens;
    return Q3_OK;
}

#endif
