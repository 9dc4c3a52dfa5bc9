#include "data/parquet_meta.h"

#include <inttypes.h>
#include <string.h>

#include "core/json.h"

#define DEPTH_LIMIT 16               // of a schema
#define LEAF_LIMIT 100000            // columns
#define ROW_LIMIT ((int64_t)1 << 22) // rows of a group: their places are kept while the file is open

/* One node of the schema, before its order of nodes becomes a tree. */
typedef struct node {
    q3_thrift_bytes name;
    int64_t type, width, repetition, n_children, converted;
    int logical; // which of LogicalType's members
    bool is_unsigned;
} node;

typedef struct reader {
    q3_parquet_meta *out;
    const q3_map *file;
    size_t footer; // where it begins: pages end before
    node *nodes;
    int64_t n_nodes, next; // the one to come in the tree
    char path[1024];
} reader;

enum { REQUIRED, OPTIONAL, REPEATED };

static q3_status damaged(const reader *r, const char *fact)
{
    return q3_fail(Q3_ERR_DATA, "%s: the footer is damaged: %s; is the download complete?", r->out->path,
                   fact);
}

/* ---- schema ---- */

static void read_integer(q3_thrift *t, node *n)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        if (id == 2)
            n->is_unsigned = type == Q3_THRIFT_FALSE; // isSigned
        q3_thrift_skip(t, type);
    }
}

enum { LOGICAL_STRING = 1, LOGICAL_ENUM = 4, LOGICAL_INTEGER = 10, LOGICAL_JSON = 12 };

static void read_logical(q3_thrift *t, node *n)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        n->logical = id;
        if (id == LOGICAL_INTEGER && type == Q3_THRIFT_STRUCT)
            read_integer(t, n);
        else
            q3_thrift_skip(t, type);
    }
}

static void read_node(q3_thrift *t, node *n)
{
    int type;
    *n = (node){ .type = -1, .converted = -1 };
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        if (id == 1)
            n->type = q3_thrift_int(t, type);
        else if (id == 2)
            n->width = q3_thrift_int(t, type);
        else if (id == 3)
            n->repetition = q3_thrift_int(t, type);
        else if (id == 4)
            n->name = q3_thrift_binary(t, type);
        else if (id == 5)
            n->n_children = q3_thrift_int(t, type);
        else if (id == 6)
            n->converted = q3_thrift_int(t, type);
        else if (id == 10 && type == Q3_THRIFT_STRUCT)
            read_logical(t, n);
        else
            q3_thrift_skip(t, type);
    }
}

static q3_status read_nodes(reader *r, q3_thrift *t, int type)
{
    int64_t n = q3_thrift_list(t, type, Q3_THRIFT_STRUCT);
    if (r->nodes || n == 0 || n > LEAF_LIMIT)
        return damaged(r, "its schema has no columns, or too many");
    r->nodes = q3_calloc((size_t)n, sizeof *r->nodes);
    if (!r->nodes)
        return Q3_ERR_MEMORY;
    for (; r->n_nodes < n && !t->bad; r->n_nodes++)
        read_node(t, &r->nodes[r->n_nodes]);
    return Q3_OK;
}

/* What a value stands for, when it is neither text nor a plain number nor plain bytes. */
static const char *other_of(const node *n)
{
    static const char *const converted[] = {
        [5] = "a decimal number", [6] = "a date",        [7] = "a time", [8] = "a time",
        [9] = "a time stamp",     [10] = "a time stamp", [20] = "BSON",  [21] = "an interval"
    };
    static const char *const logical[] = {
        [5] = "a decimal number", [6] = "a date",         [7] = "a time", [8] = "a time stamp", [13] = "BSON",
        [14] = "a UUID",          [15] = "a 16-bit float"
    };
    if (n->converted >= 0 && n->converted < (int64_t)(sizeof converted / sizeof *converted) &&
        converted[n->converted])
        return converted[n->converted];
    if (n->logical > 0 && n->logical < (int)(sizeof logical / sizeof *logical))
        return logical[n->logical];
    return n->type == Q3_PARQUET_INT96 ? "a time stamp" : NULL;
}

