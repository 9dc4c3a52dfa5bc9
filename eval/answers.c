#include "eval/answers.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

const char *const q3_answer_stage_names[Q3_ANSWER_STAGES] = { "strict", "balanced", "repaired", "text",
                                                              "failed" };

typedef struct spelling {
    const char *normal, *meaning;
} spelling;

static const char yes_word[] = "sarcastic", no_word[] = "not_sarcastic", open_word[] = "unknown";

/* Label words, in the order in which running text is searched: negative forms before "sarcastic". */
static const spelling label_words[] = {
    { "not_sarcastic", no_word },       { "non_sarcastic", no_word },   { "nonsarcastic", no_word },
    { "notsarcastic", no_word },        { "unsarcastic", no_word },     { "isnt_sarcastic", no_word },
    { "not_being_sarcastic", no_word }, { "not_a_sarcastic", no_word }, { "no_sarcasm", no_word },
    { "cannot_determine", open_word },  { "unknown", open_word },       { "sarcastic", yes_word },
};
static const spelling short_words[] = {
    { "yes", yes_word }, { "no", no_word }, { "true", yes_word }, { "false", no_word },
    { "1", yes_word },   { "0", no_word },  { "2", open_word },
};
enum {
    N_LABEL_WORDS = sizeof label_words / sizeof *label_words,
    N_SHORT_WORDS = sizeof short_words / sizeof *short_words
};

/* Bytes at `p` that separate words although they are no ASCII: general punctuation (U+2000..206F), CJK
 * punctuation (U+3000..303F) and the replacement character. 0 when a word goes on. */
static size_t foreign_separator(const unsigned char *p, size_t left)
{
    if (left < 3)
        return 0;
    bool general = p[0] == 0xE2 && (p[1] == 0x80 || (p[1] == 0x81 && p[2] < 0xB0));
    bool cjk = p[0] == 0xE3 && p[1] == 0x80;
    bool replacement = p[0] == 0xEF && p[1] == 0xBF && p[2] == 0xBD;
    return general || cjk || replacement ? 3 : 0;
}

/* Writes the normal form of text to out (size + 1 bytes) and returns its length. Apostrophes vanish: isn't ->
 * isnt. */
static size_t normalize(char *out, const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        size_t foreign = foreign_separator(s + i, size - i);
        if (s[i] == '\'' || (foreign && s[i] == 0xE2 && s[i + 1] == 0x80 && s[i + 2] == 0x99)) {
            i += foreign ? 2 : 0;
        } else if (foreign || (s[i] < 0x80 && !isalnum(s[i]))) {
            i += foreign ? 2 : 0;
            if (n && out[n - 1] != '_')
                out[n++] = '_';
        } else {
            out[n++] = (char)(s[i] < 0x80 ? tolower(s[i]) : s[i]);
        }
    }
    if (n && out[n - 1] == '_')
        n--;
    out[n] = '\0';
    return n;
}

static const char *in_table(const spelling *table, int n, const char *normal)
{
    for (int i = 0; i < n; i++)
        if (strcmp(table[i].normal, normal) == 0)
            return table[i].meaning;
    return NULL;
}

static int index_of(const q3_labels *labels, const char *normal)
{
    for (int i = 0; i < labels->n; i++)
        if (strcmp(labels->normal[i], normal) == 0)
            return i;
    return -1;
}

static q3_status add_label(q3_labels *out, q3_arena *mem, const char *name)
{
    char normal[Q3_LABEL_BYTES];
    if (strlen(name) >= sizeof normal || normalize(normal, name, strlen(name)) == 0)
        return q3_fail(Q3_ERR_USAGE, "eval.labels: \"%s\" is no word of 1 to %d bytes", name,
                       Q3_LABEL_BYTES - 1);
    const char *meaning = in_table(label_words, N_LABEL_WORDS, normal);
    if (!meaning)
        meaning = normal;
    int other = index_of(out, meaning);
    if (other >= 0)
        return q3_fail(Q3_ERR_USAGE, "eval.labels: \"%s\" and \"%s\" are spellings of one label",
                       out->spelled[other], name);
    out->spelled[out->n] = q3_arena_strdup(mem, name);
    out->normal[out->n] = q3_arena_strdup(mem, meaning);
    if (!out->spelled[out->n] || !out->normal[out->n])
        return Q3_ERR_MEMORY;
    out->n++;
    return Q3_OK;
}

q3_status q3_labels_create(q3_labels *out, q3_arena *mem, const char *const *names, int n)
{
    *out = (q3_labels){ 0 };
    if (n < 1 || n > Q3_LABELS_MAX)
        return q3_fail(Q3_ERR_USAGE, "eval.labels: %d labels; 1 to %d are possible", n, Q3_LABELS_MAX);
    for (int i = 0; i < n; i++)
        Q3_TRY(add_label(out, mem, names[i]));
    out->sarcasm = index_of(out, yes_word) >= 0 || index_of(out, no_word) >= 0;
    return Q3_OK;
}

