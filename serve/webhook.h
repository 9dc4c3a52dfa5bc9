/* serve/webhook.h - what happens to a prediction, told to a URL that its client named (Cog's HTTP
 * contract).
 *
 * Start and completion are sent at once, output and logs at most every half second. Only completion is
 * tried again, when the other side is busy, failing or away: 100 ms, 200 ms, 400 ms ... later. Calls block
 * the thread that sends.
 */
#ifndef Q3_SERVE_WEBHOOK_H
#define Q3_SERVE_WEBHOOK_H

#include <stdatomic.h>

#include "serve/fetch_image.h"

enum {
    Q3_WEBHOOK_START = 1,
    Q3_WEBHOOK_OUTPUT = 2,
    Q3_WEBHOOK_LOGS = 4,
    Q3_WEBHOOK_COMPLETED = 8,
    Q3_WEBHOOK_ALL = 15,
};

typedef struct q3_webhook {
    const char *url;                      /* http or https */
    unsigned events;                      /* Q3_WEBHOOK_... that are told */
    q3_address_judge *judge;              /* of addresses; NULL: all */
    const char *token;                    /* Authorization: Bearer; NULL: none */
    const char *traceparent, *tracestate; /* passed on; NULL: none */
    int timeout_seconds;                  /* of one attempt; 0: 30 */
    double interval;                      /* seconds between two of output and logs; 0: 0.5 */
    const atomic_bool *stop;              /* set: no further attempts; NULL: never */
    double last;                          /* when output or logs were last sent; starts as 0 */
    bool refused;                         /* the judge has said no: nothing is tried again */
} q3_webhook;

/* Whether an event would be sent now; saves making its body. */
bool q3_webhook_due(const q3_webhook *hook, unsigned event);

/* POSTs `body` (JSON). A failure is told as a warning: it is nothing to the prediction. */
void q3_webhook_send(q3_webhook *hook, unsigned event, const char *body, size_t n);

#endif
