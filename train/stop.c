#include "train/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"

static volatile sig_atomic_t stop_signal;
static volatile sig_atomic_t watched; // somebody sees the terminal and wonders why it goes on

static void on_signal(int signal_number)
{
    if (stop_signal)
        _Exit(128 + signal_number);
    stop_signal = signal_number;
    if (watched) {
        static const char text[] =
            "\r\033[Kstopping as soon as nothing is lost; Ctrl-C again stops at once\n";
        int before = errno;
        if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
            watched = 0;
        errno = before;
    }
}

void q3_stop_catch(void)
{
    struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&a.sa_mask);
    stop_signal = 0;
    watched = q3_log_is_terminal() && q3_log_enabled(Q3_LOG_INFO);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

q3_status q3_stop_asked(void)
{
    if (!stop_signal)
        return Q3_OK;
    return stop_signal == SIGTERM ? Q3_ERR_TERMINATED : Q3_ERR_INTERRUPTED;
}
