/* /v1/rerank, in the shape of llama-server, vLLM and Jina. */
#include <string.h>

#include "serve/api_openai_work.h"

typedef struct reranking {
    q3_openai_work base; // first: release and gone are shared
    q3_arena mem;
    q3_rerank_job job;
    int64_t top_n;
    bool with_documents;
    double *logits; // [job.n]
} reranking;

static void release_reranking(void *state)
{
    reranking *r = state;
    q3_rerank_job_free(&r->job);
    q3_arena_destroy(&r->mem);
    q3_free(r->logits);
    q3_openai_release(&r->base);
}

static void write_ranking(q3_text *out, const reranking *r, const int64_t *order)
{
    q3_text_printf(out, "{\"object\":\"list\",\"model\":");
    q3_text_json_string(out, r->base.head.model, strlen(r->base.head.model));
    q3_text_printf(out, ",\"results\":[");
    for (int64_t i = 0; i < r->top_n; i++) {
        const char *text = r->job.documents[order[i]].text;
        q3_text_printf(out, "%s{\"index\":%lld,\"relevance_score\":%.6g", i ? "," : "", (long long)order[i],
                       q3_rerank_probability(r->logits[order[i]]));
        if (r->with_documents && text) {
            q3_text_printf(out, ",\"document\":{\"text\":");
            q3_text_json_string(out, text, strlen(text));
            q3_text_printf(out, "}");
        }
        q3_text_printf(out, "}");
    }
    q3_text_printf(out, "],\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
                   (long long)r->base.usage.prompt_tokens, (long long)r->base.usage.prompt_tokens);
}

static q3_poll poll_ranking(q3_exchange *x)
{
    reranking *r = x->state;
    int status;
    const char *sentence;
    bool done;
    for (q3_event *e; (e = q3_order_next(r->base.order, true, &done)) != NULL;) {
        q3_openai_keep(&r->base, e);
        q3_openai_count(&r->base.usage, e, false);
        r->logits[e->task] = e->logit;
        if (!q3_openai_ended_well(&status, &sentence, e)) {
            q3_openai_fail(x, status, NULL, NULL, sentence);
            return Q3_POLL_DONE;
        }
    }
    if (!done)
        return Q3_POLL_ASLEEP;
    int64_t *order = q3_calloc((size_t)r->job.n, sizeof *order);
    if (order) {
        q3_rerank_order(order, r->logits, r->job.n);
        write_ranking(&x->out, r, order);
    } else {
        q3_openai_fail_plain(x, 503, "out of memory");
    }
    q3_free(order);
    return Q3_POLL_DONE;
}

static q3_status parse_ranking(reranking *r, const q3_app *app, const char **param)
{
    const q3_json *doc = &r->base.doc;
    int64_t top_n, most = app->max_prompts ? app->max_prompts : Q3_OPENAI_PROMPTS;
    const char *model;
    *param = "documents";
    Q3_TRY(q3_json_string(&model, doc, doc->root, "model", NULL));
    r->base.request.model = model;
    r->base.request.n = 1;
    Q3_TRY(q3_json_bool(&r->with_documents, doc, doc->root, "return_documents", true));
    Q3_TRY(q3_app_guard_documents(doc->root));
    Q3_TRY(q3_rerank_job_parse(&r->job, &r->mem, doc->root, &app->pictures.image));
    if (r->job.n < 1 || r->job.n > most)
        return q3_fail(Q3_ERR_DATA, "there are %lld documents; it must be 1 to %lld", (long long)r->job.n,
                       (long long)most);
    *param = "top_n";
    Q3_TRY(q3_json_int(&top_n, doc, doc->root, "top_n", r->job.n));
    if (top_n < 1)
        return q3_fail(Q3_ERR_USAGE, "top_n must be at least 1");
    r->top_n = top_n < r->job.n ? top_n : r->job.n;
    return Q3_OK;
}

static q3_status make_pairs(reranking *r, const q3_app *app, int adapter)
{
    q3_openai_work *a = &r->base;
    r->logits = q3_calloc((size_t)r->job.n, sizeof *r->logits);
    if (!r->logits)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_openai_make_order(a, (int)r->job.n));
    for (int i = 0; i < a->n_choices; i++) {
        q3_task *t = q3_order_task(a->order, i);
        Q3_TRY(q3_wrap(q3_rerank_prompt(&t->prompt, q3_order_memory(a->order), app->reranker,
                                        r->job.instruction, &r->job.query, &r->job.documents[i]),
                       "documents[%d]", i));
        t->prompt.adapter = adapter;
        t->reranker = app->reranker;
        t->logprobs = -1;
    }
    return Q3_OK;
}

void q3_openai_handle_rerank(q3_exchange *x)
{
    const q3_app *app = x->app;
    const char *param = NULL;
    int adapter;
    if (!q3_openai_ready(x))
        return;
    if (!app->reranker) {
        q3_exchange_fail(x, 400, "this model cannot rerank: %s", app->why_no_reranker);
        return;
    }
    reranking *r = q3_calloc(1, sizeof *r);
    x->state = r;
    x->release = r ? release_reranking : NULL;
    if (!r || q3_arena_create(&r->mem, "documents", (size_t)1 << 32) != Q3_OK) {
        q3_openai_fail_plain(x, 503, "out of memory");
        return;
    }
    if (!q3_openai_read_body(&r->base.doc, x))
        return;
    q3_status st = parse_ranking(r, app, &param);
    if (st == Q3_OK && !q3_app_find_model(&adapter, app, r->base.request.model)) {
        q3_openai_fail_no_model(x, r->base.request.model);
        return;
    }
    st = st ? st : make_pairs(r, app, adapter);
    if (st != Q3_OK) {
        q3_openai_fail_status(x, st, param);
        return;
    }
    q3_openai_fill_head(&r->base.head, x, &r->base.request, false, adapter);
    q3_openai_submit(x, r->base.order, (int)r->job.batch_size, false, poll_ranking);
}
