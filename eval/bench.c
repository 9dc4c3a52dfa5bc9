#include "eval/bench.h"

#include <stdlib.h>

#include "core/arena.h"
#include "core/log.h"
#include "infer/scheduler.h"

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

q3_percentiles q3_percentiles_of(double *values, int64_t n)
{
    if (!n)
        return (q3_percentiles){ 0 };
    qsort(values, (size_t)n, sizeof *values, by_value);
    return (q3_percentiles){ values[(n * 50 + 99) / 100 - 1], values[(n * 90 + 99) / 100 - 1],
                             values[(n * 99 + 99) / 100 - 1] };
}

/* One request; its times are those of its tokens. */
typedef struct client {
    struct bench *of;
    int32_t *ids; // [prompt_tokens]
    int64_t new_tokens, n;
    double submitted;
    double *times; // [new_tokens]
} client;

typedef struct bench {
    const q3_bench_options *o;
    q3_engine *engine;
    q3_scheduler *scheduler;
    int32_t vocab;
    client *clients;
    int n, next, ended; // clients, first that is not submitted, those that ended
    q3_status status;   // the first failure
} bench;

static bool on_token(void *arg, const q3_token_event *event)
{
    client *c = arg;
    c->times[event->index] = q3_seconds();
    c->n = event->index + 1;
    return true;
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    client *c = arg;
    bench *b = c->of;
    b->ended++;
    if (outcome->finish == Q3_FINISH_FAILED && b->status == Q3_OK)
        b->status = outcome->status;
}

static void submit_next(bench *b)
{
    client *c = &b->clients[b->next++];
    uint64_t ticket;
    const q3_request r = { .prompt = { .ids = c->ids, .n = b->o->prompt_tokens, .adapter = -1 },
                           .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                           .number = (uint32_t)(b->next - 1),
                           .max_new_tokens = c->new_tokens,
                           .logprobs = -1,
                           .on_token = on_token,
                           .on_end = on_end,
                           .arg = c };
    c->submitted = q3_seconds();
    b->status = b->status ? b->status : q3_scheduler_submit(&ticket, b->scheduler, &r);
}

/* Each request has ids of its own from the first on: 40503 is odd, so that any vocabulary is walked through. */
static void fill_ids(client *c, int index, int64_t n, int32_t vocab)
{
    for (int64_t i = 0; i < n; i++)
        c->ids[i] = (int32_t)((uint64_t)(i + 131 * index + 1) * 40503 % (uint64_t)vocab);
}

static void drop(bench *b)
{
    for (int i = 0; b->clients && i < b->n; i++) {
        q3_free(b->clients[i].ids);
        q3_free(b->clients[i].times);
    }
    q3_free(b->clients);
    b->clients = NULL;
}

/* n clients; under load their answers have between a half and all of the tokens. */
static q3_status prepare(bench *b, int n, bool load)
{
    *b = (bench){ .o = b->o, .engine = b->engine, .vocab = b->vocab, .n = n };
    b->clients = q3_calloc((size_t)n, sizeof *b->clients);
    for (int i = 0; b->clients && i < n; i++) {
        client *c = &b->clients[i];
        c->of = b;
        c->new_tokens = load ? (b->o->new_tokens * (4 + i * 3 % 5) + 7) / 8 : b->o->new_tokens;
        c->ids = q3_calloc((size_t)b->o->prompt_tokens, sizeof *c->ids);
        c->times = q3_calloc((size_t)c->new_tokens, sizeof *c->times);
        if (!c->ids || !c->times)
            return Q3_ERR_MEMORY;
        fill_ids(c, i, b->o->prompt_tokens, b->vocab);
    }
    return b->clients ? Q3_OK : Q3_ERR_MEMORY;
}

/* Keeps o->batch requests going until all have ended. */
static q3_status serve(bench *b)
{
    while (b->status == Q3_OK && b->ended < b->n) {
        while (b->next < b->n && b->next - b->ended < b->o->batch)
            submit_next(b);
        b->status = b->status ? b->status : q3_scheduler_step(b->scheduler);
    }
    return b->status;
}

/* The times are in the clients then, for the caller to read and to drop. */
static q3_status run(bench *b, int n, bool load)
{
    Q3_TRY(prepare(b, n, load));
    Q3_TRY(
        q3_scheduler_create(&b->scheduler, b->engine, &(q3_scheduler_options){ .max_running = b->o->batch }));
    q3_status st = serve(b);
    q3_scheduler_destroy(b->scheduler); // ends what a failure has left, while the clients are there
    b->scheduler = NULL;
    return st;
}

/* ---- what the times say ---- */

static void speeds(q3_bench *out, const bench *b)
{
    double begin = b->clients[0].submitted, last_first = 0, last = 0;
    for (int i = 0; i < b->n; i++) {
        const client *c = &b->clients[i];
        last_first = c->times[0] > last_first ? c->times[0] : last_first;
        last = c->times[c->n - 1] > last ? c->times[c->n - 1] : last;
    }
    int64_t decoded = 0; // behind the last prompt
    for (int i = 0; i < b->n; i++)
        for (int64_t k = 0; k < b->clients[i].n; k++)
            decoded += b->clients[i].times[k] > last_first;
    out->prefill = (double)(b->n * b->o->prompt_tokens) / (last_first - begin);
    out->decode = decoded ? (double)decoded / (last - last_first) : 0;
}

static q3_status latencies(q3_bench *out, const bench *b)
{
    int64_t n = 0;
    for (int i = 0; i < b->n; i++)
        out->tokens += b->clients[i].n;
    double *first = q3_calloc((size_t)b->n, sizeof *first),
           *between = q3_calloc((size_t)out->tokens, sizeof *between);
    const bool room = first && between;
    for (int i = 0; room && i < b->n; i++) {
        const client *c = &b->clients[i];
        first[i] = c->times[0] - c->submitted;
        for (int64_t k = 1; k < c->n; k++)
            between[n++] = c->times[k] - c->times[k - 1];
    }
    if (room) {
        out->first = q3_percentiles_of(first, b->n);
        out->between = q3_percentiles_of(between, n);
        out->requests = b->n;
    }
    q3_free(first);
    q3_free(between);
    return room ? Q3_OK : Q3_ERR_MEMORY;
}

q3_status q3_bench_run(q3_bench *out, q3_engine *engine, const q3_bench_options *o)
{
    bench b = { .o = o, .engine = engine, .vocab = q3_engine_model(engine)->config.text.vocab_size };
    *out = (q3_bench){ 0 };
    q3_status st = run(&b, 1, true); // pays for memory and tables that later requests find
    drop(&b);
    st = st ? st : run(&b, o->batch, false);
    if (st == Q3_OK)
        speeds(out, &b);
    drop(&b);
    const double begin = q3_seconds();
    st = st ? st : run(&b, o->batch * o->rounds, true);
    out->seconds = q3_seconds() - begin;
    st = st ? st : latencies(out, &b);
    drop(&b);
    return st;
}
