/* A call and its return, from two sites in turn: 1,000,000 a unit. */
#include "bench.h"

NOINLINE void nothing(void)
{
    __asm__ volatile("");
}

u32 run(u32 units)
{
    for (u32 r = units * 500000; r; r--) {
        nothing();
        nothing();
    }
    return units;
}
