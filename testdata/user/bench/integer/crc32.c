/* CRC-32, a byte at a time from a table. */
#include "bench.h"

static u32 table[256];
static u8 data[32768];

static NOINLINE u32 crc(u32 c, const u8 *p, u32 n)
{
    while (n--)
        c = table[(c ^ *p++) & 255] ^ c >> 8;
    return c;
}

u32 run(u32 units)
{
    u32 sum = ~0u, seed = 7;
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        table[i] = c;
    }
    for (u32 i = 0; i < sizeof data; i++)
        data[i] = (u8)random32(&seed);
    for (u32 r = units * 34; r; r--)
        sum = crc(sum, data, sizeof data);
    return ~sum;
}
