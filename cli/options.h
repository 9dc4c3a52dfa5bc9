/* cli/options.h - the command line of one command, parsed by the command's table (cli/commands.h).
 *
 * --kebab-case and --snake_case, --key value and --key=value; -- ends the options. A command with a config
 * also takes overrides: key.sub=value and ~key.sub as words, --set key.sub=value, and --key.sub value, which
 * wins over the others. Errors: Q3_ERR_USAGE with the nearest option, and where to read more.
 */
#ifndef Q3_CLI_OPTIONS_H
#define Q3_CLI_OPTIONS_H

#include "cli/commands.h"
#include "core/arena.h"
#include "core/json.h"
#include "train/config.h"

enum { Q3_OPTIONS_MAX = 96 };

struct q3_options {
    const q3_command *command;
    const q3_option
        *table[Q3_OPTIONS_MAX]; /* the command's options, those of its lists and groups, the common ones */
    int n_table;
    const char *values[Q3_OPTIONS_MAX]; /* as given, "" for a flag; NULL when not given */
    struct q3_repeat *repeats; /* [n_repeats]: values of options that may be given several times, in order */
    int n_repeats;
    const char **words; /* neither options nor overrides */
    int n_words;
    const char **overrides; /* key.sub=value and ~key.sub, in order */
    int n_overrides;
    const char **settings; /* --key.sub value, as key.sub=value */
    int n_settings;
    q3_arena mem;
};

/* The table alone; nothing is to be freed. */
void q3_options_fill(q3_options *o, const q3_command *command);

/* Parses argv[0..argc), which begins behind the command's name. Nothing is left to free on failure. */
q3_status q3_options_parse(q3_options *out, const q3_command *command, int argc, const char *const *argv);
void q3_options_free(q3_options *o);

/* The value of an option, or its default, or NULL; `name` must be in the command's table. */
const char *q3_options_get(const q3_options *o, const char *name);
bool q3_options_given(const q3_options *o, const char *name);

/* The i-th value of an option that may be given several times; NULL behind the last. */
const char *q3_options_nth(const q3_options *o, const char *name, int i);

/* The value of an option without which the command cannot run. */
q3_status q3_options_need(const char **out, const q3_options *o, const char *name);

/* The value as an integer from `min` to `max`; `def` when the option has no value. */
q3_status q3_options_int(int64_t *out, const q3_options *o, const char *name, int64_t def, int64_t min,
                         int64_t max);

/* The same for numbers with a fraction. */
q3_status q3_options_float(double *out, const q3_options *o, const char *name, double def, double min,
                           double max);

/* Index of the value in `words`, which end with NULL; `def` when the option has no value. */
q3_status q3_options_choice(int *out, const q3_options *o, const char *name, int def,
                            const char *const *words);

/* Loads --config with overrides and with the options that stand for keys; the caller frees the config. The
 * rules between keys are checked by q3_options_config alone. */
q3_status q3_options_config(q3_config *out, const q3_options *o);
q3_status q3_options_config_unchecked(q3_config *out, const q3_options *o);

/* Starts what kernels need, as the group Q3_COMMAND_ENGINE says: instruction set and threads. Refuses other
 * devices. */
q3_status q3_options_start(const q3_options *o);

/* Both, as train and eval begin; --config must be given. */
q3_status q3_options_begin(q3_config *out, const q3_options *o);

/* "-i, --input KEY=VALUE", as snprintf does; and what help says of it, aliases and the default included. */
int q3_option_spell(char *out, size_t room, const q3_option *option);
void q3_option_explain(q3_text *out, const q3_option *option);

/* --help of a command; of the lists that it shares with others only the names. */
void q3_options_help(q3_text *out, const q3_command *command);

/* What is left out there. */
void q3_options_help_list(q3_text *out, const q3_option_list *list);

/* Prints a text to stdout and frees it. */
q3_status q3_options_print(q3_text *text);

#endif
