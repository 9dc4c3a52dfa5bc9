#include "model/adapters.h"

#include <string.h>

#include "core/sha256.h"
#include "kernels/nf4.h"

enum { HASHED = 1 << 14 }; // values that are read back at a time

q3_status q3_adapters_create(q3_adapters *out, q3_arena *mem, int capacity)
{
    *out = (q3_adapters){ .capacity = capacity };
    out->list = Q3_ZNEW(mem, q3_adapter, capacity + 1);
    return out->list ? Q3_OK : Q3_ERR_MEMORY;
}

/* Which layers, how strong, and the values, which are one flat array on the device. */
static q3_status hash(unsigned char out[Q3_SHA256_BYTES], const q3_trainable *t, const q3_model *model)
{
    q3_sha256 s;
    float *x = q3_malloc(HASHED * sizeof *x);
    if (!x)
        return Q3_ERR_MEMORY;
    q3_sha256_begin(&s);
    for (int i = 0; i < model->n_projections; i++) {
        const q3_proj *p = model->projections[i];
        if (!p->lora_a)
            continue;
        q3_sha256_add(&s, &p->stream, sizeof p->stream);
        q3_sha256_add(&s, &p->lora_a->shape[0], sizeof p->lora_a->shape[0]);
        q3_sha256_add(&s, &p->lora_scale, sizeof p->lora_scale);
    }
    for (int64_t at = 0; at < t->n; at += HASHED) {
        size_t bytes = (size_t)(t->n - at < HASHED ? t->n - at : HASHED) * sizeof *x;
        q3_device_read(t->cuda, x, t->values + at, bytes);
        q3_sha256_add(&s, x, bytes);
    }
    q3_sha256_end(out, &s);
    q3_free(x);
    return q3_device_status(t->cuda);
}

/* The parts as they hang on the projections, which are left without. */
static void take_parts(q3_adapter *a, q3_model *model)
{
    for (int i = 0; i < model->n_projections; i++) {
        q3_proj *p = model->projections[i];
        if (a && p->lora_a) {
            a->parts[p->stream] = (q3_adapter_part){ p->lora_a, p->lora_b, p->lora_scale };
            a->vision |= strncmp(p->path, "model.visual.", 13) == 0;
        }
        p->lora_a = p->lora_b = NULL;
    }
}

static q3_status load(q3_adapter *out, q3_model *model, q3_arena *mem, q3_arena *values, const char *dir)
{
    q3_trainable t;
    q3_lora_config config;
    Q3_TRY(q3_lora_load(&t, &config, model, mem, dir));
    Q3_TRY(q3_trainable_shadow(&t, values, Q3_BF16)); // where there is a device, most compute in it
    out->parts = Q3_ZNEW(mem, q3_adapter_part, model->n_projections);
    return out->parts ? hash(out->hash, &t, model) : Q3_ERR_MEMORY;
}

q3_status q3_adapters_load(q3_adapters *a, q3_model *model, q3_arena *mem, q3_arena *values, const char *name,
                           const char *dir)
{
    Q3_CHECK(a->n < a->capacity, "room for %d adapters", a->capacity);
    q3_adapter out = { .name = name };
    q3_arena *own = model->values;
    model->values = values;
    q3_status st = load(&out, model, mem, values, dir);
    model->values = own;
    take_parts(st == Q3_OK ? &out : NULL, model);
    if (st == Q3_OK)
        a->list[a->n++] = out;
    return st;
}

static bool mergeable(const q3_tensor *w)
{
    return w->dtype == Q3_F32 || w->dtype == Q3_BF16 || w->dtype == Q3_F16;
}

/* to [n] = x, rounded to `dtype`, f32 or half of it. */
static void narrow(void *to, const float *x, q3_dtype dtype, int64_t n)
{
    if (dtype == Q3_F32)
        memcpy(to, x, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n && dtype != Q3_F32; i++)
        ((uint16_t *)to)[i] = dtype == Q3_BF16 ? q3_f32_to_bf16(x[i]) : q3_f32_to_f16(x[i]);
}

/* A copy of a tensor of the device, whose values the caller frees. */
static q3_tensor on_host(q3_cuda *cuda, const q3_tensor *t)
{
    q3_tensor copy = *t;
    copy.data = q3_malloc(q3_nbytes(t));
    if (copy.data)
        q3_device_read(cuda, copy.data, t->data, q3_nbytes(t));
    return copy;
}

/* x [N, C] += scale B A, on the host. */
static q3_status add_product(float *x, q3_cuda *cuda, const q3_adapter_part *part)
{
    q3_tensor a = on_host(cuda, part->a), b = on_host(cuda, part->b);
    bool room = a.data && b.data;
    if (room)
        q3_lora_add(x, &a, &b, part->scale);
    q3_free(a.data);
    q3_free(b.data);
    return room ? Q3_OK : Q3_ERR_MEMORY;
}

/* The matrix gets a place of its own: until now it may lie in a file. */
static q3_status merge(q3_tensor *w, q3_arena *values, const q3_adapter_part *part)
{
    int64_t n = q3_numel(w);
    void *own = q3_arena_alloc(values, q3_nbytes(w)), *stored = q3_malloc(q3_nbytes(w));
    float *x = q3_malloc((size_t)n * sizeof *x);
    q3_status st = own && stored && x ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK) {
        q3_device_read(values->cuda, stored, w->data, q3_nbytes(w));
        q3_widen(x, stored, w->dtype, n);
        st = add_product(x, values->cuda, part);
    }
    if (st == Q3_OK) {
        narrow(stored, x, w->dtype, n);
        q3_device_write(values->cuda, own, stored, q3_nbytes(w));
        w->data = own;
    }
    q3_free(x);
    q3_free(stored);
    return st ? st : q3_device_status(values->cuda);
}

q3_status q3_adapter_merge(q3_model *model, q3_arena *values, const q3_adapter *adapter)
{
    for (int i = 0; i < model->n_projections; i++) {
        const q3_proj *p = model->projections[i];
        if (adapter->parts[p->stream].a && !mergeable(p->w))
            return q3_fail(
                Q3_ERR_USAGE,
                "adapter %s: %s is quantized, and an adapter is merged into f32, bf16 or f16 only; load the "
                "model without quantization, or use the adapter beside it",
                adapter->name, p->path);
    }
    for (int i = 0; i < model->n_projections; i++) {
        const q3_proj *p = model->projections[i];
        if (adapter->parts[p->stream].a)
            Q3_TRY(merge(p->w, values, &adapter->parts[p->stream]));
    }
    return Q3_OK;
}
