#include "kernels/cuda.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_include)
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define HAS_NVTX 1
#endif
#endif

#include "kernels/cublaslt.h"
#include "kernels/cuda_about.h"
#include "kernels/gemm.h"

enum {
    MIB = 1 << 20,
    WORKSPACE_BYTES = 64 * MIB, /* twice what cuBLAS asks for on sm_90 (cuBLAS guide, cublasSetWorkspace) */
    STAGES = 2,                 /* one is filled while the other is copied */
    STAGE_BYTES = 4 * MIB,      /* long enough to hide the start of a copy, 10 us, at 50 GB/s */
    STAGE_ALIGNMENT = 256,      /* of an upload within a buffer: as cudaMalloc aligns */
    PIECE_BYTES = 64 * MIB,     /* least that a range grows by */
    MAPPING_VERSION = 11020,    /* of the driver interface whose prototypes are used below */
};

struct q3_cuda_staging {
    char *buffer[STAGES];         /* pinned */
    cudaEvent_t unloaded[STAGES]; /* the last copy out of the buffer has ended */
    int next;                     /* the buffer that is being filled */
    size_t used;                  /* bytes of it */
};

/* Failures. */

void q3_cuda_fail(q3_cuda *cuda, const char *fmt, ...)
{
    if (cuda->failed)
        return;
    cuda->failed = true;
    va_list args;
    va_start(args, fmt);
    vsnprintf(cuda->sentence, sizeof cuda->sentence, fmt, args);
    va_end(args);
}

bool q3_cuda_take_failure(q3_cuda *cuda, char *why)
{
    cudaError_t error = cudaGetLastError();
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: a launch failed: %s", cuda->ordinal, cudaGetErrorString(error));
    bool failed = cuda->failed;
    if (failed)
        snprintf(why, Q3_CUDA_SENTENCE, "%s", cuda->sentence);
    cuda->failed = false;
    return failed;
}

/* True when the call has worked; `what` was to be done. */
static bool worked(q3_cuda *cuda, cudaError_t error, const char *what)
{
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: cannot %s: %s", cuda->ordinal, what, cudaGetErrorString(error));
    return !error;
}

/* Calls concern the device that is current in the thread. */
static bool enter(q3_cuda *cuda)
{
    return worked(cuda, cudaSetDevice(cuda->ordinal), "use the device");
}

/* Devices. */

