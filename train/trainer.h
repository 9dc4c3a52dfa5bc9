/* train/trainer.h - a run: the model, what is trained, the data, the optimizer, and how far it has come.
 *
 * setup.c opens it, step.c makes one optimizer step, loop.c runs to the end, checkpoint.c saves and restores. Two
 * lifetimes: `run` and `values` until the end, `step` for the values of a step.
 */
#ifndef Q3_TRAIN_TRAINER_H
#define Q3_TRAIN_TRAINER_H

#include "infer/pictures.h"
#include "model/lora.h"
#include "model/qwen3vl.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/config.h"
#include "train/logger.h"
#include "train/ranks.h"
#include "train/state.h"

/* What one micro-batch adds to its window. */
typedef struct q3_window_part {
    double loss;
    int64_t supervised, tokens;
    q3_status status;
} q3_window_part;

/* Bytes of host and device that a run fills before its first step. */
typedef struct q3_run_bytes {
    size_t weights;   /* the frozen base, without what stays in the mapped files */
    size_t trainable; /* adapters, or the weights that are trained; with their shadow */
    size_t optimizer; /* its states, and what clipping needs */
} q3_run_bytes;

typedef struct q3_trainer {
    q3_config *config;  /* borrowed */
    q3_cuda *cuda;      /* the device that computes; NULL: the CPU */
    q3_arena run, step; /* run: on the host; step: on the device */
    q3_arena values;    /* of the run, on the device: parameters, gradients, optimizer states */
    q3_ctx ctx;
    const char *model_dir; /* what model.path means: itself, or where a model of the hub lies */
    q3_model model;
    q3_trainable trainable;
    q3_lora_config lora; /* r 0 when the whole model is tuned */
    q3_tokenizer *tokenizer;
    q3_collator collator;
    q3_dataset *train_data, *eval_data; /* the same pointer when evaluation takes a slice of train */
    int64_t n_train, n_eval;
    q3_pictures *train_pictures,
        *eval_pictures;    /* features that are kept; NULL: none. One where the data are one */
    const char *train_place; /* of the training data: its path, or the directory that its name on the hub
                                means */
    const char *eval_name;   /* the split's name for messages */
    q3_forward forward;
    q3_params params;
    q3_clip clip;
    q3_optimizer *optimizer;
    q3_schedule schedule;
    q3_grad_tree tree;
    q3_ranks ranks;
    q3_window_part *parts; /* [accumulation] of the window */
    q3_profile *profile;   /* borrowed; where the time of steps is counted; NULL: nowhere */
    int64_t per_epoch;     /* L: micro-batches of an epoch */
    int64_t updates;       /* U: optimizer steps of an epoch */
    int64_t total_steps;   /* T */
    int64_t accumulation;
    q3_state state;
    const char *output_dir; /* borrowed */
    q3_logger *logger;      /* of the first rank, while it runs */
    /* of this process, for the summary */
    int64_t tokens;   /* trained tokens, pictures included */
    double seconds;   /* spent in steps */
    size_t step_plan; /* bytes of the step arena by the dry run */
    q3_run_bytes bytes;
    int64_t text_params, vision_params, trainable_text, trainable_vision;
} q3_trainer;

/* Loads everything the config names and checks it against each other; `group` (NULL: none) trains together. On failure
 * everything is released. */
q3_status q3_trainer_open(q3_trainer *out, q3_config *config, q3_group *group);
/* The same, but weights, adapters and optimizer are laid out only: no value is read or made, and nothing can be computed.
 * For a plan. */
q3_status q3_trainer_open_dry(q3_trainer *out, q3_config *config);
/* The same without what training needs: model, adapter (lora.init_adapter, as its own file describes it), collator and
 * evaluation data. */
q3_status q3_trainer_open_eval(q3_trainer *out, q3_config *config);
/* Data sets and collator alone, to look at samples: no weights, no device. */
q3_status q3_trainer_open_data(q3_trainer *out, q3_config *config);
void q3_trainer_close(q3_trainer *t);

/* Picks gradient checkpointing by dry runs over the largest batch, and refuses what does not fit. */
q3_status q3_trainer_plan(q3_trainer *t);

typedef struct q3_step_result {
    double loss;          /* of the window */
    double grad_norm;     /* before clipping */
    double learning_rate; /* used */
    int64_t tokens;
} q3_step_result;

/* One optimizer step: forward and backward of a window, clip, update. Advances state.step and state.batch. The loader
 * must stand at state.batch. */
q3_status q3_train_step(q3_step_result *out, q3_trainer *t, q3_loader *loader);

/* Parameters of the model, adapters included. */
int64_t q3_trainer_parameters(const q3_trainer *t);

/* Micro-batches of the window that begins at batch number `batch`. */
int64_t q3_window_size(const q3_trainer *t, int64_t batch);

#endif
