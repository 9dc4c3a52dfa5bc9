#include "cli/line_input.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(Q3_LIBEDIT)
#include <histedit.h>
#endif

struct q3_line_input {
    const char *prompt;
    q3_text line;
#if defined(Q3_LIBEDIT)
    EditLine *edit; // NULL: plain lines
    History *history;
#endif
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    if (interrupted)
        _Exit(128 + signal_number);
    interrupted = 1;
}

bool q3_interrupted(void)
{
    bool was = interrupted;
    interrupted = 0;
    return was;
}

/* Without SA_RESTART: a read that waits for a line returns. */
static void catch_interrupts(void)
{
    struct sigaction a = { .sa_handler = on_interrupt };
    sigemptyset(&a.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, &a, NULL);
}

#if defined(Q3_LIBEDIT)

enum { HISTORY_LINES = 500 };

static char *prompt_of(EditLine *edit)
{
    void *in = NULL;
    el_get(edit, EL_CLIENTDATA, &in);
    return (char *)(uintptr_t)((q3_line_input *)in)->prompt;
}

static void open_editor(q3_line_input *in)
{
    HistEvent event;
    in->edit = el_init("qwen3-sft", stdin, stderr, stderr);
    in->history = in->edit ? history_init() : NULL;
    if (!in->edit)
        return;
    el_set(in->edit, EL_CLIENTDATA, in);
    el_set(in->edit, EL_PROMPT, prompt_of);
    el_set(in->edit, EL_EDITOR, "emacs");
    if (!in->history)
        return;
    history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    el_set(in->edit, EL_HIST, history, in->history);
}

static q3_line_kind read_edited(q3_line_input *in)
{
    HistEvent event;
    int n = 0;
    errno = 0;
    const char *typed = el_gets(in->edit, &n);
    if (!typed)
        return errno == EINTR || interrupted ? Q3_LINE_INTERRUPTED : Q3_LINE_END;
    q3_text_append(&in->line, typed, strlen(typed));
    if (in->history && in->line.size > 1)
        history(in->history, &event, H_ENTER, typed);
    return Q3_LINE_TEXT;
}

static void close_editor(q3_line_input *in)
{
    if (in->history)
        history_end(in->history);
    if (in->edit)
        el_end(in->edit);
}

static bool edits(const q3_line_input *in)
{
    return in->edit != NULL;
}

#else

static void open_editor(q3_line_input *in)
{
    (void)in;
}

static q3_line_kind read_edited(q3_line_input *in)
{
    (void)in;
    return Q3_LINE_END;
}

static void close_editor(q3_line_input *in)
{
    (void)in;
}

static bool edits(const q3_line_input *in)
{
    (void)in;
    return false;
}

#endif

q3_status q3_line_input_open(q3_line_input **out, const char *prompt)
{
    q3_line_input *in = *out = q3_calloc(1, sizeof *in);
    if (!in)
        return Q3_ERR_MEMORY;
    in->prompt = prompt;
    if (isatty(STDIN_FILENO))
        open_editor(in);
    catch_interrupts();
    return Q3_OK;
}

void q3_line_input_close(q3_line_input *in)
{
    if (!in)
        return;
    close_editor(in);
    q3_text_free(&in->line);
    q3_free(in);
    signal(SIGINT, SIG_DFL);
}

static q3_line_kind read_plain(q3_line_input *in)
{
    char piece[4096];
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "%s", in->prompt);
    do {
        if (!fgets(piece, sizeof piece, stdin)) {
            bool broken = ferror(stdin) && errno == EINTR;
            clearerr(stdin);
            return broken ? Q3_LINE_INTERRUPTED : in->line.size ? Q3_LINE_TEXT : Q3_LINE_END;
        }
        q3_text_append(&in->line, piece, strlen(piece));
    } while (!in->line.failed && in->line.data[in->line.size - 1] != '\n');
    return Q3_LINE_TEXT;
}

q3_line_kind q3_line_input_read(const char **line, q3_line_input *in)
{
    in->line.size = 0;
    q3_line_kind kind = edits(in) ? read_edited(in) : read_plain(in);
    if (kind != Q3_LINE_TEXT && isatty(STDIN_FILENO))
        fprintf(stderr, "\n"); // the prompt's line ends
    if (in->line.failed)
        return Q3_LINE_END;
    size_t n = in->line.size;
    while (n && (in->line.data[n - 1] == '\n' || in->line.data[n - 1] == '\r'))
        in->line.data[--n] = 0;
    *line = n ? in->line.data : "";
    return kind;
}
