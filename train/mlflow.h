/* train/mlflow.h - a run on an MLflow server, by its REST interface 2.0.
 *
 * A thread of its own speaks to the server: a training only puts values into a queue and waits for nobody,
 * however slow the server is. Server away: one warning; values are kept (100,000 of them, later ones are left
 * out) and sent when it is back, which is tried every ten seconds; at the end of the run once more, for at
 * most 30 seconds. What a server refuses for good (status 400) is told and left out.
 *
 * From the environment, as MLflow's own client: MLFLOW_TRACKING_URI (needed), MLFLOW_EXPERIMENT_NAME or
 * MLFLOW_EXPERIMENT_ID (else the experiment 0, Default), MLFLOW_RUN_NAME (else the name of the run's
 * directory), MLFLOW_RUN_ID (go on with that run), MLFLOW_TRACKING_USERNAME and _PASSWORD, or
 * MLFLOW_TRACKING_TOKEN. Parameters are the keys of the config, metrics the numbers of metrics.jsonl by their
 * names there, as transformers sends them.
 */
#ifndef Q3_TRAIN_MLFLOW_H
#define Q3_TRAIN_MLFLOW_H

#include "train/logger.h"

extern const q3_view_kind q3_mlflow;

/* Whether the environment names a server. Error: Q3_ERR_USAGE. */
q3_status q3_mlflow_check(void);

#endif
