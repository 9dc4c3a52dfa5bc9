#include "infer/stream.h"

#include <string.h>

#include "collate/unicode.h"

/* Bytes pass two gates: `raw` holds the beginning of a character, `held` whole characters that may be the beginning of
 * a stop string. */
struct q3_stream {
    const q3_tokenizer *tokenizer; /* borrowed */
    char **stops;                  /* [n_stops] */
    int n_stops;
    bool skip_special, stopped;
    q3_text raw, held;
};

static q3_status copy_stops(q3_stream *s, const char *const *stops, int n)
{
    s->stops = q3_calloc((size_t)n + 1, sizeof *s->stops);
    if (!s->stops)
        return Q3_ERR_MEMORY;
    for (; s->n_stops < n; s->n_stops++) {
        const char *stop = stops[s->n_stops];
        size_t bad;
        if (!stop[0])
            return q3_fail(Q3_ERR_USAGE, "stop string %d is empty", s->n_stops + 1);
        if (!q3_utf8_valid(stop, strlen(stop), &bad))
            return q3_fail(Q3_ERR_USAGE, "stop string %d is not valid UTF-8 at byte %zu", s->n_stops + 1,
                           bad);
        s->stops[s->n_stops] = q3_strdup(stop);
        if (!s->stops[s->n_stops])
            return Q3_ERR_MEMORY;
    }
    return Q3_OK;
}

q3_status q3_stream_create(q3_stream **out, const q3_tokenizer *tokenizer, const char *const *stops,
                           int n_stops, bool skip_special)
{
    q3_stream *s = *out = q3_calloc(1, sizeof *s);
    if (!s)
        return Q3_ERR_MEMORY;
    s->tokenizer = tokenizer;
    s->skip_special = skip_special;
    q3_status st = copy_stops(s, stops, n_stops);
    if (st != Q3_OK) {
        q3_stream_destroy(s);
        *out = NULL;
    }
    return st;
}

void q3_stream_destroy(q3_stream *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_stops; i++)
        q3_free(s->stops[i]);
    q3_free(s->stops);
    q3_text_free(&s->raw);
    q3_text_free(&s->held);
    q3_free(s);
}

static void drop_front(q3_text *t, size_t n)
{
    if (n)
        memmove(t->data, t->data + n, t->size - n);
    t->size -= n;
}

/* The stop string that is complete first behind `from`, of several that end together the longest: what is cut does not
 * depend on how the text came in pieces. */
static bool find_stop(size_t *at, const q3_stream *s, size_t from)
{
    for (size_t end = from + 1; end <= s->held.size; end++) {
        size_t longest = 0;
        for (int i = 0; i < s->n_stops; i++) {
            size_t n = strlen(s->stops[i]);
            if (n > longest && n <= end && memcmp(s->held.data + end - n, s->stops[i], n) == 0)
                longest = n;
        }
        *at = end - longest;
        if (longest)
            return true;
    }
    return false;
}

/* How many bytes at the end may be the beginning of a stop string. */
static size_t waiting(const q3_stream *s)
{
    size_t most = 0;
    for (int i = 0; i < s->n_stops; i++) {
        size_t n = strlen(s->stops[i]) - 1;
        for (n = n < s->held.size ? n : s->held.size; n > most; n--)
            if (memcmp(s->held.data + s->held.size - n, s->stops[i], n) == 0)
                most = n;
    }
    return most;
}

/* Takes n bytes of `raw` for whole; shows what cannot belong to a stop string. */
static q3_status pass_on(q3_text *text, q3_stream *s, size_t n)
{
    size_t before = s->held.size, shown;
    q3_utf8_lossy(&s->held, s->raw.data, n);
    drop_front(&s->raw, n);
    if (s->held.failed)
        return Q3_ERR_MEMORY;
    s->stopped = find_stop(&shown, s, before);
    if (!s->stopped)
        shown = s->held.size - waiting(s);
    if (shown)
        q3_text_append(text, s->held.data, shown);
    drop_front(&s->held, shown);
    return text->failed ? Q3_ERR_MEMORY : Q3_OK;
}

q3_status q3_stream_add(q3_text *text, bool *stopped, q3_stream *s, int32_t id)
{
    size_t n = 0;
    const char *bytes = q3_tokenizer_token(&n, s->tokenizer, id);
    *stopped = s->stopped;
    if (s->stopped || !bytes || (s->skip_special && q3_tokenizer_is_special(s->tokenizer, id)))
        return Q3_OK;
    q3_text_append(&s->raw, bytes, n);
    if (s->raw.failed)
        return Q3_ERR_MEMORY;
    Q3_TRY(pass_on(text, s, q3_utf8_whole(s->raw.data, s->raw.size)));
    *stopped = s->stopped;
    return Q3_OK;
}

q3_status q3_stream_end(q3_text *text, q3_stream *s)
{
    if (s->stopped)
        return Q3_OK;
    Q3_TRY(pass_on(text, s, s->raw.size));
    if (!s->stopped && s->held.size)
        q3_text_append(text, s->held.data, s->held.size);
    s->stopped = true;
    return text->failed ? Q3_ERR_MEMORY : Q3_OK;
}
