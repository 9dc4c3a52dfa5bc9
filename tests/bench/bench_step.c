/* Time of a QLoRA training step, or of generation, on a network of random weights:
 *
 *   bench_step --model 8b|4b|2b|tiny|demo|DIR [--device cpu|cuda[:N]|auto] [--dtype nf4|bf16] [--activations bf16|f32]
 *              [--tokens 512] [--row TOKENS] [--picture half|none] [--supervised quarter|all] [--dropout 0.05]
 *              [--checkpointing none|half|full] [--attention auto|cudnn|flash|reference] [--cache off|on] [--steps 2]
 *   bench_step --decode BATCH [--prompt 512] [--new 64] and the model's options
 *   further: [--threads 0] [--cpu-level LEVEL] [--probe yes|no]
 *
 * A micro-step has so many tokens in rows of equal length; half of each row may be a picture, and all of it or its last
 * quarter is supervised. A step is forward, backward, clipping and AdamW on LoRA of rank 16 on the seven projections
 * of every decoder layer. The first step is printed but not counted: it touches the memory and compiles plans.
 *
 * On CUDA the copy and product rates of the device are measured first; then come steps as training does them, and one
 * in which the device is waited for behind each op, for the table of ops. "bits" are a hash of the losses and the
 * adapter behind the last step: two runs of equal settings must print the same. docs/perf.md has what was printed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/positions.h"
#include "core/log.h"
#include "infer/scheduler.h"
#include "kernels/cpu.h"
#include "kernels/gemm.h"
#include "kernels/pool.h"
#include "model/lora.h"
#include "model/qwen3vl.h"
#include "model/weights.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "tests/bench/probe.h"
#include "tests/bench/random_model.h"
#include "tests/bench/timing.h"

enum {
    RANK = 16,
    ACROSS = 16,
    MAX_TOKENS = 1 << 20,
    MAX_STEPS = 64
}; // ACROSS: merged tokens in a row of the picture

#define RESERVED ((size_t)1 << 40) // addresses, not memory
#define PEAK_FLOPS 989e12          // H100 and H200, bf16 without sparsity: NVIDIA's data sheets

typedef struct options {
    const char *model, *device;
    int64_t tokens, row, steps, threads, decode, prompt, room;
    double dropout;
    const char *level;
    q3_checkpointing checkpointing;
    q3_attention_kind attention;
    bool nf4, f32, no_picture, all_supervised, cache, no_probe;
} options;

typedef struct bench {
    options o;
    q3_cuda *cuda;
    q3_arena run, values, step;
    q3_ctx ctx;
    q3_model model;
    q3_trainable lora;
    q3_forward forward;
    q3_batch batch;
    q3_params params;
    q3_clip clip;
    q3_optimizer *optimizer;
    probe most;                 /* rates of the device */
    q3_cost costs[Q3_OP_COUNT]; /* of one forward pass */
    q3_profile profile;         /* of the profiled step */
    double issued;              /* seconds until the host had handed over the last micro-step */
    uint64_t bits;
} bench;

/* Copies of the 4-bit matrices in bf16, as training keeps them where memory allows. */
static q3_status keep_copies(bench *b)
{
#if defined(Q3_CUDA)
    for (int i = 0; b->cuda && b->o.cache && i < b->model.n_projections; i++) {
        const q3_tensor *w = b->model.projections[i]->w;
        const q3_weight weight = q3_as_weight(w);
        if (w->dtype == Q3_NF4 && !q3_weight_cache_add(b->cuda, &weight, w->shape[0], w->shape[1]))
            return q3_fail(Q3_ERR_MEMORY, "no memory left for the bf16 copy of %s", w->name);
    }
#endif
    return q3_device_status(b->cuda);
}

