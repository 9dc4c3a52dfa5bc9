#include "kernels/rope.h"

static void q3_rope_rotate_reference(const q3_rope_args *a)
{
    const float *x = a->x;
    float *y = a->y;
    int half = a->D / 2;
    for (int64_t k = 0; k < a->T * a->heads * half; k++) {
        int64_t i = k % half, t = k / half / a->heads, at = k / half * a->D + i;
        double c = a->cos_sin[t * a->D + i], s = a->cos_sin[t * a->D + half + i];
        double x0 = x[at], x1 = x[at + half], sign = a->inverse ? -1 : 1;
        double y0 = x0 * c - sign * x1 * s, y1 = x1 * c + sign * x0 * s;
        y[at] = (float)(a->beta == 0 ? y0 : y[at] + y0);
        y[at + half] = (float)(a->beta == 0 ? y1 : y[at + half] + y1);
    }
}

void q3_rope_rotate_cpu(const q3_rope_args *a)
{
    Q3_DISPATCH(q3_rope_rotate, a);
}
