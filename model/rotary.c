#include "model/rotary.h"

#include <math.h>
#include <string.h>

#include "core/status.h"
#include "kernels/pool.h"

enum { MAX_FREQUENCIES = 256 };

static void frequencies(float *inv, int n, int dim, float base)
{
    for (int i = 0; i < n; i++)
        inv[i] = 1.0f / powf(base, (float)(2 * i) / (float)dim);
}

static int axis_of(int i, const int section[3])
{
    if (i % 3 == 1 && i < 3 * section[1])
        return 1;
    if (i % 3 == 2 && i < 3 * section[2])
        return 2;
    return 0;
}

typedef struct text_table {
    float *table;
    const int32_t *positions;
    int64_t n_tokens;
    int half;
    const int *section;
    float inv[MAX_FREQUENCIES];
} text_table;

static void text_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const text_table *j = arg;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *row = j->table + t * 2 * j->half;
        for (int i = 0; i < j->half; i++) {
            float angle = (float)j->positions[axis_of(i, j->section) * j->n_tokens + t] * j->inv[i];
            row[i] = cosf(angle);
            row[j->half + i] = sinf(angle);
        }
    }
}

void q3_rotary_text(float *table, const int32_t *positions, int64_t n_tokens, int head_dim, double theta,
                    const int section[3])
{
    text_table j = {
        .table = table, .positions = positions, .n_tokens = n_tokens, .half = head_dim / 2, .section = section
    };
    Q3_CHECK(j.half <= MAX_FREQUENCIES, "head size %d", head_dim);
    frequencies(j.inv, j.half, head_dim, (float)theta);
    q3_parallel(n_tokens, 16, text_rows, &j);
}

static void vision_row(float *row, int r, int c, const float *inv, int quarter)
{
    for (int j = 0; j < quarter; j++) {
        float vertical = (float)r * inv[j], horizontal = (float)c * inv[j];
        row[j] = cosf(vertical);
        row[quarter + j] = cosf(horizontal);
        row[2 * quarter + j] = sinf(vertical);
        row[3 * quarter + j] = sinf(horizontal);
    }
}

void q3_rotary_vision(float *table, int frames, int rows, int columns, int merge, int head_dim)
{
    float inv[MAX_FREQUENCIES];
    int quarter = head_dim / 4;
    Q3_CHECK(quarter <= MAX_FREQUENCIES, "head size %d", head_dim);
    frequencies(inv, quarter, head_dim / 2, 10000.0f);
    float *out = table;
    for (int br = 0; br < rows; br += merge)
        for (int bc = 0; bc < columns; bc += merge)
            for (int r = br; r < br + merge; r++)
                for (int c = bc; c < bc + merge; c++, out += head_dim)
                    vision_row(out, r, c, inv, quarter);
    size_t frame = (size_t)rows * (size_t)columns * (size_t)head_dim; // every frame has the same table
    for (int t = 1; t < frames; t++)
        memcpy(table + (size_t)t * frame, table, frame * sizeof(float));
}
