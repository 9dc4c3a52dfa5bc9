/* core/safetensors.h - files of named tensors: read through a memory map, written as the reference does.
 *
 * A file is a little-endian u64 header length, a JSON header {"name": {"dtype", "shape", "data_offsets":
 * [begin, end]}} with an optional "__metadata__" object of strings, and the tensors' bytes (format and
 * checks: safetensors 0.6, Rust). Reading checks everything once: header, names, types, shapes, and that the
 * tensors cover the data without overlap or hole, as the reference does; what q3_st_tensor says can be
 * trusted afterwards. Tensors of which the file's author laid the bytes across alignment are copied, so
 * `data` is always aligned for its type. Errors: Q3_ERR_IO, Q3_ERR_FORMAT (the sentence names file and
 * tensor), Q3_ERR_LIMIT, Q3_ERR_MEMORY.
 */
#ifndef Q3_CORE_SAFETENSORS_H
#define Q3_CORE_SAFETENSORS_H

#include "core/status.h"
#include "kernels/dtype.h"

enum { Q3_ST_MAX_DIMS = 8 };

typedef struct q3_st_tensor {
    const char *name;
    q3_dtype dtype;         /* Q3_DTYPES for a type that the program does not compute with */
    const char *dtype_name; /* as in the file: "F32", "F8_E4M3" ...; writing: NULL means that of `dtype` */
    int ndim;               /* 0 for a single number */
    int64_t shape[Q3_ST_MAX_DIMS];
    const void *data; /* row-major, little-endian; nothing to read when `bytes` is 0 */
    size_t bytes;
} q3_st_tensor;

typedef struct q3_st_pair {
    const char *key, *value;
} q3_st_pair;

typedef struct q3_safetensors q3_safetensors;

/* Opens and checks `path`. Tensors, names and data live until q3_safetensors_close. */
q3_status q3_safetensors_open(q3_safetensors **out, const char *path);
void q3_safetensors_close(q3_safetensors *file); /* fine with NULL */

const char *q3_safetensors_path(const q3_safetensors *file);
int64_t q3_safetensors_count(const q3_safetensors *file);
const q3_st_tensor *q3_safetensors_at(const q3_safetensors *file,
                                      int64_t index); /* in order of their bytes */
const q3_st_tensor *q3_safetensors_find(const q3_safetensors *file, const char *name); /* NULL when absent */

/* As find, but a missing tensor, another type or another shape (`ndim` sizes, -1 matches any) is
 * Q3_ERR_FORMAT. */
q3_status q3_safetensors_get(const q3_st_tensor **out, const q3_safetensors *file, const char *name,
                             q3_dtype dtype, int ndim, const int64_t *shape);

/* The string under `key` of "__metadata__"; NULL when absent. Borrowed. */
const char *q3_safetensors_metadata(const q3_safetensors *file, const char *key);

int64_t q3_st_elements(const q3_st_tensor *t);

/* "[64, 160]" in one of a few rotating per-thread buffers; borrowed. */
const char *q3_st_shape(const q3_st_tensor *t);

/* Called in file order, just before the bytes of `t` are written: *data must stay valid until the next
 * call. */
typedef q3_status q3_st_fill(const void **data, const q3_st_tensor *t, void *arg);

typedef struct q3_st_write {
    const char *path;
    const q3_st_tensor *tensors; /* name, dtype or dtype_name, shape; `bytes` is computed */
    int64_t n;
    const q3_st_pair *metadata; /* in this order; none: no "__metadata__" */
    int n_metadata;
    q3_st_fill *fill; /* makes the data of tensors whose `data` is NULL */
    void *arg;        /* for `fill` */
} q3_st_write;

/* Writes the file as the reference does (widest type first, then by name, header padded to 8 bytes) through a
 * temporary name, fsync and rename: whole or absent. Tensors may come in any order; names must be unique. */
q3_status q3_safetensors_stream(const q3_st_write *file);

/* The common case: all data at hand, metadata {"format": "pt"}, which transformers demands. */
q3_status q3_safetensors_write(const char *path, const q3_st_tensor *tensors, int64_t n);

#endif
