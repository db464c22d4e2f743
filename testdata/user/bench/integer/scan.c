/* strlen and strcmp written as loops, over strings of 1 to 64 characters that share long prefixes. */
#include "bench.h"

enum { COUNT = 512 };
static char text[COUNT][68];

static NOINLINE u32 length(const char *s)
{
    const char *p = s;
    while (*p)
        p++;
    return (u32)(p - s);
}

static NOINLINE int compare(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 17;
    for (u32 i = 0; i < COUNT; i++) {
        u32 n = 1 + random32(&seed) % 64;
        for (u32 k = 0; k < n; k++)
            text[i][k] = 'a';
        text[i][n - 1] = (char)('a' + random32(&seed) % 26);
    }
    for (u32 r = units * 110; r; r--)
        for (u32 i = 0; i < COUNT; i++) {
            sum += length(text[i]);
            sum = mix(sum, compare(text[i], text[(i * 7 + r) % COUNT]) < 0);
        }
    return sum;
}
