/* data/hub_download.h - brings files of a repository from the hub into the cache.
 *
 * A large file grows as blobs/<sha256>.incomplete, under a lock, and goes on where it stopped, in this
 * process or a later one; a small one as a file of this process's own. Either becomes a blob only when it has
 * the right size and, where its name is a sha256, the right contents.
 */
#ifndef Q3_DATA_HUB_DOWNLOAD_H
#define Q3_DATA_HUB_DOWNLOAD_H

#include "data/hub_http.h"

typedef struct q3_hub_file {
    char *path;    /* in the repository */
    char *blob;    /* its name among the blobs; NULL: the hub does not say */
    int64_t size;  /* bytes; -1: the hub does not say */
    int64_t there; /* bytes of it that a broken transfer has left */
    bool here;     /* in the snapshot */
} q3_hub_file;

/* The wanted files of a commit. */
typedef struct q3_hub_listing {
    char commit[Q3_HUB_COMMIT + 1];
    q3_hub_file *files; /* [n] */
    int n, capacity;
    int n_missing;         /* of them, not in the snapshot */
    int64_t missing_bytes; /* that are to be fetched for these */
} q3_hub_listing;

/* Asks the hub for the commit of the revision and for its files, and looks which are in `folder`. */
q3_status q3_hub_list(q3_hub_listing *out, q3_hub_http *h, const q3_hub_repo *repo, const q3_hub_wish *wish,
                      const char *folder);
void q3_hub_listing_free(q3_hub_listing *l);

/* Brings what is missing, then writes the reference. Tells on stderr what and how much. */
q3_status q3_hub_download(const q3_hub_listing *l, q3_hub_http *h, const q3_hub_repo *repo, const char *root,
                          const char *folder);

#endif
