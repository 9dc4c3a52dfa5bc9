"""Turns unicode-classes-oniguruma.txt and nfc-boundary-codepoints.txt into collate/unicode_list.h.

usage (repository root): python3 tests/golden/vectors/make_unicode_list.py > collate/unicode_list.h
"""
import os

HERE = os.path.dirname(__file__)
BLOCK = 128


def rows(name):
    with open(os.path.join(HERE, name)) as f:
        return [line.split() for line in f]


def wrap(items, per_line):
    for i in range(0, len(items), per_line):
        print("    " + ", ".join(items[i:i + per_line]) + ",")


number = {"O": 0, "-": 0, "L": 1, "N": 2, "S": 3}
classes = bytearray(0x110000)
for first, last, letter in rows("unicode-classes-oniguruma.txt"):
    for c in range(int(first, 16), int(last, 16) + 1):
        classes[c] = number[letter]
blocks, index = {}, []
for c in range(0, 0x110000, BLOCK):
    index.append(blocks.setdefault(bytes(classes[c:c + BLOCK]), len(blocks)))
other = blocks[bytes(BLOCK)]
while index[-1] == other:
    index.pop()
words = []
for block in blocks:
    for i in range(0, BLOCK, 32):
        words.append("0x%016x" % sum(k << (2 * j) for j, k in enumerate(block[i:i + 32])))

print("""/* collate/unicode_list.h - tables for collate/unicode.c, which alone includes them.
 *
 * Character classes as the regular expression engine of the tokenizers library sees them (Oniguruma 6.5, Unicode
 * 16.0), and the code points that its NFC (tables of Unicode 9.0) leaves alone and a newer NFC would not. Both were
 * probed code point by code point through the library. Made by tests/golden/vectors/make_unicode_list.py.
 */
#ifndef Q3_COLLATE_UNICODE_LIST_H
#define Q3_COLLATE_UNICODE_LIST_H

#include <stdint.h>

/* The block of 128 code points that starts at 128 * i; what lies behind the end is of class 0 (other). */
static const uint8_t class_blocks[%d] = {""" % len(index))
wrap(["%d" % i for i in index], 21)
print("""};

/* Four words a block, 32 code points a word, two bits each from the low end: 0 other, 1 letter, 2 number, 3 space. */
static const uint64_t class_words[%d] = {""" % len(words))
wrap(words, 5)
print("""};

/* First and last code point of each range that NFC copies and never crosses, ascending. */
static const uint32_t nfc_walls[][2] = {""")
wrap(["{ 0x%s, 0x%s }" % tuple(r) for r in rows("nfc-boundary-codepoints.txt")], 4)
print("""};

#endif""")