static void explain_none(char *why, cudaError_t error)
{
    int driver = 0;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    cudaDriverGetVersion(&driver);
    if (driver == 0)
        snprintf(
            why, Q3_CUDA_SENTENCE,
            "there is no NVIDIA driver; install one that serves CUDA %d.%d, or choose the device \"cpu\"",
            CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    else if (error == cudaErrorInsufficientDriver)
        snprintf(why, Q3_CUDA_SENTENCE,
                 "the NVIDIA driver serves CUDA %d.%d, this program is built for CUDA %d.%d; install a newer "
                 "driver",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    else if (error == cudaErrorNoDevice || error == cudaSuccess)
        snprintf(why, Q3_CUDA_SENTENCE, "the NVIDIA driver offers no card%s%s%s",
                 visible ? "; CUDA_VISIBLE_DEVICES is \"" : "", visible ? visible : "", visible ? "\"" : "");
    else
        snprintf(why, Q3_CUDA_SENTENCE, "the NVIDIA driver does not start: %s; does nvidia-smi work?",
                 cudaGetErrorString(error));
}

int q3_cuda_count(char *why)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (!error && count > 0)
        return count;
    explain_none(why, error);
    cudaGetLastError(); // told here; not to be found again as a failed launch
    return 0;
}

/* Name and capability; false with a sentence when this build has no code for the card. */
static bool describe(q3_cuda *cuda)
{
    struct cudaDeviceProp properties;
    if (!worked(cuda, cudaGetDeviceProperties(&properties, cuda->ordinal), "ask for the device's properties"))
        return false;
    snprintf(cuda->name, sizeof cuda->name, "%.63s", properties.name);
    cuda->sm = 10 * properties.major + properties.minor;
    cuda->multiprocessors = properties.multiProcessorCount;
    if (cuda->sm < Q3_CUDA_OLDEST_SM)
        q3_cuda_fail(cuda,
                     "cuda:%d, %s, has compute capability %d.%d; the kernels need %d.%d (Ampere) or newer",
                     cuda->ordinal, cuda->name, properties.major, properties.minor, Q3_CUDA_OLDEST_SM / 10,
                     Q3_CUDA_OLDEST_SM % 10);
    else if (!q3_cuda_serves(cuda->sm))
        q3_cuda_fail(
            cuda,
            "cuda:%d, %s, has compute capability %d.%d, for which this build (%s) has no code; build "
            "with -DQ3_CUDA_ARCHITECTURES=%d",
            cuda->ordinal, cuda->name, properties.major, properties.minor, q3_cuda_build(), cuda->sm);
    return !cuda->failed;
}

static bool staging_create(q3_cuda *cuda)
{
    cuda->staging = calloc(1, sizeof *cuda->staging);
    for (int i = 0; cuda->staging && i < STAGES; i++) {
        cudaError_t error =
            cudaHostAlloc((void **)&cuda->staging->buffer[i], STAGE_BYTES, cudaHostAllocDefault);
        if (!error)
            error = cudaEventCreateWithFlags(&cuda->staging->unloaded[i], cudaEventDisableTiming);
        if (!worked(cuda, error, "get pinned memory for uploads"))
            return false;
    }
    return cuda->staging != NULL || worked(cuda, cudaErrorMemoryAllocation, "get memory for uploads");
}

static void staging_destroy(struct q3_cuda_staging *staging)
{
    for (int i = 0; staging && i < STAGES; i++) {
        if (staging->unloaded[i])
            cudaEventDestroy(staging->unloaded[i]);
        q3_cuda_pinned_free(staging->buffer[i]);
    }
    free(staging);
}

static bool workspace_create(q3_cuda *cuda)
{
    cuda->workspace_bytes = WORKSPACE_BYTES;
    cudaError_t error = cudaMalloc(&cuda->workspace, WORKSPACE_BYTES);
    if (error == cudaErrorMemoryAllocation)
        q3_cuda_fail(
            cuda,
            "cuda:%d has no %d MiB of memory left for the workspace; see with nvidia-smi who uses the card",
            cuda->ordinal, WORKSPACE_BYTES / MIB);
    return worked(cuda, error, "get memory for the workspace");
}

static bool products_create(q3_cuda *cuda)
{
    char why[Q3_CUDA_SENTENCE] = "";
    cuda->cublaslt = q3_cublaslt_create(cuda, why);
    if (!cuda->cublaslt)
        q3_cuda_fail(cuda, "%s", why);
    return cuda->cublaslt != NULL;
}

q3_cuda *q3_cuda_open(int ordinal, char *why)
{
    int count = q3_cuda_count(why);
    if (count == 0)
        return NULL;
    if (ordinal < 0 || ordinal >= count) {
        snprintf(why, Q3_CUDA_SENTENCE, "there is no cuda:%d; the driver offers %d device%s, counted from 0",
                 ordinal, count, count == 1 ? "" : "s");
        return NULL;
    }
    q3_cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda) {
        snprintf(why, Q3_CUDA_SENTENCE, "cuda:%d: no host memory left", ordinal);
        return NULL;
    }
    cuda->ordinal = ordinal;
    if (enter(cuda) && describe(cuda) &&
        worked(cuda, cudaStreamCreateWithFlags((cudaStream_t *)&cuda->stream, cudaStreamNonBlocking),
               "create a stream") &&
        workspace_create(cuda) && staging_create(cuda) && products_create(cuda))
        return cuda;
    snprintf(why, Q3_CUDA_SENTENCE, "%s", cuda->sentence);
    q3_cuda_close(cuda);
    cudaGetLastError();
    return NULL;
}

