#include "cli/answering.h"

#include <stdio.h>
#include <string.h>

#include "cli/line_input.h"
#include "core/log.h"

enum { SCHEMA_LIMIT = 16 << 20 }; // bytes of a JSON schema

static q3_status read_form(q3_answering *a)
{
    const q3_generation_config *g = &a->session.model.config.generation;
    const char *pattern = q3_options_get(a->o, "regex"), *schema = q3_options_get(a->o, "json-schema");
    if (pattern)
        return q3_wrap(q3_constraint_regex(&a->form, a->session.tokenizer, g->eos, g->n_eos, pattern),
                       "--regex");
    if (!schema)
        return Q3_OK;
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_open(&doc, schema, SCHEMA_LIMIT), Q3_ERR_USAGE));
    q3_status st = q3_constraint_json(&a->form, a->session.tokenizer, g->eos, g->n_eos, doc.root);
    if (st != Q3_OK)
        q3_wrap(st, "%s", schema);
    q3_json_close(&doc);
    return st;
}

static q3_status open_all(q3_answering *a, const q3_model_settings *m)
{
    Q3_TRY(q3_model_settings_open(&a->session, m, a->o));
    Q3_TRY(q3_sampling_settings_read(&a->settings, a->o, &a->session.model.config.generation));
    Q3_TRY(read_form(a));
    a->adapter = q3_session_first_adapter(&a->session);
    a->options = (q3_answer_options){ .sampling = a->settings.sampling,
                                      .max_new_tokens = a->settings.max_new_tokens,
                                      .stops = a->settings.stops,
                                      .n_stops = a->settings.n_stops,
                                      .form = a->form,
                                      .logprobs = a->settings.logprobs,
                                      .lookup = a->settings.lookup };
    return Q3_OK;
}

q3_status q3_answering_open(q3_answering *out, const q3_options *o)
{
    q3_model_settings m;
    *out = (q3_answering){ .o = o };
    Q3_TRY(q3_sampling_settings_check(o));
    Q3_TRY(q3_model_settings_read(&m, o));
    q3_status st = open_all(out, &m);
    if (st != Q3_OK)
        q3_answering_close(out);
    return st;
}

void q3_answering_close(q3_answering *a)
{
    q3_constraint_destroy(a->form);
    q3_session_close(&a->session);
    *a = (q3_answering){ 0 };
}

q3_status q3_answering_begin(q3_answer *out, q3_answering *a, const q3_prompt *prompt)
{
    if (a->settings.beams > 1) {
        Q3_TRY(q3_answer_search(out, &a->session, prompt, a->settings.beams, &a->options));
        a->searched += out->timing.output_tokens;
        a->search_seconds += out->timing.ended - out->timing.submitted;
        return Q3_OK;
    }
    return q3_answer_begin(out, &a->session, prompt, a->n_asked++, &a->options);
}

q3_status q3_answering_run(q3_answer *out, q3_answering *a, const q3_prompt *prompt)
{
    Q3_TRY(q3_answering_begin(out, a, prompt));
    while (!out->ended) {
        if (q3_interrupted())
            q3_scheduler_cancel(a->session.scheduler, out->ticket);
        q3_scheduler_step(a->session.scheduler); // a failure ends the answer with it
    }
    q3_status st = q3_answer_status(out);
    if (st != Q3_OK)
        q3_answer_free(out);
    else
        q3_answering_finish(out, a);
    return st;
}

static double rate(int64_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

void q3_answering_tell(q3_answering *a)
{
    q3_scheduler_stats now;
    if (a->settings.beams > 1) {
        q3_info("%lld tokens | the best of %d beams at %.1f tok/s", (long long)a->searched, a->settings.beams,
                rate(a->searched, a->search_seconds));
        a->searched = 0;
        a->search_seconds = 0;
        return;
    }
    const q3_scheduler_stats *was = &a->before;
    q3_scheduler_stats_of(&now, a->session.scheduler);
    int64_t cached = now.cached_tokens - was->cached_tokens, output = now.output_tokens - was->output_tokens;
    int64_t prompt = now.prompt_tokens - was->prompt_tokens - cached;
    int64_t guessed = now.guessed - was->guessed;
    if (guessed)
        q3_detail("lookup      %lld of %lld guessed tokens were right",
                  (long long)(now.accepted - was->accepted), (long long)guessed);
    q3_detail("cached      %lld of %lld prompt tokens", (long long)cached, (long long)(prompt + cached));
    q3_info("%lld tokens | prefill %lld at %.1f tok/s | decode at %.1f tok/s", (long long)output,
            (long long)prompt, rate(prompt, now.prefill_seconds - was->prefill_seconds),
            rate(output, now.decode_seconds - was->decode_seconds));
    a->before = now;
}

static void to_stdout(void *arg, const char *text, size_t n)
{
    (void)arg;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

void q3_answering_stream(q3_answering *a)
{
    a->options.on_text = to_stdout;
}

void q3_answering_finish(q3_answer *answer, const q3_answering *a)
{
    static const char white[] = " \t\r\n\v\f";
    q3_text *t = &answer->text;
    if (!a->settings.strip || !t->size)
        return;
    size_t begin = strspn(t->data, white);
    while (t->size > begin && strchr(white, t->data[t->size - 1]))
        t->size--;
    t->size -= begin;
    memmove(t->data, t->data + begin, t->size);
    t->data[t->size] = 0;
}
