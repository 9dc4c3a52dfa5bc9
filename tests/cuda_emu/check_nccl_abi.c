/* tests/cuda_emu/check_nccl_abi.c - compiles where kernels/nccl_api.h says what NVIDIA's nccl.h says. */
#include <nccl.h>

#include "kernels/nccl_api.h"

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours " is not " #theirs)

SAME(Q3_NCCL_SUCCESS, ncclSuccess);
SAME(Q3_NCCL_SYSTEM_ERROR, ncclSystemError);
SAME(Q3_NCCL_INVALID_ARGUMENT, ncclInvalidArgument);
SAME(Q3_NCCL_INVALID_USAGE, ncclInvalidUsage);
SAME(Q3_NCCL_FLOAT32, ncclFloat32);
SAME(Q3_NCCL_ID_BYTES, NCCL_UNIQUE_ID_BYTES);
SAME(sizeof(q3_nccl_unique_id), sizeof(ncclUniqueId));
SAME(_Alignof(q3_nccl_unique_id), _Alignof(ncclUniqueId));

/* Enumerations are passed as int. */
SAME(sizeof(ncclResult_t), sizeof(int));
SAME(sizeof(ncclDataType_t), sizeof(int));
SAME(sizeof(ncclComm_t), sizeof(void *));
SAME(sizeof(cudaStream_t), sizeof(void *));

/* The calls, with these types in these places: a pointer to one is made from its own declaration. */
#define TAKES(name, ...) __extension__ typedef __typeof__(name(__VA_ARGS__)) check_##name
TAKES(ncclGetVersion, (int *)0);
TAKES(ncclGetUniqueId, (ncclUniqueId *)0);
TAKES(ncclCommInitRank, (ncclComm_t *)0, 2, (ncclUniqueId){ { 0 } }, 1);
TAKES(ncclCommDestroy, (ncclComm_t)0);
TAKES(ncclAllGather, (const void *)0, (void *)0, (size_t)1, ncclFloat32, (ncclComm_t)0, (cudaStream_t)0);
TAKES(ncclGetErrorString, ncclSuccess);
TAKES(ncclGetLastError, (ncclComm_t)0);
