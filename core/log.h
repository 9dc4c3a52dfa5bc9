/* core/log.h - progress and notices on stderr (results go to stdout, errors through core/status.h).
 *
 * Levels: -q shows warnings only, the default shows info, -v shows detail. A live line (q3_log_live) is
 * rewritten in place on a terminal and dropped elsewhere; any other message first clears it. Thread-safe.
 */
#ifndef Q3_CORE_LOG_H
#define Q3_CORE_LOG_H

#include "core/status.h"

typedef enum q3_log_level { Q3_LOG_WARN = 0, Q3_LOG_INFO = 1, Q3_LOG_DETAIL = 2 } q3_log_level;

void q3_log_set_level(q3_log_level level);
bool q3_log_enabled(q3_log_level level);

/* One line on stderr, newline added; warnings begin with "warning: ". */
void q3_warn(const char *fmt, ...) Q3_PRINTF(1, 2);
void q3_info(const char *fmt, ...) Q3_PRINTF(1, 2);
void q3_detail(const char *fmt, ...) Q3_PRINTF(1, 2);

/* Replaces the live line; does nothing unless stderr is a terminal. */
void q3_log_live(const char *fmt, ...) Q3_PRINTF(1, 2);
/* Takes the live line away, before something else than these functions writes. */
void q3_log_clear(void);
bool q3_log_is_terminal(void);

/* Seconds since some fixed moment, from the monotonic clock. */
double q3_seconds(void);

/* Writes `n` bytes as "512 B", "1.5 MiB" ... into one of a few rotating per-thread buffers; borrowed. */
const char *q3_bytes(uint64_t n);

/* Writes `n` as "1.42 M", "155 k" ...; same buffers. */
const char *q3_count(uint64_t n);

#endif
