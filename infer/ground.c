#include "infer/ground.h"

#include <string.h>

#include "core/json.h"

#define ARENA_BYTES ((size_t)1 << 40) // reserved addresses, not memory

q3_status q3_word_find(int *out, const char *const *words, const char *word, const char *option)
{
    q3_text list = { 0 };
    *out = 0;
    for (int i = 0; words[i]; i++) {
        if (!word || strcmp(words[i], word) == 0) {
            *out = i;
            q3_text_free(&list);
            return Q3_OK;
        }
        q3_text_printf(&list, "%s%s", !i ? "" : words[i + 1] ? ", " : " or ", words[i]);
    }
    q3_status st =
        q3_fail(Q3_ERR_USAGE, "%s is \"%.60s\"; it must be %s", option, word, list.data ? list.data : "");
    q3_text_free(&list);
    return st;
}

static q3_status choose_dtype(q3_dtype *out, const char *word, bool cuda)
{
    static const char *const words[] = { "auto", "float32", "bfloat16", "f32", "bf16", NULL };
    int i;
    Q3_TRY(q3_word_find(&i, words, word, "--dtype"));
    bool half = i == 2 || i == 4;
    if (half && !cuda)
        return q3_fail(Q3_ERR_USAGE,
                       "--dtype is bfloat16, and the CPU computes in float32; use auto or float32");
    *out = half || (i == 0 && cuda) ? Q3_BF16 : Q3_F32;
    return Q3_OK;
}

static q3_status choose_attention(q3_attention_kind *out, const char *word)
{
    static const char *const words[] = { "auto",  "cudnn", "flash", "reference", "sdpa", "flash_attention_2",
                                         "naive", NULL };
    static const q3_attention_kind kinds[] = { Q3_ATTENTION_AUTO,      Q3_ATTENTION_CUDNN, Q3_ATTENTION_FLASH,
                                               Q3_ATTENTION_REFERENCE, Q3_ATTENTION_AUTO,  Q3_ATTENTION_AUTO,
                                               Q3_ATTENTION_REFERENCE };
    int i;
    Q3_TRY(q3_word_find(&i, words, word, "--attn"));
    *out = kinds[i];
    return Q3_OK;
}

q3_status q3_ground_open(q3_ground *out, const q3_ground_options *o)
{
    q3_dtype dtype = Q3_F32;
    q3_attention_kind attention = Q3_ATTENTION_AUTO;
    *out = (q3_ground){ 0 };
    Q3_TRY(choose_attention(&attention, o->attention));
    Q3_TRY(q3_device_open(&out->cuda, o->device ? o->device : "auto"));
    Q3_TRY(choose_dtype(&dtype, o->dtype, out->cuda != NULL));
    Q3_TRY(q3_arena_create(&out->run, "run arena", ARENA_BYTES));
    Q3_TRY(q3_device_arena_create(&out->values, out->cuda, "parameters", ARENA_BYTES));
    Q3_TRY(q3_device_arena_create(&out->step, out->cuda, "step arena", ARENA_BYTES));
    Q3_TRY(q3_ctx_create(&out->ctx, &out->step));
    out->ctx.dtype = dtype;
    q3_device_set_attention(out->cuda, attention, dtype);
    return Q3_OK;
}

void q3_ground_close(q3_ground *g)
{
    q3_ctx_destroy(&g->ctx);
    q3_arena_destroy(&g->step);
    q3_arena_destroy(&g->values);
    q3_arena_destroy(&g->run);
    q3_device_close(g->cuda);
    *g = (q3_ground){ 0 };
}
