/* quantize: a model directory in 16 bits to one in 4 bits, in the form of bitsandbytes. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "core/file.h"
#include "core/log.h"
#include "model/checkpoint_files.h"
#include "model/weights.h"

static const q3_option options[] = {
    { .name = "model", .kind = Q3_OPTION_VALUE, .value = "DIR", .help = "the model in 16 bits" },
    { .name = "out",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "new directory; DIR.tmp until it is whole" },
    { .name = "quant-type",
      .kind = Q3_OPTION_VALUE,
      .value = "nf4|fp4",
      .initial = "nf4",
      .help = "the sixteen values" },
    { .name = "no-double-quant", .kind = Q3_OPTION_FLAG, .help = "keep the block scales in 32 bits" },
    { .name = "skip-modules",
      .kind = Q3_OPTION_VALUE,
      .value = "A,B",
      .initial = "model.visual,lm_head",
      .help = "leave in 16 bits" },
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
    static const char *const types[] = { "nf4", "fp4", NULL };
    int type;
    Q3_TRY(q3_options_choice(&type, o, "quant-type", 0, types));
    load->code = type == 0 ? Q3_NF4 : Q3_FP4;
    load->double_quant = !q3_options_given(o, "no-double-quant");
    char *list = q3_arena_strdup(mem, q3_options_get(o, "skip-modules"));
    const char **skip = NULL;
    Q3_TRY(list ? split(&skip, &load->n_skip, list, mem) : Q3_ERR_MEMORY);
    load->skip = skip;
    return Q3_OK;
}

static bool is_empty_or_absent(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT;
    int n = 0;
    for (const struct dirent *e; n == 0 && (e = readdir(dir)) != NULL;)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n == 0;
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

/* Writes to `tmp`, which becomes `to` when all is well and goes away when not. */
static q3_status write_dir(const char *to, const char *tmp, const char *from, const q3_load_options *load)
{
    uint64_t before, after;
    Q3_TRY(weight_bytes(&before, from));
    Q3_TRY(q3_dir_remove(tmp)); // of a run that was interrupted
    q3_status st = q3_dir_create(tmp);
    st = st ? st : q3_model_quantize(from, tmp, load);
    st = st ? st : weight_bytes(&after, tmp);
    st = st ? st : q3_dir_publish(to, tmp);
    if (st == Q3_OK) {
        q3_info("%s: weights of %s became %s", to, q3_bytes(before), q3_bytes(after));
        return Q3_OK;
    }
    char sentence[1024]; // removing may leave another one
    snprintf(sentence, sizeof sentence, "%s", q3_error());
    q3_dir_remove(tmp);
    return q3_fail(st, "%s", sentence);
}

static q3_status quantize(const q3_options *o, q3_arena *mem)
{
    const char *from, *out;
    q3_load_options load = { .load_in_4bit = true };
    Q3_TRY(q3_options_need(&from, o, "model"));
    Q3_TRY(q3_options_need(&out, o, "out"));
    Q3_TRY(read_settings(&load, o, mem));
    char *to = q3_arena_strdup(mem, out);
    for (size_t n = to ? strlen(to) : 0; n > 1 && to[n - 1] == '/'; n--)
        to[n - 1] = 0;
    const char *tmp = to ? q3_arena_printf(mem, "%s.tmp", to) : NULL;
    if (!tmp)
        return Q3_ERR_MEMORY;
    if (!is_empty_or_absent(to))
        return q3_fail(Q3_ERR_USAGE, "--out %s exists and is not an empty directory; name a new one", to);
    Q3_TRY(check_model(from, &load));
    if (strncmp(q3_options_get(o, "device"), "cuda", 4) == 0)
        return q3_fail(Q3_ERR_USAGE, "--device is \"%.60s\"; quantize works on the CPU alone: use auto or cpu",
                       q3_options_get(o, "device"));
    Q3_TRY(q3_options_start(o));
    Q3_TRY(write_dir(to, tmp, from, &load));
    printf("%s\n", to);
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
    .summary = "write a model directory with its linear layers in 4 bits (bitsandbytes' form)",
    .usage = "--model DIR --out DIR [options]",
    .example = "quantize --model models/qwen3-vl --out models/qwen3-vl-nf4",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_ENGINE,
    .run = run,
};
