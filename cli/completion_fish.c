/* The script for fish: a line for each option of each command, and one for each setting. */
#include "cli/completion.h"

#include <string.h>

/* Whether the command is $argv[1]; options in its place belong to train. */
static const char head[] = "# fish completion for qwen3-sft, written by `qwen3-sft completion fish`\n"
                           "\n"
                           "function __qwen3_sft_has_command\n"
                           "    test (count (commandline -opc)) -gt 1\n"
                           "end\n"
                           "\n"
                           "function __qwen3_sft_is\n"
                           "    set -l words (commandline -opc)\n"
                           "    set -q words[2]; or return 1\n"
                           "    string match -q -- '-*' $words[2]; and set words[2] train\n"
                           "    test $words[2] = $argv[1]\n"
                           "end\n"
                           "\n";

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void put_quoted(q3_text *out, const char *text)
{
    put(out, "'");
    q3_completion_escape(out, text, "\\'", "\\");
    put(out, "'");
}

/* fish knows nothing of values that may be left out: --resume stands alone, and its words behind it. */
static void put_value(q3_text *out, const q3_option *option, const q3_completion *c)
{
    q3_text_printf(out, "%s%s", option->kind == Q3_OPTION_OPTIONAL ? "" : " -r", c->files ? " -F" : " -f");
    if (*c->words || c->directories)
        q3_text_printf(out, " -a '%s%s'", c->words, c->directories ? " (__fish_complete_directories)" : "");
    if (c->settings)
        put(out, " -a '(__qwen3_sft_settings)'");
}

static void put_option(q3_text *out, const char *command, const q3_option *option)
{
    q3_completion c;
    q3_completion_of_option(&c, option);
    q3_text_printf(out, "complete -c qwen3-sft -n '__qwen3_sft_is %s' -l %s", command, option->name);
    if (option->letter)
        q3_text_printf(out, " -s %c", option->letter);
    if (option->kind != Q3_OPTION_FLAG)
        put_value(out, option, &c);
    put(out, " -d ");
    put_quoted(out, option->help);
    put(out, "\n");
}

static void put_words(q3_text *out, const char *command, const char *words)
{
    q3_text_printf(out, "complete -c qwen3-sft -n '__qwen3_sft_is %s' -a '%s'\n", command, words);
}

static void put_command(q3_text *out, const q3_command *command)
{
    q3_options o;
    q3_completion words;
    q3_options_fill(&o, command);
    q3_completion_of_command(&words, command);
    q3_text_printf(out, "\ncomplete -c qwen3-sft -n 'not __qwen3_sft_has_command' -a %s -d ", command->name);
    put_quoted(out, command->summary);
    put(out, "\n");
    for (int i = 0; i < o.n_table; i++)
        put_option(out, command->name, o.table[i]);
    if (*words.words)
        put_words(out, command->name, words.words);
    if (command->groups & Q3_COMMAND_CONFIG)
        put_words(out, command->name, "(__qwen3_sft_settings)");
}

/* The values of a setting, each with its name before it. */
static void put_choices(q3_text *out, const q3_config_key *key)
{
    q3_completion c;
    q3_completion_of_setting(&c, key);
    if (*c.words)
        q3_text_printf(out, "        case %s\n            printf \"$key=%%s\\n\" %s\n", key->name, c.words);
    if (c.files)
        q3_text_printf(out, "        case %s\n            printf \"$key=%%s\\n\" $paths\n", key->name);
}

static void put_settings(q3_text *out)
{
    put(out, "function __qwen3_sft_settings\n    set -l token (commandline -ct)\n"
             "    if not string match -q -- '*=*' $token\n        printf '%s\\t%s\\n'");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++) {
        q3_text_printf(out, " \\\n            %s= ", q3_config_table[i].name);
        put_quoted(out, q3_config_table[i].help);
    }
    put(out, "\n        return\n    end\n"
             "    set -l key (string replace -r '=.*' '' -- $token)\n"
             "    set -l begun (string replace -r '[^=]*=' '' -- $token)\n"
             "    set -l paths $begun*\n"
             "    switch $key\n");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++)
        put_choices(out, &q3_config_table[i]);
    put(out, "    end\nend\n\ncomplete -c qwen3-sft -f\n");
}

void q3_completion_fish(q3_text *out)
{
    put(out, head);
    put_settings(out);
    for (int i = 0; i < q3_n_commands; i++)
        put_command(out, q3_commands[i]);
}
