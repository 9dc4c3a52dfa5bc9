/* plan: the memory of a run, to the byte, before its weights are read; the code is that of the run. */
#include <string.h>

#include "cli/options.h"
#include "core/log.h"
#include "train/plan.h"

static const q3_option options[] = {
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "the plan as one JSON object" },
};

/* The frozen weights of one type. */
typedef struct weights_of {
    int64_t n;
    size_t bytes;  // scales included
    size_t mapped; // of these, what stays in the mapped files
} weights_of;

static bool inside(const q3_arena *arena, const void *p)
{
    const char *at = p;
    return arena->base && at >= arena->base && at < arena->base + arena->limit;
}

static size_t scale_bytes(const q3_tensor *w)
{
    if (!q3_is_4bit(w->dtype) && w->dtype != Q3_I8)
        return 0;
    int64_t blocks = (q3_numel(w) + w->block - 1) / w->block;
    return (size_t)blocks * (w->absmax ? sizeof(float) : 1);
}

static void weigh(weights_of by_type[Q3_DTYPES], const q3_trainer *t)
{
    for (int i = 0; i < t->model.n_params; i++) {
        const q3_tensor *w = t->model.params[i].tensor;
        if (w->needs_grad)
            continue;
        weights_of *of = &by_type[w->dtype];
        size_t bytes = q3_nbytes(w);
        of->n += q3_numel(w);
        of->bytes += bytes + scale_bytes(w);
        of->mapped += inside(&t->run, w->data) || inside(&t->values, w->data) ? 0 : bytes;
    }
}

/* Bytes of the gradients of a window: the buffer that backward adds to, and what a whole window makes besides. */
static size_t gradient_bytes(const q3_trainer *t, const q3_plan *p)
{
    return (size_t)t->trainable.n * sizeof(float) + p->growth;
}

/* What a step may take. */
static size_t room(const q3_plan *p)
{
    return p->free > p->kept ? p->free - p->kept : 0;
}

/* All that a run fills when the largest step is made. */
static size_t total_bytes(const q3_trainer *t, const q3_plan *p)
{
    return t->run.used + t->values.used + p->growth + p->features + t->step_plan;
}

static void print_weights(q3_text *out, const weights_of by_type[Q3_DTYPES])
{
    const char *title = "weights";
    for (int i = 0; i < Q3_DTYPES; i++) {
        const weights_of *of = &by_type[i];
        if (!of->n)
            continue;
        q3_text_printf(out, "%-11s %s in %s", title, q3_bytes(of->bytes), q3_dtype_name((q3_dtype)i));
        q3_text_printf(out, " (%s parameters)", q3_count((uint64_t)of->n));
        if (of->mapped)
            q3_text_printf(out, ", of which %s stay in the mapped files", q3_bytes(of->mapped));
        q3_text_append(out, "\n", 1);
        title = "";
    }
}

static void print_step(q3_text *out, const q3_plan *p)
{
    for (int i = 0; i < Q3_PLAN_CHOICES; i++)
        q3_text_printf(out, "%-11s %s with gradient checkpointing %s%s\n", i ? "" : "step",
                       q3_bytes(p->step[i]), q3_checkpointing_names[i], i == p->choice ? ": taken" : "");
    q3_text_printf(
        out,
        "peak        set by %s: %lld tokens, %lld patches; its batch has %lld samples, %lld tokens, "
        "%lld patches, %lld supervised tokens\n",
        p->largest, (long long)p->tokens, (long long)p->patches, (long long)p->rows,
        (long long)p->batch_tokens, (long long)p->batch_patches, (long long)p->batch_supervised);
}

static bool full_helps(const q3_trainer *t, const q3_plan *p)
{
    int asked = t->config->train.gradient_checkpointing;
    return asked != Q3_CONFIG_CHECKPOINTING_AUTO && asked != Q3_CONFIG_CHECKPOINTING_FULL &&
           p->kept + p->step[Q3_PLAN_CHOICES - 1] <= p->free;
}

static void print_verdict(q3_text *out, const q3_trainer *t, const q3_plan *p)
{
    q3_text_printf(out, "total       %s when the largest step is made\n", q3_bytes(total_bytes(t, p)));
    if (p->free)
        q3_text_printf(out, "free        %s, of which a step may take %s: it %s\n", q3_bytes(p->free),
                       q3_bytes(room(p)), p->choice < 0 ? "does not fit" : "fits");
    else
        q3_text_printf(out, "free        not known on this machine\n");
    if (p->choice >= 0)
        return;
    if (!room(p))
        q3_text_printf(out, "help        a smaller model, or fewer bits: quantization.load_in_4bit, "
                            "train.optim=adamw_8bit\n");
    else if (full_helps(t, p))
        q3_text_printf(out, "help        train.gradient_checkpointing=full makes it fit\n");
    else if (p->rows_that_fit)
        q3_text_printf(out,
                       "help        train.per_device_train_batch_size=%lld train.gradient_checkpointing=full "
                       "make it fit; train.gradient_accumulation_steps makes up for it\n",
                       (long long)p->rows_that_fit);
    else
        q3_text_printf(out, "help        not even one such sample fits: lower data.max_pixels or "
                            "collator.max_length\n");
}