static q3_status open_model(bench *b)
{
    double start = q3_seconds();
    Q3_TRY(random_model_open(&b->model, &b->run, &b->values, b->o.model, b->o.nf4));
    Q3_TRY(keep_copies(b));
    q3_device_wait(b->cuda);
    printf("model      %s of random weights, %s, %s; made in %.1f s\n", b->o.model, b->o.nf4 ? "nf4" : "bf16",
           q3_bytes(b->values.used), q3_seconds() - start);
    return b->model.config.has_vision ? Q3_OK : q3_fail(Q3_ERR_USAGE, "%s: a text-only model", b->o.model);
}

static q3_status open_lora(bench *b)
{
    static const char *const targets[] = { "q_proj",    "k_proj",  "v_proj",   "o_proj",
                                           "gate_proj", "up_proj", "down_proj" };
    const q3_lora_config lora = {
        .r = RANK, .alpha = 2 * RANK, .dropout = b->o.dropout, .targets = targets, .n_targets = 7
    };
    Q3_TRY(q3_lora_create(&b->lora, &b->model, &b->run, &lora, 1));
    q3_param *table = Q3_NEW(&b->run, q3_param, b->lora.n_slots);
    float *grads = q3_arena_alloc(&b->values, (size_t)b->lora.n * sizeof *grads);
    if (!table || !grads)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < b->lora.n_slots; i++) {
        const q3_trainable_slot *s = &b->lora.slots[i];
        table[i] = (q3_param){ s->name, s->offset, s->n, q3_param_decays(s->name) };
    }
    b->params = (q3_params){ b->lora.values, grads, b->lora.n, table, b->lora.n_slots };
    q3_trainable_bind(&b->lora, grads);
    const q3_adamw_hyper hyper = { 0.9, 0.999, 1e-8, 0.01 };
    Q3_TRY(q3_clip_create(&b->clip, &b->run, &b->values, &b->params));
    return q3_optimizer_create(&b->optimizer, &b->run, &b->values, Q3_OPTIMIZER_ADAMW, &b->params, &hyper);
}

/* One row of n tokens: <vision_start> picture <vision_end> text, or text alone, below every special token. */
static void make_row(bench *b, int64_t begin, int64_t n, int64_t M, int32_t *ids, int32_t *labels,
                     int32_t *rows)
{
    const q3_model_config *c = &b->model.config;
    for (int64_t i = 0; i < n; i++) {
        ids[begin + i] = (int32_t)((begin + i) * 7919 % 499); // primes
        labels[begin + i] = b->o.all_supervised || i >= n - n / 4 ? ids[begin + i] : -100;
    }
    if (!M)
        return;
    ids[begin] = c->vision_start;
    for (int64_t i = 0; i < M; i++) {
        ids[begin + 1 + i] = c->image_token;
        rows[begin / n * M + i] = (int32_t)(begin + 1 + i);
    }
    ids[begin + 1 + M] = c->vision_end;
    for (int64_t i = 0; i < M + 2; i++)
        labels[begin + i] = -100;
}

