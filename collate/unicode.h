/* collate/unicode.h - what the tokenizer needs to know about text: UTF-8, character classes, NFC.
 *
 * Classes and normalization are those of the tokenizers library that made the vocabulary (its regular
 * expression engine has Unicode 16.0, its NFC 9.0), not those of whatever Unicode library is installed; see
 * collate/unicode_list.h.
 */
#ifndef Q3_COLLATE_UNICODE_H
#define Q3_COLLATE_UNICODE_H

#include "core/json.h"

typedef enum q3_char_class { Q3_CHAR_OTHER, Q3_CHAR_LETTER, Q3_CHAR_NUMBER, Q3_CHAR_SPACE } q3_char_class;

/* Class of a code point: letter = L*, number = Nd, Nl, No, space = White_Space; marks, symbols, controls are
 * other. */
q3_char_class q3_char_class_of(uint32_t c);

/* The code point at text[*at], and *at behind it. The text must be valid UTF-8 (q3_utf8_valid) and *at inside
 * it. */
uint32_t q3_utf8_next(const char *text, size_t *at);
void q3_utf8_append(q3_text *out, uint32_t c);

/* Appends `bytes` as valid UTF-8: every maximal piece of an ill-formed sequence becomes one U+FFFD (The
 * Unicode Standard, section 3.9; the same as Python's errors="replace"). */
void q3_utf8_lossy(q3_text *out, const char *bytes, size_t n);

/* How many of the bytes can be shown now: all but a tail that is the beginning of a well-formed sequence. For
 * streaming, where the rest of a character comes with the next token. */
size_t q3_utf8_whole(const char *bytes, size_t n);

/* True when the text surely is in NFC already, by a quick look at its code points; false means unknown. */
bool q3_nfc_quick(const char *text, size_t n);

/* Appends the NFC form of valid UTF-8, in linear time. Error: Q3_ERR_MEMORY. */
q3_status q3_nfc(q3_text *out, const char *text, size_t n);

#endif
