/* config show | check | keys: the effective settings and where they come from, whether they are sound, and
 * the manual. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "core/log.h"
#include "data/dataset.h"
#include "data/hub.h"

static const q3_option options[] = {
    { .name = "json", .kind = Q3_OPTION_FLAG, .help = "show: the effective settings as a config file" },
};

static q3_status show(const q3_options *o)
{
    q3_config cfg;
    Q3_TRY(q3_options_config_unchecked(&cfg, o));
    q3_text text = { 0 };
    if (q3_options_given(o, "json"))
        q3_config_json(&text, &cfg);
    else
        q3_config_print(&text, &cfg);
    q3_status st = q3_options_print(&text);
    if (st == Q3_OK)
        st = q3_config_check(&cfg);
    q3_config_free(&cfg);
    return st;
}

/* 1 when the file is not there, and it is told. */
static int warn_missing(const q3_config *cfg, int id, const char *path)
{
    char where[4200];
    q3_config_where(where, sizeof where, cfg, id);
    if (!path || q3_dataset_check(path) == Q3_OK)
        return 0;
    char missing[4400];
    snprintf(missing, sizeof missing, "%s", q3_error());
    q3_hub_repo repo;
    bool model = id == Q3_KEY_model_path || id == Q3_KEY_lora_init_adapter;
    if (model && q3_hub_parse(&repo, path, Q3_HUB_MODEL)) {
        q3_info("%s\"%s\": %s is no directory here; its first use looks for it on the hub", where,
                q3_config_table[id].name, path);
        return 0;
    }
    q3_warn("%s\"%s\": %s", where, q3_config_table[id].name, missing);
    return 1;
}

static q3_status check(const q3_options *o)
{
    const char *file;
    Q3_TRY(q3_options_need(&file, o, "config"));
    q3_config cfg;
    Q3_TRY(q3_options_config(&cfg, o));
    int missing = warn_missing(&cfg, Q3_KEY_model_path, cfg.model.path);
    missing += warn_missing(&cfg, Q3_KEY_data_train, cfg.data.train);
    missing += warn_missing(&cfg, Q3_KEY_data_eval, cfg.data.eval);
    missing += warn_missing(&cfg, Q3_KEY_lora_init_adapter, cfg.lora.init_adapter);
    const char *prompt;
    q3_status st = q3_config_system_prompt(&prompt, &cfg);
    if (st == Q3_OK)
        printf("%s: %s\n", file, missing ? "sound, but files are missing" : "fine");
    q3_config_free(&cfg);
    return st;
}

static q3_status keys(const q3_options *o)
{
    q3_text text = { 0 };
    const char *section = o->n_words > 1 ? o->words[1] : NULL;
    q3_config_manual(&text, section);
    if (section && !text.size && !text.failed)
        return q3_fail(Q3_ERR_USAGE, "unknown section \"%.60s\"; `qwen3-sft config keys` lists all", section);
    return q3_options_print(&text);
}

static q3_status run(const q3_options *o)
{
    static const char *const names[] = { "show", "check", "keys" };
    static q3_status (*const actions[])(const q3_options *) = { show, check, keys };
    const char *word = o->n_words ? o->words[0] : "";
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, names[i]) != 0)
            continue;
        if (o->n_words > 1 && i < 2)
            return q3_fail(Q3_ERR_USAGE, "unexpected word \"%.60s\" (see qwen3-sft config --help)",
                           o->words[1]);
        return actions[i](o);
    }
    if (!*word)
        return q3_fail(Q3_ERR_USAGE,
                       "config needs a word: show, check or keys (see qwen3-sft config --help)");
    const char *nearest = q3_nearest(word, names, 3);
    return q3_fail(Q3_ERR_USAGE, "config \"%.60s\": write config %s (see qwen3-sft config --help)", word,
                   nearest ? nearest : "show, check or keys");
}

const q3_command q3_command_config = {
    .name = "config",
    .summary = "show a config with the origin of each value, check it, or list all keys",
    .usage = "show|check|keys [SECTION] [options] [key.sub=value ...]",
    .example = "config show --config configs/sarcasm.json train.max_steps=60",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG,
    .max_words = 2,
    .run = run,
};
