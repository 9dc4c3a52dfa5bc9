/* infer/mirror.h - the engines of other ranks do what the first rank's engine does (model/split.h).
 *
 * The first rank runs the command: it makes sequences, chooses tokens, decides who is fed. What it does to its engine is
 * written down and sent with the next pass; the other ranks do the same to theirs, in the same order, so that all caches
 * have the same blocks. Followers never see text, requests or draws.
 */
#ifndef Q3_INFER_MIRROR_H
#define Q3_INFER_MIRROR_H

#include "core/group.h"
#include "infer/engine.h"

typedef struct q3_mirror q3_mirror;

typedef enum q3_mirror_what {
    Q3_MIRROR_CREATE = 1,
    Q3_MIRROR_FORK,
    Q3_MIRROR_DESTROY,
    Q3_MIRROR_PUSH,
    Q3_MIRROR_TRUNCATE,
    Q3_MIRROR_EVICT,
    Q3_MIRROR_RESERVE,
    Q3_MIRROR_ADVANCE,
    Q3_MIRROR_PASS,
} q3_mirror_what;

/* The first rank's, of a group of several; destroying it ends the others' q3_mirror_follow. `width` is that of a patch. */
q3_status q3_mirror_open(q3_mirror **out, q3_group *group, int64_t patch_width);
void q3_mirror_close(q3_mirror *m); /* NULL is fine */

/* What the engine has done; nothing for NULL. Sequences go by their numbers. */
void q3_mirror_create(q3_mirror *m, uint64_t number, const q3_prompt *prompt, int64_t limit);
void q3_mirror_fork(q3_mirror *m, uint64_t number, uint64_t parent);
void q3_mirror_push(q3_mirror *m, uint64_t number, const int32_t *ids, int64_t n);
void q3_mirror_note(q3_mirror *m, q3_mirror_what what, uint64_t number, int64_t n);

/* What is now done together: sends all that was written down, and the pass. Error: Q3_ERR_MEMORY. */
q3_status q3_mirror_pass(q3_mirror *m, const q3_feed *feeds, int n_feeds);

/* Another rank's work: does what the first says until it closes its mirror. */
q3_status q3_mirror_follow(q3_engine *e, q3_group *group);

#endif
