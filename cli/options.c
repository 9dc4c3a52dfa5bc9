#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/log.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

enum { NAME_BYTES = 64, HELP_COLUMN = 31, HELP_WIDTH = 80 };

static const q3_option config_options[] = {
    { .name = "config",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "settings in JSON (see `config keys`)" },
    { .name = "set", .kind = Q3_OPTION_VALUE, .value = "KEY=VALUE", .help = "override one; may be repeated" },
};

static const q3_option engine_options[] = {
    { .name = "threads",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "0",
      .help = "CPU threads; 0: one per processor" },
    { .name = "cpu-level",
      .kind = Q3_OPTION_VALUE,
      .value = "LEVEL",
      .words = "portable|avx2|avx512",
      .help = "portable, avx2 or avx512 (default: the best)" },
    { .name = "device",
      .kind = Q3_OPTION_VALUE,
      .value = "auto|cpu|cuda|cuda:N",
      .initial = "auto",
      .key = "model.device",
      .help = "where to compute" },
};

static const q3_option hub_options[] = {
    { .name = "cache-dir",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "models by name (default: $HF_HUB_CACHE)" },
    { .name = "offline", .kind = Q3_OPTION_FLAG, .help = "fetch nothing: directories and the cache only" },
};

static const q3_option common_options[] = {
    { .name = "quiet", .letter = 'q', .kind = Q3_OPTION_FLAG, .help = "warnings and results only" },
    { .name = "verbose", .letter = 'v', .kind = Q3_OPTION_FLAG, .help = "more detail" },
    { .name = "help", .letter = 'h', .kind = Q3_OPTION_FLAG, .help = "show this help" },
};

/* One value of an option that may be given several times. */
struct q3_repeat {
    int index; // in the table
    const char *value;
};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static void add_options(q3_options *o, const q3_option *options, int n)
{
    Q3_CHECK(o->n_table + n <= Q3_OPTIONS_MAX, "%s has too many options", o->command->name);
    for (int i = 0; i < n; i++)
        o->table[o->n_table++] = &options[i];
}

void q3_options_fill(q3_options *o, const q3_command *command)
{
    *o = (q3_options){ .command = command };
    if (command->groups & Q3_COMMAND_CONFIG)
        add_options(o, config_options, COUNT(config_options));
    add_options(o, command->options, command->n_options);
    for (int i = 0; i < Q3_COMMAND_LISTS && command->lists[i]; i++)
        add_options(o, command->lists[i]->options, command->lists[i]->n);
    if (command->groups & Q3_COMMAND_ENGINE)
        add_options(o, engine_options, COUNT(engine_options));
    if (command->groups & Q3_COMMAND_HUB)
        add_options(o, hub_options, COUNT(hub_options));
    add_options(o, common_options, COUNT(common_options));
}

static int find_option(const q3_options *o, const char *name)
{
    for (int i = 0; i < o->n_table; i++)
        if (strcmp(o->table[i]->name, name) == 0 ||
            (o->table[i]->alias && strcmp(o->table[i]->alias, name) == 0))
            return i;
    return -1;
}

static bool has_config(const q3_options *o)
{
    return (o->command->groups & Q3_COMMAND_CONFIG) != 0;
}

/* ---- parsing ---- */

typedef struct cursor {
    q3_options *o;
    const char *const *argv;
    int argc, at;
} cursor;

static q3_status unknown_option(const q3_options *o, const char *name)
{
    const char *names[2 * Q3_OPTIONS_MAX], *command = o->command->name;
    int n = 0;
    for (int i = 0; i < o->n_table; i++) {
        names[n++] = o->table[i]->name;
        if (o->table[i]->alias)
            names[n++] = o->table[i]->alias;
    }
    const char *nearest = q3_nearest(name, names, (size_t)n);
    if (nearest)
        return q3_fail(Q3_ERR_USAGE, "unknown option --%.60s; did you mean --%s? (see qwen3-sft %s --help)",
                       name, nearest, command);
    char key[NAME_BYTES];
    snprintf(key, sizeof key, "%s", name);
    for (char *p = key; *p; p++)
        *p = *p == '-' ? '_' : *p;
    const char *meant = has_config(o) ? q3_config_nearest(key) : NULL;
    if (meant && strchr(meant, '.'))
        return q3_fail(Q3_ERR_USAGE, "unknown option --%.60s; did you mean --%s? (see qwen3-sft %s --help)",
                       name, meant, command);
    return q3_fail(Q3_ERR_USAGE, "unknown option --%.60s (see qwen3-sft %s --help)", name, command);
}

