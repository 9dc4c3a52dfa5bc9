/* tests/support/hub.h - a small hub on 127.0.0.1 that can be told to misbehave, and the host its large files
 * lie on.
 *
 * One commit of one model "org/model" and one data set "org/data", both with the same files. Lists come in
 * pages of one file. HF_ENDPOINT and HF_TOKEN are set for it, and every wait that it could ask for is 0 s.
 */
#ifndef Q3_TESTS_SUPPORT_HUB_H
#define Q3_TESTS_SUPPORT_HUB_H

#include "tests/support/http.h"

#define T_HUB_COMMIT "0123456789abcdef0123456789abcdef01234567"

enum { T_HUB_FILES = 16 };

typedef struct t_hub_file {
    const char *path;
    char *data;
    size_t size;
    bool large;    /* named by sha256, and lying on the other host where there is one */
    char blob[65]; /* its etag */
} t_hub_file;

typedef struct t_hub {
    t_hub_file files[T_HUB_FILES];
    int n;
    /* how it misbehaves; 0: not */
    int status; /* of every answer, with `code` as X-Error-Code */
    const char *code;
    int busy;          /* answers of status 429 that come first */
    int64_t cut;       /* bytes after which the next body of a large file breaks off */
    bool whole;        /* parts are never sent */
    int64_t told_more; /* bytes that a large file has less than it is said to have */
    bool spoiled;      /* a byte of large files is wrong */
    bool elsewhere;    /* large files lie on the other host */
    /* what it has seen */
    int requests;  /* on both hosts */
    int bodies;    /* GETs of large files */
    int64_t range; /* where the last of them began */
    int tokens;    /* requests with a token, on the hub */
    int leaks;     /* on the other host */
    q3_listener *hub, *other;
} t_hub;

void t_hub_start(t_hub *h);
void t_hub_stop(t_hub *h);

/* Adds a file; the data are copied. */
t_hub_file *t_hub_add(t_hub *h, const char *path, const void *data, size_t size, bool large);

/* Behaves again, has seen nothing, and holds no files. */
void t_hub_clear(t_hub *h);

#endif
