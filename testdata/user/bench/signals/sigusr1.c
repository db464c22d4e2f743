/* Sends itself a signal, handles it, returns. */
#include "bench.h"

static volatile u32 taken;

static void on_signal(int signal, struct siginfo *info, struct ucontext *context)
{
    (void)info, (void)context;
    taken += (u32)signal;
}

u32 run(u32 units)
{
    u32 me = (u32)sys(SYS_GETPID, 0, 0, 0, 0, 0);
    handle(SIGUSR1, on_signal);
    for (u32 r = units * 180; r; r--)
        if (sys(SYS_KILL, me, SIGUSR1, 0, 0, 0))
            die("no signal");
    return taken;
}
