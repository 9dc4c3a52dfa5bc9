/* kernels/attention_device.cuh - what the attention kernels of the device share; see kernels/attention.h.
 *
 * A launch over tiles has the tiles of all segments along x, as many a segment as the longest one has: block x takes
 * tile x % tiles of segment x / tiles, and blocks beyond the end of a shorter segment return at once. y is a head. So
 * the shape of a launch depends on the segments alone.
 */
#ifndef Q3_KERNELS_ATTENTION_DEVICE_CUH
#define Q3_KERNELS_ATTENTION_DEVICE_CUH

#include <math.h>

#include "kernels/device.cuh"

extern "C" {
#include "kernels/attention.h"
#include "kernels/attention_paged.h"
}

#if defined(__CUDACC__)
#define Q3_UNROLL _Pragma("unroll")
#else
#define Q3_UNROLL
#endif

/* What every kernel gets beside its arrays; lies in the constant memory of a launch. */
struct q3_attention_view {
    const int64_t *segments; /* device, [n_segments, 4] */
    int tiles;               /* of the longest segment */
    int heads, kv_heads, head_size;
    float scale;
    bool causal;
};

/* One tile of one segment: rows [first, first + count) of its queries or of its keys. */
struct q3_attention_tile {
    int64_t q_begin, kv_begin;
    int q_len, kv_len;
    int first, count; /* count <= 0: beyond the segment's end */
};

static inline q3_attention_view q3_attention_view_of(const q3_attention_args *a, int64_t longest, int rows)
{
    q3_attention_view view;
    view.segments = a->device_segments;
    view.tiles = (int)((longest + rows - 1) / rows);
    view.heads = a->heads, view.kv_heads = a->kv_heads, view.head_size = a->head_size;
    view.scale = a->scale;
    view.causal = a->causal;
    return view;
}

/* Most queries (which = 1) or keys (which = 3) that a segment has. */
static inline int64_t q3_attention_longest(const q3_attention_args *a, int which)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < a->n_segments; i++)
        longest = a->segments[4 * i + which] > longest ? a->segments[4 * i + which] : longest;
    return longest;
}

static __device__ __forceinline__ q3_attention_tile q3_attention_segment(const q3_attention_view &a)
{
    const int64_t *s = a.segments + 4 * (int64_t)(blockIdx.x / (unsigned)a.tiles);
    q3_attention_tile t;
    t.q_begin = s[0], t.q_len = (int)s[1], t.kv_begin = s[2], t.kv_len = (int)s[3];
    t.first = t.count = 0;
    return t;
}

/* The last tiles come first: under a causal mask they have most to do. */
static __device__ __forceinline__ q3_attention_tile q3_attention_queries(const q3_attention_view &a, int rows)
{
    q3_attention_tile t = q3_attention_segment(a);
    t.first = (a.tiles - 1 - (int)(blockIdx.x % (unsigned)a.tiles)) * rows;
    t.count = t.q_len - t.first < rows ? t.q_len - t.first : rows;
    return t;
}

static __device__ __forceinline__ q3_attention_tile q3_attention_keys(const q3_attention_view &a, int rows)
{
    q3_attention_tile t = q3_attention_segment(a);
    t.first = (int)(blockIdx.x % (unsigned)a.tiles) * rows;
    t.count = t.kv_len - t.first < rows ? t.kv_len - t.first : rows;
    return t;
}

/* Keys that query i sees; also for i behind the last query, where it is all of them. */
static __device__ __forceinline__ int q3_attention_sees(const q3_attention_view &a,
                                                        const q3_attention_tile &t, int i)
{
    int n = t.kv_len - t.q_len + i + 1;
    if (!a.causal || n > t.kv_len)
        return t.kv_len;
    return n < 0 ? 0 : n;
}

/* First query that sees key j; q_len or more when none does. */
static __device__ __forceinline__ int q3_attention_seen_from(const q3_attention_view &a,
                                                             const q3_attention_tile &t, int j)
{
    int i = j - (t.kv_len - t.q_len);
    return a.causal && i > 0 ? i : 0;
}

/* The launchers that kernels/attention.cu chooses from. Backward: delta is there, and rows of no segment are zero. */
void q3_attention_reference_forward(const q3_attention_args *a, q3_cuda *cuda);
void q3_attention_reference_backward(const q3_attention_backward_args *b, q3_cuda *cuda);

/* bf16 arrays on 16-byte boundaries, head sizes that are a multiple of 8, up to 128. */
bool q3_attention_flash_takes(const q3_attention_args *a);
void q3_attention_flash_forward(const q3_attention_args *a, q3_cuda *cuda);
void q3_attention_flash_backward(const q3_attention_backward_args *b, q3_cuda *cuda);

/* At most 4 queries a segment, rows of whole 16-byte pieces on 16-byte boundaries. */
bool q3_attention_decode_takes(const q3_attention_args *a);
void q3_attention_decode(const q3_attention_args *a, q3_cuda *cuda);

static inline bool q3_attention_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

#endif
