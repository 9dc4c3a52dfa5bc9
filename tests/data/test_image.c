#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/file.h"
#include "core/json.h"
#include "data/image.h"

#define IMAGES "tests/golden/formats/images/"

static unsigned char *read_golden(const char *name, size_t *size)
{
    char path[300], *bytes;
    snprintf(path, sizeof path, IMAGES "%s", name);
    assert_int_equal(q3_file_read(&bytes, size, path, 1 << 20), Q3_OK);
    return (unsigned char *)bytes;
}

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

/* Decodes, and checks that measuring agrees. */
static q3_status decode(q3_image *out, const void *bytes, size_t n, const q3_image_options *opt)
{
    int width = 0, height = 0;
    q3_status st = q3_image_decode(out, bytes, n, opt, "picture");
    if (st == Q3_OK) {
        assert_int_equal(q3_image_measure(&width, &height, bytes, n, opt, "picture"), Q3_OK);
        assert_int_equal(width, out->width);
        assert_int_equal(height, out->height);
    } else {
        assert_null(out->rgb);
    }
    return st;
}

/* Pixels from Pillow 13.0, EXIF not applied. Lossy formats might differ by a level with other library
 * versions. */
static void golden_pictures_decode_to_the_same_bytes(void **state)
{
    (void)state;
    size_t size;
    int n = 0;
    char *text = (char *)read_golden("images.jsonl", &size);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
        cJSON *v = cJSON_Parse(line);
        assert_non_null(v);
        const char *name = cJSON_GetObjectItem(v, "file")->valuestring;
        char raw[100];
        size_t raw_size;
        snprintf(raw, sizeof raw, "%s.rgb", name);
        unsigned char *bytes = read_golden(name, &size), *rgb = read_golden(raw, &raw_size);
        q3_image img;
        assert_int_equal(decode(&img, bytes, size, &(q3_image_options){ .ignore_exif = true }), Q3_OK);
        assert_int_equal(img.width, cJSON_GetObjectItem(v, "width")->valueint);
        assert_int_equal(img.height, cJSON_GetObjectItem(v, "height")->valueint);
        if (memcmp(img.rgb, rgb, raw_size) != 0)
            fail_msg("%s: other pixels than the reference", name);
        q3_image_free(&img);
        q3_free(bytes);
        q3_free(rgb);
        cJSON_Delete(v);
    }
    assert_int_equal(n, 17);
    q3_free(text);
}

/* Where the pixel shown at (x, y) is stored, by the wording of the EXIF standard. */
static void stored_at(int orientation, int x, int y, int w, int h, int *sx, int *sy)
{
    switch (orientation) { // w, h: size as stored
    case 1:
        *sx = x, *sy = y;
        break;
    case 2:
        *sx = w - 1 - x, *sy = y;
        break;
    case 3:
        *sx = w - 1 - x, *sy = h - 1 - y;
        break;
    case 4:
        *sx = x, *sy = h - 1 - y;
        break;
    case 5:
        *sx = y, *sy = x;
        break;
    case 6:
        *sx = y, *sy = h - 1 - x;
        break;
    case 7:
        *sx = w - 1 - y, *sy = h - 1 - x;
        break;
    default:
        *sx = w - 1 - y, *sy = x;
        break;
    }
}

