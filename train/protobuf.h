/* train/protobuf.h - messages of Protocol Buffers, written by hand: a field is its number and wire type, then its
 * value (protobuf.dev/programming-guides/encoding).
 *
 * A message is a growing text; one that could not grow has `failed`, and so has what it is put into.
 */
#ifndef Q3_TRAIN_PROTOBUF_H
#define Q3_TRAIN_PROTOBUF_H

#include "core/json.h"

/* The low `bytes` bytes of a value, little-endian, without a field. */
void q3_put_fixed(q3_text *out, uint64_t value, int bytes);

/* One field each. */
void q3_put_int(q3_text *out, int field, int64_t value);
void q3_put_double(q3_text *out, int field, double value);
void q3_put_float(q3_text *out, int field, float value);
void q3_put_string(q3_text *out, int field, const char *text);
void q3_put_message(q3_text *out, int field, q3_text *inner); /* ends the inner message */

#endif
