/* qwen3-collate-check: what the collator makes of a data file, sample by sample: ids, counts, and the text with the
 * parts that are not trained marked. Exits with 3 when a sample cannot be trained on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/show_row.h"
#include "core/file.h"
#include "data/dataset.h"
#include "model/config.h"

#define PROGRAM "qwen3-collate-check"

typedef enum option {
    MODEL,
    DATA,
    SYSTEM_PROMPT,
    MAX_LENGTH,
    MIN_PIXELS,
    MAX_PIXELS,
    SAMPLES,
    TEXT_ONLY,
    JSON,
    QUIET,
    HELP,
    OPTIONS
} option;

static const struct {
    const char *name, *value, *help; /* value NULL: a flag */
} table[OPTIONS] = {
    [MODEL] = { "model", "DIR", "directory with tokenizer, processor and config.json" },
    [DATA] = { "data", "FILE", "a .jsonl file or an image folder" },
    [SYSTEM_PROMPT] = { "system-prompt", "TEXT|@FILE", "of samples without one of their own" },
    [MAX_LENGTH] = { "max-length", "N", "refuse samples of more tokens" },
    [MIN_PIXELS] = { "min-pixels", "N", "instead of the processor's bound" },
    [MAX_PIXELS] = { "max-pixels", "N", "instead of the processor's bound" },
    [SAMPLES] = { "samples", "N", "look at the first N only" },
    [TEXT_ONLY] = { "allow-text-only", NULL, "samples may lack the picture" },
    [JSON] = { "json", NULL, "one JSON object a sample, on a line" },
    [QUIET] = { "quiet", NULL, "only the summary (-q)" },
    [HELP] = { "help", NULL, "show this help (-h)" },
};

/* ---- the command line ---- */

static void print_help(void)
{
    printf("usage: " PROGRAM " --model DIR --data FILE [options]\n\n"
           "Shows what the collator makes of each sample: token ids, counts, and the text, in which\n"
           "‹marked› parts are not trained. Exits with 3 when a sample cannot be trained on.\n\noptions:\n");
    for (int i = 0; i < OPTIONS; i++)
        printf("  --%s %-*s %s\n", table[i].name, 26 - (int)strlen(table[i].name),
               table[i].value ? table[i].value : "", table[i].help);
}

static q3_status find_option(option *out, const char *name)
{
    const char *names[OPTIONS];
    for (int i = 0; i < OPTIONS; i++) {
        names[i] = table[i].name;
        *out = (option)i;
        if (strcmp(names[i], name) == 0)
            return Q3_OK;
    }
    const char *nearest = q3_nearest(name, names, OPTIONS);
    return q3_fail(Q3_ERR_USAGE, "unknown option --%.60s%s%s (see " PROGRAM " --help)", name,
                   nearest ? "; did you mean --" : "", nearest ? nearest : "");
}

/* --name value, --name=value, and underscores for hyphens. */
static q3_status read_option(const char *values[OPTIONS], int *at, int argc, char **argv)
{
    char name[64];
    const char *text = argv[*at] + 2;
    option o;
    size_t n = strcspn(text, "=");
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), text);
    for (char *p = name; *p; p++)
        *p = *p == '_' ? '-' : *p;
    Q3_TRY(find_option(&o, name));
    bool attached = text[n] == '=', next = *at + 1 < argc && strncmp(argv[*at + 1], "--", 2) != 0;
    if (!table[o].value && attached)
        return q3_fail(Q3_ERR_USAGE, "--%s takes no value", name);
    if (table[o].value && !attached && !next)
        return q3_fail(Q3_ERR_USAGE, "--%s needs a value: --%s %s", name, name, table[o].value);
    values[o] = !table[o].value ? "" : attached ? text + n + 1 : argv[++*at];
    return Q3_OK;
}

