#include "cli/show_picture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/image_resize.h"

static bool said(const char *name, const char *word)
{
    const char *value = getenv(name);
    return value && strstr(value, word);
}

bool q3_picture_showable(int fd)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    if (!isatty(fd) || (none && *none) || !term || strcmp(term, "dumb") == 0)
        return false;
    return said("COLORTERM", "truecolor") || said("COLORTERM", "24bit") || said("TERM", "direct");
}

/* Largest size of the picture's shape in the box; a pixel is as wide as high, since a character is twice as high as
 * wide. */
static void fit(int *width, int *height, const q3_image *picture, int columns, int lines)
{
    double scale = (double)columns / picture->width;
    if (scale * picture->height > lines)
        scale = (double)lines / picture->height;
    *width = (int)(scale * picture->width);
    *height = (int)(scale * picture->height);
    *width = *width < 1 ? 1 : *width;
    *height = *height < 1 ? 1 : *height;
}

q3_status q3_picture_draw(q3_text *out, const q3_image *picture, int columns, int rows)
{
    q3_image small;
    int width, height;
    fit(&width, &height, picture, columns, 2 * rows);
    Q3_TRY(q3_image_resize(&small, picture, width, height, Q3_RESIZE_PILLOW));
    for (int y = 0; y < height; y += 2) {
        for (int x = 0; x < width; x++) {
            const uint8_t *upper = small.rgb + 3 * ((size_t)y * (size_t)width + (size_t)x);
            const uint8_t *lower = upper + 3 * (size_t)width;
            q3_text_printf(out, "\033[38;2;%d;%d;%dm", upper[0], upper[1], upper[2]);
            if (y + 1 < height)
                q3_text_printf(out, "\033[48;2;%d;%d;%dm", lower[0], lower[1], lower[2]);
            q3_text_printf(out, "\xE2\x96\x80"); // U+2580, upper half block
        }
        q3_text_printf(out, "\033[0m\n");
    }
    q3_image_free(&small);
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}
