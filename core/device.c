#include "core/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

static const char *describe_cpu(char *text, size_t size)
{
    snprintf(text, size, "cpu: %s, %d threads", q3_cpu_level_name(q3_cpu_level()), q3_pool_threads());
    return text;
}

/* N of "cuda" and "cuda:N"; -1 for other names. */
static int ordinal_of(const char *name)
{
    if (strncmp(name, "cuda", 4) != 0 || (name[4] != '\0' && name[4] != ':'))
        return -1;
    if (!name[4])
        return 0;
    char *end;
    long n = strtol(name + 5, &end, 10);
    return name[5] >= '0' && name[5] <= '9' && !*end && n < 1024 ? (int)n : -1;
}

bool q3_device_is_name(const char *name)
{
    return strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0 || ordinal_of(name) >= 0;
}

static q3_status no_such_device(const char *name)
{
    return q3_fail(Q3_ERR_USAGE, "there is no device \"%.60s\"; it must be auto, cpu, cuda or cuda:N", name);
}

#if defined(Q3_CUDA)
#include "kernels/cudnn.h"

#if defined(Q3_CUDA_EMULATED)
enum { EMULATED = 1 }; // there is no stand-in for cuDNN
#else
enum { EMULATED = 0 };
#endif

static q3_status open_cuda(q3_cuda **out, int ordinal)
{
    char why[Q3_CUDA_SENTENCE];
    int n = q3_cuda_count(why);
    if (!n)
        return q3_fail(Q3_ERR_USAGE, "cuda:%d: %s", ordinal, why);
    if (ordinal >= n)
        return q3_fail(Q3_ERR_USAGE, "cuda:%d: there %s %d CUDA device%s here, from cuda:0 on", ordinal,
                       n == 1 ? "is" : "are", n, n == 1 ? "" : "s");
    *out = q3_cuda_open(ordinal, why);
    if (*out)
        return Q3_OK;
    bool named = strncmp(why, "cuda:", 5) == 0;
    return named ? q3_fail(Q3_ERR_USAGE, "%s", why) : q3_fail(Q3_ERR_USAGE, "cuda:%d: %s", ordinal, why);
}

q3_status q3_device_open(q3_cuda **out, const char *name)
{
    char why[Q3_CUDA_SENTENCE];
    *out = NULL;
    if (!q3_device_is_name(name))
        return no_such_device(name);
    if (strcmp(name, "cpu") == 0)
        return Q3_OK;
    if (strcmp(name, "auto") != 0 || q3_cuda_count(why))
        return open_cuda(out, ordinal_of(name) > 0 ? ordinal_of(name) : 0);
    q3_detail("no CUDA device: %s", why);
    return Q3_OK;
}

bool q3_device_built(void)
{
    return true;
}

void q3_device_close(q3_cuda *cuda)
{
    if (cuda)
        q3_cudnn_destroy(cuda->cudnn);
    q3_cuda_close(cuda);
}

const char *q3_device_describe(const q3_cuda *cuda)
{
    static _Thread_local char text[160];
    size_t free_bytes, total;
    if (!cuda)
        return describe_cpu(text, sizeof text);
    q3_cuda_memory((q3_cuda *)(uintptr_t)cuda, &free_bytes, &total);
    snprintf(text, sizeof text, "cuda:%d: %s, %s", cuda->ordinal, cuda->name, q3_bytes(total));
    return text;
}

void q3_device_set_attention(q3_cuda *cuda, q3_attention_kind kind, q3_dtype activations)
{
    char why[Q3_CUDA_SENTENCE];
    if (!cuda)
        return;
    cuda->attention = kind;
    bool wanted = activations == Q3_BF16 && (kind == Q3_ATTENTION_AUTO || kind == Q3_ATTENTION_CUDNN);
    if (!wanted || cuda->cudnn)
        return;
    snprintf(why, sizeof why, "the emulated device has none");
    cuda->cudnn = EMULATED ? NULL : q3_cudnn_create(cuda, why);
    if (!cuda->cudnn && kind == Q3_ATTENTION_CUDNN)
        q3_info("attention   the program's own kernels; no cuDNN: %s", why);
    else if (!cuda->cudnn)
        q3_detail("attention   the program's own kernels; no cuDNN: %s", why);
}

void q3_device_set_deterministic(q3_cuda *cuda, bool deterministic)
{
    if (cuda && cuda->cudnn)
        q3_cudnn_set_deterministic(cuda, deterministic);
}

const char *q3_device_attention_refusal(q3_cuda *cuda)
{
    return cuda && cuda->cudnn ? q3_cudnn_refusal(cuda) : NULL;
}

/* ---- arenas of a device ---- */

typedef struct device_range {
    q3_cuda *cuda;
    q3_cuda_range range;
    const char *name;
} device_range;

