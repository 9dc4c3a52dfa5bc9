/* chat: a conversation with a model, pictures included. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/answering.h"
#include "cli/line_input.h"
#include "cli/show_picture.h"
#include "core/file.h"
#include "core/log.h"

static const q3_option options[] = {
    { .name = "image",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a picture for the first question",
      .repeats = true },
};

typedef struct chat {
    q3_answering a;
    q3_conversation c;
    q3_arena mem; // of one prompt
    bool over;
} chat;

/* ---- turns ---- */

/* Answers the last question. Without an answer the question is taken back, so that the conversation stays whole. */
static q3_status answer_to_question(chat *t)
{
    q3_prompt prompt;
    q3_answer answer;
    q3_arena_reset(&t->mem);
    Q3_TRY(q3_conversation_prompt(&prompt, &t->mem, &t->c, &t->a.session.prompter));
    prompt.adapter = t->a.adapter;
    Q3_TRY(q3_answering_run(&answer, &t->a, &prompt));
    printf("%s\n", t->a.options.on_text || !answer.text.data ? "" : answer.text.data);
    fflush(stdout);
    if (answer.finish == Q3_FINISH_CANCELLED)
        q3_info("stopped; what is there stays in the conversation");
    else if (answer.finish == Q3_FINISH_LENGTH)
        q3_info("the answer ends here because of its length");
    q3_status st = q3_conversation_answer(&t->c, answer.text.data ? answer.text.data : "");
    q3_answer_free(&answer);
    if (st == Q3_OK)
        q3_answering_tell(&t->a);
    return st;
}

static q3_status ask(chat *t, const char *text)
{
    Q3_TRY(q3_conversation_ask(&t->c, text));
    q3_status st = answer_to_question(t);
    if (st != Q3_OK)
        q3_conversation_unask(&t->c, false);
    return st;
}

/* ---- pictures ---- */

enum { SHOWN_COLUMNS = 60, SHOWN_ROWS = 20 }; // largest picture in the terminal

static void show(const q3_image *picture)
{
    q3_text out = { 0 };
    struct winsize size;
    if (!q3_picture_showable(STDERR_FILENO))
        return;
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    int columns = known && size.ws_col < SHOWN_COLUMNS ? size.ws_col : SHOWN_COLUMNS;
    if (q3_picture_draw(&out, picture, columns, SHOWN_ROWS) == Q3_OK)
        fwrite(out.data, 1, out.size, stderr);
    q3_text_free(&out);
}

static q3_status add_picture(chat *t, const char *path)
{
    Q3_TRY(q3_conversation_picture(&t->c, path, &t->a.session.prompter.image));
    const q3_image *picture = &t->c.pictures[t->c.n_pictures - 1];
    show(picture);
    q3_info("picture     %s, %d x %d; ask about it", path, picture->width, picture->height);
    return Q3_OK;
}

/* What a terminal makes of a file that is dropped on it: in quotes, with backslashes, or as file://. */
static void plain_path(char *out, size_t room, const char *line)
{
    size_t n = 0, end = strlen(line);
    while (end && (line[end - 1] == ' ' || line[end - 1] == '\t'))
        end--;
    bool quoted = end >= 2 && (*line == '\'' || *line == '"') && line[end - 1] == *line;
    const char *p = line + quoted, *stop = line + end - quoted;
    if (strncmp(p, "file://", 7) == 0)
        p += 7;
    for (; p < stop && n + 1 < room; p++) {
        if (*p == '\\' && !quoted && p + 1 < stop)
            p++;
        out[n++] = *p;
    }
    out[n] = 0;
}

/* Is this line nothing but the path of a picture? */
static bool is_picture(char *path, size_t room, const char *line)
{
    static const char *const ends[] = { ".jpg", ".jpeg", ".png", ".webp", ".bmp" };
    plain_path(path, room, line);
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++)
        if (strcasecmp(dot, ends[i]) == 0)
            return q3_file_exists(path);
    return false;
}

/* ---- commands ---- */

static q3_status on_image(chat *t, const char *rest)
{
    char path[4096];
    if (!*rest)
        return q3_fail(Q3_ERR_USAGE, "/image needs a file");
    plain_path(path, sizeof path, rest);
    return add_picture(t, path);
}

