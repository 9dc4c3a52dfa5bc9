/* data/base64.h - base64 text to bytes (RFC 4648, section 4), as pictures travel in JSON. */
#ifndef Q3_DATA_BASE64_H
#define Q3_DATA_BASE64_H

#include "core/status.h"

/* Decodes `n` characters into a new heap block *out (q3_free) of *size bytes. White space is skipped; the
 * padding may be missing. Errors: Q3_ERR_DATA with the position of the first character that does not belong
 * there, Q3_ERR_MEMORY. */
q3_status q3_base64_decode(unsigned char **out, size_t *size, const char *text, size_t n);

/* True when all characters are of the base64 alphabet, padding or white space, and there is at least one. */
bool q3_base64_looks_like(const char *text, size_t n);

#endif
