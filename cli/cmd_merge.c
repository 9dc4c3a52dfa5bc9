/* merge: a model directory and a LoRA adapter to one model directory that needs no adapter. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "cli/out_dir.h"
#include "core/log.h"
#include "data/hub.h"
#include "model/lora.h"
#include "model/weights.h"

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model that was trained on" },
    { .name = "adapter", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "PEFT adapter" },
    { .name = "out",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "new directory; DIR.tmp until it is whole" },
    { .name = "dtype",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "float32|bfloat16",
      .help = "float32, or bfloat16 (default of such models)" },
};

static q3_status choose_dtype(q3_dtype *out, const q3_options *o, const q3_model *m)
{
    static const char *const words[] = { "float32", "bfloat16", "f32", "bf16", NULL };
    int choice;
    Q3_TRY(q3_options_choice(&choice, o, "dtype", m->config.dtype == Q3_BF16, words));
    *out = choice % 2 ? Q3_BF16 : Q3_F32;
    return Q3_OK;
}

static void tell(const q3_model *m, const q3_lora_config *config, int slots, q3_dtype dtype)
{
    if (m->quantized_params)
        q3_info("the model is in %s: its weights are expanded first and stay wide", q3_model_weights_word(m));
    q3_info("adapter of rank %d on %d projections, merged into %s", config->r, slots / 2,
            dtype == Q3_BF16 ? "bfloat16" : "float32");
}

/* What the command was given. */
typedef struct places {
    const char *model, *adapter, *out;
} places;

static q3_status write_merged(const q3_options *o, const places *p, const q3_out_dir *dir, q3_model *m,
                              q3_arena *mem)
{
    q3_dtype dtype;
    q3_trainable lora;
    q3_lora_config config;
    Q3_TRY(choose_dtype(&dtype, o, m));
    Q3_TRY(q3_lora_load(&lora, &config, m, mem, p->adapter));
    tell(m, &config, lora.n_slots, dtype);
    Q3_TRY(q3_out_dir_begin(dir));
    Q3_TRY(q3_out_dir_end(dir, q3_model_save(m, p->model, dir->tmp, dtype)));
    printf("%s\n", dir->to);
    return Q3_OK;
}

static q3_status merge(const q3_options *o, q3_arena *mem)
{
    places p;
    q3_out_dir dir;
    q3_model m;
    Q3_TRY(q3_options_need(&p.model, o, "model"));
    Q3_TRY(q3_options_need(&p.adapter, o, "adapter"));
    Q3_TRY(q3_options_need(&p.out, o, "out"));
    Q3_TRY(q3_out_dir_choose(&dir, mem, p.out));
    if (strncmp(q3_options_get(o, "device"), "cuda", 4) == 0)
        return q3_fail(Q3_ERR_USAGE, "--device is \"%.60s\"; merge works on the CPU alone: use auto or cpu",
                       q3_options_get(o, "device"));
    Q3_TRY(q3_options_start(o));
    Q3_TRY(q3_hub_place(&p.model, mem, p.model, NULL));
    Q3_TRY(q3_hub_place(&p.adapter, mem, p.adapter, NULL));
    Q3_TRY(q3_model_load(&m, mem, p.model, &(q3_load_options){ 0 }));
    q3_status st = write_merged(o, &p, &dir, &m, mem);
    q3_model_close(&m);
    return st;
}

static q3_status run(const q3_options *o)
{
    q3_arena mem;
    Q3_TRY(q3_arena_create(&mem, "model", (size_t)1 << 40));
    q3_status st = merge(o, &mem);
    q3_arena_destroy(&mem);
    return st;
}

const q3_command q3_command_merge = {
    .name = "merge",
    .summary = "write a model directory with an adapter added into its weights",
    .usage = "--model DIR --adapter DIR --out DIR [--dtype WORD]",
    .example = "merge --model models/base --adapter runs/a --out models/merged",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
