/* REPNE SCASB and REPE CMPSB, as old C libraries find the ends of strings and compare them. */
#include "bench.h"

static char text[64][260];

static NOINLINE u32 length(const char *s)
{
    const char *p = s;
    u32 n = ~0u;
    __asm__ volatile("repne scasb" : "+D"(p), "+c"(n) : "a"(0) : "memory", "cc");
    return ~n - 1;
}

static NOINLINE u32 same(const char *a, const char *b, u32 n)
{
    u32 left = n;
    u8 equal;
    __asm__ volatile("cmpl %%eax, %%eax\n\trepe cmpsb\n\tsete %b3" : "+S"(a), "+D"(b), "+c"(left), "=&q"(equal) : : "memory", "cc");
    return equal ? n : n - left - 1;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 6;
    for (u32 i = 0; i < LEN(text); i++) {
        u32 n = 1 + random32(&seed) % 255;
        memset(text[i], 'x', n);
        text[i][n - 1] = 'y';
    }
    for (u32 r = units * 220; r; r--)
        for (u32 i = 0; i < LEN(text); i++) {
            const char *s = text[i], *t = text[(i * 5 + r) % LEN(text)];
            u32 n = length(s);
            sum = mix(sum, n + same(s, t, n));
        }
    return sum;
}
