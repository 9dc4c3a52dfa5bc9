/* Which attention kernels run, and what they all have in common. */
#include "kernels/attention_device.cuh"

extern "C" {
#include "kernels/cudnn.h"
}

static bool wants_cudnn(const q3_attention_args *a, const q3_cuda *cuda)
{
    return cuda->cudnn && a->dtype == Q3_BF16 &&
           (cuda->attention == Q3_ATTENTION_AUTO || cuda->attention == Q3_ATTENTION_CUDNN);
}

extern "C" void q3_attention_forward_cuda(const q3_attention_args *a, q3_cuda *cuda)
{
    const bool plain = cuda->attention == Q3_ATTENTION_REFERENCE;
    if (!plain && q3_attention_decode_takes(a))
        return q3_attention_decode(a, cuda);
    if (wants_cudnn(a, cuda) && q3_cudnn_attention_forward(a, cuda))
        return;
    if (!plain && q3_attention_flash_takes(a))
        return q3_attention_flash_forward(a, cuda);
    q3_attention_reference_forward(a, cuda);
}

static const int DELTA_THREADS = 256;

/* delta_i = do_i.o_i, one warp a row and head; `rows` counts both. */
template <class T>
static __global__ void __launch_bounds__(DELTA_THREADS)
    attention_delta(float *delta, const T *o, const T *dout, int64_t rows, int head_size)
{
    const int lane = threadIdx.x % 32;
    for (int64_t i = q3_first() / 32; i < rows; i += q3_stride() / 32) {
        float sum = 0;
        for (int c = lane; c < head_size; c += 32)
            sum += q3_value(o[i * head_size + c]) * q3_value(dout[i * head_size + c]);
        sum = q3_warp_sum(sum);
        if (lane == 0)
            delta[i] = sum;
    }
}

template <class T> static void launch_delta(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    const int64_t rows = b->queries * b->f.heads;
    if (rows)
        Q3_LAUNCH(cuda, attention_delta<T>, dim3(q3_blocks(rows * 32, DELTA_THREADS)), DELTA_THREADS, 0,
                  b->delta, (const T *)b->f.o, (const T *)b->dout, rows, b->f.head_size);
}

/* The kernels write the rows of segments alone; `which` is 1 for queries, 3 for keys. */
static void clear_others(const q3_attention_backward_args *b, int which, void *x, float beta, q3_cuda *cuda)
{
    const int64_t rows = which == 1 ? b->queries : b->keys, heads = which == 1 ? b->f.heads : b->f.kv_heads;
    int64_t written = 0;
    for (int64_t i = 0; i < b->f.n_segments; i++)
        written += b->f.segments[4 * i + which];
    if (x && beta == 0 && written < rows)
        q3_cuda_fill(cuda, x, 0, q3_dtype_bytes(b->f.dtype, rows * heads * b->f.head_size));
}

extern "C" void q3_attention_backward_cuda(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    const bool flash = cuda->attention != Q3_ATTENTION_REFERENCE && q3_attention_flash_takes(&b->f) &&
                       q3_attention_aligned(b->dout);
    if (wants_cudnn(&b->f, cuda) && q3_cudnn_attention_backward(b, cuda))
        return;
    clear_others(b, 1, b->dq, b->dq_beta, cuda);
    clear_others(b, 3, b->dk, b->dk_beta, cuda);
    clear_others(b, 3, b->dv, b->dv_beta, cuda);
    Q3_BY_TYPE(b->f.dtype, T, launch_delta<T>(b, cuda));
    if (flash)
        q3_attention_flash_backward(b, cuda);
    else
        q3_attention_reference_backward(b, cuda);
}