static q3_status make_batch(bench *b)
{
    const q3_model_config *c = &b->model.config;
    const int64_t n = b->o.row ? b->o.row : b->o.tokens, B = b->o.tokens / n, T = B * n,
                  merge = c->vision.merge_size;
    const int64_t M = b->o.no_picture ? 0 : n / 2, P = M * merge * merge;
    const int64_t width =
        3 * (int64_t)c->vision.temporal_patch_size * c->vision.patch_size * c->vision.patch_size;
    int32_t *ids = Q3_NEW(&b->run, int32_t, T), *labels = Q3_NEW(&b->run, int32_t, T);
    int32_t *positions = Q3_NEW(&b->run, int32_t, 3 * T), *rows = Q3_NEW(&b->run, int32_t, B * M + 1);
    int64_t *row_begin = Q3_NEW(&b->run, int64_t, B + 1);
    int32_t *grids = Q3_NEW(&b->run, int32_t, 3 * B);
    float *patches = Q3_NEW(&b->run, float, B *P *width + 1);
    if (!ids || !labels || !positions || !rows || !row_begin || !grids || !patches)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < B * P * width; i++)
        patches[i] = (float)(i * 2654435761 % 2048) / 1024 - 1;
    for (int64_t r = 0; r <= B; r++)
        row_begin[r] = r * n;
    for (int64_t r = 0; r < B; r++) {
        int32_t *at = positions + r * n;
        memcpy(grids + 3 * r, (int32_t[]){ 1, (int32_t)(M / ACROSS * merge), (int32_t)(ACROSS * merge) },
               3 * sizeof *grids);
        make_row(b, r * n, n, M, ids, labels, rows);
        if (q3_positions(at, at + T, at + 2 * T, ids + r * n, n, c->image_token, c->video_token,
                         grids + 3 * r, M ? 1 : 0, (int)merge) < 0)
            return q3_fail(Q3_ERR_FAIL, "positions of %lld tokens do not fit their picture", (long long)n);
    }
    b->batch = (q3_batch){ (int)B,         T,     row_begin, ids,   labels, positions,
                           M ? (int)B : 0, grids, patches,   B * P, rows,   B * M };
    return Q3_OK;
}

/* Operations of a step, multiplication and addition counted apart, without what checkpointing does again. Backward of a
 * frozen linear costs its forward once, an adapter three times 2 r (in + out) in all, attention 2.5 times its forward,
 * which is counted causal. */
static double step_flops(const bench *b)
{
    const q3_text_config *t = &b->model.config.text;
    const q3_vision_config *v = &b->model.config.vision;
    double T = (double)b->batch.n_tokens, M = (double)b->batch.n_image_rows, P = (double)b->batch.n_patches;
    double heads = (double)t->heads * t->head_dim, kv = (double)t->kv_heads * t->head_dim, H = t->hidden_size;
    double linear = 2 * T * t->layers * (2 * H * heads + 2 * H * kv + 3 * H * t->intermediate_size);
    double attention = 2 * t->layers * heads * T * T / b->batch.n_rows;
    double head = 2 * H * t->vocab_size * (double)q3_batch_targets(&b->batch, NULL, NULL);
    double D = v->hidden_size, wide = D * v->merge_size * v->merge_size;
    double patch = 3.0 * v->temporal_patch_size * v->patch_size * v->patch_size;
    double vision = P * (2 * v->depth * (4 * D * D + 2 * D * v->intermediate_size) + 2 * patch * D +
                         4 * v->depth * D * P / b->batch.n_rows);
    vision += M * (1 + v->n_deepstack) * 2 * (wide * wide + wide * v->out_hidden_size);
    return 2 * linear + 3.5 * attention + 2 * head + vision + 6 * T * (double)b->lora.n;
}

/* The recorded ops are the ones that something trained lies below: all of the decoder but the first norm. */
static void add_costs(bench *b)
{
    for (const q3_node *n = b->ctx.last; n; n = n->prev)
        for (int i = 0; i < Q3_OP_COUNT; i++)
            if (n->op == q3_ops[i]) {
                const q3_cost c = n->op->cost(n);
                b->costs[i].flops += c.flops;
                b->costs[i].bytes += c.bytes;
            }
}

static q3_status forward_backward(bench *b, double *loss, uint64_t number)
{
    double start = q3_seconds();
    q3_step_begin(&b->ctx, true);
    b->ctx.micro_step = number;
    int64_t n = q3_batch_targets(&b->batch, NULL, NULL);
    q3_tensor *l = q3_qwen3vl_loss(&b->ctx, &b->model, &b->forward, &b->batch, (float)(1.0 / (double)n));
    if (b->ctx.dry && b->forward.checkpointing == Q3_CHECKPOINT_NONE)
        add_costs(b);
    q3_backward(&b->ctx, l, 1.0f);
    b->issued = q3_seconds() - start;
    Q3_TRY(q3_ctx_status(&b->ctx));
    *loss = b->ctx.dry ? 0 : (double)q3_value(&b->ctx, l);
    return isfinite(*loss) ? Q3_OK : q3_fail(Q3_ERR_FAIL, "the loss is %f", *loss);
}

