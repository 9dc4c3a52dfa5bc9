/* Time of a QLoRA training step on a network of random weights:
 *
 *   bench_step --model 2b|4b|demo|DIR [--tokens 512] [--steps 2] [--threads 0] [--cpu-level LEVEL]
 *              [--checkpointing none|half|full] [--dtype nf4|bf16]
 *
 * The batch is one row: half of its tokens are a picture, the last quarter is supervised. A step is forward, backward,
 * clipping and AdamW on LoRA of rank 16 on the seven projections of every decoder layer. The first step is printed but
 * not counted: it touches the memory. Floating-point operations follow the formulas of docs/perf.md, where the
 * numbers are; a dry run comes first, so memory is known before anything is drawn.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/positions.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "model/lora.h"
#include "model/qwen3vl.h"
#include "model/weights.h"
#include "optim/clip.h"
#include "optim/optimizer.h"

enum { RANK = 16, ACROSS = 16, MAX_TOKENS = 1 << 20 }; // ACROSS: merged tokens in a row of the picture

#define RESERVED ((size_t)1 << 40) // addresses, not memory

typedef struct options {
    const char *model;
    int64_t tokens, steps, threads;
    const char *level;
    q3_checkpointing checkpointing;
    bool nf4;
} options;

typedef struct shape {
    const char *name;
    int hidden, inner, layers, heads; // decoder
} shape;

static const shape shapes[] = { { "2b", 2048, 6144, 28, 16 }, { "4b", 2560, 9728, 36, 32 } };

typedef struct bench {
    options o;
    q3_arena run, step;
    q3_ctx ctx;
    q3_model model;
    q3_trainable lora;
    q3_forward forward;
    q3_batch batch;
    q3_params params;
    q3_clip clip;
    q3_optimizer *optimizer;
    q3_profile profile;
} bench;

/* config.json of a published size: both have the same vision tower. */
static q3_status write_config(const shape *s, const char *dir)
{
    q3_text t = { 0 };
    q3_text_printf(&t,
                   "{ \"architectures\": [\"Qwen3VLForConditionalGeneration\"], \"model_type\": \"qwen3_vl\", \"dtype\": \"bfloat16\",\n"
                   "  \"image_token_id\": 151655, \"video_token_id\": 151656, \"vision_start_token_id\": 151652,\n"
                   "  \"vision_end_token_id\": 151653, \"tie_word_embeddings\": true,\n"
                   "  \"text_config\": { \"attention_bias\": false, \"attention_dropout\": 0.0, \"head_dim\": 128,\n"
                   "    \"hidden_act\": \"silu\", \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d,\n"
                   "    \"num_attention_heads\": %d, \"num_key_value_heads\": 8, \"max_position_embeddings\": 262144,\n"
                   "    \"model_type\": \"qwen3_vl_text\", \"rms_norm_eps\": 1e-06, \"initializer_range\": 0.02,\n"
                   "    \"tie_word_embeddings\": true, \"vocab_size\": 151936, \"bos_token_id\": 151643, \"eos_token_id\": 151645,\n"
                   "    \"rope_theta\": 5000000, \"rope_scaling\": { \"mrope_interleaved\": true,\n"
                   "      \"mrope_section\": [24, 20, 20], \"rope_type\": \"default\" } },\n"
                   "  \"vision_config\": { \"depth\": 24, \"hidden_size\": 1024, \"intermediate_size\": 4096, \"num_heads\": 16,\n"
                   "    \"hidden_act\": \"gelu_pytorch_tanh\", \"in_channels\": 3, \"initializer_range\": 0.02,\n"
                   "    \"model_type\": \"qwen3_vl\", \"num_position_embeddings\": 2304, \"out_hidden_size\": %d,\n"
                   "    \"patch_size\": 16, \"spatial_merge_size\": 2, \"temporal_patch_size\": 2,\n"
                   "    \"deepstack_visual_indexes\": [5, 11, 17] } }\n",
                   s->hidden, s->inner, s->layers, s->heads, s->hidden);
    char *path = q3_path_join(dir, "config.json");
    q3_status st = path && !t.failed ? q3_dir_create(dir) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = q3_file_write(path, t.data, t.size);
    q3_free(path);
    q3_text_free(&t);
    return st;
}

