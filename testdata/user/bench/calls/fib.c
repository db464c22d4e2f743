/* Fibonacci numbers by plain recursion. */
#include "bench.h"

/* GCC would unfold several levels into one function, which would then be no call benchmark. */
__attribute__((noinline, noclone, optimize("no-inline", "no-optimize-sibling-calls"))) u32 fib(u32 n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 50; r; r--)
        sum = mix(sum, fib(20 + (r & 1)));
    return sum;
}
