#include "collate/tokenizer_file.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/file.h"

static const size_t file_limit = (size_t)256 << 20; // bytes; Qwen3's tokenizer.json has 11 million

/* What the pipeline must be. `want` is a string, or NULL for a member that must be absent, null, false or
 * empty. */
typedef struct rule {
    const char *path; // members and array indexes, joined by dots
    const char *want;
} rule;

static const char split_expression[] = // Qwen2's, in every Qwen2, Qwen2.5 and Qwen3 tokenizer.json
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

static const rule pipeline[] = {
    { "normalizer.type", "NFC" },
    { "pre_tokenizer.type", "Sequence" },
    { "pre_tokenizer.pretokenizers.0.type", "Split" },
    { "pre_tokenizer.pretokenizers.0.pattern.Regex", split_expression },
    { "pre_tokenizer.pretokenizers.0.behavior", "Isolated" },
    { "pre_tokenizer.pretokenizers.0.invert", NULL },
    { "pre_tokenizer.pretokenizers.1.type", "ByteLevel" },
    { "pre_tokenizer.pretokenizers.1.add_prefix_space", NULL },
    { "pre_tokenizer.pretokenizers.1.use_regex", NULL },
    { "pre_tokenizer.pretokenizers.2", NULL },
    { "decoder.type", "ByteLevel" },
    { "model.type", "BPE" },
    { "model.dropout", NULL },
    { "model.unk_token", NULL },
    { "model.continuing_subword_prefix", NULL },
    { "model.end_of_word_suffix", NULL },
    { "model.byte_fallback", NULL },
    { "model.ignore_merges", NULL },
};

static const cJSON *member(const cJSON *item, const char *path)
{
    while (item && *path) {
        char key[40];
        size_t n = strcspn(path, ".");
        Q3_CHECK(n < sizeof key, "%s", path);
        memcpy(key, path, n);
        key[n] = 0;
        item = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, atoi(key))
                                   : cJSON_GetObjectItemCaseSensitive(item, key);
        path += n + (path[n] == '.');
    }
    return item;
}

static bool is_off(const cJSON *item)
{
    return !item || cJSON_IsNull(item) || cJSON_IsFalse(item) ||
           (cJSON_IsString(item) && !*item->valuestring);
}

static bool is_text(const cJSON *item, const char *text)
{
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

static q3_status differs(const char *name, const char *path, const cJSON *have, const char *want)
{
    char *shown = have ? cJSON_PrintUnformatted(have) : NULL;
    q3_status st =
        q3_fail(Q3_ERR_FORMAT, "%s: %s is %.200s, Qwen's tokenizer has %s; no other pipeline is supported",
                name, path, shown ? shown : "absent", want ? want : "it off");
    cJSON_free(shown);
    return st;
}

/* No post-processor, byte-level offsets, or a template that adds no token. */
static q3_status check_post_processor(const cJSON *root, const char *name)
{
    const cJSON *post = member(root, "post_processor");
    if (is_off(post) || is_text(member(post, "type"), "ByteLevel"))
        return Q3_OK;
    if (!is_text(member(post, "type"), "TemplateProcessing"))
        return differs(name, "post_processor.type", member(post, "type"), "ByteLevel");
    const cJSON *piece;
    cJSON_ArrayForEach(piece, member(post, "single"))
    {
        if (!member(piece, "Sequence"))
            return differs(name, "post_processor.single", piece, "the sequence alone");
    }
    return Q3_OK;
}

static q3_status check_pipeline(const cJSON *root, const char *name)
{
    for (size_t i = 0; i < sizeof pipeline / sizeof pipeline[0]; i++) {
        const rule *r = &pipeline[i];
        const cJSON *have = member(root, r->path);
        if (r->want ? !is_text(have, r->want) : !is_off(have))
            return differs(name, r->path, have, r->want);
    }
    return check_post_processor(root, name);
}

static q3_status add_vocab(q3_vocab *v, const cJSON *vocab)
{
    const cJSON *entry;
    cJSON_ArrayForEach(entry, vocab)
    {
        double id = entry->valuedouble;
        if (!cJSON_IsNumber(entry) || !(id >= 0 && id < Q3_TOKEN_ID_LIMIT) || id != (int64_t)id)
            return q3_fail(Q3_ERR_FORMAT, "token \"%s\": the id must be an integer from 0 to %d",
                           entry->string, Q3_TOKEN_ID_LIMIT - 1);
        Q3_TRY(q3_vocab_add(v, (int64_t)id, entry->string));
    }
    return Q3_OK;
}

/* One merge in its written form: two parts with one space between. Lines "#version ..." are no merges. */
static q3_status add_merge_line(q3_vocab *v, int32_t *rank, const char *line, size_t n)
{
    if (n >= 8 && memcmp(line, "#version", 8) == 0)
        return Q3_OK;
    const char *space = memchr(line, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space - line) - 1))
        return q3_fail(Q3_ERR_FORMAT, "it must be two parts with one space between");
    size_t nl = (size_t)(space - line);
    return q3_vocab_add_merge(v, (*rank)++, line, nl, space + 1, n - nl - 1);
}