static void exif_orientations_turn_the_picture(void **state)
{
    (void)state;
    size_t size;
    unsigned char *bytes = read_golden("rotated-100x60.jpg", &size);
    q3_image plain, turned;
    assert_int_equal(decode(&plain, bytes, size, &(q3_image_options){ .ignore_exif = true }), Q3_OK);
    static const unsigned char tag[] = {
        0x01, 0x12, 0, 3, 0, 0, 0, 1, 0
    }; // big-endian: tag, SHORT, one, high byte
    unsigned char *value = memmem(bytes, size, tag, sizeof tag);
    assert_non_null(value);
    value += sizeof tag;
    assert_int_equal(*value, 6);
    for (int o = 1; o <= 8; o++) {
        *value = (unsigned char)o;
        assert_int_equal(decode(&turned, bytes, size, NULL), Q3_OK);
        assert_int_equal(turned.width, o < 5 ? 100 : 60);
        for (int y = 0; y < turned.height; y++)
            for (int x = 0; x < turned.width; x++) {
                int sx, sy;
                stored_at(o, x, y, 100, 60, &sx, &sy);
                assert_memory_equal(turned.rgb + 3 * (y * turned.width + x), plain.rgb + 3 * (sy * 100 + sx),
                                    3);
            }
        q3_image_free(&turned);
    }
    for (int bad = 0; bad < 256; bad += 9) { // 0, 9 and beyond mean nothing
        *value = (unsigned char)bad;
        assert_int_equal(decode(&turned, bytes, size, NULL), Q3_OK);
        assert_int_equal(turned.width, 100);
        q3_image_free(&turned);
    }
    q3_image_free(&plain);
    q3_free(bytes);
}

/* ---- PNGs of every type, written here with libpng ---- */

typedef struct made {
    unsigned char bytes[4096];
    size_t size;
} made;

static void write_bytes(png_structp png, png_bytep from, size_t n)
{
    made *m = png_get_io_ptr(png);
    assert_true(m->size + n <= sizeof m->bytes);
    memcpy(m->bytes + m->size, from, n);
    m->size += n;
}

static void flush(png_structp png)
{
    (void)png;
}

enum { W = 7, H = 5 };

/* Row y of the picture: bytes that depend on the place only, packed for any depth. */
static void fill_row(png_byte *row, size_t n, int y)
{
    for (size_t i = 0; i < n; i++)
        row[i] = (png_byte)(i * 53 + (size_t)y * 97 + 11);
}

static made make_png(int depth, int type, int interlace)
{
    made m = { .size = 0 };
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    if (setjmp(png_jmpbuf(png)))
        fail_msg("libpng failed");
    png_set_write_fn(png, &m, write_bytes, flush);
    png_set_IHDR(png, info, W, H, depth, type, interlace, 0, 0);
    if (type == PNG_COLOR_TYPE_PALETTE) {
        png_color palette[256];
        for (int i = 0; i < 1 << depth; i++)
            palette[i] = (png_color){ (png_byte)(i * 3), (png_byte)(255 - i), (png_byte)(i * 7) };
        png_byte alpha[2] = { 0, 128 };
        png_set_PLTE(png, info, palette, 1 << depth);
        png_set_tRNS(png, info, alpha, 2, NULL);
    } else if (!(type & PNG_COLOR_MASK_ALPHA)) {
        png_color_16 key = { 0, 11, 11, 11, 1 };
        png_set_tRNS(png, info, NULL, 0, &key);
    }
    png_write_info(png, info);
    size_t n = png_get_rowbytes(png, info);
    png_byte rows[H][64], *at[H];
    for (int y = 0; y < H; y++)
        fill_row(at[y] = rows[y], n, y);
    png_write_image(png, at);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    return m;
}

/* What PIL makes of sample `s` of a channel. */
static int eight_bits(const png_byte *row, int depth, int type, int sample)
{
    if (depth == 16 && type == PNG_COLOR_TYPE_GRAY)
        return row[2 * sample] ? 255 : row[2 * sample + 1];
    if (depth >= 8)
        return row[sample * (depth / 8)];
    int at = sample * depth, value = (row[at / 8] >> (8 - depth - at % 8)) & ((1 << depth) - 1);
    return type == PNG_COLOR_TYPE_PALETTE ? value : value * 255 / ((1 << depth) - 1);
}

