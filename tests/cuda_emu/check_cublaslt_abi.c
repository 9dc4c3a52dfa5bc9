/* tests/cuda_emu/check_cublaslt_abi.c - compiles where kernels/cublaslt_api.h says what NVIDIA's cublasLt.h says. */
#include <cublasLt.h>

#include "kernels/cublaslt_api.h"

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours " is not " #theirs)

SAME(Q3_LT_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(Q3_LT_NOT_INITIALIZED, CUBLAS_STATUS_NOT_INITIALIZED);
SAME(Q3_LT_INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE);
SAME(Q3_LT_EXECUTION_FAILED, CUBLAS_STATUS_EXECUTION_FAILED);
SAME(Q3_LT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(Q3_LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(Q3_LT_R_32F, CUDA_R_32F);
SAME(Q3_LT_R_16BF, CUDA_R_16BF);
SAME(Q3_LT_OP_N, CUBLAS_OP_N);
SAME(Q3_LT_OP_T, CUBLAS_OP_T);
SAME(Q3_LT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(Q3_LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(Q3_LT_REDUCTION_NONE, CUBLASLT_REDUCTION_SCHEME_NONE);
SAME(Q3_LT_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(Q3_LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(Q3_LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(Q3_LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(Q3_LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(Q3_LT_PREFERENCE_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(Q3_LT_PREFERENCE_REDUCTION_SCHEMES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(Q3_LT_PREFERENCE_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(Q3_LT_PREFERENCE_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(Q3_LT_PREFERENCE_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(Q3_LT_PREFERENCE_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

SAME(sizeof(q3_lt_algorithm), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(q3_lt_candidate), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(q3_lt_candidate, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(q3_lt_candidate, status), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(q3_lt_candidate, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
SAME(offsetof(q3_lt_candidate, reserved), offsetof(cublasLtMatmulHeuristicResult_t, reserved));

/* Enumerations are passed as int. */
SAME(sizeof(cublasStatus_t), sizeof(int));
SAME(sizeof(cublasComputeType_t), sizeof(int));
SAME(sizeof(cudaDataType), sizeof(int));
SAME(sizeof(cublasLtMatmulDescAttributes_t), sizeof(int));
SAME(sizeof(cublasLtMatmulPreferenceAttributes_t), sizeof(int));
SAME(sizeof(cudaStream_t), sizeof(void *));
