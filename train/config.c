#include "train/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"

enum { FILE_LIMIT = 1 << 20, ARENA_LIMIT = 16 << 20, WORDS_LIMIT = 1024, SHOWN_BYTES = 60, NAME_LIMIT = 64 };

#define SECTION_NAME(name, rows, help) #name,
static const char *const sections[] = { Q3_CONFIG_SECTIONS(SECTION_NAME) };
enum { SECTIONS = sizeof sections / sizeof *sections };

_Static_assert(sizeof(q3_config_tune) == sizeof(int), "an enumeration is stored as an int");

static q3_status unknown_key(const char *where, const char *name)
{
    const char *nearest = q3_config_nearest(name);
    return nearest
               ? q3_fail(Q3_ERR_USAGE, "%sunknown key \"%.100s\"; did you mean \"%s\"?", where, name, nearest)
               : q3_fail(Q3_ERR_USAGE, "%sunknown key \"%.100s\"; `qwen3-sft config keys` lists all", where,
                         name);
}

/* ---- one value ---- */

static void *field_of(q3_config *cfg, const q3_config_key *key)
{
    return (char *)cfg + key->offset;
}

static void unset(q3_config *cfg, const q3_config_key *key)
{
    void *field = field_of(cfg, key);
    if (key->kind == Q3_CONFIG_INT_KIND)
        *(int64_t *)field = Q3_CONFIG_UNSET;
    else if (key->kind == Q3_CONFIG_FLOAT_KIND)
        *(double *)field = Q3_CONFIG_UNSET;
    else
        *(const char **)field = NULL;
}

