/* PNG through libpng, both directions. An error inside the library jumps back into the function named
 * guarded_*. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "core/arena.h"
#include "core/json.h" // q3_text, the growing buffer
#include "data/image_codecs.h"

typedef struct coder {
    png_structp png;
    png_infop info;
    const q3_image_source *src;
    size_t at;      // bytes read so far
    uint16_t *grey; // 16-bit grey pixels, big-endian, before they are clipped
    q3_text *to;    // what was written so far
    bool no_memory;
    char message[160];
} coder;

static void on_error(png_structp png, png_const_charp text)
{
    coder *c = png_get_error_ptr(png);
    snprintf(c->message, sizeof c->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static png_voidp take(png_structp png, png_alloc_size_t n)
{
    coder *c = png_get_mem_ptr(png);
    void *p = q3_malloc(n);
    c->no_memory |= !p;
    return p;
}

static void give(png_structp png, png_voidp p)
{
    (void)png;
    q3_free(p);
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    coder *c = png_get_io_ptr(png);
    if (n > c->src->size - c->at)
        png_error(png, "the file ends too early; is the download complete?");
    memcpy(to, c->src->bytes + c->at, n);
    c->at += n;
}

static void write_bytes(png_structp png, png_bytep from, size_t n)
{
    coder *c = png_get_io_ptr(png);
    q3_text_append(c->to, (const char *)from, n);
    if (c->to->failed) {
        c->no_memory = true;
        png_error(png, "out of memory");
    }
}

static void flush(png_structp png)
{
    (void)png;
}

/* The eXIf chunk may stand on either side of the pixels: found by walking the chunks. */
static int orientation_of(const q3_image_source *src)
{
    for (size_t at = 8; src->size - at >= 12;) {
        const unsigned char *p = src->bytes + at;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (n > src->size - at - 12)
            return 1;
        if (memcmp(p + 4, "eXIf", 4) == 0)
            return q3_exif_orientation(p + 8, n);
        at += n + 12;
    }
    return 1;
}

/* Asks libpng for 8-bit RGB rows, or for untouched rows of 16-bit grey. */
static void set_transforms(coder *c, int depth, int type)
{
    if (depth == 16 && type == PNG_COLOR_TYPE_GRAY)
        return;
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(c->png);
    if (depth == 16)
        png_set_strip_16(c->png);
    if (!(type & PNG_COLOR_MASK_COLOR)) {
        if (depth < 8)
            png_set_expand_gray_1_2_4_to_8(c->png);
        png_set_gray_to_rgb(c->png);
    }
    png_set_strip_alpha(c->png);
}

static void clip_grey(uint8_t *rgb, const uint16_t *grey, size_t n)
{
    const unsigned char *p = (const unsigned char *)grey;
    for (size_t i = 0; i < n; i++, p += 2)
        memset(rgb + 3 * i, p[0] ? 255 : p[1], 3);
}

static q3_status read_rows(coder *c, q3_image *out, int passes)
{
    size_t row_bytes = png_get_rowbytes(c->png, c->info);
    size_t width = (size_t)out->width, height = (size_t)out->height;
    Q3_CHECK(row_bytes == (c->grey ? 2 : 3) * width, "%zu bytes for %zu pixels", row_bytes, width);
    uint8_t *rows = c->grey ? (uint8_t *)c->grey : out->rgb;
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < height; y++)
            png_read_row(c->png, rows + y * row_bytes, NULL);
    png_read_end(c->png, NULL);
    if (c->grey)
        clip_grey(out->rgb, c->grey, width * height);
    return Q3_OK;
}

static q3_status guarded_read(coder *c, q3_image *out)
{
    if (setjmp(png_jmpbuf(c->png))) {
        if (c->no_memory)
            return q3_wrap(Q3_ERR_MEMORY, "%s", c->src->name);
        return q3_fail(Q3_ERR_DATA, "%s: the PNG cannot be decoded: %s", c->src->name, c->message);
    }
    png_set_read_fn(c->png, c, read_bytes);
    png_read_info(c->png, c->info);
    Q3_TRY(q3_image_reserve(out, png_get_image_width(c->png, c->info), png_get_image_height(c->png, c->info),
                            c->src));
    if (c->src->header_only)
        return Q3_OK;
    int depth = png_get_bit_depth(c->png, c->info), type = png_get_color_type(c->png, c->info);
    if (depth == 16 && type == PNG_COLOR_TYPE_GRAY) {
        c->grey = q3_malloc((size_t)out->width * (size_t)out->height * 2);
        if (!c->grey)
            return q3_wrap(Q3_ERR_MEMORY, "%s", c->src->name);
    }
    set_transforms(c, depth, type);
    int passes = png_set_interlace_handling(c->png);
    png_read_update_info(c->png, c->info);
    return read_rows(c, out, passes);
}

q3_status q3_image_png(q3_image *out, int *orientation, const q3_image_source *src)
{
    coder c = { .src = src };
    *orientation = orientation_of(src);
    c.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning, &c, take, give);
    c.info = c.png ? png_create_info_struct(c.png) : NULL;
    q3_status st = c.info ? guarded_read(&c, out) : q3_wrap(Q3_ERR_MEMORY, "%s", src->name);
    png_destroy_read_struct(&c.png, &c.info, NULL);
    q3_free(c.grey);
    return st;
}

static q3_status guarded_write(coder *c, const q3_image *img)
{
    if (setjmp(png_jmpbuf(c->png)))
        return c->no_memory ? q3_wrap(Q3_ERR_MEMORY, "PNG")
                            : q3_fail(Q3_ERR_FAIL, "writing a PNG: %s", c->message);
    png_set_write_fn(c->png, c, write_bytes, flush);
    png_set_IHDR(c->png, c->info, (png_uint_32)img->width, (png_uint_32)img->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(c->png, c->info);
    for (int y = 0; y < img->height; y++)
        png_write_row(c->png, img->rgb + (size_t)y * (size_t)img->width * 3);
    png_write_end(c->png, NULL);
    return Q3_OK;
}

q3_status q3_image_encode_png(unsigned char **out, size_t *size, const q3_image *img)
{
    q3_text to = { 0 };
    coder c = { .to = &to };
    *out = NULL;
    *size = 0;
    c.png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning, &c, take, give);
    c.info = c.png ? png_create_info_struct(c.png) : NULL;
    q3_status st = c.info ? guarded_write(&c, img) : q3_wrap(Q3_ERR_MEMORY, "PNG");
    png_destroy_write_struct(&c.png, &c.info);
    if (st != Q3_OK) {
        q3_text_free(&to);
        return st;
    }
    *out = (unsigned char *)to.data;
    *size = to.size;
    return Q3_OK;
}
