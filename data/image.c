#include "data/image.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "data/image_codecs.h"
#include "data/image_resize.h"

#define FILE_LIMIT ((size_t)512 << 20)

typedef q3_status (*codec)(q3_image *out, int *orientation, const q3_image_source *src);

/* How a file begins, and who reads it; without a codec, what the user hears instead. */
typedef struct signature {
    const char *magic;
    size_t offset;
    codec read;
    const char *refusal;
} signature;

static const signature SIGNATURES[] = {
    { "\xFF\xD8\xFF", 0, q3_image_jpeg, NULL },
    { "\x89PNG\r\n\x1A\n", 0, q3_image_png, NULL },
    { "WEBP", 8, q3_image_webp, NULL }, // behind "RIFF" and a size
    { "BM", 0, q3_image_bmp, NULL },
    { "GIF8", 0, NULL, "GIF is not supported; convert it to PNG" },
    { "II*", 0, NULL, "TIFF is not supported; convert it to PNG" },
    { "MM", 0, NULL, "TIFF is not supported; convert it to PNG" },
    { "ftypavif", 4, NULL, "AVIF is not supported; convert it to PNG" },
    { "ftyp", 4, NULL, "HEIC and video files are not supported; convert the picture to PNG" },
    { "\xFF\x0A", 0, NULL, "JPEG XL is not supported; convert it to PNG" },
    { "%PDF", 0, NULL, "this is a PDF document, not a picture" },
    { "version https://git-lfs", 0, NULL, "this is a Git LFS pointer, not the picture; run git lfs pull" },
    { "<", 0, NULL, "this is text (HTML, XML or SVG), not a picture; did a download fail?" },
    { "{", 0, NULL, "this is text (JSON), not a picture; did a download fail?" },
};

void q3_image_free(q3_image *img)
{
    q3_free(img->rgb);
    *img = (q3_image){ 0 };
}

q3_status q3_image_reserve(q3_image *out, int64_t width, int64_t height, const q3_image_source *src)
{
    if (width < 1 || height < 1)
        return q3_fail(Q3_ERR_DATA, "%s: the picture is empty (%lld x %lld pixels)", src->name,
                       (long long)width, (long long)height);
    if (width > INT32_MAX / 8 || height > INT32_MAX / 8 || width * height > src->max_pixels)
        return q3_fail(Q3_ERR_DATA,
                       "%s: %lld x %lld pixels, and at most %lld pixels are decoded; shrink the picture",
                       src->name, (long long)width, (long long)height, (long long)src->max_pixels);
    out->width = (int)width;
    out->height = (int)height;
    if (src->header_only)
        return Q3_OK;
    out->rgb = q3_malloc((size_t)width * (size_t)height * 3);
    return out->rgb ? Q3_OK : q3_wrap(Q3_ERR_MEMORY, "%s", src->name);
}

static unsigned read_u16(const unsigned char *p, bool big)
{
    return big ? (unsigned)p[0] << 8 | p[1] : (unsigned)p[1] << 8 | p[0];
}

static uint32_t read_u32(const unsigned char *p, bool big)
{
    return big ? read_u16(p, big) << 16 | read_u16(p + 2, big)
               : read_u16(p + 2, big) << 16 | read_u16(p, big);
}

