/* kernels/cast.cu - conversions between float types on the device.
 *
 *   kernel           idea                                taken when
 *   cast_flat        eight elements a thread, 16 bytes   dense; singly where it is not aligned to 16 bytes
 *                    at a time
 *   cast_rows<8>     a warp a row, eight a lane          aligned, columns and distances of rows multiples of 8
 *   cast_rows<1>     a warp a row, one a lane            otherwise
 */
#include "kernels/eight.cuh"

extern "C" {
#include "kernels/cast.h"
}

namespace
{

enum { THREADS = 256, EIGHT = 8 };

template <class Y, class X>
__global__ void __launch_bounds__(THREADS)
    cast_flat(Y *__restrict__ y, const X *__restrict__ x, int64_t eights, int64_t n)
{
    for (int64_t i = q3_first(); i < eights; i += q3_stride()) {
        float v[EIGHT];
        q3_load_eight(v, x + i * EIGHT);
        q3_store_eight(y + i * EIGHT, v);
    }
    for (int64_t i = eights * EIGHT + q3_first(); i < n; i += q3_stride())
        q3_set(y + i, q3_value(x[i]));
}

template <int WIDTH, class Y, class X>
__global__ void __launch_bounds__(THREADS) cast_rows(Y *__restrict__ y, const X *__restrict__ x, int64_t rows,
                                                     int64_t cols, int64_t ldy, int64_t ldx)
{
    const int lane = threadIdx.x & 31;
    for (int64_t row = q3_first() >> 5; row < rows; row += q3_stride() >> 5)
        for (int64_t col = lane * WIDTH; col < cols; col += 32 * WIDTH) {
            const X *from = x + row * ldx + col;
            Y *to = y + row * ldy + col;
            if (WIDTH == EIGHT) {
                float v[EIGHT];
                q3_load_eight(v, from);
                q3_store_eight(to, v);
            } else {
                q3_set(to, q3_value(*from));
            }
        }
}

template <class Y, class X> void launch(const q3_cast_args *a, q3_cuda *cuda)
{
    const int64_t rows = a->rows, cols = a->cols, ldy = a->ldy ? a->ldy : cols, ldx = a->ldx ? a->ldx : cols;
    const bool aligned = ((uintptr_t)a->y | (uintptr_t)a->x) % 16 == 0;
    const unsigned blocks = q3_blocks(rows, THREADS / 32);
    Y *y = (Y *)a->y;
    const X *x = (const X *)a->x;
    if (rows == 1 || (ldy == cols && ldx == cols)) {
        const int64_t n = rows * cols, eights = aligned ? n / EIGHT : 0;
        Q3_LAUNCH(cuda, (cast_flat<Y, X>), q3_blocks(aligned ? eights : n, THREADS), THREADS, 0, y, x, eights,
                  n);
    } else if (aligned && (cols | ldy | ldx) % EIGHT == 0) {
        Q3_LAUNCH(cuda, (cast_rows<EIGHT, Y, X>), blocks, THREADS, 0, y, x, rows, cols, ldy, ldx);
    } else {
        Q3_LAUNCH(cuda, (cast_rows<1, Y, X>), blocks, THREADS, 0, y, x, rows, cols, ldy, ldx);
    }
}

template <class Y> void from(const q3_cast_args *a, q3_cuda *cuda)
{
    if (a->x_dtype == Q3_F16)
        launch<Y, q3_f16>(a, cuda);
    else
        Q3_BY_TYPE(a->x_dtype, X, (launch<Y, X>(a, cuda)));
}

} // namespace

void q3_cast_cuda(const q3_cast_args *a, q3_cuda *cuda)
{
    if (a->rows == 0 || a->cols == 0)
        return;
    if (a->y_dtype == Q3_F16)
        from<q3_f16>(a, cuda);
    else
        Q3_BY_TYPE(a->y_dtype, Y, from<Y>(a, cuda));
}
