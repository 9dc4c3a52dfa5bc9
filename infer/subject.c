#include "infer/subject.h"

#include <string.h>

#include "data/hub.h"
#include "kernels/kv_cache.h"

#define ARENA_BYTES ((size_t)1 << 40) // reserved addresses, not memory

static q3_status choose_dtype(q3_dtype *out, const char *word, bool cuda)
{
    const bool given = word && strcmp(word, "auto") != 0;
    if (given && strcmp(word, "float32") != 0 && strcmp(word, "bfloat16") != 0 && strcmp(word, "f32") != 0 &&
        strcmp(word, "bf16") != 0)
        return q3_fail(Q3_ERR_USAGE, "--dtype is \"%.60s\"; it must be auto, float32, bfloat16, f32 or bf16",
                       word);
    if (given && *word == 'b' && !cuda)
        return q3_fail(Q3_ERR_USAGE,
                       "--dtype is bfloat16, and the CPU computes in float32; use auto or float32");
    *out = given ? (*word == 'b' ? Q3_BF16 : Q3_F32) : cuda ? Q3_BF16 : Q3_F32;
    return Q3_OK;
}

static q3_status open_all(q3_subject *s, const q3_subject_options *o)
{
    q3_load_options load = { .random = o->random, .seed = o->seed, .values = &s->values };
    q3_dtype dtype = Q3_F32;
    Q3_TRY(q3_load_options_word(&load, o->weights ? o->weights : "auto"));
    Q3_TRY(q3_device_open(&s->cuda, o->device ? o->device : "auto"));
    Q3_TRY(choose_dtype(&dtype, o->dtype, s->cuda != NULL));
    Q3_TRY(q3_arena_create(&s->run, "run arena", ARENA_BYTES));
    Q3_TRY(q3_device_arena_create(&s->values, s->cuda, "parameters", ARENA_BYTES));
    Q3_TRY(q3_device_arena_create(&s->step, s->cuda, "step arena", ARENA_BYTES));
    Q3_TRY(q3_ctx_create(&s->ctx, &s->step));
    s->ctx.dtype = dtype;
    q3_device_set_attention(s->cuda, Q3_ATTENTION_AUTO, dtype);
    const char *dir;
    Q3_TRY(q3_hub_place(&dir, &s->run, o->model, &(q3_hub_options){ .wish.light = o->random }));
    Q3_TRY(q3_model_load(&s->model, &s->run, dir, &load));
    return q3_engine_create(&s->engine, &s->model, &s->ctx, NULL, &o->engine);
}

q3_status q3_subject_open(q3_subject *out, const q3_subject_options *o)
{
    *out = (q3_subject){ 0 };
    q3_status st = open_all(out, o);
    if (st != Q3_OK)
        q3_subject_close(out);
    return st;
}

void q3_subject_close(q3_subject *s)
{
    q3_engine_destroy(s->engine);
    q3_model_close(&s->model);
    q3_ctx_destroy(&s->ctx);
    q3_arena_destroy(&s->step);
    q3_arena_destroy(&s->values);
    q3_arena_destroy(&s->run);
    q3_device_close(s->cuda);
    *s = (q3_subject){ 0 };
}

static const struct {
    const char *word;
    q3_dtype type;
} cache_words[] = {
    { "auto", Q3_DTYPES }, { "f32", Q3_F32 }, { "bf16", Q3_BF16 }, { "int8", Q3_I8 }, { "int4", Q3_I4 }
};
enum { CACHE_WORDS = sizeof cache_words / sizeof *cache_words };

const char *q3_cache_word(q3_dtype type)
{
    for (int i = 0; i < CACHE_WORDS; i++)
        if (cache_words[i].type == type)
            return cache_words[i].word;
    return "unknown";
}

q3_status q3_cache_type(q3_dtype *out, const char *word)
{
    *out = Q3_DTYPES;
    for (int i = 0; word && i < CACHE_WORDS; i++)
        if (strcmp(cache_words[i].word, word) == 0) {
            *out = cache_words[i].type;
            return Q3_OK;
        }
    return word ? q3_fail(Q3_ERR_USAGE, "--kv-type is \"%.40s\"; it must be auto, f32, bf16, int8 or int4",
                          word)
                : Q3_OK;
}

size_t q3_cache_token_bytes(const q3_model_config *c, q3_dtype type)
{
    const q3_text_config *t = &c->text;
    return 2 * (size_t)t->layers *
           (q3_dtype_bytes(type, (int64_t)t->kv_heads * t->head_dim) +
            (size_t)q3_kv_scales(type, t->kv_heads, t->head_dim) * sizeof(float));
}
