/* Quicksort with insertion sort below 12 elements, on 8192 random integers. */
#include "bench.h"

static i32 a[8192];

static NOINLINE void sort(i32 *lo, i32 *hi)
{
    while (hi - lo > 12) {
        i32 pivot = lo[(hi - lo) / 2], *i = lo, *j = hi - 1;
        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                i32 t = *i;
                *i++ = *j;
                *j-- = t;
            }
        }
        if (j + 1 - lo < hi - i) {
            sort(lo, j + 1);
            lo = i;
        } else {
            sort(i, hi);
            hi = j + 1;
        }
    }
    for (i32 *i = lo + 1; i < hi; i++) {
        i32 v = *i, *j = i;
        for (; j > lo && j[-1] > v; j--)
            *j = j[-1];
        *j = v;
    }
}

u32 run(u32 units)
{
    u32 sum = 1, seed = 12345;
    for (u32 n = units * 5; n; n--) {
        for (u32 i = 0; i < LEN(a); i++)
            a[i] = (i32)random32(&seed);
        sort(a, a + LEN(a));
        for (u32 i = 1; i < LEN(a); i++)
            if (a[i - 1] > a[i])
                die("not sorted");
        sum = mix(sum, (u32)a[4096]);
    }
    return sum;
}