/* Where a node stands in the tree. */
typedef struct place {
    int def, rep, list_def, depth;
    size_t top, path; // bytes of r->path: the top node's name, and all names above
} place;

static q3_status add_leaf(reader *r, const node *n, const place *p)
{
    q3_parquet_leaf *leaf = &r->out->leaves[r->out->n_leaves];
    if (n->type < Q3_PARQUET_BOOLEAN || n->type > Q3_PARQUET_FIXED)
        return damaged(r, "a column has no type");
    if (n->type == Q3_PARQUET_FIXED && (n->width < 1 || n->width > INT32_MAX))
        return damaged(r, "a column of fixed width has no width");
    bool text = n->converted == 0 || n->converted == 4 || n->converted == 19 ||
                n->logical == LOGICAL_STRING || n->logical == LOGICAL_ENUM || n->logical == LOGICAL_JSON;
    *leaf = (q3_parquet_leaf){ .path = q3_strdup(r->path),
                               .top = q3_strdup(r->path),
                               .other = other_of(n),
                               .type = (q3_parquet_type)n->type,
                               .width = (int32_t)n->width,
                               .text = text,
                               .is_unsigned = n->is_unsigned || (n->converted >= 11 && n->converted <= 14),
                               .depth = p->depth,
                               .max_def = p->def,
                               .max_rep = p->rep,
                               .list_def = p->list_def };
    r->out->n_leaves++;
    if (!leaf->path || !leaf->top)
        return Q3_ERR_MEMORY;
    leaf->top[p->top] = 0;
    leaf->name = leaf->path + strlen(leaf->path) - n->name.size;
    return Q3_OK;
}

/* Puts the node's name behind the names above it. */
static q3_status enter(reader *r, const node *n, place *p)
{
    size_t dot = p->depth > 0, bad, size = n->name.size;
    if (n->repetition < REQUIRED || n->repetition > REPEATED || p->depth == DEPTH_LIMIT)
        return damaged(r, "its schema is no tree of columns");
    if (size == 0 || memchr(n->name.at, 0, size) || !q3_utf8_valid(n->name.at, size, &bad) ||
        size + dot >= sizeof r->path - p->path)
        return damaged(r, "a column's name is empty, too long or not UTF-8");
    r->path[p->path] = '.';
    memcpy(r->path + p->path + dot, n->name.at, size);
    p->path += dot + size;
    r->path[p->path] = 0;
    p->top = p->depth == 0 ? p->path : p->top;
    p->depth++;
    p->def += n->repetition != REQUIRED;
    if (n->repetition == REPEATED && p->rep++ == 0)
        p->list_def = p->def;
    return Q3_OK;
}

static q3_status add_node(reader *r, place p) // NOLINT(misc-no-recursion): DEPTH_LIMIT
{
    if (r->next == r->n_nodes)
        return damaged(r, "its schema ends too early");
    const node *n = &r->nodes[r->next++];
    Q3_TRY(enter(r, n, &p));
    if (n->n_children == 0)
        return add_leaf(r, n, &p);
    if (n->n_children < 0 || n->n_children > r->n_nodes)
        return damaged(r, "its schema is no tree of columns");
    for (int64_t i = 0; i < n->n_children; i++)
        Q3_TRY(add_node(r, p));
    return Q3_OK;
}

static q3_status build_leaves(reader *r)
{
    if (!r->nodes)
        return damaged(r, "its schema is missing or behind its row groups");
    r->out->leaves = q3_calloc((size_t)r->n_nodes, sizeof *r->out->leaves);
    if (!r->out->leaves)
        return Q3_ERR_MEMORY;
    for (r->next = 1; r->next < r->n_nodes;) // the first node is the root
        Q3_TRY(add_node(r, (place){ 0 }));
    return Q3_OK;
}

