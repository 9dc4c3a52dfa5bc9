#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/process.h"

void q3_process_add(q3_process *p, const char *argument)
{
    assert_true(p->n < Q3_PROCESS_ARGUMENTS);
    p->argv[p->n++] = argument;
    p->argv[p->n] = NULL;
}

/* In the child: streams, limit, program. */
static _Noreturn void become(const q3_process *p)
{
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(fileno(p->files[0]), STDOUT_FILENO);
    dup2(fileno(p->files[1]), STDERR_FILENO);
    if (p->file_limit) {
        const struct rlimit limit = { (rlim_t)p->file_limit, (rlim_t)p->file_limit };
        setrlimit(RLIMIT_FSIZE, &limit);
        signal(SIGXFSZ, SIG_IGN);
    }
    execv(p->argv[0], (char *const *)(uintptr_t)p->argv);
    _exit(127);
}

void q3_process_start(q3_process *p)
{
    for (int i = 0; i < 2; i++) {
        p->files[i] = tmpfile();
        assert_non_null(p->files[i]);
    }
    fflush(NULL);
    p->pid = fork();
    assert_true(p->pid >= 0);
    if (p->pid == 0)
        become(p);
}

static char *read_all(FILE *f)
{
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    assert_true(n >= 0);
    char *text = calloc((size_t)n + 1, 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    return text;
}

int q3_process_wait(q3_process *p)
{
    int status;
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    p->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    p->out = read_all(p->files[0]);
    p->err = read_all(p->files[1]);
    return p->code;
}

int q3_process_run(q3_process *p)
{
    q3_process_start(p);
    return q3_process_wait(p);
}

bool q3_process_ended(const q3_process *p)
{
    siginfo_t info = { 0 };
    assert_int_equal(waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == p->pid;
}

void q3_process_free(q3_process *p)
{
    free(p->out);
    free(p->err);
    p->out = p->err = NULL;
}
