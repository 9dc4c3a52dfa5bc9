#include "core/profile.h"

#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "kernels/gemm.h"
#include "kernels/pool.h"

#if defined(Q3_CUDA)
#include "kernels/cublaslt.h"
#endif

/* ---- measuring ---- */

q3_moment q3_profile_begin(q3_profile *p)
{
    q3_moment now = { 0 };
    if (p && p->cuda)
        now.mark = q3_device_mark(p->cuda);
    else if (p)
        now.seconds = q3_seconds();
    return now;
}

static void collect(q3_profile *p)
{
    for (int i = 0; i < p->n_spans; i++)
        p->spans[i].row->seconds += q3_device_between(p->cuda, p->spans[i].first, p->spans[i].last);
    p->n_spans = 0;
}

void q3_profile_end(q3_profile *p, q3_moment begin, int row, bool back, q3_cost cost)
{
    if (!p)
        return;
    q3_profile_row *r = &p->rows[row][back];
    r->calls++;
    r->cost.flops += cost.flops;
    r->cost.bytes += cost.bytes;
    if (!p->cuda) {
        r->seconds += q3_seconds() - begin.seconds;
        return;
    }
    p->spans[p->n_spans++] = (q3_profile_span){ begin.mark, q3_device_mark(p->cuda), r };
    if (p->n_spans == Q3_PROFILE_SPANS)
        collect(p);
}

void q3_profile_step_begin(q3_profile *p)
{
    if (p)
        p->start = q3_seconds();
}

void q3_profile_step_end(q3_profile *p)
{
    if (!p)
        return;
    collect(p);
    q3_device_wait(p->cuda);
    p->seconds += q3_seconds() - p->start;
    p->steps++;
}

void q3_profile_clear(q3_profile *p)
{
    memset(p->rows, 0, sizeof p->rows);
    p->steps = 0;
    p->seconds = 0;
}

/* ---- ceilings ---- */

enum {
    MIB = 1 << 20,
    COPY_LEAST = 1 * MIB,
    COPY_MOST = 256 * MIB, // five times the cache of an H200
    SIDE_LEAST = 512,
    SIDE_MOST = 8192, // where products of an H200 have long reached their rate
};

static const double ENOUGH = 0.02; // seconds: as long as this is measured well, whatever the device

/* Work of a size on arrays of the device; x and y are read, z is written. */
typedef struct load {
    q3_cuda *cuda;
    char *x, *y, *z;
    int64_t n; // bytes of a copy, side of a product
} load;

static void copy_part(void *arg, int64_t begin, int64_t end, int thread)
{
    const load *l = arg;
    (void)thread;
    memcpy(l->z + begin, l->x + begin, (size_t)(end - begin));
}

static void copy(load *l)
{
    if (l->cuda)
        q3_device_copy(l->cuda, l->z, l->x, (size_t)l->n);
    else
        q3_parallel(l->n, MIB / 16, copy_part, l);
}

static void product(load *l)
{
#if defined(Q3_CUDA)
    if (l->cuda) {
        q3_cublaslt_matmul(&(q3_matmul_args){ .c = l->z,
                                              .a = l->x,
                                              .b = l->y,
                                              .m = l->n,
                                              .n = l->n,
                                              .k = l->n,
                                              .b_transposed = true,
                                              .in = Q3_BF16,
                                              .out = Q3_BF16,
                                              .alpha = 1 },
                           l->cuda);
        return;
    }
#endif
    q3_gemm_nt_cpu(&(q3_gemm_nt_args){ .y = l->z,
                                       .x = l->x,
                                       .w = { .data = l->y, .dtype = Q3_F32 },
                                       .M = l->n,
                                       .N = l->n,
                                       .K = l->n,
                                       .alpha = 1,
                                       .dtype = Q3_F32 });
}

/* Seconds of the work: a first run warms up, the better of two counts. */
static double seconds_of(void (*work)(load *), load *l)
{
    double best = 0;
    work(l);
    q3_device_wait(l->cuda);
    for (int i = 0; i < 2; i++) {
        double start = q3_seconds();
        work(l);
        q3_device_wait(l->cuda);
        double seconds = q3_seconds() - start;
        best = i && best < seconds ? best : seconds;
    }
    return best;
}

/* Numbers with many different bits, in [-1, 1): zeros would take less power and run faster than what is trained. */
static bool fill(q3_cuda *cuda, char *to, size_t bytes)
{
    size_t width = cuda ? sizeof(uint16_t) : sizeof(float);
    char *host = cuda ? q3_malloc(bytes) : to;
    uint32_t state = 1;
    for (size_t i = 0; host && i < bytes / width; i++) {
        state = state * 1664525u + 1013904223u; // Numerical Recipes, "quick and dirty" generators
        float x = (float)(int32_t)state * 0x1p-31f;
        uint16_t half = q3_f32_to_bf16(x);
        memcpy(host + i * width, cuda ? (void *)&half : (void *)&x, width);
    }
    if (cuda && host)
        q3_device_write(cuda, to, host, bytes);
    if (cuda)
        q3_free(host);
    return host != NULL;
}

