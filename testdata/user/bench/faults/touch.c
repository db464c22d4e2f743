/* Maps fresh pages, touches each once, unmaps them. */
#include "bench.h"

u32 run(u32 units)
{
    u32 sum = 0, bytes = 1 << 20;
    for (u32 r = units * 3; r; r--) {
        u8 *p = map(bytes, PROT_READ | PROT_WRITE);
        for (u32 i = 0; i < bytes; i += 4096) {
            sum += p[i];
            p[i] = (u8)r;
        }
        sum = mix(sum, p[bytes - 4096]);
        sys(SYS_MUNMAP, (u32)p, bytes, 0, 0, 0);
    }
    return sum;
}