static q3_status dry_run(bench *b, size_t *bytes, q3_checkpointing checkpointing)
{
    double loss;
    b->forward.checkpointing = checkpointing;
    b->ctx.dry = b->step.dry = true;
    b->step.peak = 0;
    q3_status st = forward_backward(b, &loss, 0);
    *bytes = b->step.peak;
    b->ctx.dry = b->step.dry = false;
    b->step.peak = 0;
    return st;
}

/* What the step arena will hold, by running without data; a run that keeps all layers gives the ops' costs. */
static q3_status plan(bench *b, size_t *bytes)
{
    Q3_TRY(dry_run(b, bytes, Q3_CHECKPOINT_NONE));
    return b->o.checkpointing == Q3_CHECKPOINT_NONE ? Q3_OK : dry_run(b, bytes, b->o.checkpointing);
}

static void hash(bench *b, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        b->bits = (b->bits ^ ((const unsigned char *)data)[i]) * 0x100000001b3u; // FNV-1a
}

static q3_status hash_adapter(bench *b)
{
    size_t bytes = (size_t)b->lora.n * sizeof(float);
    float *host = q3_malloc(bytes);
    if (!host)
        return Q3_ERR_MEMORY;
    q3_device_read(b->cuda, host, b->lora.values, bytes);
    hash(b, host, bytes);
    q3_free(host);
    return q3_device_status(b->cuda);
}

static q3_status one_step(bench *b, double *seconds, int64_t number, const char *note)
{
    double loss, norm, start = q3_seconds();
    q3_device_fill(b->cuda, b->params.grads, 0, (size_t)b->params.total * sizeof(float));
    Q3_TRY(forward_backward(b, &loss, (uint64_t)number));
    Q3_TRY(q3_clip_gradients(&norm, &b->clip, 1.0));
    q3_optimizer_step(b->optimizer, b->params.grads, 1e-4);
    q3_device_wait(b->cuda);
    *seconds = q3_seconds() - start;
    hash(b, &loss, sizeof loss);
    hash(b, &norm, sizeof norm);
    printf("step %4lld%s  loss %.4f  norm %.3f  %.1f ms, the host was done at %.1f ms\n", (long long)number,
           note, loss, norm, 1e3 * *seconds, 1e3 * b->issued);
    fflush(stdout);
    return q3_device_status(b->cuda);
}

static q3_status steps(bench *b)
{
    double seconds[MAX_STEPS], first, flops = step_flops(b), T = (double)b->batch.n_tokens;
    int n = (int)b->o.steps;
    b->bits = 0xcbf29ce484222325u;
    Q3_TRY(one_step(b, &first, 0, " (warm-up)"));
    for (int i = 0; i < n; i++)
        Q3_TRY(one_step(b, &seconds[i], i + 1, ""));
    Q3_TRY(hash_adapter(b));
    double t = timing_middle(seconds, n);
    printf("median     %.1f ms a step, %.1f tokens/s, %.1f GFLOP/s of %.1f GFLOP a step", 1e3 * t, T / t,
           1e-9 * flops / t, 1e-9 * flops);
    if (b->cuda)
        printf(", %.1f %% MFU (of %.0f TFLOP/s)", 100 * flops / t / PEAK_FLOPS, 1e-12 * PEAK_FLOPS);
    printf("\n");
    printf("bits       %016llx\n", (unsigned long long)b->bits);
    b->profile.cuda = b->cuda;
    b->profile.copy_rate = b->most.copy;
    b->profile.product_rate = b->most.gemm;
    b->ctx.profile = &b->profile;
    q3_profile_step_begin(&b->profile);
    q3_status st = one_step(b, &first, n + 1, " (with marks)");
    q3_profile_step_end(&b->profile);
    b->ctx.profile = NULL;
    double busy = 0;
    for (int i = 0; i < Q3_PROFILE_ROWS; i++)
        busy += b->profile.rows[i][0].seconds + b->profile.rows[i][1].seconds;
    printf("busy       %.1f ms in ops, %.1f ms wall in the steps before\n", 1e3 * busy, 1e3 * t);
    return st;
}

