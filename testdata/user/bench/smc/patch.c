/* Code that changes one of its own immediates before every call, as JITs do with call targets and inline caches. */
#include "bench.h"

u32 run(u32 units)
{
    /* mov ecx, 8; 1: mov eax, imm32; add edx, eax; rol edx, 5; loop 1b; mov eax, edx; ret */
    static const u8 code[] = { 0xb9, 8, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x01, 0xc2, 0xc1, 0xc2, 5, 0xe2, 0xf4, 0x89, 0xd0, 0xc3 };
    u8 *at = map(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    u32 sum = 0;
    memcpy(at, code, sizeof code);
    for (u32 r = units * 36000; r; r--) {
        u32 clobbered;
        *(volatile u32 *)(at + 6) = r;
        __asm__ volatile("call *%3" : "=a"(clobbered), "+d"(sum) : "0"(0), "r"(at) : "ecx", "memory", "cc");
    }
    return sum;
}
