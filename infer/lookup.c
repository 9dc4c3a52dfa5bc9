#include "infer/lookup.h"

#include <string.h>

int q3_lookup(int32_t *out, int most, const int32_t *ids, int64_t n, int longest_ngram)
{
    int64_t longest = longest_ngram < n - 1 ? longest_ngram : n - 1;
    for (int64_t m = longest; m > 0; m--)
        for (int64_t at = 0; at + m < n; at++) {
            if (memcmp(ids + at, ids + n - m, (size_t)m * sizeof *ids) != 0)
                continue;
            int64_t left = n - at - m;
            int found = left < most ? (int)left : most;
            memcpy(out, ids + at + m, (size_t)found * sizeof *out);
            return found;
        }
    return 0;
}
