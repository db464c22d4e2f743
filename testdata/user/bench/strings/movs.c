/* REP MOVS and REP STOS, bytes and doublewords, 1 to 4096 bytes. */
#include "bench.h"

static u8 a[8192], b[8192];

static NOINLINE void copy(void *to, const void *from, u32 bytes)
{
    u32 n = bytes >> 2, rest = bytes & 3;
    __asm__ volatile("rep movsl\n\tmovl %3, %%ecx\n\trep movsb"
                     : "+D"(to), "+S"(from), "+c"(n) : "r"(rest) : "memory");
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 4;
    for (u32 r = units * 60000; r; r--) {
        u32 x = random32(&seed), bytes = 1 + (x >> 12) % (1u << (x & 7) << 5);
        memset(a + (x >> 20), (int)x, bytes & 255);
        copy(b + (x >> 21), a + (x >> 20 & 4095), bytes);
        sum = mix(sum, b[x & 8191]);
    }
    return sum;
}
