/* Speed of attention to a paged cache on the CPU: bench_paged [threads] [level]. 8 sequences of 1024 tokens, 16 heads of
 * 128, 8 key heads; for each type of the cache one query a sequence (decoding), and the last 256 tokens of one of them
 * (a chunk of a prompt). The best of many runs, beside a sum over memory of the size of the cache in f32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/attention_paged.h"

enum { ROWS = 8, LENGTH = 1024, CHUNK = 256, HEADS = 16, KV_HEADS = 8, D = 128, BLOCK = 16 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *bytes(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    if (!p)
        abort();
    return p;
}

static float *numbers(int64_t n)
{
    float *x = bytes((size_t)n * sizeof *x);
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static double best_of(void (*work)(void *), void *arg)
{
    double best = 1e9, start = seconds();
    for (int i = 0; i < 4 || (seconds() - start < 1 && i < 2000); i++) {
        double t = seconds();
        work(arg);
        t = seconds() - t;
        best = t < best ? t : best;
    }
    return best;
}

typedef struct memory {
    const uint64_t *words;
    int64_t n;
    volatile uint64_t sum;
} memory;

static void add_words(void *arg, int64_t begin, int64_t end, int thread)
{
    memory *m = arg;
    uint64_t sum[8] = { 0 };
    (void)thread;
    for (int64_t i = begin; i < end; i += 8)
        for (int l = 0; l < 8; l++)
            sum[l] += m->words[i + l];
    for (int l = 0; l < 8; l++)
        m->sum += sum[l];
}

static void read_all(void *arg)
{
    q3_parallel(((memory *)arg)->n, 64, add_words, arg);
}

static void attend(void *arg)
{
    q3_attention_paged_cpu(arg);
}

static q3_kv_slab slab_of(q3_dtype dtype, const float *x)
{
    const int64_t T = ROWS * LENGTH;
    q3_kv_slab slab = { bytes(q3_dtype_bytes(dtype, T * KV_HEADS * D)),
                        bytes((size_t)(T * q3_kv_scales(dtype, KV_HEADS, D)) * sizeof(float)), dtype };
    int32_t *rows = bytes((size_t)T * sizeof *rows);
    for (int t = 0; t < T; t++)
        rows[t] = t;
    q3_kv_store_cpu(&(q3_kv_store_args){ slab, x, rows, T, KV_HEADS, D, Q3_F32 });
    free(rows);
    return slab;
}

static void one_type(const char *name, q3_dtype dtype, const float *x, float *o)
{
    int32_t tables[ROWS * LENGTH / BLOCK], lengths[ROWS], begins[ROWS + 1], chunk[2] = { 0, CHUNK };
    for (int i = 0; i < ROWS * LENGTH / BLOCK; i++)
        tables[i] = i * 5 % (ROWS * LENGTH / BLOCK);
    for (int r = 0; r <= ROWS; r++)
        lengths[r < ROWS ? r : 0] = LENGTH, begins[r] = r;
    q3_attention_paged_args a = { .o = o,
                                  .q = x,
                                  .k = slab_of(dtype, x),
                                  .v = slab_of(dtype, x),
                                  .tables = tables,
                                  .lengths = lengths,
                                  .begins = begins,
                                  .rows = ROWS,
                                  .most_queries = 1,
                                  .max_blocks = LENGTH / BLOCK,
                                  .block = BLOCK,
                                  .heads = HEADS,
                                  .kv_heads = KV_HEADS,
                                  .head_size = D,
                                  .scale = 1 / sqrtf(D) };
    double each = (double)q3_dtype_bytes(dtype, D) + (double)q3_kv_scales(dtype, 1, D) * sizeof(float);
    double decode = best_of(attend, &a), size = 2.0 * ROWS * LENGTH * KV_HEADS * each;
    a.rows = 1, a.begins = chunk, a.most_queries = CHUNK;
    double prompt = best_of(attend, &a), flops = 4.0 * HEADS * D * CHUNK * (LENGTH - (CHUNK - 1) / 2.0);
    printf("%-5s %8.3f %8.2f %10.2f %8.1f\n", name, 1e3 * decode, 1e-9 * size / decode, 1e3 * prompt,
           1e-9 * flops / prompt);
    fflush(stdout);
    free(a.k.data), free(a.k.scales), free(a.v.data), free(a.v.scales);
}

int main(int argc, char **argv)
{
    const int64_t n = (int64_t)ROWS * LENGTH * KV_HEADS * D;
    q3_cpu_isa level;
    q3_pool_start(argc > 1 ? atoi(argv[1]) : 1);
    if (argc > 2 && (!q3_cpu_level_parse(&level, argv[2]) || !q3_cpu_set_level(level)))
        return 2;
    float *x = numbers(2 * n), *o = numbers((int64_t)CHUNK * HEADS * D);
    memory all = { (const uint64_t *)(const void *)x, n, 0 };
    double t = best_of(read_all, &all);
    printf("%s, %d threads; memory is read at %.2f GB/s\n", q3_cpu_level_name(q3_cpu_level()),
           q3_pool_threads(), 8e-9 * (double)n / t);
    printf("      decode ms     GB/s  prompt ms  GFLOP/s\n");
    one_type("f32", Q3_F32, x, o);
    one_type("bf16", Q3_BF16, x, o);
    one_type("int8", Q3_I8, x, o);
    one_type("int4", Q3_I4, x, o);
    q3_pool_stop();
    free(x), free(o);
    return 0;
}
