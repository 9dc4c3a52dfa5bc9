#include "cli/config_files.h"

#include <stdio.h>

#include "core/log.h"
#include "data/dataset.h"
#include "data/hub.h"

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
    if (model ? q3_hub_parse(&repo, path, Q3_HUB_MODEL) : q3_dataset_on_hub(path)) {
        q3_info("%s\"%s\": %s is no directory here; its first use looks for it on the hub", where,
                q3_config_table[id].name, path);
        return 0;
    }
    q3_warn("%s\"%s\": %s", where, q3_config_table[id].name, missing);
    return 1;
}

int q3_config_missing(const q3_config *cfg)
{
    return warn_missing(cfg, Q3_KEY_model_path, cfg->model.path) +
           warn_missing(cfg, Q3_KEY_data_train, cfg->data.train) +
           warn_missing(cfg, Q3_KEY_data_eval, cfg->data.eval) +
           warn_missing(cfg, Q3_KEY_lora_init_adapter, cfg->lora.init_adapter);
}