void q3_cuda_close(q3_cuda *cuda)
{
    if (!cuda)
        return;
    cudaSetDevice(cuda->ordinal);
    if (cuda->stream)
        cudaStreamSynchronize(cuda->stream);
    q3_gemm_close(cuda);
    if (cuda->cublaslt)
        q3_cublaslt_destroy(cuda->cublaslt);
    staging_destroy(cuda->staging);
    cudaFree(cuda->workspace);
    if (cuda->stream)
        cudaStreamDestroy(cuda->stream);
    free(cuda);
}

/* Memory. */

void q3_cuda_memory(q3_cuda *cuda, size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = 0;
    if (enter(cuda))
        worked(cuda, cudaMemGetInfo(free_bytes, total_bytes), "ask for the free memory");
}

void *q3_cuda_alloc(q3_cuda *cuda, size_t bytes)
{
    void *p = NULL;
    if (!enter(cuda))
        return NULL;
    cudaError_t error = cudaMalloc(&p, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); // an answer, not a failure
        return NULL;
    }
    return worked(cuda, error, "allocate memory") ? p : NULL;
}

void q3_cuda_free(q3_cuda *cuda, void *p)
{
    if (p && enter(cuda))
        worked(cuda, cudaFree(p), "free memory");
}

void *q3_cuda_pinned_alloc(size_t bytes)
{
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault) == cudaSuccess)
        return p;
    cudaGetLastError();
    return NULL;
}

void q3_cuda_pinned_free(void *p)
{
    if (p)
        cudaFreeHost(p);
}

/* Ranges. The runtime hands out the driver's functions, so the driver needs no link. */

static struct {
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*address_free)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,
                       unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
    CUresult (*unmap)(CUdeviceptr, size_t);
    bool there;
} driver;

static bool find(const char *name, void *function)
{
    enum cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, function, MAPPING_VERSION, cudaEnableDefault, &status);
#else
    cudaError_t error = cudaGetDriverEntryPoint(name, function, cudaEnableDefault, &status);
#endif
    return !error && status == cudaDriverEntryPointSuccess;
}

static void find_driver(void)
{
    driver.there = find("cuMemGetAllocationGranularity", &driver.granularity) &&
                   find("cuMemAddressReserve", &driver.reserve) &&
                   find("cuMemAddressFree", &driver.address_free) && find("cuMemCreate", &driver.create) &&
                   find("cuMemRelease", &driver.release) && find("cuMemMap", &driver.map) &&
                   find("cuMemSetAccess", &driver.access) && find("cuMemUnmap", &driver.unmap);
}

static bool mapped(q3_cuda *cuda, CUresult result, const char *what)
{
    if (result)
        q3_cuda_fail(cuda, "cuda:%d: cannot %s: the driver's error %d", cuda->ordinal, what, (int)result);
    return !result;
}

struct pieces {
    int n, room;
    size_t bytes[]; /* of each, in order of address */
};

