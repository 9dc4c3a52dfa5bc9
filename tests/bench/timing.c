#include "tests/bench/timing.h"

#include <stdlib.h>

#include "core/device.h"
#include "core/log.h"

enum { MOST = 64 };

static int rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double timing_middle(double *seconds, int n)
{
    qsort(seconds, (size_t)n, sizeof *seconds, rising);
    return n % 2 ? seconds[n / 2] : 0.5 * (seconds[n / 2 - 1] + seconds[n / 2]);
}

static double once(q3_cuda *cuda, void (*work)(void *, q3_cuda *), void *arg)
{
#if defined(Q3_CUDA)
    if (cuda) {
        void *begin = q3_cuda_mark(cuda);
        work(arg, cuda);
        return q3_cuda_between(cuda, begin, q3_cuda_mark(cuda));
    }
#endif
    double start = q3_seconds();
    work(arg, cuda);
    return q3_seconds() - start;
}

double timing_median(q3_cuda *cuda, void (*work)(void *arg, q3_cuda *cuda), void *arg, int times)
{
    double seconds[MOST];
    times = times < 1 ? 1 : times > MOST ? MOST : times;
    once(cuda, work, arg);
    for (int i = 0; i < times; i++)
        seconds[i] = once(cuda, work, arg);
    return timing_middle(seconds, times);
}