/* The rate of the largest size that was tried, `amount` being what a run of size n does. */
static double rate_of(q3_profile *p, q3_arena *mem, void (*work)(load *), int64_t least, int64_t most)
{
    double rate = 0, seconds = 0;
    for (int64_t n = least; n <= most && seconds < ENOUGH; n *= 2) {
        double amount = work == copy ? 2.0 * (double)n : 2.0 * (double)n * (double)n * (double)n;
        size_t bytes =
            work == copy ? (size_t)n : (size_t)(n * n) * (p->cuda ? sizeof(uint16_t) : sizeof(float));
        q3_arena_reset(mem);
        load l = { p->cuda, q3_arena_alloc(mem, bytes), q3_arena_alloc(mem, bytes),
                   q3_arena_alloc(mem, bytes), n };
        if (!l.x || !l.y || !l.z || !fill(p->cuda, l.x, bytes) || !fill(p->cuda, l.y, bytes))
            break;
        seconds = seconds_of(work, &l);
        rate = amount / seconds;
    }
    return rate;
}

q3_status q3_profile_ceilings(q3_profile *p)
{
    q3_arena mem;
    Q3_TRY(q3_device_arena_create(&mem, p->cuda, "profile", (size_t)4 * COPY_MOST));
    p->copy_rate = rate_of(p, &mem, copy, COPY_LEAST, COPY_MOST);
    p->product_rate = rate_of(p, &mem, product, SIDE_LEAST, SIDE_MOST);
    q3_arena_destroy(&mem);
    return q3_device_status(p->cuda);
}

/* ---- the table ---- */

/* "12.3" of a part in percent, "-" where there is no whole. */
static const char *percent(char *out, size_t size, double part, double whole)
{
    if (whole > 0 && part > 0)
        snprintf(out, size, "%.1f", 100 * part / whole);
    else
        snprintf(out, size, "-");
    return out;
}

static void print_row(const q3_profile *p, const char *name, const char *pass, const q3_profile_row *r)
{
    char step[16], copied[16], multiplied[16], bytes[16] = "-", flops[16] = "-", gb[16] = "-",
                                               tflop[16] = "-";
    if (r->cost.bytes > 0 && r->seconds > 0) {
        snprintf(bytes, sizeof bytes, "%s", q3_bytes((uint64_t)r->cost.bytes));
        snprintf(gb, sizeof gb, "%.1f", 1e-9 * r->cost.bytes / r->seconds);
    }
    if (r->cost.flops > 0 && r->seconds > 0) {
        snprintf(flops, sizeof flops, "%s", q3_count((uint64_t)r->cost.flops));
        snprintf(tflop, sizeof tflop, "%.3f", 1e-12 * r->cost.flops / r->seconds);
    }
    q3_info("  %-14s %-8s %8lld %9.4f %7s %10s %8s %8s %9s %7s %9s", name, pass, (long long)r->calls,
            r->seconds, percent(step, sizeof step, r->seconds, p->seconds), bytes, flops, gb, tflop,
            percent(copied, sizeof copied, r->cost.bytes, r->seconds * p->copy_rate),
            percent(multiplied, sizeof multiplied, r->cost.flops, r->seconds * p->product_rate));
}

void q3_profile_print(const q3_profile *p)
{
    double measured = 0;
    q3_info("profile     %lld steps, %.3f s, on %s", (long long)p->steps, p->seconds,
            q3_device_describe(p->cuda));
    q3_info("  ceilings  copy %.1f GB/s, product of %s %.3f TFLOP/s", 1e-9 * p->copy_rate,
            p->cuda ? "bf16" : "f32", 1e-12 * p->product_rate);
    q3_info("  %-14s %-8s %8s %9s %7s %10s %8s %8s %9s %7s %9s", "op", "pass", "calls", "seconds", "% step",
            "bytes", "flops", "GB/s", "TFLOP/s", "% copy", "% product");
    for (int i = 0; i < Q3_PROFILE_ROWS; i++)
        for (int back = 0; back < 2; back++) {
            const q3_profile_row *r = &p->rows[i][back];
            measured += r->seconds;
            if (r->calls)
                print_row(p, i < Q3_OP_COUNT ? q3_ops[i]->name : "update",
                          i == Q3_PROFILE_UPDATE ? ""
                          : back                 ? "backward"
                                                 : "forward",
                          r);
        }
    print_row(p, "rest", "", &(q3_profile_row){ .calls = p->steps, .seconds = p->seconds - measured });
}
