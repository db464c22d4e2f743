/* A little JIT: compiles an expression into a buffer, runs it some times, and starts over at the buffer's beginning
   when it is full. */
#include "bench.h"

enum { BUFFER = 16384, OPS = 24, CALLS = 200 };

static u8 *emit(u8 *p, u32 *seed)
{
    p[0] = 0x8b, p[1] = 0x44, p[2] = 0x24, p[3] = 4, p += 4; /* mov eax, [esp+4] */
    for (int i = 0; i < OPS; i++) {
        u32 x = random32(seed);
        static const u8 op[] = { 0x05, 0x2d, 0x35 }; /* add, sub, xor eax, imm32 */
        if (x & 3) {
            *p++ = op[(x & 3) - 1];
            *(u32 *)p = x >> 2;
            p += 4;
        } else {
            p[0] = 0xc1, p[1] = 0xc0, p[2] = (u8)(x >> 8 & 31), p += 3; /* rol eax, imm8 */
        }
    }
    *p++ = 0xc3;
    return p;
}

u32 run(u32 units)
{
    u8 *buffer = map(BUFFER, PROT_READ | PROT_WRITE | PROT_EXEC), *p = buffer;
    u32 sum = 1, seed = 13;
    for (u32 r = units * 1400; r; r--) {
        u32 (*f)(u32);
        if (p + OPS * 5 + 5 > buffer + BUFFER)
            p = buffer;
        f = (u32 (*)(u32))p;
        p = emit(p, &seed);
        for (u32 n = CALLS; n; n--)
            sum = f(sum);
    }
    return sum;
}