static CUmemAllocationProp memory_of(const q3_cuda *cuda)
{
    CUmemAllocationProp wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    wanted.location.id = cuda->ordinal;
    return wanted;
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static bool granularity(q3_cuda *cuda, size_t *bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_driver);
    if (!driver.there)
        q3_cuda_fail(
            cuda, "cuda:%d: the driver has no virtual memory management (cuMemMap); install a newer driver",
            cuda->ordinal);
    CUmemAllocationProp wanted = memory_of(cuda);
    return driver.there &&
           mapped(cuda, driver.granularity(bytes, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                  "ask for the size of memory pages");
}

bool q3_cuda_reserve(q3_cuda *cuda, q3_cuda_range *out, size_t bytes)
{
    size_t unit;
    CUdeviceptr base;
    memset(out, 0, sizeof *out);
    if (!enter(cuda) || !granularity(cuda, &unit))
        return false;
    size_t reserved = round_up(bytes ? bytes : 1, unit);
    if (!mapped(cuda, driver.reserve(&base, reserved, 0, 0, 0), "reserve addresses"))
        return false;
    out->base = (char *)(uintptr_t)base;
    out->reserved = reserved;
    return true;
}

/* Room for one more piece. */
static struct pieces *pieces_grow(struct pieces *p)
{
    if (p && p->n < p->room)
        return p;
    int room = p ? 2 * p->room : 16;
    struct pieces *grown = realloc(p, sizeof *p + (size_t)room * sizeof p->bytes[0]);
    if (grown) {
        grown->n = p ? grown->n : 0;
        grown->room = room;
    }
    return grown;
}

/* Backs [committed, committed + bytes); false when the device has no memory left, or with a failure. */
static bool back(q3_cuda *cuda, q3_cuda_range *range, size_t bytes)
{
    struct pieces *pieces = pieces_grow(range->blocks);
    if (!pieces)
        return false;
    range->blocks = pieces;
    CUmemAllocationProp wanted = memory_of(cuda);
    CUmemAccessDesc access = { .location = wanted.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
    CUmemGenericAllocationHandle memory;
    CUresult result = driver.create(&memory, bytes, &wanted, 0);
    if (result == CUDA_ERROR_OUT_OF_MEMORY || !mapped(cuda, result, "create memory"))
        return false;
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)(range->base + range->committed);
    bool done = mapped(cuda, driver.map(at, bytes, 0, memory, 0), "map memory");
    driver.release(memory); // from here on the mapping holds it
    if (!done)
        return false;
    if (!mapped(cuda, driver.access(at, bytes, &access, 1), "allow access to memory")) {
        driver.unmap(at, bytes);
        return false;
    }
    pieces->bytes[pieces->n++] = bytes;
    range->committed += bytes;
    return true;
}

bool q3_cuda_commit(q3_cuda *cuda, q3_cuda_range *range, size_t bytes)
{
    size_t unit;
    if (bytes <= range->committed)
        return true;
    if (bytes > range->reserved) {
        q3_cuda_fail(cuda, "cuda:%d: %zu bytes of a range of %zu were asked for", cuda->ordinal, bytes,
                     range->reserved);
        return false;
    }
    if (!enter(cuda) || !granularity(cuda, &unit))
        return false;
    size_t least = round_up(bytes, unit) - range->committed, left = range->reserved - range->committed;
    size_t piece = least > PIECE_BYTES ? least : PIECE_BYTES;
    if (piece > left)
        piece = left;
    return back(cuda, range, piece) || (!cuda->failed && piece > least && back(cuda, range, least));
}

void q3_cuda_release(q3_cuda *cuda, q3_cuda_range *range)
{
    struct pieces *pieces = range->blocks;
    char *at = range->base;
    if (range->base && enter(cuda)) {
        q3_cuda_wait(cuda); // unmapping does not wait for kernels
        for (int i = 0; pieces && i < pieces->n; at += pieces->bytes[i++])
            mapped(cuda, driver.unmap((CUdeviceptr)(uintptr_t)at, pieces->bytes[i]), "unmap memory");
        mapped(cuda, driver.address_free((CUdeviceptr)(uintptr_t)range->base, range->reserved),
               "give addresses back");
    }
    free(pieces);
    memset(range, 0, sizeof *range);
}

/* Copies. */

static bool is_recording(q3_cuda *cuda)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(cuda->stream, &status);
    return status != cudaStreamCaptureStatusNone;
}

