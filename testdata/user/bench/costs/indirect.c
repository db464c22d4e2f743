/* An indirect jump that goes to eight places in turn: 1,000,000 a unit. */
#include "bench.h"

u32 run(u32 units)
{
    static const void *const place[] = { &&a, &&b, &&c, &&d, &&e, &&f, &&g, &&h };
    u32 left = units * 1000000, sum = 0;
#define STEP(label, by)                                                                                               \
    label:                                                                                                             \
    sum += by;                                                                                                         \
    __asm__ volatile("" : "+r"(left));                                                                                 \
    goto *place[--left & 7];
    if (!left)
        return 0;
    goto *place[left & 7];
    STEP(h, 1)
    STEP(g, 2)
    STEP(f, 3)
    STEP(e, 4)
    STEP(d, 5)
    STEP(c, 6)
    STEP(b, 7)
a:
    sum += 8;
    if (!left)
        return sum;
    left--;
    goto *place[7];
}