static void report(const bench *b, size_t planned)
{
    fflush(stdout);
    q3_profile_print(&b->profile);
    printf("\nmemory     step %s (planned %s), parameters %s, peak of the process %s\n",
           q3_bytes(b->step.peak), q3_bytes(planned), q3_bytes(b->values.peak), q3_bytes(q3_memory_peak()));
}

/* Nothing is given back before the end, so what is taken then is the most. */
static void report_device(const bench *b)
{
#if defined(Q3_CUDA)
    size_t free_bytes, total;
    if (!b->cuda)
        return;
    q3_cuda_memory(b->cuda, &free_bytes, &total);
    printf("device     %s of %s taken at the peak\n", q3_bytes(total - free_bytes), q3_bytes(total));
#else
    (void)b;
#endif
}

static q3_status train(bench *b)
{
    size_t planned;
    Q3_TRY(open_lora(b));
    Q3_TRY(make_batch(b));
    b->forward = (q3_forward){ .training = true };
    Q3_TRY(plan(b, &planned));
    printf("batch      %lld tokens in %d rows, %lld of pictures, %lld supervised; %s parameters trained; "
           "plan: %s a step\n",
           (long long)b->batch.n_tokens, b->batch.n_rows, (long long)b->batch.n_image_rows,
           (long long)q3_batch_targets(&b->batch, NULL, NULL), q3_count((uint64_t)b->lora.n),
           q3_bytes(planned));
    Q3_TRY(steps(b));
    report(b, planned);
    return Q3_OK;
}

/* What the prompts are answered with. */
typedef struct desk {
    q3_engine *engine;
    q3_scheduler *scheduler;
} desk;

static bool on_token(void *arg, const q3_token_event *e)
{
    bench *b = arg;
    hash(b, &e->id, sizeof e->id);
    return true;
}

static q3_status submit(bench *b, const desk *d, int row)
{
    uint64_t ticket;
    int64_t begin = b->batch.row_begin[row], n = b->batch.row_begin[row + 1] - begin;
    return q3_scheduler_submit(
        &ticket, d->scheduler,
        &(q3_request){ .prompt = { .ids = b->batch.ids + begin, .n = n, .adapter = -1 },
                       .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                       .max_new_tokens = b->o.room,
                       .logprobs = -1,
                       .on_token = on_token,
                       .arg = b });
}

/* The first pass has all prompts and their first tokens. */
static q3_status generate(bench *b, const desk *d)
{
    double seconds[2];
    for (int i = 0; i < 2; i++) { // the first one warms up
        b->bits = 0xcbf29ce484222325u;
        for (int row = 0; row < b->batch.n_rows; row++)
            Q3_TRY(submit(b, d, row));
        double start = q3_seconds();
        Q3_TRY(q3_scheduler_step(d->scheduler));
        double prefill = q3_seconds() - start;
        Q3_TRY(q3_scheduler_run(d->scheduler));
        seconds[0] = prefill;
        seconds[1] = q3_seconds() - start - prefill;
    }
    double B = (double)b->batch.n_rows, n = (double)(b->o.room - 1);
    printf("prefill    %d prompts of %lld tokens: %.1f ms, %.0f tokens/s\n", b->batch.n_rows,
           (long long)b->o.prompt, 1e3 * seconds[0], B * (double)b->o.prompt / seconds[0]);
    if (n > 0)
        printf("decode     batch %d, %lld tokens each: %.2f ms a token, %.1f tokens/s\n", b->batch.n_rows,
               (long long)b->o.room, 1e3 * seconds[1] / n, B * n / seconds[1]);
    printf("bits       %016llx\n", (unsigned long long)b->bits);
    return Q3_OK;
}

