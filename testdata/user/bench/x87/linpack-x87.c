/* Gaussian elimination with partial pivoting in 80-bit long doubles, 48 unknowns. */
#include "bench.h"

enum { N = 48 };
static long double a[N][N + 1];

static NOINLINE long double solve(void)
{
    for (int k = 0; k < N; k++) {
        int best = k;
        for (int i = k + 1; i < N; i++)
            if (__builtin_fabsl(a[i][k]) > __builtin_fabsl(a[best][k]))
                best = i;
        for (int j = k; j <= N; j++) {
            long double t = a[k][j];
            a[k][j] = a[best][j];
            a[best][j] = t;
        }
        for (int i = k + 1; i < N; i++) {
            long double f = a[i][k] / a[k][k];
            for (int j = k; j <= N; j++)
                a[i][j] -= f * a[k][j];
        }
    }
    long double sum = 0;
    for (int i = N - 1; i >= 0; i--) {
        long double s = a[i][N];
        for (int j = i + 1; j < N; j++)
            s -= a[i][j] * a[j][N];
        sum += a[i][N] = s / a[i][i];
    }
    return sum;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 11;
    for (u32 r = units * 10; r; r--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j <= N; j++)
                a[i][j] = (i32)(random32(&seed) >> 12) / (long double)1000 - 500;
        union { long double l; u32 w[3]; } v;
        v.l = solve();
        sum = mix(mix(mix(sum, v.w[0]), v.w[1]), v.w[2] & 0xffff);
    }
    return sum;
}
