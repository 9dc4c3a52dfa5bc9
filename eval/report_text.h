/* eval/report_text.h - how words, numbers and pictures get into HTML and SVG. */
#ifndef Q3_EVAL_REPORT_TEXT_H
#define Q3_EVAL_REPORT_TEXT_H

#include "core/json.h"

/* Text for element content and quoted attributes: & < > " ' escaped, control characters and bytes that are no UTF-8
 * replaced by U+FFFD. NULL writes nothing. */
void q3_html_text(q3_text *out, const char *text);

/* Markup as it is. */
void q3_html_raw(q3_text *out, const char *markup);

void q3_html_count(q3_text *out, int64_t n);         /* 1,234,567 */
void q3_html_percent(q3_text *out, double share);    /* 87.5 % */
void q3_html_duration(q3_text *out, double seconds); /* 42 s, 3 min 05 s, 1 h 12 min */
void q3_html_bytes(q3_text *out, double bytes);      /* 21.4 GiB */

/* data:<type>;base64,... of picture bytes; the type is told from their first bytes (PNG, JPEG, WebP, GIF, BMP). */
void q3_html_data_url(q3_text *out, const void *bytes, size_t n);

#endif