static q3_status store_text(q3_config *cfg, const q3_config_key *key, const cJSON *item)
{
    const char *text = cJSON_GetStringValue(item);
    if (!text || (!*text && key->kind == Q3_CONFIG_PATH_KIND && key->initial))
        return Q3_ERR_FORMAT;
    if (!*text && !key->initial) {
        unset(cfg, key);
        return Q3_OK;
    }
    const char *copy = q3_arena_strdup(&cfg->strings, text);
    *(const char **)field_of(cfg, key) = copy;
    return copy ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status store_number(q3_config *cfg, const q3_config_key *key, const cJSON *item)
{
    if (!cJSON_IsNumber(item))
        return Q3_ERR_FORMAT;
    double value = item->valuedouble;
    bool none = value == Q3_CONFIG_UNSET && !key->initial; // as transformers writes max_steps
    if (!none && !(value >= key->min && value <= key->max))
        return Q3_ERR_FORMAT;
    if (key->kind == Q3_CONFIG_FLOAT_KIND)
        *(double *)field_of(cfg, key) = value;
    else if (value == floor(value))
        *(int64_t *)field_of(cfg, key) = (int64_t)value;
    else
        return Q3_ERR_FORMAT;
    return Q3_OK;
}

static q3_status store_word(q3_config *cfg, const q3_config_key *key, const cJSON *item)
{
    const char *word = cJSON_GetStringValue(item);
    size_t length = word ? strlen(word) : 0;
    int index = 0;
    for (const char *p = key->words; word && *p; index++) {
        size_t n = strcspn(p, "|");
        if (n == length && strncmp(p, word, n) == 0) {
            memcpy(field_of(cfg, key), &index, sizeof index);
            return Q3_OK;
        }
        p += n + (p[n] == '|');
    }
    return Q3_ERR_FORMAT;
}

static q3_status store_list(q3_config *cfg, const q3_config_key *key, const cJSON *item)
{
    bool pattern = key->kind == Q3_CONFIG_PATTERN_KIND && cJSON_IsString(item);
    int n = pattern ? 1 : cJSON_GetArraySize(item), i = 0;
    if ((!pattern && !cJSON_IsArray(item)) || n > WORDS_LIMIT)
        return Q3_ERR_FORMAT;
    const char **items = Q3_NEW(&cfg->strings, const char *, n ? n : 1);
    if (!items)
        return Q3_ERR_MEMORY;
    for (const cJSON *e = pattern ? item : item->child; e; e = pattern ? NULL : e->next) {
        const char *text = cJSON_GetStringValue(e);
        if (!text || !*text)
            return Q3_ERR_FORMAT;
        if (!(items[i++] = q3_arena_strdup(&cfg->strings, text)))
            return Q3_ERR_MEMORY;
    }
    *(q3_config_words *)field_of(cfg, key) = (q3_config_words){ items, n, pattern };
    return Q3_OK;
}

/* Q3_ERR_FORMAT without a sentence: the value does not fit the key. */
static q3_status store(q3_config *cfg, const q3_config_key *key, const cJSON *item)
{
    switch (key->kind) {
    case Q3_CONFIG_TEXT_KIND:
    case Q3_CONFIG_PATH_KIND:
        return store_text(cfg, key, item);
    case Q3_CONFIG_INT_KIND:
    case Q3_CONFIG_FLOAT_KIND:
        return store_number(cfg, key, item);
    case Q3_CONFIG_ENUM_KIND:
        return store_word(cfg, key, item);
    case Q3_CONFIG_LIST_KIND:
    case Q3_CONFIG_PATTERN_KIND:
        return store_list(cfg, key, item);
    case Q3_CONFIG_BOOL_KIND:
        break;
    }
    if (!cJSON_IsBool(item))
        return Q3_ERR_FORMAT;
    *(bool *)field_of(cfg, key) = cJSON_IsTrue(item);
    return Q3_OK;
}

static q3_status misfit(const char *where, const q3_config_key *key, const cJSON *item)
{
    q3_text want = { 0 };
    q3_config_want(&want, key);
    char *shown = cJSON_PrintUnformatted(item);
    q3_status st = Q3_ERR_MEMORY;
    if (shown && !want.failed) {
        size_t n = strlen(shown), cut = n > SHOWN_BYTES ? SHOWN_BYTES : n;
        while (cut < n && cut > 0 && ((unsigned char)shown[cut] & 0xC0) == 0x80) // not inside a character
            cut--;
        st = q3_fail(Q3_ERR_USAGE, "%s\"%s\" is %.*s%s; it must be %s", where, key->name, (int)cut, shown,
                     cut < n ? "..." : "", want.data);
    }
    cJSON_free(shown);
    q3_text_free(&want);
    return st;
}

static q3_status set_initial(q3_config *cfg, int id);

static void where_text(char *out, size_t out_bytes, const q3_config *cfg, q3_config_place place)
{
    if (place.origin == Q3_ORIGIN_DEFAULT)
        *out = 0;
    else if (place.origin != Q3_ORIGIN_FILE)
        snprintf(out, out_bytes, "command line: ");
    else if (place.line)
        snprintf(out, out_bytes, "%s:%d:%d: ", cfg->file, place.line, place.column);
    else
        snprintf(out, out_bytes, "%s: ", cfg->file);
}

void q3_config_where(char *out, size_t out_bytes, const q3_config *cfg, int id)
{
    where_text(out, out_bytes, cfg, cfg->places[id]);
}

/* The default of load_in_4bit: 4 bits, unless 8 are asked for. */
static void settle_bits(q3_config *cfg, int id)
{
    bool bits = id == Q3_KEY_quantization_load_in_4bit || id == Q3_KEY_quantization_load_in_8bit;
    if (bits && cfg->places[Q3_KEY_quantization_load_in_4bit].origin == Q3_ORIGIN_DEFAULT)
        cfg->quantization.load_in_4bit = !cfg->quantization.load_in_8bit;
}

static q3_status set_json(q3_config *cfg, int id, const cJSON *item, q3_config_place place)
{
    if (cJSON_IsNull(item))
        return set_initial(cfg, id);
    q3_status st = store(cfg, &q3_config_table[id], item);
    if (st == Q3_ERR_FORMAT) {
        char where[4200];
        where_text(where, sizeof where, cfg, place);
        return misfit(where, &q3_config_table[id], item);
    }
    cfg->places[id] = place;
    settle_bits(cfg, id);
    return st;
}

/* ---- values as text: defaults, overrides, options ---- */

static cJSON *split_list(const char *text)
{
    cJSON *list = cJSON_CreateArray();
    while (list && *text) {
        size_t n = strcspn(text, ",");
        char *piece = q3_malloc(n + 1);
        cJSON *item = NULL;
        if (piece) {
            memcpy(piece, text, n);
            piece[n] = 0;
            item = cJSON_CreateString(piece);
        }
        q3_free(piece);
        if (!item || !cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            cJSON_Delete(list);
            return NULL;
        }
        text += n + (text[n] == ',');
    }
    return list;
}

/* Names and commas only: the list a,b,c. Anything else is one regular expression. */
static bool is_plain_list(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,";
    return text[strspn(text, plain)] == 0;
}

static q3_status parse_value(cJSON **out, const char *text)
{
    q3_json doc;
    Q3_TRY(q3_json_parse(&doc, text, strlen(text), "command line", 1));
    *out = doc.root;
    doc.root = NULL;
    q3_json_close(&doc);
    return Q3_OK;
}

static q3_status read_value(cJSON **out, const q3_config_key *key, const char *text)
{
    *out = NULL;
    size_t bad;
    if (!q3_utf8_valid(text, strlen(text), &bad))
        return q3_fail(Q3_ERR_USAGE, "command line: the value of \"%s\" is not valid UTF-8", key->name);
    bool list = key->kind == Q3_CONFIG_LIST_KIND || key->kind == Q3_CONFIG_PATTERN_KIND;
    bool word = key->kind == Q3_CONFIG_TEXT_KIND || key->kind == Q3_CONFIG_PATH_KIND ||
                key->kind == Q3_CONFIG_ENUM_KIND;
    if (strcmp(text, "null") == 0)
        *out = cJSON_CreateNull();
    else if ((list && *text == '[') || (word && *text == '"'))
        return q3_status_as(parse_value(out, text), Q3_ERR_USAGE);
    else if (key->kind == Q3_CONFIG_LIST_KIND ||
             (key->kind == Q3_CONFIG_PATTERN_KIND && strcmp(text, "all-linear") != 0 && is_plain_list(text)))
        *out = split_list(text);
    else if (word || list || parse_value(out, text) != Q3_OK) // a number that is none will not fit its key
        *out = cJSON_CreateString(text);
    return *out ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status set_text(q3_config *cfg, int id, const char *text, q3_config_place place)
{
    cJSON *item;
    q3_status st = read_value(&item, &q3_config_table[id], text);
    if (st == Q3_OK)
        st = set_json(cfg, id, item, place);
    cJSON_Delete(item);
    return st;
}

static q3_status set_initial(q3_config *cfg, int id)
{
    const q3_config_key *key = &q3_config_table[id];
    if (key->initial)
        return set_text(cfg, id, key->initial, (q3_config_place){ 0 });
    unset(cfg, key);
    cfg->places[id] = (q3_config_place){ 0 };
    return Q3_OK;
}

/* The key of the first `n` bytes of `text`, - read as _. */
static q3_status find_key(int *id, const char *text, size_t n)
{
    char name[NAME_LIMIT];
    if (n >= sizeof name)
        return q3_fail(Q3_ERR_USAGE, "command line: unknown key \"%.*s...\"", NAME_LIMIT, text);
    for (size_t i = 0; i < n; i++)
        name[i] = text[i] == '-' ? '_' : text[i];
    name[n] = 0;
    *id = q3_config_find(name);
    return *id >= 0 ? Q3_OK : unknown_key("command line: ", name);
}

q3_status q3_config_set(q3_config *cfg, const char *name, const char *value, q3_config_origin origin)
{
    int id;
    Q3_TRY(find_key(&id, name, strlen(name)));
    return set_text(cfg, id, value, (q3_config_place){ .origin = origin });
}

q3_status q3_config_override(q3_config *cfg, const char *assignment, q3_config_origin origin)
{
    int id;
    if (*assignment == '~') {
        Q3_TRY(find_key(&id, assignment + 1, strlen(assignment + 1)));
        return set_initial(cfg, id);
    }
    size_t n = strcspn(assignment, "=");
    if (!assignment[n])
        return q3_fail(Q3_ERR_USAGE,
                       "command line: \"%.100s\" is no override; write key.sub=value, or ~key.sub",
                       assignment);
    Q3_TRY(find_key(&id, assignment, n));
    return set_text(cfg, id, assignment + n + 1, (q3_config_place){ .origin = origin });
}

/* ---- the file ---- */

/* Finds the key `path` whose last part is `leaf`. A leaf with dots or escapes is sought as it stands in the
 * text. */
static q3_config_place locate(const q3_json *doc, const char *path, const char *leaf)
{
    q3_config_place place = { .origin = Q3_ORIGIN_FILE };
    if (!strchr(leaf, '.') && q3_json_locate(doc, path, &place.line, &place.column))
        return place;
    size_t n = strlen(leaf);
    const char *at = doc->text, *end = doc->text + doc->size;
    while (n && (at = memmem(at, (size_t)(end - at), leaf, n)) &&
           !(at > doc->text && at[-1] == '"' && at + n < end && at[n] == '"'))
        at++;
    if (!n || !at)
        return place;
    place.line = place.column = 1;
    for (const char *p = doc->text; p < at - 1; p++) {
        place.line += *p == '\n';
        place.column = *p == '\n' ? 1 : place.column + (((unsigned char)*p & 0xC0) != 0x80);
    }
    return place;
}

typedef struct reader {
    q3_config *cfg;
    const q3_json *doc;
    bool seen[Q3_CONFIG_KEYS];
    bool seen_section[SECTIONS];
} reader;

/* Reads the value of the key `section`.`item` (section "" at the top). */
static q3_status read_item(reader *r, const char *section, const cJSON *item)
{
    char name[NAME_LIMIT * 2], where[4200];
    bool fits =
        snprintf(name, sizeof name, "%s%s%s", section, *section ? "." : "", item->string) < (int)sizeof name;
    int id = fits ? q3_config_find(name) : -1;
    q3_config_place place = locate(r->doc, name, item->string);
    where_text(where, sizeof where, r->cfg, place);
    const char *dot = strchr(item->string, '.');
    if (id >= 0 && dot)
        return q3_fail(Q3_ERR_USAGE, "%s\"%s\" stands at the top; write \"%.*s\": {\"%s\": ...}", where, name,
                       (int)(dot - item->string), item->string, dot + 1);
    if (id < 0)
        return unknown_key(where, name);
    if (r->seen[id])
        return q3_fail(Q3_ERR_USAGE, "%sthe key \"%s\" is given twice", where, name);
    r->seen[id] = true;
    return set_json(r->cfg, id, item, place);
}

static q3_status read_section(reader *r, int s, const cJSON *object)
{
    char where[4200];
    where_text(where, sizeof where, r->cfg, locate(r->doc, sections[s], sections[s]));
    if (r->seen_section[s])
        return q3_fail(Q3_ERR_USAGE, "%sthe section \"%s\" is given twice", where, sections[s]);
    r->seen_section[s] = true;
    if (!cJSON_IsObject(object))
        return q3_fail(Q3_ERR_USAGE, "%s\"%s\" must be an object with the keys of this section", where,
                       sections[s]);
    for (const cJSON *item = object->child; item; item = item->next)
        Q3_TRY(read_item(r, sections[s], item));
    return Q3_OK;
}

static q3_status read_document(q3_config *cfg, const q3_json *doc)
{
    if (!cJSON_IsObject(doc->root))
        return q3_fail(Q3_ERR_USAGE, "%s:1:1: a config is a JSON object", cfg->file);
    reader r = { .cfg = cfg, .doc = doc };
    for (const cJSON *item = doc->root->child; item; item = item->next) {
        int s = 0;
        while (s < SECTIONS && strcmp(sections[s], item->string) != 0)
            s++;
        Q3_TRY(s < SECTIONS ? read_section(&r, s, item) : read_item(&r, "", item));
    }
    return Q3_OK;
}

static q3_status read_text(q3_config *cfg, const char *text, size_t size, const char *name)
{
    q3_json doc;
    if (!(cfg->file = q3_arena_strdup(&cfg->strings, name)))
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, text, size, name, 1), Q3_ERR_USAGE));
    q3_status st = read_document(cfg, &doc);
    q3_json_close(&doc);
    return st;
}