static q3_status on_system(chat *t, const char *rest)
{
    Q3_TRY(q3_conversation_system(&t->c, rest));
    q3_info(*rest ? "the system message holds from the next question on" : "there is no system message now");
    return Q3_OK;
}

static q3_status on_undo(chat *t, const char *rest)
{
    (void)rest;
    if (!q3_conversation_unask(&t->c, false))
        return q3_fail(Q3_ERR_USAGE, "there is no question to take back");
    q3_info("the last question is taken back");
    return Q3_OK;
}

static q3_status on_retry(chat *t, const char *rest)
{
    (void)rest;
    if (!q3_conversation_question(&t->c))
        return q3_fail(Q3_ERR_USAGE, "there is no question to answer again");
    q3_conversation_unanswer(&t->c);
    q3_status st = answer_to_question(t);
    if (st != Q3_OK)
        q3_conversation_unask(&t->c, false);
    return st;
}

static q3_status on_edit(chat *t, const char *rest)
{
    if (!*rest)
        return q3_fail(Q3_ERR_USAGE, "/edit needs the new text of the last question");
    if (!q3_conversation_unask(&t->c, true))
        return q3_fail(Q3_ERR_USAGE, "there is no question to edit");
    return ask(t, rest);
}

static q3_status on_history(chat *t, const char *rest)
{
    int picture = 0;
    (void)rest;
    if (t->c.system)
        printf("system: %s\n", t->c.system);
    for (int i = 0; i < t->c.n; i++) {
        const q3_turn *turn = &t->c.turns[i];
        for (int k = 0; k < turn->n_pictures; k++)
            printf("picture: %s\n", t->c.paths[picture++]);
        printf("%s: %s\n", turn->assistant ? "assistant" : "user", turn->text);
    }
    fflush(stdout);
    return Q3_OK;
}

static q3_status on_reset(chat *t, const char *rest)
{
    (void)rest;
    q3_conversation_reset(&t->c);
    q3_info("the conversation begins anew");
    return Q3_OK;
}

static q3_status on_adapter(chat *t, const char *rest)
{
    Q3_TRY(q3_session_adapter_find(&t->a.adapter, &t->a.session, rest));
    if (t->a.adapter < 0)
        q3_info("adapter     none");
    else
        q3_info("adapter     %s", t->a.session.adapters.list[t->a.adapter].name);
    return Q3_OK;
}

static q3_status on_save(chat *t, const char *rest)
{
    q3_text out = { 0 };
    const q3_session *s = &t->a.session;
    const char *adapter = t->a.adapter >= 0 ? s->adapters.list[t->a.adapter].name : s->merged;
    if (!*rest)
        return q3_fail(Q3_ERR_USAGE, "/save needs a file");
    q3_text_printf(&out, "{\"model\": ");
    q3_text_json_string(&out, s->name, strlen(s->name));
    if (adapter) {
        q3_text_printf(&out, ", \"adapter\": ");
        q3_text_json_string(&out, adapter, strlen(adapter));
    }
    q3_text_printf(&out, ", \"messages\":\n");
    q3_conversation_json(&out, &t->c);
    q3_text_printf(&out, "}\n");
    q3_status st = out.failed ? Q3_ERR_MEMORY : q3_file_write(rest, out.data, out.size);
    q3_text_free(&out);
    if (st == Q3_OK)
        q3_info("saved       %s", rest);
    return st;
}

static q3_status on_quit(chat *t, const char *rest)
{
    (void)rest;
    t->over = true;
    return Q3_OK;
}

static q3_status on_help(chat *t, const char *rest);

