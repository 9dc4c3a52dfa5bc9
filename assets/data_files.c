#include "assets/data_files.h"

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "core/file.h"

q3_status q3_scene_path(char out[Q3_PATH_BYTES], const char *dir, const char *name)
{
    if (snprintf(out, Q3_PATH_BYTES, "%s/%s", dir, name) >= Q3_PATH_BYTES)
        return q3_fail(Q3_ERR_LIMIT, "%s/%s: the path is too long", dir, name);
    return Q3_OK;
}

/* out.<suffix>-<process>, where a directory is made before it takes the place of `out`, or waits for its
 * removal. */
static q3_status path_beside(char path[Q3_PATH_BYTES], const char *out, const char *suffix)
{
    if (snprintf(path, Q3_PATH_BYTES, "%s.%s-%ld", out, suffix, (long)getpid()) >= Q3_PATH_BYTES)
        return q3_fail(Q3_ERR_LIMIT, "%s: the path is too long", out);
    return Q3_OK;
}

typedef struct png_style {
    int filters, level, strategy;
} png_style;

static void put_png(png_structp png, png_infop info, const uint8_t *rgb, int width, int height,
                    png_style style)
{
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, style.filters);
    png_set_compression_level(png, style.level);
    png_set_compression_strategy(png, style.strategy);
    png_write_info(png, info);
    for (int y = 0; y < height; y++)
        png_write_row(png, rgb + (size_t)y * (size_t)width * 3);
    png_write_end(png, info);
}

/* libpng reports errors by longjmp: everything that must survive is set before setjmp. */
static bool put_png_safely(FILE *file, const uint8_t *rgb, int width, int height, png_style style)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    png_init_io(png, file);
    put_png(png, info, rgb, width, height, style);
    png_destroy_write_struct(&png, &info);
    return true;
}

/* For noisy pictures in great number: half the time of zlib's fastest level, and smaller (a scene: 18 KB, 0.3
 * ms). */
static const png_style fast = { PNG_FILTER_SUB, 1, Z_HUFFMAN_ONLY };
static const png_style small = { PNG_FILTER_PAETH, 9, Z_FILTERED };

q3_status q3_scene_png(const char *path, const uint8_t *rgb, int width, int height, bool compact)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return q3_fail(Q3_ERR_IO, "%s: %s", path, strerror(errno));
    bool ok = put_png_safely(file, rgb, width, height, compact ? small : fast);
    if (fclose(file) || !ok)
        return q3_fail(Q3_ERR_IO, "%s: could not be written; is the disk full?", path);
    return Q3_OK;
}

/* ---- JSONL rows ---- */

q3_status q3_rows_open(q3_rows *out, const char *dir, const char *name)
{
    *out = (q3_rows){ 0 };
    Q3_TRY(q3_scene_path(out->path, dir, name));
    out->file = fopen(out->path, "w");
    return out->file ? Q3_OK : q3_fail(Q3_ERR_IO, "%s: %s", out->path, strerror(errno));
}

static void put_field(q3_text *line, const char *key, const char *value)
{
    q3_text_printf(line, "%s\"%s\": ", line->size ? ", " : "{", key);
    q3_text_json_string(line, value, strlen(value));
}

q3_status q3_rows_put(q3_rows *to, const q3_row *r)
{
    to->line.size = 0;
    put_field(&to->line, "id", r->id);
    put_field(&to->line, "image", r->image);
    put_field(&to->line, "query", r->query);
    put_field(&to->line, "target_json", r->target);
    if (r->label)
        put_field(&to->line, "label", r->label);
    put_field(&to->line, "source", r->source);
    q3_text_append(&to->line, "}\n", 2);
    if (to->line.failed)
        return q3_wrap(Q3_ERR_MEMORY, "%s", to->path);
    if (fwrite(to->line.data, 1, to->line.size, to->file) != to->line.size)
        return q3_fail(Q3_ERR_IO, "%s: %s", to->path, strerror(errno));
    return Q3_OK;
}

