/* Follows one random cycle through 16 KiB: every load waits for the one before (first-level cache latency). */
#include "bench.h"

static u32 *cell[4096];

static NOINLINE u32 **chase(u32 **p, u32 n)
{
    for (; n; n--)
        p = (u32 **)*p;
    return p;
}

u32 run(u32 units)
{
    static u16 order[4096];
    u32 seed = 77, sum = 0, **p = cell;
    for (u32 i = 0; i < LEN(cell); i++)
        order[i] = (u16)i;
    for (u32 i = LEN(cell) - 1; i; i--) {
        u32 j = random32(&seed) % (i + 1);
        u16 t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (u32 i = 0; i < LEN(cell); i++)
        cell[order[i]] = (u32 *)&cell[order[(i + 1) % LEN(cell)]];
    for (u32 r = units * 450; r; r--) {
        p = chase(p, 4001);
        sum = mix(sum, (u32)(p - (u32 **)cell));
    }
    return sum;
}