static q3_status decode(bench *b)
{
    desk d = { 0 };
    b->o.tokens = b->o.decode * b->o.prompt;
    b->o.row = b->o.prompt;
    b->o.no_picture = true;
    Q3_TRY(make_batch(b));
    int64_t blocks =
        (b->o.prompt + b->o.room) / Q3_ENGINE_BLOCK + 2; // one to spare, or not all begin at once
    const q3_engine_options engine = { .kv_type = Q3_DTYPES,
                                       .tokens = b->o.decode * blocks * Q3_ENGINE_BLOCK,
                                       .no_sharing = true };
    const q3_scheduler_options how = { .max_running = (int)b->o.decode, .chunk = b->o.tokens };
    q3_status st = q3_engine_create(&d.engine, &b->model, &b->ctx, NULL, &engine);
    st = st ? st : q3_scheduler_create(&d.scheduler, d.engine, &how);
    st = st ? st : generate(b, &d);
    q3_scheduler_destroy(d.scheduler);
    q3_engine_destroy(d.engine);
    return st;
}

static q3_status measure_most(bench *b)
{
    bool small = strcmp(b->o.model, "tiny") == 0;
    if (!b->cuda || b->o.no_probe)
        return Q3_OK;
    Q3_TRY(probe_measure(&b->most, b->cuda, small ? 1 << 20 : PROBE_COPY_BYTES, small ? 64 : PROBE_GEMM_SIZE,
                         small ? 1 : 9));
    printf("most       copy %.0f GB/s, bf16 product %.1f TFLOP/s\n", 1e-9 * b->most.copy,
           1e-12 * b->most.gemm);
    return Q3_OK;
}

static q3_status run(bench *b)
{
    Q3_TRY(q3_device_open(&b->cuda, b->o.device));
    Q3_TRY(q3_arena_create(&b->run, "run arena", RESERVED));
    Q3_TRY(q3_device_arena_create(&b->values, b->cuda, "parameters", RESERVED));
    Q3_TRY(q3_device_arena_create(&b->step, b->cuda, "step arena", RESERVED));
    Q3_TRY(q3_ctx_create(&b->ctx, &b->step));
    b->ctx.dtype = b->cuda && !b->o.f32 ? Q3_BF16 : Q3_F32;
    b->ctx.seed = 1;
    if (b->cuda)
        b->cuda->attention = b->o.attention;
    printf("device     %s\n", q3_device_describe(b->cuda));
    Q3_TRY(measure_most(b));
    Q3_TRY(open_model(b));
    Q3_TRY(b->o.decode ? decode(b) : train(b));
    report_device(b);
    return Q3_OK;
}

static bool number(int64_t *out, const char *text, int64_t low, int64_t high)
{
    char *end;
    *out = strtoll(text, &end, 10);
    return end != text && !*end && *out >= low && *out <= high;
}

static bool fraction(double *out, const char *text)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= 0 && *out < 1;
}

static bool choice(int *out, const char *text, const char *const *names)
{
    for (*out = 0; names[*out]; ++*out)
        if (strcmp(names[*out], text) == 0)
            return true;
    return false;
}

static bool flag(bool *out, const char *text, const char *off, const char *on)
{
    *out = strcmp(text, on) == 0;
    return *out || strcmp(text, off) == 0;
}

