#include "collate/pack.h"

#include <string.h>

#include "collate/positions.h"

typedef struct sizes {
    int rows, images;
    int64_t tokens, patches, image_tokens;
    bool labels, pictures; // all rows have them
} sizes;

static sizes measure(const q3_collator *c, const q3_row *const *rows, int n)
{
    sizes s = { .labels = true, .pictures = true };
    for (int i = 0; i < n; i++) {
        if (rows[i]->skipped)
            continue;
        s.rows++;
        s.tokens += rows[i]->n;
        s.labels = s.labels && rows[i]->labels;
        for (int k = 0; k < rows[i]->n_pictures; k++)
            s.pictures = s.pictures && rows[i]->pictures[k].data;
        s.images += rows[i]->n_pictures;
        s.patches += q3_row_patches(rows[i]);
        s.image_tokens += q3_row_image_tokens(rows[i], c);
    }
    return s;
}

static int64_t patch_width(const q3_collator *c)
{
    return 3 * (int64_t)c->vision.tpatch * c->vision.patch * c->vision.patch;
}

/* The arrays of a batch of these sizes, through pointers that may be written. */
typedef struct arrays {
    int64_t *row_begin;
    int32_t *ids, *labels, *positions, *grids, *image_rows;
    float *patches;
} arrays;