/* ---- row groups ---- */

/* What the footer says of one column of a row group. */
typedef struct column {
    q3_parquet_chunk chunk;
    int64_t type, codec, data_at, dictionary_at, size;
    bool elsewhere, encrypted;
} column;

static void read_column_data(q3_thrift *t, column *c)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        int64_t *out = id == 1    ? &c->type
                       : id == 4  ? &c->codec
                       : id == 5  ? &c->chunk.n_values
                       : id == 6  ? &c->chunk.unpacked
                       : id == 7  ? &c->size
                       : id == 9  ? &c->data_at
                       : id == 11 ? &c->dictionary_at
                                  : NULL;
        if (out)
            *out = q3_thrift_int(t, type);
        else
            q3_thrift_skip(t, type);
    }
}

static void read_column(q3_thrift *t, column *c)
{
    int type;
    *c = (column){ .type = -1 };
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        c->elsewhere |= id == 1;
        c->encrypted |= id == 8 || id == 9;
        if (id == 3 && type == Q3_THRIFT_STRUCT)
            read_column_data(t, c);
        else
            q3_thrift_skip(t, type);
    }
}

static q3_status check_column(const reader *r, q3_parquet_chunk *out, const column *c,
                              const q3_parquet_leaf *leaf)
{
    if (c->encrypted || c->elsewhere)
        return q3_fail(Q3_ERR_DATA, "%s: column %s is %s; write the file anew without that", r->out->path,
                       leaf->path, c->encrypted ? "encrypted" : "in another file");
    if (c->type != (int64_t)leaf->type || c->chunk.n_values < 0)
        return damaged(r, "a row group's column is not of its schema");
    *out = (q3_parquet_chunk){ 0 };
    if (c->chunk.n_values == 0)
        return Q3_OK; // there are no pages, and no place of them
    int64_t at = c->dictionary_at > 0 && c->dictionary_at < c->data_at ? c->dictionary_at : c->data_at;
    int64_t end = (int64_t)r->footer;
    if (at < 4 || at > end || c->size < 0 || c->size > end - at || c->codec < 0 || c->codec > INT16_MAX)
        return damaged(r, "a row group lies outside of the file");
    *out = (q3_parquet_chunk){ .at = (size_t)at,
                               .size = (size_t)c->size,
                               .n_values = c->chunk.n_values,
                               .unpacked = c->chunk.unpacked > 0 ? c->chunk.unpacked : 0,
                               .codec = (int)c->codec };
    return Q3_OK;
}

static q3_status read_columns(reader *r, q3_thrift *t, int type, q3_parquet_group *g)
{
    const q3_parquet_meta *m = r->out;
    int64_t n = q3_thrift_list(t, type, Q3_THRIFT_STRUCT);
    if (n != m->n_leaves || g->chunks)
        return damaged(r, "a row group has not the columns of the schema");
    g->chunks = q3_calloc((size_t)n, sizeof *g->chunks);
    if (!g->chunks)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        column c;
        read_column(t, &c);
        if (!t->bad)
            Q3_TRY(check_column(r, &g->chunks[i], &c, &m->leaves[i]));
    }
    return Q3_OK;
}

static q3_status read_group(reader *r, q3_thrift *t, q3_parquet_group *g)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        if (id == 1)
            Q3_TRY(read_columns(r, t, type, g));
        else if (id == 3)
            g->n_rows = q3_thrift_int(t, type);
        else
            q3_thrift_skip(t, type);
    }
    if (!t->bad && (!g->chunks || g->n_rows < 0))
        return damaged(r, "a row group has no columns or no rows");
    if (g->n_rows > ROW_LIMIT)
        return q3_fail(Q3_ERR_DATA,
                       "%s: a row group has %" PRId64 " rows, and at most %" PRId64
                       " are read; write smaller row groups",
                       r->out->path, g->n_rows, ROW_LIMIT);
    return Q3_OK;
}