static void check_png(int depth, int type, int interlace)
{
    made m = make_png(depth, type, interlace);
    q3_image img;
    if (decode(&img, m.bytes, m.size, NULL) != Q3_OK)
        fail_msg("depth %d, type %d: %s", depth, type, q3_error());
    assert_true(img.width == W && img.height == H);
    int channels = type == PNG_COLOR_TYPE_RGB    ? 3
                   : type == PNG_COLOR_TYPE_RGBA ? 4
                   : type == PNG_COLOR_TYPE_GA   ? 2
                                                 : 1;
    for (int i = 0; i < W * H; i++) {
        png_byte row[64];
        fill_row(row, sizeof row, i / W);
        for (int c = 0; c < 3; c++) {
            int want = eight_bits(row, depth, type, i % W * channels + (channels >= 3 ? c : 0));
            if (type == PNG_COLOR_TYPE_PALETTE)
                want = (c == 0 ? want * 3 : c == 1 ? 255 - want : want * 7) & 255;
            if (img.rgb[3 * i + c] != want)
                fail_msg("depth %d, type %d: pixel %d is %d, not %d", depth, type, i, img.rgb[3 * i + c],
                         want);
        }
    }
    q3_image_free(&img);
}

static void every_png_type_and_depth_is_read_as_pil_reads_it(void **state)
{
    (void)state;
    for (int interlace = PNG_INTERLACE_NONE; interlace <= PNG_INTERLACE_ADAM7; interlace++) {
        for (int depth = 1; depth <= 16; depth *= 2)
            check_png(depth, PNG_COLOR_TYPE_GRAY, interlace);
        for (int depth = 1; depth <= 8; depth *= 2)
            check_png(depth, PNG_COLOR_TYPE_PALETTE, interlace);
        for (int depth = 8; depth <= 16; depth *= 2) {
            check_png(depth, PNG_COLOR_TYPE_RGB, interlace);
            check_png(depth, PNG_COLOR_TYPE_RGBA, interlace);
            check_png(depth, PNG_COLOR_TYPE_GA, interlace);
        }
    }
}

static void a_picture_survives_png_and_back(void **state)
{
    (void)state;
    uint8_t rgb[3 * 31 * 17];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * i / 7);
    const q3_image img = { 31, 17, rgb };
    unsigned char *png;
    size_t size;
    assert_int_equal(q3_image_encode_png(&png, &size, &img), Q3_OK);
    q3_image back;
    assert_int_equal(decode(&back, png, size, NULL), Q3_OK);
    assert_true(back.width == 31 && back.height == 17);
    assert_memory_equal(back.rgb, rgb, sizeof rgb);
    q3_image_free(&back);
    q3_free(png);
}

/* ---- BMP ---- */

static void put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

/* A BMP of 3 x 2 pixels whose indices or components count up from the lower left. */
static size_t make_bmp(unsigned char *b, int bits, int32_t height)
{
    size_t palette = bits <= 8 ? 4u << bits : 0, row = (3 * (size_t)bits + 31) / 32 * 4, start = 54 + palette;
    memset(b, 0, 54);
    memcpy(b, "BM", 2);
    put32(b + 10, (uint32_t)start);
    put32(b + 14, 40);
    put32(b + 18, 3);
    put32(b + 22, (uint32_t)height);
    b[26] = 1;
    b[28] = (unsigned char)bits;
    for (size_t i = 0; i < palette; i++)
        b[54 + i] = (unsigned char)(i * 5);
    for (size_t i = 0; i < 2 * row; i++)
        b[start + i] = (unsigned char)(i * 17 + 3);
    return start + 2 * row;
}

static void bmp_files_are_read(void **state)
{
    (void)state;
    static const int depths[] = { 1, 4, 8, 24, 32 };
    for (int d = 0; d < 5; d++)
        for (int flip = 0; flip < 2; flip++) {
            unsigned char b[2000];
            int bits = depths[d];
            size_t n = make_bmp(b, bits, flip ? -2 : 2), row = (3 * (size_t)bits + 31) / 32 * 4;
            q3_image img;
            assert_int_equal(decode(&img, b, n, NULL), Q3_OK);
            for (int i = 0; i < 6; i++) {
                const unsigned char *p = b + n - 2 * row + (size_t)(flip ? i / 3 : 1 - i / 3) * row;
                int at = i % 3 * bits,
                    index = bits <= 8 ? (p[at / 8] >> (8 - bits - at % 8)) & ((1 << bits) - 1) : 0;
                const unsigned char *bgr = bits <= 8 ? b + 54 + 4 * index : p + i % 3 * (bits / 8);
                for (int c = 0; c < 3; c++)
                    assert_int_equal(img.rgb[3 * i + c], bgr[2 - c]);
            }
            q3_image_free(&img);
            for (size_t cut = 1; cut < n; cut++)
                assert_int_equal(decode(&img, b, cut, NULL), Q3_ERR_DATA);
        }
}

