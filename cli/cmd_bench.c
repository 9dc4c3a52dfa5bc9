/* bench: how fast a model answers on this machine, and what it takes to hold it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "core/log.h"
#include "eval/bench.h"

enum { MAX_SIZES = 16, MAX_BATCH = 1024 };

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model's directory" },
    { .name = "random-weights", .kind = Q3_OPTION_FLAG, .help = "draw them; config.json is enough" },
    { .name = "seed", .kind = Q3_OPTION_VALUE, .value = "N", .help = "of random weights (default: 0)" },
    { .name = "weights",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|f32|bf16|nf4|fp4|int8|int4|int4-g32",
      .initial = "auto",
      .help = "f32, nf4, int8, int4 ..." },
    { .name = "kv-type",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|f32|bf16|int8|int4",
      .initial = "auto",
      .help = "cache: f32, bf16, int8 or int4" },
    { .name = "dtype",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|float32|bfloat16",
      .help = "activations: auto, float32 or bfloat16" },
    { .name = "prompt-tokens", .kind = Q3_OPTION_VALUE, .value = "N", .help = "of a request (default: 128)" },
    { .name = "new-tokens", .kind = Q3_OPTION_VALUE, .value = "N", .help = "of an answer (default: 32)" },
    { .name = "batch",
      .kind = Q3_OPTION_VALUE,
      .value = "N,M",
      .initial = "1,8",
      .help = "requests at a time" },
    { .name = "rounds",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "requests, times those at a time (default: 4)" },
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "one JSON object instead of the table" },
};

typedef struct plan {
    q3_bench_options o;
    int sizes[MAX_SIZES], n, largest;
    int64_t seed;
    q3_bench results[MAX_SIZES];
} plan;

/* "1,8" */
static q3_status read_sizes(plan *p, const char *list)
{
    for (const char *at = list; p->n < MAX_SIZES; at++) {
        char *end;
        const long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > MAX_BATCH || (*end && *end != ','))
            break;
        p->sizes[p->n++] = (int)n;
        p->largest = n > p->largest ? (int)n : p->largest;
        if (!*end)
            return Q3_OK;
        at = end;
    }
    return q3_fail(Q3_ERR_USAGE,
                   "--batch is \"%.60s\"; it must be up to %d numbers from 1 to %d with commas between", list,
                   MAX_SIZES, MAX_BATCH);
}

static q3_status read_plan(plan *p, const q3_options *o)
{
    int64_t rounds;
    Q3_TRY(read_sizes(p, q3_options_get(o, "batch")));
    Q3_TRY(q3_options_int(&p->o.prompt_tokens, o, "prompt-tokens", 128, 1, 1 << 20));
    Q3_TRY(q3_options_int(&p->o.new_tokens, o, "new-tokens", 32, 2, 1 << 20));
    Q3_TRY(q3_options_int(&rounds, o, "rounds", 4, 1, 1000));
    Q3_TRY(q3_options_int(&p->seed, o, "seed", 0, 0, INT64_MAX));
    p->o.rounds = (int)rounds;
    if (q3_options_given(o, "seed") && !q3_options_given(o, "random-weights"))
        return q3_fail(Q3_ERR_USAGE, "--seed is for --random-weights");
    return Q3_OK;
}

static q3_status open_model(q3_subject *s, const plan *p, const q3_options *o)
{
    q3_subject_options options_of = { .weights = q3_options_get(o, "weights"),
                                      .device = q3_options_get(o, "device"),
                                      .dtype = q3_options_get(o, "dtype"),
                                      .random = q3_options_given(o, "random-weights"),
                                      .seed = (uint64_t)p->seed,
                                      .engine = { .no_sharing = true } };
    options_of.engine.tokens = p->largest * (p->o.prompt_tokens + p->o.new_tokens + Q3_ENGINE_BLOCK);
    Q3_TRY(q3_cache_type(&options_of.engine.kv_type, q3_options_get(o, "kv-type")));
    Q3_TRY(q3_options_need(&options_of.model, o, "model"));
    Q3_TRY(q3_options_start(o));
    Q3_TRY(q3_subject_open(s, &options_of));
    const int64_t most = s->model.config.text.max_positions, tokens = p->o.prompt_tokens + p->o.new_tokens;
    if (tokens > most)
        return q3_fail(Q3_ERR_USAGE,
                       "a request of %lld + %lld tokens is longer than the %lld that the model takes",
                       (long long)p->o.prompt_tokens, (long long)p->o.new_tokens, (long long)most);
    return Q3_OK;
}

static size_t weight_bytes(const q3_model *m)
{
    size_t bytes = 0;
    for (int i = 0; i < m->n_params; i++) {
        const q3_tensor *t = m->params[i].tensor;
        bytes += q3_nbytes(t);
        if (t->block) // an absmax a block; on CUDA with double quantization it is a code and a share of a group
            bytes +=
                (size_t)((q3_numel(t) + t->block - 1) / t->block) * (t->nested.codes ? 1 : sizeof(float));
    }
    return bytes;
}

/* ---- what is told ---- */

static const char *cache_of(const q3_subject *s)
{
    return q3_cache_word(q3_engine_settings(s->engine)->kv_type);
}

