#include "cli/model_options.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/file.h"
#include "core/log.h"

static const q3_option model_options[] = {
    { .name = "model",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "directory of a model or an adapter",
      .alias = "model-dir" },
    { .name = "adapter",
      .kind = Q3_OPTION_VALUE,
      .value = "[NAME=]DIR",
      .help = "LoRA adapter; the first answers",
      .repeats = true },
    { .name = "merge", .kind = Q3_OPTION_FLAG, .help = "add the adapter into the weights" },
    { .name = "weights",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|f32|bf16|nf4|fp4|int8|int4|int4-g32",
      .help = "f32, bf16, nf4, fp4, int8, int4 ...",
      .alias = "quant" },
    { .name = "precision",
      .kind = Q3_OPTION_VALUE,
      .value = "fp32|int4",
      .help = "all float32; int4 weights",
      .alias = "text-precision" },
    { .name = "dtype",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|float32|bfloat16",
      .help = "activations: auto, float32 or bfloat16" },
    { .name = "attn",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "auto|cudnn|flash|reference|sdpa|flash_attention_2",
      .help = "on CUDA: auto, cudnn, flash or reference" },
    { .name = "attn-window",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "tokens that one sees; 0: all",
      .alias = "window" },
    { .name = "kv-type",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "f32|bf16|int8|int4",
      .help = "of the cache: f32, bf16, int8 or int4" },
    { .name = "kv-tokens", .kind = Q3_OPTION_VALUE, .value = "N", .help = "tokens that the cache holds" },
    { .name = "min-pixels",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "smaller pictures are enlarged to it" },
    { .name = "max-pixels",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "larger pictures are shrunk to it" },
    { .name = "parallel",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "none|tensor|pipeline|sequence",
      .help = "under mpirun: share tensor, pipeline or sequence" },
    { .name = "offload",
      .kind = Q3_OPTION_VALUE,
      .value = "MIB",
      .help = "layers in memory; others are read each time" },
    { .name = "image-size", .kind = Q3_OPTION_VALUE, .value = "WxH", .help = "every picture gets this size" },
};

static const q3_option sampling_options[] = {
    { .name = "max-new-tokens",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "longest answer (default: 512)" },
    { .name = "temperature",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "0: the likeliest token always; above 1: wilder" },
    { .name = "top-k", .kind = Q3_OPTION_VALUE, .value = "N", .help = "draw from the N likeliest; 0: all" },
    { .name = "top-p",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "draw from the likeliest of mass X; 1: all" },
    { .name = "min-p", .kind = Q3_OPTION_VALUE, .value = "X", .help = "drop below X times the likeliest" },
    { .name = "repetition-penalty",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "for all that came before; 1: off" },
    { .name = "presence-penalty",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "subtracted once from what the answer has" },
    { .name = "frequency-penalty",
      .kind = Q3_OPTION_VALUE,
      .value = "X",
      .help = "subtracted as often as the answer has it" },
    { .name = "seed",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "of the draws; without: random, and shown" },
    { .name = "greedy", .kind = Q3_OPTION_FLAG, .help = "the likeliest token always", .alias = "no-sample" },
    { .name = "stop",
      .kind = Q3_OPTION_VALUE,
      .value = "TEXT",
      .help = "end the answer in front of it",
      .repeats = true },
    { .name = "preset",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "factual|creative|code",
      .help = "draws for factual, creative or code" },
    { .name = "profile",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "plain|cog|onnx",
      .initial = "plain",
      .help = "defaults of cog, onnx or plain" },
    { .name = "regex",
      .kind = Q3_OPTION_VALUE,
      .value = "PATTERN",
      .help = "the answer matches it as a whole" },
    { .name = "json-schema",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "the answer is JSON of this schema" },
    { .name = "logprobs",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "with --json: probabilities of N likeliest" },
    { .name = "num-beams", .kind = Q3_OPTION_VALUE, .value = "N", .help = "beam search over N; 1: off" },
    { .name = "lookup",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "guess N tokens at a time; same answer" },
    { .name = "thinking",
      .kind = Q3_OPTION_FLAG,
      .help = "text-only models: let it think before it answers" },
    { .name = "allow-special-tokens", .kind = Q3_OPTION_FLAG, .help = "control tokens in texts become such" },
    { .name = "system", .kind = Q3_OPTION_VALUE, .value = "TEXT", .help = "system message" },
};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