/* ---- what is refused ---- */

static void assert_refused(const char *bytes, size_t n, const char *part)
{
    q3_image img;
    assert_int_equal(q3_image_decode(&img, bytes, n, NULL, "a.jsonl:3: b.png"), Q3_ERR_DATA);
    assert_error("a.jsonl:3: b.png: ");
    assert_error(part);
}

static void other_content_is_refused_by_name(void **state)
{
    (void)state;
    assert_refused("", 0, "empty (0 bytes)");
    assert_refused("GIF89a....", 10, "GIF is not supported; convert it to PNG");
    assert_refused("<!DOCTYPE html>", 15, "did a download fail?");
    assert_refused("version https://git-lfs.github.com/spec/v1", 42, "run git lfs pull");
    assert_refused("\0\0\0\x1c"
                   "ftypavif....",
                   16, "AVIF");
    assert_refused("\x12\x34\x56\x78", 4, "not a picture that can be read");
    assert_refused("\xFF\xD8\xFF", 3, "the JPEG cannot be decoded");
    static const char animated[] = "RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x09\0\0\x09\0\0ANIM";
    assert_refused(animated, sizeof animated - 1, "WebP");
}

/* Every cut of a file is an error, not a picture with invented pixels. */
static void truncated_files_are_errors(void **state)
{
    (void)state;
    static const char *const names[] = { "gray-77x33.jpg",   "progressive-90x90.jpg", "cmyk-60x44.jpg",
                                         "gray-50x90.png",   "rgba-64x80.png",        "tiny-9x5.png",
                                         "lossy-80x60.webp", "rgb-80x60.webp" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        unsigned char *bytes = read_golden(names[i], &size);
        size_t step = 1 + size / 150;
        for (size_t n = 0; n < size; n += n + 40 < size ? step : 1) {
            unsigned char *exact = malloc(n ? n : 1); // so that a sanitizer sees reads behind the end
            memcpy(exact, bytes, n);
            q3_image img;
            if (decode(&img, exact, n, NULL) != Q3_ERR_DATA)
                fail_msg("%s: accepted after %zu of %zu bytes", names[i], n, size);
            free(exact);
        }
        q3_free(bytes);
    }
}

static void flipped_bytes_never_crash(void **state)
{
    (void)state;
    static const char *const names[] = { "gray-77x33.jpg", "progressive-90x90.jpg", "rotated-100x60.jpg",
                                         "palette-70x70.png", "lossy-80x60.webp" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        unsigned char *bytes = read_golden(names[i], &size);
        for (uint32_t k = 0, x = 7; k < 150; k++) {
            x = 1664525 * x + 1013904223;
            size_t at = (x >> 8) % size;
            unsigned char was = bytes[at];
            bytes[at] ^= (unsigned char)(1u << (x >> 29));
            q3_image img;
            q3_status st =
                q3_image_decode(&img, bytes, size, &(q3_image_options){ .max_pixels = 1 << 20 }, "picture");
            assert_true(st == Q3_OK || st == Q3_ERR_DATA);
            q3_image_free(&img);
            bytes[at] = was;
        }
        q3_free(bytes);
    }
}

static void large_pictures_are_refused_before_they_are_decoded(void **state)
{
    (void)state;
    size_t size;
    static const char *const names[] = { "rgb-96x64.png", "rgb-80x60.webp", "rgb-120x88.jpg" };
    for (int i = 0; i < 3; i++) {
        unsigned char *bytes = read_golden(names[i], &size);
        q3_image img;
        q3_heap_fail_at(0);
        assert_int_equal(decode(&img, bytes, size, &(q3_image_options){ .max_pixels = 4000 }), Q3_ERR_DATA);
        assert_error("at most 4000 pixels are decoded");
        q3_free(bytes);
    }
    unsigned char bomb[2000];
    size_t n = make_bmp(bomb, 24, 2);
    put32(bomb + 18, 1u << 30);
    put32(bomb + 22, 1u << 30);
    q3_image img;
    assert_int_equal(decode(&img, bomb, n, NULL), Q3_ERR_DATA);
    assert_error("at most 178956970 pixels");
}

