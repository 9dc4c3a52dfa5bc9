#include "infer/answer.h"

#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "infer/beam.h"

const char *q3_finish_name(q3_finish finish)
{
    static const char *const names[] = { "stop", "length", "cancelled", "error" };
    return names[finish];
}

static void fail(q3_answer *a, q3_status st)
{
    if (a->status)
        return;
    a->status = st;
    snprintf(a->sentence, sizeof a->sentence, "%s", q3_error());
}

/* Room for n more elements in a growing array. */
static bool grow(void **array, size_t *capacity, size_t used, size_t more, size_t element)
{
    if (used + more <= *capacity)
        return true;
    size_t wanted = 2 * (used + more);
    void *p = q3_realloc(*array, wanted * element);
    if (!p)
        return false;
    *array = p;
    *capacity = wanted;
    return true;
}

static q3_status keep_probabilities(q3_answer *a, const q3_token_event *e)
{
    size_t n = (size_t)e->n_top;
    if (!grow((void **)&a->tokens, &a->tokens_capacity, a->ids.n, 1, sizeof *a->tokens) ||
        !grow((void **)&a->top, &a->top_capacity, a->n_top, n, sizeof *a->top))
        return Q3_ERR_MEMORY;
    a->tokens[a->ids.n] = (q3_answer_token){ e->id, e->logprob, e->n_top, a->n_top };
    if (n)
        memcpy(a->top + a->n_top, e->top, n * sizeof *a->top);
    a->n_top += n;
    return Q3_OK;
}

/* Hands on what the text has beyond `from`. */
static void show(q3_answer *a, size_t from)
{
    if (a->options->on_text && a->text.size > from)
        a->options->on_text(a->options->arg, a->text.data + from, a->text.size - from);
}

static q3_status take(bool *more, q3_answer *a, const q3_token_event *e)
{
    bool stopped;
    size_t shown = a->text.size;
    if (a->options->logprobs >= 0)
        Q3_TRY(keep_probabilities(a, e));
    Q3_TRY(q3_ids_append(&a->ids, &e->id, 1));
    Q3_TRY(q3_stream_add(&a->text, &stopped, a->stream, e->id));
    show(a, shown);
    if (a->form && !q3_constraint_advance(a->form, e->id))
        return q3_fail(Q3_ERR_FAIL, "token %d does not belong to the form that was asked for", (int)e->id);
    *more = !stopped && !(a->form && q3_constraint_done(a->form));
    return Q3_OK;
}

static bool on_token(void *arg, const q3_token_event *event)
{
    q3_answer *a = arg;
    bool more = false;
    q3_status st = take(&more, a, event);
    if (st != Q3_OK)
        fail(a, st);
    return more;
}

static void filter(void *arg, float *logits, int64_t vocab)
{
    q3_answer *a = arg;
    q3_constraint_mask(a->form, logits, vocab);
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    q3_answer *a = arg;
    size_t shown = a->text.size;
    if (outcome->finish == Q3_FINISH_FAILED)
        fail(a, outcome->status);
    q3_status st = q3_stream_end(&a->text, a->stream);
    if (st != Q3_OK || a->text.failed)
        fail(a, Q3_ERR_MEMORY);
    show(a, shown);
    a->timing = outcome->timing;
    a->finish = a->status ? Q3_FINISH_FAILED : outcome->finish;
    a->ended = true;
}

static q3_status check_end_tokens(const q3_session *s)
{
    if (s->model.config.generation.n_eos)
        return Q3_OK;
    return q3_fail(Q3_ERR_MODEL,
                   "%s: neither generation_config.json nor config.json says which token ends an answer "
                   "(eos_token_id)",
                   s->name);
}

static q3_status submit(q3_answer *a, q3_session *s, const q3_prompt *prompt, uint32_t number)
{
    const q3_answer_options *o = a->options;
    const q3_generation_config *g = &s->model.config.generation;
    Q3_TRY(check_end_tokens(s));
    Q3_TRY(q3_stream_create(&a->stream, s->tokenizer, o->stops, o->n_stops, true));
    if (o->form)
        Q3_TRY(q3_constraint_clone(&a->form, o->form));
    const q3_request r = { .prompt = *prompt,
                           .sampling = o->sampling,
                           .number = number,
                           .max_new_tokens = o->max_new_tokens,
                           .eos = g->eos,
                           .n_eos = g->n_eos,
                           .logprobs = o->logprobs,
                           .lookup = o->lookup,
                           .filter = a->form ? filter : NULL,
                           .on_token = on_token,
                           .on_end = on_end,
                           .arg = a };
    return q3_scheduler_submit(&a->ticket, s->scheduler, &r);
}

q3_status q3_answer_begin(q3_answer *out, q3_session *s, const q3_prompt *prompt, uint32_t number,
                          const q3_answer_options *options)
{
    *out = (q3_answer){ .options = options };
    q3_status st = submit(out, s, prompt, number);
    if (st != Q3_OK)
        q3_answer_free(out);
    return st;
}

/* The text of ids that are there at once, up to a stop string. */
static q3_status read_ids(q3_answer *a, const q3_beam_answer *found)
{
    bool stopped = false;
    int64_t n = 0;
    while (n < found->n && !stopped)
        Q3_TRY(q3_stream_add(&a->text, &stopped, a->stream, found->ids[n++]));
    Q3_TRY(q3_stream_end(&a->text, a->stream));
    a->finish = found->ended || stopped ? Q3_FINISH_STOP : Q3_FINISH_LENGTH;
    a->timing.output_tokens = n;
    return q3_ids_append(&a->ids, found->ids, (size_t)n);
}