const q3_option_list q3_model_list = { "model", model_options, COUNT(model_options) };
const q3_option_list q3_sampling_list = { "answers", sampling_options, COUNT(sampling_options) };

/* ---- the model ---- */

/* NAME=DIR, or DIR, whose last part is the name. */
static q3_status read_adapter(q3_model_settings *m, const char *text)
{
    int i = m->session.n_adapters;
    if (i == Q3_ADAPTERS_MAX)
        return q3_fail(Q3_ERR_USAGE, "there are more than %d adapters", Q3_ADAPTERS_MAX);
    size_t n = strcspn(text, "=/");
    const char *dir = text[n] == '=' ? text + n + 1 : text, *name = text;
    if (text[n] != '=') {
        size_t end = strlen(text);
        while (end > 1 && text[end - 1] == '/')
            end--;
        for (name = text + end; name > text && name[-1] != '/';)
            name--;
        n = end - (size_t)(name - text);
    }
    if (!n || n >= Q3_ADAPTER_NAME || !*dir)
        return q3_fail(Q3_ERR_USAGE,
                       "--adapter is \"%.60s\"; write --adapter NAME=DIR, with a name of at most %d bytes",
                       text, Q3_ADAPTER_NAME - 1);
    memcpy(m->names[i], name, n);
    m->names[i][n] = 0;
    m->adapters[i] = (q3_session_adapter){ .name = m->names[i], .dir = dir };
    m->session.n_adapters++;
    return Q3_OK;
}

static q3_status read_size(q3_session_options *s, const char *text)
{
    int width = 0, height = 0, end = 0;
    if (!text)
        return Q3_OK;
    if (sscanf(text, "%5dx%5d%n", &width, &height, &end) != 2 || text[end] || width < 1 || height < 1)
        return q3_fail(Q3_ERR_USAGE,
                       "--image-size is \"%.60s\"; it must be WIDTHxHEIGHT, 384x384 for example", text);
    s->image_width = width;
    s->image_height = height;
    return Q3_OK;
}

static q3_status read_weights(q3_session_options *s, const q3_options *o)
{
    static const char *const precisions[] = { "fp32", "int4", NULL };
    int precision;
    Q3_TRY(q3_options_choice(&precision, o, "precision", -1, precisions));
    s->weights = q3_options_get(o, "weights");
    s->dtype = q3_options_get(o, "dtype");
    if (precision == 0 && s->dtype && strcmp(s->dtype, "float32") != 0 && strcmp(s->dtype, "f32") != 0)
        return q3_fail(Q3_ERR_USAGE, "--precision fp32 and --dtype %.60s exclude each other", s->dtype);
    if (precision == 1 && s->weights && strcmp(s->weights, "int4") != 0)
        return q3_fail(Q3_ERR_USAGE, "--precision int4 and --weights %.60s exclude each other", s->weights);
    if (precision == 0)
        s->dtype = "float32";
    if (precision == 1)
        s->weights = "int4";
    return Q3_OK;
}

static q3_status read_cache(q3_engine_options *e, const q3_options *o)
{
    static const char *const words[] = { "f32", "bf16", "int8", "int4", NULL };
    static const q3_dtype types[] = { Q3_F32, Q3_BF16, Q3_I8, Q3_I4 };
    int type;
    Q3_TRY(q3_options_choice(&type, o, "kv-type", -1, words));
    e->kv_type = type < 0 ? Q3_DTYPES : types[type];
    Q3_TRY(q3_options_int(&e->tokens, o, "kv-tokens", 0, 1, INT32_MAX));
    return q3_options_int(&e->window, o, "attn-window", 0, 0, INT32_MAX);
}

q3_status q3_model_place(const char **out, const q3_options *o)
{
    bool here = q3_file_exists("config.json") || q3_file_exists("adapter_config.json");
    *out = ".";
    return here && !q3_options_given(o, "model") ? Q3_OK : q3_options_need(out, o, "model");
}

