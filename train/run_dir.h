/* train/run_dir.h - the directory of a run: which one, what is in it, and its metrics.jsonl.
 *
 * A directory named on the command line must be new or empty, unless the run resumes or --overwrite is given. A directory
 * that comes from the config gives way to the next free name (runs/sarcasm-2). Resuming takes the newest of these. A
 * checkpoint may be continued in another directory, which must hold no run of its own.
 */
#ifndef Q3_TRAIN_RUN_DIR_H
#define Q3_TRAIN_RUN_DIR_H

#include "core/group.h"
#include "core/json.h"

typedef struct q3_run_options {
    const char *
        resume; /* NULL: do not; "auto": the newest whole checkpoint, if any; else a checkpoint's directory */
    bool overwrite;  /* remove what is in the directory */
    bool named;      /* the directory was named on the command line */
    bool profile;    /* measure where the time of steps goes */
    q3_group *group; /* that trains together; NULL: this process alone */
} q3_run_options;

/* The directory of the run (heap) and the checkpoint to continue from (heap, NULL: begin at the beginning). Nothing is
 * created or removed. Error: Q3_ERR_USAGE. */
q3_status q3_run_dir_choose(char **dir, char **checkpoint, const char *output_dir,
                            const q3_run_options *options);

/* Makes the directory, empties it when asked, and proves that it can be written. */
q3_status q3_run_dir_prepare(const char *dir, bool overwrite);

/* Makes `dir` the place where the run of `checkpoint` goes on: when that lies elsewhere, its best checkpoint,
 * metrics.jsonl, event files and eval/ are copied. */
q3_status q3_run_dir_adopt(const char *dir, const char *checkpoint, int64_t best_step);

/* True when the run in `dir` has written its last file. */
bool q3_run_dir_finished(const char *dir);

/* Appends text to dir/metrics.jsonl; `sync` forces it to the disk. */
q3_status q3_metrics_append(const char *dir, const char *text, size_t size, bool sync);

/* Drops the lines that lie behind `step`, and those of the evaluation after training; where the step is `unanswered` also
 * those of its answers. */
q3_status q3_metrics_cut(const char *dir, int64_t step, bool unanswered);

#endif
