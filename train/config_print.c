/* A config as text: for people, for the next run, for resume. */
#include <inttypes.h>
#include <string.h>

#include "train/config.h"

static const void *field_of(const q3_config *cfg, const q3_config_key *key)
{
    return (const char *)cfg + key->offset;
}

static void print_string(q3_text *out, const char *text)
{
    if (text)
        q3_text_json_string(out, text, strlen(text));
    else
        q3_text_append(out, "null", 4);
}

static void print_word(q3_text *out, const char *words, int index)
{
    for (; index > 0; index--)
        words += strcspn(words, "|") + 1;
    q3_text_json_string(out, words, strcspn(words, "|"));
}

static void print_words(q3_text *out, const q3_config_words *list)
{
    if (list->pattern) {
        print_string(out, list->items[0]);
        return;
    }
    for (int i = 0; i < list->n; i++) {
        q3_text_append(out, i ? ", " : "[", i ? 2 : 1);
        print_string(out, list->items[i]);
    }
    q3_text_printf(out, list->n ? "]" : "[]");
}

void q3_config_value(q3_text *out, const q3_config *cfg, int id)
{
    const q3_config_key *key = &q3_config_table[id];
    const void *field = field_of(cfg, key);
    int word;
    switch (key->kind) {
    case Q3_CONFIG_TEXT_KIND:
    case Q3_CONFIG_PATH_KIND:
        print_string(out, *(const char *const *)field);
        break;
    case Q3_CONFIG_BOOL_KIND:
        q3_text_printf(out, *(const bool *)field ? "true" : "false");
        break;
    case Q3_CONFIG_INT_KIND:
        if (*(const int64_t *)field < 0)
            q3_text_printf(out, "null");
        else
            q3_text_printf(out, "%" PRId64, *(const int64_t *)field);
        break;
    case Q3_CONFIG_FLOAT_KIND:
        if (*(const double *)field < 0)
            q3_text_printf(out, "null");
        else
            q3_text_json_number(out, *(const double *)field);
        break;
    case Q3_CONFIG_ENUM_KIND:
        memcpy(&word, field, sizeof word);
        print_word(out, key->words, word);
        break;
    case Q3_CONFIG_LIST_KIND:
    case Q3_CONFIG_PATTERN_KIND:
        print_words(out, field);
        break;
    }
}

static void print_origin(q3_text *out, const q3_config *cfg, int id)
{
    const q3_config_place *place = &cfg->places[id];
    if (place->origin == Q3_ORIGIN_FILE)
        q3_text_printf(out, "%s:%d", cfg->file, place->line);
    else
        q3_text_printf(out, place->origin == Q3_ORIGIN_DEFAULT    ? "default"
                            : place->origin == Q3_ORIGIN_OVERRIDE ? "override"
                                                                  : "option");
}

void q3_config_print(q3_text *out, const q3_config *cfg)
{
    for (int id = 0; id < Q3_CONFIG_KEYS; id++) {
        q3_text value = { 0 };
        q3_config_value(&value, cfg, id);
        q3_text_printf(out, "%-40s = %-24s  # ", q3_config_table[id].name, value.data ? value.data : "");
        print_origin(out, cfg, id);
        q3_text_append(out, "\n", 1);
        out->failed = out->failed || value.failed;
        q3_text_free(&value);
    }
}

/* Bytes of the section in a key's name; 0 for a key at the top. */
static size_t section_bytes(int id)
{
    const q3_config_key *key = &q3_config_table[id];
    return key->key == key->name || !strchr(key->name, '.') ? 0 : strcspn(key->name, ".");
}

static bool same_section(int a, int b)
{
    size_t n = section_bytes(a);
    return n == section_bytes(b) && strncmp(q3_config_table[a].name, q3_config_table[b].name, n) == 0;
}

void q3_config_json(q3_text *out, const q3_config *cfg)
{
    q3_text_printf(out, "{\n");
    if (cfg->about) {
        q3_text_printf(out, "  \"about\": ");
        print_string(out, cfg->about);
        q3_text_printf(out, ",\n");
    }
    for (int id = Q3_KEY_about + 1; id < Q3_CONFIG_KEYS; id++) {
        const q3_config_key *key = &q3_config_table[id];
        bool first = !same_section(id - 1, id), last = id + 1 == Q3_CONFIG_KEYS || !same_section(id, id + 1);
        if (first)
            q3_text_printf(out, "  \"%.*s\": {\n", (int)section_bytes(id), key->name);
        q3_text_printf(out, "    \"%s\": ", key->key);
        q3_config_value(out, cfg, id);
        q3_text_printf(out, "%s", !last ? ",\n" : id + 1 == Q3_CONFIG_KEYS ? "\n  }\n" : "\n  },\n");
    }
    q3_text_printf(out, "}\n");
}

#define SECTION_HELP(section, rows, text) { #section, text },
static const struct {
    const char *name, *help;
} section_help[] = { Q3_CONFIG_SECTIONS(SECTION_HELP) };

static void print_key_manual(q3_text *out, const q3_config_key *key)
{
    q3_text_printf(out, "  %s\n      %s\n      ", key->name, key->help);
    q3_config_want(out, key);
    q3_text_printf(out, "; %s%s\n", key->initial ? "default " : "not set by default",
                   key->initial ? key->initial : "");
}

void q3_config_manual(q3_text *out, const char *section)
{
    if (!section)
        print_key_manual(out, &q3_config_table[Q3_KEY_about]);
    for (size_t s = 0; s < sizeof section_help / sizeof *section_help; s++) {
        const char *name = section_help[s].name;
        if (section && strcmp(section, name) != 0)
            continue;
        q3_text_printf(out, "%s%s: %s\n", section ? "" : "\n", name, section_help[s].help);
        for (int id = Q3_KEY_about + 1; id < Q3_CONFIG_KEYS; id++)
            if (section_bytes(id) == strlen(name) &&
                strncmp(q3_config_table[id].name, name, strlen(name)) == 0)
                print_key_manual(out, &q3_config_table[id]);
    }
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_value(const q3_config_key *key, const void *a, const void *b)
{
    const q3_config_words *x = a, *y = b;
    switch (key->kind) {
    case Q3_CONFIG_TEXT_KIND:
    case Q3_CONFIG_PATH_KIND:
        return same_text(*(const char *const *)a, *(const char *const *)b);
    case Q3_CONFIG_BOOL_KIND:
        return *(const bool *)a == *(const bool *)b;
    case Q3_CONFIG_INT_KIND:
        return *(const int64_t *)a == *(const int64_t *)b;
    case Q3_CONFIG_FLOAT_KIND:
        return *(const double *)a == *(const double *)b;
    case Q3_CONFIG_ENUM_KIND:
        return memcmp(a, b, sizeof(int)) == 0;
    case Q3_CONFIG_LIST_KIND:
    case Q3_CONFIG_PATTERN_KIND:
        break;
    }
    bool same = x->n == y->n && x->pattern == y->pattern;
    for (int i = 0; same && i < x->n; i++)
        same = strcmp(x->items[i], y->items[i]) == 0;
    return same;
}

int q3_config_diff(int *ids, const q3_config *a, const q3_config *b)
{
    int n = 0;
    for (int id = Q3_KEY_about + 1; id < Q3_CONFIG_KEYS; id++) {
        const q3_config_key *key = &q3_config_table[id];
        if (!same_value(key, field_of(a, key), field_of(b, key)))
            ids[n++] = id;
    }
    return n;
}
