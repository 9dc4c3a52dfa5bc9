#include "serve/api_openai_reply.h"

#include <inttypes.h>
#include <string.h>

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void put_string(q3_text *out, const char *text)
{
    q3_text_json_string(out, text, strlen(text));
}

/* ---- figures ---- */

void q3_openai_count(q3_openai_usage *u, const q3_event *end, bool again)
{
    const q3_outcome_timing *t = &end->timing;
    u->output_tokens += t->output_tokens;
    if (!again) {
        u->prompt_tokens += t->prompt_tokens;
        u->cached_tokens += t->cached_tokens;
    }
    if (u->first_token == 0 && t->first_token > 0) {
        u->first_token = t->first_token;
        u->prompt_seconds = t->first_token - t->admitted;
    }
    if (u->first_token > 0 && t->ended - u->first_token > u->output_seconds)
        u->output_seconds = t->ended - u->first_token;
}

static void put_usage(q3_text *out, const q3_openai_usage *u)
{
    q3_text_printf(out,
                   "\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
                   ",\"total_tokens\":%" PRId64 ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
                   u->prompt_tokens, u->output_tokens, u->prompt_tokens + u->output_tokens, u->cached_tokens);
}

static double per_second(int64_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static void put_timings(q3_text *out, const q3_openai_usage *u)
{
    int64_t computed = u->prompt_tokens - u->cached_tokens;
    q3_text_printf(out,
                   "\"timings\":{\"cache_n\":%" PRId64 ",\"prompt_n\":%" PRId64
                   ",\"prompt_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_n\":%" PRId64
                   ",\"predicted_ms\":%.3f,\"predicted_per_second\":%.3f}",
                   u->cached_tokens, computed, 1000 * u->prompt_seconds,
                   per_second(computed, u->prompt_seconds), u->output_tokens, 1000 * u->output_seconds,
                   per_second(u->output_tokens, u->output_seconds));
}

const char *q3_openai_finish(q3_finish finish)
{
    return finish == Q3_FINISH_STOP ? "stop" : "length";
}

/* ---- probabilities ---- */

/* A token as a string; where its bytes are a part of a character only, as OpenAI writes those:
 * bytes:\xe4\xb8. */
static void put_token(q3_text *out, const q3_openai_head *head, int32_t id)
{
    size_t n, bad;
    const char *bytes = q3_tokenizer_token(&n, head->tokenizer, id);
    if (!bytes || q3_utf8_valid(bytes, n, &bad)) {
        q3_text_json_string(out, bytes ? bytes : "", bytes ? n : 0);
        return;
    }
    put(out, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        q3_text_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
    put(out, "\"");
}

static void put_bytes(q3_text *out, const q3_openai_head *head, int32_t id)
{
    size_t n;
    const char *bytes = q3_tokenizer_token(&n, head->tokenizer, id);
    put(out, "\"bytes\":[");
    for (size_t i = 0; bytes && i < n; i++)
        q3_text_printf(out, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
    put(out, "]");
}

static void put_probability(q3_text *out, const q3_openai_head *head, int32_t id, float logprob)
{
    put(out, "{\"token\":");
    put_token(out, head, id);
    put(out, ",\"logprob\":");
    q3_text_json_number(out, (double)logprob);
    put(out, ",");
    put_bytes(out, head, id);
}

static void put_chat_note(q3_text *out, const q3_openai_head *head, const q3_token_note *t)
{
    put_probability(out, head, t->id, t->logprob);
    put(out, ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        put(out, i ? "," : "");
        put_probability(out, head, t->top[i].id, t->top[i].logprob);
        put(out, "}");
    }
    put(out, "]}");
}

/* Walks the notes of one choice, in all events from `e` on or in that one alone. */
typedef struct walk {
    const q3_event *e;
    int choice, at;
    bool one;
} walk;

static const q3_token_note *next_note(walk *w)
{
    while (w->e) {
        if (w->e->task == w->choice && w->at < w->e->n_notes)
            return &w->e->notes[w->at++];
        w->e = w->one ? NULL : w->e->next;
        w->at = 0;
    }
    return NULL;
}

static void put_chat_notes(q3_text *out, const q3_openai_head *head, walk w)
{
    const char *between = "";
    put(out, "{\"content\":[");
    for (const q3_token_note *t; (t = next_note(&w)) != NULL; between = ",") {
        put(out, between);
        put_chat_note(out, head, t);
    }
    put(out, "]}");
}

static void put_top(q3_text *out, const q3_openai_head *head, const q3_token_note *t)
{
    put(out, "{");
    for (int i = 0; i < t->n_top; i++) {
        put(out, i ? "," : "");
        put_token(out, head, t->top[i].id);
        put(out, ":");
        q3_text_json_number(out, (double)t->top[i].logprob);
    }
    put(out, "}");
}

/* The older form: four lists side by side. */
static void put_completion_notes(q3_text *out, const q3_openai_head *head, walk w, int64_t offset)
{
    static const char *const names[] = { "tokens", "token_logprobs", "top_logprobs", "text_offset" };
    for (int list = 0; list < 4; list++) {
        walk again = w;
        int64_t at = offset;
        size_t n;
        const char *between = "";
        q3_text_printf(out, "%s\"%s\":[", list ? "," : "{", names[list]);
        for (const q3_token_note *t; (t = next_note(&again)) != NULL; between = ",") {
            put(out, between);
            if (list == 0)
                put_token(out, head, t->id);
            else if (list == 1)
                q3_text_json_number(out, (double)t->logprob);
            else if (list == 2)
                put_top(out, head, t);
            else
                q3_text_printf(out, "%" PRId64, at);
            at += q3_tokenizer_token(&n, head->tokenizer, t->id) ? (int64_t)n : 0;
        }
        put(out, "]");
    }
    put(out, "}");
}

static void put_notes(q3_text *out, const q3_openai_head *head, walk w, int64_t offset)
{
    put(out, "\"logprobs\":");
    if (!head->logprobs)
        put(out, "null");
    else if (head->chat)
        put_chat_notes(out, head, w);
    else
        put_completion_notes(out, head, w, offset);
}

/* ---- the whole reply ---- */

static void put_head(q3_text *out, const q3_openai_head *head, const char *object)
{
    put(out, "{\"id\":");
    put_string(out, head->id);
    q3_text_printf(out, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", object, head->created);
    put_string(out, head->model);
    put(out, ",");
}

static void put_choice(q3_text *out, const q3_openai_head *head, const q3_event *events, int index,
                       const q3_text *echo)
{
    q3_text text = { 0 };
    q3_finish finish = Q3_FINISH_STOP;
    if (echo)
        q3_text_append(&text, echo->data, echo->size);
    for (const q3_event *e = events; e; e = e->next) {
        if (e->task == index && e->text.size)
            q3_text_append(&text, e->text.data, e->text.size);
        if (e->task == index && e->ended)
            finish = e->finish;
    }
    q3_text_printf(out, "{\"index\":%d,", index);
    put(out, head->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    q3_text_json_string(out, text.data ? text.data : "", text.size);
    put(out, head->chat ? "}," : ",");
    put_notes(out, head, (walk){ .e = events, .choice = index }, 0);
    q3_text_printf(out, ",\"finish_reason\":\"%s\"}", q3_openai_finish(finish));
    out->failed |= text.failed;
    q3_text_free(&text);
}

void q3_openai_write(q3_text *out, const q3_openai_head *head, const q3_event *events, int n,
                     const q3_text *echoes, const q3_openai_usage *usage)
{
    put_head(out, head, head->chat ? "chat.completion" : "text_completion");
    put(out, "\"choices\":[");
    for (int i = 0; i < n; i++) {
        put(out, i ? "," : "");
        put_choice(out, head, events, i, echoes ? &echoes[i] : NULL);
    }
    put(out, "],");
    put_usage(out, usage);
    put(out, ",");
    put_timings(out, usage);
    put(out, "}");
}

/* ---- chunks ---- */

static void begin_chunk(q3_text *out, const q3_openai_head *head)
{
    put(out, "data: ");
    put_head(out, head, head->chat ? "chat.completion.chunk" : "text_completion");
    put(out, "\"choices\":[");
}

void q3_openai_write_role(q3_text *out, const q3_openai_head *head, int index)
{
    if (!head->chat)
        return;
    begin_chunk(out, head);
    q3_text_printf(out,
                   "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":null}]}\n\n",
                   index);
}

void q3_openai_write_piece(q3_text *out, const q3_openai_head *head, const q3_event *e, int64_t offset)
{
    begin_chunk(out, head);
    q3_text_printf(out, "{\"index\":%d,%s", e->task, head->chat ? "\"delta\":{\"content\":" : "\"text\":");
    q3_text_json_string(out, e->text.data ? e->text.data : "", e->text.size);
    put(out, head->chat ? "}," : ",");
    put_notes(out, head, (walk){ .e = e, .choice = e->task, .one = true }, offset);
    put(out, ",\"finish_reason\":null}]}\n\n");
}

void q3_openai_write_finish(q3_text *out, const q3_openai_head *head, const q3_event *e,
                            const q3_openai_usage *timings)
{
    begin_chunk(out, head);
    q3_text_printf(out, "{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}]", e->task,
                   head->chat ? "\"delta\":{}" : "\"text\":\"\"", q3_openai_finish(e->finish));
    if (timings) {
        put(out, ",");
        put_timings(out, timings);
    }
    put(out, "}\n\n");
}

void q3_openai_write_usage(q3_text *out, const q3_openai_head *head, const q3_openai_usage *usage)
{
    begin_chunk(out, head);
    put(out, "],");
    put_usage(out, usage);
    put(out, "}\n\n");
}

void q3_openai_write_done(q3_text *out)
{
    put(out, "data: [DONE]\n\n");
}

/* ---- errors ---- */

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 429:
        return "rate_limit_error";
    case 500:
        return "server_error";
    case 503:
        return "unavailable_error";
    default:
        return "invalid_request_error";
    }
}

static void put_or_null(q3_text *out, const char *text)
{
    if (text)
        put_string(out, text);
    else
        put(out, "null");
}

/* A sentence may have been cut within a character. */
static void put_sentence(q3_text *out, const char *sentence)
{
    size_t n = strlen(sentence), bad;
    q3_text_json_string(out, sentence, q3_utf8_valid(sentence, n, &bad) ? n : bad);
}

void q3_openai_write_error(q3_text *out, int status, const char *param, const char *code,
                           const char *sentence)
{
    put(out, "{\"error\":{\"message\":");
    put_sentence(out, sentence);
    q3_text_printf(out, ",\"type\":\"%s\",\"param\":", type_of(status));
    put_or_null(out, param);
    put(out, ",\"code\":");
    if (!code && status == 503) // llama-server's clients look for the number while a model loads
        put(out, "503");
    else
        put_or_null(out, code);
    put(out, "}}");
}