static void print(q3_text *out, const q3_trainer *t, const q3_plan *p)
{
    weights_of by_type[Q3_DTYPES] = { 0 };
    weigh(by_type, t);
    q3_text_printf(out, "device      %s, activations in %s\n", q3_device_describe(t->cuda),
                   t->ctx.dtype == Q3_BF16 ? "bfloat16" : "float32");
    print_weights(out, by_type);
    q3_text_printf(out, "trained     %s in float32 (%s parameters)\n", q3_bytes(t->bytes.trainable),
                   q3_count((uint64_t)t->trainable.n));
    q3_text_printf(out, "gradients   %s, the tree of a window of %lld micro-batches\n",
                   q3_bytes(gradient_bytes(t, p)), (long long)q3_window_size(t, 0));
    q3_text_printf(out, "optimizer   %s\n", q3_bytes(t->bytes.optimizer));
    q3_text_printf(out, "features    %s kept of pictures%s\n", q3_bytes(p->features),
                   t->cuda ? ", on the host" : "");
    print_step(out, p);
    print_verdict(out, t, p);
}

static void json_weights(q3_text *out, const weights_of by_type[Q3_DTYPES])
{
    const char *comma = "";
    q3_text_printf(out, ", \"weights\": {");
    for (int i = 0; i < Q3_DTYPES; i++) {
        if (!by_type[i].n)
            continue;
        q3_text_printf(out, "%s\"%s\": {\"parameters\": %lld, \"bytes\": %zu, \"mapped\": %zu}", comma,
                       q3_dtype_name((q3_dtype)i), (long long)by_type[i].n, by_type[i].bytes,
                       by_type[i].mapped);
        comma = ", ";
    }
    q3_text_append(out, "}", 1);
}

static void json_text(q3_text *out, const char *before, const char *text)
{
    q3_text_printf(out, "%s", before);
    q3_text_json_string(out, text, strlen(text));
}

static void print_json(q3_text *out, const q3_trainer *t, const q3_plan *p)
{
    weights_of by_type[Q3_DTYPES] = { 0 };
    weigh(by_type, t);
    json_text(out, "{\"device\": ", q3_device_describe(t->cuda));
    json_weights(out, by_type);
    q3_text_printf(out,
                   ", \"base_bytes\": %zu, \"trained_parameters\": %lld, \"trained_bytes\": %zu, "
                   "\"gradient_bytes\": %zu, \"optimizer_bytes\": %zu, \"feature_bytes\": %zu, "
                   "\"step_bytes\": {",
                   t->bytes.weights, (long long)t->trainable.n, t->bytes.trainable, gradient_bytes(t, p),
                   t->bytes.optimizer, p->features);
    for (int i = 0; i < Q3_PLAN_CHOICES; i++)
        q3_text_printf(out, "%s\"%s\": %zu", i ? ", " : "", q3_checkpointing_names[i], p->step[i]);
    json_text(out, "}, \"largest\": {\"sample\": ", p->largest);
    q3_text_printf(out, ", \"tokens\": %lld, \"patches\": %lld}, ", (long long)p->tokens,
                   (long long)p->patches);
    q3_text_printf(out, "\"batch\": {\"samples\": %lld, \"tokens\": %lld, \"patches\": %lld}, ",
                   (long long)p->rows, (long long)p->batch_tokens, (long long)p->batch_patches);
    q3_text_printf(out, "\"before_step_bytes\": %zu, \"total_bytes\": %zu, \"free_bytes\": ",
                   t->run.used + t->values.used, total_bytes(t, p));
    if (p->free)
        q3_text_printf(out, "%zu, \"step_room_bytes\": %zu", p->free, room(p));
    else
        q3_text_printf(out, "null, \"step_room_bytes\": null");
    q3_text_printf(out, ", \"fits\": %s, \"gradient_checkpointing\": \"%s\"",
                   p->choice < 0 ? "false" : "true", q3_checkpointing_names[t->forward.checkpointing]);
    if (p->choice < 0)
        q3_text_printf(out, ", \"full_fits\": %s, \"samples_that_fit\": %lld",
                       full_helps(t, p) ? "true" : "false", (long long)p->rows_that_fit);
    q3_text_printf(out, "}\n");
}

static q3_status plan(q3_config *config, const q3_options *o)
{
    q3_trainer t;
    q3_plan p;
    q3_text text = { 0 };
    Q3_TRY(q3_trainer_open_dry(&t, config));
    q3_status st = q3_trainer_plan_all(&p, &t), printed = Q3_OK;
    if (st == Q3_OK || (st == Q3_ERR_MEMORY && p.rows)) {
        (q3_options_given(o, "json") ? print_json : print)(&text, &t, &p);
        printed = q3_options_print(&text);
    }
    q3_trainer_close(&t);
    return printed ? printed : st;
}

static q3_status run(const q3_options *o)
{
    q3_config config;
    Q3_TRY(q3_options_begin(&config, o));
    q3_status st = plan(&config, o);
    q3_config_free(&config);
    return st;
}

const q3_command q3_command_plan = {
    .name = "plan",
    .summary = "the memory that a training will take, before its weights are read",
    .usage = "--config FILE [key.sub=value ...]",
    .example = "plan --config configs/sarcasm.json train.per_device_train_batch_size=64",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
