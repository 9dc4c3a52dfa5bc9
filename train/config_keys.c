/* The table of keys, and what can be said of a key: the one that was meant, the values that fit. */
#include <math.h>
#include <string.h>

#include "train/config.h"

#define ROW_TEXT(start) .kind = Q3_CONFIG_TEXT_KIND, .initial = start
#define ROW_PATH(start) .kind = Q3_CONFIG_PATH_KIND, .initial = start
#define ROW_BOOL(start) .kind = Q3_CONFIG_BOOL_KIND, .initial = start
#define ROW_INT(start, lo, hi) .kind = Q3_CONFIG_INT_KIND, .initial = start, .min = lo, .max = hi
#define ROW_OPT_INT(lo, hi) .kind = Q3_CONFIG_INT_KIND, .min = lo, .max = hi
#define ROW_FLOAT(start, lo, hi) .kind = Q3_CONFIG_FLOAT_KIND, .initial = start, .min = lo, .max = hi
#define ROW_OPT_FLOAT(lo, hi) .kind = Q3_CONFIG_FLOAT_KIND, .min = lo, .max = hi
#define ROW_ENUM(type, start, choice) .kind = Q3_CONFIG_ENUM_KIND, .initial = start, .words = choice
#define ROW_LIST(start) .kind = Q3_CONFIG_LIST_KIND, .initial = start
#define ROW_PATTERN(start) .kind = Q3_CONFIG_PATTERN_KIND, .initial = start
#define TOP_ROW(id, type, text)                                                                              \
    { .name = #id, .key = #id, .offset = offsetof(q3_config, id), .help = text, ROW_##type },
#define ROW(section, id, type, text)                                                                         \
    { .name = #section "." #id,                                                                              \
      .key = #id,                                                                                            \
      .offset = offsetof(q3_config, section.id),                                                             \
      .help = text,                                                                                          \
      ROW_##type },

const q3_config_key q3_config_table[Q3_CONFIG_KEYS] = { Q3_CONFIG_TOP(TOP_ROW) Q3_CONFIG_LIST(ROW) };

#define SECTION_NAME(name, rows, help) #name,
static const char *const sections[] = { Q3_CONFIG_SECTIONS(SECTION_NAME) };
enum { SECTIONS = sizeof sections / sizeof *sections };

int q3_config_find(const char *name)
{
    for (int id = 0; id < Q3_CONFIG_KEYS; id++)
        if (strcmp(q3_config_table[id].name, name) == 0)
            return id;
    return -1;
}

/* Is `part` one or more whole words of `key` ("dropout" of "lora_dropout")? */
static bool has_words(const char *key, const char *part)
{
    size_t n = strlen(part);
    for (const char *at = n ? strstr(key, part) : NULL; at; at = strstr(at + 1, part))
        if ((at == key || at[-1] == '_') && (at[n] == 0 || at[n] == '_'))
            return true;
    return false;
}

static bool in_section(const q3_config_key *key, const char *section, size_t n)
{
    return strncmp(key->name, section, n) == 0 && key->name[n] == '.';
}

static bool same_start(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    return strncmp(a, b, na < nb ? na : nb) == 0 && na && nb;
}

typedef enum closeness { WORDS, EQUAL, SPELLING, START } closeness;

/* The name of the key that is close to `leaf` in this sense, within a section or (NULL) anywhere. */
static const char *close_key(closeness how, const char *leaf, const char *section, size_t n)
{
    const char *keys[Q3_CONFIG_KEYS], *names[Q3_CONFIG_KEYS];
    size_t count = 0;
    for (int id = 0; id < Q3_CONFIG_KEYS; id++) {
        const q3_config_key *k = &q3_config_table[id];
        if (section && !in_section(k, section, n))
            continue;
        if ((how == WORDS && has_words(k->key, leaf)) || (how == EQUAL && strcmp(k->key, leaf) == 0) ||
            (how == START && same_start(k->key, leaf)))
            return k->name;
        keys[count] = k->key;
        names[count++] = k->name;
    }
    const char *nearest = how == SPELLING ? q3_nearest(leaf, keys, count) : NULL;
    for (size_t i = 0; i < count; i++)
        if (keys[i] == nearest)
            return names[i];
    return NULL;
}

const char *q3_config_nearest(const char *name)
{
    const char *dot = strrchr(name, '.'), *leaf = dot ? dot + 1 : name, *found = NULL;
    size_t n = dot ? (size_t)(dot - name) : 0;
    bool known = false;
    for (int s = 0; s < SECTIONS; s++)
        known = known || (strlen(sections[s]) == n && strncmp(sections[s], name, n) == 0);
    if (known)
        found = close_key(WORDS, leaf, name, n);
    if (!found)
        found = close_key(EQUAL, leaf, NULL, 0);
    if (!found && known && !(found = close_key(SPELLING, leaf, name, n)))
        found = close_key(START, leaf, name, n);
    if (!found && !dot)
        found = q3_nearest(name, sections, SECTIONS);
    if (!found)
        found = close_key(SPELLING, leaf, NULL, 0);
    return found;
}

static void print_number(q3_text *out, double value)
{
    if (value == floor(value) && fabs(value) < 0x1p53)
        q3_text_printf(out, "%.0f", value);
    else
        q3_text_json_number(out, value);
}

static void want_words(q3_text *out, const char *words)
{
    for (const char *p = words; *p;) {
        size_t n = strcspn(p, "|");
        const char *next = p + n + (p[n] == '|');
        q3_text_printf(out, "%s\"%.*s\"", p == words ? "" : *next ? ", " : " or ", (int)n, p);
        p = next;
    }
}

void q3_config_want(q3_text *out, const q3_config_key *key)
{
    static const char *const plain[] = {
        [Q3_CONFIG_TEXT_KIND] = "a string",
        [Q3_CONFIG_PATH_KIND] = "a path",
        [Q3_CONFIG_BOOL_KIND] = "true or false",
        [Q3_CONFIG_INT_KIND] = "an integer",
        [Q3_CONFIG_FLOAT_KIND] = "a number",
        [Q3_CONFIG_ENUM_KIND] = "",
        [Q3_CONFIG_LIST_KIND] = "a list of strings",
        [Q3_CONFIG_PATTERN_KIND] = "a list of strings or one string",
    };
    q3_text_printf(out, "%s", plain[key->kind]);
    if (key->kind == Q3_CONFIG_ENUM_KIND)
        want_words(out, key->words);
    if (key->kind != Q3_CONFIG_INT_KIND && key->kind != Q3_CONFIG_FLOAT_KIND)
        return;
    bool bounded = key->max != Q3_CONFIG_MANY;
    q3_text_printf(out, bounded ? " from " : " of at least ");
    print_number(out, key->min);
    if (bounded) {
        q3_text_printf(out, " to ");
        print_number(out, key->max);
    }
    if (!key->initial)
        q3_text_printf(out, ", or null");
}
