#include "cli/manual.h"

#include <string.h>

#include "cli/options.h"

static const char head[] =
    ".TH QWEN3\\-SFT 1 \"\" \"qwen3\\-sft " Q3_VERSION "\" \"User Commands\"\n"
    ".SH NAME\n"
    "qwen3\\-sft \\- fine\\-tunes Qwen3\\-VL with QLoRA, and uses the result\n"
    ".SH SYNOPSIS\n"
    ".B qwen3\\-sft\n"
    ".I COMMAND\n"
    "[options] [key.sub=value ...]\n"
    ".br\n"
    ".B qwen3\\-sft \\-\\-config\n"
    ".I FILE\n"
    "[options] [key.sub=value ...]\n"
    ".SH DESCRIPTION\n"
    "One program that trains on CUDA devices and on the CPU, answers, ranks and\n"
    "serves. The second form is that of the command\n"
    ".BR train .\n"
    "Options may be written with _ for \\-, and \\-\\-key=value for \\-\\-key value.\n";

static const char tail[] = ".SH EXIT STATUS\n"
                           "0 done, 2 command line or config, 3 data, 4 model files, 5 memory,\n"
                           "6 network, 130 and 143 interrupted and saved, 1 the rest.\n"
                           ".SH SEE ALSO\n"
                           "README.md and docs of the source.\n";

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

/* Text as it stands: neither escapes nor requests of roff, and signs that can be copied to a shell. */
static void put_text(q3_text *out, const char *text)
{
    static const char signs[] = "\\-~^`'";
    static const char *const names[] = { "\\e", "\\-", "\\(ti", "\\(ha", "\\(ga", "\\(aq" };
    put(out, "\\&");
    for (const char *p = text; *p; p++) {
        const char *sign = strchr(signs, *p);
        q3_text_append(out, sign ? names[sign - signs] : p, sign ? strlen(names[sign - signs]) : 1);
    }
}

static void put_line(q3_text *out, const char *text)
{
    put_text(out, text);
    put(out, "\n");
}

static void put_title(q3_text *out, const char *title)
{
    put(out, ".SS ");
    put_line(out, title);
}

/* What follows is said of the term. */
static void put_term(q3_text *out, const char *term)
{
    put(out, ".TP\n\\fB");
    put_text(out, term);
    put(out, "\\fR\n");
}

static void put_option(q3_text *out, const q3_option *option)
{
    char term[128];
    q3_text text = { 0 };
    q3_option_spell(term, sizeof term, option);
    put_term(out, term);
    q3_option_explain(&text, option);
    put_line(out, text.data ? text.data : "");
    q3_text_free(&text);
}

/* "qwen3-sft train --config FILE" */
static void put_call(q3_text *out, const char *command, const char *rest)
{
    put(out, "\\fBqwen3\\-sft\\fR ");
    put_text(out, command);
    put(out, " ");
    put_line(out, rest);
}

static void put_command(q3_text *out, const q3_command *command)
{
    put_title(out, command->name);
    put_call(out, command->name, command->usage);
    put(out, ".PP\n");
    put_line(out, command->summary);
    for (int i = 0; i < command->n_options; i++)
        put_option(out, &command->options[i]);
    for (int i = 0; i < Q3_COMMAND_LISTS && command->lists[i]; i++)
        q3_text_printf(out, "%s the options of \\fI%s\\fR\n", i ? "and" : ".PP\nAlso",
                       command->lists[i]->heading);
    put(out, ".PP\nExample:\n");
    put_call(out, command->example, "");
}

static bool is_first_with(int command, const q3_option_list *list)
{
    for (int i = 0; i < command; i++)
        for (int k = 0; k < Q3_COMMAND_LISTS && q3_commands[i]->lists[k]; k++)
            if (q3_commands[i]->lists[k] == list)
                return false;
    return true;
}

static void put_lists(q3_text *out)
{
    for (int i = 0; i < q3_n_commands; i++)
        for (int k = 0; k < Q3_COMMAND_LISTS && q3_commands[i]->lists[k]; k++) {
            const q3_option_list *list = q3_commands[i]->lists[k];
            if (!is_first_with(i, list))
                continue;
            put_title(out, list->heading);
            for (int n = 0; n < list->n; n++)
                put_option(out, &list->options[n]);
        }
    static const q3_command any = { .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE | Q3_COMMAND_HUB };
    q3_options o;
    q3_options_fill(&o, &any);
    put_title(out, "program");
    for (int i = 0; i < o.n_table; i++)
        put_option(out, o.table[i]);
}

static void put_setting(q3_text *out, const q3_config_key *key)
{
    q3_text text = { 0 };
    put_term(out, key->name);
    q3_config_want(&text, key);
    q3_text_printf(&text, "; %s", key->help);
    if (key->initial)
        q3_text_printf(&text, " (default: %s)", key->initial);
    put_line(out, text.data ? text.data : "");
    q3_text_free(&text);
}

void q3_manual_page(q3_text *out)
{
    put(out, head);
    put(out, ".SH COMMANDS\n");
    for (int i = 0; i < q3_n_commands; i++)
        put_command(out, q3_commands[i]);
    put(out, ".SH OPTIONS OF SEVERAL COMMANDS\n");
    put_lists(out);
    put(out,
        ".SH SETTINGS\nOf a config file, in JSON by sections, and of the command line as key.sub=value.\n");
    for (int i = 0; i < Q3_CONFIG_KEYS; i++)
        put_setting(out, &q3_config_table[i]);
    put(out, tail);
}
