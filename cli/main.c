/* qwen3-sft: fine-tunes Qwen3-VL with QLoRA, and uses the result. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "core/group.h"
#include "core/log.h"
#include "data/hub.h"
#include "kernels/pool.h"

#define ADDRESS(name) &q3_command_##name,
const q3_command *const q3_commands[] = { Q3_COMMANDS(ADDRESS) };
const int q3_n_commands = sizeof q3_commands / sizeof *q3_commands;

q3_status q3_command_find(const q3_command **out, const char *name)
{
    const char *names[sizeof q3_commands / sizeof *q3_commands];
    for (int i = 0; i < q3_n_commands; i++) {
        names[i] = q3_commands[i]->name;
        if (strcmp(names[i], name) == 0) {
            *out = q3_commands[i];
            return Q3_OK;
        }
    }
    const char *nearest = q3_nearest(name, names, (size_t)q3_n_commands);
    return nearest ? q3_fail(Q3_ERR_USAGE, "unknown command \"%.60s\"; did you mean \"%s\"?", name, nearest)
                   : q3_fail(Q3_ERR_USAGE, "unknown command \"%.60s\"; `qwen3-sft help` lists them", name);
}

void q3_program_help(void)
{
    printf("usage: qwen3-sft COMMAND [options] [key.sub=value ...]\n"
           "       qwen3-sft --config FILE          (the same as: qwen3-sft train --config FILE)\n\n"
           "Fine-tunes Qwen3-VL with QLoRA, on CUDA devices and on the CPU: one program, no Python.\n\n"
           "commands:\n");
    for (int i = 0; i < q3_n_commands; i++)
        printf("  %-10s %s\n", q3_commands[i]->name, q3_commands[i]->summary);
    printf("\n`qwen3-sft COMMAND --help` shows the options of a command,\n"
           "`qwen3-sft config keys` the settings of a config file.\n");
}

/* An option beside --config before the command, or a slip of the pen. */
static q3_status no_command(const char *option)
{
    static const char *const names[] = { "--config", "--help", "--version" };
    const char *nearest = q3_nearest(option, names, sizeof names / sizeof *names);
    if (nearest)
        return q3_fail(Q3_ERR_USAGE, "unknown option %.60s; did you mean %s?", option, nearest);
    return q3_fail(Q3_ERR_USAGE, "%.60s stands where a command should; `qwen3-sft help` lists them", option);
}

static q3_status set_log_level(const q3_options *o)
{
    bool quiet = q3_options_given(o, "quiet"), verbose = q3_options_given(o, "verbose");
    if (quiet && verbose)
        return q3_fail(Q3_ERR_USAGE, "--quiet and --verbose exclude each other");
    q3_log_set_level(quiet ? Q3_LOG_WARN : verbose ? Q3_LOG_DETAIL : Q3_LOG_INFO);
    return Q3_OK;
}

static q3_status set_hub(const q3_options *o)
{
    if (!(o->command->groups & Q3_COMMAND_HUB))
        return Q3_OK;
    const char *dir = q3_options_get(o, "cache-dir");
    if (dir && !*dir)
        return q3_fail(Q3_ERR_USAGE, "--cache-dir is empty; name a directory");
    q3_hub_set(dir, q3_options_given(o, "offline"));
    return Q3_OK;
}

static q3_status run_command(const q3_command *command, int argc, const char *const *argv)
{
    q3_options o;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) // help wins over mistakes beside it
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            q3_text help = { 0 };
            q3_options_help(&help, command);
            return q3_options_print(&help);
        }
    if (q3_group_started() > 1 && !(command->groups & Q3_COMMAND_RANKS))
        return q3_fail(Q3_ERR_USAGE,
                       "mpirun has started %d processes, and `%s` is for one; run it without mpirun",
                       q3_group_started(), command->name);
    Q3_TRY(q3_options_parse(&o, command, argc, argv));
    q3_status st = set_log_level(&o);
    st = st ? st : set_hub(&o);
    st = st ? st : command->run(&o);
    q3_options_free(&o);
    return st;
}

static bool names_config(int argc, const char *const *argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--config") == 0 || strncmp(argv[i], "--config=", 9) == 0)
            return true;
    return false;
}

static q3_status run_program(int argc, const char *const *argv)
{
    const q3_command *command = NULL;
    if (*argv[0] != '-') {
        Q3_TRY(q3_command_find(&command, argv[0]));
        return run_command(command, argc - 1, argv + 1);
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)
        return run_command(&q3_command_help, 0, argv);
    if (strcmp(argv[0], "--version") == 0)
        return run_command(&q3_command_version, 0, argv);
    if (!names_config(argc, argv))
        return no_command(argv[0]);
    Q3_TRY(q3_command_find(&command, "train"));
    return run_command(command, argc, argv);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        q3_program_help();
        return q3_exit_code(Q3_ERR_USAGE);
    }
    q3_status st = run_program(argc - 1, (const char *const *)argv + 1);
    q3_pool_stop();
    q3_log_clear();
    if (st == Q3_OK && (fflush(stdout) != 0 || ferror(stdout)))
        st = q3_fail(Q3_ERR_IO, "stdout could not be written");
    if (st != Q3_OK && st != Q3_ENDED && *q3_error())
        fprintf(stderr, "qwen3-sft: %s\n", q3_error());
    return q3_exit_code(st);
}
