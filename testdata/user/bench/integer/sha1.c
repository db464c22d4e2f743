/* SHA-1 over 16 KiB, the digest fed back into the data. */
#include "bench.h"

static u8 data[16384];

static inline u32 rol(u32 x, int n)
{
    return x << n | x >> (32 - n);
}

static NOINLINE void block(u32 *h, const u8 *p)
{
    u32 w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
    for (int i = 16; i < 80; i++)
        w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
#define ROUNDS(from, to, f, k)                                                                                        \
    for (int i = from; i < to; i++) {                                                                                  \
        u32 t = rol(a, 5) + (f) + e + k + w[i];                                                                        \
        e = d, d = c, c = rol(b, 30), b = a, a = t;                                                                    \
    }
    ROUNDS(0, 20, (b & c) | (~b & d), 0x5a827999)
    ROUNDS(20, 40, b ^ c ^ d, 0x6ed9eba1)
    ROUNDS(40, 60, (b & c) | (b & d) | (c & d), 0x8f1bbcdc)
    ROUNDS(60, 80, b ^ c ^ d, 0xca62c1d6)
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

u32 run(u32 units)
{
    u32 h[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
    for (u32 r = units * 38; r; r--) {
        for (u32 i = 0; i < sizeof data; i += 64)
            block(h, data + i);
        for (u32 i = 0; i < 5; i++)
            data[(h[i] >> 8) % sizeof data] ^= (u8)h[i];
    }
    return h[0] ^ h[1] ^ h[2] ^ h[3] ^ h[4];
}
