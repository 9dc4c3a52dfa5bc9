/* train/residency.h - what lies on a CUDA device beside parameters and the step: set aside before the first step, so that
 * nothing is allocated in one. On the CPU there is nothing to do.
 *
 * Products convert weights that are not stored in the activations' type (kernels/gemm.h): into scratch each time, or once
 * into copies that stay, which gives the same bits and costs two bytes a parameter (model.weight_cache: on, off, auto: as
 * many as fit beside the largest step and the key/value cache of an evaluation). Attention through cuDNN wants workspace.
 */
#ifndef Q3_TRAIN_RESIDENCY_H
#define Q3_TRAIN_RESIDENCY_H

#include "train/trainer.h"

/* Scratch and workspace, for samples of up to `tokens` tokens and `patches` patches. Before the step's memory is
 * planned. Error: Q3_ERR_MEMORY. */
q3_status q3_trainer_set_aside(q3_trainer *t, int64_t tokens, int64_t patches);

/* Copies of converted weights, behind the plan. Error: Q3_ERR_MEMORY when all are asked for and do not fit. */
q3_status q3_trainer_cache_weights(q3_trainer *t, int64_t tokens);

#endif