static void answer_with(q3_answer *out, const q3_labels *labels, q3_answer_stage stage, const char *word)
{
    int i = index_of(labels, word);
    *out = (q3_answer){ stage, i, i >= 0 ? labels->normal[i] : word };
}

/* A single word in normal form; NULL when it is neither a label nor one of the sarcasm words. */
static const char *meaning_of(const q3_labels *labels, const char *normal)
{
    int i = index_of(labels, normal);
    if (i >= 0)
        return labels->normal[i];
    const char *word = labels->sarcasm ? in_table(label_words, N_LABEL_WORDS, normal) : NULL;
    return word || !labels->sarcasm ? word : in_table(short_words, N_SHORT_WORDS, normal);
}

q3_status q3_label_gold(int *out, const q3_labels *labels, const char *text)
{
    char normal[Q3_LABEL_BYTES];
    const char *word = NULL;
    if (strlen(text) < sizeof normal && normalize(normal, text, strlen(text)))
        word = meaning_of(labels, normal);
    *out = word ? index_of(labels, word) : -1;
    if (*out >= 0)
        return Q3_OK;
    char list[512] = "";
    for (int i = 0; i < labels->n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", labels->spelled[i]);
    }
    return q3_fail(Q3_ERR_DATA, "the label \"%.80s\" is none of eval.labels (%s)", text, list);
}

/* First place of `phrase` as whole words of the normal form `text`, or NULL. */
static const char *find_words(const char *text, const char *phrase)
{
    size_t n = strlen(phrase);
    for (const char *at = strstr(text, phrase); at; at = strstr(at + 1, phrase))
        if ((at == text || at[-1] == '_') && (at[n] == '_' || at[n] == '\0'))
            return at;
    return NULL;
}

/* One letter or digit says something only as the last word ("Answer: B"); longer words may stand anywhere. */
static bool stands_in(const char *text, const char *word)
{
    if (strlen(word) > 1)
        return find_words(text, word) != NULL;
    size_t n = strlen(text);
    return n && text[n - 1] == *word && (n == 1 || text[n - 2] == '_');
}

/* The longest label, or sarcasm word, that stands in the text. */
static const char *label_in_text(const q3_labels *labels, const char *text)
{
    const char *best = NULL;
    size_t best_bytes = 0;
    for (int i = 0; i < labels->n; i++) {
        size_t n = strlen(labels->normal[i]);
        if (n > best_bytes && stands_in(text, labels->normal[i])) {
            best = labels->normal[i];
            best_bytes = n;
        }
    }
    for (int i = 0; i < N_LABEL_WORDS && labels->sarcasm; i++) {
        size_t n = strlen(label_words[i].normal);
        if (n > best_bytes && find_words(text, label_words[i].normal)) {
            best = label_words[i].meaning;
            best_bytes = n;
        }
    }
    return best;
}

/* The first of the short words; a digit may also begin a list, so it must be the last word. */
static const char *short_word_in_text(const q3_labels *labels, const char *text)
{
    const char *best = NULL, *best_at = NULL;
    for (int i = 0; i < N_SHORT_WORDS && labels->sarcasm; i++) {
        const char *at = find_words(text, short_words[i].normal);
        if (at && stands_in(text, short_words[i].normal) && (!best_at || at < best_at)) {
            best = short_words[i].meaning;
            best_at = at;
        }
    }
    return best;
}

/* Stage text. `labels_only`: yes, no and the like do not count. */
static q3_status parse_text(q3_answer *out, const q3_labels *labels, const char *text, size_t size,
                            bool labels_only)
{
    char *normal = q3_malloc(size + 1);
    if (!normal)
        return Q3_ERR_MEMORY;
    normalize(normal, text, size);
    const char *word = meaning_of(labels, normal);
    if (!word)
        word = label_in_text(labels, normal);
    if (!word && !labels_only)
        word = short_word_in_text(labels, normal);
    if (word)
        answer_with(out, labels, Q3_ANSWER_TEXT, word);
    q3_free(normal);
    return Q3_OK;
}

static const cJSON *label_field(const cJSON *object)
{
    static const char *const names[] = { "label", "labels", "sarcastic", "is_sarcastic", "sarcasm" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const cJSON *field = cJSON_GetObjectItem(object, names[i]); // compares without regard to case
        if (field && cJSON_IsArray(field) && cJSON_GetArraySize(field) == 1)
            field = field->child;
        if (field && !cJSON_IsNull(field))
            return field;
    }
    return NULL;
}

