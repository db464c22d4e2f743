/* Lengths of Collatz sequences: a branch that looks random in each step, and a loop that ends at random. */
#include "bench.h"

static NOINLINE u32 length(u32 n)
{
    u32 steps = 0;
    while (n != 1) {
        if (n & 1)
            n = n * 3 + 1;
        else
            n >>= 1;
        __asm__ volatile("" : "+r"(steps), "+r"(n)); /* keeps the branch a branch */
        steps++;
    }
    return steps;
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 110; r; r--)
        for (u32 n = 1; n < 500; n++)
            sum = mix(sum, length(n + (r & 1023)));
    return sum;
}
