#include "kernels/linear.h"

static void q3_linear_bias_reference(const q3_linear_bias_args *a)
{
    const float *dy = a->dy;
    for (int64_t n = 0; n < a->N; n++) {
        double sum = a->beta != 0 ? (double)a->beta * a->db[n] : 0;
        for (int64_t m = 0; m < a->M; m++)
            sum += dy[m * a->N + n];
        a->db[n] = (float)sum;
    }
}

void q3_linear_bias_cpu(const q3_linear_bias_args *a)
{
    Q3_DISPATCH(q3_linear_bias, a);
}
