/* tests/support/browser.h - a page in a headless Chromium, driven over --remote-debugging-pipe: JSON messages, each ended by a
 * NUL, on descriptors 3 and 4 (https://chromedevtools.github.io/devtools-protocol/).
 *
 * What goes wrong fails the test.
 */
#ifndef Q3_TESTS_SUPPORT_BROWSER_H
#define Q3_TESTS_SUPPORT_BROWSER_H

#include "core/json.h"

typedef struct q3_browser q3_browser;

/* The program, looked for in PATH; NULL: there is none. */
const char *q3_browser_find(void);

q3_browser *q3_browser_open(const char *program, const char *profile_dir);
void q3_browser_close(q3_browser *b);

void q3_browser_size(q3_browser *b, int width, int height);
void q3_browser_go(q3_browser *b, const char *url);

/* What an expression is, as a string; a promise is waited for. In a buffer until the next call. */
const char *q3_browser_value(q3_browser *b, const char *expression);

/* Waits until an expression is true. */
void q3_browser_wait(q3_browser *b, const char *expression);

/* What the page complained of so far: exceptions, and errors in the console such as a violated policy. "": nothing. */
const char *q3_browser_complaints(const q3_browser *b);

#endif
