/* eval: held-out loss and generated answers of a model, with an adapter or without. */
#include <stdio.h>

#include "cli/options.h"
#include "train/judge.h"

static const q3_option options[] = {
    { .name = "adapter",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .key = "lora.init_adapter",
      .help = "PEFT adapter to put on the model" },
    { .name = "out",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "also write metrics and answers to DIR/eval" },
};

static q3_status run(const q3_options *o)
{
    q3_config config;
    q3_text report = { 0 };
    Q3_TRY(q3_options_begin(&config, o));
    q3_status st = q3_judge(&report, &config, q3_options_get(o, "out"));
    q3_config_free(&config);
    if (st != Q3_OK) {
        q3_text_free(&report);
        return st;
    }
    return q3_options_print(&report);
}

const q3_command q3_command_eval = {
    .name = "eval",
    .summary = "held-out loss and generated answers of a model or an adapter",
    .usage = "--config FILE [--adapter DIR] [key.sub=value ...]",
    .example = "eval --config configs/sarcasm.json --adapter runs/sarcasm",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