static q3_status allocate(arrays *a, q3_arena *mem, const sizes *s, int64_t width)
{
    a->row_begin = Q3_NEW(mem, int64_t, s->rows + 1);
    a->ids = Q3_NEW(mem, int32_t, s->tokens + 1);
    a->labels = s->labels ? Q3_NEW(mem, int32_t, s->tokens + 1) : NULL;
    a->positions = Q3_NEW(mem, int32_t, 3 * s->tokens + 1);
    a->grids = Q3_NEW(mem, int32_t, 3 * s->images + 1);
    a->image_rows = Q3_NEW(mem, int32_t, s->image_tokens + 1);
    a->patches = width ? Q3_NEW(mem, float, width * s->patches + 1) : NULL;
    bool ok = a->row_begin && a->ids && (a->labels || !s->labels) && a->positions && a->grids &&
              a->image_rows && (a->patches || !width);
    return ok ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_batch batch_of(const arrays *a, const sizes *s)
{
    return (q3_batch){ .n_rows = s->rows,
                       .n_tokens = s->tokens,
                       .row_begin = a->row_begin,
                       .ids = a->ids,
                       .labels = a->labels,
                       .positions = a->positions,
                       .n_images = s->images,
                       .grids = a->grids,
                       .patches = a->patches,
                       .n_patches = s->patches,
                       .image_rows = a->image_rows,
                       .n_image_rows = s->image_tokens };
}

/* Patches of a row's pictures, one behind the other; returns their number. */
static int64_t put_patches(float *to, const q3_row *row, int64_t width)
{
    int64_t n = 0;
    for (int i = 0; i < row->n_pictures; n += row->pictures[i++].n)
        if (to)
            memcpy(to + n * width, row->pictures[i].data, (size_t)(row->pictures[i].n * width) * sizeof *to);
    return n;
}

q3_status q3_pack(q3_batch *out, q3_arena *mem, const q3_collator *c, const q3_row *const *rows, int n)
{
    const sizes s = measure(c, rows, n);
    int64_t width = s.pictures ? patch_width(c) : 0;
    arrays a;
    Q3_TRY(allocate(&a, mem, &s, width));
    int64_t at = 0, patch = 0, image_token = 0;
    int row = 0, image = 0;
    for (int i = 0; i < n; i++) {
        const q3_row *r = rows[i];
        if (r->skipped)
            continue;
        a.row_begin[row++] = at;
        memcpy(a.ids + at, r->ids, (size_t)r->n * sizeof *a.ids);
        if (s.labels)
            memcpy(a.labels + at, r->labels, (size_t)r->n * sizeof *a.labels);
        for (int64_t t = 0; t < r->n; t++)
            if (r->ids[t] == c->image_id) {
                Q3_CHECK(image_token < s.image_tokens,
                         "row %d: more placeholders than its pictures have tokens", i);
                a.image_rows[image_token++] = (int32_t)(at + t);
            }
        int32_t *grid = a.grids + 3 * image;
        for (int k = 0; k < 3 * r->n_pictures; k++)
            grid[k] = r->pictures[k / 3].grid[k % 3];
        patch += put_patches(width ? a.patches + patch * width : NULL, r, width);
        image += r->n_pictures;
        int32_t *p = a.positions + at;
        int64_t next = q3_positions(p, p + s.tokens, p + 2 * s.tokens, r->ids, r->n, c->image_id, c->video_id,
                                    grid, r->n_pictures, c->vision.merge);
        Q3_CHECK(next >= 0, "row %d: placeholders and pictures do not match", i);
        at += r->n;
    }
    a.row_begin[row] = at;
    *out = batch_of(&a, &s);
    return Q3_OK;
}

static void pad_row(q3_padded *p, int64_t row, const q3_row *r, const q3_collator *c, bool left)
{
    int64_t pads = p->length - r->n, begin = row * p->length + (left ? pads : 0);
    for (int64_t t = row * p->length; t < (row + 1) * p->length; t++) {
        p->input_ids[t] = c->pad_id;
        p->attention_mask[t] = 0;
        if (p->labels)
            p->labels[t] = -100;
    }
    for (int64_t t = 0; t < r->n; t++) {
        p->input_ids[begin + t] = r->ids[t];
        p->attention_mask[begin + t] = 1;
        if (p->labels)
            p->labels[begin + t] = r->labels[t];
    }
}

q3_status q3_pad(q3_padded *out, q3_arena *mem, const q3_collator *c, const q3_row *const *rows, int n,
                 bool left)
{
    const sizes s = measure(c, rows, n);
    *out = (q3_padded){
        .rows = s.rows, .n_images = s.images, .n_patches = s.patches, .patch_width = patch_width(c)
    };
    for (int i = 0; i < n; i++)
        if (!rows[i]->skipped && rows[i]->n > out->length)
            out->length = rows[i]->n;
    int64_t size = out->rows * out->length;
    out->input_ids = Q3_NEW(mem, int64_t, size + 1);
    out->attention_mask = Q3_NEW(mem, int64_t, size + 1);
    out->labels = s.labels ? Q3_NEW(mem, int64_t, size + 1) : NULL;
    out->image_grid_thw = Q3_NEW(mem, int64_t, 3 * s.images + 1);
    out->pixel_values = Q3_NEW(mem, float, s.patches * out->patch_width + 1);
    if (!out->input_ids || !out->attention_mask || (s.labels && !out->labels) || !out->image_grid_thw ||
        !out->pixel_values)
        return Q3_ERR_MEMORY;
    int64_t row = 0, image = 0;
    float *pixels = out->pixel_values;
    for (int i = 0; i < n; i++) {
        if (rows[i]->skipped)
            continue;
        pad_row(out, row++, rows[i], c, left);
        for (int k = 0; k < 3 * rows[i]->n_pictures; k++)
            out->image_grid_thw[3 * image + k] = rows[i]->pictures[k / 3].grid[k % 3];
        image += rows[i]->n_pictures;
        pixels += put_patches(pixels, rows[i], out->patch_width) * out->patch_width;
    }
    return Q3_OK;
}

static bool real(const q3_padded *p, int64_t t)
{
    return !p->attention_mask || p->attention_mask[t] != 0;
}

static sizes measure_padded(const q3_padded *p, int32_t image_id, int32_t video_id)
{
    sizes s = {
        .rows = (int)p->rows, .images = (int)p->n_images, .patches = p->n_patches, .labels = p->labels != NULL
    };
    for (int64_t t = 0; t < p->rows * p->length; t++)
        if (real(p, t)) {
            s.tokens++;
            s.image_tokens += p->input_ids[t] == image_id || p->input_ids[t] == video_id;
        }
    return s;
}

/* What becomes an int32: a token id, a label. */
static q3_status check_ids(const q3_padded *p)
{
    for (int64_t t = 0; t < p->rows * p->length; t++) {
        if (real(p, t) && (p->input_ids[t] < 0 || p->input_ids[t] > INT32_MAX))
            return q3_fail(Q3_ERR_DATA, "input_ids[%lld, %lld] is %lld, which is no token",
                           (long long)(t / p->length), (long long)(t % p->length),
                           (long long)p->input_ids[t]);
        if (real(p, t) && p->labels && p->labels[t] != -100 && (p->labels[t] < 0 || p->labels[t] > INT32_MAX))
            return q3_fail(Q3_ERR_DATA, "labels[%lld, %lld] is %lld, neither a token nor -100",
                           (long long)(t / p->length), (long long)(t % p->length), (long long)p->labels[t]);
    }
    return Q3_OK;
}

static q3_status check_grids(const q3_padded *p, int64_t image_tokens, int merge)
{
    int64_t patches = 0, tokens = 0;
    for (int64_t i = 0; i < p->n_images; i++) {
        const int64_t *g = p->image_grid_thw + 3 * i;
        if (g[0] < 1 || g[1] < 1 || g[2] < 1 || g[0] > 4096 || g[1] > 4096 || g[2] > 4096 || g[1] % merge ||
            g[2] % merge)
            return q3_fail(Q3_ERR_DATA,
                           "image_grid_thw row %lld is [%lld, %lld, %lld]; rows and columns must be positive "
                           "multiples of %d",
                           (long long)i, (long long)g[0], (long long)g[1], (long long)g[2], merge);
        patches += g[0] * g[1] * g[2];
        tokens += g[0] * (g[1] / merge) * (g[2] / merge);
    }
    if (patches != p->n_patches)
        return q3_fail(Q3_ERR_DATA, "image_grid_thw asks for %lld patches and pixel_values has %lld",
                       (long long)patches, (long long)p->n_patches);
    if (tokens != image_tokens)
        return q3_fail(Q3_ERR_DATA, "the pictures make %lld tokens and input_ids has %lld placeholders",
                       (long long)tokens, (long long)image_tokens);
    return Q3_OK;
}

/* Pictures of one row: as many grids as cover its placeholders. */
static int row_images(const arrays *a, const sizes *s, int first, int64_t placeholders, int merge)
{
    int n = 0;
    for (int64_t covered = 0; covered < placeholders && first + n < s->images; n++) {
        const int32_t *g = a->grids + 3 * (first + n);
        covered += (int64_t)g[0] * (g[1] / merge) * (g[2] / merge);
    }
    return n;
}

q3_status q3_unpad(q3_batch *out, q3_arena *mem, const q3_padded *p, int32_t image_id, int32_t video_id,
                   int merge)
{
    const sizes s = measure_padded(p, image_id, video_id);
    Q3_TRY(check_ids(p));
    Q3_TRY(check_grids(p, s.image_tokens, merge));
    arrays a;
    Q3_TRY(allocate(&a, mem, &s, 0));
    for (int64_t i = 0; i < 3 * p->n_images; i++)
        a.grids[i] = (int32_t)p->image_grid_thw[i];
    int64_t at = 0, image_token = 0;
    int image = 0;
    for (int64_t row = 0; row < p->rows; row++) {
        int64_t begin = at, placeholders = 0;
        a.row_begin[row] = at;
        for (int64_t t = row * p->length; t < (row + 1) * p->length; t++) {
            if (!real(p, t))
                continue;
            a.ids[at] = (int32_t)p->input_ids[t];
            if (a.labels)
                a.labels[at] = (int32_t)p->labels[t];
            if (a.ids[at] == image_id || a.ids[at] == video_id) {
                a.image_rows[image_token++] = (int32_t)at;
                placeholders++;
            }
            at++;
        }
        int n = row_images(&a, &s, image, placeholders, merge);
        int32_t *pos = a.positions + begin;
        if (q3_positions(pos, pos + s.tokens, pos + 2 * s.tokens, a.ids + begin, at - begin, image_id,
                         video_id, a.grids + 3 * image, n, merge) < 0)
            return q3_fail(Q3_ERR_DATA, "row %lld: placeholders and image_grid_thw do not match",
                           (long long)row);
        image += n;
    }
    a.row_begin[p->rows] = at;
    *out = batch_of(&a, &s);
    out->patches = p->pixel_values;
    return Q3_OK;
}
