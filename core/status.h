/* core/status.h - how a failure travels: a code and one sentence.
 *
 * A function that can fail because the world is wrong (file, config, sample, capacity, device) returns a
 * q3_status and leaves one sentence for the user in a thread-local buffer: whoever knows the reason writes it
 * with q3_fail, upper levels put *where* in front of it with q3_wrap, `main` prints q3_error() once and exits
 * with q3_exit_code(). When the program itself is wrong (shape mismatch, impossible state) Q3_CHECK prints
 * the place and aborts.
 */
#ifndef Q3_CORE_STATUS_H
#define Q3_CORE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A file reader reports IO or FORMAT; the module that knows what the file was for turns that into DATA or
 * MODEL with q3_status_as, so that the exit code tells a bad data set from a bad model. */
typedef enum q3_status {
    Q3_OK = 0,
    Q3_ERR_FAIL,        /* anything without a class of its own              exit 1 */
    Q3_ERR_IO,          /* a file could not be read or written                     1 */
    Q3_ERR_FORMAT,      /* a file does not hold what it should                     1 */
    Q3_ERR_LIMIT,       /* a value beyond what the program supports                1 */
    Q3_ERR_USAGE,       /* command line or config                                  2 */
    Q3_ERR_DATA,        /* a sample or data set                                    3 */
    Q3_ERR_MODEL,       /* model files missing or corrupt                          4 */
    Q3_ERR_MEMORY,      /* out of memory                                           5 */
    Q3_ERR_NETWORK,     /* network failure                                         6 */
    Q3_ERR_INTERRUPTED, /* SIGINT: state was saved                               130 */
    Q3_ERR_TERMINATED,  /* SIGTERM: state was saved                              143 */
    Q3_ENDED,           /* another process of a group: its part is done, nothing is to be said   0 */
} q3_status;

#if defined(__GNUC__)
#define Q3_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define Q3_PRINTF(fmt, args)
#endif

/* Stores the sentence for this thread, replacing an earlier one, and returns `code`. */
q3_status q3_fail(q3_status code, const char *fmt, ...) Q3_PRINTF(2, 3);

/* Puts "<context>: " in front of the stored sentence, unless `st` is Q3_OK; returns `st`. */
q3_status q3_wrap(q3_status st, const char *fmt, ...) Q3_PRINTF(2, 3);

/* Puts `prefix` in front of the sentence as it is (no colon added), unless the sentence already begins with
 * it. */
q3_status q3_prefix(q3_status st, const char *prefix);

/* `as` for the generic file errors (IO, FORMAT, LIMIT); other codes pass unchanged. */
q3_status q3_status_as(q3_status st, q3_status as);

/* The sentence of this thread; "" when nothing failed. A worker hands a copy to whoever joins it. */
const char *q3_error(void);

int q3_exit_code(q3_status st);

/* Nearest of `n` names to `word` by edit distance, or NULL when none is near enough to be meant. */
const char *q3_nearest(const char *word, const char *const *names, size_t n);

#define Q3_TRY(expr)                                                                                         \
    do {                                                                                                     \
        q3_status q3_try_status_ = (expr);                                                                   \
        if (q3_try_status_ != Q3_OK)                                                                         \
            return q3_try_status_;                                                                           \
    } while (0)

#define Q3_CHECK(cond, ...)                                                                                  \
    do {                                                                                                     \
        if (!(cond))                                                                                         \
            q3_check_failed(__FILE__, __LINE__, __func__, #cond, __VA_ARGS__);                               \
    } while (0)

_Noreturn void q3_check_failed(const char *file, int line, const char *func, const char *cond,
                               const char *fmt, ...) Q3_PRINTF(5, 6);

#endif
