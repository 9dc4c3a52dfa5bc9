#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SENTENCE_BYTES = 2048 };

static _Thread_local char sentence[SENTENCE_BYTES];

q3_status q3_fail(q3_status code, const char *fmt, ...)
{
    char text[SENTENCE_BYTES]; // the arguments may point into the old sentence
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(sentence, text, sizeof text);
    return code;
}

q3_status q3_wrap(q3_status st, const char *fmt, ...)
{
    if (st == Q3_OK)
        return st;
    char text[SENTENCE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < SENTENCE_BYTES)
        snprintf(text + n, sizeof text - (size_t)n, ": %s", sentence);
    memcpy(sentence, text, sizeof text);
    return st;
}

q3_status q3_prefix(q3_status st, const char *prefix)
{
    if (st != Q3_OK && strncmp(sentence, prefix, strlen(prefix)) != 0) {
        char text[SENTENCE_BYTES];
        int n = snprintf(text, sizeof text, "%s", prefix);
        if (n >= 0 && n < SENTENCE_BYTES)
            snprintf(text + n, sizeof text - (size_t)n, "%s", sentence);
        memcpy(sentence, text, sizeof text);
    }
    return st;
}

q3_status q3_status_as(q3_status st, q3_status as)
{
    return st == Q3_ERR_IO || st == Q3_ERR_FORMAT || st == Q3_ERR_LIMIT ? as : st;
}

const char *q3_error(void)
{
    return sentence;
}

int q3_exit_code(q3_status st)
{
    switch (st) {
    case Q3_OK:
    case Q3_ENDED:
        return 0;
    case Q3_ERR_USAGE:
        return 2;
    case Q3_ERR_DATA:
        return 3;
    case Q3_ERR_MODEL:
        return 4;
    case Q3_ERR_MEMORY:
        return 5;
    case Q3_ERR_NETWORK:
        return 6;
    case Q3_ERR_INTERRUPTED:
        return 130;
    case Q3_ERR_TERMINATED:
        return 143;
    default:
        return 1;
    }
}

static int edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    int row[MAX + 1];
    int na = (int)strlen(a), nb = (int)strlen(b);
    if (na > MAX || nb > MAX)
        return MAX;
    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

const char *q3_nearest(const char *word, const char *const *names, size_t n)
{
    const char *nearest = NULL;
    int best = 1 + (int)strlen(word) / 2; // farther than half the word is a guess, not a suggestion
    for (size_t i = 0; i < n; i++) {
        int d = edit_distance(word, names[i]);
        if (d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}

void q3_check_failed(const char *file, int line, const char *func, const char *cond, const char *fmt, ...)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: %s: internal error: %s: ", file, line, func, cond);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}
