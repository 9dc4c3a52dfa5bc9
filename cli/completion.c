#include "cli/completion.h"

#include <stdio.h>
#include <string.h>

static void add_word(q3_completion *c, const char *word, size_t n)
{
    size_t used = strlen(c->words);
    Q3_CHECK(used + n + 2 <= sizeof c->words, "too many words: %s", c->words);
    snprintf(c->words + used, sizeof c->words - used, "%s%.*s", used ? " " : "", (int)n, word);
}

static bool holds(const char *part, size_t n, const char *name)
{
    size_t m = strlen(name);
    return n >= m && memcmp(part + n - m, name, m) == 0;
}

/* "auto|DIR", "fp32|int4", "@FILE|JSON", "cuda:N" */
static void read_alternatives(q3_completion *out, const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    *out = (q3_completion){ 0 };
    for (const char *part = text; *part;) {
        size_t n = strcspn(part, "|");
        if (n > 1 && strspn(part, letters) >= n)
            add_word(out, part, n);
        out->directories |= holds(part, n, "DIR");
        out->files |= holds(part, n, "FILE") || holds(part, n, "PATH") || holds(part, n, "QRELS");
        part += n + (part[n] == '|');
    }
}

void q3_completion_of_option(q3_completion *out, const q3_option *option)
{
    const char *value = option->value ? option->value : ""; // flags have none
    read_alternatives(out, option->words ? option->words : value);
    out->settings = option->kind == Q3_OPTION_VALUE && strcmp(value, "KEY=VALUE") == 0;
}

void q3_completion_of_setting(q3_completion *out, const q3_config_key *key)
{
    read_alternatives(out, key->kind == Q3_CONFIG_BOOL_KIND   ? "true|false"
                           : key->kind == Q3_CONFIG_PATH_KIND ? "PATH"
                           : key->words                       ? key->words
                                                              : "");
}

void q3_completion_of_command(q3_completion *out, const q3_command *command)
{
    char first[64];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(command->usage, " "), command->usage);
    read_alternatives(out, strchr(first, '|') ? first : "");
    if (command != &q3_command_help)
        return;
    for (int i = 0; i < q3_n_commands; i++)
        add_word(out, q3_commands[i]->name, strlen(q3_commands[i]->name));
    for (int i = 0; i < q3_n_commands; i++)
        for (int k = 0; k < Q3_COMMAND_LISTS && q3_commands[i]->lists[k]; k++)
            if (!strstr(out->words, q3_commands[i]->lists[k]->heading))
                add_word(out, q3_commands[i]->lists[k]->heading, strlen(q3_commands[i]->lists[k]->heading));
}

void q3_completion_escape(q3_text *out, const char *text, const char *quote, const char *escape)
{
    for (const char *p = text; *p; p++)
        if (*p == '\'')
            q3_text_append(out, quote, strlen(quote));
        else
            q3_text_printf(out, "%s%c", strchr(escape, *p) ? "\\" : "", *p);
}
