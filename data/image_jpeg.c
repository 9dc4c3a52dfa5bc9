/* JPEG through libjpeg-turbo. An error inside the library jumps back into `guarded`; warnings that mean lost
 * pixels are errors here (the library would go on with grey). */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "core/arena.h"
#include "data/image_codecs.h"

#define MAX_SCANS 500 // a progressive file of a few bytes per scan can ask for hours of work

typedef struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    uint8_t *line; // one CMYK row
} reader;

static void fail(j_common_ptr jpeg)
{
    reader *r = jpeg->client_data;
    jpeg->err->format_message(jpeg, r->message);
    longjmp(r->jump, 1);
}

static void on_message(j_common_ptr jpeg, int level)
{
    switch (level < 0 ? jpeg->err->msg_code : 0) {
    case JWRN_HIT_MARKER:
    case JWRN_JPEG_EOF:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
        fail(jpeg);
    }
}

static void no_output(j_common_ptr jpeg)
{
    (void)jpeg;
}

static void on_progress(j_common_ptr jpeg)
{
    reader *r = jpeg->client_data;
    if (jpeg->is_decompressor && ((j_decompress_ptr)jpeg)->input_scan_number > MAX_SCANS) {
        snprintf(r->message, sizeof r->message, "more than %d scans", MAX_SCANS);
        longjmp(r->jump, 1);
    }
}

static int orientation_of(const struct jpeg_decompress_struct *jpeg)
{
    for (jpeg_saved_marker_ptr m = jpeg->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length > 6 && memcmp(m->data, "Exif\0\0", 6) == 0)
            return q3_exif_orientation(m->data + 6, m->data_length - 6);
    return 1;
}

/* Pillow's CMYK to RGB, after undoing the inversion that every CMYK JPEG is taken to have: both inversions
 * meet in `k`, which is stored as 255 - black. */
static void rgb_from_cmyk(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++, cmyk += 4, rgb += 3) {
        int k = cmyk[3];
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[c]) * k + 128; // rounded division by 255
            rgb[c] = (uint8_t)(k - (((t >> 8) + t) >> 8));
        }
    }
}

static q3_status read_rows(reader *r, q3_image *out)
{
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = out->rgb + (size_t)jpeg->output_scanline * (size_t)out->width * 3;
        JSAMPROW target = r->line ? r->line : row;
        jpeg_read_scanlines(jpeg, &target, 1);
        if (r->line)
            rgb_from_cmyk(row, r->line, out->width);
    }
    jpeg_finish_decompress(jpeg);
    return Q3_OK;
}

static q3_status failed(const reader *r, const q3_image_source *src)
{
    if (r->errors.msg_code == JERR_OUT_OF_MEMORY)
        return q3_fail(Q3_ERR_MEMORY, "%s: out of memory while decoding a JPEG", src->name);
    return q3_fail(Q3_ERR_DATA, "%s: the JPEG cannot be decoded: %s", src->name, r->message);
}

static q3_status guarded(reader *r, q3_image *out, int *orientation, const q3_image_source *src)
{
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    if (setjmp(r->jump))
        return failed(r, src);
    jpeg_create_decompress(jpeg);
    jpeg->client_data = r;
    jpeg->progress = &r->progress;
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(jpeg, src->bytes, src->size);
    jpeg_read_header(jpeg, TRUE);
    *orientation = orientation_of(jpeg);
    Q3_TRY(q3_image_reserve(out, jpeg->image_width, jpeg->image_height, src));
    if (src->header_only)
        return Q3_OK;
    bool cmyk = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
    jpeg->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    if (cmyk && !(r->line = q3_malloc((size_t)out->width * 4)))
        return q3_wrap(Q3_ERR_MEMORY, "%s", src->name);
    return read_rows(r, out);
}

q3_status q3_image_jpeg(q3_image *out, int *orientation, const q3_image_source *src)
{
    reader r = { 0 };
    r.jpeg.err = jpeg_std_error(&r.errors);
    r.jpeg.client_data = &r; // jpeg_create_decompress keeps it and may already fail
    r.errors.error_exit = fail;
    r.errors.emit_message = on_message;
    r.errors.output_message = no_output;
    r.progress.progress_monitor = on_progress;
    q3_status st = guarded(&r, out, orientation, src);
    jpeg_destroy_decompress(&r.jpeg);
    q3_free(r.line);
    return st;
}
