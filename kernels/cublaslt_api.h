/* kernels/cublaslt_api.h - the part of cuBLASLt's interface that kernels/cublaslt.c calls, in our own words.
 *
 * Numbers and layouts are those of NVIDIA's cublasLt.h, versions 12 and 13 (tests/cuda_emu/check_cublaslt_abi.c compares
 * them where the toolkit is installed), so neither building nor testing needs NVIDIA's headers. Matrices are
 * column-major there: element (i, j) lies at i + j * ld.
 */
#ifndef Q3_KERNELS_CUBLASLT_API_H
#define Q3_KERNELS_CUBLASLT_API_H

#include <stddef.h>
#include <stdint.h>

enum { /* cublasStatus_t */
       Q3_LT_SUCCESS = 0,
       Q3_LT_NOT_INITIALIZED = 1,
       Q3_LT_INVALID_VALUE = 7,
       Q3_LT_EXECUTION_FAILED = 13,
       Q3_LT_NOT_SUPPORTED = 15,
};
enum { /* cublasComputeType_t: sums in f32 of products of the inputs as they are, never of TF32 */
       Q3_LT_COMPUTE_32F = 68,
};
enum { /* cudaDataType_t */
       Q3_LT_R_32F = 0,
       Q3_LT_R_16BF = 14,
};
enum { /* cublasOperation_t */
       Q3_LT_OP_N = 0,
       Q3_LT_OP_T = 1,
};
enum { /* cublasLtEpilogue_t; BIAS adds bias[i] to all of row i */
       Q3_LT_EPILOGUE_DEFAULT = 1,
       Q3_LT_EPILOGUE_BIAS = 4,
};
enum { /* cublasLtReductionScheme_t, a mask: how the parts of a split sum are added; NONE is always allowed */
       Q3_LT_REDUCTION_NONE = 0,
       Q3_LT_REDUCTION_COMPUTE_TYPE = 2,
};
enum {                              /* cublasLtMatmulDescAttributes_t, with the type of the value */
       Q3_LT_DESC_TRANSA = 3,       /* int32_t */
       Q3_LT_DESC_TRANSB = 4,       /* int32_t */
       Q3_LT_DESC_EPILOGUE = 7,     /* uint32_t */
       Q3_LT_DESC_BIAS_POINTER = 8, /* const void *; elements of the type of D */
};
enum {                                         /* cublasLtMatmulPreferenceAttributes_t */
       Q3_LT_PREFERENCE_WORKSPACE_BYTES = 1,   /* uint64_t */
       Q3_LT_PREFERENCE_REDUCTION_SCHEMES = 3, /* uint32_t */
       Q3_LT_PREFERENCE_ALIGNMENT_A = 5,       /* uint32_t, bytes */
       Q3_LT_PREFERENCE_ALIGNMENT_B = 6,
       Q3_LT_PREFERENCE_ALIGNMENT_C = 7,
       Q3_LT_PREFERENCE_ALIGNMENT_D = 8,
};

typedef struct q3_lt_context *q3_lt_handle;
typedef struct q3_lt_layout_body *q3_lt_layout;
typedef struct q3_lt_desc_body *q3_lt_desc;
typedef struct q3_lt_preference_body *q3_lt_preference;

typedef struct q3_lt_algorithm {
    uint64_t data[8];
} q3_lt_algorithm;

typedef struct q3_lt_candidate { /* cublasLtMatmulHeuristicResult_t */
    q3_lt_algorithm algorithm;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
} q3_lt_candidate;

typedef size_t q3_lt_get_version(void); /* 10000 major + 100 minor + patch */
typedef const char *q3_lt_get_status_name(int status);
typedef int q3_lt_create(q3_lt_handle *out);
typedef int q3_lt_destroy(q3_lt_handle handle);
typedef int q3_lt_layout_create(q3_lt_layout *out, int type, uint64_t rows, uint64_t cols, int64_t ld);
typedef int q3_lt_layout_destroy(q3_lt_layout layout);
typedef int q3_lt_desc_create(q3_lt_desc *out, int compute_type, int scale_type);
typedef int q3_lt_desc_destroy(q3_lt_desc desc);
typedef int q3_lt_desc_set(q3_lt_desc desc, int attribute, const void *value, size_t bytes);
typedef int q3_lt_preference_create(q3_lt_preference *out);
typedef int q3_lt_preference_destroy(q3_lt_preference preference);
typedef int q3_lt_preference_set(q3_lt_preference preference, int attribute, const void *value, size_t bytes);
typedef int q3_lt_heuristic(q3_lt_handle handle, q3_lt_desc desc, q3_lt_layout a, q3_lt_layout b,
                            q3_lt_layout c, q3_lt_layout d, q3_lt_preference preference, int wanted,
                            q3_lt_candidate *out, int *found);
typedef int q3_lt_matmul(q3_lt_handle handle, q3_lt_desc desc, const void *alpha, const void *a,
                         q3_lt_layout a_layout, const void *b, q3_lt_layout b_layout, const void *beta,
                         const void *c, q3_lt_layout c_layout, void *d, q3_lt_layout d_layout,
                         const q3_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes,
                         void *stream);

#endif
