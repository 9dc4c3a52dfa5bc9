/* train/stop.h - SIGINT and SIGTERM: the first one asks the run to stop where nothing is lost, a second one ends the
 * process at once.
 */
#ifndef Q3_TRAIN_STOP_H
#define Q3_TRAIN_STOP_H

#include "core/status.h"

/* Catches both signals from now on. */
void q3_stop_catch(void);

/* Q3_OK while nothing came; then Q3_ERR_INTERRUPTED or Q3_ERR_TERMINATED, without a sentence. */
q3_status q3_stop_asked(void);

#endif
