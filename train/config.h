/* train/config.h - the settings of a run: strict JSON, overrides, options, and the rules between keys.
 *
 * train/config_list.h is the table of keys. A config starts as the defaults; a file, overrides
 * (key.sub=value, ~key) and command-line options are laid over it in this order, and each key remembers where
 * its value comes from. A misspelled key, a wrong type, a value out of range and a key given twice are errors
 * that name the spot: configs/x.json:12:5: unknown key "lora.rank"; did you mean "lora.r"? JSON null stands
 * for the default. A text without a default ("" or null) is NULL, a number without one Q3_CONFIG_UNSET (-1).
 * Errors: Q3_ERR_USAGE (exit code 2), Q3_ERR_MEMORY. Strings belong to the config; q3_config_free ends them.
 */
#ifndef Q3_TRAIN_CONFIG_H
#define Q3_TRAIN_CONFIG_H

#include "core/json.h"
#include "train/config_list.h"

#define Q3_CONFIG_UNSET (-1)

/* A list of strings. */
typedef struct q3_config_words {
    const char *const *items;
    int n;
    bool pattern; /* written as one string, items[0]: a regular expression, or all-linear */
} q3_config_words;

#define Q3_FIELD_TEXT(...) const char *
#define Q3_FIELD_PATH(...) const char *
#define Q3_FIELD_BOOL(...) bool
#define Q3_FIELD_INT(...) int64_t
#define Q3_FIELD_OPT_INT(...) int64_t
#define Q3_FIELD_FLOAT(...) double
#define Q3_FIELD_OPT_FLOAT(...) double
#define Q3_FIELD_ENUM(type, ...) type
#define Q3_FIELD_LIST(...) q3_config_words
#define Q3_FIELD_PATTERN(...) q3_config_words

/* struct q3_config_model { const char *path; q3_config_init init; ... } and so on: the keys of the section's
 * rows. */
#define Q3_CONFIG_FIELD(section, key, type, help) Q3_FIELD_##type key;
#define Q3_CONFIG_STRUCT(section, rows, help)                                                                \
    typedef struct q3_config_##section {                                                                     \
        rows(Q3_CONFIG_FIELD)                                                                                \
    } q3_config_##section;
Q3_CONFIG_SECTIONS(Q3_CONFIG_STRUCT)

/* Q3_KEY_train_learning_rate and so on: index of a key in the table. */
#define Q3_CONFIG_TOP_ID(key, type, help) Q3_KEY_##key,
#define Q3_CONFIG_ID(section, key, type, help) Q3_KEY_##section##_##key,
enum { Q3_CONFIG_TOP(Q3_CONFIG_TOP_ID) Q3_CONFIG_LIST(Q3_CONFIG_ID) Q3_CONFIG_KEYS };

typedef enum q3_config_origin {
    Q3_ORIGIN_DEFAULT,
    Q3_ORIGIN_FILE,
    Q3_ORIGIN_OVERRIDE, /* key.sub=value, --set */
    Q3_ORIGIN_OPTION    /* --output-dir and the like */
} q3_config_origin;

typedef struct q3_config_place {
    q3_config_origin origin;
    int line, column; /* of the key in the file, from 1; 0 elsewhere */
} q3_config_place;

typedef struct q3_config {
    const char *about;
    q3_config_model model;
    q3_config_quantization quantization;
    q3_config_lora lora;
    q3_config_data data;
    q3_config_collator collator;
    q3_config_train train;
    q3_config_eval eval;
    const char *file; /* the file that was read, NULL without one */
    q3_config_place places[Q3_CONFIG_KEYS];
    q3_arena strings;
} q3_config;

typedef enum q3_config_kind {
    Q3_CONFIG_TEXT_KIND,
    Q3_CONFIG_PATH_KIND,
    Q3_CONFIG_BOOL_KIND,
    Q3_CONFIG_INT_KIND,
    Q3_CONFIG_FLOAT_KIND,
    Q3_CONFIG_ENUM_KIND,
    Q3_CONFIG_LIST_KIND,
    Q3_CONFIG_PATTERN_KIND
} q3_config_kind;

/* One row of the table. */
typedef struct q3_config_key {
    const char *name; /* "train.learning_rate" */
    const char *key;  /* "learning_rate" */
    q3_config_kind kind;
    size_t offset;       /* of the field in q3_config */
    const char *initial; /* the default as text; NULL: not set */
    double min, max;     /* of numbers; max Q3_CONFIG_MANY: no upper bound */
    const char *words;   /* of an enumeration: "auto|float32" */
    const char *help;
} q3_config_key;

extern const q3_config_key q3_config_table[Q3_CONFIG_KEYS];

/* Reads `path` (NULL: none) over the defaults, then lays `n` overrides over it. Nothing is left to free on
 * failure. */
q3_status q3_config_load(q3_config *out, const char *path, const char *const *overrides, int n);

/* The same with the file's text in memory; `name` stands in messages. */
q3_status q3_config_parse(q3_config *out, const char *text, size_t size, const char *name,
                          const char *const *overrides, int n);
q3_status q3_config_defaults(q3_config *out);
void q3_config_free(q3_config *cfg);

/* Lays "key.sub=value" over the config, or takes a key back to its default ("~key.sub"). The value is JSON;
 * text needs no quotes, and lists may be written a,b,c. Names may have - for _. */
q3_status q3_config_override(q3_config *cfg, const char *assignment, q3_config_origin origin);

/* The same with name and value apart. */
q3_status q3_config_set(q3_config *cfg, const char *name, const char *value, q3_config_origin origin);

/* The rules between keys; call it once everything is laid over. The sentence names all keys concerned. */
q3_status q3_config_check(const q3_config *cfg);

/* Index of the key `name`, -1 when there is none; the name meant instead (borrowed), NULL when that is
 * unclear. */
int q3_config_find(const char *name);
const char *q3_config_nearest(const char *name);

/* The range or choice of a key in words: "an integer from 1 to 4096". */
void q3_config_want(q3_text *out, const q3_config_key *key);

/* Where the value comes from, to stand before a sentence: "configs/x.json:7:5: ", "command line: ", "". */
void q3_config_where(char *out, size_t out_bytes, const q3_config *cfg, int id);

/* The value of a key as JSON text; null when it is not set. */
void q3_config_value(q3_text *out, const q3_config *cfg, int id);

/* One line a key: name = value, origin. */
void q3_config_print(q3_text *out, const q3_config *cfg);

/* The effective config as JSON that loads to the same values. */
void q3_config_json(q3_text *out, const q3_config *cfg);

/* The keys as a manual: name, type and range, default, help; of one section, or of all with NULL. */
void q3_config_manual(q3_text *out, const char *section);

/* Writes the indices of the keys whose values differ (about aside) to ids[Q3_CONFIG_KEYS], returns their
 * number. */
int q3_config_diff(int *ids, const q3_config *a, const q3_config *b);

/* data.system_prompt with @FILE read; *out is NULL when none is set, otherwise it lives in the config. */
q3_status q3_config_system_prompt(const char **out, q3_config *cfg);

#endif
