#include "core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static q3_log_level current = Q3_LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool live; // the cursor stands behind an unfinished line

void q3_log_set_level(q3_log_level level)
{
    current = level;
}
bool q3_log_enabled(q3_log_level level)
{
    return level <= current;
}

bool q3_log_is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
}

static void clear_live(void)
{
    if (live)
        fputs("\r\033[K", stderr);
    live = false;
}

static void print_line(const char *prefix, const char *fmt, va_list ap)
{
    pthread_mutex_lock(&lock);
    clear_live();
    fputs(prefix, stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    pthread_mutex_unlock(&lock);
}

void q3_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    print_line("warning: ", fmt, ap);
    va_end(ap);
}

void q3_info(const char *fmt, ...)
{
    if (!q3_log_enabled(Q3_LOG_INFO))
        return;
    va_list ap;
    va_start(ap, fmt);
    print_line("", fmt, ap);
    va_end(ap);
}

void q3_detail(const char *fmt, ...)
{
    if (!q3_log_enabled(Q3_LOG_DETAIL))
        return;
    va_list ap;
    va_start(ap, fmt);
    print_line("", fmt, ap);
    va_end(ap);
}

void q3_log_live(const char *fmt, ...)
{
    if (!q3_log_enabled(Q3_LOG_INFO) || !q3_log_is_terminal())
        return;
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&lock);
    clear_live();
    vfprintf(stderr, fmt, ap);
    fflush(stderr);
    live = true;
    pthread_mutex_unlock(&lock);
    va_end(ap);
}

void q3_log_clear(void)
{
    pthread_mutex_lock(&lock);
    clear_live();
    pthread_mutex_unlock(&lock);
}

double q3_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char *next_buffer(void)
{
    enum { BUFFERS = 8, BYTES = 32 };
    static _Thread_local char text[BUFFERS][BYTES];
    static _Thread_local int turn;
    turn = (turn + 1) % BUFFERS;
    return text[turn];
}

static const char *scaled(double value, double step, const char *const *units)
{
    int u = 0;
    while (value >= step && units[u + 1]) {
        value /= step;
        u++;
    }
    char *out = next_buffer();
    snprintf(out, 32, u == 0 || value >= 100 ? "%.0f%s" : value >= 10 ? "%.1f%s" : "%.2f%s", value, units[u]);
    return out;
}

const char *q3_bytes(uint64_t n)
{
    static const char *const units[] = { " B", " KiB", " MiB", " GiB", " TiB", NULL };
    return scaled((double)n, 1024, units);
}

const char *q3_count(uint64_t n)
{
    static const char *const units[] = { "", " k", " M", " G", " T", NULL };
    return scaled((double)n, 1000, units);
}
