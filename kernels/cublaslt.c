#include "kernels/cublaslt.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cublaslt_api.h"
#include "kernels/library.h"

enum {
    WORKSPACE_BYTES =
        32 << 20,    // NVIDIA's own advice for Hopper (cuBLAS guide, cublasSetWorkspace); for every card
    ALIGNMENT = 16,  // bytes of the widest load of a tensor-core kernel
    OLDEST = 120000, // version 12.0
    SETS = 256,      // 2048 shapes: a packed batch has some 30, and their row counts vary
    WAYS = 8,
};

/* The calls; filled once, for all devices. */
static struct {
    q3_lt_get_version *get_version;
    q3_lt_get_status_name *status_name;
    q3_lt_create *create;
    q3_lt_destroy *destroy;
    q3_lt_layout_create *layout_create;
    q3_lt_layout_destroy *layout_destroy;
    q3_lt_desc_create *desc_create;
    q3_lt_desc_destroy *desc_destroy;
    q3_lt_desc_set *desc_set;
    q3_lt_preference_create *preference_create;
    q3_lt_preference_destroy *preference_destroy;
    q3_lt_preference_set *preference_set;
    q3_lt_heuristic *heuristic;
    q3_lt_matmul *matmul;
} lt_api;

static const q3_symbol symbols[] = {
    { "cublasLtGetVersion", &lt_api.get_version },
    { "cublasLtGetStatusName", &lt_api.status_name },
    { "cublasLtCreate", &lt_api.create },
    { "cublasLtDestroy", &lt_api.destroy },
    { "cublasLtMatrixLayoutCreate", &lt_api.layout_create },
    { "cublasLtMatrixLayoutDestroy", &lt_api.layout_destroy },
    { "cublasLtMatmulDescCreate", &lt_api.desc_create },
    { "cublasLtMatmulDescDestroy", &lt_api.desc_destroy },
    { "cublasLtMatmulDescSetAttribute", &lt_api.desc_set },
    { "cublasLtMatmulPreferenceCreate", &lt_api.preference_create },
    { "cublasLtMatmulPreferenceDestroy", &lt_api.preference_destroy },
    { "cublasLtMatmulPreferenceSetAttribute", &lt_api.preference_set },
    { "cublasLtMatmulAlgoGetHeuristic", &lt_api.heuristic },
    { "cublasLtMatmul", &lt_api.matmul },
    { NULL, NULL },
};
static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12", NULL };
static q3_library library = {
    .title = "cuBLASLt", .names = names, .folder = "cublas/lib", .symbols = symbols
};

/* What the choice of an algorithm depends on (alpha and beta are not part of it). Ours, row-major; compared as bytes,
 * so without padding. */
typedef struct shape {
    int64_t m, n, k, ldc, lda, ldb;
    int32_t in, out;
    int32_t a_transposed, b_transposed, bias;
    int32_t a_alignment, b_alignment, c_alignment;
} shape;
_Static_assert(sizeof(shape) == 6 * 8 + 8 * 4, "a shape has no padding");

typedef struct plan {
    shape key;
    q3_lt_desc desc; // NULL: an empty place
    q3_lt_layout a, b, c;
    q3_lt_algorithm algorithm;
    uint64_t used; // count of products at its last use
} plan;

struct q3_cublaslt {
    q3_cuda *cuda;
    q3_lt_handle handle;
    q3_lt_preference preference;
    void *workspace;
    uint64_t products;
    plan plans[SETS][WAYS];
};

static void clear(plan *p)
{
    if (p->a)
        lt_api.layout_destroy(p->a);
    if (p->b)
        lt_api.layout_destroy(p->b);
    if (p->c)
        lt_api.layout_destroy(p->c);
    if (p->desc)
        lt_api.desc_destroy(p->desc);
    *p = (plan){ 0 };
}

void q3_cublaslt_destroy(struct q3_cublaslt *lt)
{
    if (!lt)
        return;
    for (int i = 0; i < SETS * WAYS; i++)
        clear(&lt->plans[i / WAYS][i % WAYS]);
    if (lt->preference)
        lt_api.preference_destroy(lt->preference);
    if (lt->handle)
        lt_api.destroy(lt->handle);
    if (lt->workspace)
        q3_cuda_free(lt->cuda, lt->workspace);
    free(lt);
}

static int set_preference(q3_lt_preference preference, int attribute, uint32_t value)
{
    return lt_api.preference_set(preference, attribute, &value, sizeof value);
}