static q3_status add_merge(q3_vocab *v, int32_t *rank, const cJSON *merge)
{
    if (cJSON_IsString(merge))
        return add_merge_line(v, rank, merge->valuestring, strlen(merge->valuestring));
    const cJSON *left = cJSON_IsArray(merge) ? merge->child : NULL, *right = left ? left->next : NULL;
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next)
        return q3_fail(Q3_ERR_FORMAT, "it must be two strings");
    return q3_vocab_add_merge(v, (*rank)++, left->valuestring, strlen(left->valuestring), right->valuestring,
                              strlen(right->valuestring));
}

static q3_status add_merges(q3_vocab *v, const cJSON *merges)
{
    int32_t rank = 0;
    int number = 0;
    const cJSON *merge;
    cJSON_ArrayForEach(merge, merges)
    {
        q3_status st = add_merge(v, &rank, merge);
        if (st != Q3_OK)
            return q3_wrap(st, "merge %d", number);
        number++;
    }
    return Q3_OK;
}

/* An added token that is not matched as plain text would need rules that Qwen's tokens do not use. */
static q3_status add_literal(q3_vocab *v, int64_t id, const cJSON *token)
{
    static const char *const flags[] = { "lstrip", "rstrip", "single_word", "normalized" };
    const cJSON *content = member(token, "content");
    if (!cJSON_IsString(content))
        return q3_fail(Q3_ERR_FORMAT, "added token %lld has no \"content\"", (long long)id);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (!is_off(member(token, flags[i])))
            return q3_fail(Q3_ERR_FORMAT, "added token \"%s\" has %s set, which is not supported",
                           content->valuestring, flags[i]);
    return q3_vocab_add_literal(v, id, content->valuestring, cJSON_IsTrue(member(token, "special")));
}

static q3_status add_literals(q3_vocab *v, const cJSON *tokens)
{
    const cJSON *token;
    cJSON_ArrayForEach(token, tokens)
    {
        const cJSON *id = member(token, "id");
        if (!cJSON_IsNumber(id) || id->valuedouble != id->valueint)
            return q3_fail(Q3_ERR_FORMAT, "an added token has no whole number as id");
        Q3_TRY(add_literal(v, id->valueint, token));
    }
    return Q3_OK;
}

static q3_status fill(q3_vocab *v, const cJSON *root)
{
    Q3_TRY(add_vocab(v, member(root, "model.vocab")));
    Q3_TRY(add_merges(v, member(root, "model.merges")));
    Q3_TRY(add_literals(v, member(root, "added_tokens")));
    return q3_vocab_finish(v);
}

/* What to return after filling `v` from the file `name`: on failure `v` is emptied and the file named. */
static q3_status filled(q3_status st, q3_vocab *v, const char *name)
{
    if (st == Q3_OK)
        return st;
    q3_vocab_destroy(v);
    return q3_wrap(st, "%s", name);
}

static q3_status from_json(q3_vocab *out, const q3_json *doc)
{
    const cJSON *vocab = member(doc->root, "model.vocab"), *merges = member(doc->root, "model.merges");
    Q3_TRY(check_pipeline(doc->root, doc->name));
    if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges))
        return q3_fail(Q3_ERR_FORMAT, "%s: model.vocab must be an object and model.merges an array",
                       doc->name);
    Q3_TRY(q3_vocab_create(out, (size_t)cJSON_GetArraySize(vocab), (size_t)cJSON_GetArraySize(merges)));
    return filled(fill(out, doc->root), out, doc->name);
}

