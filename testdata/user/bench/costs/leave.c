/* LSL of a null selector: harmless natively, but sensitive, so that a translator that doesn't special-case it leaves its
   code for every one: 20,000 a unit. */
#include "bench.h"

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 r = units * 20000; r; r--) {
        u32 limit = r;
        __asm__ volatile("lsl %1, %0" : "+r"(limit) : "r"(0) : "cc");
        sum = mix(sum, limit);
    }
    return sum;
}
