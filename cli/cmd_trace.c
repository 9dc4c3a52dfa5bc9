/* trace: every named tensor of one forward and backward pass, to compare with another implementation. */
#include <string.h>

#include "cli/options.h"
#include "eval/trace.h"

static const char *const passes[] = { "lora", "full", NULL };
static const char *const losses[] = { "micro_mean", "token_mean", NULL };
static const char *const dtypes[] = { "float32", "bfloat16", NULL };
static const char *const checkpointings[] = { "none", "half", "full", NULL };

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model's directory" },
    { .name = "adapter", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "PEFT adapter on top of it" },
    { .name = "batch",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "safetensors: input_ids, labels ..." },
    { .name = "out", .kind = Q3_OPTION_VALUE, .value = "FILE", .help = "safetensors to write" },
    { .name = "backward", .kind = Q3_OPTION_VALUE, .value = "lora|full", .help = "write gradients too" },
    { .name = "dtype",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "float32|bfloat16",
      .initial = "float32",
      .help = "or bfloat16, on CUDA" },
    { .name = "load-in-4bit", .kind = Q3_OPTION_FLAG, .help = "quantize the linear layers (NF4) first" },
    { .name = "load-in-8bit", .kind = Q3_OPTION_FLAG, .help = "quantize the linear layers (int8) first" },
    { .name = "loss",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "micro_mean|token_mean",
      .initial = "micro_mean",
      .help = "or token_mean" },
    { .name = "gradient-checkpointing",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "none|half|full",
      .help = "none, half or full; with --backward" },
};

static q3_status read_choices(q3_trace_options *t, const q3_options *o)
{
    int pass, loss, checkpointing, dtype;
    Q3_TRY(q3_options_choice(&pass, o, "backward", -1, passes));
    Q3_TRY(q3_options_choice(&loss, o, "loss", 0, losses));
    Q3_TRY(q3_options_choice(&checkpointing, o, "gradient-checkpointing", 0, checkpointings));
    Q3_TRY(q3_options_choice(&dtype, o, "dtype", 0, dtypes));
    t->bf16 = dtype == 1;
    t->device = q3_options_get(o, "device");
    if (checkpointing && pass < 0)
        return q3_fail(Q3_ERR_USAGE, "--gradient-checkpointing %s needs --backward lora or full",
                       checkpointings[checkpointing]);
    t->backward = pass < 0 ? Q3_TRACE_FORWARD : pass == 0 ? Q3_TRACE_LORA : Q3_TRACE_FULL;
    t->checkpointing = (q3_checkpointing)checkpointing;
    return Q3_OK;
}

static q3_status run(const q3_options *o)
{
    q3_trace_options t = { .adapter = q3_options_get(o, "adapter"),
                           .load_in_4bit = q3_options_given(o, "load-in-4bit"),
                           .load_in_8bit = q3_options_given(o, "load-in-8bit") };
    if (t.load_in_4bit && t.load_in_8bit)
        return q3_fail(Q3_ERR_USAGE, "--load-in-4bit and --load-in-8bit are both given; leave out one");
    Q3_TRY(q3_options_need(&t.model, o, "model"));
    Q3_TRY(q3_options_need(&t.batch, o, "batch"));
    Q3_TRY(q3_options_need(&t.out, o, "out"));
    Q3_TRY(read_choices(&t, o));
    Q3_TRY(q3_options_start(o));
    return q3_trace(&t);
}

const q3_command q3_command_trace = {
    .name = "trace",
    .summary = "write every hidden state, logits, loss and gradients of one batch",
    .usage = "--model DIR --batch FILE --out FILE [options]",
    .example = "trace --model models/tiny --batch b.safetensors --out t.safetensors",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
