/* generate: answers to one prompt, to many at once, or to one after the other as they are typed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/answering.h"
#include "cli/line_input.h"
#include "cli/prompt_lines.h"
#include "core/log.h"

/* The question that the reference system for exported graphs asks when it is given none. */
#define ONNX_PROMPT "What is the capital of France?"

enum { TEXT_LIMIT = 64 << 20 }; // bytes of a prompt

static const q3_option options[] = {
    { .name = "prompt",
      .kind = Q3_OPTION_VALUE,
      .value = "TEXT",
      .help = "what to answer; -: stdin",
      .alias = "text" },
    { .name = "prompt-file", .kind = Q3_OPTION_VALUE, .value = "FILE", .help = "the same from a file" },
    { .name = "image",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a picture in front of it",
      .alias = "media",
      .repeats = true },
    { .name = "input",
      .letter = 'i',
      .kind = Q3_OPTION_ASSIGN,
      .value = "KEY=VALUE",
      .help = "any option: -i prompt=... -i image=@FILE" },
    { .name = "prompts-file",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a prompt a line, in a .jsonl also image, system" },
    { .name = "interactive", .kind = Q3_OPTION_FLAG, .help = "ask for prompts, each on its own" },
    { .name = "no-chat-template",
      .kind = Q3_OPTION_FLAG,
      .help = "the text as it is, without roles around it" },
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "all about an answer as one JSON object" },
    { .name = "stream", .kind = Q3_OPTION_FLAG, .help = "text as it comes (default on a terminal)" },
};

/* ---- one prompt ---- */

static q3_status read_text(q3_text *out, FILE *file, const char *name)
{
    char piece[4096];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, file)) > 0) {
        q3_text_append(out, piece, n);
        if (out->size > TEXT_LIMIT)
            return q3_fail(Q3_ERR_DATA, "%s: the prompt has more than %d bytes", name, TEXT_LIMIT);
    }
    if (ferror(file))
        return q3_fail(Q3_ERR_DATA, "%s: %s", name, strerror(errno));
    if (out->failed)
        return Q3_ERR_MEMORY;
    if (out->size && memchr(out->data, 0, out->size))
        return q3_fail(Q3_ERR_DATA, "%s: the prompt contains a NUL byte", name);
    if (out->size && out->data[out->size - 1] == '\n')
        out->data[--out->size] = 0;
    return Q3_OK;
}

static q3_status read_file(q3_text *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return q3_fail(Q3_ERR_DATA, "%s: %s", path, strerror(errno));
    q3_status st = read_text(out, file, path);
    fclose(file);
    return st;
}

