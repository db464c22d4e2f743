/* Copy, scale, add and triad over arrays larger than the second-level cache. */
#include "bench.h"

enum { N = 1 << 19 };
static u32 a[N], b[N], c[N];

static NOINLINE void copy(void)
{
    for (u32 i = 0; i < N; i++)
        c[i] = a[i];
}

static NOINLINE void scale(u32 k)
{
    for (u32 i = 0; i < N; i++)
        b[i] = k * c[i];
}

static NOINLINE void add(void)
{
    for (u32 i = 0; i < N; i++)
        c[i] = a[i] + b[i];
}

static NOINLINE void triad(u32 k)
{
    for (u32 i = 0; i < N; i++)
        a[i] = b[i] + k * c[i];
}

u32 run(u32 units)
{
    for (u32 i = 0; i < N; i++)
        a[i] = i;
    for (u32 r = units * 2; r; r--) {
        copy();
        scale(3);
        add();
        triad(r);
    }
    return a[7] ^ a[N / 2] ^ b[N - 1] ^ c[N - 9];
}
