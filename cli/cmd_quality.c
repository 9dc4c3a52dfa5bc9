/* quality: how far quantized weights or a quantized cache take a model from the full one, and whether that may pass. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/quality_prompts.h"
#include "data/hub.h"
#include "eval/quality.h"
#include "infer/subject.h"

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model's directory" },
    { .name = "reference",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "the full model (default: --model)" },
    { .name = "weights",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|f32|bf16|nf4|fp4|int8|int4|int4-g32",
      .initial = "auto",
      .help = "judged: nf4, fp4, int8, int4 ..." },
    { .name = "kv-type",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|f32|bf16|int8|int4",
      .initial = "auto",
      .help = "judged: f32, bf16, int8, int4" },
    { .name = "dtype",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|float32|bfloat16",
      .help = "activations: auto, float32 or bfloat16" },
    { .name = "text",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "to judge by (default: one in several scripts)" },
    { .name = "data",
      .kind = Q3_OPTION_VALUE,
      .value = "PATH",
      .help = "samples to judge by, as of training" },
    { .name = "samples", .kind = Q3_OPTION_VALUE, .value = "N", .help = "of --data (default: the first 16)" },
    { .name = "window",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "tokens that see each other (default: 256)" },
    { .name = "greedy", .kind = Q3_OPTION_VALUE, .value = "N", .help = "tokens gone on with (default: 32)" },
    { .name = "max-kl",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "mean KL that may pass (default: by the type)" },
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "one JSON object instead of the table" },
};

typedef struct judgement {
    q3_subject full, other;
    q3_quality_prompts p;
    int64_t window, samples, greedy;
    double gate;
    q3_quality q;
} judgement;

/* ---- what is compared ---- */

static q3_status read_prompts(judgement *j, const q3_options *o, const char *dir)
{
    q3_arena mem;
    q3_model_config config;
    Q3_TRY(q3_arena_create(&mem, "config.json", 64u << 20));
    q3_status st = q3_hub_place(&dir, &mem, dir, NULL);
    st = st ? st : q3_model_config_load(&config, &mem, dir);
    const q3_quality_source source = { .dir = dir,
                                       .config = &config,
                                       .text = q3_options_get(o, "text"),
                                       .window = j->window,
                                       .data = q3_options_get(o, "data"),
                                       .samples = j->samples };
    st = st ? st : q3_quality_prompts_make(&j->p, &source);
    q3_arena_destroy(&mem);
    return st;
}

static q3_status open_both(judgement *j, const q3_options *o, const char *dir, const char *reference)
{
    q3_subject_options s = {
        .model = reference,
        .device = q3_options_get(o, "device"),
        .dtype = q3_options_get(o, "dtype"),
        .engine = { .kv_type = Q3_DTYPES, .tokens = j->p.longest + j->greedy, .no_sharing = true }
    };
    Q3_TRY(q3_subject_open(&j->full, &s));
    s.model = dir;
    s.weights = q3_options_get(o, "weights");
    Q3_TRY(q3_cache_type(&s.engine.kv_type, q3_options_get(o, "kv-type")));
    Q3_TRY(q3_subject_open(&j->other, &s));
    const q3_text_config *a = &j->full.model.config.text, *b = &j->other.model.config.text;
    if (a->vocab_size != b->vocab_size)
        return q3_fail(Q3_ERR_USAGE,
                       "%s has a vocabulary of %d and %s one of %d; only forms of one model compare",
                       reference, a->vocab_size, dir, b->vocab_size);
    return Q3_OK;
}

static q3_status read_settings(judgement *j, const q3_options *o)
{
    Q3_TRY(q3_options_int(&j->window, o, "window", Q3_QUALITY_WINDOW, 2, INT32_MAX));
    Q3_TRY(q3_options_int(&j->samples, o, "samples", 16, 1, INT32_MAX));
    Q3_TRY(q3_options_int(&j->greedy, o, "greedy", Q3_QUALITY_GREEDY, 1, INT32_MAX));
    const char *gate = q3_options_get(o, "max-kl");
    char *end = NULL;
    j->gate = gate ? strtod(gate, &end) : -1;
    if (gate && (end == gate || *end || !(j->gate >= 0) || isinf(j->gate)))
        return q3_fail(Q3_ERR_USAGE, "--max-kl is \"%.40s\"; it must be a number of nats, 0 or more", gate);
    return Q3_OK;
}

/* ---- what is told ---- */

static const char *weights_of(const q3_subject *s)
{
    return q3_model_weights_word(&s->model);
}

static const char *cache_of(const q3_subject *s)
{
    return q3_cache_word(q3_engine_settings(s->engine)->kv_type);
}

