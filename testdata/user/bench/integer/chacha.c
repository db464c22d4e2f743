/* The ChaCha20 block function: sixteen words of state in six registers, so most of it is spilled. */
#include "bench.h"

static inline u32 rol(u32 x, int n)
{
    return x << n | x >> (32 - n);
}

#define QUARTER(a, b, c, d)                                                                                           \
    a += b, d = rol(d ^ a, 16), c += d, b = rol(b ^ c, 12), a += b, d = rol(d ^ a, 8), c += d, b = rol(b ^ c, 7)

static NOINLINE void block(u32 out[16], const u32 in[16])
{
    u32 x[16];
    for (int i = 0; i < 16; i++)
        x[i] = in[i];
    for (int i = 0; i < 10; i++) {
        QUARTER(x[0], x[4], x[8], x[12]);
        QUARTER(x[1], x[5], x[9], x[13]);
        QUARTER(x[2], x[6], x[10], x[14]);
        QUARTER(x[3], x[7], x[11], x[15]);
        QUARTER(x[0], x[5], x[10], x[15]);
        QUARTER(x[1], x[6], x[11], x[12]);
        QUARTER(x[2], x[7], x[8], x[13]);
        QUARTER(x[3], x[4], x[9], x[14]);
    }
    for (int i = 0; i < 16; i++)
        out[i] = x[i] + in[i];
}

u32 run(u32 units)
{
    u32 sum = 0, state[16] = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }, out[16];
    for (u32 r = units * 18000; r; r--) {
        block(out, state);
        state[12]++;
        sum = mix(sum, out[r & 15]);
    }
    return sum;
}