/* A frozen 16-bit matrix takes half the place of the drawn one: the values move to the front of their block. */
static void halve(q3_model *m)
{
    for (int i = 0; i < m->n_params; i++) {
        q3_tensor *t = m->params[i].tensor;
        if (t->dtype != Q3_F32 || t->ndim != 2)
            continue;
        char *bytes = t->data;
        for (int64_t k = 0, n = q3_numel(t); k < n; k++) {
            float x;
            memcpy(&x, bytes + 4 * k, sizeof x);
            uint16_t h = q3_f32_to_bf16(x);
            memcpy(bytes + 2 * k, &h, sizeof h);
        }
        t->dtype = Q3_BF16;
    }
}

static q3_status open_model(bench *b)
{
    const q3_load_options how = { .load_in_4bit = b->o.nf4, .code = Q3_NF4, .double_quant = true, .random = true, .seed = 1 };
    const char *name = b->o.model, *dir = strcmp(name, "demo") == 0 ? "assets/tiny-base" : name;
    char made[] = "/tmp/bench_step.XXXXXX";
    q3_status st = Q3_OK;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(name, shapes[i].name) == 0) {
            dir = mkdtemp(made);
            st = dir ? write_config(&shapes[i], dir) : q3_fail(Q3_ERR_FAIL, "%s: cannot make the directory", made);
        }
    double start = q3_seconds();
    if (st == Q3_OK)
        st = q3_model_load(&b->model, &b->run, dir, &how);
    if (dir == made)
        q3_dir_remove(dir);
    Q3_TRY(st);
    halve(&b->model);
    printf("model      %s of random weights, drawn in %.1f s\n", name, q3_seconds() - start);
    return b->model.config.has_vision ? Q3_OK : q3_fail(Q3_ERR_USAGE, "%s: a text-only model; the batch has a picture", dir);
}

static q3_status open_lora(bench *b)
{
    static const char *const targets[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };
    const q3_lora_config lora = { .r = RANK, .alpha = 2 * RANK, .dropout = 0.05, .targets = targets, .n_targets = 7 };
    Q3_TRY(q3_lora_create(&b->lora, &b->model, &b->run, &lora, 1));
    q3_param *table = Q3_NEW(&b->run, q3_param, b->lora.n_slots);
    float *grads = Q3_ZNEW(&b->run, float, b->lora.n);
    if (!table || !grads)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < b->lora.n_slots; i++) {
        const q3_trainable_slot *s = &b->lora.slots[i];
        table[i] = (q3_param){ s->name, s->offset, s->n, q3_param_decays(s->name) };
    }
    b->params = (q3_params){ b->lora.values, grads, b->lora.n, table, b->lora.n_slots };
    q3_trainable_bind(&b->lora, grads);
    const q3_adamw_hyper hyper = { 0.9, 0.999, 1e-8, 0.01 };
    Q3_TRY(q3_clip_create(&b->clip, &b->run, &b->run, &b->params));
    return q3_optimizer_create(&b->optimizer, &b->run, &b->run, Q3_OPTIMIZER_ADAMW, &b->params, &hyper);
}

/* Tokens from `from` on, below every special token. */
static void text_tokens(int32_t *ids, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        ids[i] = (int32_t)(i * 7919 % 1000);
}

/* <vision_start> picture <vision_end> text; one row. */
static q3_status make_batch(bench *b)
{
    const q3_model_config *c = &b->model.config;
    int64_t T = b->o.tokens, M = T / 2, merge = c->vision.merge_size, P = M * merge * merge;
    int64_t width = 3 * (int64_t)c->vision.temporal_patch_size * c->vision.patch_size * c->vision.patch_size;
    int32_t *ids = Q3_NEW(&b->run, int32_t, T), *labels = Q3_NEW(&b->run, int32_t, T);
    int32_t *positions = Q3_NEW(&b->run, int32_t, 3 * T), *rows = Q3_NEW(&b->run, int32_t, M);
    int64_t *row_begin = Q3_NEW(&b->run, int64_t, 2);
    int32_t *grid = Q3_NEW(&b->run, int32_t, 3);
    float *patches = Q3_NEW(&b->run, float, P * width);
    if (!ids || !labels || !positions || !rows || !row_begin || !grid || !patches)
        return Q3_ERR_MEMORY;
    text_tokens(ids, 0, T);
    ids[0] = c->vision_start;
    for (int64_t i = 0; i < M; i++) {
        ids[1 + i] = c->image_token;
        rows[i] = (int32_t)(1 + i);
    }
    ids[1 + M] = c->vision_end;
    for (int64_t i = 0; i < T; i++)
        labels[i] = i < T - T / 4 ? -100 : ids[i];
    for (int64_t i = 0; i < P * width; i++)
        patches[i] = (float)(i * 2654435761 % 2048) / 1024 - 1;
    memcpy(row_begin, (int64_t[]){ 0, T }, 2 * sizeof *row_begin);
    memcpy(grid, (int32_t[]){ 1, (int32_t)(M / ACROSS * merge), (int32_t)(ACROSS * merge) }, 3 * sizeof *grid);
    if (q3_positions(positions, positions + T, positions + 2 * T, ids, T, c->image_token, c->video_token, grid, 1, (int)merge) < 0)
        return q3_fail(Q3_ERR_FAIL, "positions of %lld tokens do not fit their picture", (long long)T);
    b->batch = (q3_batch){ 1, T, row_begin, ids, labels, positions, 1, grid, patches, P, rows, M };
    return Q3_OK;
}

