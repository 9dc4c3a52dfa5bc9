/* inspect: what a directory or file is and whether it is whole; what a sample of a config becomes. */
#include <string.h>

#include "cli/inspect.h"
#include "cli/options.h"
#include "cli/show_row.h"
#include "collate/pack.h"
#include "core/file.h"
#include "data/hub.h"
#include "train/trainer.h"

static const q3_option options[] = {
    { .name = "tensors", .kind = Q3_OPTION_FLAG, .help = "every tensor: name, type, shape, bytes" },
    { .name = "sample",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "the N-th sample of --config's data, from 1" },
    { .name = "split",
      .kind = Q3_OPTION_VALUE,
      .value = "train|eval",
      .initial = "train",
      .help = "which data set the sample is of" },
    { .name = "all", .kind = Q3_OPTION_FLAG, .help = "lists whole, not only the first 12 lines" },
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "one JSON object" },
};

/* Kinds are told apart by a file that the others lack, in this order. */
static const struct {
    const char *kind, *mark;
    q3_status (*look)(q3_facts *f, const char *path, bool tensors);
} kinds[] = {
    { "checkpoint", "trainer_state.json", q3_inspect_checkpoint },
    { "run", "metrics.jsonl", q3_inspect_run },
    { "adapter", "adapter_config.json", q3_inspect_adapter },
    { "model", "config.json", q3_inspect_model },
};

static q3_status look_at(q3_facts *f, const char *path, const char *kind,
                         q3_status (*look)(q3_facts *, const char *, bool), bool tensors)
{
    q3_fact_text(f, "kind", "%s", kind);
    q3_fact_text(f, "path", "%s", path);
    return look(f, path, tensors);
}

static q3_status look_at_dir(q3_facts *f, const char *dir, bool tensors)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char *mark = q3_path_join(dir, kinds[i].mark);
        if (!mark)
            return Q3_ERR_MEMORY;
        bool is = q3_file_exists(mark);
        q3_free(mark);
        if (is)
            return look_at(f, dir, kinds[i].kind, kinds[i].look, tensors);
    }
    return q3_fail(Q3_ERR_MODEL,
                   "%s: no model, adapter, checkpoint or run: it has neither config.json nor "
                   "adapter_config.json, trainer_state.json or metrics.jsonl",
                   dir);
}

static q3_status look_at_thing(q3_facts *f, const char *what, bool tensors)
{
    char *dir;
    const char *dot = strrchr(q3_path_base(what), '.');
    if (q3_file_exists(what) && dot && strcmp(dot, ".safetensors") == 0)
        return look_at(f, what, "safetensors", q3_inspect_file, tensors);
    if (q3_file_exists(what))
        return q3_fail(Q3_ERR_USAGE, "%s: of files only .safetensors are looked at", what);
    Q3_TRY(q3_hub_resolve(&dir, what, NULL));
    q3_status st = q3_dir_exists(dir) ? look_at_dir(f, dir, tensors)
                                      : q3_fail(Q3_ERR_MODEL, "%s: there is no such file or directory", dir);
    q3_free(dir);
    return st;
}

static q3_status inspect_thing(const q3_options *o)
{
    q3_facts f = { .json = q3_options_given(o, "json"), .all = q3_options_given(o, "all") };
    q3_status st = look_at_thing(&f, o->words[0], q3_options_given(o, "tensors"));
    if (st == Q3_OK)
        return q3_facts_print(&f, o->words[0]);
    q3_facts_free(&f);
    return st;
}

/* ---- a sample ---- */

static q3_status show_sample(q3_text *out, const q3_trainer *t, q3_arena *mem, const q3_sample *s, bool json)
{
    q3_row row;
    q3_batch batch;
    const q3_row *rows[] = { &row };
    Q3_TRY(q3_collate_row(&row, mem, &t->collator, s, true));
    if (row.skipped)
        return q3_fail(Q3_ERR_DATA, "%s: the sample is longer than collator.max_length and left out",
                       s->where);
    Q3_TRY(q3_pack(&batch, mem, &t->collator, rows, 1));
    return (json ? q3_show_row_json : q3_show_row)(out, &t->collator, s, &row, batch.positions);
}

static q3_status find_sample(q3_sample *out, const q3_trainer *t, const q3_options *o)
{
    static const char *const sets[] = { "train", "eval", NULL };
    int set;
    int64_t number;
    Q3_TRY(q3_options_choice(&set, o, "split", 0, sets));
    const q3_dataset *data = set ? t->eval_data : t->train_data;
    Q3_TRY(q3_options_int(&number, o, "sample", 1, 1, q3_dataset_size(data)));
    return q3_dataset_get(out, data, number - 1);
}

static q3_status inspect_sample(const q3_trainer *t, const q3_options *o)
{
    q3_sample s;
    q3_arena mem;
    q3_text text = { 0 };
    Q3_TRY(find_sample(&s, t, o));
    q3_status st = q3_arena_create(&mem, "sample", 2 * q3_collate_bytes(&t->collator));
    if (st == Q3_OK) {
        st = show_sample(&text, t, &mem, &s, q3_options_given(o, "json"));
        q3_arena_destroy(&mem);
    }
    q3_sample_free(&s);
    if (st == Q3_OK)
        return q3_options_print(&text);
    q3_text_free(&text);
    return st;
}

static q3_status inspect_data(const q3_options *o)
{
    q3_config config;
    q3_trainer t;
    const char *sample, *file;
    Q3_TRY(q3_options_need(&file, o, "config"));
    Q3_TRY(q3_options_need(&sample, o, "sample"));
    Q3_TRY(q3_options_config(&config, o));
    q3_status st = q3_trainer_open_data(&t, &config);
    if (st == Q3_OK) {
        st = inspect_sample(&t, o);
        q3_trainer_close(&t);
    }
    q3_config_free(&config);
    return st;
}

static q3_status run(const q3_options *o)
{
    bool data = q3_options_given(o, "config") || q3_options_given(o, "sample");
    if (data && o->n_words)
        return q3_fail(Q3_ERR_USAGE, "%s and --config exclude each other: look at one of them", o->words[0]);
    if (!data && !o->n_words)
        return q3_fail(Q3_ERR_USAGE,
                       "inspect needs a directory, a .safetensors file, or --config FILE --sample N "
                       "(see qwen3-sft inspect --help)");
    return data ? inspect_data(o) : inspect_thing(o);
}

const q3_command q3_command_inspect = {
    .name = "inspect",
    .summary = "look at a model, an adapter, a checkpoint, a run, a file of tensors, or a sample",
    .usage = "WHAT | --config FILE --sample N [key.sub=value ...]",
    .example = "inspect runs/sarcasm",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_HUB,
    .max_words = 1,
    .run = run,
};