/* The text of --prompt, --prompt-file, or the one that stands for none. */
static q3_status read_prompt(q3_text *out, const q3_options *o)
{
    const char *prompt = q3_options_get(o, "prompt"), *path = q3_options_get(o, "prompt-file");
    if (path)
        return read_file(out, path);
    if (prompt && strcmp(prompt, "-") == 0)
        return read_text(out, stdin, "<stdin>");
    prompt = prompt ? prompt : ONNX_PROMPT;
    q3_text_append(out, prompt, strlen(prompt));
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

/* The pictures of --image, which wait for a question. An @ in front of a path is that of the predictors' command line. */
static q3_status add_pictures(q3_conversation *c, const q3_answering *a)
{
    const char *path;
    for (int i = 0; (path = q3_options_nth(a->o, "image", i)); i++)
        Q3_TRY(q3_conversation_picture(c, path + (*path == '@'), &a->session.prompter.image));
    return Q3_OK;
}

static q3_status print_answer(const q3_answering *a, const q3_answer *answer)
{
    q3_text out = { 0 };
    if (q3_options_given(a->o, "json")) {
        q3_answer_json(&out, answer, a->session.tokenizer);
    } else if (!a->options.on_text) {
        q3_text_append(&out, answer->text.data, answer->text.size);
    }
    q3_text_append(&out, "\n", 1);
    return q3_options_print(&out);
}

static q3_status answer_to(q3_answering *a, q3_arena *mem, const q3_conversation *c)
{
    q3_prompt prompt;
    q3_answer answer;
    Q3_TRY(q3_conversation_prompt(&prompt, mem, c, &a->session.prompter));
    prompt.adapter = a->adapter;
    Q3_TRY(q3_answering_run(&answer, a, &prompt));
    q3_status st = print_answer(a, &answer);
    q3_answer_free(&answer);
    return st;
}

/* One question with the pictures of --image. */
static q3_status ask(q3_answering *a, q3_arena *mem, const char *text)
{
    q3_conversation c = { 0 };
    q3_status st = q3_conversation_system(&c, q3_options_get(a->o, "system"));
    st = st ? st : add_pictures(&c, a);
    st = st ? st : q3_conversation_ask(&c, text);
    st = st ? st : answer_to(a, mem, &c);
    q3_conversation_free(&c);
    q3_arena_reset(mem);
    return st;
}

static q3_status generate_one(q3_answering *a, q3_arena *mem, const char *text)
{
    Q3_TRY(ask(a, mem, text));
    q3_answering_tell(a);
    return Q3_OK;
}

/* ---- typed prompts, each on its own ---- */

static bool quits(const char *line)
{
    return strcasecmp(line, "quit") == 0 || strcasecmp(line, "exit") == 0 || strcasecmp(line, "q") == 0;
}

static q3_status generate_typed(q3_answering *a, q3_arena *mem)
{
    q3_line_input *in;
    const char *line;
    Q3_TRY(q3_line_input_open(&in, "Prompt: "));
    while (q3_line_input_read(&line, in) == Q3_LINE_TEXT && !quits(line)) {
        if (!*line)
            continue;
        if (ask(a, mem, line) == Q3_OK)
            q3_answering_tell(a);
        else
            fprintf(stderr, "error: %s\n", q3_error());
    }
    q3_line_input_close(in);
    return Q3_OK;
}

/* ---- many prompts at once ---- */

enum { WINDOW = 64 }; // prompts that are held at a time, so that memory does not grow with the file

typedef struct item {
    q3_arena mem; // of its prompt
    q3_prompt prompt;
    q3_answer answer;
    q3_status status; // of what never began
    char sentence[512];
} item;

typedef struct batch {
    q3_answering *a;
    q3_prompt_lines *lines;
    item items[WINDOW];
    int64_t n, begun, printed, failed;
    char first_failure[600];
} batch;

static q3_status begin_line(item *it, batch *b, int64_t index)
{
    q3_conversation c = { 0 };
    const q3_prompter *p = &b->a->session.prompter;
    q3_arena_reset(&it->mem);
    q3_status st = q3_conversation_system(&c, q3_options_get(b->a->o, "system"));
    st = st ? st : add_pictures(&c, b->a);
    st = st ? st : q3_prompt_lines_ask(&c, b->lines, index, &p->image);
    st = st ? st : q3_conversation_prompt(&it->prompt, &it->mem, &c, p);
    q3_conversation_free(&c);
    if (st != Q3_OK)
        return st;
    it->prompt.adapter = b->a->adapter;
    return q3_answering_begin(&it->answer, b->a, &it->prompt);
}

static q3_status begin(batch *b, int64_t index)
{
    item *it = &b->items[index % WINDOW];
    it->answer = (q3_answer){ 0 };
    if (!it->mem.base)
        Q3_TRY(q3_arena_create(&it->mem, "prompt", (size_t)1 << 34));
    b->a->n_asked = (uint32_t)index; // draws do not depend on lines that failed
    it->status = begin_line(it, b, index);
    if (it->status == Q3_ERR_MEMORY)
        return it->status;
    snprintf(it->sentence, sizeof it->sentence, "%s", it->status ? q3_error() : "");
    return Q3_OK;
}

/* A failed line keeps its place: an empty line, or an object with the error. */
static q3_status print_failure(batch *b, const char *sentence)
{
    q3_text out = { 0 };
    int line = q3_prompt_lines_number(b->lines, b->printed);
    if (!b->failed++)
        snprintf(b->first_failure, sizeof b->first_failure, "line %d: %s", line, sentence);
    q3_warn("line %d: %s", line, sentence);
    if (q3_options_given(b->a->o, "json")) {
        q3_text_printf(&out, "{\"error\": ");
        q3_text_json_string(&out, sentence, strlen(sentence));
        q3_text_append(&out, "}", 1);
    }
    q3_text_append(&out, "\n", 1);
    return q3_options_print(&out);
}

static q3_status print_item(batch *b)
{
    item *it = &b->items[b->printed % WINDOW];
    if (it->status)
        return print_failure(b, it->sentence);
    if (it->answer.status)
        return print_failure(b, it->answer.sentence);
    q3_answering_finish(&it->answer, b->a);
    return print_answer(b->a, &it->answer);
}

static q3_status run_batch(batch *b)
{
    while (b->printed < b->n) {
        while (b->begun < b->n && b->begun - b->printed < WINDOW)
            Q3_TRY(begin(b, b->begun++));
        item *it = &b->items[b->printed % WINDOW];
        if (!it->status && !it->answer.ended) {
            q3_scheduler_step(b->a->session.scheduler); // a failure ends the answers with it
            continue;
        }
        Q3_TRY(print_item(b));
        q3_answer_free(&it->answer);
        b->printed++;
    }
    q3_answering_tell(b->a);
    if (!b->failed)
        return Q3_OK;
    return q3_fail(Q3_ERR_DATA, "%lld of %lld prompts have no answer; the first: %s", (long long)b->failed,
                   (long long)b->n, b->first_failure);
}

static q3_status generate_many(q3_answering *a, const char *path)
{
    batch *b = q3_calloc(1, sizeof *b);
    if (!b)
        return Q3_ERR_MEMORY;
    b->a = a;
    q3_status st = q3_prompt_lines_open(&b->lines, path);
    if (st == Q3_OK) {
        b->n = q3_prompt_lines_count(b->lines);
        st = run_batch(b);
    }
    q3_scheduler_destroy(a->session.scheduler); // what still runs points here
    a->session.scheduler = NULL;
    for (int i = 0; i < WINDOW; i++) {
        q3_answer_free(&b->items[i].answer);
        q3_arena_destroy(&b->items[i].mem);
    }
    q3_prompt_lines_close(b->lines);
    q3_free(b);
    return st;
}

/* ---- which of them ---- */

static q3_status exclude(const q3_options *o, const char *one, const char *other)
{
    return q3_options_given(o, one) && q3_options_given(o, other)
               ? q3_fail(Q3_ERR_USAGE, "--%s and --%s exclude each other", one, other)
               : Q3_OK;
}

static q3_status check(bool *interactive, const q3_options *o)
{
    static const char *const kinds[] = { "prompt", "prompt-file", "prompts-file", "interactive" };
    int n = 0;
    for (int i = 0; i < 4; i++) {
        n += q3_options_given(o, kinds[i]);
        for (int k = 0; k < i; k++)
            Q3_TRY(exclude(o, kinds[k], kinds[i]));
    }
    Q3_TRY(exclude(o, "json", "stream"));
    Q3_TRY(exclude(o, "prompts-file", "stream"));
    Q3_TRY(exclude(o, "system", "no-chat-template"));
    if (q3_options_given(o, "stream") && strcmp(q3_options_get(o, "profile"), "cog") == 0)
        return q3_fail(
            Q3_ERR_USAGE,
            "--stream shows a text before it is whole, and --profile cog strips it; leave one out");
    if (q3_options_given(o, "logprobs") && !q3_options_given(o, "json"))
        return q3_fail(Q3_ERR_USAGE, "--logprobs are shown with --json only; add it");
    *interactive = q3_options_given(o, "interactive") || (!n && isatty(STDIN_FILENO));
    if (!n && !*interactive && strcmp(q3_options_get(o, "profile"), "onnx") != 0)
        return q3_fail(Q3_ERR_USAGE, "generate needs --prompt TEXT (see qwen3-sft generate --help)");
    return Q3_OK;
}

static q3_status check_file(const char *path)
{
    return !path || access(path, R_OK) == 0 ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: %s", path, strerror(errno));
}

/* A misspelt name is told before a large model is loaded for it. */
static q3_status check_files(const q3_options *o)
{
    const char *picture;
    Q3_TRY(check_file(q3_options_get(o, "prompt-file")));
    Q3_TRY(check_file(q3_options_get(o, "prompts-file")));
    for (int i = 0; (picture = q3_options_nth(o, "image", i)); i++)
        Q3_TRY(check_file(picture + (*picture == '@')));
    return Q3_OK;
}

static q3_status generate(q3_answering *a, bool interactive)
{
    q3_arena mem;
    q3_text text = { 0 };
    const q3_options *o = a->o;
    const char *many = q3_options_get(o, "prompts-file");
    a->session.prompter.plain = q3_options_given(o, "no-chat-template");
    if (many)
        return generate_many(a, many);
    bool stream = q3_options_given(o, "stream") || (isatty(STDOUT_FILENO) && !a->settings.strip);
    if (stream && !q3_options_given(o, "json"))
        q3_answering_stream(a);
    Q3_TRY(q3_arena_create(&mem, "prompt", (size_t)1 << 36));
    q3_status st = interactive ? generate_typed(a, &mem) : read_prompt(&text, o);
    if (!interactive && st == Q3_OK)
        st = generate_one(a, &mem, text.data ? text.data : "");
    q3_text_free(&text);
    q3_arena_destroy(&mem);
    return st;
}

static q3_status run(const q3_options *o)
{
    bool interactive;
    q3_answering a;
    Q3_TRY(check(&interactive, o));
    Q3_TRY(check_files(o));
    Q3_TRY(q3_answering_open(&a, o));
    q3_status st = generate(&a, interactive);
    q3_answering_close(&a);
    return st;
}

const q3_command q3_command_generate = {
    .name = "generate",
    .summary = "answer a prompt, with pictures or without, or many at once",
    .usage = "--model DIR --prompt TEXT [--image FILE] [options]",
    .example = "generate --model models/Qwen3-VL-2B --image a.jpg --prompt \"What?\"",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .lists = { &q3_model_list, &q3_sampling_list },
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB | Q3_COMMAND_RANKS,
    .run = run,
};