static bool commit(void *range, size_t bytes)
{
    device_range *r = range;
    if (bytes <= r->range.committed || q3_cuda_commit(r->cuda, &r->range, bytes))
        return true;
    size_t free_bytes, total;
    q3_cuda_memory(r->cuda, &free_bytes, &total);
    q3_fail(Q3_ERR_MEMORY, "%s: %s are needed, and of the %s of %s %s are free", r->name,
            q3_bytes(bytes - r->range.committed), q3_bytes(total), r->cuda->name, q3_bytes(free_bytes));
    return false;
}

static void release(void *range)
{
    device_range *r = range;
    q3_cuda_release(r->cuda, &r->range);
    q3_free(r);
}

q3_status q3_device_arena_create(q3_arena *out, q3_cuda *cuda, const char *name, size_t limit)
{
    static const q3_arena_owner owner = { commit, release };
    if (!cuda)
        return q3_arena_create(out, name, limit);
    *out = (q3_arena){ .name = name };
    device_range *r = q3_calloc(1, sizeof *r);
    if (!r)
        return Q3_ERR_MEMORY;
    r->cuda = cuda;
    r->name = name;
    if (!q3_cuda_reserve(cuda, &r->range, limit)) {
        q3_free(r);
        return q3_fail(Q3_ERR_MEMORY, "%s: cannot reserve %s of device addresses", name, q3_bytes(limit));
    }
    *out = (q3_arena){ .name = name,
                       .base = r->range.base,
                       .limit = r->range.reserved,
                       .cuda = cuda,
                       .owner = &owner,
                       .range = r };
    return Q3_OK;
}

/* ---- data ---- */

void q3_device_write(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (cuda)
        q3_cuda_upload(cuda, to, from, bytes);
    else if (bytes)
        memcpy(to, from, bytes);
}

void q3_device_read(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (cuda)
        q3_cuda_download(cuda, to, from, bytes);
    else if (bytes)
        memcpy(to, from, bytes);
}

void q3_device_copy(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (cuda)
        q3_cuda_copy(cuda, to, from, bytes);
    else if (bytes)
        memmove(to, from, bytes);
}

void q3_device_fill(q3_cuda *cuda, void *to, int byte, size_t bytes)
{
    if (cuda)
        q3_cuda_fill(cuda, to, byte, bytes);
    else if (bytes)
        memset(to, byte, bytes);
}

void q3_device_wait(q3_cuda *cuda)
{
    if (cuda)
        q3_cuda_wait(cuda);
}

void *q3_device_pinned(q3_cuda *cuda, size_t bytes)
{
    return cuda ? q3_cuda_pinned_alloc(bytes) : q3_malloc(bytes);
}

void q3_device_pinned_free(q3_cuda *cuda, void *p)
{
    if (cuda)
        q3_cuda_pinned_free(p);
    else
        q3_free(p);
}