q3_status q3_rows_close(q3_rows *to, q3_status st)
{
    q3_text_free(&to->line);
    if (fclose(to->file) && st == Q3_OK)
        return q3_fail(Q3_ERR_IO, "%s: %s", to->path, strerror(errno));
    return st;
}

/* ---- a finished directory takes its place ---- */

static bool is_current(const q3_data_set *set)
{
    char path[Q3_PATH_BYTES], *text;
    size_t size;
    if (q3_scene_path(path, set->out, "stamp") != Q3_OK || !q3_file_exists(path) ||
        q3_file_read(&text, &size, path, Q3_STAMP_BYTES) != Q3_OK)
        return false;
    bool same = !strcmp(text, set->stamp);
    q3_free(text);
    if (same) // a build compares the stamp with the age of this program
        utimensat(AT_FDCWD, path, NULL, 0);
    return same;
}

/* Only what an earlier run made (it has a stamp), or an empty directory, may be replaced. */
static q3_status check_the_place(const q3_data_set *set)
{
    char path[Q3_PATH_BYTES];
    Q3_TRY(q3_scene_path(path, set->out, "stamp"));
    if (q3_file_exists(set->out) && !q3_dir_exists(set->out))
        return q3_fail(Q3_ERR_USAGE, "%s is a file; choose another directory", set->out);
    if (!q3_dir_exists(set->out) || q3_file_exists(path) || rmdir(set->out) == 0 || errno == ENOENT)
        return Q3_OK;
    if (q3_file_exists(path)) // another build has just put its own there
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE, "%s exists and was not made by q3-scenes; choose another directory",
                   set->out);
}

static q3_status clear_the_place(const q3_data_set *set)
{
    char old[Q3_PATH_BYTES];
    Q3_TRY(check_the_place(set));
    Q3_TRY(path_beside(old, set->out, "old"));
    if (rename(set->out, old) && errno != ENOENT) // ENOENT: it is free, or another build was faster
        return q3_fail(Q3_ERR_IO, "%s: cannot be renamed to %s: %s", set->out, old, strerror(errno));
    return q3_dir_remove(old);
}

static q3_status begin_set(q3_data_set *set)
{
    char images[Q3_PATH_BYTES];
    Q3_TRY(check_the_place(set));
    Q3_TRY(path_beside(set->tmp, set->out, "tmp"));
    Q3_TRY(q3_scene_path(images, set->tmp, "images"));
    Q3_TRY(q3_dir_remove(set->tmp));
    return q3_dir_create(images);
}

static q3_status publish(const q3_data_set *set)
{
    char path[Q3_PATH_BYTES];
    Q3_TRY(q3_scene_path(path, set->tmp, "stamp"));
    Q3_TRY(q3_file_write(path, set->stamp, strlen(set->stamp)));
    for (int attempt = 0; attempt < 100; attempt++) { // two builds may take turns a few times
        if (is_current(set))
            return q3_dir_remove(set->tmp);
        Q3_TRY(clear_the_place(set));
        if (rename(set->tmp, set->out) == 0)
            return Q3_OK;
        if (errno != EEXIST && errno != ENOTEMPTY)
            break;
    }
    return q3_fail(Q3_ERR_IO, "%s: cannot be renamed to %s: %s", set->tmp, set->out, strerror(errno));
}

q3_status q3_data_set_make(q3_data_set *set, q3_status (*fill)(const q3_data_set *, const void *),
                           const void *options)
{
    if (is_current(set)) {
        printf("%s is current\n", set->out);
        return Q3_OK;
    }
    q3_status st = begin_set(set);
    if (st == Q3_OK)
        st = fill(set, options);
    if (st == Q3_OK)
        st = publish(set);
    if (st != Q3_OK && set->tmp[0]) {
        char sentence[1024]; // removing must not replace the reason
        snprintf(sentence, sizeof sentence, "%s", q3_error());
        q3_dir_remove(set->tmp);
        return q3_fail(st, "%s", sentence);
    }
    return st;
}