static q3_status read_options(const char *values[OPTIONS], int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-q") == 0 || strcmp(argv[i], "-h") == 0)
            values[argv[i][1] == 'q' ? QUIET : HELP] = "";
        else if (strncmp(argv[i], "--", 2) == 0)
            Q3_TRY(read_option(values, &i, argc, argv));
        else
            return q3_fail(Q3_ERR_USAGE, "unexpected word \"%.60s\" (see " PROGRAM " --help)", argv[i]);
    }
    for (option o = MODEL; o <= DATA && !values[HELP]; o++)
        if (!values[o] || !*values[o])
            return q3_fail(Q3_ERR_USAGE, "--%s %s is needed (see " PROGRAM " --help)", table[o].name,
                           table[o].value);
    return Q3_OK;
}

/* A number from 1 to 2^31 - 1; 0 when the option is not given. */
static q3_status number(int64_t *out, const char *const values[OPTIONS], option o)
{
    *out = 0;
    if (!values[o])
        return Q3_OK;
    char *end;
    errno = 0;
    long long n = strtoll(values[o], &end, 10);
    if (end == values[o] || *end || errno || n < 1 || n > INT32_MAX)
        return q3_fail(Q3_ERR_USAGE, "--%s is \"%.60s\"; it must be an integer from 1 to %d", table[o].name,
                       values[o], INT32_MAX);
    *out = n;
    return Q3_OK;
}

/* ---- what is checked with what ---- */

typedef struct checker {
    q3_collator collator;
    q3_tokenizer *tokenizer;
    q3_dataset *data;
    q3_arena mem; // of one sample
    char *prompt; // the text of --system-prompt @FILE
    int64_t n;    // samples to look at
    bool json, quiet;
} checker;

static void close_all(checker *c)
{
    q3_dataset_close(c->data);
    q3_tokenizer_close(c->tokenizer);
    q3_arena_destroy(&c->mem);
    q3_free(c->prompt);
}

static q3_status load_model(checker *c, const char *dir)
{
    q3_arena mem;
    q3_model_config config;
    Q3_TRY(q3_arena_create(&mem, "config", (size_t)1 << 26));
    q3_status st = q3_model_config_load(&config, &mem, dir);
    if (st == Q3_OK && !config.has_vision)
        st = q3_fail(Q3_ERR_MODEL, "%s: a model without vision; the collator serves Qwen3-VL", dir);
    if (st == Q3_OK)
        st = q3_tokenizer_open(&c->tokenizer, dir);
    if (st == Q3_OK)
        st = q3_collator_init(&c->collator, dir, c->tokenizer, config.image_token, config.video_token,
                              config.text.vocab_size);
    q3_arena_destroy(&mem);
    return st;
}

static q3_status load_prompt(checker *c, const char *text)
{
    size_t size, bad;
    c->collator.system_prompt = text;
    if (!text || *text != '@')
        return Q3_OK;
    Q3_TRY(q3_status_as(q3_file_read(&c->prompt, &size, text + 1, (size_t)1 << 20), Q3_ERR_USAGE));
    if (strlen(c->prompt) != size || !q3_utf8_valid(c->prompt, size, &bad))
        return q3_fail(Q3_ERR_USAGE, "--system-prompt: %s is not UTF-8 text", text + 1);
    c->collator.system_prompt = c->prompt;
    return Q3_OK;
}

static q3_status open_all(checker *c, const char *const values[OPTIONS])
{
    int64_t min_pixels, max_pixels, samples;
    Q3_TRY(number(&c->collator.max_length, values, MAX_LENGTH));
    Q3_TRY(number(&min_pixels, values, MIN_PIXELS));
    Q3_TRY(number(&max_pixels, values, MAX_PIXELS));
    Q3_TRY(number(&samples, values, SAMPLES));
    Q3_TRY(load_prompt(c, values[SYSTEM_PROMPT]));
    Q3_TRY(load_model(c, values[MODEL]));
    Q3_TRY(q3_vision_spec_limit(&c->collator.vision, min_pixels, max_pixels));
    const q3_data_keys keys = { .allow_text_only = values[TEXT_ONLY] != NULL };
    Q3_TRY(q3_dataset_open(&c->data, values[DATA], &keys));
    c->n = q3_dataset_size(c->data);
    if (samples && samples < c->n)
        c->n = samples;
    c->json = values[JSON] != NULL;
    c->quiet = values[QUIET] != NULL;
    return q3_arena_create(&c->mem, "sample", q3_collate_bytes(&c->collator));
}

