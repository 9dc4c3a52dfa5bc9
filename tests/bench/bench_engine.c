/* Speed of answering, on a network of random weights:
 *
 *   bench_engine [--model 2b:4] [--device cpu|cuda[:N]|auto] [--dtype nf4|bf16] [--prompt 64] [--new 64] [--requests 32]
 *                [--threads 0]
 *
 * decode      tokens a second of passes without prompts, for one request and for eight at a time
 * static      requests that want between 1/16 and all of --new tokens, many of them few, eight at a time: the next eight
 *             begin when all are done
 * continuous  the same requests, each beginning where another one ends
 * scheduler   what a pass takes beside the network
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "infer/scheduler.h"
#include "kernels/pool.h"
#include "model/weights.h"
#include "tests/bench/random_model.h"

#define RESERVED ((size_t)1 << 40) // addresses, not memory

enum { BATCH = 8, MOST = 1 << 16, SHORTEST = 16 }; // SHORTEST: part of --new that the shortest answer has

typedef struct bench {
    const char *model, *device;
    bool bf16;
    int64_t prompt, room, requests, threads;
    q3_cuda *cuda;
    q3_arena run, values, step;
    q3_ctx ctx;
    q3_model network;
    int32_t *ids; /* [requests, prompt], none of which begin alike */
} bench;

/* What a run of requests took. */
typedef struct taken {
    double seconds, decode, tokens;
    q3_scheduler_stats stats;
} taken;

/* How many tokens request i wants: their logarithms are spread evenly, the golden ratio mixes them. */
static int64_t wanted(const bench *b, int64_t i)
{
    double at = 0.6180339887498949 * (double)(i + 1);
    double n = (double)b->room / pow(SHORTEST, at - floor(at));
    return n < 1 ? 1 : (int64_t)n;
}

static q3_status submit(const bench *b, q3_scheduler *s, int64_t i, int64_t tokens)
{
    uint64_t ticket;
    return q3_scheduler_submit(
        &ticket, s,
        &(q3_request){ .prompt = { .ids = b->ids + i * b->prompt, .n = b->prompt, .adapter = -1 },
                       .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                       .max_new_tokens = tokens,
                       .logprobs = -1 });
}

/* Requests [0, n), `together` at a time; tokens 0: as many as each wants. */
static q3_status answer(const bench *b, q3_scheduler *s, int64_t n, int64_t together, int64_t tokens)
{
    for (int64_t i = 0; i < n; i++) {
        Q3_TRY(submit(b, s, i, tokens ? tokens : wanted(b, i)));
        if ((i + 1) % together == 0)
            Q3_TRY(q3_scheduler_run(s));
    }
    return q3_scheduler_run(s);
}

static q3_status measure(taken *out, bench *b, int64_t n, int64_t together, int64_t tokens)
{
    q3_engine *e;
    q3_scheduler *s = NULL;
    int64_t blocks = (b->prompt + b->room) / Q3_ENGINE_BLOCK + 2; // one to spare
    const q3_engine_options options = { .kv_type = Q3_DTYPES,
                                        .tokens = BATCH * blocks * Q3_ENGINE_BLOCK,
                                        .no_sharing = true };
    const q3_scheduler_options how = { .max_running = BATCH };
    Q3_TRY(q3_engine_create(&e, &b->network, &b->ctx, NULL, &options));
    q3_status st = q3_scheduler_create(&s, e, &how);
    double start = q3_seconds();
    st = st ? st : answer(b, s, n, together, tokens);
    out->seconds = q3_seconds() - start;
    if (st == Q3_OK) {
        q3_scheduler_stats_of(&out->stats, s);
        out->decode = out->stats.decode_seconds;
        out->tokens = (double)out->stats.output_tokens;
    }
    q3_scheduler_destroy(s);
    q3_engine_destroy(e);
    return st;
}

/* The first token of an answer comes from the pass that has the prompt. */
static q3_status decode(double *rate, bench *b, int64_t batch)
{
    taken t;
    Q3_TRY(measure(&t, b, batch, batch, b->room));
    *rate = (t.tokens - (double)batch) / t.decode;
    printf("decode       batch %lld: %.2f ms a pass, %.1f tokens/s\n", (long long)batch,
           1e3 * t.decode / (double)(b->room - 1), *rate);
    return Q3_OK;
}

