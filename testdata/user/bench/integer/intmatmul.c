/* 96x96 matrices of integers. */
#include "bench.h"

enum { N = 96 };
static i32 a[N][N], b[N][N], c[N][N];

static NOINLINE void multiply(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            i32 s = 0;
            for (int k = 0; k < N; k++)
                s += a[i][k] * b[k][j];
            c[i][j] = s;
        }
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 3;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i32)random32(&seed) % 100;
            b[i][j] = (i32)random32(&seed) % 100;
        }
    for (u32 r = units * 5; r; r--) {
        multiply();
        sum = mix(sum, (u32)c[r % N][r * 7 % N]);
        a[r % N][r * 5 % N] ^= (i32)(sum & 63);
    }
    return sum;
}