static q3_status read_groups(reader *r, q3_thrift *t, int type)
{
    int64_t n = q3_thrift_list(t, type, Q3_THRIFT_STRUCT);
    if (r->out->groups)
        return damaged(r, "it lists its row groups twice");
    Q3_TRY(build_leaves(r));
    r->out->groups = q3_calloc((size_t)n + 1, sizeof *r->out->groups);
    if (!r->out->groups)
        return Q3_ERR_MEMORY;
    while (r->out->n_groups < n && !t->bad)
        Q3_TRY(read_group(r, t, &r->out->groups[r->out->n_groups++]));
    return Q3_OK;
}

/* ---- the footer ---- */

static void read_pair(reader *r, q3_thrift *t)
{
    static const char wanted[] = "huggingface";
    q3_thrift_bytes key = { 0 }, value = { 0 };
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        if (id == 1)
            key = q3_thrift_binary(t, type);
        else if (id == 2)
            value = q3_thrift_binary(t, type);
        else
            q3_thrift_skip(t, type);
    }
    if (key.size == strlen(wanted) && memcmp(key.at, wanted, key.size) == 0)
        r->out->features = value;
}

static q3_status read_footer(reader *r, q3_thrift *t)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);) {
        if (id == 2)
            Q3_TRY(read_nodes(r, t, type));
        else if (id == 4)
            Q3_TRY(read_groups(r, t, type));
        else if (id == 5)
            for (int64_t n = q3_thrift_list(t, type, Q3_THRIFT_STRUCT); n > 0 && !t->bad; n--)
                read_pair(r, t);
        else
            q3_thrift_skip(t, type);
    }
    if (t->bad || !r->out->groups)
        return damaged(r, "it ends too early or holds what does not belong there");
    return Q3_OK;
}

/* "PAR1" at both ends; before the last one the size of the footer, which is before that. */
static q3_status find_footer(reader *r, q3_thrift *t)
{
    const unsigned char *bytes = r->file->data;
    size_t n = r->file->size;
    if (n < 12 || memcmp(bytes, "PAR", 3) != 0)
        return q3_fail(Q3_ERR_DATA, "%s: is no parquet file (it does not begin with PAR1)", r->out->path);
    if (memcmp(bytes, "PARE", 4) == 0)
        return q3_fail(Q3_ERR_DATA, "%s: is encrypted; write it anew without that", r->out->path);
    if (memcmp(bytes + n - 4, "PAR1", 4) != 0)
        return q3_fail(Q3_ERR_DATA, "%s: does not end as a parquet file does; is the download complete?",
                       r->out->path);
    const unsigned char *p = bytes + n - 8;
    uint32_t size = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    if (size > n - 12)
        return damaged(r, "it is longer than the file");
    r->footer = n - 8 - size;
    *t = (q3_thrift){ .at = p - size, .end = p };
    return Q3_OK;
}

q3_status q3_parquet_meta_read(q3_parquet_meta *out, const q3_map *file, const char *path)
{
    *out = (q3_parquet_meta){ .path = path };
    reader r = { .out = out, .file = file };
    q3_thrift t;
    q3_status st = find_footer(&r, &t);
    st = st ? st : read_footer(&r, &t);
    q3_free(r.nodes);
    if (st != Q3_OK)
        q3_parquet_meta_free(out);
    return st;
}

void q3_parquet_meta_free(q3_parquet_meta *m)
{
    for (int i = 0; i < m->n_leaves; i++) {
        q3_free(m->leaves[i].path);
        q3_free(m->leaves[i].top);
    }
    for (int64_t i = 0; i < m->n_groups; i++)
        q3_free(m->groups[i].chunks);
    q3_free(m->leaves);
    q3_free(m->groups);
    *m = (q3_parquet_meta){ 0 };
}
