/* kernels/cuda.h - a CUDA device as the kernels see it: one stream, a workspace, the libraries found at run time.
 *
 * Every kernel has a launcher `void q3_<op>_<direction>_cuda(const args *a, q3_cuda *cuda)`, which puts its work on
 * cuda->stream and returns; pointers in `a` are device memory unless the header says host. All work of a context runs
 * on that one stream, in order. A failure is kept: the first one stays in cuda->sentence until q3_cuda_take_failure,
 * and launchers behind it may do what they like, for nothing is read from the device before the failure is.
 *
 * The build links cudart statically; libcuda, cuBLASLt, cuDNN and NCCL are opened at run time (kernels/library.h), so
 * the program starts on a machine without any of them. The tests link stand-ins instead (tests/cuda_emu).
 */
#ifndef Q3_KERNELS_CUDA_H
#define Q3_KERNELS_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum q3_attention_kind {
    Q3_ATTENTION_AUTO,      /* cuDNN where it takes the shape, else flash; reference for float32 */
    Q3_ATTENTION_CUDNN,     /* falls back to flash with one line of notice */
    Q3_ATTENTION_FLASH,     /* own tensor-core kernels, bfloat16 */
    Q3_ATTENTION_REFERENCE, /* own plain kernels, float32 sums; any type, any head size */
} q3_attention_kind;

enum { Q3_CUDA_SENTENCE = 320 };
enum { Q3_CUDA_OLDEST_SM = 80 }; /* mma.sync on bfloat16, cp.async (PTX ISA) */

typedef struct q3_cuda {
    int ordinal;         /* N of cuda:N */
    int sm;              /* compute capability: 90 stands for 9.0 */
    int multiprocessors; /* for launch shapes that do not change results */
    char name[64];       /* "NVIDIA H200" */
    void *stream;        /* cudaStream_t of all kernels and products */
    void *workspace;     /* device scratch of one call; its content does not outlive the call */
    size_t workspace_bytes;
    q3_attention_kind attention;
    struct q3_cublaslt *cublaslt; /* kernels/cublaslt.h: handle and algorithm cache */
    struct q3_gemm *gemm;         /* kernels/gemm.cu: converted weights; NULL until needed */
    struct q3_cudnn *cudnn;       /* kernels/cudnn.h: plans; NULL where there is no cuDNN */
    bool failed;                  /* something failed since q3_cuda_take_failure */
    char sentence[Q3_CUDA_SENTENCE];
    struct q3_cuda_staging *staging; /* pinned buffers for uploads */
} q3_cuda;

/* Devices the driver offers; 0 with one sentence in `why` [Q3_CUDA_SENTENCE] when there is none to be had: no driver,
 * a driver too old for this build, no card. */
int q3_cuda_count(char *why);

/* Opens device N: checks its compute capability and the driver, creates the stream, the workspace and the cuBLASLt
 * handle. NULL with one sentence in `why`; nothing is left open then. Several opens of one device are independent. */
q3_cuda *q3_cuda_open(int ordinal, char *why);
void q3_cuda_close(q3_cuda *cuda); /* NULL is fine */

/* Keeps the first failure: printf-like, one sentence. */
void q3_cuda_fail(q3_cuda *cuda, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Asks the runtime for launch errors since the last call (cheap, does not wait) and returns whether anything failed;
 * the sentence is copied to `why` and the failure cleared. */
bool q3_cuda_take_failure(q3_cuda *cuda, char *why);

/* Bytes free and in all on the device. */
void q3_cuda_memory(q3_cuda *cuda, size_t *free_bytes, size_t *total_bytes);

/* Plain device memory for owners that live as long as the device; NULL when there is none left (not a failure). */
void *q3_cuda_alloc(q3_cuda *cuda, size_t bytes);
void q3_cuda_free(q3_cuda *cuda, void *p);

/* A range of device addresses that is backed by memory as it fills (CUDA virtual memory management: cuMemAddressReserve,
 * cuMemCreate, cuMemMap), which is what core/arena.h needs: addresses never move. */
typedef struct q3_cuda_range {
    char *base;
    size_t reserved;  /* bytes of addresses, a multiple of the granularity */
    size_t committed; /* bytes [0, committed) are backed */
    void *blocks;     /* handles of the committed pieces */
} q3_cuda_range;
bool q3_cuda_reserve(q3_cuda *cuda, q3_cuda_range *out, size_t bytes);
/* Backs at least [0, bytes), in pieces of 64 MiB or more; false when the device has no memory left: what was backed
 * stays so. */
bool q3_cuda_commit(q3_cuda *cuda, q3_cuda_range *range, size_t bytes);
void q3_cuda_release(q3_cuda *cuda, q3_cuda_range *range);

/* Host memory that copies run from at full speed and beside compute; NULL when there is none left. */
void *q3_cuda_pinned_alloc(size_t bytes);
void q3_cuda_pinned_free(void *p);

/* A copy straight from pinned memory, which stays as it is until the copy has run; in a recording it runs at each
 * replay. */
void q3_cuda_upload_pinned(q3_cuda *cuda, void *to, const void *from, size_t bytes);

/* All in stream order. Upload: `from` may change once the call returns (it is staged through pinned buffers).
 * Download: waits until `to` is filled. */
void q3_cuda_upload(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_cuda_download(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_cuda_copy(q3_cuda *cuda, void *to, const void *from, size_t bytes);
void q3_cuda_fill(q3_cuda *cuda, void *to, int byte, size_t bytes);
void q3_cuda_wait(q3_cuda *cuda); /* until the stream is idle */

/* Recording of what is launched, to launch it again in one call (CUDA graphs): between begin and end nothing runs, no
 * memory may be allocated and nothing downloaded. NULL when recording failed (see q3_cuda_take_failure). */
void q3_cuda_record_begin(q3_cuda *cuda);
void *q3_cuda_record_end(q3_cuda *cuda);
void q3_cuda_replay(q3_cuda *cuda, void *recording);
void q3_cuda_record_free(q3_cuda *cuda, void *recording);

/* Seconds of device time between two marks of the stream; a mark is made by q3_cuda_mark and belongs to the device.
 * q3_cuda_between waits for `last`. */
void *q3_cuda_mark(q3_cuda *cuda);
double q3_cuda_between(q3_cuda *cuda, void *first, void *last); /* frees both */

/* Names what the thread launches from here to the pop, as Nsight Systems shows it (NVTX); they nest. Nothing where the
 * build had no NVTX headers, next to nothing where no profiler is attached. */
void q3_cuda_range_push(const char *name);
void q3_cuda_range_pop(void);

#ifdef __cplusplus
}
#endif

#endif
