/* 64x64 matrices of doubles, two columns at a time. */
#include "bench.h"
#include <emmintrin.h>

enum { N = 64 };
static double a[N][N], b[N][N], c[N][N] __attribute__((aligned(16)));

static NOINLINE void multiply(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j += 2) {
            __m128d s = _mm_setzero_pd();
            for (int k = 0; k < N; k++)
                s = _mm_add_pd(s, _mm_mul_pd(_mm_set1_pd(a[i][k]), _mm_loadu_pd(&b[k][j])));
            _mm_store_pd(&c[i][j], s);
        }
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 3;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = random32(&seed) % 1000 / 64.0;
            b[i][j] = random32(&seed) % 1000 / 128.0;
        }
    for (u32 r = units * 16; r; r--) {
        multiply();
        union { double d; u32 w[2]; } v = { c[r % N][r * 7 % N] };
        sum = mix(mix(sum, v.w[0]), v.w[1]);
        a[r % N][r * 5 % N] += 1.0;
    }
    return sum;
}
