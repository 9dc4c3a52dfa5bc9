#include "tests/support/ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* A file without a name; the child inherits it. */
static int input_file(const char *input, size_t n)
{
    int fd = memfd_create("input", 0);
    assert_true(fd >= 0);
    for (ssize_t written; n > 0; input += written, n -= (size_t)written) {
        written = write(fd, input, n);
        assert_true(written > 0);
    }
    return fd;
}

q3_process q3_ask(const char *program, const char *arguments, const char *input, size_t n)
{
    q3_process p = { 0 };
    char line[4096];
    int fd = input_file(input, n);
    int size = snprintf(line, sizeof line, "exec %s %s </proc/self/fd/%d", program, arguments, fd);
    assert_true(size < (int)sizeof line);
    q3_process_add(&p, "/bin/sh");
    q3_process_add(&p, "-c");
    q3_process_add(&p, line);
    q3_process_run(&p);
    close(fd);
    if (p.code == 126 || p.code == 127)
        fail_msg("%s: %s", line, p.err);
    p.n = 0; // `line` ends here
    p.argv[0] = NULL;
    return p;
}

static void refused(const char *program, const char *arguments, int code, const char *text, bool whole)
{
    static const char prefix[] = "qwen3-sft: ";
    q3_process p = q3_ask(program, arguments, NULL, 0);
    size_t size = strlen(p.err);
    const char *said = p.err + sizeof prefix - 1;
    bool fits = p.code == code && !*p.out && size > sizeof prefix &&
                strchr(p.err, '\n') == p.err + size - 1 && strncmp(p.err, prefix, sizeof prefix - 1) == 0;
    if (fits && whole)
        fits = strlen(said) == strlen(text) + 1 && strncmp(said, text, strlen(text)) == 0;
    if (!fits || !strstr(said, text))
        fail_msg("%s\nwanted exit %d: %s\ngot exit %d: %s%s%.200s", arguments, code, text, p.code, p.err,
                 *p.out ? "stdout: " : "", p.out);
    q3_process_free(&p);
}

void q3_ask_refused(const char *program, const char *arguments, int code, const char *sentence)
{
    refused(program, arguments, code, sentence, true);
}

void q3_ask_refused_about(const char *program, const char *arguments, int code, const char *part)
{
    refused(program, arguments, code, part, false);
}
