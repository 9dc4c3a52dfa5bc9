/* data/hub.h - models and data sets by their names on the Hugging Face hub.
 *
 * Where a directory of a model is asked for, "org/name" or "org/name@revision" serves too. In this order it
 * means: the directory of that name, if there is one; a whole snapshot in the cache (data/hub_cache.h), for
 * which the network is not asked; what is then fetched from the hub, unless the network is switched off.
 * docs/hub.md tells users.
 */
#ifndef Q3_DATA_HUB_H
#define Q3_DATA_HUB_H

#include "data/hub_cache.h"

typedef struct q3_hub_options {
    q3_hub_kind kind;
    q3_hub_wish wish;
    const char *revision; /* instead of that in the name; NULL: as the name says, else main */
    bool refresh;         /* asks for the newest commit even where a whole snapshot is there */
} q3_hub_options;

/* For the whole process, over what the environment says: --cache-dir (borrowed; NULL: none) and --offline. */
void q3_hub_set(const char *cache_dir, bool offline);

/* In a new string, the directory that a name means; what is no name of the hub comes back as it is. `o`
 * NULL: a whole model. Errors: Q3_ERR_NETWORK where the network fails or is off and needed, Q3_ERR_FAIL
 * where the hub refuses who asks, Q3_ERR_MODEL or Q3_ERR_DATA where the hub does not have it,
 * Q3_ERR_USAGE. */
q3_status q3_hub_resolve(char **dir, const char *name_or_dir, const q3_hub_options *o);

/* The same for a name alone, whatever directories there are. */
q3_status q3_hub_fetch(char **dir, const char *name, const q3_hub_options *o);

/* As q3_hub_resolve, in memory of `mem`, for paths that live as long as it. */
q3_status q3_hub_place(const char **dir, q3_arena *mem, const char *name_or_dir, const q3_hub_options *o);

/* What fetching a name would bring: a line for each file with its bytes, "here" or "missing", and its
 * path. */
q3_status q3_hub_preview(q3_text *out, const char *name, const q3_hub_options *o);

#endif
