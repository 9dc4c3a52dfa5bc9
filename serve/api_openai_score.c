/* /v1/score: how likely each of some choices is as the beginning of the assistant's answer. Ours alone; eval's forced choice. */
#include <string.h>

#include "serve/api_openai_work.h"
#include "infer/choice.h"

enum { MOST_CHOICES = 256 };

typedef struct scoring {
    q3_openai_work base; // first: release and gone are shared
    const char *prefix;
    const char *const *words; // [n]
    int n;
} scoring;

static void write_scores(q3_text *out, const scoring *s, const q3_task *t, const double *probabilities)
{
    long long tokens = (long long)s->base.usage.prompt_tokens;
    q3_text_printf(out, "{\"object\":\"score\",\"model\":");
    q3_text_json_string(out, s->base.head.model, strlen(s->base.head.model));
    q3_text_printf(out, ",\"choices\":[");
    for (int i = 0; i < s->n; i++) {
        q3_text_printf(out, "%s{\"text\":", i ? "," : "");
        q3_text_json_string(out, s->words[i], strlen(s->words[i]));
        q3_text_printf(out, ",\"logprob\":");
        q3_text_json_number(out, t->scores[i]);
        q3_text_printf(out, ",\"probability\":");
        q3_text_json_number(out, probabilities[i]);
        q3_text_printf(out, "}");
    }
    q3_text_printf(out, "],\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", tokens, tokens);
}

static q3_poll poll_scores(q3_exchange *x)
{
    scoring *s = x->state;
    int status;
    const char *sentence;
    bool done;
    for (q3_event *e; (e = q3_order_next(s->base.order, true, &done)) != NULL;) {
        q3_openai_keep(&s->base, e);
        q3_openai_count(&s->base.usage, e, false);
        if (!q3_openai_ended_well(&status, &sentence, e)) {
            q3_openai_fail(x, status, NULL, NULL, sentence);
            return Q3_POLL_DONE;
        }
    }
    if (!done)
        return Q3_POLL_ASLEEP;
    double probabilities[MOST_CHOICES];
    const q3_task *t = q3_order_task(s->base.order, 0);
    q3_choices_normalize(probabilities, t->scores, s->n);
    write_scores(&x->out, s, t, probabilities);
    return Q3_POLL_DONE;
}

static q3_status read_choices(scoring *s, q3_arena *mem, const cJSON *list)
{
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0, i = 0;
    if (n < 1 || n > MOST_CHOICES)
        return q3_fail(Q3_ERR_USAGE, "choices must be a list of 1 to %d strings", MOST_CHOICES);
    const char **words = Q3_NEW(mem, const char *, n);
    if (!words)
        return Q3_ERR_MEMORY;
    for (const cJSON *item = list->child; item; item = item->next, i++) {
        if (!cJSON_IsString(item) || !*item->valuestring)
            return q3_fail(Q3_ERR_USAGE, "choices[%d] must be a string that is not empty", i);
        words[i] = item->valuestring;
    }
    s->words = words;
    s->n = n;
    return Q3_OK;
}

/* A prefix that ends with a quote opens a string, which the choice closes. */
static q3_status read_request(scoring *s, q3_arena *mem, const char **param)
{
    const q3_json *doc = &s->base.doc;
    const q3_openai_request *r = &s->base.request;
    *param = NULL;
    if (r->stream || r->n != 1 || r->form != Q3_FORM_NONE)
        return q3_fail(Q3_ERR_USAGE, "a score takes no stream, no n and no form of an answer");
    *param = "prefix";
    Q3_TRY(q3_json_string(&s->prefix, doc, doc->root, "prefix", ""));
    *param = "choices";
    return read_choices(s, mem, cJSON_GetObjectItemCaseSensitive(doc->root, "choices"));
}

static q3_status check_length(const q3_task *t, const q3_app *app)
{
    const q3_session *session = app->session;
    int64_t most = session->prompter.max_tokens ? session->prompter.max_tokens
                                                : session->model.config.text.max_positions;
    int64_t longest = q3_choices_longest(t->choices, t->n_choices);
    if (t->prompt.n + longest <= most)
        return Q3_OK;
    return q3_fail(Q3_ERR_LIMIT,
                   "the prompt has %lld tokens and the longest choice %lld, and at most %lld are possible",
                   (long long)t->prompt.n, (long long)longest, (long long)most);
}

static q3_status fill_task(q3_task *t, q3_arena *mem, const scoring *s, const q3_app *app, const char **param)
{
    const q3_session *session = app->session;
    size_t n = strlen(s->prefix);
    const q3_choice_options options = { .prefix = s->prefix, .quoted = n && s->prefix[n - 1] == '"' };
    q3_choice *choices;
    Q3_TRY(q3_choices_create(&choices, mem, session->tokenizer, session->model.config.text.vocab_size,
                             s->words, s->n, &options));
    t->choices = choices;
    t->n_choices = s->n;
    t->scores = Q3_NEW(mem, double, s->n);
    if (!t->scores)
        return Q3_ERR_MEMORY;
    *param = "messages";
    Q3_TRY(q3_openai_chat_prompt(&t->prompt, mem, &s->base.request, app));
    return check_length(t, app);
}

/* Reads the body; false: the exchange has its answer. */
static bool begin(scoring *s, q3_exchange *x, int *adapter)
{
    const char *param;
    if (!q3_openai_read_body(&s->base.doc, x))
        return false;
    q3_status st = q3_openai_parse(&s->base.request, &param, s->base.doc.root, true, x->app);
    if (st != Q3_OK) {
        q3_openai_fail(x, 400, param, NULL, q3_error());
        return false;
    }
    if (!q3_app_find_model(adapter, x->app, s->base.request.model)) {
        q3_openai_fail_no_model(x, s->base.request.model);
        return false;
    }
    q3_openai_fill_head(&s->base.head, x, &s->base.request, true, *adapter);
    return true;
}

void q3_openai_handle_score(q3_exchange *x)
{
    const char *param = NULL;
    int adapter;
    if (!q3_openai_ready(x))
        return;
    scoring *s = q3_calloc(1, sizeof *s);
    if (!s) {
        q3_openai_fail_plain(x, 503, "out of memory");
        return;
    }
    x->state = s;
    x->release = q3_openai_release;
    if (!begin(s, x, &adapter))
        return;
    q3_status st = q3_order_create(&s->base.order, 1);
    q3_arena *mem = st == Q3_OK ? q3_order_memory(s->base.order) : NULL;
    q3_task *t = st == Q3_OK ? q3_order_task(s->base.order, 0) : NULL;
    st = st ? st : read_request(s, mem, &param);
    st = st ? st : fill_task(t, mem, s, x->app, &param);
    if (st != Q3_OK) {
        q3_openai_fail_status(x, st, param);
        return;
    }
    t->prompt.adapter = adapter;
    t->logprobs = -1;
    q3_openai_submit(x, s->base.order, 0, false, poll_scores);
}