static void table(q3_text *t, const judgement *j)
{
    const q3_quality *q = &j->q;
    q3_text_printf(t, "full        %s weights, %s cache\n", weights_of(&j->full), cache_of(&j->full));
    q3_text_printf(t, "judged      %s weights, %s cache\n", weights_of(&j->other), cache_of(&j->other));
    q3_text_printf(t, "judged by   %lld tokens in %d prompts\n\n", (long long)q->positions, q->prompts);
    q3_text_printf(t, "mean KL              %10.6f nats, %g may pass\n", q->kl_mean, j->gate);
    q3_text_printf(t, "99th percentile      %10.6f\n", q->kl_p99);
    q3_text_printf(t, "largest              %10.6f\n", q->kl_max);
    q3_text_printf(t, "perplexity           %10.4f, full %.4f\n", q->perplexity, q->perplexity_full);
    q3_text_printf(t, "same likeliest token %8.2f %%\n", 100 * q->agreement);
    q3_text_printf(t, "common greedy prefix %8.2f of %lld tokens\n", q->prefix, (long long)q->prefix_most);
}

static void number(q3_text *t, const char *name, double value)
{
    q3_text_printf(t, "\"%s\": ", name);
    q3_text_json_number(t, value);
    q3_text_printf(t, ", ");
}

static void object(q3_text *t, const judgement *j)
{
    const q3_quality *q = &j->q;
    q3_text_printf(
        t, "{\"weights\": \"%s\", \"kv_type\": \"%s\", \"full_weights\": \"%s\", \"full_kv_type\": \"%s\", ",
        weights_of(&j->other), cache_of(&j->other), weights_of(&j->full), cache_of(&j->full));
    q3_text_printf(t, "\"tokens\": %lld, \"prompts\": %d, ", (long long)q->positions, q->prompts);
    number(t, "kl_mean", q->kl_mean);
    number(t, "kl_p99", q->kl_p99);
    number(t, "kl_max", q->kl_max);
    number(t, "max_kl", j->gate);
    number(t, "perplexity", q->perplexity);
    number(t, "perplexity_full", q->perplexity_full);
    number(t, "agreement", q->agreement);
    number(t, "common_prefix", q->prefix);
    q3_text_printf(t, "\"common_prefix_of\": %lld, \"passes\": %s}\n", (long long)q->prefix_most,
                   q->kl_mean <= j->gate ? "true" : "false");
}

/* ---- the command ---- */

static q3_status judge(judgement *j, const q3_options *o)
{
    const char *dir, *reference = q3_options_get(o, "reference");
    q3_text report = { 0 };
    Q3_TRY(q3_options_need(&dir, o, "model"));
    Q3_TRY(read_settings(j, o));
    if (q3_options_given(o, "text") && q3_options_given(o, "data"))
        return q3_fail(Q3_ERR_USAGE, "--text and --data are both given; leave out one");
    if (q3_options_given(o, "samples") && !q3_options_given(o, "data"))
        return q3_fail(Q3_ERR_USAGE, "--samples is for --data");
    if (!reference && strcmp(q3_options_get(o, "weights"), "auto") == 0 &&
        strcmp(q3_options_get(o, "kv-type"), "auto") == 0)
        return q3_fail(Q3_ERR_USAGE, "there is nothing to judge: give --weights, --kv-type or --reference");
    Q3_TRY(q3_options_start(o));
    Q3_TRY(read_prompts(j, o, reference ? reference : dir));
    Q3_TRY(open_both(j, o, dir, reference ? reference : dir));
    if (j->gate < 0)
        j->gate = q3_quality_gate(q3_model_weights_type(&j->other.model),
                                  q3_engine_settings(j->other.engine)->kv_type);
    Q3_TRY(q3_quality_compare(&j->q, j->full.engine, j->other.engine, j->p.prompts, j->p.n, j->greedy));
    if (q3_options_given(o, "json"))
        object(&report, j);
    else
        table(&report, j);
    Q3_TRY(q3_options_print(&report));
    if (!(j->q.kl_mean <= j->gate))
        return q3_fail(Q3_ERR_FAIL,
                       "the mean KL divergence from the full model is %.4g nats and %g may pass; take more "
                       "bits, smaller "
                       "groups (int4-g32) or, if that is enough for you, a higher --max-kl",
                       j->q.kl_mean, j->gate);
    return Q3_OK;
}

static q3_status run(const q3_options *o)
{
    judgement j = { 0 };
    q3_status st = judge(&j, o);
    q3_subject_close(&j.other);
    q3_subject_close(&j.full);
    q3_quality_prompts_free(&j.p);
    return st;
}

const q3_command q3_command_quality = {
    .name = "quality",
    .summary = "how far quantized weights or a quantized cache are from the full model",
    .usage = "--model DIR [--weights WORD] [--kv-type WORD] [options]",
    .example = "quality --model models/qwen3-vl --weights int4-g32 --kv-type int8",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