static bool shape_option(options *o, const char *name, const char *value)
{
    if (strcmp(name, "--tokens") == 0)
        return number(&o->tokens, value, 2 * ACROSS, MAX_TOKENS) && o->tokens % (2 * ACROSS) == 0;
    if (strcmp(name, "--row") == 0)
        return number(&o->row, value, 2 * ACROSS, MAX_TOKENS) && o->row % (2 * ACROSS) == 0;
    if (strcmp(name, "--decode") == 0)
        return number(&o->decode, value, 1, 4096);
    if (strcmp(name, "--prompt") == 0)
        return number(&o->prompt, value, 1, MAX_TOKENS);
    if (strcmp(name, "--new") == 0)
        return number(&o->room, value, 1, MAX_TOKENS);
    if (strcmp(name, "--picture") == 0)
        return flag(&o->no_picture, value, "half", "none");
    if (strcmp(name, "--supervised") == 0)
        return flag(&o->all_supervised, value, "quarter", "all");
    return false;
}

static bool option(options *o, const char *name, const char *value)
{
    static const char *const checkpointing[] = { "none", "half", "full", NULL };
    static const char *const attention[] = { "auto", "cudnn", "flash", "reference", NULL };
    int i = 0;
    bool good = false;
    if (strcmp(name, "--model") == 0)
        good = (o->model = value) != NULL;
    else if (strcmp(name, "--device") == 0)
        good = (o->device = value) != NULL;
    else if (strcmp(name, "--steps") == 0)
        good = number(&o->steps, value, 1, MAX_STEPS);
    else if (strcmp(name, "--threads") == 0)
        good = number(&o->threads, value, 0, 1024);
    else if (strcmp(name, "--cpu-level") == 0)
        good = (o->level = value) != NULL;
    else if (strcmp(name, "--dropout") == 0)
        good = fraction(&o->dropout, value);
    else if (strcmp(name, "--dtype") == 0)
        good = flag(&o->nf4, value, "bf16", "nf4");
    else if (strcmp(name, "--activations") == 0)
        good = flag(&o->f32, value, "bf16", "f32");
    else if (strcmp(name, "--cache") == 0)
        good = flag(&o->cache, value, "off", "on");
    else if (strcmp(name, "--probe") == 0)
        good = flag(&o->no_probe, value, "yes", "no");
    else if (strcmp(name, "--checkpointing") == 0) {
        good = choice(&i, value, checkpointing);
        o->checkpointing = (q3_checkpointing)i;
    } else if (strcmp(name, "--attention") == 0) {
        good = choice(&i, value, attention);
        o->attention = (q3_attention_kind)i;
    } else {
        good = shape_option(o, name, value);
    }
    if (!good)
        fprintf(
            stderr,
            "bench_step: %s %s is not understood (--tokens and --row: multiples of %d; --steps: up to %d)\n",
            name, value, 2 * ACROSS, MAX_STEPS);
    return good;
}

int main(int argc, char **argv)
{
    bench b = { .o = { .model = "demo",
                       .device = "cpu",
                       .tokens = 512,
                       .steps = 2,
                       .prompt = 512,
                       .room = 64,
                       .dropout = 0.05,
                       .nf4 = true } };
    q3_cpu_isa level;
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(&b.o, argv[i], argv[i + 1]))
            return 2;
    if (b.o.row && b.o.tokens % b.o.row)
        return fprintf(stderr, "bench_step: --tokens must be a multiple of --row\n"), 2;
    if (b.o.level && (!q3_cpu_level_parse(&level, b.o.level) || !q3_cpu_set_level(level)))
        return fprintf(stderr, "bench_step: this machine has no level %s\n", b.o.level), 2;
    q3_pool_start((int)b.o.threads);
    q3_status st = run(&b);
    if (st != Q3_OK)
        fprintf(stderr, "%s\n", q3_error());
    q3_model_close(&b.model);
    q3_ctx_destroy(&b.ctx);
    q3_arena_destroy(&b.step);
    q3_arena_destroy(&b.values);
    q3_arena_destroy(&b.run);
    q3_device_close(b.cuda);
    q3_pool_stop();
    return q3_exit_code(st);
}
