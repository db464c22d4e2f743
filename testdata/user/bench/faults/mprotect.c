/* Writes to read-only pages; the handler makes them writable: how collectors track what changed. */
#include "bench.h"

enum { PAGES = 16 };
static u32 faults;

static void on_fault(int signal, struct siginfo *info, struct ucontext *context)
{
    (void)signal, (void)context;
    faults++;
    if (sys(SYS_MPROTECT, info->addr & ~4095u, 4096, PROT_READ | PROT_WRITE, 0, 0))
        die("no mprotect");
}

u32 run(u32 units)
{
    u32 sum = 0;
    u8 *p = map(PAGES * 4096, PROT_READ | PROT_WRITE);
    handle(SIGSEGV, on_fault);
    for (u32 r = units * 6; r; r--) {
        sys(SYS_MPROTECT, (u32)p, PAGES * 4096, PROT_READ, 0, 0);
        for (u32 i = 0; i < PAGES; i++)
            p[i * 4096 + (r & 4095)]++;
        sum = mix(sum, p[r & 4095] + faults);
    }
    return sum;
}
