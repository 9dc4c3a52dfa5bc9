/* core/tensor.h - shape, type and place of an array; gradients hang on it.
 *
 * Tensors are plain data: headers and values live in an arena (activations: the step; weights: the run).
 * Activations are f32, or bf16 on CUDA; weights may be f32, bf16, f16 or 4-bit. Row-major, dense. `data` and what hangs
 * on it is memory of the device that computes (core/device.h).
 */
#ifndef Q3_CORE_TENSOR_H
#define Q3_CORE_TENSOR_H

#include "core/arena.h"
#include "kernels/dtype.h"

enum { Q3_MAX_DIMS = 4 };

typedef struct q3_tensor {
    void *data;
    q3_dtype dtype;
    int ndim;
    int64_t shape[Q3_MAX_DIMS];
    int block;              /* 4 bits: elements per absmax; I8: columns */
    const float *absmax;    /* 4 bits, I8: [ceil(n / block)] */
    q3_nested nested;       /* NF4, FP4 on CUDA: the scales, where absmax is NULL */
    const void *half;       /* trained f32 on CUDA: the same values in bf16 (model/trainable.h); NULL: none */
    const char *name;       /* parameters: the name in the checkpoint; NULL for activations */
    struct q3_tensor *root; /* what this one is a view of, itself otherwise; gradients belong to the root */
    bool needs_grad;        /* a gradient is wanted */
    bool grad_set;          /* grad holds a value: the next writer adds */
    bool grad_kept;         /* grad is a parameter's buffer that outlives the step */
    void *grad;             /* same type and shape; NULL until someone writes it */
} q3_tensor;

int64_t q3_numel(const q3_tensor *t);
/* Size of axis i; -1 is the last axis. */
int64_t q3_dim(const q3_tensor *t, int i);
/* Product of all axes but the last. */
int64_t q3_rows(const q3_tensor *t);
size_t q3_nbytes(const q3_tensor *t);

/* "bf16", "nf4" ... */
const char *q3_dtype_name(q3_dtype dtype);

/* "[3, 128] f32" in one of a few rotating per-thread buffers. */
const char *q3_shape(const q3_tensor *t);

/* A header in `mem` over `data` (NULL when the arena is full). Not a view: it is its own root. */
q3_tensor *q3_tensor_wrap(q3_arena *mem, void *data, q3_dtype dtype, int ndim, const int64_t *shape);

/* out [n] = the n values at `data`, of type F32, BF16 or F16. */
void q3_widen(float *out, const void *data, q3_dtype dtype, int64_t n);

static inline q3_weight q3_as_weight(const q3_tensor *t)
{
    return (q3_weight){ .data = t->data, .dtype = t->dtype, .block = t->block, .absmax = t->absmax,
                        .nested = t->nested, .half = t->half };
}

/* The values, NULL for an absent tensor: where activations may be of either type, and where they are f32. */
static inline void *q3_data(const q3_tensor *t)
{
    return t ? t->data : NULL;
}
static inline float *q3_f32(const q3_tensor *t)
{
    return t ? (float *)t->data : NULL;
}

#endif