static q3_status search(q3_answer *a, q3_arena *mem, q3_session *s, const q3_prompt *prompt, int num_beams)
{
    const q3_answer_options *o = a->options;
    const q3_generation_config *g = &s->model.config.generation;
    const q3_beam_options options = { .num_beams = num_beams,
                                      .num_returned = 1,
                                      .length_penalty =
                                          1, // transformers' default, as early_stopping false is
                                      .repetition_penalty = o->sampling.repetition_penalty,
                                      .max_new_tokens = o->max_new_tokens,
                                      .eos = g->eos,
                                      .n_eos = g->n_eos };
    q3_beam_answer found;
    Q3_TRY(check_end_tokens(s));
    Q3_TRY(q3_stream_create(&a->stream, s->tokenizer, o->stops, o->n_stops, true));
    a->timing.submitted = a->timing.admitted = q3_seconds();
    Q3_TRY(q3_beam_search(&found, mem, s->engine, prompt, &options));
    a->timing.prompt_tokens = prompt->n;
    a->timing.ended = q3_seconds();
    Q3_TRY(read_ids(a, &found));
    a->ended = true;
    show(a, 0);
    return a->text.failed ? Q3_ERR_MEMORY : Q3_OK;
}

q3_status q3_answer_search(q3_answer *out, q3_session *s, const q3_prompt *prompt, int num_beams,
                           const q3_answer_options *options)
{
    q3_arena mem;
    *out = (q3_answer){ .options = options };
    Q3_TRY(q3_arena_create(&mem, "beams", (size_t)1 << 34));
    q3_status st = search(out, &mem, s, prompt, num_beams);
    q3_arena_destroy(&mem);
    if (st != Q3_OK)
        q3_answer_free(out);
    return st;
}

void q3_answer_free(q3_answer *a)
{
    q3_text_free(&a->text);
    q3_ids_free(&a->ids);
    q3_free(a->tokens);
    q3_free(a->top);
    q3_stream_destroy(a->stream);
    q3_constraint_destroy(a->form);
    *a = (q3_answer){ 0 };
}

q3_status q3_answer_status(const q3_answer *a)
{
    return a->status ? q3_fail(a->status, "%s", a->sentence) : Q3_OK;
}

/* ---- JSON ---- */

static void put_token(q3_text *out, const q3_tokenizer *tokenizer, int32_t id, float logprob)
{
    q3_text text = { 0 };
    q3_tokenizer_decode(&text, tokenizer, &id, 1, false);
    q3_text_printf(out, "{\"id\": %d, \"token\": ", (int)id);
    q3_text_json_string(out, text.data ? text.data : "", text.size);
    q3_text_printf(out, ", \"logprob\": ");
    q3_text_json_number(out, logprob);
    q3_text_free(&text);
}

static void put_probabilities(q3_text *out, const q3_answer *a, const q3_tokenizer *tokenizer)
{
    q3_text_printf(out, ", \"logprobs\": [");
    for (size_t i = 0; a->tokens && i < a->ids.n; i++) {
        const q3_answer_token *t = &a->tokens[i];
        q3_text_printf(out, i ? ", " : "");
        put_token(out, tokenizer, t->id, t->logprob);
        q3_text_printf(out, ", \"top\": [");
        for (int k = 0; k < t->n_top; k++) {
            const q3_logprob *p = &a->top[t->top + (size_t)k];
            q3_text_printf(out, k ? ", " : "");
            put_token(out, tokenizer, p->id, p->logprob);
            q3_text_printf(out, "}");
        }
        q3_text_printf(out, "]}");
    }
    q3_text_printf(out, "]");
}

static void put_rate(q3_text *out, const char *name, int64_t tokens, double seconds)
{
    q3_text_printf(out, "\"%s_seconds\": %.6f, \"%s_tokens_per_second\": %.3f", name, seconds, name,
                   seconds > 0 ? (double)tokens / seconds : 0);
}

void q3_answer_json(q3_text *out, const q3_answer *a, const q3_tokenizer *tokenizer)
{
    const q3_outcome_timing *t = &a->timing;
    double prefill = t->first_token > 0 ? t->first_token - t->admitted : 0;
    double decode = t->first_token > 0 ? t->ended - t->first_token : 0;
    q3_text_printf(out, "{\"text\": ");
    q3_text_json_string(out, a->text.data ? a->text.data : "", a->text.size);
    q3_text_printf(out, ", \"ids\": [");
    for (size_t i = 0; i < a->ids.n; i++)
        q3_text_printf(out, "%s%d", i ? ", " : "", (int)a->ids.ids[i]);
    q3_text_printf(
        out,
        "], \"finish_reason\": \"%s\", \"usage\": {\"prompt_tokens\": %lld, \"cached_tokens\": %lld, "
        "\"completion_tokens\": %lld, \"total_tokens\": %lld}, \"timings\": {",
        q3_finish_name(a->finish), (long long)t->prompt_tokens, (long long)t->cached_tokens,
        (long long)t->output_tokens, (long long)(t->prompt_tokens + t->output_tokens));
    put_rate(out, "prefill", t->prompt_tokens - t->cached_tokens, prefill);
    q3_text_printf(out, ", ");
    put_rate(out, "decode", t->output_tokens > 0 ? t->output_tokens - 1 : 0, decode);
    q3_text_printf(out, "}");
    if (a->options->logprobs >= 0)
        put_probabilities(out, a, tokenizer);
    q3_text_printf(out, "}");
}