q3_status q3_model_settings_read(q3_model_settings *out, const q3_options *o)
{
    *out = (q3_model_settings){ .session = { .merge = q3_options_given(o, "merge"),
                                             .device = q3_options_get(o, "device"),
                                             .attention = q3_options_get(o, "attn") } };
    q3_session_options *s = &out->session;
    Q3_TRY(q3_model_place(&s->model, o));
    const char *adapter;
    for (int i = 0; (adapter = q3_options_nth(o, "adapter", i)); i++)
        Q3_TRY(read_adapter(out, adapter));
    s->adapters = out->adapters;
    Q3_TRY(read_weights(s, o));
    Q3_TRY(read_cache(&s->engine, o));
    Q3_TRY(q3_options_int(&s->min_pixels, o, "min-pixels", 0, 1, Q3_VISION_MAX_PIXELS));
    Q3_TRY(q3_options_int(&s->max_pixels, o, "max-pixels", 0, 1, Q3_VISION_MAX_PIXELS));
    int64_t resident;
    s->parallel = q3_options_get(o, "parallel");
    s->offload = q3_options_given(o, "offload");
    Q3_TRY(q3_options_int(&resident, o, "offload", 0, 0, 1 << 24));
    s->resident = (size_t)resident << 20;
    Q3_TRY(read_size(s, q3_options_get(o, "image-size")));
    if (s->image_width && (s->min_pixels || s->max_pixels))
        return q3_fail(Q3_ERR_USAGE,
                       "--image-size leaves no choice to --min-pixels and --max-pixels; leave them out");
    return q3_options_start(o);
}

q3_status q3_model_settings_open(q3_session *out, const q3_model_settings *m, const q3_options *o)
{
    // the settings may have been copied since they were read
    q3_session_options session = m->session;
    session.adapters = m->adapters;
    Q3_TRY(q3_session_open(out, &session));
    out->prompter.thinking = q3_options_given(o, "thinking");
    out->prompter.allow_special = q3_options_given(o, "allow-special-tokens");
    if (out->prompter.thinking && out->model.config.has_vision)
        q3_warn("--thinking is for text-only models; this one answers as it was trained to");
    return Q3_OK;
}

int q3_session_first_adapter(const q3_session *s)
{
    return s->adapters.n ? 0 : -1;
}

/* ---- answers ---- */

typedef struct number {
    const char *option; // with its dashes: an origin too
    double least, most;
    bool whole;
    bool draws; // without effect where nothing is drawn
} number;

static const number numbers[Q3_NUMBERS] = {
    [Q3_NUMBER_MAX_NEW_TOKENS] = { "--max-new-tokens", 1, 1 << 30, true, false },
    [Q3_NUMBER_TEMPERATURE] = { "--temperature", 0, 100, false, true },
    [Q3_NUMBER_TOP_K] = { "--top-k", 0, INT32_MAX, true, true },
    [Q3_NUMBER_TOP_P] = { "--top-p", 0, 1, false, true },
    [Q3_NUMBER_MIN_P] = { "--min-p", 0, 1, false, true },
    [Q3_NUMBER_REPETITION_PENALTY] = { "--repetition-penalty", 1e-3, 1e3, false, false },
    [Q3_NUMBER_PRESENCE_PENALTY] = { "--presence-penalty", -100, 100, false, false },
    [Q3_NUMBER_FREQUENCY_PENALTY] = { "--frequency-penalty", -100, 100, false, false },
};

static q3_status read_number(double *out, const q3_options *o, int i)
{
    const number *n = &numbers[i];
    int64_t whole = 0;
    if (!n->whole)
        return q3_options_float(out, o, n->option + 2, 0, n->least, n->most);
    q3_status st = q3_options_int(&whole, o, n->option + 2, 0, (int64_t)n->least, (int64_t)n->most);
    *out = (double)whole;
    return st;
}

static void lay(q3_sampling_settings *s, q3_number which, double value, const char *origin)
{
    s->numbers[which] = value;
    s->origins[which] = origin;
}

/* What the model's file says; where it says what the library does anyway, that is where it comes from. */
static void lay_model(q3_sampling_settings *s, const q3_generation_config *g)
{
    static const char origin[] = "generation_config.json";
    const double file[Q3_NUMBERS] = {
        [Q3_NUMBER_MAX_NEW_TOKENS] = g->max_new_tokens ? (double)g->max_new_tokens : 512,
        [Q3_NUMBER_TEMPERATURE] = g->temperature,
        [Q3_NUMBER_TOP_K] = g->top_k,
        [Q3_NUMBER_TOP_P] = g->top_p,
        [Q3_NUMBER_MIN_P] = g->min_p,
        [Q3_NUMBER_REPETITION_PENALTY] = g->repetition_penalty,
        [Q3_NUMBER_PRESENCE_PENALTY] = g->presence_penalty,
        [Q3_NUMBER_FREQUENCY_PENALTY] = g->frequency_penalty,
    };
    // transformers' generate, but for max_new_tokens, which has no useful default there
    static const double library[Q3_NUMBERS] = { 512, 1, 50, 1, 0, 1, 0, 0 };
    for (int i = 0; i < Q3_NUMBERS; i++)
        lay(s, (q3_number)i, file[i], file[i] == library[i] ? "default" : origin);
    s->sampling.do_sample = g->do_sample;
    s->mode_origin = g->do_sample ? origin : "default";
}