/* Operations of a step, multiplication and addition counted apart. Backward of a frozen linear costs its forward once,
 * an adapter three times 2 r (in + out) in all, attention 2.5 times its forward, which is counted causal. */
static double step_flops(const bench *b)
{
    const q3_text_config *t = &b->model.config.text;
    const q3_vision_config *v = &b->model.config.vision;
    double T = (double)b->batch.n_tokens, M = (double)b->batch.n_image_rows, P = (double)b->batch.n_patches;
    double heads = (double)t->heads * t->head_dim, kv = (double)t->kv_heads * t->head_dim, H = t->hidden_size;
    double linear = 2 * T * t->layers * (2 * H * heads + 2 * H * kv + 3 * H * t->intermediate_size);
    double attention = 2 * t->layers * heads * T * T;
    double head = 2 * H * t->vocab_size * (double)q3_batch_targets(&b->batch, NULL, NULL);
    double D = v->hidden_size, wide = D * v->merge_size * v->merge_size;
    double patch = 3.0 * v->temporal_patch_size * v->patch_size * v->patch_size;
    double vision = P * (2 * v->depth * (4 * D * D + 2 * D * v->intermediate_size) + 2 * patch * D + 4 * v->depth * D * P);
    vision += M * (1 + v->n_deepstack) * 2 * (wide * wide + wide * v->out_hidden_size);
    double again = b->o.checkpointing == Q3_CHECKPOINT_FULL ? 1 : b->o.checkpointing == Q3_CHECKPOINT_HALF ? 0.5 : 0;
    return (2 + again) * linear + (3.5 + again) * attention + 2 * head + vision + (6 + 2 * again) * T * (double)b->lora.n;
}

static q3_status forward_backward(bench *b, double *loss, uint64_t number)
{
    q3_step_begin(&b->ctx, true);
    b->ctx.micro_step = number;
    int64_t n = q3_batch_targets(&b->batch, NULL, NULL);
    q3_tensor *l = q3_qwen3vl_loss(&b->ctx, &b->model, &b->forward, &b->batch, (float)(1.0 / (double)n));
    q3_backward(&b->ctx, l, 1.0f);
    Q3_TRY(q3_ctx_status(&b->ctx));
    *loss = b->ctx.dry ? 0 : *q3_f32(l);
    return isfinite(*loss) ? Q3_OK : q3_fail(Q3_ERR_FAIL, "the loss is %f", *loss);
}

/* What the step arena will hold, by running without data. */
static q3_status plan(bench *b, size_t *bytes)
{
    double loss;
    b->ctx.dry = b->step.dry = true;
    q3_status st = forward_backward(b, &loss, 0);
    *bytes = b->step.peak;
    b->ctx.dry = b->step.dry = false;
    b->step.peak = 0;
    return st;
}

static q3_status steps(bench *b)
{
    double seconds = 0, flops = step_flops(b), T = (double)b->batch.n_tokens;
    b->ctx.profile = &b->profile;
    for (int64_t i = 0; i <= b->o.steps; i++) {
        double loss, norm, start = q3_seconds();
        memset(b->params.grads, 0, (size_t)b->params.total * sizeof(float));
        if (i == 1)
            q3_profile_clear(&b->profile);
        Q3_TRY(forward_backward(b, &loss, (uint64_t)i));
        Q3_TRY(q3_clip_gradients(&norm, &b->clip, 1.0));
        q3_optimizer_step(b->optimizer, b->params.grads, 1e-4);
        double t = q3_seconds() - start;
        seconds += i ? t : 0;
        printf("step %4lld%s  loss %.4f  norm %.3f  %.1f ms\n", (long long)i, i ? "" : " (warm-up)", loss, norm, 1e3 * t);
        fflush(stdout);
    }
    double t = seconds / (double)b->o.steps;
    printf("mean       %.1f ms a step, %.1f tokens/s, %.1f GFLOP/s of %.1f GFLOP a step\n", 1e3 * t, T / t, 1e-9 * flops / t, 1e-9 * flops);
    return Q3_OK;
}

