#include "collate/chat_tokens.h"

#include <string.h>

q3_status q3_chat_check_text(const q3_chat_tokens *c, const char *text, bool lenient, const char *what,
                             const char *remedy)
{
    q3_ids ids = { 0 };
    size_t at, n = text ? strlen(text) : 0;
    if (!n || !q3_tokenizer_find_added(c->tokenizer, text, n, &at))
        return Q3_OK;
    q3_status st = q3_tokenizer_encode(&ids, c->tokenizer, text, n);
    for (size_t i = 0; st == Q3_OK && i < ids.n; i++) {
        bool placeholder = ids.ids[i] == c->image_id || ids.ids[i] == c->video_id;
        if (!placeholder && (lenient || !q3_tokenizer_is_special(c->tokenizer, ids.ids[i])))
            continue;
        size_t bytes;
        const char *token = q3_tokenizer_token(&bytes, c->tokenizer, ids.ids[i]);
        st = q3_fail(Q3_ERR_DATA, "the %s contains the control token %.*s; %s", what,
                     (int)(bytes < 64 ? bytes : 64), token, remedy);
    }
    q3_ids_free(&ids);
    return st;
}

/* Counts when `to` is NULL. */
static q3_status expand(int32_t *to, int64_t *n, const q3_ids *from, const q3_chat_tokens *c,
                        const int64_t *image_tokens, int n_images)
{
    int used = 0;
    *n = 0;
    for (size_t i = 0; i < from->n; i++) {
        bool picture = from->ids[i] == c->image_id;
        int64_t copies = !picture ? 1 : used < n_images ? image_tokens[used] : 0;
        used += picture;
        if (from->ids[i] >= c->vocab_size)
            return q3_fail(
                Q3_ERR_DATA,
                "token id %d is beyond the model's vocabulary of %d; do tokenizer and model belong together?",
                (int)from->ids[i], (int)c->vocab_size);
        for (int64_t k = 0; k < copies; k++, ++*n)
            if (to)
                to[*n] = from->ids[i];
    }
    return used == n_images ? Q3_OK
                            : q3_fail(Q3_ERR_DATA, "the text has places for %d pictures, and there are %d",
                                      used, n_images);
}

q3_status q3_chat_tokenize(int32_t **ids, int64_t *n, q3_arena *mem, const q3_chat_tokens *c,
                           const q3_text *text, const int64_t *image_tokens, int n_images)
{
    q3_ids raw = { 0 };
    q3_status st = q3_tokenizer_encode(&raw, c->tokenizer, text->data ? text->data : "", text->size);
    st = st ? st : expand(NULL, n, &raw, c, image_tokens, n_images);
    if (st == Q3_OK) {
        *ids = Q3_NEW(mem, int32_t, *n + 1);
        st = *ids ? expand(*ids, n, &raw, c, image_tokens, n_images) : Q3_ERR_MEMORY;
    }
    q3_ids_free(&raw);
    return st;
}
