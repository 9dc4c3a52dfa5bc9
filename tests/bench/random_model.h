/* tests/bench/random_model.h - networks of published sizes with random weights, made where they compute.
 *
 * Weights are copies of a few MiB of random values, cut at another place for each matrix: drawing 8 billion would take
 * minutes, and the speed of a product does not ask whether its values repeat. They are not all equal or zero either,
 * which would lower the power that a device draws and flatter it.
 */
#ifndef Q3_BENCH_RANDOM_MODEL_H
#define Q3_BENCH_RANDOM_MODEL_H

#include "model/network.h"

/* `name`: 8b, 4b, 2b (Qwen3-VL; "2b:4" with 4 layers in the decoder), tiny (for a look whether all of it runs), demo
 * (assets/tiny-base's config.json), or a directory with a config.json. Linear layers of the decoder are in NF4 or bf16, all else in bf16. */
q3_status random_model_open(q3_model *out, q3_arena *run, q3_arena *values, const char *name, bool nf4);

/* 8 MiB of random bits and of bf16 numbers N(0, 0.02), on the device of the arena. */
typedef struct random_values {
    uint32_t *bits;
    uint16_t *normals;
} random_values;
q3_status random_values_create(random_values *out, q3_arena *values);

/* `bytes` of them at `to`; `turn` says where the copies begin. */
void random_fill_bf16(q3_cuda *cuda, const random_values *from, void *to, size_t bytes, int turn);
void random_fill_bits(q3_cuda *cuda, const random_values *from, void *to, size_t bytes, int turn);

#endif
