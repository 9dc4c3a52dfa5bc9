#include "train/protobuf.h"

#include <string.h>

typedef enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire;

void q3_put_fixed(q3_text *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        char byte = (char)(value >> 8 * i & 0xFF);
        q3_text_append(out, &byte, 1);
    }
}

static void put_varint(q3_text *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        q3_put_fixed(out, (value & 0x7F) | 0x80, 1);
    q3_put_fixed(out, value, 1);
}

static void put_key(q3_text *out, int field, wire type)
{
    put_varint(out, (uint64_t)field << 3 | (uint64_t)type);
}

void q3_put_int(q3_text *out, int field, int64_t value)
{
    put_key(out, field, VARINT);
    put_varint(out, (uint64_t)value);
}

void q3_put_double(q3_text *out, int field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(out, field, FIXED64);
    q3_put_fixed(out, bits, 8);
}

void q3_put_float(q3_text *out, int field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(out, field, FIXED32);
    q3_put_fixed(out, bits, 4);
}

static void put_bytes(q3_text *out, int field, const char *data, size_t n)
{
    put_key(out, field, BYTES);
    put_varint(out, n);
    q3_text_append(out, data, n);
}

void q3_put_string(q3_text *out, int field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

void q3_put_message(q3_text *out, int field, q3_text *inner)
{
    if (!inner->failed)
        put_bytes(out, field, inner->data, inner->size);
    out->failed = out->failed || inner->failed;
    q3_text_free(inner);
}
