/* tests/cuda_emu/include/cuda_emu.h - a CUDA device played by the processor: what stands behind the CUDA words.
 *
 * The threads of a block are fibers of the host thread that launches; blocks run one after another, and a launch has
 * ended when it returns. Threads run until they wait for others, so kernels without barriers cost a call a thread.
 * Mistakes end the process (abort) with one line on stderr that names kernel, block, thread and source line:
 *
 *   cuda_emu: kernel K, block (0,0,0), thread (3,0,0), file.cu:12: what is wrong
 *
 * Told are: barriers that not all threads of the block reach, or at different lines; warp operations whose mask lacks
 * the caller, names lanes that have left or are not there, or differs between lanes; threads that wait for ever; more
 * than 48 KiB of static shared memory; misaligned or stray ldmatrix and cp.async. A launch that a real device would
 * refuse is refused with the real error code. Shared memory begins as 0xff bytes (NaN), as does device memory, and
 * cp.async copies nothing before its wait: what is read too early shows in the result.
 *
 * Environment: Q3_CUDA_EMU_SCHEDULE  0 threads and blocks in order, 1 backwards, n > 1 a random order seeded by n, in
 *                                    which a thread also stops at barriers that it is the last to reach; results must
 *                                    not depend on it
 *              Q3_CUDA_EMU_DEVICES   devices (1)          Q3_CUDA_EMU_MEMORY  bytes of each (16 GiB)
 *              Q3_CUDA_EMU_SM        capability (90)      Q3_CUDA_EMU_DRIVER  CUDA version of the driver (13000);
 *                                                                             0: there is none
 */
#ifndef Q3_CUDA_EMU_H
#define Q3_CUDA_EMU_H

#include "cuda_runtime_api.h"

/* For stand-ins of libraries: run(args) now, or at each replay when the stream is being captured; `args` [bytes] are
 * copied, aligned for any type. */
Q3_EMU_API cudaError_t q3_emu_enqueue(cudaStream_t stream, void (*run)(void *args), const void *args,
                                      size_t bytes);
/* Whether [p, p + bytes) lies in device memory of any device, or in pinned host memory. */
Q3_EMU_API bool q3_emu_is_device(const void *p, size_t bytes);
/* Keeps the error for cudaGetLastError and returns it. */
Q3_EMU_API cudaError_t q3_emu_error(cudaError_t error);

#ifdef __cplusplus
#include <string.h>
#include <tuple>
#include <utility>

struct q3_emu_site { /* a place in the source */
    const char *file;
    int line;
};
/* Last parameters of a device function: the place of the call; and that place inside. */
#define Q3_EMU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define Q3_EMU_SITE (q3_emu_site{ file, line })

/* What the running thread knows of itself; the scheduler sets it at each switch. */
struct q3_emu_self {
    uint3 thread;
    int lane;
    uint3 block, threads, blocks;
    char *dynamic_shared;
};
extern __thread q3_emu_self q3_emu_now;

#define threadIdx (q3_emu_now.thread)
#define blockIdx (q3_emu_now.block)
#define blockDim (q3_emu_now.threads)
#define gridDim (q3_emu_now.blocks)
enum { warpSize = 32 };

/* One launch, as it is kept by a graph too. `run` calls the kernel for the running thread. */
struct q3_emu_launch {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void (*run)(void *args);
};
cudaError_t q3_emu_submit(const void *function, const q3_emu_launch &launch, cudaStream_t stream, void *args,
                          void *(*copy)(const void *args), void (*destroy)(void *args));
/* Runs all blocks. */
void q3_emu_run(const q3_emu_launch &launch, void *args);
/* Ends the process unless p is NULL or device memory that the current device reaches. */
void q3_emu_check_argument(const char *kernel, int index, const void *p);

void q3_emu_block_barrier(q3_emu_site site);

/* What the lanes of a warp do together: the last to come does it for all, through each lane's args. */
typedef void q3_emu_collective(void *const (&lanes)[32], uint32_t mask);
void q3_emu_warp(q3_emu_collective *what, const char *name, uint32_t mask, void *args, q3_emu_site site);

/* The running block's array of this place in the source; `mark` is the place's own, one for each host thread. */
struct q3_emu_shared_mark {
    uint64_t block; /* number of the block that `at` belongs to */
    char *at;
};
void *q3_emu_shared(q3_emu_shared_mark *mark, size_t bytes, const char *name, q3_emu_site site);

void q3_emu_copy_async(void *shared, const void *global, bool wanted, q3_emu_site site);
void q3_emu_copy_commit(void);
void q3_emu_copy_wait(int newest);
[[noreturn]] void q3_emu_stop(q3_emu_site site, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool q3_emu_in_shared(const void *p, size_t bytes);

/* Arguments that are pointers must be the device's. */
template <class T> inline void q3_emu_check(const char *, int, const T &) {}
template <class T> inline void q3_emu_check(const char *kernel, int index, T *const &p)
{
    q3_emu_check_argument(kernel, index, (const void *)p);
}

template <class... P> struct q3_emu_call {
    void (*kernel)(P...);
    std::tuple<typename std::decay<P>::type...> args;

    template <size_t... I> void apply(std::index_sequence<I...>) { kernel(std::get<I>(args)...); }
    template <size_t... I> void check(const char *name, std::index_sequence<I...>)
    {
        int unused[] = { 0, (q3_emu_check(name, (int)I + 1, std::get<I>(args)), 0)... };
        (void)unused;
    }
    static void run(void *self) { ((q3_emu_call *)self)->apply(std::index_sequence_for<P...>()); }
    static void *copy(const void *self) { return new q3_emu_call(*(const q3_emu_call *)self); }
    static void destroy(void *self) { delete (q3_emu_call *)self; }
};

/* kernel<<<grid, block, shared_bytes, stream>>>(a...); arguments are converted and copied at the call. */
template <class... P, class... A>
inline cudaError_t q3_emu_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                        size_t shared_bytes, cudaStream_t stream, A &&...a)
{
    q3_emu_call<P...> call = { kernel, std::tuple<typename std::decay<P>::type...>(
                                           static_cast<P>(std::forward<A>(a))...) };
    call.check(name, std::index_sequence_for<P...>());
    q3_emu_launch launch = { name, grid, block, shared_bytes, q3_emu_call<P...>::run };
    return q3_emu_submit((const void *)kernel, launch, stream, &call, q3_emu_call<P...>::copy,
                         q3_emu_call<P...>::destroy);
}

#endif
#endif