static q3_status full(void)
{
    return q3_fail(Q3_ERR_USAGE, "the command line is too long");
}

/* The value behind an option that must have one. */
static q3_status next_value(const char **out, cursor *c, const char *name, const char *what)
{
    if (c->at >= c->argc || strncmp(c->argv[c->at], "--", 2) == 0)
        return q3_fail(Q3_ERR_USAGE, "--%s needs a value: --%s %s", name, name, what);
    *out = c->argv[c->at++];
    return Q3_OK;
}

static bool may_be_value(const cursor *c)
{
    const char *word = c->at < c->argc ? c->argv[c->at] : "-";
    return *word != '-' && *word != '~' && !strchr(word, '=');
}

static q3_status add_override(q3_options *o, const char *text)
{
    if (!strchr(text, '=') && *text != '~')
        return q3_fail(Q3_ERR_USAGE, "--set %.60s: write --set key.sub=value", text);
    o->overrides[o->n_overrides++] = text;
    return Q3_OK;
}

/* --key.sub value */
static q3_status read_setting(cursor *c, const char *name, const char *value)
{
    q3_options *o = c->o;
    if (!value)
        Q3_TRY(next_value(&value, c, name, "VALUE"));
    const char *text = q3_arena_printf(&o->mem, "%s=%s", name, value);
    if (!text)
        return full();
    o->settings[o->n_settings++] = text;
    return Q3_OK;
}

static q3_status read_long(cursor *c, const char *text);

static q3_status read_option(cursor *c, int index, const char *value)
{
    const q3_option *option = c->o->table[index];
    if (option->kind == Q3_OPTION_FLAG && value)
        return q3_fail(Q3_ERR_USAGE, "--%s takes no value", option->name);
    if (option->kind != Q3_OPTION_FLAG && option->kind != Q3_OPTION_OPTIONAL && !value)
        Q3_TRY(next_value(&value, c, option->name, option->value));
    if (option->kind == Q3_OPTION_OPTIONAL && !value)
        value = may_be_value(c) ? c->argv[c->at++] : option->bare;
    if (option->kind == Q3_OPTION_ASSIGN)
        return strchr(value, '=') ? read_long(c, value)
                                  : q3_fail(Q3_ERR_USAGE, "--%s %.60s: write -%c key=value", option->name,
                                            value, option->letter);
    if (option == &config_options[1])
        return add_override(c->o, value);
    c->o->values[index] = value ? value : "";
    if (option->repeats)
        c->o->repeats[c->o->n_repeats++] = (struct q3_repeat){ index, value };
    return Q3_OK;
}

static q3_status read_long(cursor *c, const char *text)
{
    char name[NAME_BYTES];
    size_t n = strcspn(text, "=");
    const char *value = text[n] ? text + n + 1 : NULL;
    if (n >= sizeof name)
        return q3_fail(Q3_ERR_USAGE, "unknown option --%.60s...", text);
    memcpy(name, text, n);
    name[n] = 0;
    if (has_config(c->o) && strchr(name, '.'))
        return read_setting(c, name, value);
    for (char *p = name; *p; p++)
        *p = *p == '_' ? '-' : *p;
    int index = find_option(c->o, name);
    return index >= 0 ? read_option(c, index, value) : unknown_option(c->o, name);
}

static q3_status read_letter(cursor *c, const char *text)
{
    for (int i = 0; text[1] == 0 && i < c->o->n_table; i++)
        if (c->o->table[i]->letter == text[0])
            return read_option(c, i, NULL);
    return q3_fail(Q3_ERR_USAGE, "unknown option -%.20s (see qwen3-sft %s --help)", text,
                   c->o->command->name);
}

