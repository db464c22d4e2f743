/* Blends two rows of 8-bit pixels with 16-bit arithmetic: packed integer SSE2. */
#include "bench.h"
#include <emmintrin.h>

static u8 a[8192] __attribute__((aligned(16))), b[8192] __attribute__((aligned(16)));

static NOINLINE void blend(u32 alpha)
{
    __m128i zero = _mm_setzero_si128(), f = _mm_set1_epi16((short)alpha), g = _mm_set1_epi16((short)(256 - alpha));
    for (u32 i = 0; i < sizeof a; i += 16) {
        __m128i x = *(__m128i *)(a + i), y = *(__m128i *)(b + i);
        __m128i lo = _mm_add_epi16(_mm_mullo_epi16(_mm_unpacklo_epi8(x, zero), f), _mm_mullo_epi16(_mm_unpacklo_epi8(y, zero), g));
        __m128i hi = _mm_add_epi16(_mm_mullo_epi16(_mm_unpackhi_epi8(x, zero), f), _mm_mullo_epi16(_mm_unpackhi_epi8(y, zero), g));
        *(__m128i *)(a + i) = _mm_packus_epi16(_mm_srli_epi16(lo, 8), _mm_srli_epi16(hi, 8));
    }
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 9;
    for (u32 i = 0; i < sizeof a; i++) {
        a[i] = (u8)random32(&seed);
        b[i] = (u8)random32(&seed);
    }
    for (u32 r = units * 3500; r; r--) {
        blend(128 + (r & 127));
        sum = mix(sum, a[r & 8191]);
        b[r * 7 & 8191] += (u8)sum;
    }
    return sum;
}