typedef struct layer {
    const char *word, *origin;
    double max_new_tokens, temperature, top_k, top_p; // -1: not said
} layer;

/* The second is that of the reference system for packaged predictors, the third of the one for exported graphs. */
static const layer profiles[] = { { "plain", "--profile plain", -1, -1, -1, -1 },
                                  { "cog", "--profile cog", 512, 0.7, -1, 0.9 },
                                  { "onnx", "--profile onnx", 100, 0.7, 20, 0.8 } };
static const layer presets[] = { { "factual", "--preset factual", -1, 0.1, 10, 0.9 },
                                 { "creative", "--preset creative", -1, 0.9, 50, 0.95 },
                                 { "code", "--preset code", -1, 0.2, 20, 0.9 } };
static const char *const profile_words[] = { "plain", "cog", "onnx", NULL };
static const char *const preset_words[] = { "factual", "creative", "code", NULL };

static void lay_layer(q3_sampling_settings *s, const layer *l)
{
    const double values[] = { l->max_new_tokens, l->temperature, l->top_k, l->top_p };
    static const q3_number which[] = { Q3_NUMBER_MAX_NEW_TOKENS, Q3_NUMBER_TEMPERATURE, Q3_NUMBER_TOP_K,
                                       Q3_NUMBER_TOP_P };
    for (int i = 0; i < COUNT(values); i++)
        if (values[i] >= 0)
            lay(s, which[i], values[i], l->origin);
    if (l->temperature >= 0) {
        s->sampling.do_sample = true;
        s->mode_origin = l->origin;
    }
}

static q3_status lay_options(q3_sampling_settings *s, const q3_options *o)
{
    for (int i = 0; i < Q3_NUMBERS; i++) {
        double value;
        Q3_TRY(read_number(&value, o, i));
        if (!q3_options_given(o, numbers[i].option + 2))
            continue;
        lay(s, (q3_number)i, value, numbers[i].option);
        if (numbers[i].draws) { // whoever says how to draw wants draws
            s->sampling.do_sample = true;
            s->mode_origin = numbers[i].option;
        }
    }
    if (q3_options_given(o, "greedy")) {
        s->sampling.do_sample = false;
        s->mode_origin = "--greedy";
    } else if (s->numbers[Q3_NUMBER_TEMPERATURE] == 0) {
        s->sampling.do_sample = false;
        s->mode_origin = s->origins[Q3_NUMBER_TEMPERATURE];
    }
    return Q3_OK;
}

static q3_status read_seed(uint64_t *out, bool draws, const q3_options *o)
{
    int64_t seed;
    Q3_TRY(q3_options_int(&seed, o, "seed", 0, 0, INT64_MAX));
    if (draws && !q3_options_given(o, "seed")) {
        uint32_t drawn;
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            return q3_fail(Q3_ERR_FAIL, "the system has no random numbers; give --seed");
        seed = drawn; // short enough to be typed again
        q3_info("seed        %lld", (long long)seed);
    }
    *out = (uint64_t)seed;
    return Q3_OK;
}

static q3_status read_stops(q3_sampling_settings *s, const q3_options *o, const q3_generation_config *g)
{
    const char *stop;
    for (int i = 0; i < g->n_stops; i++)
        s->stops[s->n_stops++] = g->stops[i];
    for (int i = 0; (stop = q3_options_nth(o, "stop", i)); i++) {
        if (!*stop)
            return q3_fail(Q3_ERR_USAGE, "--stop is empty; every answer begins with nothing");
        if (s->n_stops == Q3_STOPS_MAX)
            return q3_fail(Q3_ERR_USAGE, "there are more than %d stop strings", Q3_STOPS_MAX);
        s->stops[s->n_stops++] = stop;
    }
    return Q3_OK;
}

