/* Compiled where the toolkit has <cudnn.h>: every constant of kernels/cudnn_constant_list.h has the toolkit's value,
 * and what kernels/cudnn_api.h passes as int, pointer or size is that for cuDNN too. */
#include <cudnn.h>

#include "kernels/cudnn_api.h"

#define Q3_CUDNN_CONSTANT(name, value)                                                                       \
    _Static_assert((int)CUDNN_##name == (value),                                                             \
                   "CUDNN_" #name " differs from kernels/cudnn_constant_list.h");
#include "kernels/cudnn_constant_list.h"
#undef Q3_CUDNN_CONSTANT

#define SAME_SIZE(theirs, ours) _Static_assert(sizeof(theirs) == sizeof(ours), #theirs " is not " #ours)
SAME_SIZE(cudnnStatus_t, int);
SAME_SIZE(cudnnDataType_t, int);
SAME_SIZE(cudnnPointwiseMode_t, int);
SAME_SIZE(cudnnReduceTensorOp_t, int);
SAME_SIZE(cudnnBackendHeurMode_t, int);
SAME_SIZE(cudnnBackendDescriptorType_t, int);
SAME_SIZE(cudnnBackendAttributeName_t, int);
SAME_SIZE(cudnnBackendAttributeType_t, int);
SAME_SIZE(cudnnBackendDescriptor_t, q3_cudnn_ref);
SAME_SIZE(cudnnHandle_t, void *);
SAME_SIZE(cudaStream_t, void *);