static q3_status read_word(cursor *c, const char *text)
{
    q3_options *o = c->o;
    if (has_config(o) && (*text == '~' || strchr(text, '=')))
        return add_override(o, text);
    if (o->n_words == o->command->max_words)
        return q3_fail(Q3_ERR_USAGE, "unexpected word \"%.60s\" (see qwen3-sft %s --help)", text,
                       o->command->name);
    o->words[o->n_words++] = text;
    return Q3_OK;
}

static q3_status read_all(cursor *c)
{
    bool words_only = false;
    while (c->at < c->argc) {
        const char *text = c->argv[c->at++];
        if (!words_only && strcmp(text, "--") == 0)
            words_only = true;
        else if (!words_only && strncmp(text, "--", 2) == 0)
            Q3_TRY(read_long(c, text + 2));
        else if (!words_only && text[0] == '-' && text[1])
            Q3_TRY(read_letter(c, text + 1));
        else
            Q3_TRY(read_word(c, text));
    }
    return Q3_OK;
}

q3_status q3_options_parse(q3_options *out, const q3_command *command, int argc, const char *const *argv)
{
    q3_options_fill(out, command);
    Q3_TRY(q3_arena_create(&out->mem, "command line", 64u << 20));
    out->words = Q3_NEW(&out->mem, const char *, argc + 1);
    out->repeats = Q3_NEW(&out->mem, struct q3_repeat, argc + 1);
    out->overrides = Q3_NEW(&out->mem, const char *, argc + 1);
    out->settings = Q3_NEW(&out->mem, const char *, argc + 1);
    cursor c = { .o = out, .argv = argv, .argc = argc };
    q3_status st = out->words && out->repeats && out->overrides && out->settings ? read_all(&c) : full();
    if (st != Q3_OK)
        q3_options_free(out);
    return st;
}

void q3_options_free(q3_options *o)
{
    q3_arena_destroy(&o->mem);
    *o = (q3_options){ 0 };
}

/* ---- values ---- */

const char *q3_options_get(const q3_options *o, const char *name)
{
    int i = find_option(o, name);
    Q3_CHECK(i >= 0, "%s has no option --%s", o->command->name, name);
    return o->values[i] ? o->values[i] : o->table[i]->initial;
}

bool q3_options_given(const q3_options *o, const char *name)
{
    int i = find_option(o, name);
    Q3_CHECK(i >= 0, "%s has no option --%s", o->command->name, name);
    return o->values[i] != NULL;
}

const char *q3_options_nth(const q3_options *o, const char *name, int i)
{
    int index = find_option(o, name);
    Q3_CHECK(index >= 0 && o->table[index]->repeats, "%s has no repeatable option --%s", o->command->name,
             name);
    for (int k = 0; k < o->n_repeats; k++)
        if (o->repeats[k].index == index && i-- == 0)
            return o->repeats[k].value;
    return NULL;
}

q3_status q3_options_need(const char **out, const q3_options *o, const char *name)
{
    *out = q3_options_get(o, name);
    if (*out && **out)
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE, "%s needs --%s %s (see qwen3-sft %s --help)", o->command->name, name,
                   o->table[find_option(o, name)]->value, o->command->name);
}

q3_status q3_options_int(int64_t *out, const q3_options *o, const char *name, int64_t def, int64_t min,
                         int64_t max)
{
    const char *text = q3_options_get(o, name);
    *out = def;
    if (!text)
        return Q3_OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return q3_fail(Q3_ERR_USAGE, "--%s is \"%.60s\"; it must be an integer from %lld to %lld", name, text,
                       (long long)min, (long long)max);
    *out = value;
    return Q3_OK;
}

q3_status q3_options_float(double *out, const q3_options *o, const char *name, double def, double min,
                           double max)
{
    const char *text = q3_options_get(o, name);
    *out = def;
    if (!text)
        return Q3_OK;
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= min && value <= max))
        return q3_fail(Q3_ERR_USAGE, "--%s is \"%.60s\"; it must be a number from %g to %g", name, text, min,
                       max);
    *out = value;
    return Q3_OK;
}

