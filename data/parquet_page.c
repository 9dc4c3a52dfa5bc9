#include "data/parquet_page.h"

#include <string.h>
#include <zlib.h>

#include "data/parquet_codec.h"

#define VALUE_LIMIT ((int64_t)1 << 24) // of a list column: a run of nulls takes few bytes of a file

/* What encodings and kinds of pages are numbered. */
enum { PLAIN = 0, PLAIN_DICTIONARY = 2, RLE = 3, RLE_DICTIONARY = 8 };
enum { DATA_PAGE = 0, INDEX_PAGE = 1, DICTIONARY_PAGE = 2, DATA_PAGE_V2 = 3 };

/* A page's header, and its bytes as they lie in the file. */
typedef struct page {
    int64_t kind, packed, unpacked; // bytes of the page without and with compression undone
    int64_t n_values, encoding, def_encoding, rep_encoding, def_size, rep_size;
    int64_t crc;
    bool has_crc, is_plain;     // v2: the values are not compressed
    const unsigned char *bytes; // [packed]
} page;

/* The one way through a column of a row group. */
typedef struct pass {
    const q3_parquet_chunk *chunk;
    const q3_parquet_leaf *leaf;
    q3_parquet_room *room;
    q3_thrift in;
    int64_t n_seen;               // values of the pages so far
    q3_parquet_value *dictionary; // [n_dictionary]; NULL: there is none yet
    int64_t n_dictionary;
    q3_parquet_value *values; // [n_rows]
    int64_t n_rows, row;      // -1 before the first
} pass;

static q3_status damaged(const char *fact)
{
    return q3_fail(Q3_ERR_DATA, "%s; the file is damaged, is the download complete?", fact);
}

/* ---- headers ---- */

static void read_kind(q3_thrift *t, page *p, int struct_id)
{
    // fields of DataPageHeader, DictionaryPageHeader and DataPageHeaderV2
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        bool v2 = struct_id == 8, v1 = struct_id == 5;
        int64_t *out = id == 1              ? &p->n_values
                       : id == (v2 ? 4 : 2) ? &p->encoding
                       : v1 && id == 3      ? &p->def_encoding
                       : v1 && id == 4      ? &p->rep_encoding
                       : v2 && id == 5      ? &p->def_size
                       : v2 && id == 6      ? &p->rep_size
                                            : NULL;
        p->is_plain |= v2 && id == 7 && type == Q3_THRIFT_FALSE;
        if (out)
            *out = q3_thrift_int(t, type);
        else
            q3_thrift_skip(t, type);
    }
}

static void read_header(q3_thrift *t, page *p)
{
    int type;
    *p = (page){ .kind = -1, .packed = -1, .unpacked = -1, .n_values = -1, .encoding = -1 };
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        p->has_crc |= id == 4;
        int64_t *out = id == 1   ? &p->kind
                       : id == 2 ? &p->unpacked
                       : id == 3 ? &p->packed
                       : id == 4 ? &p->crc
                                 : NULL;
        if (out)
            *out = q3_thrift_int(t, type);
        else if ((id == 5 || id == 7 || id == 8) && type == Q3_THRIFT_STRUCT)
            read_kind(t, p, id);
        else
            q3_thrift_skip(t, type);
    }
}

/* The levels of a v2 page stand in front of the values and are never compressed. */
static int64_t levels_size(const page *p)
{
    return p->kind == DATA_PAGE_V2 ? p->def_size + p->rep_size : 0;
}

static bool is_packed(const page *p, const q3_parquet_chunk *c)
{
    return c->codec != Q3_PARQUET_RAW && !p->is_plain;
}

