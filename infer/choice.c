#include "infer/choice.h"

#include <math.h>
#include <string.h>

/* Tokens that begin with a quote: any of them closes a word. */
static q3_status closing_ids(int32_t **ids, int64_t *n, q3_arena *mem, const q3_tokenizer *t, int64_t vocab)
{
    int64_t size = q3_tokenizer_size(t);
    *n = 0;
    *ids = Q3_NEW(mem, int32_t, size);
    if (!*ids)
        return Q3_ERR_MEMORY;
    for (int64_t id = 0; id < size && id < vocab; id++) {
        size_t bytes;
        const char *text = q3_tokenizer_token(&bytes, t, (int32_t)id);
        if (text && bytes && text[0] == '"' && !q3_tokenizer_is_special(t, (int32_t)id))
            (*ids)[(*n)++] = (int32_t)id;
    }
    return Q3_OK;
}

static bool is_quote(const q3_tokenizer *t, int32_t id)
{
    size_t bytes;
    const char *text = q3_tokenizer_token(&bytes, t, id);
    return text && bytes == 1 && text[0] == '"';
}

/* Prefix and word as they stand in an answer. */
static q3_status write_choice(q3_text *out, const char *word, const q3_choice_options *o)
{
    q3_text escaped = { 0 };
    if (o->quoted)
        q3_text_json_string(&escaped, word, strlen(word));
    q3_text_printf(out, "%s%s", o->prefix,
                   !o->quoted     ? word
                   : escaped.data ? escaped.data + 1 // its opening quote is the prefix's
                                  : "");
    q3_status st = out->failed || escaped.failed ? Q3_ERR_MEMORY : Q3_OK;
    q3_text_free(&escaped);
    return st;
}

static q3_status keep_ids(q3_choice *out, q3_arena *mem, const q3_ids *ids, const char *word, int64_t vocab)
{
    int32_t *kept = Q3_NEW(mem, int32_t, ids->n);
    if (!kept)
        return Q3_ERR_MEMORY;
    for (size_t i = 0; i < ids->n; i++) {
        kept[i] = ids->ids[i];
        if (kept[i] >= vocab)
            return q3_fail(
                Q3_ERR_MODEL,
                "token %d of \"%.100s\" is beyond the model's vocabulary of %lld; do tokenizer and "
                "model belong together?",
                (int)kept[i], word, (long long)vocab);
    }
    *out = (q3_choice){ .ids = kept, .n = (int64_t)ids->n };
    return Q3_OK;
}

static q3_status create_choice(q3_choice *out, q3_arena *mem, const q3_tokenizer *tokenizer, int64_t vocab,
                               const char *word, const q3_choice_options *options)
{
    q3_text text = { 0 };
    q3_ids ids = { 0 };
    q3_status st = write_choice(&text, word, options);
    st = st ? st : q3_tokenizer_encode(&ids, tokenizer, text.data, text.size);
    st = st ? st : keep_ids(out, mem, &ids, word, vocab);
    q3_ids_free(&ids);
    q3_text_free(&text);
    return st;
}

q3_status q3_choices_create(q3_choice **out, q3_arena *mem, const q3_tokenizer *tokenizer, int64_t vocab,
                            const char *const *words, int n, const q3_choice_options *options)
{
    int32_t *closing = NULL;
    int64_t n_closing = 0;
    q3_choice *choices = *out = Q3_NEW(mem, q3_choice, n);
    if (!choices)
        return Q3_ERR_MEMORY;
    if (options->quoted)
        Q3_TRY(closing_ids(&closing, &n_closing, mem, tokenizer, vocab));
    for (int i = 0; i < n; i++) {
        q3_choice *c = &choices[i];
        Q3_TRY(create_choice(c, mem, tokenizer, vocab, words[i], options));
        if (options->quoted && c->n > 1 && is_quote(tokenizer, c->ids[c->n - 1]))
            *c = (q3_choice){ .ids = c->ids, .n = c->n - 1, .any = closing, .n_any = n_closing };
    }
    return Q3_OK;
}

int64_t q3_choices_longest(const q3_choice *choices, int n)
{
    int64_t longest = 1;
    for (int i = 0; i < n; i++)
        longest = choices[i].n > longest ? choices[i].n : longest;
    return longest;
}

void q3_choices_normalize(double *probabilities, const double *logprobs, int n)
{
    double most = logprobs[0], sum = 0;
    for (int i = 1; i < n; i++)
        most = logprobs[i] > most ? logprobs[i] : most;
    for (int i = 0; i < n; i++)
        sum += probabilities[i] = exp(logprobs[i] - most);
    for (int i = 0; i < n; i++)
        probabilities[i] /= sum;
}
