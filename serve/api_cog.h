/* serve/api_cog.h - Cog's HTTP contract (cog docs/http.md, v0.22): predictions, synchronous, as a stream,
 * or in the background with webhooks.
 *
 * Each prediction has a thread of its own that takes what the model says, keeps it for those who listen,
 * and tells the webhook; requests only wait for the prediction. So a client may ask again for one that
 * runs (PUT), or listen to it late.
 */
#ifndef Q3_SERVE_API_COG_H
#define Q3_SERVE_API_COG_H

#include "serve/api_cog_schema.h"
#include "serve/server_app.h"

typedef enum q3_webhook_rule { Q3_WEBHOOKS_ANY, Q3_WEBHOOKS_PUBLIC, Q3_WEBHOOKS_OFF } q3_webhook_rule;

typedef struct q3_cog_options {
    q3_cog_task task;
    int max_concurrency;          /* predictions at a time; 0: 1 */
    q3_webhook_rule webhooks;     /* where they may go */
    const char *webhook_token;    /* $WEBHOOK_AUTH_TOKEN; NULL: none */
    double webhook_interval;      /* seconds between two about output; 0: 0.5 */
    void (*shut_down)(void *arg); /* POST /shutdown; NULL: there is no such route */
    void *arg;
} q3_cog_options;

/* The app is borrowed; it becomes its `cog`. Q3_ERR_MEMORY. */
q3_status q3_cog_create(q3_cog **out, q3_app *app, const q3_cog_options *options);

/* Waits for predictions that run, which must be ending. NULL is fine. */
void q3_cog_destroy(q3_cog *c);

extern const q3_face q3_cog_face;        /* all of it, with /, /docs and /shutdown */
extern const q3_face q3_cog_face_beside; /* without those: beside another face */

#endif
