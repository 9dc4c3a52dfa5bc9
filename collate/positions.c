#include "collate/positions.h"

#include <stdbool.h>

int64_t q3_positions(int32_t *time, int32_t *height, int32_t *width, const int32_t *ids, int64_t n,
                     int32_t image_token, int32_t video_token, const int32_t *grids, int n_grids, int merge)
{
    int64_t next = 0;
    int used = 0;
    for (int64_t t = 0; t < n;) {
        bool visual = ids[t] == image_token || ids[t] == video_token;
        if (!visual) {
            time[t] = height[t] = width[t] = (int32_t)next++;
            t++;
            continue;
        }
        if (used == n_grids)
            return -1;
        const int32_t *g = grids + 3 * used++;
        int rows = g[1] / merge, columns = g[2] / merge;
        if (g[0] < 1 || rows < 1 || columns < 1 ||
            (n - t) / g[0] / rows < columns) // does not fit into the row
            return -1;
        int64_t end = t + (int64_t)g[0] * rows * columns;
        for (int64_t i = 0; t < end; i++, t++) {
            if (ids[t] != image_token && ids[t] != video_token)
                return -1;
            time[t] = (int32_t)(next + i / ((int64_t)rows * columns));
            height[t] = (int32_t)(next + i / columns % rows);
            width[t] = (int32_t)(next + i % columns);
        }
        next += rows > columns ? rows : columns;
    }
    return used == n_grids ? next : -1;
}