q3_status q3_tokenizer_read_json(q3_vocab *out, const char *text, size_t size, const char *name)
{
    q3_json doc;
    *out = (q3_vocab){ 0 };
    Q3_TRY(q3_json_parse(&doc, text, size, name, 1));
    q3_status st = from_json(out, &doc);
    q3_json_close(&doc);
    return st;
}

static void *zlib_alloc(void *opaque, unsigned n, unsigned bytes)
{
    (void)opaque;
    return q3_calloc(n, bytes);
}

static void zlib_free(void *opaque, void *p)
{
    (void)opaque;
    q3_free(p);
}

static q3_status inflate_all(q3_text *out, z_stream *z, const char *name)
{
    static const size_t chunk = (size_t)1 << 20;
    for (;;) {
        char *p = q3_realloc(out->data, out->size + chunk);
        if (!p)
            return Q3_ERR_MEMORY;
        out->data = p;
        z->next_out = (Bytef *)p + out->size;
        z->avail_out = (uInt)chunk;
        int code = inflate(z, Z_NO_FLUSH);
        out->size += chunk - z->avail_out;
        if (code == Z_STREAM_END)
            return Q3_OK;
        if (code != Z_OK)
            return q3_fail(Q3_ERR_FORMAT, "%s: not a whole gzip file (%s)", name,
                           z->msg ? z->msg : "it ends too early");
        if (out->size > file_limit)
            return q3_fail(Q3_ERR_LIMIT, "%s: unpacks to more than %zu bytes", name, file_limit);
    }
}

static q3_status gunzip(q3_text *out, const q3_map *map, const char *name)
{
    z_stream z = { .zalloc = zlib_alloc, .zfree = zlib_free };
    if (map->size > file_limit)
        return q3_fail(Q3_ERR_LIMIT, "%s: more than %zu bytes", name, file_limit);
    z.next_in = (Bytef *)(uintptr_t)map->data;
    z.avail_in = (uInt)map->size;
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) // 16: a gzip header, and only that
        return q3_fail(Q3_ERR_MEMORY, "%s: no memory to unpack it", name);
    q3_status st = inflate_all(out, &z, name);
    inflateEnd(&z);
    return st;
}

static q3_status read_gz(q3_vocab *out, const char *path)
{
    q3_map map;
    q3_text text = { 0 };
    Q3_TRY(q3_map_open(&map, path));
    q3_status st = gunzip(&text, &map, path);
    q3_map_close(&map);
    if (st == Q3_OK)
        st = q3_tokenizer_read_json(out, text.data, text.size, path);
    q3_text_free(&text);
    return st;
}

static q3_status read_plain(q3_vocab *out, const char *path)
{
    char *text;
    size_t size;
    Q3_TRY(q3_file_read(&text, &size, path, file_limit));
    q3_status st = q3_tokenizer_read_json(out, text, size, path);
    q3_free(text);
    return st;
}

/* The lines of merges.txt: counted when `v` is NULL, added otherwise. */
static q3_status merge_lines(size_t *count, q3_vocab *v, const char *text, const char *path)
{
    int32_t rank = 0;
    int number = 0;
    *count = 0;
    while (*text) {
        size_t n = strcspn(text, "\n"), body = n > 0 && text[n - 1] == '\r' ? n - 1 : n;
        number++;
        q3_status st = body > 0 && v ? add_merge_line(v, &rank, text, body) : Q3_OK;
        if (st != Q3_OK)
            return q3_wrap(st, "%s:%d", path, number);
        *count += body > 0;
        text += n + (text[n] == '\n');
    }
    return Q3_OK;
}

static q3_status from_pair(q3_vocab *out, const q3_json *vocab, const char *merges, const char *merges_path)
{
    size_t n_merges;
    if (!cJSON_IsObject(vocab->root))
        return q3_fail(Q3_ERR_FORMAT, "%s: must be an object of tokens and ids", vocab->name);
    Q3_TRY(merge_lines(&n_merges, NULL, merges, merges_path));
    Q3_TRY(q3_vocab_create(out, (size_t)cJSON_GetArraySize(vocab->root), n_merges));
    q3_status st = add_vocab(out, vocab->root);
    if (st == Q3_OK)
        st = q3_vocab_finish(out);
    Q3_TRY(filled(st, out, vocab->name));
    st = merge_lines(&n_merges, out, merges, merges_path);
    if (st != Q3_OK)
        q3_vocab_destroy(out);
    return st;
}

