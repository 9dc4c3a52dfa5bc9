#include "cli/show_row.h"

#include <string.h>

/* A stretch of tokens that is written in one go: all masked or all trained, all placeholders or none. */
typedef struct stretch {
    int64_t begin, end;
    bool masked, picture;
} stretch;

static bool masked_at(const q3_row *row, int64_t t)
{
    return row->labels[t] == -100;
}

/* Advances to the next stretch; begins with all zeros. */
static bool next_stretch(stretch *s, const q3_collator *c, const q3_row *row)
{
    s->begin = s->end;
    if (s->begin == row->n)
        return false;
    s->masked = masked_at(row, s->begin);
    s->picture = row->ids[s->begin] == c->image_id;
    while (s->end < row->n && masked_at(row, s->end) == s->masked &&
           (row->ids[s->end] == c->image_id) == s->picture)
        s->end++;
    return true;
}

static q3_status decode(q3_text *out, const q3_collator *c, const q3_row *row, const stretch *s)
{
    out->size = 0;
    if (!s->picture)
        return q3_tokenizer_decode(out, c->tokenizer, row->ids + s->begin, (size_t)(s->end - s->begin),
                                   false);
    q3_text_printf(out, "<|image_pad|> x %lld", (long long)(s->end - s->begin));
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

/* Text on one line, without bytes that a terminal would obey. */
static void visible(q3_text *out, const q3_text *text)
{
    for (size_t i = 0; i < text->size; i++) {
        unsigned char byte = (unsigned char)text->data[i];
        if (byte == '\n')
            q3_text_append(out, "↵", strlen("↵"));
        else if (byte < 0x20 || byte == 0x7F)
            q3_text_printf(out, "\\x%02x", byte);
        else
            q3_text_append(out, &text->data[i], 1);
    }
}

static q3_status show_text(q3_text *out, const q3_collator *c, const q3_row *row)
{
    q3_text piece = { 0 };
    q3_status st = Q3_OK;
    bool open = false;
    q3_text_printf(out, "  text    ");
    for (stretch s = { 0 }; st == Q3_OK && next_stretch(&s, c, row);) {
        if (s.masked != open)
            q3_text_printf(out, "%s", s.masked ? "‹" : "›");
        open = s.masked;
        st = decode(&piece, c, row, &s);
        if (st == Q3_OK)
            visible(out, &piece);
    }
    q3_text_printf(out, "%s\n", open ? "›" : "");
    q3_text_free(&piece);
    return st;
}

static void show_ids(q3_text *out, const q3_collator *c, const q3_row *row)
{
    q3_text_printf(out, "  ids    ");
    for (stretch s = { 0 }; next_stretch(&s, c, row);) {
        if (s.picture)
            q3_text_printf(out, " %d x %lld", (int)c->image_id, (long long)(s.end - s.begin));
        for (int64_t t = s.begin; t < s.end && !s.picture; t++)
            q3_text_printf(out, " %d", (int)row->ids[t]);
    }
    q3_text_append(out, "\n", 1);
}

/* Runs that rise by one as "0-13", that stay as "14 x 12"; text and picture apart. */
static void show_axis(q3_text *out, const char *name, const q3_collator *c, const q3_row *row,
                      const int32_t *at)
{
    q3_text_printf(out, "  %-7s", name);
    for (int64_t i = 0, end; i < row->n; i = end) {
        bool picture = row->ids[i] == c->image_id;
        int32_t step = i + 1 < row->n && at[i + 1] == at[i] ? 0 : 1;
        for (end = i + 1;
             end < row->n && at[end] == at[end - 1] + step && (row->ids[end] == c->image_id) == picture;)
            end++;
        if (end == i + 1)
            q3_text_printf(out, " %d", (int)at[i]);
        else if (step)
            q3_text_printf(out, " %d-%d", (int)at[i], (int)at[end - 1]);
        else
            q3_text_printf(out, " %d x %lld", (int)at[i], (long long)(end - i));
    }
    q3_text_append(out, "\n", 1);
}

q3_status q3_show_row(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row,
                      const int32_t *positions)
{
    q3_text_printf(out, "%s", s->where);
    if (s->id)
        q3_text_printf(out, "  id %s", s->id);
    q3_text_printf(out, "\n  tokens  %lld: prompt %lld, supervised %lld", (long long)row->n,
                   (long long)row->prompt_n, (long long)row->n_supervised);
    for (int i = 0; i < row->n_pictures; i++) {
        const int *grid = row->pictures[i].grid;
        q3_text_printf(out, "; picture %lld, of %d x %d x %d patches",
                       (long long)q3_image_tokens(grid, &c->vision), grid[0], grid[1], grid[2]);
    }
    q3_text_printf(out, "%s\n", row->n_pictures ? "" : "; no picture");
    show_ids(out, c, row);
    static const char *const axes[] = { "time", "height", "width" };
    for (int axis = 0; positions && axis < 3; axis++)
        show_axis(out, axes[axis], c, row, positions + axis * row->n);
    Q3_TRY(show_text(out, c, row));
    if (row->seam)
        q3_text_printf(
            out, "  note    the target begins with white space that merges with the prompt's last token\n");
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

static void json_string(q3_text *out, const char *key, const char *text)
{
    q3_text_printf(out, "\"%s\": ", key);
    if (text)
        q3_text_json_string(out, text, strlen(text));
    else
        q3_text_printf(out, "null");
}

static void json_ids(q3_text *out, const char *key, const int32_t *ids, int64_t n)
{
    q3_text_printf(out, ", \"%s\": [", key);
    for (int64_t i = 0; i < n; i++)
        q3_text_printf(out, "%s%d", i ? ", " : "", (int)ids[i]);
    q3_text_append(out, "]", 1);
}

/* Of one picture, or none, a flat list; of several a list of them. */
static void json_grids(q3_text *out, const q3_row *row)
{
    const bool several = row->n_pictures > 1;
    q3_text_printf(out, ", \"grid\": [");
    for (int i = 0; i < row->n_pictures; i++) {
        const int *g = row->pictures[i].grid;
        q3_text_printf(out, "%s%s%d, %d, %d%s", i ? ", " : "", several ? "[" : "", g[0], g[1], g[2],
                       several ? "]" : "");
    }
    q3_text_append(out, "]", 1);
}

static q3_status json_text(q3_text *out, const q3_collator *c, const q3_row *row)
{
    q3_text piece = { 0 };
    q3_status st = Q3_OK;
    q3_text_printf(out, ", \"text\": [");
    for (stretch s = { 0 }; st == Q3_OK && next_stretch(&s, c, row);) {
        q3_text_printf(out, "%s{\"masked\": %s, \"text\": ", s.begin ? ", " : "",
                       s.masked ? "true" : "false");
        st = decode(&piece, c, row, &s);
        if (st == Q3_OK)
            q3_text_json_string(out, piece.data ? piece.data : "", piece.size);
        q3_text_append(out, "}", 1);
    }
    q3_text_append(out, "]", 1);
    q3_text_free(&piece);
    return st;
}

static void json_positions(q3_text *out, const int32_t *positions, int64_t n)
{
    q3_text_printf(out, ", \"positions\": [");
    for (int axis = 0; axis < 3; axis++) {
        for (int64_t i = 0; i < n; i++)
            q3_text_printf(out, "%s%d", i ? ", " : axis ? ", [" : "[", (int)positions[axis * n + i]);
        q3_text_append(out, "]", 1);
    }
    q3_text_append(out, "]", 1);
}

q3_status q3_show_row_json(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row,
                           const int32_t *positions)
{
    q3_text_append(out, "{", 1);
    json_string(out, "where", s->where);
    q3_text_append(out, ", ", 2);
    json_string(out, "id", s->id);
    q3_text_printf(out, ", \"tokens\": %lld, \"prompt\": %lld, \"supervised\": %lld, \"image_tokens\": %lld",
                   (long long)row->n, (long long)row->prompt_n, (long long)row->n_supervised,
                   (long long)q3_row_image_tokens(row, c));
    json_grids(out, row);
    q3_text_printf(out, ", \"merged_with_prompt\": %s", row->seam ? "true" : "false");
    json_ids(out, "ids", row->ids, row->n);
    json_ids(out, "labels", row->labels, row->n);
    if (positions)
        json_positions(out, positions, row->n);
    Q3_TRY(json_text(out, c, row));
    q3_text_printf(out, "}\n");
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}