static q3_status check_page(const page *p, const q3_parquet_chunk *c)
{
    bool data = p->kind == DATA_PAGE || p->kind == DATA_PAGE_V2;
    if ((data || p->kind == DICTIONARY_PAGE) && (p->n_values < 0 || p->encoding < 0))
        return damaged("a page's header lacks its kind");
    if (p->def_size < 0 || p->rep_size < 0 || levels_size(p) > p->packed || levels_size(p) > p->unpacked)
        return damaged("a page's levels are longer than the page");
    if (!is_packed(p, c))
        return p->packed == p->unpacked ? Q3_OK : damaged("a page that is not compressed has two sizes");
    if (p->unpacked == levels_size(p))
        return Q3_OK; // no values: nothing is unpacked
    return q3_parquet_codec_size(c->codec, p->bytes + levels_size(p), (size_t)(p->packed - levels_size(p)),
                                 (size_t)(p->unpacked - levels_size(p)));
}

static bool more_pages(const pass *s)
{
    return s->n_seen < s->chunk->n_values;
}

static q3_status next_page(page *p, pass *s)
{
    read_header(&s->in, p);
    if (s->in.bad || p->packed < 0 || p->unpacked < 0 || p->packed > s->in.end - s->in.at)
        return damaged("a page's header makes no sense, or the page is cut");
    p->bytes = s->in.at;
    s->in.at += p->packed;
    Q3_TRY(check_page(p, s->chunk));
    if (p->kind == DATA_PAGE || p->kind == DATA_PAGE_V2)
        s->n_seen += p->n_values;
    return s->n_seen <= s->chunk->n_values ? Q3_OK
                                           : damaged("its pages hold more values than the footer says");
}

/* The page's bytes behind its v2 levels, unpacked. */
static q3_status unpack(q3_thrift_bytes *out, pass *s, const page *p)
{
    size_t levels = (size_t)levels_size(p), packed = (size_t)p->packed - levels,
           size = (size_t)p->unpacked - levels;
    const unsigned char *from = p->bytes + levels;
    if (p->has_crc && (uint32_t)crc32(0, p->bytes, (uInt)p->packed) != (uint32_t)p->crc)
        return damaged("a page's checksum is wrong");
    *out = (q3_thrift_bytes){ (const char *)from, size };
    if (!is_packed(p, s->chunk) || size == 0)
        return Q3_OK;
    if (size > (size_t)(s->room->end - s->room->at))
        return damaged("a page grew while it was read");
    *out = (q3_thrift_bytes){ (const char *)s->room->at, size };
    s->room->at += size;
    return q3_parquet_unpack(s->chunk->codec, s->room->at - size, size, from, packed);
}

/* ---- runs of small numbers: levels, dictionary indexes, bools ---- */

typedef struct runs {
    const unsigned char *at, *end;
    int width;      // bits
    uint64_t left;  // of the run
    bool is_packed; // each number has its bits; otherwise all are `value`
    uint32_t value;
    uint64_t bits; // not taken yet, the first lowest
    int n_bits;
} runs;

static bool next_run(runs *r)
{
    q3_thrift t = { .at = r->at, .end = r->end };
    uint64_t head = 0;
    for (int shift = 0, b = 128; b >= 128; shift += 7) {
        if (t.at == t.end || shift > 28)
            return false;
        b = *t.at++;
        head |= (uint64_t)(b & 127) << shift;
    }
    size_t left = (size_t)(t.end - t.at), bytes = (size_t)(r->width + 7) / 8;
    r->is_packed = head & 1;
    r->left = r->is_packed ? (head >> 1) * 8 : head >> 1;
    if (r->is_packed ? (head >> 1) * (uint64_t)r->width > left : bytes > left)
        return false;
    r->value = 0;
    r->bits = 0;
    r->n_bits = 0;
    for (size_t i = 0; !r->is_packed && i < bytes; i++)
        r->value |= (uint32_t)*t.at++ << 8 * i;
    r->at = t.at;
    return true;
}

