/* infer/stream.h - from token ids to text that can be shown at once.
 *
 * Bytes are held back while they are the beginning of a character or of a stop string. A stop string may begin inside one
 * token and end in a later one; text from it on is cut. Of several the one that is complete first counts. At the end an
 * unfinished character becomes one U+FFFD.
 */
#ifndef Q3_INFER_STREAM_H
#define Q3_INFER_STREAM_H

#include "collate/tokenizer.h"

typedef struct q3_stream q3_stream;

/* `stops` [n_stops] are copied; none is empty. Special tokens give no text with skip_special. Errors: Q3_ERR_USAGE (a
 * stop string that is empty or no UTF-8), Q3_ERR_MEMORY. */
q3_status q3_stream_create(q3_stream **out, const q3_tokenizer *tokenizer, const char *const *stops,
                           int n_stops, bool skip_special);
void q3_stream_destroy(q3_stream *s); /* NULL is fine */

/* Appends to `text` what can be shown after this token. *stopped: a stop string was met, nothing comes any more. */
q3_status q3_stream_add(q3_text *text, bool *stopped, q3_stream *s, int32_t id);

/* Appends what was held back; nothing comes any more. */
q3_status q3_stream_end(q3_text *text, q3_stream *s);

#endif
