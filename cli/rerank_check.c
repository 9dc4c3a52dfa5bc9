#include "cli/rerank_check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    DOCUMENTS = 4,
    QWEN_VOCABULARY = 151643, // ids of Qwen's tokenizer without its added ones
    QWEN_YES = 9693,
    QWEN_NO = 2152,
    CACHE_TOKENS = 8192, // of the engine without sharing
};

static q3_rerank_side texts[DOCUMENTS] = {
    { .text = "Paris is the capital and the largest city of France." },
    { .text = "Bread is baked from flour, water and salt." },
    { .text = "The capital of Australia is Canberra, though Sydney is larger; both lie in the south-east." },
    { .text = "France" },
};

typedef struct checker {
    q3_text *out;
    q3_session *s;
    const q3_reranker *r;
    int adapter;
    int failed;
    double bound; // on a logit, relative above 1
} checker;

static void tell(checker *c, bool ok, const char *fmt, ...) Q3_PRINTF(3, 4);

static void tell(checker *c, bool ok, const char *fmt, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    q3_text_printf(c->out, "%-5s %s\n", ok ? "ok" : "FAIL", line);
    c->failed += !ok;
}

/* Float32 is exact to its last places. Products in bfloat16 round to 3 digits, and keys that are kept in 8 or 4 bits are read
 * back from the cache where others are still whole. */
static double bound_of(const q3_session *s)
{
    q3_dtype kv = q3_engine_settings(s->engine)->kv_type;
    return kv == Q3_I8 || kv == Q3_I4 ? 0.2 : s->ground.ctx.dtype == Q3_BF16 || kv == Q3_BF16 ? 5e-2 : 1e-5;
}

static q3_rerank_job job_of(q3_rerank_side *documents)
{
    return (q3_rerank_job){ .query = { .text = "What is the capital of France?" },
                            .documents = documents,
                            .n = DOCUMENTS,
                            .top_k = DOCUMENTS,
                            .batch_size = DOCUMENTS };
}

/* The largest difference, as a multiple of what is allowed. */
static double apart(const checker *c, const double *a, const double *b)
{
    double most = 0;
    for (int i = 0; i < DOCUMENTS; i++)
        most = fmax(most, fabs(a[i] - b[i]) / (c->bound * fmax(1, fabs(a[i]))));
    return most;
}

static void check_ids(checker *c)
{
    int32_t yes, no;
    size_t n_yes, n_no;
    q3_reranker_ids(&yes, &no, c->r);
    const char *first = q3_tokenizer_token(&n_yes, c->s->tokenizer, yes),
               *second = q3_tokenizer_token(&n_no, c->s->tokenizer, no);
    bool ok = first && second && n_yes == 3 && n_no == 2 && memcmp(first, "yes", 3) == 0 &&
              memcmp(second, "no", 2) == 0;
    if (q3_tokenizer_size(c->s->tokenizer) > QWEN_VOCABULARY)
        ok = ok && yes == QWEN_YES && no == QWEN_NO;
    tell(c, ok, "yes is token %d, no is token %d", (int)yes, (int)no);
}

/* ---- the whole head ---- */

typedef struct head_reader {
    int32_t yes, no;
    double difference;
} head_reader;

static void read_head(void *arg, float *logits, int64_t vocab)
{
    head_reader *h = arg;
    (void)vocab;
    h->difference = (double)logits[h->yes] - logits[h->no];
}

static void ignore_end(void *arg, const q3_outcome_of_request *outcome)
{
    (void)arg;
    (void)outcome;
}

static q3_status check_head(checker *c, double logit)
{
    q3_arena mem;
    uint64_t ticket;
    const q3_rerank_job job = job_of(texts);
    head_reader head = { .difference = NAN };
    q3_reranker_ids(&head.yes, &head.no, c->r);
    q3_request request = { .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                           .max_new_tokens = 1,
                           .logprobs = -1,
                           .filter = read_head,
                           .on_end = ignore_end,
                           .arg = &head };
    Q3_TRY(q3_arena_create(&mem, "prompt", (size_t)1 << 32));
    q3_status st = q3_rerank_prompt(&request.prompt, &mem, c->r, NULL, &job.query, &texts[0]);
    request.prompt.adapter = c->adapter;
    if (st == Q3_OK)
        st = q3_scheduler_submit(&ticket, c->s->scheduler, &request);
    if (st == Q3_OK)
        st = q3_scheduler_run(c->s->scheduler);
    q3_arena_destroy(&mem);
    if (st == Q3_OK)
        tell(c, fabs(head.difference - logit) <= c->bound * fmax(1, fabs(logit)),
             "one row of the head gives %.6g, the whole head %.6g", logit, head.difference);
    return st;
}

/* ---- without sharing ---- */

static q3_status score_alone(double *logits, int64_t *cached, const checker *c)
{
    q3_engine_options o = *q3_engine_settings(c->s->engine);
    q3_engine *engine = NULL;
    q3_scheduler *scheduler = NULL;
    const q3_rerank_job job = job_of(texts);
    o.no_sharing = true;
    o.tokens = o.tokens < CACHE_TOKENS ? o.tokens : CACHE_TOKENS;
    q3_status st = q3_engine_create(&engine, &c->s->model, &c->s->ground.ctx, &c->s->adapters, &o);
    if (st == Q3_OK)
        st = q3_scheduler_create(&scheduler, engine, &(q3_scheduler_options){ 0 });
    if (st == Q3_OK)
        st = q3_rerank_run(logits, cached, scheduler, c->r, &job, c->adapter);
    q3_scheduler_destroy(scheduler);
    q3_engine_destroy(engine);
    return st;
}

static q3_status check_sharing(checker *c, const double *logits, int64_t found)
{
    double alone[DOCUMENTS];
    int64_t none;
    tell(c, found > 0, "documents found %lld tokens of the common prefix computed", (long long)found);
    Q3_TRY(score_alone(alone, &none, c));
    double most = apart(c, logits, alone);
    tell(c, none == 0 && most <= 1, "the same without shared prefixes (differences %.3g of those allowed)",
         most);
    return Q3_OK;
}

static q3_status check_order(checker *c, const double *logits)
{
    q3_rerank_side turned[DOCUMENTS];
    double other[DOCUMENTS], back[DOCUMENTS];
    const q3_rerank_job job = job_of(turned);
    for (int i = 0; i < DOCUMENTS; i++)
        turned[i] = texts[DOCUMENTS - 1 - i];
    Q3_TRY(q3_rerank_run(other, NULL, c->s->scheduler, c->r, &job, c->adapter));
    for (int i = 0; i < DOCUMENTS; i++)
        back[i] = other[DOCUMENTS - 1 - i];
    double most = apart(c, logits, back);
    tell(c, most <= 1, "the same in another order (differences %.3g of those allowed)", most);
    return Q3_OK;
}

q3_status q3_rerank_check(q3_text *out, q3_session *s, const q3_reranker *r, int adapter)
{
    checker c = { .out = out, .s = s, .r = r, .adapter = adapter, .bound = bound_of(s) };
    double logits[DOCUMENTS];
    int64_t found;
    const q3_rerank_job job = job_of(texts);
    check_ids(&c);
    Q3_TRY(q3_rerank_run(logits, &found, s->scheduler, r, &job, adapter));
    Q3_TRY(check_head(&c, logits[0]));
    Q3_TRY(check_sharing(&c, logits, found));
    Q3_TRY(check_order(&c, logits));
    return c.failed ? q3_fail(Q3_ERR_FAIL, "%d checks failed", c.failed) : Q3_OK;
}
