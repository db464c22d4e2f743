/* Mutual recursion (Hofstadter's female and male sequences) and Takeuchi's function. */
#include "bench.h"

#define CALLS __attribute__((noinline, noclone, optimize("no-inline", "no-optimize-sibling-calls")))

u32 male(u32);

CALLS u32 female(u32 n)
{
    return n ? n - male(female(n - 1)) : 1;
}

CALLS u32 male(u32 n)
{
    return n ? n - female(male(n - 1)) : 0;
}

CALLS i32 tak(i32 x, i32 y, i32 z)
{
    return y < x ? tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y)) : z;
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 6; r; r--) {
        sum = mix(sum, female(30 + (r & 3)));
        sum = mix(sum, (u32)tak(12, 8, (i32)(r & 3)));
    }
    return sum;
}
