/* model/lora.h - LoRA adapters (Hu et al., arXiv:2106.09685) as PEFT 0.21 defines, names, initializes and
 * saves them.
 *
 * An adapter is two f32 matrices on a projection: y = x w' + b + s drop(x) A' B', A [r, C], B [N, r], s =
 * alpha / r or alpha / sqrt(r). All of them lie in one flat buffer (model/trainable.h), A before B, in module
 * order: vision tower first. A directory holds adapter_config.json and adapter_model.safetensors.
 */
#ifndef Q3_MODEL_LORA_H
#define Q3_MODEL_LORA_H

#include "model/network.h"
#include "model/trainable.h"

typedef struct q3_lora_config {
    int r;
    double alpha;
    double dropout;
    bool use_rslora;
    const char *const *targets; /* module suffixes, or one regular expression, or "all-linear" */
    int n_targets;
    bool targets_is_pattern; /* targets[0] is "all-linear", or a regular expression over whole module paths:
                                POSIX extended, with Python's (?: and \d accepted */
    const char *base;        /* written as base_model_name_or_path */
    const char *revision;    /* of a base on the hub; NULL: not said */
} q3_lora_config;

/* New adapters: A uniform in +-1/sqrt(C) from torch's generator under `seed`, drawn as PEFT draws them (each
 * module spends a first A and a B before the A that stays), B zero. Error Q3_ERR_USAGE: no module matches. */
q3_status q3_lora_create(q3_trainable *out, q3_model *model, q3_arena *mem, const q3_lora_config *config,
                         uint64_t seed);

/* adapter_config.json alone; strings live in `mem`. Error Q3_ERR_MODEL. */
q3_status q3_lora_config_load(q3_lora_config *out, q3_arena *mem, const char *dir);

/* Adapters from a PEFT directory. Every tensor must find its module; `config` receives what the file says, in
 * `mem`. Names with and without "language_model." are accepted. Error Q3_ERR_MODEL. */
q3_status q3_lora_load(q3_trainable *out, q3_lora_config *config, q3_model *model, q3_arena *mem,
                       const char *dir);

/* Writes both files into the directory, which must exist. */
q3_status q3_lora_save(const q3_trainable *lora, const q3_lora_config *config, const char *dir);

/* w [N, C] += scale B A, all on the host, as PEFT's merge_and_unload does it: a [r, C], b [N, r], f32. */
void q3_lora_add(float *w, const q3_tensor *a, const q3_tensor *b, float scale);

/* Does PEFT adapt this module path? For tests and for the summary. */
q3_status q3_lora_matches(bool *out, const q3_lora_config *config, const char *path);

#endif