/* ---- the samples ---- */

typedef struct totals {
    int64_t samples, refused, tokens, supervised, longest;
} totals;

static q3_status print(q3_text *text)
{
    if (text->failed)
        return Q3_ERR_MEMORY;
    size_t n = fwrite(text->data, 1, text->size, stdout);
    return n == text->size ? Q3_OK : q3_fail(Q3_ERR_IO, "stdout: %s", strerror(errno));
}

static q3_status show(const checker *c, const q3_sample *s, const q3_row *row)
{
    q3_text text = { 0 };
    q3_status st = (c->json ? q3_show_row_json : q3_show_row)(&text, &c->collator, s, row, NULL);
    if (st == Q3_OK)
        st = print(&text);
    q3_text_free(&text);
    return st;
}

/* A sample that cannot be used is told on stderr, in JSON on stdout as well, and the next one is looked at. */
static q3_status refuse(const checker *c, totals *sum)
{
    q3_text text = { 0 };
    sum->refused++;
    fprintf(stderr, PROGRAM ": %s\n", q3_error());
    if (!c->json || c->quiet)
        return Q3_OK;
    q3_text_printf(&text, "{\"error\": ");
    q3_text_json_string(&text, q3_error(), strlen(q3_error()));
    q3_text_printf(&text, "}\n");
    q3_status st = print(&text);
    q3_text_free(&text);
    return st;
}

static q3_status check(checker *c, totals *sum, int64_t index)
{
    q3_sample s;
    q3_row row;
    sum->samples++;
    q3_status st = q3_dataset_get(&s, c->data, index);
    if (st != Q3_OK)
        return st == Q3_ERR_DATA ? refuse(c, sum) : st;
    q3_arena_reset(&c->mem);
    st = q3_collate_row(&row, &c->mem, &c->collator, &s, true);
    if (st == Q3_OK) {
        sum->tokens += row.n;
        sum->supervised += row.n_supervised;
        sum->longest = row.n > sum->longest ? row.n : sum->longest;
    }
    if (st == Q3_OK && !c->quiet)
        st = show(c, &s, &row);
    q3_sample_free(&s);
    return st == Q3_ERR_DATA ? refuse(c, sum) : st;
}

static q3_status run(checker *c)
{
    totals sum = { 0 };
    for (int64_t i = 0; i < c->n; i++)
        Q3_TRY(check(c, &sum, i));
    if (!c->json)
        printf("samples %lld, refused %lld, tokens %lld, supervised %lld, longest %lld\n",
               (long long)sum.samples, (long long)sum.refused, (long long)sum.tokens,
               (long long)sum.supervised, (long long)sum.longest);
    if (fflush(stdout) != 0 || ferror(stdout))
        return q3_fail(Q3_ERR_IO, "stdout could not be written");
    if (sum.refused)
        return q3_fail(Q3_ERR_DATA, "%lld of %lld samples cannot be trained on", (long long)sum.refused,
                       (long long)sum.samples);
    return Q3_OK;
}

int main(int argc, char **argv)
{
    const char *values[OPTIONS] = { 0 };
    q3_status st = read_options(values, argc, argv);
    if (st == Q3_OK && values[HELP]) {
        print_help();
        return 0;
    }
    checker c = { 0 };
    st = st ? st : open_all(&c, values);
    st = st ? st : run(&c);
    close_all(&c);
    if (st != Q3_OK)
        fprintf(stderr, PROGRAM ": %s\n", q3_error());
    return q3_exit_code(st);
}
