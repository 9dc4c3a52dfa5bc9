/* tests/support/golden.h - batches of tests/golden/model-*: read, written as `trace` reads them, compared.
 *
 * In the golden files pixels are bytes k that stand for k / 127.5 - 1 (tests/golden/compact.py). A missing
 * file or tensor fails the test that asked for it.
 */
#ifndef Q3_TESTS_SUPPORT_GOLDEN_H
#define Q3_TESTS_SUPPORT_GOLDEN_H

#include "collate/pack.h"
#include "core/safetensors.h"

q3_safetensors *q3_golden_open(const char *path);

/* The tensor, which must be there. */
const q3_st_tensor *q3_golden_find(const q3_safetensors *file, const char *name);

/* The batch whose tensors are called <prefix>input_ids and so on; labels and pictures may be missing. Copied
 * into `mem`. */
q3_padded q3_golden_batch(q3_arena *mem, const q3_safetensors *file, const char *prefix);

/* As a file that q3_trace reads. */
void q3_golden_write(const char *path, const q3_padded *p);

/* ||a - b|| / ||b||; where b is all zeros, 0 if a is too and infinity if not. */
double q3_golden_distance(const float *a, const float *b, int64_t n);

/* The same over rows of `width` whose mask is not 0; mask NULL: all rows. */
double q3_golden_row_distance(const float *a, const float *b, const int64_t *mask, int64_t rows,
                              int64_t width);

#endif
