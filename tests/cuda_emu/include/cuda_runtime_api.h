/* tests/cuda_emu/include/cuda_runtime_api.h - what the project uses of CUDA's runtime, for C11 and C++.
 *
 * Stands in for NVIDIA's header of that name where there is no toolkit: the same names, prototypes and numbers, and
 * nothing beside what is called. tests/cuda_emu/cudart_emu.cpp implements it.
 */
#ifndef Q3_CUDA_EMU_RUNTIME_API_H
#define Q3_CUDA_EMU_RUNTIME_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUDART_VERSION 13000 /* 1000 major + 10 minor */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#ifndef __cplusplus
#define Q3_EMU_API
#else
#define Q3_EMU_API extern "C"
#define __restrict__ __restrict
#endif

/* Built-in vector types, aligned as on the device: a misaligned access is UBSan's to tell. */
#define Q3_EMU_VECTORS(T, name, align2, align4)                                                              \
    typedef struct name##2                                                                                   \
    {                                                                                                        \
        T x, y;                                                                                              \
    }                                                                                                        \
    __align__(align2) name##2;                                                                               \
    typedef struct name##3                                                                                   \
    {                                                                                                        \
        T x, y, z;                                                                                           \
    }                                                                                                        \
    name##3;                                                                                                 \
    typedef struct name##4                                                                                   \
    {                                                                                                        \
        T x, y, z, w;                                                                                        \
    }                                                                                                        \
    __align__(align4) name##4;
Q3_EMU_VECTORS(signed char, char, 2, 4)
Q3_EMU_VECTORS(unsigned char, uchar, 2, 4)
Q3_EMU_VECTORS(short, short, 4, 8)
Q3_EMU_VECTORS(unsigned short, ushort, 4, 8)
Q3_EMU_VECTORS(int, int, 8, 16)
Q3_EMU_VECTORS(unsigned, uint, 8, 16)
Q3_EMU_VECTORS(long long, longlong, 16, 16)
Q3_EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
Q3_EMU_VECTORS(float, float, 8, 16)
Q3_EMU_VECTORS(double, double, 16, 16)
#undef Q3_EMU_VECTORS

typedef struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
#endif
} dim3;

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorSymbolNotFound = 500,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorUnknown = 999,
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
};

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2,
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2,
};

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess = 0,
    cudaDriverEntryPointSymbolNotFound = 1,
    cudaDriverEntryPointVersionNotSufficent = 2, /* NVIDIA's spelling */
};

enum {
    cudaStreamDefault = 0,
    cudaStreamNonBlocking = 1,
    cudaEventDefault = 0,
    cudaEventDisableTiming = 2,
    cudaHostAllocDefault = 0,
    cudaEnableDefault = 0,
};

/* The fields that are read. */
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
    int multiProcessorCount;
    size_t sharedMemPerBlockOptin;
};

Q3_EMU_API const char *cudaGetErrorName(cudaError_t error);
Q3_EMU_API const char *cudaGetErrorString(cudaError_t error);
Q3_EMU_API cudaError_t cudaGetLastError(void);
Q3_EMU_API cudaError_t cudaPeekAtLastError(void);

Q3_EMU_API cudaError_t cudaDriverGetVersion(int *version);
Q3_EMU_API cudaError_t cudaRuntimeGetVersion(int *version);
Q3_EMU_API cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                                        unsigned long long flags,
                                                        enum cudaDriverEntryPointQueryResult *status);

Q3_EMU_API cudaError_t cudaGetDeviceCount(int *count);
Q3_EMU_API cudaError_t cudaSetDevice(int device);
Q3_EMU_API cudaError_t cudaGetDevice(int *device);
Q3_EMU_API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
Q3_EMU_API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
Q3_EMU_API cudaError_t cudaDeviceSynchronize(void);
Q3_EMU_API cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

Q3_EMU_API cudaError_t cudaMalloc(void **p, size_t bytes);
Q3_EMU_API cudaError_t cudaFree(void *p);
Q3_EMU_API cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
Q3_EMU_API cudaError_t cudaMallocHost(void **p, size_t bytes);
Q3_EMU_API cudaError_t cudaFreeHost(void *p);
Q3_EMU_API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind);
Q3_EMU_API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                       cudaStream_t stream);
Q3_EMU_API cudaError_t cudaMemset(void *to, int byte, size_t bytes);
Q3_EMU_API cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);

Q3_EMU_API cudaError_t cudaStreamCreate(cudaStream_t *stream);
Q3_EMU_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
Q3_EMU_API cudaError_t cudaStreamDestroy(cudaStream_t stream);
Q3_EMU_API cudaError_t cudaStreamSynchronize(cudaStream_t stream);
Q3_EMU_API cudaError_t cudaStreamQuery(cudaStream_t stream);
Q3_EMU_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

Q3_EMU_API cudaError_t cudaEventCreate(cudaEvent_t *event);
Q3_EMU_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
Q3_EMU_API cudaError_t cudaEventDestroy(cudaEvent_t event);
Q3_EMU_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
Q3_EMU_API cudaError_t cudaEventSynchronize(cudaEvent_t event);
Q3_EMU_API cudaError_t cudaEventQuery(cudaEvent_t event);
Q3_EMU_API cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t first, cudaEvent_t last);

Q3_EMU_API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
Q3_EMU_API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
Q3_EMU_API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status);
Q3_EMU_API cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                            unsigned long long flags);
Q3_EMU_API cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
Q3_EMU_API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
Q3_EMU_API cudaError_t cudaGraphDestroy(cudaGraph_t graph);

Q3_EMU_API cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value);

#endif
