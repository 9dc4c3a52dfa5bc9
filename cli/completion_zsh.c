/* The script for zsh: the options of each command as specifications of _arguments. */
#include "cli/completion.h"

#include <string.h>

static const char head[] = "_qwen3_sft()\n"
                           "{\n"
                           "    local curcontext=$curcontext context state state_descr line command\n"
                           "    typeset -A opt_args\n"
                           "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
                           "        _describe command _qwen3_sft_commands\n"
                           "        return\n"
                           "    fi\n"
                           "    command=train\n"
                           "    if [[ $words[2] != -* ]]; then\n"
                           "        shift words\n"
                           "        (( CURRENT-- ))\n"
                           "        command=$words[1]\n"
                           "    fi\n"
                           "    case $command in\n";

static const char tail[] = "    esac\n"
                           "}\n"
                           "\n"
                           "if [[ $funcstack[1] == _qwen3-sft ]]; then\n" // found in fpath
                           "    _qwen3_sft \"$@\"\n"
                           "else\n"
                           "    compdef _qwen3_sft qwen3-sft\n"
                           "fi\n";

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void put_escaped(q3_text *out, const char *text, const char *escape)
{
    q3_completion_escape(out, text, "'\\''", escape);
}

/* 'name:help', as _describe wants it */
static void put_described(q3_text *out, const char *name, const char *help)
{
    q3_text_printf(out, "    '%s:", name);
    put_escaped(out, help, ":\\");
    put(out, "'\n");
}

/* What offers the words, files and directories. */
static void put_action(q3_text *out, const q3_completion *c)
{
    if (c->settings)
        put(out, "_qwen3_sft_settings");
    if (*c->words)
        q3_text_printf(out, "compadd -- %s%s", c->words, c->files || c->directories ? "; " : "");
    if (c->files || c->directories)
        put(out, c->files ? "_files" : "_files -/");
}

/* '--model=[help]:value:{action}', '(-q --quiet)'{-q,--quiet}'[help]' */
static void put_option(q3_text *out, const q3_option *option)
{
    q3_completion c;
    q3_completion_of_option(&c, option);
    const char *sign = option->kind == Q3_OPTION_FLAG ? "" : option->kind == Q3_OPTION_OPTIONAL ? "=-" : "=";
    bool again = option->repeats || option->kind == Q3_OPTION_ASSIGN || c.settings;
    put(out, " \\\n            '");
    if (again)
        put(out, "*");
    if (option->letter && again)
        q3_text_printf(out, "'{-%c,--%s%s}'", option->letter, option->name, sign);
    else if (option->letter)
        q3_text_printf(out, "(-%c --%s)'{-%c,--%s%s}'", option->letter, option->name, option->letter,
                       option->name, sign);
    else
        q3_text_printf(out, "--%s%s", option->name, sign);
    put(out, "[");
    put_escaped(out, option->help, "[]\\");
    put(out, "]");
    if (option->kind != Q3_OPTION_FLAG) {
        put(out, option->kind == Q3_OPTION_OPTIONAL ? "::" : ":");
        put_escaped(out, option->value, ":\\");
        put(out, ":{");
        put_action(out, &c);
        put(out, "}");
    }
    put(out, "'");
}

static void put_command(q3_text *out, const q3_command *command)
{
    q3_options o;
    q3_completion words;
    q3_options_fill(&o, command);
    q3_completion_of_command(&words, command);
    q3_text_printf(out, "    %s)\n        _arguments -s", command->name);
    for (int i = 0; i < o.n_table; i++)
        put_option(out, o.table[i]);
    if (*words.words)
        q3_text_printf(out, " \\\n            '1:word:(%s)'", words.words);
    if (command->groups & Q3_COMMAND_CONFIG)
        put(out, " \\\n            '*:setting:_qwen3_sft_settings'");
    put(out, " ;;\n");
}

static void put_settings(q3_text *out)
{
    put(out, "_qwen3_sft_keys=(\n");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++)
        put_described(out, q3_config_table[i].name, q3_config_table[i].help);
    put(out, ")\n\n_qwen3_sft_settings()\n{\n    if ! compset -P '*='; then\n"
             "        _describe setting _qwen3_sft_keys -S =\n        return\n    fi\n"
             "    case ${${IPREFIX%=}##*=} in\n");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++) {
        q3_completion c;
        q3_completion_of_setting(&c, &q3_config_table[i]);
        q3_text_printf(out, "    %s) ", q3_config_table[i].name);
        put_action(out, &c);
        put(out, " ;;\n");
    }
    put(out, "    esac\n}\n\n");
}

void q3_completion_zsh(q3_text *out)
{
    put(out, "#compdef qwen3-sft\n# zsh completion for qwen3-sft, written by `qwen3-sft completion zsh`\n\n"
             "_qwen3_sft_commands=(\n");
    for (int i = 0; i < q3_n_commands; i++)
        put_described(out, q3_commands[i]->name, q3_commands[i]->summary);
    put(out, ")\n\n");
    put_settings(out);
    put(out, head);
    for (int i = 0; i < q3_n_commands; i++)
        put_command(out, q3_commands[i]);
    put(out, tail);
}