int q3_exif_orientation(const unsigned char *exif, size_t n)
{
    if (n < 8 || (memcmp(exif, "II*\0", 4) != 0 && memcmp(exif, "MM\0*", 4) != 0))
        return 1;
    bool big = exif[0] == 'M';
    size_t directory = read_u32(exif + 4, big);
    if (directory > n - 2)
        return 1;
    unsigned entries = read_u16(exif + directory, big);
    for (unsigned i = 0; i < entries; i++) {
        size_t at = directory + 2 + (size_t)i * 12; // tag, type, count, value
        if (at + 12 > n)
            return 1;
        if (read_u16(exif + at, big) != 0x0112)
            continue;
        unsigned value = read_u16(exif + at + 8, big);
        bool plain = read_u16(exif + at + 2, big) == 3 && read_u32(exif + at + 4, big) == 1;
        return plain && value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* EXIF orientations as two flips of the source and an exchange of the axes before them. */
static bool swaps_axes(int orientation)
{
    return orientation >= 5;
}

static q3_status orient(q3_image *img, int orientation, const q3_image_source *src)
{
    bool swap = swaps_axes(orientation);
    bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    q3_image turned = { 0 };
    Q3_TRY(q3_image_reserve(&turned, swap ? img->height : img->width, swap ? img->width : img->height, src));
    int64_t step_x = flip_x ? -3 : 3, step_y = (flip_y ? -3 : 3) * (int64_t)img->width;
    int64_t first = (flip_x ? 3 * ((int64_t)img->width - 1) : 0) +
                    (flip_y ? 3 * (int64_t)img->width * (img->height - 1) : 0);
    int64_t along = swap ? step_y : step_x, down = swap ? step_x : step_y;
    uint8_t *to = turned.rgb;
    for (int y = 0; y < turned.height; y++) {
        const uint8_t *from = img->rgb + first + y * down;
        for (int x = 0; x < turned.width; x++, to += 3)
            memcpy(to, from + x * along, 3);
    }
    q3_image_free(img);
    *img = turned;
    return Q3_OK;
}

static q3_status find_codec(codec *out, const q3_image_source *src)
{
    *out = NULL;
    if (src->size == 0)
        return q3_fail(Q3_ERR_DATA, "%s: the image file is empty (0 bytes)", src->name);
    for (size_t i = 0; i < sizeof SIGNATURES / sizeof *SIGNATURES; i++) {
        const signature *s = &SIGNATURES[i];
        size_t n = strlen(s->magic);
        if (src->size < s->offset + n || memcmp(src->bytes + s->offset, s->magic, n) != 0)
            continue;
        if (!s->read)
            return q3_fail(Q3_ERR_DATA, "%s: %s", src->name, s->refusal);
        *out = s->read;
        return Q3_OK;
    }
    return q3_fail(Q3_ERR_DATA, "%s: not a picture that can be read (JPEG, PNG, WebP or BMP)", src->name);
}

/* The size that max_side allows; false when the picture already fits. */
static bool shrunk(int *width, int *height, int max_side)
{
    int longest = *width > *height ? *width : *height;
    double area = (double)*width * *height;
    double scale = fmin(1, fmin((double)max_side / longest, sqrt(Q3_IMAGE_CAP_PIXELS / area)));
    if (max_side <= 0 || scale >= 1)
        return false;
    *width = (int)fmax(1, floor(*width * scale + 1e-9)); // the tiny term: 3000 * (1536 / 3000) is 1536
    *height = (int)fmax(1, floor(*height * scale + 1e-9));
    return true;
}

static q3_status shrink(q3_image *img, int max_side)
{
    int width = img->width, height = img->height;
    if (!shrunk(&width, &height, max_side))
        return Q3_OK;
    q3_image small;
    Q3_TRY(q3_image_resize(&small, img, width, height, Q3_RESIZE_PILLOW));
    q3_image_free(img);
    *img = small;
    return Q3_OK;
}

static q3_image_source source_of(const void *bytes, size_t n, const q3_image_options *opt, const char *name)
{
    return (q3_image_source){ .bytes = bytes,
                              .size = n,
                              .name = name,
                              .max_pixels = opt->max_pixels > 0 ? opt->max_pixels : Q3_IMAGE_MAX_PIXELS };
}

q3_status q3_image_decode(q3_image *out, const void *bytes, size_t n, const q3_image_options *opt,
                          const char *name)
{
    static const q3_image_options defaults = { 0 };
    opt = opt ? opt : &defaults;
    *out = (q3_image){ 0 };
    const q3_image_source src = source_of(bytes, n, opt, name);
    codec read;
    int orientation = 1;
    Q3_TRY(find_codec(&read, &src));
    q3_status st = read(out, &orientation, &src);
    if (st == Q3_OK && orientation != 1 && !opt->ignore_exif)
        st = orient(out, orientation, &src);
    if (st == Q3_OK)
        st = shrink(out, opt->max_side);
    if (st != Q3_OK)
        q3_image_free(out);
    return st;
}

q3_status q3_image_measure(int *width, int *height, const void *bytes, size_t n, const q3_image_options *opt,
                           const char *name)
{
    static const q3_image_options defaults = { 0 };
    opt = opt ? opt : &defaults;
    q3_image_source src = source_of(bytes, n, opt, name);
    src.header_only = true;
    codec read;
    q3_image img = { 0 };
    int orientation = 1;
    Q3_TRY(find_codec(&read, &src));
    Q3_TRY(read(&img, &orientation, &src));
    bool swap = swaps_axes(orientation) && !opt->ignore_exif;
    *width = swap ? img.height : img.width;
    *height = swap ? img.width : img.height;
    shrunk(width, height, opt->max_side);
    return Q3_OK;
}

q3_status q3_image_open(q3_image *out, const char *path, const q3_image_options *opt)
{
    char *bytes;
    size_t size;
    *out = (q3_image){ 0 };
    Q3_TRY(q3_status_as(q3_file_read(&bytes, &size, path, FILE_LIMIT), Q3_ERR_DATA));
    q3_status st = q3_image_decode(out, bytes, size, opt, path);
    q3_free(bytes);
    return st;
}
