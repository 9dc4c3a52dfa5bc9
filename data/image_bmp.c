/* Uncompressed BMP files: 1, 4 and 8 bits with a palette, 24 and 32 bits. */
#include <string.h>

#include "data/image_codecs.h"

typedef struct layout {
    int64_t width, height; // as shown
    bool top_down;
    unsigned bits;                // per pixel
    const unsigned char *palette; // entries of palette_step bytes: B, G, R, (unused)
    size_t palette_step, colors;
    const unsigned char *pixels;
    size_t row_bytes;
} layout;

static unsigned read_u16(const unsigned char *p)
{
    return (unsigned)p[1] << 8 | p[0];
}
static uint32_t read_u32(const unsigned char *p)
{
    return (uint32_t)read_u16(p + 2) << 16 | read_u16(p);
}

static q3_status corrupt(const q3_image_source *src, const char *what)
{
    return q3_fail(Q3_ERR_DATA, "%s: the BMP cannot be decoded: %s", src->name, what);
}

/* Bit fields are read when they name the usual order B, G, R in the low three bytes. */
static bool usual_masks(const unsigned char *header, size_t n)
{
    return n >= 52 && read_u32(header + 40) == 0xFF0000 && read_u32(header + 44) == 0xFF00 &&
           read_u32(header + 48) == 0xFF;
}

static q3_status read_header(layout *l, const q3_image_source *src)
{
    const unsigned char *b = src->bytes;
    if (src->size < 26)
        return corrupt(src, "the header is cut off");
    size_t header = read_u32(b + 14);
    bool old = header == 12; // the OS/2 header has 16-bit sizes and 3-byte palette entries
    if ((!old && header < 40) || header > src->size - 14)
        return corrupt(src, "the header is cut off");
    int32_t height = old ? (int32_t)read_u16(b + 20) : (int32_t)read_u32(b + 22);
    l->width = old ? (int64_t)read_u16(b + 18) : (int64_t)(int32_t)read_u32(b + 18);
    l->height = height < 0 ? -(int64_t)height : height;
    l->top_down = height < 0;
    l->bits = read_u16(b + (old ? 24 : 28));
    uint32_t compression = old ? 0 : read_u32(b + 30);
    size_t after = 14 + header;
    if (compression == 3 && header == 40)
        after += 12; // the masks stand behind the short header
    if (after > src->size)
        return corrupt(src, "the header is cut off");
    bool masks = compression == 3 && l->bits == 32 && usual_masks(b + 14, after - 14);
    if ((compression != 0 && !masks) ||
        (l->bits != 1 && l->bits != 4 && l->bits != 8 && l->bits != 24 && l->bits != 32))
        return q3_fail(Q3_ERR_DATA,
                       "%s: BMP with %u bits and compression %u is not supported; convert it to PNG",
                       src->name, l->bits, (unsigned)compression);
    l->palette = b + after;
    l->palette_step = old ? 3 : 4;
    l->colors = (src->size - after) / l->palette_step;
    size_t start = read_u32(b + 10);
    if (start > src->size)
        return corrupt(src, "the pixels begin behind the end of the file");
    l->pixels = b + start;
    return Q3_OK;
}

static bool unpack_row(uint8_t *rgb, const unsigned char *row, const layout *l)
{
    for (int64_t x = 0; x < l->width; x++, rgb += 3) {
        const unsigned char *bgr = row + x * (l->bits / 8);
        if (l->bits <= 8) {
            size_t bit = (size_t)x * l->bits;
            size_t index = (row[bit / 8] >> (8 - l->bits - bit % 8)) & ((1u << l->bits) - 1);
            if (index >= l->colors)
                return false;
            bgr = l->palette + index * l->palette_step;
        }
        rgb[0] = bgr[2];
        rgb[1] = bgr[1];
        rgb[2] = bgr[0];
    }
    return true;
}

q3_status q3_image_bmp(q3_image *out, int *orientation, const q3_image_source *src)
{
    layout l = { 0 };
    *orientation = 1;
    Q3_TRY(read_header(&l, src));
    const q3_image_source header = { .name = src->name, .max_pixels = src->max_pixels, .header_only = true };
    Q3_TRY(q3_image_reserve(out, l.width, l.height, &header)); // the size first: it bounds what follows
    if (src->header_only)
        return Q3_OK;
    l.row_bytes = ((size_t)l.width * l.bits + 31) / 32 * 4;
    if (l.row_bytes > (src->size - (size_t)(l.pixels - src->bytes)) / (size_t)l.height)
        return corrupt(src, "the file ends too early; is the download complete?");
    Q3_TRY(q3_image_reserve(out, l.width, l.height, src));
    for (int64_t y = 0; y < l.height; y++) {
        int64_t from = l.top_down ? y : l.height - 1 - y;
        if (!unpack_row(out->rgb + y * l.width * 3, l.pixels + (size_t)from * l.row_bytes, &l))
            return corrupt(src, "a pixel names a color behind the palette");
    }
    return Q3_OK;
}
