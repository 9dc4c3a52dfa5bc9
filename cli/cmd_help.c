/* help: the commands; help COMMAND: its options; help LIST: those that commands share;
 * help --man: everything, for man. */
#include <string.h>

#include "cli/manual.h"
#include "cli/options.h"

static const q3_option options[] = {
    { .name = "man", .kind = Q3_OPTION_FLAG, .help = "all of it as a manual page, for man" },
};

static const q3_option_list *find_list(const char *heading)
{
    for (int i = 0; i < q3_n_commands; i++)
        for (int k = 0; k < Q3_COMMAND_LISTS && q3_commands[i]->lists[k]; k++)
            if (strcmp(q3_commands[i]->lists[k]->heading, heading) == 0)
                return q3_commands[i]->lists[k];
    return NULL;
}

static q3_status run(const q3_options *o)
{
    if (q3_options_given(o, "man")) {
        if (o->n_words)
            return q3_fail(Q3_ERR_USAGE, "help --man is about all commands; leave out \"%.60s\"",
                           o->words[0]);
        q3_text page = { 0 };
        q3_manual_page(&page);
        return q3_options_print(&page);
    }
    if (!o->n_words) {
        q3_program_help();
        return Q3_OK;
    }
    const q3_command *command;
    q3_text text = { 0 };
    const q3_option_list *list = find_list(o->words[0]);
    if (!list)
        Q3_TRY(q3_command_find(&command, o->words[0]));
    if (list)
        q3_options_help_list(&text, list);
    else
        q3_options_help(&text, command);
    return q3_options_print(&text);
}

const q3_command q3_command_help = {
    .name = "help",
    .summary = "list the commands, or show the options of one",
    .usage = "[COMMAND | model | answers | --man]",
    .example = "help config",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_words = 1,
    .run = run,
};
