/* tokenize: texts to token ids and back, a line at a time, also through the pipes of another program. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/token_lines.h"
#include "core/file.h"
#include "data/hub.h"
#include "model/config.h"

static const q3_option options[] = {
    { .name = "model",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "directory with the tokenizer's files" },
    { .name = "decode", .kind = Q3_OPTION_FLAG, .help = "arrays of ids in, JSON strings out" },
};

/* ---- lines of stdin ---- */

typedef struct reader {
    char *data;
    size_t begin, end, capacity; // data[begin, end) was read and not yet handed out
    bool at_end;
    int64_t n_lines;
} reader;

static q3_status make_room(reader *r)
{
    static const size_t smallest = (size_t)1 << 16, largest = INT32_MAX; // what the tokenizer takes
    if (r->begin > 0) {
        memmove(r->data, r->data + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
    }
    if (r->end < r->capacity)
        return Q3_OK;
    if (r->capacity >= largest)
        return q3_fail(Q3_ERR_DATA, "<stdin>:%" PRId64 ": the line has more than %zu bytes", r->n_lines + 1,
                       largest);
    size_t capacity = r->capacity ? 2 * r->capacity : smallest;
    char *p = q3_realloc(r->data, capacity);
    if (!p)
        return Q3_ERR_MEMORY;
    r->data = p;
    r->capacity = capacity;
    return Q3_OK;
}

/* Reads what is there. Who asks may wait for the answers so far, so they go out first. */
static q3_status read_more(reader *r)
{
    ssize_t n;
    if (fflush(stdout) != 0)
        return q3_fail(Q3_ERR_IO, "stdout: %s", strerror(errno));
    Q3_TRY(make_room(r));
    do
        n = read(STDIN_FILENO, r->data + r->end, r->capacity - r->end);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return q3_fail(Q3_ERR_IO, "<stdin>: %s", strerror(errno));
    r->end += (size_t)n;
    r->at_end = n == 0;
    return Q3_OK;
}

/* The next line, valid until the next call; `*more` is false behind the last one. */
static q3_status next_line(q3_token_line *line, bool *more, reader *r)
{
    size_t searched = 0; // bytes behind `begin` without a newline
    const char *newline = NULL;
    while (!r->at_end) {
        size_t n = r->end - r->begin - searched;
        newline = n ? memchr(r->data + r->begin + searched, '\n', n) : NULL;
        if (newline)
            break;
        searched += n;
        Q3_TRY(read_more(r));
    }
    const char *stop = newline ? newline : r->data + r->end;
    *more = newline || r->begin < r->end; // the last line need not have a newline
    *line = (q3_token_line){ .text = r->data + r->begin, .name = "<stdin>", .number = ++r->n_lines };
    line->size = (size_t)(stop - line->text);
    r->begin += line->size + (newline != NULL);
    return Q3_OK;
}

/* ---- the answers ---- */

typedef struct translator {
    q3_tokenizer *tokenizer;
    int64_t n_vocab;
    q3_text text, answer;
    q3_ids ids;
} translator;

/* Digits by hand: this is the inner loop. */
static void append_id(q3_text *out, int32_t id)
{
    char s[12];
    size_t at = sizeof s;
    do
        s[--at] = (char)('0' + id % 10);
    while ((id /= 10) > 0);
    q3_text_append(out, s + at, sizeof s - at);
}

static q3_status encode(translator *t, const q3_token_line *line)
{
    Q3_TRY(q3_token_line_string(&t->text, line));
    q3_status st = q3_tokenizer_encode(&t->ids, t->tokenizer, t->text.size ? t->text.data : "", t->text.size);
    if (st != Q3_OK)
        return q3_wrap(st, "<stdin>:%" PRId64, line->number);
    q3_text_append(&t->answer, "[", 1);
    for (size_t i = 0; i < t->ids.n; i++) {
        if (i > 0)
            q3_text_append(&t->answer, ",", 1);
        append_id(&t->answer, t->ids.ids[i]);
    }
    q3_text_append(&t->answer, "]\n", 2);
    return Q3_OK;
}

static q3_status decode(translator *t, const q3_token_line *line)
{
    Q3_TRY(q3_token_line_ids(&t->ids, line, t->n_vocab));
    Q3_TRY(q3_tokenizer_decode(&t->text, t->tokenizer, t->ids.ids, t->ids.n, false));
    q3_text_json_string(&t->answer, t->text.size ? t->text.data : "", t->text.size);
    q3_text_append(&t->answer, "\n", 1);
    return t->text.failed ? Q3_ERR_MEMORY : Q3_OK;
}

static q3_status translate(translator *t, bool back, const q3_token_line *line)
{
    t->text.size = t->answer.size = t->ids.n = 0;
    Q3_TRY(back ? decode(t, line) : encode(t, line));
    if (t->answer.failed)
        return Q3_ERR_MEMORY;
    if (fwrite(t->answer.data, 1, t->answer.size, stdout) != t->answer.size)
        return q3_fail(Q3_ERR_IO, "stdout: %s", strerror(errno));
    return Q3_OK;
}

static q3_status translate_all(translator *t, bool back)
{
    reader r = { 0 };
    q3_token_line line;
    bool more;
    q3_status st = next_line(&line, &more, &r);
    while (st == Q3_OK && more) {
        st = translate(t, back, &line);
        st = st ? st : next_line(&line, &more, &r);
    }
    q3_free(r.data);
    return st;
}

/* A network may have rows, and so ids, beyond the tokenizer's: they decode to nothing. */
static q3_status read_n_vocab(int64_t *out, const q3_tokenizer *tokenizer, const char *dir)
{
    q3_model_config config;
    q3_arena mem;
    *out = q3_tokenizer_size(tokenizer);
    char *path = q3_path_join(dir, "config.json");
    bool known = path && q3_file_exists(path);
    q3_free(path);
    if (!known)
        return path ? Q3_OK : Q3_ERR_MEMORY;
    Q3_TRY(q3_arena_create(&mem, "model config", (size_t)1 << 30));
    q3_status st = q3_model_config_load(&config, &mem, dir);
    if (st == Q3_OK && config.text.vocab_size > *out)
        *out = config.text.vocab_size;
    q3_arena_destroy(&mem);
    return st;
}

static q3_status run(const q3_options *o)
{
    const char *model;
    char *dir;
    translator t = { 0 };
    bool back = q3_options_given(o, "decode");
    Q3_TRY(q3_options_need(&model, o, "model"));
    Q3_TRY(q3_hub_resolve(&dir, model, &(q3_hub_options){ .wish.light = true }));
    q3_status st = q3_tokenizer_open(&t.tokenizer, dir);
    st = st || !back ? st : read_n_vocab(&t.n_vocab, t.tokenizer, dir);
    st = st ? st : translate_all(&t, back);
    q3_free(dir);
    q3_ids_free(&t.ids);
    q3_text_free(&t.text);
    q3_text_free(&t.answer);
    q3_tokenizer_close(t.tokenizer);
    return st;
}

const q3_command q3_command_tokenize = {
    .name = "tokenize",
    .summary = "texts to token ids and back: a JSON string or array a line, stdin to stdout",
    .usage = "--model DIR [--decode] < LINES",
    .example = "tokenize --model models/qwen3-vl < texts.jsonl > ids.jsonl",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_HUB,
    .run = run,
};