q3_status q3_config_defaults(q3_config *out)
{
    *out = (q3_config){ 0 };
    Q3_TRY(q3_arena_create(&out->strings, "config", ARENA_LIMIT));
    for (int id = 0; id < Q3_CONFIG_KEYS; id++) {
        q3_status st = set_initial(out, id);
        if (st != Q3_OK) {
            q3_config_free(out);
            return st;
        }
    }
    return Q3_OK;
}

void q3_config_free(q3_config *cfg)
{
    q3_arena_destroy(&cfg->strings);
    *cfg = (q3_config){ 0 };
}

q3_status q3_config_parse(q3_config *out, const char *text, size_t size, const char *name,
                          const char *const *overrides, int n)
{
    Q3_TRY(q3_config_defaults(out));
    q3_status st = text ? read_text(out, text, size, name) : Q3_OK;
    for (int i = 0; st == Q3_OK && i < n; i++)
        st = q3_config_override(out, overrides[i], Q3_ORIGIN_OVERRIDE);
    if (st != Q3_OK)
        q3_config_free(out);
    return st;
}

q3_status q3_config_load(q3_config *out, const char *path, const char *const *overrides, int n)
{
    char *text = NULL;
    size_t size = 0;
    *out = (q3_config){ 0 };
    if (path)
        Q3_TRY(q3_status_as(q3_file_read(&text, &size, path, FILE_LIMIT), Q3_ERR_USAGE));
    q3_status st = q3_config_parse(out, text, size, path, overrides, n);
    q3_free(text);
    return st;
}

q3_status q3_config_system_prompt(const char **out, q3_config *cfg)
{
    const char *prompt = cfg->data.system_prompt;
    *out = prompt;
    if (!prompt || *prompt != '@')
        return Q3_OK;
    char *text, where[4200];
    size_t size, bad;
    q3_config_where(where, sizeof where, cfg, Q3_KEY_data_system_prompt);
    q3_status st = q3_status_as(q3_file_read(&text, &size, prompt + 1, FILE_LIMIT), Q3_ERR_USAGE);
    if (st != Q3_OK)
        return q3_wrap(st, "%s\"data.system_prompt\"", where);
    if (strlen(text) != size || !q3_utf8_valid(text, size, &bad))
        st = q3_fail(Q3_ERR_USAGE, "%s\"data.system_prompt\": %s is not UTF-8 text", where, prompt + 1);
    else if (!(*out = q3_arena_strdup(&cfg->strings, text)))
        st = Q3_ERR_MEMORY;
    q3_free(text);
    return st;
}
