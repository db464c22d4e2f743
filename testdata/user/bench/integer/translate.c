/* Bytes looked up in a table and written elsewhere: three indexed references in each step. */
#include "bench.h"

static u8 from[16384], to[16384], table[256];

static NOINLINE void translate(u32 n)
{
    for (u32 i = 0; i < n; i++)
        to[i] = table[from[i]];
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 5;
    for (u32 i = 0; i < 256; i++)
        table[i] = (u8)(i * 167 + 13);
    for (u32 i = 0; i < sizeof from; i++)
        from[i] = (u8)random32(&seed);
    for (u32 r = units * 450; r; r--) {
        translate(sizeof from);
        sum = mix(sum, to[r % sizeof to]);
        from[r % sizeof from] = (u8)sum;
    }
    return sum;
}
