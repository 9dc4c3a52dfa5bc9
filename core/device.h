/* core/device.h - where arrays live and ops compute: the CPU, or a CUDA device.
 *
 * A device is a q3_cuda (kernels/cuda.h); NULL stands for the CPU throughout. Arrays of a device lie in an arena of
 * that device, which is reserved addresses backed as they fill, like the host's. Host code reaches them through the
 * functions here only; on the CPU these are memcpy and memset.
 *
 * Q3_CALL(ctx, q3_rmsnorm_forward, &args) runs the kernel's variant for the context's device. In a dry run (ctx->dry)
 * nothing is called: shapes are inferred, memory is counted, no data is touched. A build without CUDA sees the CPU's
 * variants only.
 */
#ifndef Q3_CORE_DEVICE_H
#define Q3_CORE_DEVICE_H

#include "core/arena.h"
#include "core/safetensors.h"
#include "kernels/cuda.h"

/* Does this build have CUDA? Is this a name that q3_device_open takes ("auto", "cpu", "cuda", "cuda:1")? */
bool q3_device_built(void);
bool q3_device_is_name(const char *name);

/* Opens "cpu", "cuda", "cuda:1" or "auto", which is the first CUDA device if there is one, else the CPU. *out is NULL
 * for the CPU. Errors: Q3_ERR_USAGE (no such device, no CUDA in this build or on this machine). */
q3_status q3_device_open(q3_cuda **out, const char *name);
void q3_device_close(q3_cuda *cuda);

/* "cpu: avx512, 2 threads" or "cuda:0: NVIDIA H200, 139 GiB"; in one buffer per thread. */
const char *q3_device_describe(const q3_cuda *cuda);

/* Which attention kernels the device takes for activations of this type. AUTO and CUDNN open cuDNN for bfloat16; where it
 * is asked for and not to be had, a line says so and the own kernels serve. */
void q3_device_set_attention(q3_cuda *cuda, q3_attention_kind kind, q3_dtype activations);
/* Whether its backward pass must have the same bits each time (the default); after q3_device_set_attention. */
void q3_device_set_deterministic(q3_cuda *cuda, bool deterministic);
/* Why cuDNN did not take the first call that it did not; NULL where there is nothing to tell. */
const char *q3_device_attention_refusal(q3_cuda *cuda);

/* As q3_arena_create, in the device's memory. */
q3_status q3_device_arena_create(q3_arena *out, q3_cuda *cuda, const char *name, size_t limit);

/* In the order of the device's work; read waits for it. */
void q3_device_write(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_device_read(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_device_copy(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_device_fill(q3_cuda *cuda, void *to, int byte, size_t bytes);

/* As q3_safetensors_write, of tensors whose data lie on the device. */
q3_status q3_device_save(q3_cuda *cuda, const char *path, const q3_st_tensor *tensors, int64_t n);

/* Until the device has done all that it was given. */
void q3_device_wait(q3_cuda *cuda);

/* Host memory that copies run from beside other work, NULL when there is none left, and such a copy: `from` must stay as
 * it is until the device has passed it. */
void *q3_device_pinned(q3_cuda *cuda, size_t bytes);
void q3_device_pinned_free(q3_cuda *cuda, void *p);
void q3_device_write_pinned(q3_cuda *cuda, void *to, const void *from, size_t bytes);

/* Work that is recorded instead of done, to be launched in one call: see kernels/cuda.h. Not for the CPU. */
void q3_device_record_begin(q3_cuda *cuda);
void *q3_device_record_end(q3_cuda *cuda);
void q3_device_replay(q3_cuda *cuda, void *recording);
void q3_device_record_free(q3_cuda *cuda, void *recording);

/* A moment of the device's work, and the seconds from one to another, which are freed; waits for the last. Not for the
 * CPU. */
void *q3_device_mark(q3_cuda *cuda);
double q3_device_between(q3_cuda *cuda, void *first, void *last);

/* Names what the device is given from here to the pop, for NVIDIA's profilers; they nest. */
void q3_device_range_push(q3_cuda *cuda, const char *name);
void q3_device_range_pop(q3_cuda *cuda);

/* What has failed on the device since the last call, Q3_ERR_FAIL or Q3_ERR_MEMORY with its sentence. */
q3_status q3_device_status(q3_cuda *cuda);

/* Bytes that the device could give now; 0 when unknown. */
size_t q3_device_available(q3_cuda *cuda);
/* Bytes of the device that are in use, by other programs too; on the CPU the peak resident size of this process. */
size_t q3_device_used(q3_cuda *cuda);

#if defined(Q3_CUDA)
#define Q3_CALL(ctx, kernel, args)                                                                           \
    do {                                                                                                     \
        if ((ctx)->dry || (ctx)->replaying)                                                                  \
            break;                                                                                           \
        if ((ctx)->data->cuda)                                                                               \
            kernel##_cuda(args, (ctx)->data->cuda);                                                          \
        else                                                                                                 \
            kernel##_cpu(args);                                                                              \
    } while (0)
/* The same outside of a step. */
#define Q3_CALL_ON(device, kernel, args)                                                                     \
    do {                                                                                                     \
        if (device)                                                                                          \
            kernel##_cuda(args, device);                                                                     \
        else                                                                                                 \
            kernel##_cpu(args);                                                                              \
    } while (0)
#else
#define Q3_CALL(ctx, kernel, args)                                                                           \
    do {                                                                                                     \
        if (!(ctx)->dry)                                                                                     \
            kernel##_cpu(args);                                                                              \
    } while (0)
#define Q3_CALL_ON(device, kernel, args)                                                                     \
    do {                                                                                                     \
        (void)(device);                                                                                      \
        kernel##_cpu(args);                                                                                  \
    } while (0)
#endif

#endif