static const struct {
    const char *name, *value, *help;
    q3_status (*run)(chat *t, const char *rest);
} commands[] = {
    { "/image", "FILE", "a picture for the next question; a line that is only its path does the same",
      on_image },
    { "/system", "TEXT", "set the system message; without text: none", on_system },
    { "/undo", "", "take the last question and its answer back", on_undo },
    { "/retry", "", "answer the last question again", on_retry },
    { "/edit", "TEXT", "ask the last question in other words", on_edit },
    { "/history", "", "show the conversation", on_history },
    { "/reset", "", "forget it; the system message stays", on_reset },
    { "/adapter", "NAME", "answer with this adapter; base: with none", on_adapter },
    { "/save", "FILE", "write the conversation as JSON", on_save },
    { "/help", "", "show this", on_help },
    { "/quit", "", "end; so does Ctrl-D", on_quit },
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static q3_status on_help(chat *t, const char *rest)
{
    (void)t, (void)rest;
    for (int i = 0; i < COMMANDS; i++)
        printf("%-9s %-5s %s\n", commands[i].name, commands[i].value, commands[i].help);
    fflush(stdout);
    return Q3_OK;
}

static q3_status command(chat *t, const char *line)
{
    const char *names[COMMANDS];
    char name[32];
    size_t n = strcspn(line, " \t");
    const char *rest = line + n + strspn(line + n, " \t");
    snprintf(name, sizeof name, "%.*s", (int)n, line);
    for (int i = 0; i < COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(name, names[i]) == 0)
            return commands[i].run(t, rest);
    }
    const char *nearest = q3_nearest(name, names, COMMANDS);
    return nearest ? q3_fail(Q3_ERR_USAGE, "unknown command %s; did you mean %s?", name, nearest)
                   : q3_fail(Q3_ERR_USAGE, "unknown command %s; /help lists them", name);
}

/* ---- the loop ---- */

static q3_status take(chat *t, const char *line)
{
    char path[4096];
    line += strspn(line, " \t");
    if (!*line)
        return Q3_OK;
    if (is_picture(path, sizeof path, line))
        return add_picture(t, path);
    return *line == '/' ? command(t, line) : ask(t, line);
}

static void loop(chat *t, q3_line_input *in)
{
    const char *line;
    while (!t->over) {
        q3_line_kind kind = q3_line_input_read(&line, in);
        if (kind == Q3_LINE_END)
            break;
        if (kind == Q3_LINE_INTERRUPTED) {
            q3_interrupted();
            fprintf(stderr, "/quit or Ctrl-D ends the conversation\n");
        } else if (take(t, line) != Q3_OK) {
            fprintf(stderr, "error: %s\n", q3_error());
        }
    }
}

static q3_status begin(chat *t)
{
    const char *path;
    if (isatty(STDOUT_FILENO) && !t->a.settings.strip)
        q3_answering_stream(&t->a);
    Q3_TRY(q3_arena_create(&t->mem, "prompt", (size_t)1 << 36));
    Q3_TRY(q3_conversation_system(&t->c, q3_options_get(t->a.o, "system")));
    for (int i = 0; (path = q3_options_nth(t->a.o, "image", i)); i++)
        Q3_TRY(add_picture(t, path));
    if (isatty(STDIN_FILENO))
        q3_info("/help lists the commands");
    return Q3_OK;
}

static q3_status converse(chat *t)
{
    q3_line_input *in;
    Q3_TRY(begin(t));
    Q3_TRY(q3_line_input_open(&in, "> "));
    loop(t, in);
    q3_line_input_close(in);
    return Q3_OK;
}

static q3_status run(const q3_options *o)
{
    if (q3_options_given(o, "logprobs"))
        return q3_fail(Q3_ERR_USAGE, "chat shows no probabilities; use generate --json --logprobs N");
    chat *t = q3_calloc(1, sizeof *t);
    if (!t)
        return Q3_ERR_MEMORY;
    q3_status st = q3_answering_open(&t->a, o);
    st = st ? st : converse(t);
    q3_conversation_free(&t->c);
    q3_answering_close(&t->a);
    q3_arena_destroy(&t->mem);
    q3_free(t);
    return st;
}

const q3_command q3_command_chat = {
    .name = "chat",
    .summary = "a conversation with a model, pictures included",
    .usage = "--model DIR [--adapter DIR] [--image FILE] [options]",
    .example = "chat --model models/Qwen3-VL-2B-Instruct --adapter runs/sarcasm",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .lists = { &q3_model_list, &q3_sampling_list },
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB | Q3_COMMAND_RANKS,
    .run = run,
};
