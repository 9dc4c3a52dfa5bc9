#include "data/shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"

#define SHARD_LIMIT 100000 // files of one pattern: more is a slip of the pen

q3_status q3_shards_find(q3_shards *out, const char *path, size_t n)
{
    *out = (q3_shards){ 0 };
    for (size_t i = 0; i < n; i++) {
        char first[10], last[10];
        int size = 0;
        if (sscanf(path + i, "{%9[0-9]..%9[0-9]}%n", first, last, &size) != 2 || size == 0)
            continue;
        size_t digits = strlen(first) > strlen(last) ? strlen(first) : strlen(last);
        bool padded = (first[0] == '0' && first[1]) || (last[0] == '0' && last[1]);
        *out = (q3_shards){ i, (size_t)size, atoll(first), atoll(last), padded ? (int)digits : 0 };
        if (out->last < out->first || out->last - out->first >= SHARD_LIMIT)
            return q3_fail(Q3_ERR_USAGE, "%s: {%s..%s} must count upwards, to at most %d files", path, first,
                           last, SHARD_LIMIT);
        return Q3_OK;
    }
    return Q3_OK;
}

char *q3_shards_path(const char *path, size_t n, const q3_shards *r, long long number)
{
    q3_text t = { 0 };
    q3_text_append(&t, path, r->at);
    if (r->size)
        q3_text_printf(&t, "%0*lld", r->width, number);
    q3_text_append(&t, path + r->at + r->size, n - r->at - r->size);
    if (t.failed)
        q3_text_free(&t);
    return t.data;
}

q3_status q3_shards_check(const char *path, size_t n)
{
    q3_shards r;
    Q3_TRY(q3_shards_find(&r, path, n));
    for (long long i = r.first; i <= r.last; i++) {
        char *file = q3_shards_path(path, n, &r, i);
        if (!file)
            return Q3_ERR_MEMORY;
        q3_status st = q3_file_exists(file) ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: is not there", file);
        q3_free(file);
        Q3_TRY(st);
    }
    return Q3_OK;
}
