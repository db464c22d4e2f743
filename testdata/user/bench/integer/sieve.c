/* Sieve of Eratosthenes, 64 Ki flags. */
#include "bench.h"

static u8 composite[65536];

static NOINLINE u32 sieve(void)
{
    u32 count = 0;
    memset(composite, 0, sizeof composite);
    for (u32 i = 2; i < sizeof composite; i++)
        if (!composite[i]) {
            count++;
            for (u32 j = i * 2; j < sizeof composite; j += i)
                composite[j] = 1;
        }
    return count;
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 9; r; r--)
        sum = mix(sum, sieve() + r);
    return sum;
}