/* False when there are no more, or a number has more bits than its width. */
static bool next_number(uint32_t *out, runs *r)
{
    while (r->left == 0)
        if (!next_run(r))
            return false;
    r->left--;
    if (r->is_packed) {
        for (; r->n_bits < r->width; r->n_bits += 8)
            r->bits |= (uint64_t)*r->at++ << r->n_bits;
        r->value = (uint32_t)(r->bits & (((uint64_t)1 << r->width) - 1));
        r->bits >>= r->width;
        r->n_bits -= r->width;
    }
    *out = r->value;
    return true;
}

static int width_of(int max)
{
    int width = 0;
    for (; max > 0; max >>= 1)
        width++;
    return width;
}

static uint32_t little32(const void *from)
{
    const unsigned char *p = from;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Takes the runs, with 4 bytes of their size in front, off the beginning of `from`. */
static bool take_runs(runs *out, q3_thrift_bytes *from, int width)
{
    *out = (runs){ .width = width };
    if (width == 0)
        return true;
    if (from->size < 4 || little32(from->at) > from->size - 4)
        return false;
    size_t n = little32(from->at);
    out->at = (const unsigned char *)from->at + 4;
    out->end = out->at + n;
    from->at += 4 + n;
    from->size -= 4 + n;
    return true;
}

static bool next_level(int *out, runs *r, int max)
{
    uint32_t level = 0;
    if (max > 0 && (!next_number(&level, r) || level > (uint32_t)max))
        return false;
    *out = (int)level;
    return true;
}

/* ---- values ---- */

typedef struct value_reader {
    q3_thrift_bytes from; // plain
    runs runs;            // indexes, bools
    int bit;              // of the next plain bool
} value_reader;

static const unsigned char BOOLS[2] = { 0, 1 };

static size_t width_of_type(const q3_parquet_leaf *leaf)
{
    return leaf->type == Q3_PARQUET_FIXED                                     ? (size_t)leaf->width
           : leaf->type == Q3_PARQUET_INT32 || leaf->type == Q3_PARQUET_FLOAT ? 4
           : leaf->type == Q3_PARQUET_INT96                                   ? 12
                                                                              : 8;
}

static q3_status next_plain(q3_parquet_value *out, q3_thrift_bytes *from, const q3_parquet_leaf *leaf)
{
    size_t head = 0, n = width_of_type(leaf);
    if (leaf->type == Q3_PARQUET_BYTES) {
        head = 4;
        n = from->size < 4 ? 0 : little32(from->at);
    }
    if (from->size < head || n > from->size - head)
        return damaged("a value is longer than its page");
    out->bytes = (const unsigned char *)from->at + head;
    out->size = (uint32_t)n;
    from->at += head + n;
    from->size -= head + n;
    return Q3_OK;
}

static q3_status next_bool(q3_parquet_value *out, value_reader *v, bool plain)
{
    uint32_t bit = 0;
    if (plain && v->from.size == 0)
        return damaged("a value is longer than its page");
    if (plain) {
        bit = (unsigned char)*v->from.at >> v->bit & 1;
        v->bit = (v->bit + 1) % 8;
        v->from.at += v->bit == 0;
        v->from.size -= v->bit == 0;
    } else if (!next_number(&bit, &v->runs) || bit > 1) {
        return damaged("its bools end too early");
    }
    *out = (q3_parquet_value){ .bytes = &BOOLS[bit], .size = 1 };
    return Q3_OK;
}

static q3_status next_value(q3_parquet_value *out, const pass *s, value_reader *v, int64_t encoding)
{
    if (s->leaf->type == Q3_PARQUET_BOOLEAN && encoding != RLE_DICTIONARY)
        return next_bool(out, v, encoding == PLAIN);
    if (encoding == PLAIN)
        return next_plain(out, &v->from, s->leaf);
    uint32_t index;
    if (!next_number(&index, &v->runs))
        return damaged("its dictionary indexes end too early");
    if (index >= (uint64_t)s->n_dictionary)
        return damaged("an index is beyond its dictionary");
    out->bytes = s->dictionary[index].bytes;
    out->size = s->dictionary[index].size;
    return Q3_OK;
}

static q3_status refuse_encoding(int64_t encoding)
{
    static const char *const names[] = { [4] = "BIT_PACKED",
                                         [5] = "DELTA_BINARY_PACKED",
                                         [6] = "DELTA_LENGTH_BYTE_ARRAY",
                                         [7] = "DELTA_BYTE_ARRAY",
                                         [9] = "BYTE_STREAM_SPLIT" };
    bool known = encoding >= 0 && encoding < (int64_t)(sizeof names / sizeof *names) && names[encoding];
    return q3_fail(
        Q3_ERR_DATA,
        "is encoded as %s, which is not read; write it with pyarrow's defaults, or with `datasets`",
        known ? names[encoding] : "something unknown");
}

/* Sets up the values of a data page; PLAIN_DICTIONARY is the old word for RLE_DICTIONARY. */
static q3_status open_values(value_reader *out, pass *s, page *p, q3_thrift_bytes from)
{
    *out = (value_reader){ .from = from };
    if (p->encoding == PLAIN)
        return Q3_OK;
    if (p->encoding == RLE && s->leaf->type == Q3_PARQUET_BOOLEAN)
        return take_runs(&out->runs, &from, 1) ? Q3_OK : damaged("its bools end too early");
    if (p->encoding != PLAIN_DICTIONARY && p->encoding != RLE_DICTIONARY)
        return refuse_encoding(p->encoding);
    p->encoding = RLE_DICTIONARY;
    if (from.size == 0)
        return Q3_OK; // all are null
    int width = (unsigned char)*from.at;
    const unsigned char *at = (const unsigned char *)from.at;
    if (width > 32)
        return damaged("its dictionary indexes have more than 32 bits");
    out->runs = (runs){ .at = at + 1, .end = at + from.size, .width = width };
    return Q3_OK;
}

static q3_status read_dictionary(pass *s, const page *p)
{
    q3_thrift_bytes from;
    if (s->dictionary || (p->encoding != PLAIN && p->encoding != PLAIN_DICTIONARY) ||
        s->leaf->type == Q3_PARQUET_BOOLEAN)
        return damaged("its dictionary is not one that can be");
    Q3_TRY(unpack(&from, s, p));
    size_t least = s->leaf->type == Q3_PARQUET_BYTES ? 4 : width_of_type(s->leaf);
    if ((uint64_t)p->n_values > from.size / least)
        return damaged("its dictionary is longer than its page");
    s->dictionary = q3_malloc((size_t)p->n_values * sizeof *s->dictionary + 1);
    if (!s->dictionary)
        return Q3_ERR_MEMORY;
    for (; s->n_dictionary < p->n_values; s->n_dictionary++)
        Q3_TRY(next_plain(&s->dictionary[s->n_dictionary], &from, s->leaf));
    return Q3_OK;
}

/* ---- data pages ---- */

static q3_status open_levels(runs *rep, runs *def, q3_thrift_bytes *from, const pass *s, const page *p)
{
    int rep_width = width_of(s->leaf->max_rep), def_width = width_of(s->leaf->max_def);
    if (p->kind == DATA_PAGE_V2) {
        const unsigned char *at = p->bytes;
        *rep = (runs){ .at = at, .end = at + p->rep_size, .width = rep_width };
        *def = (runs){ .at = rep->end, .end = rep->end + p->def_size, .width = def_width };
        return Q3_OK;
    }
    if ((rep_width && p->rep_encoding != RLE) || (def_width && p->def_encoding != RLE))
        return refuse_encoding(rep_width && p->rep_encoding != RLE ? p->rep_encoding : p->def_encoding);
    if (!take_runs(rep, from, rep_width) || !take_runs(def, from, def_width))
        return damaged("a page's levels are longer than the page");
    return Q3_OK;
}

/* One value, null or not, of the row that it belongs to. */
static q3_status put_value(pass *s, value_reader *v, int64_t encoding, int rep, int def)
{
    q3_parquet_value ignored = { 0 };
    if (rep == 0)
        s->row++;
    if (s->row < 0 || s->row >= s->n_rows)
        return damaged("it has not the rows of its row group");
    q3_parquet_value *out = &s->values[s->row];
    out->count += def >= s->leaf->list_def;
    if (def < s->leaf->max_def)
        return Q3_OK;
    return next_value(out->count == 1 ? out : &ignored, s, v, encoding);
}

static q3_status read_data(pass *s, page *p)
{
    q3_thrift_bytes from;
    runs rep_levels, def_levels;
    value_reader v;
    Q3_TRY(unpack(&from, s, p));
    Q3_TRY(open_levels(&rep_levels, &def_levels, &from, s, p));
    Q3_TRY(open_values(&v, s, p, from));
    for (int64_t i = 0; i < p->n_values; i++) {
        int rep, def;
        if (!next_level(&rep, &rep_levels, s->leaf->max_rep) ||
            !next_level(&def, &def_levels, s->leaf->max_def))
            return damaged("a page's levels end too early or are too high");
        Q3_TRY(put_value(s, &v, p->encoding, rep, def));
    }
    return Q3_OK;
}

static pass begin(const q3_map *file, const q3_parquet_chunk *c, const q3_parquet_leaf *leaf)
{
    const unsigned char *at = file->data + c->at;
    return (pass){ .chunk = c, .leaf = leaf, .in = { .at = at, .end = at + c->size }, .row = -1 };
}

static q3_status measure(uint64_t *bytes, pass *s, int64_t n_rows)
{
    int64_t n = s->chunk->n_values;
    Q3_TRY(q3_parquet_codec_check(s->chunk->codec));
    if (n < n_rows || (n > n_rows && s->leaf->max_rep == 0))
        return damaged("it has not the rows of its row group");
    if (n > VALUE_LIMIT)
        return q3_fail(Q3_ERR_DATA,
                       "has %lld values in a row group, and at most %lld are read; write smaller row groups",
                       (long long)n, (long long)VALUE_LIMIT);
    while (more_pages(s)) {
        page p;
        Q3_TRY(next_page(&p, s));
        if (is_packed(&p, s->chunk))
            *bytes += (uint64_t)(p.unpacked - levels_size(&p));
    }
    return Q3_OK;
}

q3_status q3_parquet_measure(uint64_t *bytes, int64_t n_rows, const q3_map *file, const q3_parquet_chunk *c,
                             const q3_parquet_leaf *leaf)
{
    pass s = begin(file, c, leaf);
    return q3_wrap(measure(bytes, &s, n_rows), "column %s", leaf->path);
}

static q3_status decode(pass *s)
{
    while (more_pages(s)) {
        page p;
        Q3_TRY(next_page(&p, s));
        if (p.kind == DICTIONARY_PAGE)
            Q3_TRY(read_dictionary(s, &p));
        else if (p.kind == DATA_PAGE || p.kind == DATA_PAGE_V2)
            Q3_TRY(read_data(s, &p));
        else if (p.kind != INDEX_PAGE)
            return damaged("a page is of an unknown kind");
    }
    return s->row + 1 == s->n_rows ? Q3_OK : damaged("it has not the rows of its row group");
}

q3_status q3_parquet_decode(q3_parquet_value *values, int64_t n_rows, q3_parquet_room *room,
                            const q3_map *file, const q3_parquet_chunk *c, const q3_parquet_leaf *leaf)
{
    pass s = begin(file, c, leaf);
    s.room = room;
    s.values = values;
    s.n_rows = n_rows;
    q3_status st = decode(&s);
    q3_free(s.dictionary);
    return q3_wrap(st, "column %s", leaf->path);
}