/* Judges a parsed object; *decided says that no other object is to be looked at. */
static q3_status judge_object(q3_answer *out, bool *decided, const q3_labels *labels, const cJSON *object,
                              q3_answer_stage stage)
{
    const cJSON *field = label_field(object);
    *decided = field != NULL;
    char number[32];
    const char *value = NULL;
    if (cJSON_IsString(field)) {
        value = field->valuestring;
    } else if (cJSON_IsBool(field)) {
        value = cJSON_IsTrue(field) ? "true" : "false";
    } else if (cJSON_IsNumber(field)) {
        snprintf(number, sizeof number, "%.15g", field->valuedouble);
        if (strlen(number) ==
            strspn(number, "0123456789")) // 0.1 and -1 would lose their points in the normal form
            value = number;
    }
    if (!value)
        return Q3_OK;
    Q3_TRY(parse_text(out, labels, value, strlen(value), false));
    char normal[Q3_LABEL_BYTES];
    if (strlen(value) < sizeof normal && normalize(normal, value, strlen(value)) &&
        meaning_of(labels, normal))
        out->stage = stage;
    return Q3_OK;
}

/* An object in the n bytes at text, or NULL. What remains in the error buffer is of no interest. */
static cJSON *object_in(const char *text, size_t n)
{
    q3_json doc;
    if (q3_json_parse(&doc, text, n, "answer", 1) != Q3_OK)
        return NULL;
    cJSON *root = doc.root;
    doc.root = NULL;
    q3_json_close(&doc);
    if (cJSON_IsObject(root))
        return root;
    cJSON_Delete(root);
    return NULL;
}

/* Bytes of the balanced {...} at text, 0 when it does not end. */
static size_t balanced(const char *text, size_t size)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && text[i] == '{')
            depth++;
        else if (!quoted && text[i] == '}' && --depth == 0)
            return i + 1;
    }
    return 0;
}

enum { REPAIR_DEPTH = 64 };

typedef struct repair {
    q3_text out;
    char open[REPAIR_DEPTH]; /* closing characters of what is open */
    int depth;
    size_t safe; /* length of out before the last comma; 0: none */
    int safe_depth;
    char safe_open[REPAIR_DEPTH];
} repair;

/* Copies the string that begins with the quote at s[i] as a JSON string; returns the index behind it. */
static size_t repair_string(repair *r, const char *s, size_t i, size_t size)
{
    char quote = s[i];
    q3_text_append(&r->out, "\"", 1);
    for (i++; i < size && s[i] != quote; i++) {
        if (s[i] == '\\' && i + 1 < size) {
            i++;
            if (s[i] != '\'')
                q3_text_append(&r->out, "\\", 1);
            q3_text_append(&r->out, s + i, 1);
        } else if (s[i] == '"') {
            q3_text_append(&r->out, "\\\"", 2);
        } else if (s[i] != '\\') {
            q3_text_append(&r->out, s + i, 1);
        }
    }
    q3_text_append(&r->out, "\"", 1);
    return i + 1;
}

static void drop_trailing_comma(q3_text *t)
{
    while (t->size && isspace((unsigned char)t->data[t->size - 1]))
        t->size--;
    if (t->size && t->data[t->size - 1] == ',')
        t->size--;
}

/* Copies a bare word (true, 12, None); returns the index behind it. */
static size_t repair_word(repair *r, const char *s, size_t i, size_t size)
{
    size_t n = 0;
    while (i + n < size && (isalnum((unsigned char)s[i + n]) || strchr("+-._", s[i + n])))
        n++;
    static const char *const python[][2] = { { "True", "true" }, { "False", "false" }, { "None", "null" } };
    for (int k = 0; k < 3; k++) {
        if (n == strlen(python[k][0]) && memcmp(s + i, python[k][0], n) == 0) {
            q3_text_append(&r->out, python[k][1], strlen(python[k][1]));
            return i + n;
        }
    }
    n = n ? n : 1;
    q3_text_append(&r->out, s + i, n);
    return i + n;
}

/* One character outside strings; false when the object has ended or nests too deep. */
static bool repair_mark(repair *r, char c)
{
    if (c == '{' || c == '[') {
        if (r->depth == REPAIR_DEPTH)
            return false;
        r->open[r->depth++] = c == '{' ? '}' : ']';
    } else if (c == '}' || c == ']') {
        if (r->open[r->depth - 1] != c)
            return false;
        drop_trailing_comma(&r->out);
        r->depth--;
    } else if (c == ',') {
        r->safe = r->out.size;
        r->safe_depth = r->depth;
        memcpy(r->safe_open, r->open, sizeof r->open);
    }
    q3_text_append(&r->out, &c, 1);
    return r->depth > 0;
}