void q3_device_write_pinned(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    if (cuda)
        q3_cuda_upload_pinned(cuda, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void q3_device_record_begin(q3_cuda *cuda)
{
    q3_cuda_record_begin(cuda);
}

void *q3_device_record_end(q3_cuda *cuda)
{
    return q3_cuda_record_end(cuda);
}

void q3_device_replay(q3_cuda *cuda, void *recording)
{
    q3_cuda_replay(cuda, recording);
}

void q3_device_record_free(q3_cuda *cuda, void *recording)
{
    if (recording)
        q3_cuda_record_free(cuda, recording);
}

void *q3_device_mark(q3_cuda *cuda)
{
    return q3_cuda_mark(cuda);
}

double q3_device_between(q3_cuda *cuda, void *first, void *last)
{
    return q3_cuda_between(cuda, first, last);
}

void q3_device_range_push(q3_cuda *cuda, const char *name)
{
    if (cuda)
        q3_cuda_range_push(name);
}

void q3_device_range_pop(q3_cuda *cuda)
{
    if (cuda)
        q3_cuda_range_pop();
}

q3_status q3_device_status(q3_cuda *cuda)
{
    char why[Q3_CUDA_SENTENCE];
    if (!cuda || !q3_cuda_take_failure(cuda, why))
        return Q3_OK;
    return q3_fail(Q3_ERR_FAIL, "%s", why);
}

size_t q3_device_available(q3_cuda *cuda)
{
    size_t free_bytes, total;
    if (!cuda)
        return q3_memory_available();
    q3_cuda_memory(cuda, &free_bytes, &total);
    return free_bytes;
}

size_t q3_device_used(q3_cuda *cuda)
{
    size_t free_bytes, total;
    if (!cuda)
        return q3_memory_peak();
    q3_cuda_memory(cuda, &free_bytes, &total);
    return total - free_bytes;
}

#else // a build without CUDA

q3_status q3_device_open(q3_cuda **out, const char *name)
{
    *out = NULL;
    if (!q3_device_is_name(name))
        return no_such_device(name);
    if (ordinal_of(name) < 0)
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE,
                   "this build has no CUDA: use auto or cpu, or build where nvcc is found (-DQ3_CUDA=nvcc)");
}

bool q3_device_built(void)
{
    return false;
}

void q3_device_close(q3_cuda *cuda)
{
    (void)cuda;
}

const char *q3_device_describe(const q3_cuda *cuda)
{
    static _Thread_local char text[160];
    (void)cuda;
    return describe_cpu(text, sizeof text);
}

void q3_device_set_attention(q3_cuda *cuda, q3_attention_kind kind, q3_dtype activations)
{
    (void)cuda, (void)kind, (void)activations;
}

void q3_device_set_deterministic(q3_cuda *cuda, bool deterministic)
{
    (void)cuda, (void)deterministic;
}

const char *q3_device_attention_refusal(q3_cuda *cuda)
{
    (void)cuda;
    return NULL;
}

q3_status q3_device_arena_create(q3_arena *out, q3_cuda *cuda, const char *name, size_t limit)
{
    (void)cuda;
    return q3_arena_create(out, name, limit);
}

void q3_device_write(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    (void)cuda;
    if (bytes)
        memcpy(to, from, bytes);
}

void q3_device_read(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    q3_device_write(cuda, to, from, bytes);
}

void q3_device_copy(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    (void)cuda;
    if (bytes)
        memmove(to, from, bytes);
}

void q3_device_fill(q3_cuda *cuda, void *to, int byte, size_t bytes)
{
    (void)cuda;
    if (bytes)
        memset(to, byte, bytes);
}

void q3_device_wait(q3_cuda *cuda)
{
    (void)cuda;
}

void *q3_device_pinned(q3_cuda *cuda, size_t bytes)
{
    (void)cuda;
    return q3_malloc(bytes);
}

void q3_device_pinned_free(q3_cuda *cuda, void *p)
{
    (void)cuda;
    q3_free(p);
}

void q3_device_write_pinned(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    q3_device_write(cuda, to, from, bytes);
}

void q3_device_record_begin(q3_cuda *cuda)
{
    (void)cuda;
}

void *q3_device_record_end(q3_cuda *cuda)
{
    (void)cuda;
    return NULL;
}

void q3_device_replay(q3_cuda *cuda, void *recording)
{
    (void)cuda, (void)recording;
}

void q3_device_record_free(q3_cuda *cuda, void *recording)
{
    (void)cuda, (void)recording;
}

void *q3_device_mark(q3_cuda *cuda)
{
    (void)cuda;
    return NULL;
}

double q3_device_between(q3_cuda *cuda, void *first, void *last)
{
    (void)cuda, (void)first, (void)last;
    return 0;
}

void q3_device_range_push(q3_cuda *cuda, const char *name)
{
    (void)cuda, (void)name;
}

void q3_device_range_pop(q3_cuda *cuda)
{
    (void)cuda;
}

q3_status q3_device_status(q3_cuda *cuda)
{
    (void)cuda;
    return Q3_OK;
}

size_t q3_device_available(q3_cuda *cuda)
{
    (void)cuda;
    return q3_memory_available();
}

size_t q3_device_used(q3_cuda *cuda)
{
    (void)cuda;
    return q3_memory_peak();
}

#endif

/* ---- files ---- */

typedef struct saving {
    q3_cuda *cuda;
    const q3_st_tensor *tensors;
    int64_t n;
    void *buffer; // of the tensor that is being written
} saving;

static q3_status read_tensor(const void **data, const q3_st_tensor *t, void *arg)
{
    saving *s = arg;
    int64_t i = 0;
    while (i < s->n && strcmp(s->tensors[i].name, t->name) != 0)
        i++;
    Q3_CHECK(i < s->n, "no tensor is called %s", t->name);
    size_t bytes = q3_dtype_bytes(t->dtype, q3_st_elements(t));
    void *buffer = q3_realloc(s->buffer, bytes);
    if (!buffer)
        return Q3_ERR_MEMORY;
    s->buffer = buffer;
    q3_device_read(s->cuda, buffer, s->tensors[i].data, bytes);
    *data = buffer;
    return q3_device_status(s->cuda);
}

q3_status q3_device_save(q3_cuda *cuda, const char *path, const q3_st_tensor *tensors, int64_t n)
{
    const q3_st_pair format = { "format", "pt" };
    if (!cuda)
        return q3_safetensors_write(path, tensors, n);
    saving s = { .cuda = cuda, .tensors = tensors, .n = n };
    q3_st_tensor *headers = q3_malloc(((size_t)n + 1) * sizeof *headers);
    if (!headers)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        headers[i] = tensors[i];
        headers[i].data = NULL;
    }
    q3_status st = q3_safetensors_stream(&(q3_st_write){ .path = path,
                                                         .tensors = headers,
                                                         .n = n,
                                                         .metadata = &format,
                                                         .n_metadata = 1,
                                                         .fill = read_tensor,
                                                         .arg = &s });
    q3_free(headers);
    q3_free(s.buffer);
    return st;
}
