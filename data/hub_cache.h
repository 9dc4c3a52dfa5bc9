/* data/hub_cache.h - the Hugging Face cache on disk, shared with huggingface_hub both ways.
 *
 *   <root>/models--Org--Name/
 *       refs/<revision>            the commit, 40 hexadecimal digits
 *       blobs/<etag>               contents; named by git's sha1 of small files, the sha256 of large ones
 *       snapshots/<commit>/<path>  links to ../../blobs/<etag>, relative
 *       trees/<commit>.json        what the commit holds, where huggingface_hub has listed it
 *   <root>/.locks/models--Org--Name/<etag>.lock       held while a blob is made
 *
 * Nothing here asks the network.
 */
#ifndef Q3_DATA_HUB_CACHE_H
#define Q3_DATA_HUB_CACHE_H

#include "core/json.h"

typedef enum q3_hub_kind { Q3_HUB_MODEL, Q3_HUB_DATASET } q3_hub_kind;

enum { Q3_HUB_COMMIT = 40, Q3_HUB_ID_BYTES = 200, Q3_HUB_REVISION_BYTES = 256 };

/* What a name of the hub says. */
typedef struct q3_hub_repo {
    q3_hub_kind kind;
    char id[Q3_HUB_ID_BYTES];             /* "Qwen/Qwen3-VL-8B-Instruct" */
    char revision[Q3_HUB_REVISION_BYTES]; /* branch, tag or commit */
    bool pinned;                          /* it was asked for; otherwise it is main */
} q3_hub_repo;

/* Which of a repository's files are wanted. */
typedef struct q3_hub_wish {
    const char *const
        *include; /* [n_include] patterns, in which * matches slashes too; none: what a model needs,
                                   and everything of a data set */
    int n_include;
    bool light; /* a model without its weights */
} q3_hub_wish;

/* "org/name" or "org/name@revision"; false when the text is no name of the hub. */
bool q3_hub_parse(q3_hub_repo *out, const char *text, q3_hub_kind kind);

/* Whether a revision may stand in refs/ and in an address: no empty or dotted parts, no control
 * characters. */
bool q3_hub_revision_sound(const char *revision);

/* Whether a path of a repository stays below the directory that it is put in. */
bool q3_hub_path_sound(const char *path);

bool q3_hub_is_commit(const char *revision);

/* True for the words that switch a variable of the environment on: 1, ON, YES, TRUE. */
bool q3_hub_switched_on(const char *name);

/* In a new string: the root of the cache, ~ and $VARIABLES expanded: `given` (--cache-dir), else
 * HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
 * ~/.cache/huggingface/hub. */
q3_status q3_hub_root(char **out, const char *given);

/* The file that holds the token of `hf auth login`: HF_TOKEN_PATH, else HF_HOME/token. */
q3_status q3_hub_token_path(char **out);

/* <root>/models--Org--Name in a new string. */
char *q3_hub_folder(const char *root, const q3_hub_repo *repo);

/* <folder>/snapshots/<commit> in a new string. */
char *q3_hub_snapshot(const char *folder, const char *commit);

/* The commit that the revision means here; false when it is not known. */
bool q3_hub_commit_of(char commit[Q3_HUB_COMMIT + 1], const char *folder, const q3_hub_repo *repo);

/* The commit of the newest snapshot that is whole; false when there is none. */
bool q3_hub_any_commit(char commit[Q3_HUB_COMMIT + 1], const char *folder, const q3_hub_repo *repo,
                       const q3_hub_wish *wish);

/* Whether the wish covers this path of a repository. */
bool q3_hub_wants(const q3_hub_wish *wish, q3_hub_kind kind, const char *path);

typedef enum q3_hub_state {
    Q3_HUB_WHOLE,
    Q3_HUB_USABLE, /* what nothing can do without is there; what most commands need is not */
    Q3_HUB_PARTIAL
} q3_hub_state;

/* What is there of a snapshot; `missing` gets the first file that is not ("" when all are). A model is
 * known by its config.json, the files of its index and its tokenizer; where the commit has been listed, by
 * that list. */
q3_hub_state q3_hub_look(char *missing, size_t missing_bytes, const char *folder, const char *commit,
                         const q3_hub_repo *repo, const q3_hub_wish *wish);

/* Writes refs/<revision>; nothing to do where the revision is the commit. */
q3_status q3_hub_write_ref(const char *folder, const q3_hub_repo *repo, const char *commit);

/* Marks the root as a cache, so that backups may leave it out (bford.info/cachedir). What fails does not
 * matter. */
void q3_hub_tag_root(const char *root);

/* Makes snapshots/<commit>/<path> mean blobs/<etag>. */
q3_status q3_hub_link(const char *folder, const char *commit, const char *path, const char *etag);

#endif
