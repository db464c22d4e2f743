/* Ackermann's function: deep recursion, deeper than any hardware return stack. */
#include "bench.h"

__attribute__((noinline, noclone, optimize("no-inline", "no-optimize-sibling-calls"))) u32 ackermann(u32 m, u32 n)
{
    return !m ? n + 1 : ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 2; r; r--)
        sum = mix(sum, ackermann(3, 6 + (r & 1)));
    return sum;
}