static void report(const bench *b, size_t planned)
{
    printf("\n%-14s %12s %12s\n", "op", "forward ms", "backward ms");
    for (int i = 0; i < Q3_OP_COUNT; i++)
        if (b->profile.rows[i][0].calls)
            printf("%-14s %12.1f %12.1f\n", q3_ops[i]->name, 1e3 * b->profile.rows[i][0].seconds / (double)b->o.steps, 1e3 * b->profile.rows[i][1].seconds / (double)b->o.steps);
    printf("\nmemory     step %s (planned %s), peak of the process %s, drawing the weights included\n", q3_bytes(b->step.peak),
           q3_bytes(planned), q3_bytes(q3_memory_peak()));
}

static q3_status run(bench *b)
{
    size_t planned;
    Q3_TRY(q3_arena_create(&b->run, "run arena", RESERVED));
    Q3_TRY(q3_arena_create(&b->step, "step arena", RESERVED));
    Q3_TRY(q3_ctx_create(&b->ctx, &b->step));
    Q3_TRY(open_model(b));
    Q3_TRY(open_lora(b));
    Q3_TRY(make_batch(b));
    b->forward = (q3_forward){ .checkpointing = b->o.checkpointing, .training = true };
    Q3_TRY(plan(b, &planned));
    printf("batch      %lld tokens, %lld of a picture, %lld supervised; %s parameters trained\n", (long long)b->batch.n_tokens,
           (long long)b->batch.n_image_rows, (long long)q3_batch_targets(&b->batch, NULL, NULL), q3_count((uint64_t)b->lora.n));
    printf("machine    %d threads, %s\n", q3_pool_threads(), q3_cpu_level_name(q3_cpu_level()));
    Q3_TRY(steps(b));
    report(b, planned);
    return Q3_OK;
}

static bool number(int64_t *out, const char *text, int64_t low, int64_t high)
{
    char *end;
    *out = strtoll(text, &end, 10);
    return end != text && !*end && *out >= low && *out <= high;
}

static bool choice(int *out, const char *text, const char *const *names, int n)
{
    for (*out = 0; *out < n; ++*out)
        if (strcmp(names[*out], text) == 0)
            return true;
    return false;
}

static bool option(options *o, const char *name, const char *value)
{
    static const char *const checkpointing[] = { "none", "half", "full" }, *const dtypes[] = { "bf16", "nf4" };
    int i = 0;
    bool good = false;
    if (strcmp(name, "--model") == 0)
        good = (o->model = value) != NULL;
    else if (strcmp(name, "--tokens") == 0)
        good = number(&o->tokens, value, 2 * ACROSS, MAX_TOKENS) && o->tokens % (2 * ACROSS) == 0;
    else if (strcmp(name, "--steps") == 0)
        good = number(&o->steps, value, 1, 1 << 20);
    else if (strcmp(name, "--threads") == 0)
        good = number(&o->threads, value, 0, 1024);
    else if (strcmp(name, "--cpu-level") == 0)
        good = (o->level = value) != NULL;
    else if (strcmp(name, "--checkpointing") == 0) {
        good = choice(&i, value, checkpointing, 3);
        o->checkpointing = (q3_checkpointing)i;
    } else if (strcmp(name, "--dtype") == 0) {
        good = choice(&i, value, dtypes, 2);
        o->nf4 = i == 1;
    }
    if (!good)
        fprintf(stderr, "bench_step: %s %s is not understood (--tokens: a multiple of %d)\n", name, value, 2 * ACROSS);
    return good;
}

int main(int argc, char **argv)
{
    bench b = { .o = { .model = "demo", .tokens = 512, .steps = 2, .nf4 = true } };
    q3_cpu_isa level;
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(&b.o, argv[i], argv[i + 1]))
            return 2;
    if (b.o.level && (!q3_cpu_level_parse(&level, b.o.level) || !q3_cpu_set_level(level)))
        return fprintf(stderr, "bench_step: this machine has no level %s\n", b.o.level), 2;
    q3_pool_start((int)b.o.threads);
    q3_status st = run(&b);
    if (st != Q3_OK)
        fprintf(stderr, "%s\n", q3_error());
    q3_model_close(&b.model);
    q3_ctx_destroy(&b.ctx);
    q3_arena_destroy(&b.step);
    q3_arena_destroy(&b.run);
    q3_pool_stop();
    return q3_exit_code(st);
}