static q3_status mixed(bench *b)
{
    taken waits, joins;
    Q3_TRY(measure(&waits, b, b->requests, BATCH, 0));
    Q3_TRY(measure(&joins, b, b->requests, b->requests, 0));
    printf("static       %.0f tokens in %.2f s and %lld passes, %.1f tokens/s\n", waits.tokens, waits.seconds,
           (long long)waits.stats.passes, waits.tokens / waits.seconds);
    printf("continuous   %.0f tokens in %.2f s and %lld passes, %.1f tokens/s: %.2f times static\n",
           joins.tokens, joins.seconds, (long long)joins.stats.passes, joins.tokens / joins.seconds,
           waits.seconds / joins.seconds);
    double beside = joins.seconds - joins.stats.prefill_seconds - joins.stats.decode_seconds;
    printf("scheduler    %.1f us a pass beside the network, %.2f %% of the time\n",
           1e6 * beside / (double)joins.stats.passes, 100 * beside / joins.seconds);
    return Q3_OK;
}

static q3_status make_prompts(bench *b)
{
    int64_t n = b->requests > BATCH ? b->requests : BATCH;
    b->ids = Q3_NEW(&b->run, int32_t, n * b->prompt);
    for (int64_t i = 0; b->ids && i < n * b->prompt; i++)
        b->ids[i] = (int32_t)((i / b->prompt + i * 7919) % 499); // primes, below every special token
    return b->ids ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status run(bench *b)
{
    double one, many, start = q3_seconds();
    Q3_TRY(q3_device_open(&b->cuda, b->device));
    Q3_TRY(q3_arena_create(&b->run, "run arena", RESERVED));
    Q3_TRY(q3_device_arena_create(&b->values, b->cuda, "parameters", RESERVED));
    Q3_TRY(q3_device_arena_create(&b->step, b->cuda, "step arena", RESERVED));
    Q3_TRY(q3_ctx_create(&b->ctx, &b->step));
    b->ctx.dtype = b->cuda ? Q3_BF16 : Q3_F32;
    Q3_TRY(random_model_open(&b->network, &b->run, &b->values, b->model, !b->bf16));
    Q3_TRY(make_prompts(b));
    printf("model        %s of random weights, %s, %s, on %s; made in %.1f s\n", b->model,
           b->bf16 ? "bf16" : "nf4", q3_bytes(b->values.used), q3_device_describe(b->cuda),
           q3_seconds() - start);
    taken warm;
    Q3_TRY(measure(&warm, b, 1, 1, b->room));
    Q3_TRY(decode(&one, b, 1));
    Q3_TRY(decode(&many, b, BATCH));
    printf("             batch %d is %.2f times batch 1\n", BATCH, many / one);
    return mixed(b);
}

static bool number(int64_t *out, const char *text, int64_t low)
{
    char *end;
    *out = strtoll(text, &end, 10);
    return end != text && !*end && *out >= low && *out <= MOST;
}

static bool option(bench *b, const char *name, const char *value)
{
    if (strcmp(name, "--model") == 0)
        return (b->model = value) != NULL;
    if (strcmp(name, "--device") == 0)
        return (b->device = value) != NULL;
    if (strcmp(name, "--prompt") == 0)
        return number(&b->prompt, value, 1);
    if (strcmp(name, "--new") == 0)
        return number(&b->room, value, 2);
    if (strcmp(name, "--requests") == 0)
        return number(&b->requests, value, 1);
    if (strcmp(name, "--threads") == 0)
        return number(&b->threads, value, 0);
    b->bf16 = strcmp(value, "bf16") == 0;
    return strcmp(name, "--dtype") == 0 && (b->bf16 || strcmp(value, "nf4") == 0);
}

int main(int argc, char **argv)
{
    bench b = { .model = "2b:4", .device = "cpu", .prompt = 64, .room = 64, .requests = 32 };
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(&b, argv[i], argv[i + 1]))
            return fprintf(stderr, "bench_engine: %s is not understood\n", argv[i]), 2;
    q3_pool_start((int)b.threads);
    q3_status st = run(&b);
    if (st != Q3_OK)
        fprintf(stderr, "%s\n", q3_error());
    q3_model_close(&b.network);
    q3_ctx_destroy(&b.ctx);
    q3_arena_destroy(&b.step);
    q3_arena_destroy(&b.values);
    q3_arena_destroy(&b.run);
    q3_device_close(b.cuda);
    q3_pool_stop();
    return q3_exit_code(st);
}
