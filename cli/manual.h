/* cli/manual.h - the manual page, written from the tables of commands and of settings. */
#ifndef Q3_CLI_MANUAL_H
#define Q3_CLI_MANUAL_H

#include "core/json.h"

/* As man reads it (man(7), groff). */
void q3_manual_page(q3_text *out);

#endif