/* Whether what the table lists, parted by |, is among `words`. */
static bool agrees(const char *list, const char *const *words)
{
    for (size_t n; *list; list += n + (list[n] == '|')) {
        n = strcspn(list, "|");
        int i = 0;
        while (words[i] && (strlen(words[i]) != n || memcmp(words[i], list, n) != 0))
            i++;
        if (!words[i])
            return false;
    }
    return true;
}

q3_status q3_options_choice(int *out, const q3_options *o, const char *name, int def,
                            const char *const *words)
{
    const char *text = q3_options_get(o, name);
    const q3_option *option = o->table[find_option(o, name)];
    const char *listed = option->words ? option->words : strchr(option->value, '|') ? option->value : "";
    Q3_CHECK(agrees(listed, words), "--%s does not take all of %s", name, listed);
    *out = def;
    if (!text)
        return Q3_OK;
    char list[256] = "";
    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return Q3_OK;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", !i ? "" : words[i + 1] ? ", " : " or ", words[i]);
    }
    return q3_fail(Q3_ERR_USAGE, "--%s is \"%.60s\"; it must be %s", name, text, list);
}

/* ---- what commands share ---- */

static q3_status apply_options(q3_config *cfg, const q3_options *o)
{
    for (int i = 0; i < o->n_settings; i++)
        Q3_TRY(q3_config_override(cfg, o->settings[i], Q3_ORIGIN_OPTION));
    for (int i = 0; i < o->n_table; i++)
        if (o->table[i]->key && o->values[i])
            Q3_TRY(q3_config_set(cfg, o->table[i]->key, o->values[i], Q3_ORIGIN_OPTION));
    return Q3_OK;
}

q3_status q3_options_config_unchecked(q3_config *out, const q3_options *o)
{
    Q3_TRY(q3_config_load(out, q3_options_get(o, "config"), o->overrides, o->n_overrides));
    q3_status st = apply_options(out, o);
    if (st != Q3_OK)
        q3_config_free(out);
    return st;
}

q3_status q3_options_config(q3_config *out, const q3_options *o)
{
    Q3_TRY(q3_options_config_unchecked(out, o));
    q3_status st = q3_config_check(out);
    if (st != Q3_OK)
        q3_config_free(out);
    return st;
}

static q3_status set_level(const char *name)
{
    q3_cpu_isa level;
    if (!name)
        return Q3_OK;
    if (!q3_cpu_level_parse(&level, name))
        return q3_fail(Q3_ERR_USAGE, "--cpu-level is \"%.60s\"; it must be portable, avx2 or avx512", name);
    if (!q3_cpu_set_level(level))
        return q3_fail(Q3_ERR_USAGE,
                       "--cpu-level %s: this machine or this build lacks it; the best one here is %s", name,
                       q3_cpu_level_name(q3_cpu_level()));
    return Q3_OK;
}

q3_status q3_options_start(const q3_options *o)
{
    int64_t threads;
    const char *device = q3_options_get(o, "device");
    if (!q3_device_is_name(device))
        return q3_fail(Q3_ERR_USAGE, "--device is \"%.60s\"; it must be auto, cpu, cuda or cuda:N", device);
    if (strncmp(device, "cuda", 4) == 0 && !q3_device_built())
        return q3_fail(Q3_ERR_USAGE, "--device is \"%.60s\"; this build has no CUDA: use auto or cpu",
                       device);
    Q3_TRY(q3_options_int(&threads, o, "threads", 0, 0, 256));
    Q3_TRY(set_level(q3_options_get(o, "cpu-level")));
    q3_pool_start((int)threads);
    q3_detail("cpu: %s, %d threads", q3_cpu_level_name(q3_cpu_level()), q3_pool_threads());
    return Q3_OK;
}

q3_status q3_options_begin(q3_config *out, const q3_options *o)
{
    const char *file;
    Q3_TRY(q3_options_need(&file, o, "config"));
    Q3_TRY(q3_options_start(o));
    return q3_options_config(out, o);
}

