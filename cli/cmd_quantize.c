/* quantize: a model directory in 16 or 32 bits to one in 4 or 8 bits. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "cli/out_dir.h"
#include "core/log.h"
#include "data/hub.h"
#include "model/checkpoint_files.h"
#include "model/weights.h"

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model, in 16 or 32 bits" },
    { .name = "out",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "new directory; DIR.tmp until it is whole" },
    { .name = "type",
      .kind = Q3_OPTION_VALUE,
      .value = "WORD",
      .words = "nf4|fp4|int8|int4|int4-g32",
      .initial = "nf4",
      .help = "nf4, fp4, int8, int4, int4-g32" },
    { .name = "no-double-quant",
      .kind = Q3_OPTION_FLAG,
      .help = "nf4, fp4: keep the block scales in 32 bits" },
    { .name = "skip-modules",
      .kind = Q3_OPTION_VALUE,
      .value = "A,B",
      .initial = "model.visual,lm_head",
      .help = "stay as they are" },
};

/* Splits "a,b" in place. */
static q3_status split(const char ***out, int *n, char *list, q3_arena *mem)
{
    *n = 0;
    *out = Q3_NEW(mem, const char *, strlen(list) + 1);
    if (!*out)
        return Q3_ERR_MEMORY;
    for (char *name = list, *comma; *list && name; name = comma ? comma + 1 : NULL) {
        comma = strchr(name, ',');
        if (comma)
            *comma = 0;
        if (!*name)
            return q3_fail(Q3_ERR_USAGE, "--skip-modules has an empty name; write --skip-modules a,b");
        (*out)[(*n)++] = name;
    }
    return Q3_OK;
}

static q3_status read_settings(q3_load_options *load, const q3_options *o, q3_arena *mem)
{
    static const char *const types[] = { "nf4", "fp4", "int8", "int4", "int4-g32", NULL };
    int type;
    Q3_TRY(q3_options_choice(&type, o, "type", 0, types));
    Q3_TRY(q3_load_options_word(load, types[type]));
    if (q3_options_given(o, "no-double-quant") && !load->double_quant)
        return q3_fail(Q3_ERR_USAGE,
                       "--no-double-quant is for nf4 and fp4; the scales of %s are in 32 bits anyway",
                       types[type]);
    load->double_quant = load->double_quant && !q3_options_given(o, "no-double-quant");
    char *list = q3_arena_strdup(mem, q3_options_get(o, "skip-modules"));
    const char **skip = NULL;
    Q3_TRY(list ? split(&skip, &load->n_skip, list, mem) : Q3_ERR_MEMORY);
    load->skip = skip;
    return Q3_OK;
}

/* A name that fits nothing is a misspelled one. A tied head has no tensor of its own. */
static q3_status check_skipped(const q3_model *m, const q3_load_options *load)
{
    for (int i = 0; i < load->n_skip; i++) {
        const q3_load_options one = { .skip = &load->skip[i], .n_skip = 1 };
        bool fits = strcmp(load->skip[i], "lm_head") == 0 || strcmp(load->skip[i], "model.visual") == 0;
        for (int k = 0; k < m->n_projections && !fits; k++)
            fits = q3_module_skipped(&one, m->projections[k]->path);
        if (!fits)
            return q3_fail(Q3_ERR_USAGE,
                           "--skip-modules: \"%.100s\" is no linear layer; they are called e.g. %s",
                           load->skip[i], m->projections[m->n_projections - 1]->path);
    }
    return Q3_OK;
}

/* Loads the model as it is: what would not load later is refused before anything is written. */
static q3_status check_model(const char *dir, const q3_load_options *load)
{
    q3_arena mem;
    q3_model m;
    const q3_load_options plain = { 0 };
    Q3_TRY(q3_arena_create(&mem, "model", (size_t)1 << 40));
    q3_status st = q3_model_load(&m, &mem, dir, &plain);
    if (st == Q3_OK) {
        st = check_skipped(&m, load);
        q3_model_close(&m);
    }
    q3_arena_destroy(&mem);
    return st;
}

static q3_status weight_bytes(uint64_t *out, const char *dir)
{
    q3_weights *w;
    *out = 0;
    Q3_TRY(q3_weights_open(&w, dir));
    for (int64_t i = 0; i < q3_weights_count(w); i++)
        *out += q3_weights_at(w, i)->bytes;
    q3_weights_close(w);
    return Q3_OK;
}

static q3_status write_dir(const q3_out_dir *dir, const char *from, const q3_load_options *load)
{
    uint64_t before, after = 0;
    Q3_TRY(weight_bytes(&before, from));
    Q3_TRY(q3_out_dir_begin(dir));
    q3_status st = q3_model_quantize(from, dir->tmp, load);
    st = st ? st : weight_bytes(&after, dir->tmp);
    Q3_TRY(q3_out_dir_end(dir, st));
    q3_info("%s: weights of %s became %s", dir->to, q3_bytes(before), q3_bytes(after));
    return Q3_OK;
}

static q3_status quantize(const q3_options *o, q3_arena *mem)
{
    const char *from, *out;
    q3_load_options load = { 0 };
    q3_out_dir dir;
    Q3_TRY(q3_options_need(&from, o, "model"));
    Q3_TRY(q3_options_need(&out, o, "out"));
    Q3_TRY(read_settings(&load, o, mem));
    Q3_TRY(q3_out_dir_choose(&dir, mem, out));
    Q3_TRY(q3_hub_place(&from, mem, from, NULL));
    Q3_TRY(check_model(from, &load));
    if (strncmp(q3_options_get(o, "device"), "cuda", 4) == 0)
        return q3_fail(Q3_ERR_USAGE,
                       "--device is \"%.60s\"; quantize works on the CPU alone: use auto or cpu",
                       q3_options_get(o, "device"));
    Q3_TRY(q3_options_start(o));
    Q3_TRY(write_dir(&dir, from, &load));
    printf("%s\n", dir.to);
    return Q3_OK;
}

static q3_status run(const q3_options *o)
{
    q3_arena mem;
    Q3_TRY(q3_arena_create(&mem, "settings", 16u << 20));
    q3_status st = quantize(o, &mem);
    q3_arena_destroy(&mem);
    return st;
}

const q3_command q3_command_quantize = {
    .name = "quantize",
    .summary = "write a model directory with its linear layers in 4 or 8 bits",
    .usage = "--model DIR --out DIR [options]",
    .example = "quantize --model models/qwen3-vl --out models/qwen3-vl-nf4",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
