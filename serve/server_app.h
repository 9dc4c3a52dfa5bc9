/* serve/server_app.h - what the faces of the server share: the model and its service, defaults, limits,
 * policies.
 *
 * The server may listen before the model has been loaded; faces then say so and refuse.
 */
#ifndef Q3_SERVE_SERVER_APP_H
#define Q3_SERVE_SERVER_APP_H

#include <stdatomic.h>

#include "serve/fetch_image.h"
#include "serve/server.h"
#include "serve/service.h"

typedef struct q3_cog q3_cog; /* serve/api_cog.h */

typedef struct q3_app {
    atomic_bool ready;   /* all below but settings may be used */
    q3_session *session; /* borrowed, like the next two */
    q3_service *service;
    const q3_reranker *reranker; /* NULL: the model cannot rerank, see why_no_reranker */
    char why_no_reranker[256];
    int default_adapter;      /* of requests that name none; -1: the bare model */
    q3_sampling sampling;     /* where a request says nothing */
    bool seeded;              /* its seed was chosen; otherwise each request draws one */
    const char *const *stops; /* [n_stops], of all requests besides their own */
    int n_stops;
    q3_cog *cog; /* NULL: no such face */

    /* Settings. */
    int64_t max_new_tokens;       /* where a request says nothing */
    int64_t max_new_tokens_limit; /* that a request may ask for; 0: any number */
    int max_choices;              /* answers to one prompt; 0: 16 */
    int max_prompts; /* prompts of one request for completions, documents of one for reranking; 0: 1024 */
    q3_picture_policy pictures;
    q3_server *server;             /* for its figures; NULL: none */
    int64_t started_at, loaded_at; /* seconds since 1970 */
} q3_app;

/* The adapter that a request's `model` means: NULL and "" the default one, the model's name the bare
 * model, unless an adapter has the same name, as it has when an adapter's directory was given as model.
 * false: no such model. */
bool q3_app_find_model(int *adapter, const q3_app *app, const char *model);

/* Makes a reranking request from outside safe to parse: its pictures must be data: URLs, where the parser
 * would read files. A string of documents that holds a JSON list becomes that list. Q3_ERR_DATA. */
q3_status q3_app_guard_documents(cJSON *request);

/* The seed of a request that brings none. */
uint64_t q3_app_seed(const q3_app *app);
uint64_t q3_random_seed(void);

/* Pictures on the heap, decoded in the order in which they are named. */
typedef struct q3_pictures {
    q3_image *list; /* [n] */
    int n;
} q3_pictures;
void q3_pictures_free(q3_pictures *p);

#endif