static int open_handle(struct q3_cublaslt *lt)
{
    const uint64_t bytes = WORKSPACE_BYTES;
    int status = lt_api.create(&lt->handle);
    if (!status)
        status = lt_api.preference_create(&lt->preference);
    if (!status)
        status =
            lt_api.preference_set(lt->preference, Q3_LT_PREFERENCE_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (!status)
        status = set_preference(lt->preference, Q3_LT_PREFERENCE_REDUCTION_SCHEMES,
                                Q3_LT_REDUCTION_NONE | Q3_LT_REDUCTION_COMPUTE_TYPE);
    return status;
}

/* False with one sentence in `why` [size] where there is none, or one too old. */
static bool open_library(char *why, size_t size)
{
    if (!q3_library_open(&library)) {
        snprintf(why, size, "%s", library.why);
        return false;
    }
    size_t version = lt_api.get_version();
    if (version < OLDEST)
        snprintf(why, size, "cuBLASLt: %s is version %zu.%zu; 12.0 or newer is needed", library.path,
                 version / 10000, version / 100 % 100);
    return version >= OLDEST;
}

bool q3_cublaslt_describe(char *text)
{
    if (!open_library(text, Q3_LIBRARY_TEXT))
        return false;
    q3_library_describe(text, &library, lt_api.get_version());
    return true;
}

struct q3_cublaslt *q3_cublaslt_create(q3_cuda *cuda, char *why)
{
    if (!open_library(why, Q3_CUDA_SENTENCE))
        return NULL;
    struct q3_cublaslt *lt = calloc(1, sizeof *lt);
    if (!lt) {
        snprintf(why, Q3_CUDA_SENTENCE, "cuBLASLt: no memory for its table of %zu bytes", sizeof *lt);
        return NULL;
    }
    lt->cuda = cuda;
    lt->workspace = q3_cuda_alloc(cuda, WORKSPACE_BYTES);
    int status = lt->workspace ? open_handle(lt) : 0;
    if (lt->workspace && !status)
        return lt;
    if (!lt->workspace)
        snprintf(why, Q3_CUDA_SENTENCE, "cuda:%d has no %d MiB left for cuBLASLt's workspace", cuda->ordinal,
                 WORKSPACE_BYTES >> 20);
    else
        snprintf(why, Q3_CUDA_SENTENCE, "cuBLASLt does not open on cuda:%d: %s (%s)", cuda->ordinal,
                 lt_api.status_name(status), library.path);
    q3_cublaslt_destroy(lt);
    return NULL;
}

static const char *type_name(int dtype)
{
    return dtype == Q3_BF16 ? "bf16" : "f32";
}

static void fail(const struct q3_cublaslt *lt, const shape *s, const char *what)
{
    q3_cuda_fail(lt->cuda,
                 "cuBLASLt: product of %s [%lld, %lld]%s and %s [%lld, %lld]%s to %s%s, rows %lld, %lld and "
                 "%lld apart: "
                 "%s",
                 type_name(s->in), (long long)s->m, (long long)s->k, s->a_transposed ? "'" : "",
                 type_name(s->in), (long long)s->k, (long long)s->n, s->b_transposed ? "'" : "",
                 type_name(s->out), s->bias ? " with bias" : "", (long long)s->lda, (long long)s->ldb,
                 (long long)s->ldc, what);
}

/* The largest power of two, up to ALIGNMENT, that the address is a multiple of; of two addresses: that both are. */
static int32_t alignment_of(const void *p)
{
    uintptr_t address = (uintptr_t)p | ALIGNMENT;
    return (int32_t)(address & (~address + 1));
}

static int32_t alignment_of_both(const void *p, const void *q)
{
    return alignment_of((const void *)((uintptr_t)p | (uintptr_t)q));
}

static shape shape_of(const q3_matmul_args *a)
{
    return (shape){
        .m = a->m,
        .n = a->n,
        .k = a->k,
        .ldc = a->ldc ? a->ldc : a->n,
        .lda = a->lda ? a->lda : (a->a_transposed ? a->m : a->k),
        .ldb = a->ldb ? a->ldb : (a->b_transposed ? a->k : a->n),
        .in = a->in,
        .out = a->out,
        .a_transposed = a->a_transposed,
        .b_transposed = a->b_transposed,
        .bias = a->bias != NULL,
        .a_alignment = alignment_of(a->a),
        .b_alignment = alignment_of(a->b),
        .c_alignment = alignment_of_both(a->c, a->addend),
    };
}

/* What is wrong with the call, in a few words, or NULL. */
static const char *objection(const shape *s, const void *bias)
{
    bool types =
        s->in == Q3_F32 ? s->out == Q3_F32 : s->in == Q3_BF16 && (s->out == Q3_BF16 || s->out == Q3_F32);
    if (!types)
        return "not one of the types it is for";
    if (s->k < 1)
        return "an empty sum";
    if (s->m > INT32_MAX || s->n > INT32_MAX || s->k > INT32_MAX)
        return "more than 2147483647 rows or columns";
    if (s->lda > INT32_MAX || s->ldb > INT32_MAX || s->ldc > INT32_MAX)
        return "rows more than 2147483647 elements apart";
    if (s->lda < (s->a_transposed ? s->m : s->k) || s->ldb < (s->b_transposed ? s->k : s->n) || s->ldc < s->n)
        return "rows overlap";
    if (bias && alignment_of(bias) < ALIGNMENT)
        return "the bias is not aligned to 16 bytes"; // kernels load it so, and fault (pytorch pull request 194497)
    return NULL;
}

static int lt_type(int dtype)
{
    return dtype == Q3_BF16 ? Q3_LT_R_16BF : Q3_LT_R_32F;
}

/* The column-major view of a row-major matrix [rows, cols]. */
static int create_layout(q3_lt_layout *out, int dtype, int64_t rows, int64_t cols, int64_t ld)
{
    return lt_api.layout_create(out, lt_type(dtype), (uint64_t)cols, (uint64_t)rows, ld);
}

/* Their A is our B and the reverse; what is transposed for us is so for them, for both views are. */
static int describe(plan *p, const void *bias)
{
    const shape *s = &p->key;
    const int32_t op_a = s->b_transposed ? Q3_LT_OP_T : Q3_LT_OP_N,
                  op_b = s->a_transposed ? Q3_LT_OP_T : Q3_LT_OP_N;
    const uint32_t epilogue = s->bias ? Q3_LT_EPILOGUE_BIAS : Q3_LT_EPILOGUE_DEFAULT;
    int status = lt_api.desc_create(&p->desc, Q3_LT_COMPUTE_32F, Q3_LT_R_32F);
    if (!status)
        status = lt_api.desc_set(p->desc, Q3_LT_DESC_TRANSA, &op_a, sizeof op_a);
    if (!status)
        status = lt_api.desc_set(p->desc, Q3_LT_DESC_TRANSB, &op_b, sizeof op_b);
    if (!status)
        status = lt_api.desc_set(p->desc, Q3_LT_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!status && bias)
        status = lt_api.desc_set(p->desc, Q3_LT_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (!status)
        status =
            create_layout(&p->a, s->in, s->b_transposed ? s->n : s->k, s->b_transposed ? s->k : s->n, s->ldb);
    if (!status)
        status =
            create_layout(&p->b, s->in, s->a_transposed ? s->k : s->m, s->a_transposed ? s->m : s->k, s->lda);
    if (!status)
        status = create_layout(&p->c, s->out, s->m, s->n, s->ldc);
    return status;
}

static int choose(struct q3_cublaslt *lt, plan *p)
{
    const shape *s = &p->key;
    q3_lt_candidate first = { .status = Q3_LT_NOT_SUPPORTED };
    int found = 0;
    int status = set_preference(lt->preference, Q3_LT_PREFERENCE_ALIGNMENT_A, (uint32_t)s->b_alignment);
    if (!status)
        status = set_preference(lt->preference, Q3_LT_PREFERENCE_ALIGNMENT_B, (uint32_t)s->a_alignment);
    if (!status)
        status = set_preference(lt->preference, Q3_LT_PREFERENCE_ALIGNMENT_C, (uint32_t)s->c_alignment);
    if (!status)
        status = set_preference(lt->preference, Q3_LT_PREFERENCE_ALIGNMENT_D, (uint32_t)s->c_alignment);
    if (!status)
        status =
            lt_api.heuristic(lt->handle, p->desc, p->a, p->b, p->c, p->c, lt->preference, 1, &first, &found);
    if (!status)
        status = found ? first.status : Q3_LT_NOT_SUPPORTED;
    p->algorithm = first.algorithm;
    return status;
}

/* The place of a shape in the table: its own, or else an empty one or the one used longest ago. */
static plan *place_of(struct q3_cublaslt *lt, const shape *s)
{
    const unsigned char *bytes = (const unsigned char *)s;
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a, 64 bits
    for (size_t i = 0; i < sizeof *s; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    plan *set = lt->plans[(hash ^ hash >> 32) % SETS], *oldest = set;
    for (int i = 0; i < WAYS; i++) {
        if (set[i].desc && memcmp(&set[i].key, s, sizeof *s) == 0)
            return &set[i];
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    return oldest;
}

/* Ready for a product with this bias; NULL: failed. */
static plan *plan_for(struct q3_cublaslt *lt, const shape *s, const void *bias)
{
    int status = 0;
    plan *p = place_of(lt, s);
    if (!p->desc || memcmp(&p->key, s, sizeof *s) != 0) {
        clear(p);
        p->key = *s;
        status = describe(p, bias);
        if (!status)
            status = choose(lt, p);
    } else if (bias) {
        status = lt_api.desc_set(p->desc, Q3_LT_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    p->used = ++lt->products;
    if (!status)
        return p;
    fail(lt, s, lt_api.status_name(status));
    clear(p);
    return NULL;
}

void q3_cublaslt_matmul(const q3_matmul_args *a, q3_cuda *cuda)
{
    struct q3_cublaslt *lt = cuda->cublaslt;
    const shape s = shape_of(a);
    if (a->m == 0 || a->n == 0)
        return;
    const char *wrong = objection(&s, a->bias);
    if (wrong) {
        fail(lt, &s, wrong);
        return;
    }
    const plan *p = plan_for(lt, &s, a->bias);
    if (!p)
        return;
    const void *addend = a->addend ? a->addend : a->c;
    int status = lt_api.matmul(lt->handle, p->desc, &a->alpha, a->b, p->a, a->a, p->b, &a->beta, addend, p->c,
                               a->c, p->c, &p->algorithm, lt->workspace, WORKSPACE_BYTES, cuda->stream);
    if (status)
        fail(lt, &s, lt_api.status_name(status));
}
