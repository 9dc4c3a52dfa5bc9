/* train: fine-tune a model as a config says. Prints the run's directory. */
#include <stdio.h>

#include "cli/options.h"
#include "core/log.h"
#include "train/loop.h"

static const q3_option options[] = {
    { .name = "resume",
      .kind = Q3_OPTION_OPTIONAL,
      .value = "auto|DIR",
      .bare = "auto",
      .help = "go on from a checkpoint; auto: newest" },
    { .name = "output-dir",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .key = "train.output_dir",
      .help = "directory of the run" },
    { .name = "overwrite", .kind = Q3_OPTION_FLAG, .help = "replace a run that is there" },
    { .name = "profile", .kind = Q3_OPTION_FLAG, .help = "show at the end where the time went" },
};

static q3_status train(const q3_options *o, q3_group *group)
{
    q3_config config;
    char *dir;
    const q3_run_options run_options = { .group = group,
                                         .resume = q3_options_get(o, "resume"),
                                         .overwrite = q3_options_given(o, "overwrite"),
                                         .named = q3_options_given(o, "output-dir"),
                                         .profile = q3_options_given(o, "profile") };
    if (run_options.resume && run_options.overwrite)
        return q3_fail(Q3_ERR_USAGE, "--resume and --overwrite exclude each other");
    Q3_TRY(q3_options_begin(&config, o));
    q3_status st = q3_train(&dir, &config, &run_options);
    if (st == Q3_OK && !q3_group_rank(group))
        printf("%s\n", dir);
    q3_free(dir);
    q3_config_free(&config);
    return st;
}

/* The ranks of a job leave together; where one fails mpirun ends the others. */
static q3_status run(const q3_options *o)
{
    q3_group *group;
    Q3_TRY(q3_group_join(&group));
    if (q3_group_rank(group))
        q3_log_set_level(Q3_LOG_WARN); // the first rank says what there is to say
    q3_status st = train(o, group);
    if (st == Q3_OK)
        q3_group_leave(group);
    return st;
}

const q3_command q3_command_train = {
    .name = "train",
    .summary = "fine-tune a model as a config says",
    .usage = "--config FILE [key.sub=value ...]",
    .example = "train --config configs/sarcasm.json train.seed=7",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE | Q3_COMMAND_HUB | Q3_COMMAND_RANKS,
    .run = run,
};