static q3_status read_pair(q3_vocab *out, const char *vocab_path, const char *merges_path)
{
    q3_json vocab;
    char *merges;
    size_t size, bad;
    Q3_TRY(q3_file_read(&merges, &size, merges_path, file_limit));
    q3_status st = q3_utf8_valid(merges, size, &bad)
                       ? q3_json_open(&vocab, vocab_path, file_limit)
                       : q3_fail(Q3_ERR_FORMAT, "%s: not valid UTF-8 at byte %zu", merges_path, bad);
    if (st == Q3_OK) {
        st = from_pair(out, &vocab, merges, merges_path);
        q3_json_close(&vocab);
    }
    q3_free(merges);
    return st;
}

/* pad_token and eos_token are a string or an object like an added token. */
static q3_status named_token(int32_t *id, const q3_vocab *v, const cJSON *root, const char *key)
{
    const cJSON *token = member(root, key);
    if (cJSON_IsObject(token))
        token = member(token, "content");
    if (is_off(token))
        return Q3_OK;
    if (!cJSON_IsString(token))
        return q3_fail(Q3_ERR_FORMAT, "%s must be a string", key);
    size_t n = strlen(token->valuestring);
    int32_t added = q3_vocab_match_added(v, token->valuestring, n);
    *id = added >= 0 && v->tokens[added].size == n ? added : q3_vocab_find(v, token->valuestring, n);
    if (*id < 0)
        return q3_fail(Q3_ERR_FORMAT, "%s is \"%s\", which the tokenizer does not have", key,
                       token->valuestring);
    return Q3_OK;
}

static q3_status from_config(q3_vocab *v, const cJSON *root)
{
    const cJSON *token;
    cJSON_ArrayForEach(token, member(root, "added_tokens_decoder"))
    {
        char *end;
        long id = token->string ? strtol(token->string, &end, 10) : -1;
        if (!token->string || end == token->string || *end || id < 0)
            return q3_fail(Q3_ERR_FORMAT, "added_tokens_decoder: a key is no token id");
        Q3_TRY(add_literal(v, id, token));
    }
    Q3_TRY(named_token(&v->pad_id, v, root, "pad_token"));
    return named_token(&v->eos_id, v, root, "eos_token");
}

static q3_status read_config(q3_vocab *v, const char *path)
{
    q3_json doc;
    if (!q3_file_exists(path))
        return Q3_OK;
    Q3_TRY(q3_json_open(&doc, path, file_limit));
    q3_status st = filled(from_config(v, doc.root), v, path);
    q3_json_close(&doc);
    return st;
}

typedef struct paths {
    char *json, *gz, *vocab, *merges, *config;
} paths;

static q3_status read_tables(q3_vocab *out, const paths *p, const char *dir)
{
    if (q3_file_exists(p->json))
        return read_plain(out, p->json);
    if (q3_file_exists(p->gz))
        return read_gz(out, p->gz);
    if (q3_file_exists(p->vocab) && q3_file_exists(p->merges))
        return read_pair(out, p->vocab, p->merges);
    return q3_fail(Q3_ERR_MODEL, "%s: no tokenizer.json here, nor vocab.json with merges.txt", dir);
}

q3_status q3_tokenizer_read(q3_vocab *out, const char *dir)
{
    *out = (q3_vocab){ 0 };
    paths p = { .json = q3_path_join(dir, "tokenizer.json"),
                .gz = q3_path_join(dir, "tokenizer.json.gz"),
                .vocab = q3_path_join(dir, "vocab.json"),
                .merges = q3_path_join(dir, "merges.txt"),
                .config = q3_path_join(dir, "tokenizer_config.json") };
    q3_status st = Q3_ERR_MEMORY;
    if (p.json && p.gz && p.vocab && p.merges && p.config)
        st = read_tables(out, &p, dir);
    if (st == Q3_OK)
        st = read_config(out, p.config);
    if (st != Q3_OK)
        q3_vocab_destroy(out);
    q3_free(p.json);
    q3_free(p.gz);
    q3_free(p.vocab);
    q3_free(p.merges);
    q3_free(p.config);
    return q3_status_as(st, Q3_ERR_MODEL);
}