void q3_cuda_upload(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    struct q3_cuda_staging *s = cuda->staging;
    if (is_recording(cuda)) { // the replay would copy from a buffer that has other content by then
        q3_cuda_fail(cuda, "cuda:%d: an upload cannot be recorded", cuda->ordinal);
        return;
    }
    size_t done = 0, part;
    for (bool good = enter(cuda); good && done < bytes; done += part) {
        if (s->used ==
            STAGE_BYTES) { // small uploads share a buffer, so that a step does not wait for its own first ones
            s->next = (s->next + 1) % STAGES;
            s->used = 0;
            good = worked(cuda, cudaEventSynchronize(s->unloaded[s->next]),
                          "wait for an upload"); // at once if never recorded
        }
        char *from_here = s->buffer[s->next] + s->used;
        part = bytes - done < STAGE_BYTES - s->used ? bytes - done : STAGE_BYTES - s->used;
        memcpy(from_here, (const char *)from + done, part);
        good =
            good &&
            worked(cuda,
                   cudaMemcpyAsync((char *)to + done, from_here, part, cudaMemcpyHostToDevice, cuda->stream),
                   "upload") &&
            worked(cuda, cudaEventRecord(s->unloaded[s->next], cuda->stream), "mark an upload");
        s->used += (part + STAGE_ALIGNMENT - 1) / STAGE_ALIGNMENT * STAGE_ALIGNMENT;
    }
}

void q3_cuda_upload_pinned(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (enter(cuda) && bytes)
        worked(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda->stream), "upload");
}

void q3_cuda_download(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (enter(cuda) && bytes &&
        worked(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream), "download"))
        q3_cuda_wait(cuda);
}

void q3_cuda_copy(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (enter(cuda) && bytes)
        worked(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream), "copy");
}

void q3_cuda_fill(q3_cuda *cuda, void *to, int byte, size_t bytes)
{
    if (enter(cuda) && bytes)
        worked(cuda, cudaMemsetAsync(to, byte, bytes, cuda->stream), "fill memory");
}

void q3_cuda_wait(q3_cuda *cuda)
{
    if (enter(cuda))
        worked(cuda, cudaStreamSynchronize(cuda->stream), "finish what was launched");
}

/* Recordings. Only the recording thread is kept from allocating: others may load data meanwhile. */

void q3_cuda_record_begin(q3_cuda *cuda)
{
    if (enter(cuda))
        worked(cuda, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
               "begin a recording");
}

void *q3_cuda_record_end(q3_cuda *cuda)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (!enter(cuda) || !worked(cuda, cudaStreamEndCapture(cuda->stream, &graph), "end a recording"))
        return NULL;
    if (cuda->failed || !worked(cuda, cudaGraphInstantiate(&exec, graph, 0), "make a recording ready"))
        exec = NULL;
    cudaGraphDestroy(graph);
    return exec;
}

void q3_cuda_replay(q3_cuda *cuda, void *recording)
{
    if (enter(cuda))
        worked(cuda, cudaGraphLaunch(recording, cuda->stream), "replay a recording");
}

void q3_cuda_record_free(q3_cuda *cuda, void *recording)
{
    if (recording && enter(cuda))
        worked(cuda, cudaGraphExecDestroy(recording), "free a recording");
}

/* Marks. */

void *q3_cuda_mark(q3_cuda *cuda)
{
    cudaEvent_t event = NULL;
    if (!enter(cuda) || !worked(cuda, cudaEventCreate(&event), "create a mark"))
        return NULL;
    worked(cuda, cudaEventRecord(event, cuda->stream), "make a mark");
    return event;
}

double q3_cuda_between(q3_cuda *cuda, void *first, void *last)
{
    float milliseconds = 0;
    if (first && last && enter(cuda) && worked(cuda, cudaEventSynchronize(last), "wait for a mark"))
        worked(cuda, cudaEventElapsedTime(&milliseconds, first, last), "measure between marks");
    if (first)
        cudaEventDestroy(first);
    if (last)
        cudaEventDestroy(last);
    return 1e-3 * milliseconds;
}

/* Ranges. */

void q3_cuda_range_push(const char *name)
{
#if defined(HAS_NVTX)
    nvtxRangePushA(name);
#else
    (void)name;
#endif
}

void q3_cuda_range_pop(void)
{
#if defined(HAS_NVTX)
    nvtxRangePop();
#endif
}
