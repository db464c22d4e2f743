/* LZ77 with a hash table: compresses 64 KiB of word-like text, expands it again, compares. */
#include "bench.h"

enum { SIZE = 65536, HASH = 8192 };
static u8 text[SIZE], packed[SIZE * 2], back[SIZE];
static u32 last[HASH];

static u32 hash(const u8 *p)
{
    return ((u32)p[0] << 16 | p[1] << 8 | p[2]) * 2654435761u >> 19;
}

/* A literal is 0 and the byte; a match is its length (3 to 255) and a 16-bit distance. */
static NOINLINE u32 compress(void)
{
    u32 out = 0, i = 0;
    memset(last, 0xff, sizeof last);
    while (i < SIZE) {
        u32 len = 0, at = 0;
        if (i + 3 < SIZE) {
            u32 *slot = &last[hash(text + i)];
            at = *slot;
            *slot = i;
            if (at < i && i - at < 65536)
                while (len < 255 && i + len < SIZE && text[at + len] == text[i + len])
                    len++;
        }
        if (len >= 3) {
            packed[out++] = (u8)len;
            packed[out++] = (u8)((i - at) >> 8);
            packed[out++] = (u8)(i - at);
            i += len;
        } else {
            packed[out++] = 0;
            packed[out++] = text[i++];
        }
    }
    return out;
}

static NOINLINE u32 expand(u32 n)
{
    u32 out = 0;
    for (u32 i = 0; i < n;) {
        u32 len = packed[i++];
        if (len) {
            u32 distance = (u32)packed[i] << 8 | packed[i + 1];
            for (i += 2; len; len--, out++)
                back[out] = back[out - distance];
        } else
            back[out++] = packed[i++];
    }
    return out;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 31;
    for (u32 i = 0; i < SIZE;) {
        u32 word = random32(&seed) % 300, n = 2 + word % 7;
        for (u32 k = 0; k < n && i < SIZE; k++)
            text[i++] = (u8)('a' + (word * (k + 3) >> 2) % 26);
        if (i < SIZE)
            text[i++] = ' ';
    }
    for (u32 r = units * 4; r; r--) {
        u32 n = compress();
        if (expand(n) != SIZE)
            die("wrong size");
        for (u32 i = 0; i < SIZE; i++)
            if (back[i] != text[i])
                die("wrong text");
        sum = mix(sum, n);
        text[r * 977 % SIZE] = (u8)('a' + sum % 26);
    }
    return sum;
}
