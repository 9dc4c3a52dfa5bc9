/* cli/show_picture.h - a picture in a terminal: two pixels a character, as the upper and lower half of a block in 24-bit
 * colours.
 */
#ifndef Q3_CLI_SHOW_PICTURE_H
#define Q3_CLI_SHOW_PICTURE_H

#include "core/json.h"
#include "data/image.h"

/* Does the terminal behind `fd` have these colours, and want any (NO_COLOR, TERM, COLORTERM)? */
bool q3_picture_showable(int fd);

/* Appends the picture, at most `columns` characters wide and `rows` high, its shape kept. Error: Q3_ERR_MEMORY. */
q3_status q3_picture_draw(q3_text *out, const q3_image *picture, int columns, int rows);

#endif
