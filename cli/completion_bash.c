/* The script for bash: one function that finds the place in the line, asks a case of each command what may stand
 * there, and leaves files and directories to readline, which knows how to quote them. */
#include "cli/completion.h"

#include <string.h>

/* readline takes = for the end of a word, unless COMP_WORDBREAKS was changed: what is offered begins behind it. */
static const char head[] =
    "\n"
    "_qwen3_sft()\n"
    "{\n"
    "    local line=${COMP_LINE:0:COMP_POINT} command=${COMP_WORDS[1]}\n"
    "    local cur=${line##*[[:space:]]} option prefix= place= words= options= keys= values=\n"
    "    COMPREPLY=()\n"
    "    if [[ $cur == *=* ]]; then\n"
    "        option=${cur%%=*} prefix=${cur%%=*}= cur=${cur#*=}\n"
    "    else\n"
    "        line=${line%\"$cur\"}\n"
    "        line=${line%\"${line##*[![:space:]]}\"}\n"
    "        option=${line##*[[:space:]]}\n"
    "    fi\n"
    "    [[ $option == --*.* ]] && option=${option#--}\n"
    "    [[ $option == --* ]] && option=${option//_/-}\n"
    "    ((COMP_CWORD > 1)) || command=\n"
    "    [[ $command == -* ]] && command=train\n"
    "    case $command in\n";

static const char tail[] = "    esac\n"
                           "    [[ $place || -z $keys ]] || _qwen3_sft_setting\n"
                           "    if [[ $cur == -* && -z $prefix ]]; then\n"
                           "        values=$options place=words\n"
                           "    elif [[ $place == keys ]]; then\n"
                           "        values=$keys\n"
                           "    elif [[ -z $place && $prefix ]]; then\n"
                           "        return # NAME=DIR, image=FILE\n"
                           "    elif [[ -z $place ]]; then\n"
                           "        [[ $words ]] && ((COMP_CWORD == 2)) && keys=\n"
                           "        values=\"$words $keys\"\n"
                           "        [[ $values == ' ' ]] && values=$options\n"
                           "    fi\n"
                           "    [[ $COMP_WORDBREAKS == *=* ]] && prefix=\n"
                           "    mapfile -t COMPREPLY < <(compgen -W \"$values\" -- \"$cur\")\n"
                           "    COMPREPLY=(\"${COMPREPLY[@]/#/$prefix}\")\n"
                           "    case $place in\n"
                           "    files) ;;\n"
                           "    directories) compopt +o default -o plusdirs ;;\n"
                           "    *) compopt +o default ;;\n"
                           "    esac\n"
                           "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
                           "}\n"
                           "\n"
                           "complete -o default -F _qwen3_sft qwen3-sft\n";

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

/* "place=files values='a b'" */
static void put_place(q3_text *out, const q3_completion *c)
{
    q3_text_printf(out, "place=%s",
                   c->settings      ? "keys"
                   : c->files       ? "files"
                   : c->directories ? "directories"
                   : *c->words      ? "words"
                                    : "nothing");
    if (*c->words)
        q3_text_printf(out, " values='%s'", c->words);
    put(out, " ;;\n");
}

/* The names by which an option may be called, as a pattern of a case. */
static void put_names(q3_text *out, const q3_option *option)
{
    q3_text_printf(out, "--%s", option->name);
    if (option->alias)
        q3_text_printf(out, "|--%s", option->alias);
    if (option->letter)
        q3_text_printf(out, "|-%c", option->letter);
}

static void put_value(q3_text *out, const q3_option *option)
{
    q3_completion c;
    if (option->kind == Q3_OPTION_FLAG)
        return;
    put(out, "        ");
    put_names(out, option);
    put(out, ") ");
    q3_completion_of_option(&c, option);
    put_place(out, &c);
}

static void put_command(q3_text *out, const q3_command *command)
{
    q3_options o;
    q3_completion words;
    q3_options_fill(&o, command);
    q3_completion_of_command(&words, command);
    q3_text_printf(out, "    %s)\n        words='%s'\n        options='", command->name, words.words);
    for (int i = 0; i < o.n_table; i++)
        q3_text_printf(out, "%s--%s", i ? " " : "", o.table[i]->name);
    q3_text_printf(out, "'\n%s        case $option in\n",
                   command->groups & Q3_COMMAND_CONFIG ? "        keys=$_qwen3_sft_keys\n" : "");
    for (int i = 0; i < o.n_table; i++)
        put_value(out, o.table[i]);
    put(out, "        esac ;;\n");
}

static void put_settings(q3_text *out)
{
    put(out, "\n_qwen3_sft_keys='");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++)
        q3_text_printf(out, "%s%s=", i ? " " : "", q3_config_table[i].name);
    put(out, "'\n\n_qwen3_sft_setting()\n{\n    case $option in\n");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++) {
        q3_completion c;
        q3_completion_of_setting(&c, &q3_config_table[i]);
        q3_text_printf(out, "    %s) ", q3_config_table[i].name);
        put_place(out, &c);
    }
    put(out, "    esac\n}\n");
}

void q3_completion_bash(q3_text *out)
{
    put(out, "# bash completion for qwen3-sft, written by `qwen3-sft completion bash`\n");
    put_settings(out);
    put(out, head);
    put(out, "    '')\n        words='");
    for (int i = 0; i < q3_n_commands; i++)
        q3_text_printf(out, "%s%s", i ? " " : "", q3_commands[i]->name);
    put(out, "'\n        options='--config --help --version' ;;\n");
    for (int i = 0; i < q3_n_commands; i++)
        put_command(out, q3_commands[i]);
    put(out, tail);
}
