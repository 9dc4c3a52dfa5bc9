/* help: the commands; help COMMAND: its options. */
#include "cli/options.h"

static q3_status run(const q3_options *o)
{
    if (!o->n_words) {
        q3_program_help();
        return Q3_OK;
    }
    const q3_command *command;
    Q3_TRY(q3_command_find(&command, o->words[0]));
    q3_text text = { 0 };
    q3_options_help(&text, command);
    return q3_options_print(&text);
}

const q3_command q3_command_help = {
    .name = "help",
    .summary = "list the commands, or show the options of one",
    .usage = "[COMMAND]",
    .example = "help config",
    .max_words = 1,
    .run = run,
};
