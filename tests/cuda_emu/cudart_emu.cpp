/* CUDA's runtime and the driver's virtual memory management, played with host memory. Streams do their work at once,
 * so all that waits returns; what the real ones refuse is refused here with the same codes. */
#include "cuda.h"
#include "cuda_emu.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define Q3_EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define Q3_EMU_ASAN 1
#endif
#endif
#ifdef Q3_EMU_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum {
    MAX_DEVICES = 16,
    MALLOC_ALIGN = 256,               /* CUDA C++ Programming Guide, "Size and Alignment Requirement" */
    PAGE_BYTES = 2 << 20,             /* granularity of virtual memory management on all cards we know */
    DEFAULT_SHARED_BYTES = 48 * 1024, /* without cudaFuncSetAttribute */
};

typedef std::function<void()> work;

struct CUgraph_st {
    std::vector<work> nodes;
};
struct CUgraphExec_st {
    std::vector<work> nodes;
    int device;
};
struct CUstream_st {
    int device;
    cudaStreamCaptureStatus status;
    cudaStreamCaptureMode mode;
    CUgraph_st *graph; /* while captured */
};
struct CUevent_st {
    bool timed, recorded;
    double seconds;
};

enum range_kind { DEVICE_MEMORY, DEVICE_ADDRESSES, PINNED_MEMORY };
struct memory_range {
    size_t bytes;
    int device;
    range_kind kind;
};

struct physical_memory { /* a handle of cuMemCreate */
    size_t bytes;
    int device;
    bool mapped, released;
};

static std::mutex lock; /* of all that follows */
static std::map<uintptr_t, memory_range> ranges;
static std::map<uintptr_t, physical_memory *> mappings; /* by address */
static std::map<const void *, int> shared_limits;       /* of kernels, by cudaFuncSetAttribute */
static size_t used[MAX_DEVICES];                        /* bytes */
static CUstream_st default_streams[MAX_DEVICES];

static __thread int current_device;
static __thread cudaError_t last_error;
static thread_local std::vector<CUstream_st *> captured; /* streams this thread is capturing */

typedef std::lock_guard<std::mutex> guard;

static long long setting(const char *name, long long otherwise)
{
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

static size_t device_bytes(void)
{
    return (size_t)setting("Q3_CUDA_EMU_MEMORY", 16LL << 30);
}

static int device_sm(void)
{
    return (int)setting("Q3_CUDA_EMU_SM", 90);
}

/* Bytes of shared memory a block may ask for (CUDA C++ Programming Guide, "Technical Specifications per Compute
 * Capability"). */
static int shared_bytes_at_most(void)
{
    switch (device_sm()) {
    case 80:
    case 87:
        return 163 * 1024;
    case 90:
    case 100:
    case 103:
        return 227 * 1024;
    case 75:
        return 64 * 1024;
    default:
        return 99 * 1024; // 86, 89, 120
    }
}

/* Errors. */

cudaError_t q3_emu_error(cudaError_t error)
{
    if (error)
        last_error = error;
    return error;
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument" },
    { cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
      "CUDA driver version is insufficient for CUDA runtime version" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorIllegalState, "cudaErrorIllegalState",
      "the operation cannot be performed in the present state" },
    { cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
      "operation not permitted when stream is capturing" },
    { cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
      "operation failed due to a previous error during capture" },
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.code == error)
            return e.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.code == error)
            return e.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

/* Driver and devices. */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)setting("Q3_CUDA_EMU_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

static cudaError_t count_devices(int *count)
{
    int version;
    *count = 0;
    cudaDriverGetVersion(&version);
    if (version / 1000 < CUDART_VERSION / 1000) // a driver serves all minor versions of its major one
        return cudaErrorInsufficientDriver;
    int devices = (int)setting("Q3_CUDA_EMU_DEVICES", 1);
    *count = devices < MAX_DEVICES ? devices : MAX_DEVICES;
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

static cudaError_t check_device(int device)
{
    int count;
    cudaError_t error = count_devices(&count);
    return error || (device >= 0 && device < count) ? error : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    return q3_emu_error(count_devices(count));
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t error = check_device(device);
    if (!error)
        current_device = device;
    return q3_emu_error(error);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return q3_emu_error(check_device(current_device));
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    cudaError_t error = check_device(device);
    if (error)
        return q3_emu_error(error);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated sm_%d", device_sm());
    properties->totalGlobalMem = device_bytes();
    properties->major = device_sm() / 10;
    properties->minor = device_sm() % 10;
    properties->multiProcessorCount = 4; // few, so that what depends on it is exercised
    properties->sharedMemPerBlockOptin = (size_t)shared_bytes_at_most();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = DEFAULT_SHARED_BYTES;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)properties.sharedMemPerBlockOptin;
        return cudaSuccess;
    }
    return q3_emu_error(cudaErrorInvalidValue);
}