static void repair_copy(repair *r, const char *s, size_t size)
{
    for (size_t i = 0; i < size;) {
        if (s[i] == '"' || s[i] == '\'') {
            i = repair_string(r, s, i, size);
        } else if (s[i] != '\0' && strchr("{}[],:", s[i])) {
            if (!repair_mark(r, s[i++]))
                return;
        } else if (isspace((unsigned char)s[i])) {
            q3_text_append(&r->out, s + i++, 1);
        } else {
            i = repair_word(r, s, i, size);
        }
    }
}

static cJSON *closed(q3_text *t, const char *open, int depth)
{
    drop_trailing_comma(t);
    while (depth > 0)
        q3_text_append(t, &open[--depth], 1);
    return t->failed ? NULL : object_in(t->data, t->size);
}

/* The object that begins at s, put right; once with its last, perhaps unfinished part, once without. */
static q3_status repaired(cJSON **object, const char *s, size_t size)
{
    repair r = { 0 };
    repair_copy(&r, s, size);
    size_t full = r.out.size;
    *object = r.out.failed ? NULL : closed(&r.out, r.open, r.depth);
    if (!*object && !r.out.failed && r.safe && r.safe < full) {
        r.out.size = r.safe;
        *object = closed(&r.out, r.safe_open, r.safe_depth);
    }
    q3_status st = r.out.failed ? Q3_ERR_MEMORY : Q3_OK;
    q3_text_free(&r.out);
    return st;
}

typedef struct span {
    const char *s;
    size_t n;
} span;

static span trim(span t)
{
    while (t.n && isspace((unsigned char)t.s[0]))
        t = (span){ t.s + 1, t.n - 1 };
    while (t.n && isspace((unsigned char)t.s[t.n - 1]))
        t.n--;
    return t;
}

/* What is left of the text without blanks, <think> block and Markdown fence. */
static span strip(span t)
{
    const char *think = memmem(t.s, t.n, "</think>", 8);
    if (think)
        t = (span){ think + 8, t.n - (size_t)(think + 8 - t.s) };
    else if ((think = memmem(t.s, t.n, "<think>", 7)) != NULL)
        t.n = (size_t)(think - t.s); // the answer never came
    t = trim(t);
    if (t.n < 3 || memcmp(t.s, "```", 3) != 0)
        return t;
    size_t head = 3;
    while (head < t.n && isalnum((unsigned char)t.s[head])) // the name of a language
        head++;
    t = (span){ t.s + head, t.n - head };
    if (t.n >= 3 && memcmp(t.s + t.n - 3, "```", 3) == 0)
        t.n -= 3;
    return trim(t);
}

/* Stages strict and balanced: the whole text, then objects within it (a few: the cost stays linear). */
static q3_status parse_objects(q3_answer *out, bool *decided, const q3_labels *labels, const char *text,
                               size_t size)
{
    const char *end = text + size, *at = memchr(text, '{', size);
    for (int tries = 0; at && tries < 16 && !*decided; tries++) {
        size_t n = balanced(at, (size_t)(end - at));
        cJSON *object = n ? object_in(at, n) : NULL;
        q3_status st = Q3_OK;
        if (object)
            st =
                judge_object(out, decided, labels, object, n == size ? Q3_ANSWER_STRICT : Q3_ANSWER_BALANCED);
        cJSON_Delete(object);
        Q3_TRY(st);
        const char *next = object ? at + n : at + 1;
        at = next < end ? memchr(next, '{', (size_t)(end - next)) : NULL;
    }
    return Q3_OK;
}

static q3_status parse_repaired(q3_answer *out, bool *decided, const q3_labels *labels, const char *text,
                                size_t size)
{
    const char *at = memchr(text, '{', size);
    if (!at)
        return Q3_OK;
    cJSON *object;
    Q3_TRY(repaired(&object, at, size - (size_t)(at - text)));
    q3_status st = object ? judge_object(out, decided, labels, object, Q3_ANSWER_REPAIRED) : Q3_OK;
    cJSON_Delete(object);
    return st;
}

q3_status q3_answer_parse(q3_answer *out, const q3_labels *labels, const char *text, size_t size)
{
    *out = (q3_answer){ Q3_ANSWER_FAILED, -1, NULL };
    bool decided = false;
    span t = strip((span){ text, size });
    if (t.n == 0)
        return Q3_OK;
    Q3_TRY(parse_objects(out, &decided, labels, t.s, t.n));
    if (!decided)
        Q3_TRY(parse_repaired(out, &decided, labels, t.s, t.n));
    if (!decided)
        Q3_TRY(parse_text(out, labels, t.s, t.n, memchr(t.s, '{', t.n) != NULL));
    return Q3_OK;
}