/* What beam search has no use for must not be passed over in silence. */
static q3_status check_beams(q3_sampling_settings *s, const q3_options *o)
{
    static const char *const others[] = { "regex",  "json-schema",      "logprobs",
                                          "lookup", "presence-penalty", "frequency-penalty",
                                          "seed" };
    for (int i = 0; i < COUNT(others); i++)
        if (q3_options_given(o, others[i]))
            return q3_fail(Q3_ERR_USAGE, "--num-beams and --%s exclude each other", others[i]);
    if (s->sampling.do_sample && strncmp(s->mode_origin, "--", 2) == 0)
        return q3_fail(Q3_ERR_USAGE, "--num-beams and %s exclude each other: beams are not drawn",
                       s->mode_origin);
    s->sampling.do_sample = false;
    s->mode_origin = "--num-beams";
    return Q3_OK;
}

static q3_status read_search(q3_sampling_settings *s, const q3_options *o)
{
    int64_t logprobs, lookup, beams;
    Q3_TRY(q3_options_int(&logprobs, o, "logprobs", -1, 0, 100));
    Q3_TRY(q3_options_int(&lookup, o, "lookup", 0, 0, 64));
    Q3_TRY(q3_options_int(&beams, o, "num-beams", 1, 1, 64));
    s->logprobs = (int)logprobs;
    s->lookup = (int)lookup;
    s->beams = (int)beams;
    if (beams > 1)
        Q3_TRY(check_beams(s, o));
    if (q3_options_given(o, "regex") && q3_options_given(o, "json-schema"))
        return q3_fail(Q3_ERR_USAGE, "--regex and --json-schema exclude each other");
    return Q3_OK;
}

static void finish(q3_sampling_settings *s)
{
    const double *v = s->numbers;
    s->max_new_tokens = (int64_t)v[Q3_NUMBER_MAX_NEW_TOKENS];
    s->sampling.temperature = (float)v[Q3_NUMBER_TEMPERATURE];
    s->sampling.top_k = (int)v[Q3_NUMBER_TOP_K];
    s->sampling.top_p = (float)v[Q3_NUMBER_TOP_P];
    s->sampling.min_p = (float)v[Q3_NUMBER_MIN_P];
    s->sampling.repetition_penalty = (float)v[Q3_NUMBER_REPETITION_PENALTY];
    s->sampling.presence_penalty = (float)v[Q3_NUMBER_PRESENCE_PENALTY];
    s->sampling.frequency_penalty = (float)v[Q3_NUMBER_FREQUENCY_PENALTY];
}

static void tell(const q3_sampling_settings *s, const q3_options *o)
{
    for (int i = 0; i < Q3_NUMBERS && !s->sampling.do_sample; i++)
        if (numbers[i].draws && i != Q3_NUMBER_TEMPERATURE && q3_options_given(o, numbers[i].option + 2))
            q3_warn("%s has no effect where nothing is drawn (%s)", numbers[i].option, s->mode_origin);
    q3_detail("%-20s %-8s (%s)", "sampling", s->sampling.do_sample ? "on" : "off", s->mode_origin);
    for (int i = 0; i < Q3_NUMBERS; i++)
        if (s->sampling.do_sample || !numbers[i].draws)
            q3_detail("%-20s %-8g (%s)", numbers[i].option + 2, s->numbers[i], s->origins[i]);
}

static q3_status read_all(q3_sampling_settings *s, const q3_options *o, const q3_generation_config *g)
{
    int profile, preset;
    *s = (q3_sampling_settings){ .logprobs = -1 };
    Q3_TRY(q3_options_choice(&profile, o, "profile", 0, profile_words));
    Q3_TRY(q3_options_choice(&preset, o, "preset", -1, preset_words));
    lay_model(s, g);
    lay_layer(s, &profiles[profile]);
    if (preset >= 0)
        lay_layer(s, &presets[preset]);
    s->strip = strcmp(profile_words[profile], "cog") == 0;
    Q3_TRY(lay_options(s, o));
    Q3_TRY(read_stops(s, o, g));
    Q3_TRY(read_search(s, o));
    finish(s);
    return Q3_OK;
}

q3_status q3_sampling_settings_check(const q3_options *o)
{
    static const q3_generation_config silent = {
        .temperature = 1, .top_k = 50, .top_p = 1, .repetition_penalty = 1
    };
    q3_sampling_settings s;
    int64_t seed;
    Q3_TRY(q3_options_int(&seed, o, "seed", 0, 0, INT64_MAX));
    return read_all(&s, o, &silent);
}

q3_status q3_sampling_settings_read(q3_sampling_settings *out, const q3_options *o,
                                    const q3_generation_config *model)
{
    Q3_TRY(read_all(out, o, model));
    Q3_TRY(read_seed(&out->sampling.seed, out->sampling.do_sample, o));
    tell(out, o);
    return Q3_OK;
}