static void row(q3_text *t, int batch, const q3_bench *b)
{
    q3_text_printf(t, "%5d %12.1f %12.1f   %8.1f %8.1f %8.1f   %8.2f %8.2f %8.2f\n", batch, b->prefill,
                   b->decode, 1e3 * b->first.p50, 1e3 * b->first.p90, 1e3 * b->first.p99,
                   1e3 * b->between.p50, 1e3 * b->between.p90, 1e3 * b->between.p99);
}

static void table(q3_text *t, const plan *p, const q3_subject *s)
{
    const size_t cache = q3_cache_token_bytes(&s->model, q3_engine_settings(s->engine)->kv_type);
    q3_text_printf(t, "device      %s, activations in %s\n", q3_device_describe(s->ground.cuda),
                   s->ground.ctx.dtype == Q3_BF16 ? "bfloat16" : "float32");
    q3_text_printf(t, "weights     %s, %s\n", q3_model_weights_word(&s->model),
                   q3_bytes(weight_bytes(&s->model)));
    q3_text_printf(t, "cache       %s, %s a token\n", cache_of(s), q3_bytes(cache));
    q3_text_printf(t, "requests    %lld tokens, answers of %lld\n\n", (long long)p->o.prompt_tokens,
                   (long long)p->o.new_tokens);
    q3_text_printf(
        t, "            tokens a second          ms to the first token        ms between tokens\n"
           "batch      prefill       decode        p50      p90      p99        p50      p90      p99\n");
    for (int i = 0; i < p->n; i++)
        row(t, p->sizes[i], &p->results[i]);
    q3_text_printf(t, "\npeak memory %s\n", q3_bytes(q3_memory_peak()));
}

static void number(q3_text *t, const char *name, double value)
{
    q3_text_printf(t, "\"%s\": ", name);
    q3_text_json_number(t, value);
}

static void percentiles(q3_text *t, const char *name, const q3_percentiles *p)
{
    q3_text_printf(t, ", \"%s\": {", name);
    number(t, "p50", p->p50);
    q3_text_printf(t, ", ");
    number(t, "p90", p->p90);
    q3_text_printf(t, ", ");
    number(t, "p99", p->p99);
    q3_text_printf(t, "}");
}

static void object(q3_text *t, const plan *p, const q3_subject *s)
{
    q3_text_printf(t, "{\"device\": ");
    const char *device = q3_device_describe(s->ground.cuda);
    q3_text_json_string(t, device, strlen(device));
    q3_text_printf(t, ", \"dtype\": \"%s\", \"weights\": \"%s\", \"kv_type\": \"%s\", ",
                   s->ground.ctx.dtype == Q3_BF16 ? "bfloat16" : "float32", q3_model_weights_word(&s->model),
                   cache_of(s));
    q3_text_printf(t, "\"weight_bytes\": %zu, \"cache_bytes_per_token\": %zu, ", weight_bytes(&s->model),
                   q3_cache_token_bytes(&s->model, q3_engine_settings(s->engine)->kv_type));
    q3_text_printf(t, "\"prompt_tokens\": %lld, \"new_tokens\": %lld, \"runs\": [",
                   (long long)p->o.prompt_tokens, (long long)p->o.new_tokens);
    for (int i = 0; i < p->n; i++) {
        const q3_bench *b = &p->results[i];
        q3_text_printf(t, "%s{\"batch\": %d, ", i ? ", " : "", p->sizes[i]);
        number(t, "prefill_tokens_per_second", b->prefill);
        q3_text_printf(t, ", ");
        number(t, "decode_tokens_per_second", b->decode);
        percentiles(t, "first_token_seconds", &b->first);
        percentiles(t, "between_tokens_seconds", &b->between);
        q3_text_printf(t, ", \"requests\": %lld}", (long long)b->requests);
    }
    q3_text_printf(t, "], \"peak_memory_bytes\": %zu}\n", q3_memory_peak());
}

/* ---- the command ---- */

static q3_status measure(plan *p, q3_subject *s, const q3_options *o)
{
    q3_text report = { 0 };
    Q3_TRY(read_plan(p, o));
    Q3_TRY(open_model(s, p, o));
    for (int i = 0; i < p->n; i++) {
        p->o.batch = p->sizes[i];
        Q3_TRY(q3_bench_run(&p->results[i], s->engine, &p->o));
        q3_detail("batch %d: %lld requests under load in %.1f s", p->o.batch,
                  (long long)p->results[i].requests, p->results[i].seconds);
    }
    if (q3_options_given(o, "json"))
        object(&report, p, s);
    else
        table(&report, p, s);
    return q3_options_print(&report);
}

static q3_status run(const q3_options *o)
{
    plan p = { 0 };
    q3_subject s = { 0 };
    q3_status st = measure(&p, &s, o);
    q3_subject_close(&s);
    return st;
}

const q3_command q3_command_bench = {
    .name = "bench",
    .summary = "tokens a second, latencies under load and memory of a model on this machine",
    .usage = "--model DIR [--batch N,M] [options]",
    .example = "bench --model models/qwen3-vl --weights int4 --batch 1,8",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
