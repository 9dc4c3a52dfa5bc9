/* train/wandb.h - an offline run of Weights & Biases, as its clients write one and `wandb sync` uploads it.
 *
 * The file is <root>/wandb/offline-run-<local time>-<id>/run-<id>.wandb: the bytes ":W&B" e1 be 00, then
 * protobuf messages (wandb_internal.proto, Record) in LevelDB's log format, with another checksum:
 *
 *   block    32768 bytes; fewer than 7 left of one are zeros
 *   piece    u32 crc-32 (zlib's) of type and data, u16 length, u8 type (1 whole, 2 first, 3 middle, 4 last), data
 *
 * A header, the run with its config, and the axis of its charts (train/global_step); for each log call the
 * summary so far and a line of history; an exit record. _step counts the log calls, as the client does for
 * transformers. Each call is written to the file at once (train/kept_file.h), so that a run which is killed
 * leaves all it has logged.
 *
 * wandb-run.json in the run's directory keeps id and start. A resumed run has both again, and so the same
 * directory, which is made anew: first come the lines that metrics.jsonl has kept, all with the time of
 * resuming. The client sends a file from its beginning, over what the server has of that id, and cannot take
 * lines back; a second file of the id would leave there what lies behind the checkpoint.
 *
 * From the environment, as the client: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME (else the name of the run's
 * directory), WANDB_RUN_ID (else drawn), WANDB_DIR (the root; else the run's directory), WANDB_MODE.
 */
#ifndef Q3_TRAIN_WANDB_H
#define Q3_TRAIN_WANDB_H

#include "train/logger.h"

extern const q3_view_kind q3_wandb;

/* Whether the environment is one that the client takes. Error: Q3_ERR_USAGE. */
q3_status q3_wandb_check(void);

bool q3_wandb_disabled(void); /* by WANDB_MODE */

/* Appends a message in pieces, for a place `offset` bytes from the file's beginning. */
void q3_wandb_frame(q3_text *out, size_t offset, const char *message, size_t n);

/* A HistoryRecord, or a SummaryRecord with the same values: the log call is number `count` of a run that
 * began at `start`, seconds since 1970. */
void q3_wandb_history(q3_text *out, const q3_log_call *call, int64_t count, double start);
void q3_wandb_summary(q3_text *out, const q3_log_call *call, int64_t count, double start);

#endif
