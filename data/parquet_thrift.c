#include "data/parquet_thrift.h"

#define DEPTH_LIMIT 32 // of what is skipped; Parquet's own structs nest 5 deep

static bool bad(q3_thrift *t)
{
    t->bad = true;
    t->at = t->end;
    return false;
}

static unsigned byte(q3_thrift *t)
{
    if (t->at == t->end)
        return bad(t), 0;
    return *t->at++;
}

static uint64_t varint(q3_thrift *t)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        unsigned b = byte(t);
        value |= (uint64_t)(b & 127) << shift;
        if (b < 128)
            return value;
    }
    return bad(t), 0;
}

static int64_t zigzag(q3_thrift *t)
{
    uint64_t v = varint(t);
    return (int64_t)(v >> 1 ^ (0 - (v & 1)));
}

static q3_thrift_bytes take(q3_thrift *t, uint64_t n)
{
    q3_thrift_bytes none = { 0 };
    if (n > (uint64_t)(t->end - t->at))
        return bad(t), none;
    t->at += n;
    return (q3_thrift_bytes){ (const char *)t->at - n, (size_t)n };
}

bool q3_thrift_field(q3_thrift *t, int *id, int *type)
{
    unsigned head = byte(t);
    if (head == 0) // the end, of the struct or of what can be read
        return false;
    int64_t next = head >> 4 ? *id + (int)(head >> 4) : zigzag(t);
    *type = (int)(head & 15);
    if (t->bad || next < INT16_MIN || next > INT16_MAX)
        return bad(t);
    *id = (int)next;
    return true;
}

int64_t q3_thrift_int(q3_thrift *t, int type)
{
    if (type != Q3_THRIFT_I16 && type != Q3_THRIFT_I32 && type != Q3_THRIFT_I64)
        return bad(t), 0;
    int64_t value = zigzag(t);
    if (type == Q3_THRIFT_I32 && (value < INT32_MIN || value > INT32_MAX))
        return bad(t), 0;
    return t->bad ? 0 : value;
}

q3_thrift_bytes q3_thrift_binary(q3_thrift *t, int type)
{
    q3_thrift_bytes none = { 0 };
    if (type != Q3_THRIFT_BINARY)
        return bad(t), none;
    return take(t, varint(t));
}

/* Every element has a byte at least, so that a count beyond the bytes that are left is wrong. */
static int64_t list_head(q3_thrift *t, int *of)
{
    unsigned head = byte(t);
    uint64_t n = head >> 4;
    *of = (int)(head & 15);
    if (n == 15)
        n = varint(t);
    if (t->bad || n > (uint64_t)(t->end - t->at))
        return bad(t), 0;
    return (int64_t)n;
}

int64_t q3_thrift_list(q3_thrift *t, int type, int of)
{
    int found;
    if (type != Q3_THRIFT_LIST)
        return bad(t), 0;
    int64_t n = list_head(t, &found);
    if (n > 0 && found != of)
        return bad(t), 0;
    return n;
}

void q3_thrift_struct(q3_thrift *t, int type)
{
    if (type != Q3_THRIFT_STRUCT)
        bad(t);
}

static void skip(q3_thrift *t, int type, int depth, bool in_list);

static void skip_struct(q3_thrift *t, int depth)
{
    int type;
    for (int id = 0; q3_thrift_field(t, &id, &type);)
        skip(t, type, depth + 1, false);
}

static void skip_list(q3_thrift *t, int depth)
{
    int of;
    for (int64_t n = list_head(t, &of); n > 0 && !t->bad; n--)
        skip(t, of, depth + 1, true);
}

static void skip_map(q3_thrift *t, int depth)
{
    uint64_t n = varint(t);
    unsigned types = n > 0 ? byte(t) : 0;
    if (n > (uint64_t)(t->end - t->at))
        bad(t);
    for (; n > 0 && !t->bad; n--) {
        skip(t, (int)(types >> 4), depth + 1, true);
        skip(t, (int)(types & 15), depth + 1, true);
    }
}

static void skip(q3_thrift *t, int type, int depth, bool in_list)
{
    if (depth > DEPTH_LIMIT)
        bad(t);
    else if (type == Q3_THRIFT_TRUE || type == Q3_THRIFT_FALSE)
        take(t, in_list ? 1 : 0);
    else if (type == Q3_THRIFT_BYTE)
        take(t, 1);
    else if (type == Q3_THRIFT_I16 || type == Q3_THRIFT_I32 || type == Q3_THRIFT_I64)
        varint(t);
    else if (type == Q3_THRIFT_DOUBLE)
        take(t, 8);
    else if (type == Q3_THRIFT_BINARY)
        take(t, varint(t));
    else if (type == Q3_THRIFT_LIST || type == Q3_THRIFT_SET)
        skip_list(t, depth);
    else if (type == Q3_THRIFT_MAP)
        skip_map(t, depth);
    else if (type == Q3_THRIFT_STRUCT)
        skip_struct(t, depth);
    else
        bad(t);
}

void q3_thrift_skip(q3_thrift *t, int type)
{
    skip(t, type, 0, false);
}