/* ---- help ---- */

int q3_option_spell(char *out, size_t room, const q3_option *option)
{
    int n = option->letter ? snprintf(out, room, "-%c, --%s", option->letter, option->name)
                           : snprintf(out, room, "--%s", option->name);
    if (option->kind == Q3_OPTION_VALUE || option->kind == Q3_OPTION_ASSIGN)
        n += snprintf(out + n, room - (size_t)n, " %s", option->value);
    else if (option->kind == Q3_OPTION_OPTIONAL)
        n += snprintf(out + n, room - (size_t)n, " [%s]", option->value);
    return n;
}

void q3_option_explain(q3_text *out, const q3_option *option)
{
    q3_text_printf(out, "%s", option->help);
    if (option->repeats)
        q3_text_printf(out, "; repeatable");
    if (option->alias)
        q3_text_printf(out, " (--%s)", option->alias);
    if (option->initial)
        q3_text_printf(out, " (default: %s)", option->initial);
}

static void help_line(q3_text *out, const q3_option *option)
{
    char left[HELP_WIDTH];
    q3_option_spell(left, sizeof left, option);
    q3_text_printf(out, "  %-*s ", HELP_COLUMN - 2, left);
    q3_option_explain(out, option);
    q3_text_append(out, "\n", 1);
}

static void help_lines(q3_text *out, const q3_option *options, int n)
{
    for (int i = 0; i < n; i++)
        help_line(out, &options[i]);
}

/* Names and values alone, side by side: many commands share these options. */
static void help_overview(q3_text *out, const q3_option_list *list)
{
    int column = HELP_WIDTH;
    q3_text_printf(out, "\n%s (`qwen3-sft help %s` explains them):", list->heading, list->heading);
    for (int i = 0; i < list->n; i++) {
        char left[HELP_WIDTH];
        int n = q3_option_spell(left, sizeof left, &list->options[i]);
        bool fits = column + 2 + n <= HELP_WIDTH;
        q3_text_printf(out, "%s  %s", fits ? "" : "\n", left);
        column = (fits ? column : 0) + 2 + n;
    }
    q3_text_append(out, "\n", 1);
}

void q3_options_help(q3_text *out, const q3_command *command)
{
    q3_text_printf(out, "usage: qwen3-sft %s%s%s\n\n%s\n\noptions:\n", command->name,
                   *command->usage ? " " : "", command->usage, command->summary);
    if (command->groups & Q3_COMMAND_CONFIG)
        help_lines(out, config_options, COUNT(config_options));
    help_lines(out, command->options, command->n_options);
    for (int i = 0; i < Q3_COMMAND_LISTS && command->lists[i]; i++)
        help_overview(out, command->lists[i]);
    if (command->lists[0])
        q3_text_printf(out, "\nprogram:\n");
    if (command->groups & Q3_COMMAND_ENGINE)
        help_lines(out, engine_options, COUNT(engine_options));
    if (command->groups & Q3_COMMAND_HUB)
        help_lines(out, hub_options, COUNT(hub_options));
    help_lines(out, common_options, COUNT(common_options));
    if (command->groups & Q3_COMMAND_CONFIG)
        q3_text_printf(out, "%-*s %s\n", HELP_COLUMN, "  key.sub=value, ~key.sub",
                       "override a setting; take one back to its default");
    q3_text_printf(out, "\nexample:\n  qwen3-sft %s\n", command->example);
}

void q3_options_help_list(q3_text *out, const q3_option_list *list)
{
    q3_text_printf(out, "%s:\n", list->heading);
    help_lines(out, list->options, list->n);
}

q3_status q3_options_print(q3_text *text)
{
    bool whole = !text->failed && (!text->size || fwrite(text->data, 1, text->size, stdout) == text->size);
    q3_status st = text->failed ? Q3_ERR_MEMORY : Q3_OK;
    if (st == Q3_OK && (!whole || fflush(stdout) != 0))
        st = q3_fail(Q3_ERR_IO, "stdout: %s", strerror(errno));
    q3_text_free(text);
    return st;
}