/* Memory. `lock` is held in the functions that say so. */

/* The range that holds [p, p + bytes), or NULL; under the lock. */
static const memory_range *range_of(const void *p, size_t bytes)
{
    auto next = ranges.upper_bound((uintptr_t)p);
    if (next == ranges.begin())
        return NULL;
    auto range = std::prev(next);
    return (uintptr_t)p - range->first + bytes <= range->second.bytes ? &range->second : NULL;
}

bool q3_emu_is_device(const void *p, size_t bytes)
{
    guard g(lock);
    return range_of(p, bytes) != NULL;
}

void q3_emu_check_argument(const char *kernel, int index, const void *p)
{
    guard g(lock);
    const memory_range *range = p ? range_of(p, 0) : NULL;
    if (!p || (range && (range->kind == PINNED_MEMORY || range->device == current_device)))
        return;
    fprintf(stderr, "cuda_emu: kernel %s: argument %d, %p, is no memory of device %d\n", kernel, index, p,
            current_device);
    abort();
}

/* What a thread may not do while it captures a stream: the capture is lost. */
static cudaError_t refuse_in_capture(void)
{
    bool refused = false;
    for (CUstream_st *stream : captured)
        if (stream->mode != cudaStreamCaptureModeRelaxed) {
            stream->status = cudaStreamCaptureStatusInvalidated;
            refused = true;
        }
    return refused ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

static cudaError_t allocate(void **p, size_t bytes, range_kind kind)
{
    *p = NULL;
    cudaError_t error = check_device(current_device);
    if (!error)
        error = refuse_in_capture();
    if (error || bytes == 0)
        return error;
    guard g(lock);
    bool device = kind == DEVICE_MEMORY;
    if (device && (bytes > device_bytes() || used[current_device] > device_bytes() - bytes))
        return cudaErrorMemoryAllocation;
    if (posix_memalign(p, MALLOC_ALIGN, bytes) != 0)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    if (device)
        used[current_device] += bytes;
    ranges[(uintptr_t)*p] = memory_range{ bytes, current_device, kind };
    return cudaSuccess;
}

static cudaError_t release(void *p, range_kind kind)
{
    cudaError_t error = refuse_in_capture();
    if (error || !p)
        return error;
    guard g(lock);
    auto range = ranges.find((uintptr_t)p);
    if (range == ranges.end() || range->second.kind != kind)
        return cudaErrorInvalidValue;
    if (kind == DEVICE_MEMORY)
        used[range->second.device] -= range->second.bytes;
    ranges.erase(range);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    return q3_emu_error(allocate(p, bytes, DEVICE_MEMORY));
}

cudaError_t cudaFree(void *p)
{
    return q3_emu_error(release(p, DEVICE_MEMORY));
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    return q3_emu_error(allocate(p, bytes, PINNED_MEMORY));
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return q3_emu_error(allocate(p, bytes, PINNED_MEMORY));
}

cudaError_t cudaFreeHost(void *p)
{
    return q3_emu_error(release(p, PINNED_MEMORY));
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    cudaError_t error = check_device(current_device);
    guard g(lock);
    *total_bytes = device_bytes();
    *free_bytes = used[current_device] < *total_bytes ? *total_bytes - used[current_device] : 0;
    return q3_emu_error(error);
}

/* Streams, and what they are given to do. */

/* The stream itself; for NULL, the default one of the current device. */
static CUstream_st *stream_of(cudaStream_t stream)
{
    if (stream)
        return stream;
    default_streams[current_device].device = current_device;
    return &default_streams[current_device];
}

/* Runs the work, or keeps it for the graph. */
static cudaError_t enqueue(CUstream_st *stream, const work &w)
{
    if (stream->device != current_device)
        return cudaErrorInvalidResourceHandle;
    if (stream->status == cudaStreamCaptureStatusInvalidated)
        return cudaErrorStreamCaptureInvalidated;
    if (stream->status == cudaStreamCaptureStatusActive)
        stream->graph->nodes.push_back(w);
    else
        w();
    return cudaSuccess;
}

cudaError_t q3_emu_enqueue(cudaStream_t stream, void (*run)(void *args), const void *args, size_t bytes)
{
    std::shared_ptr<void> copy(malloc(bytes ? bytes : 1), free);
    memcpy(copy.get(), args, bytes);
    return q3_emu_error(enqueue(stream_of(stream), [run, copy] { run(copy.get()); }));
}

/* The limits of a launch (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"). */
static cudaError_t check_launch(const void *function, const q3_emu_launch &l)
{
    const dim3 &g = l.grid, &b = l.block;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (b.x == 0 || b.y == 0 || b.z == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 || b.x * b.y * b.z > 1024)
        return cudaErrorInvalidConfiguration;
    guard guard_(lock);
    auto limit = shared_limits.find(function);
    int allowed = limit == shared_limits.end() ? DEFAULT_SHARED_BYTES : limit->second;
    return l.shared_bytes > (size_t)allowed ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t q3_emu_submit(const void *function, const q3_emu_launch &launch, cudaStream_t stream, void *args,
                          void *(*copy)(const void *args), void (*destroy)(void *args))
{
    cudaError_t error = check_device(current_device);
    if (!error)
        error = check_launch(function, launch);
    if (error)
        return q3_emu_error(error);
    CUstream_st *to = stream_of(stream);
    if (to->status != cudaStreamCaptureStatusActive)
        return q3_emu_error(enqueue(to, [&] { q3_emu_run(launch, args); }));
    std::shared_ptr<void> kept(copy(args), destroy);
    return q3_emu_error(enqueue(to, [launch, kept] { q3_emu_run(launch, kept.get()); }));
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        value > shared_bytes_at_most())
        return q3_emu_error(cudaErrorInvalidValue);
    guard g(lock);
    shared_limits[kernel] = value;
    return cudaSuccess;
}

/* Whether the addresses are on the side that the kind of copy says. */
static cudaError_t check_copy(const void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    guard g(lock);
    const memory_range *to_range = range_of(to, bytes), *from_range = range_of(from, bytes);
    bool to_device = to_range && to_range->kind != PINNED_MEMORY;
    bool from_device = from_range && from_range->kind != PINNED_MEMORY;
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (kind == cudaMemcpyDefault)
        return cudaSuccess;
    bool wants_to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool wants_from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return to_device == wants_to_device && from_device == wants_from_device ? cudaSuccess
                                                                            : cudaErrorInvalidValue;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    cudaError_t error = bytes ? check_copy(to, from, bytes, kind) : cudaSuccess;
    if (!error && bytes)
        error = enqueue(stream_of(stream), [=] { memmove(to, from, bytes); });
    return q3_emu_error(error);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t error = refuse_in_capture();
    return error ? q3_emu_error(error) : cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream)
{
    cudaError_t error = !bytes || q3_emu_is_device(to, bytes) ? cudaSuccess : cudaErrorInvalidValue;
    if (!error && bytes)
        error = enqueue(stream_of(stream), [=] { memset(to, byte, bytes); });
    return q3_emu_error(error);
}

cudaError_t cudaMemset(void *to, int byte, size_t bytes)
{
    cudaError_t error = refuse_in_capture();
    return error ? q3_emu_error(error) : cudaMemsetAsync(to, byte, bytes, NULL);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    cudaError_t error = check_device(current_device);
    *stream = error ? NULL
                    : new CUstream_st{ current_device, cudaStreamCaptureStatusNone,
                                       cudaStreamCaptureModeGlobal, NULL };
    return q3_emu_error(error);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

static void forget_capture(CUstream_st *stream)
{
    for (size_t i = 0; i < captured.size(); i++)
        if (captured[i] == stream)
            captured.erase(captured.begin() + (ptrdiff_t)i--);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!stream)
        return q3_emu_error(cudaErrorInvalidResourceHandle);
    forget_capture(stream);
    delete stream->graph;
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    if (s->status == cudaStreamCaptureStatusNone)
        return cudaSuccess;
    s->status = cudaStreamCaptureStatusInvalidated;
    return q3_emu_error(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return cudaStreamSynchronize(stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned)
{
    return event ? cudaSuccess : q3_emu_error(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t error = check_device(current_device);
    return q3_emu_error(error ? error : refuse_in_capture());
}

/* Events. */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    cudaError_t error = check_device(current_device);
    *event = error ? NULL : new CUevent_st{ !(flags & cudaEventDisableTiming), false, 0 };
    return q3_emu_error(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    if (s->status != cudaStreamCaptureStatusNone) // an edge of the graph, no time
        return q3_emu_error(s->status == cudaStreamCaptureStatusActive ? cudaSuccess
                                                                       : cudaErrorStreamCaptureInvalidated);
    if (s->device != current_device)
        return q3_emu_error(cudaErrorInvalidResourceHandle);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    event->recorded = true;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return event ? cudaSuccess : q3_emu_error(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return cudaEventSynchronize(event);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t first, cudaEvent_t last)
{
    if (!first || !last || !first->timed || !last->timed || !first->recorded || !last->recorded)
        return q3_emu_error(cudaErrorInvalidResourceHandle);
    *milliseconds = (float)(1e3 * (last->seconds - first->seconds));
    return cudaSuccess;
}

/* Graphs: a list of what to do. */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    if (!stream)
        return q3_emu_error(cudaErrorStreamCaptureUnsupported);
    if (stream->status != cudaStreamCaptureStatusNone)
        return q3_emu_error(cudaErrorIllegalState);
    stream->status = cudaStreamCaptureStatusActive;
    stream->mode = mode;
    stream->graph = new CUgraph_st();
    captured.push_back(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = NULL;
    if (!stream || stream->status == cudaStreamCaptureStatusNone)
        return q3_emu_error(cudaErrorIllegalState);
    bool lost = stream->status == cudaStreamCaptureStatusInvalidated;
    if (lost)
        delete stream->graph;
    else
        *graph = stream->graph;
    stream->graph = NULL;
    stream->status = cudaStreamCaptureStatusNone;
    forget_capture(stream);
    return q3_emu_error(lost ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    *status = stream_of(stream)->status;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = graph ? new CUgraphExec_st{ graph->nodes, current_device } : NULL;
    return q3_emu_error(graph ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (!exec || exec->device != current_device)
        return q3_emu_error(cudaErrorInvalidValue);
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < exec->nodes.size() && !error; i++)
        error = enqueue(stream_of(stream), exec->nodes[i]);
    return q3_emu_error(error);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

/* Virtual memory management: addresses are reserved without access and become memory when mapped. */

static CUresult mem_granularity(size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *bytes = PAGE_BYTES;
    return CUDA_SUCCESS;
}

static CUresult mem_reserve(CUdeviceptr *address, size_t bytes, size_t, CUdeviceptr, unsigned long long)
{
    if (bytes == 0 || bytes % PAGE_BYTES)
        return CUDA_ERROR_INVALID_VALUE;
    size_t room = bytes + PAGE_BYTES; // for the alignment
    char *all = (char *)mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    size_t front = (PAGE_BYTES - (uintptr_t)all % PAGE_BYTES) % PAGE_BYTES;
    if (front)
        munmap(all, front);
    munmap(all + front + bytes, PAGE_BYTES - front);
    *address = (CUdeviceptr)(uintptr_t)(all + front);
    guard g(lock);
    ranges[(uintptr_t)*address] = memory_range{ bytes, current_device, DEVICE_ADDRESSES };
    return CUDA_SUCCESS;
}

static CUresult mem_address_free(CUdeviceptr address, size_t bytes)
{
    guard g(lock);
    auto range = ranges.find((uintptr_t)address);
    if (range == ranges.end() || range->second.kind != DEVICE_ADDRESSES || range->second.bytes != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    auto mapped = mappings.lower_bound((uintptr_t)address);
    if (mapped != mappings.end() && mapped->first < (uintptr_t)address + bytes)
        return CUDA_ERROR_INVALID_VALUE; // unmap first
    ranges.erase(range);
    munmap((void *)(uintptr_t)address, bytes);
    return CUDA_SUCCESS;
}

static CUresult mem_create(CUmemGenericAllocationHandle *handle, size_t bytes,
                           const CUmemAllocationProp *wanted, unsigned long long)
{
    int device = wanted->location.id;
    if (bytes == 0 || bytes % PAGE_BYTES || wanted->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        wanted->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (check_device(device) != cudaSuccess)
        return CUDA_ERROR_INVALID_DEVICE;
    if (refuse_in_capture() != cudaSuccess)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    guard g(lock);
    if (bytes > device_bytes() || used[device] > device_bytes() - bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    used[device] += bytes;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t) new physical_memory{ bytes, device, false, false };
    return CUDA_SUCCESS;
}

/* Under the lock. The memory goes when it is neither mapped nor held. */
static void drop_memory(physical_memory *memory)
{
    if (memory->mapped || !memory->released)
        return;
    used[memory->device] -= memory->bytes;
    delete memory;
}

static CUresult mem_release(CUmemGenericAllocationHandle handle)
{
    guard g(lock);
    physical_memory *memory = (physical_memory *)(uintptr_t)handle;
    memory->released = true;
    drop_memory(memory);
    return CUDA_SUCCESS;
}

static CUresult mem_map(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                        unsigned long long)
{
    guard g(lock);
    physical_memory *memory = (physical_memory *)(uintptr_t)handle;
    const memory_range *range = range_of((const void *)(uintptr_t)address, bytes);
    auto next = mappings.lower_bound((uintptr_t)address);
    bool taken = next != mappings.end() && next->first < (uintptr_t)address + bytes;
    if (next != mappings.begin() &&
        std::prev(next)->first + std::prev(next)->second->bytes > (uintptr_t)address)
        taken = true;
    if (!range || range->kind != DEVICE_ADDRESSES || bytes != memory->bytes || offset || memory->mapped ||
        taken)
        return CUDA_ERROR_INVALID_VALUE;
    memory->mapped = true;
    mappings[(uintptr_t)address] = memory;
    return CUDA_SUCCESS;
}

static CUresult mem_access(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *, size_t)
{
    guard g(lock);
    auto mapping = mappings.find((uintptr_t)address);
    if (mapping == mappings.end() || mapping->second->bytes != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (mprotect((void *)(uintptr_t)address, bytes, PROT_READ | PROT_WRITE) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset((void *)(uintptr_t)address, 0xff, bytes);
    return CUDA_SUCCESS;
}

static CUresult mem_unmap(CUdeviceptr address, size_t bytes)
{
    guard g(lock);
    auto mapping = mappings.find((uintptr_t)address);
    if (mapping == mappings.end() || mapping->second->bytes != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    physical_memory *memory = mapping->second;
    mappings.erase(mapping);
#ifdef Q3_EMU_ASAN
    ASAN_UNPOISON_MEMORY_REGION((void *)(uintptr_t)address, bytes); // the owner may have poisoned parts
#endif
    mprotect((void *)(uintptr_t)address, bytes, PROT_NONE);
    madvise((void *)(uintptr_t)address, bytes, MADV_DONTNEED);
    memory->mapped = false;
    drop_memory(memory);
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned,
                                             unsigned long long, enum cudaDriverEntryPointQueryResult *status)
{
    static const struct {
        const char *name;
        void *function;
    } entries[] = {
        { "cuMemGetAllocationGranularity", (void *)mem_granularity },
        { "cuMemAddressReserve", (void *)mem_reserve },
        { "cuMemAddressFree", (void *)mem_address_free },
        { "cuMemCreate", (void *)mem_create },
        { "cuMemRelease", (void *)mem_release },
        { "cuMemMap", (void *)mem_map },
        { "cuMemSetAccess", (void *)mem_access },
        { "cuMemUnmap", (void *)mem_unmap },
    };
    *function = NULL;
    for (const auto &entry : entries)
        if (strcmp(entry.name, symbol) == 0)
            *function = entry.function;
    if (status)
        *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
