#include "train/stop.h"

#include <signal.h>
#include <stdlib.h>

static volatile sig_atomic_t stop_signal;

static void on_signal(int signal_number)
{
    if (stop_signal)
        _Exit(128 + signal_number);
    stop_signal = signal_number;
}

void q3_stop_catch(void)
{
    struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&a.sa_mask);
    stop_signal = 0;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

q3_status q3_stop_asked(void)
{
    if (!stop_signal)
        return Q3_OK;
    return stop_signal == SIGTERM ? Q3_ERR_TERMINATED : Q3_ERR_INTERRUPTED;
}