static void max_side_shrinks_and_caps_the_area(void **state)
{
    (void)state;
    size_t size;
    unsigned char *bytes = read_golden("rgb-400x300.png", &size);
    q3_image img;
    assert_int_equal(decode(&img, bytes, size, &(q3_image_options){ .max_side = 100 }), Q3_OK);
    assert_true(img.width == 100 && img.height == 75);
    q3_image_free(&img);
    assert_int_equal(decode(&img, bytes, size, &(q3_image_options){ .max_side = 400 }), Q3_OK);
    assert_true(img.width == 400 && img.height == 300);
    q3_image_free(&img);
    q3_free(bytes);
    const q3_image large = { 3000, 2500, q3_calloc(3000 * 2500, 3) }; // 7.5 million pixels
    assert_int_equal(q3_image_encode_png(&bytes, &size, &large), Q3_OK);
    int width, height;
    assert_int_equal(
        q3_image_measure(&width, &height, bytes, size, &(q3_image_options){ .max_side = 3000 }, "picture"),
        Q3_OK);
    assert_true(width * height <= Q3_IMAGE_CAP_PIXELS && width * height > Q3_IMAGE_CAP_PIXELS * 0.99);
    assert_true(fabs((double)width / height - 1.2) < 0.002);
    q3_free(bytes);
    q3_free(large.rgb);
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    static const char *const names[] = { "gray16-48x48.png", "cmyk-60x44.jpg", "rotated-100x60.jpg",
                                         "lossy-80x60.webp" };
    for (int i = 0; i < 4; i++) {
        size_t size, png_size;
        unsigned char *bytes = read_golden(names[i], &size), *png = NULL;
        q3_status st = Q3_ERR_FAIL;
        for (int64_t n = 1; st != Q3_OK; n++) {
            q3_image img;
            q3_heap_fail_at(n);
            st = q3_image_decode(&img, bytes, size, &(q3_image_options){ .max_side = 30 }, "picture");
            if (st == Q3_OK)
                st = q3_image_encode_png(&png, &png_size, &img);
            q3_heap_fail_at(0);
            if (st != Q3_OK && st != Q3_ERR_MEMORY)
                fail_msg("%s, request %d: %d %s", names[i], (int)n, (int)st, q3_error());
            q3_image_free(&img);
            q3_free(png);
            png = NULL;
            assert_true(n < 200);
        }
        q3_free(bytes);
    }
}

static void a_missing_file_is_a_data_error(void **state)
{
    (void)state;
    q3_image img;
    assert_int_equal(q3_image_open(&img, IMAGES "absent.png", NULL), Q3_ERR_DATA);
    assert_error(IMAGES "absent.png: No such file");
    assert_int_equal(q3_image_open(&img, IMAGES "tiny-9x5.png", NULL), Q3_OK);
    assert_int_equal(img.width, 9);
    q3_image_free(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_pictures_decode_to_the_same_bytes),
        cmocka_unit_test(exif_orientations_turn_the_picture),
        cmocka_unit_test(every_png_type_and_depth_is_read_as_pil_reads_it),
        cmocka_unit_test(a_picture_survives_png_and_back),
        cmocka_unit_test(bmp_files_are_read),
        cmocka_unit_test(other_content_is_refused_by_name),
        cmocka_unit_test(truncated_files_are_errors),
        cmocka_unit_test(flipped_bytes_never_crash),
        cmocka_unit_test(large_pictures_are_refused_before_they_are_decoded),
        cmocka_unit_test(max_side_shrinks_and_caps_the_area),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(a_missing_file_is_a_data_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
