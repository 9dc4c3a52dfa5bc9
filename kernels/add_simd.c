#include "kernels/add.h"

#include <string.h>

enum { GRAIN = 16384 }; // elements a thread takes at least

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_add_args *args = arg;
    const float *a = args->a, *b = args->b;
    float *y = args->y;
    (void)thread;
    if (!a) {
        memmove(y + begin, b + begin, (size_t)(end - begin) * sizeof(float));
        return;
    }
    for (int64_t i = begin; i < end; i++)
        y[i] = a[i] + b[i];
}

void Q3_SIMD(q3_add_forward)(const q3_add_args *a)
{
    q3_parallel(a->n, GRAIN, run, (void *)(uintptr_t)a);
}
