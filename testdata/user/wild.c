/* Random system calls with wild arguments: the emulator must survive whatever a guest asks for. Calls that end, stop or
   signal the process, wait for ever, or change the machine are left out. The seed is the argument. */
#include "user.h"

static const short left_out[] = {
    1, 2, 7, 11, 26, 27, 29, 36, 37, 72, 87, 88, 104, 110, 111, 114, 115, 119, 120, 127, 128, 129, 131, 142, 162, 168, 173, 176,
    177, 178, 179, 190, 217, 238, 252, 256, 260, 270, 283, 284, 308, 309, 319, 335, 346, 350, 358, 407, 413, 414, 421, 424,
    434, 435, 441, 8, 10, 12, 14, 15, 16, 21, 22, 38, 39, 40, 51, 52, 60, 61, 74, 75, 9, 83, 79, 25, 121, 133, 138, 139, 23, 46, 70,
    71, 80, 81, 97, 34, 164, 170, 203, 204, 206, 208, 210, 213, 214, 215, 216, 198, 207, 212, 182, 95, 94, 92, 193, 226, 227,
    228, 235, 236, 237, 264, 296, 297, 298, 301, 302, 303, 304, 306, 340, 353, 5, 295, 322, 324, 338, 367, 404, 428, 429, 430,
    431, 432, 433, 437, 442, 443, 446, 165, 171, 152, 54, 3, 145, 180, 333, 378, 240, 422, 449, 102, 117, 371, 372, 337, 417,
    364, 4, 146, 181, 334, 379, 6, 41, 42, 55, 63, 221, 330, 331, 436, 43, 187, 239, 313, 315, 316, 377, 143, 154, 156, 241, 351,
    57, 66, 136, 289, 310, 311, 172, 354, 444, 445, 286, 287, 288, 124, 343, 405, 349, 299, 271, 320, 412, 30, 33, 13, 448, 425, 277, 418,
    419, 279, 280, 134, 135, 400, 401, 420, 69, 126, 175,
};

static u32 state;
static u32 next(void) { state ^= state << 13; state ^= state >> 17; return state ^= state << 5; }

static u32 wild(void)
{
    static char buffer[4096];
    switch (next() % 8) {
    case 0: return next();
    case 1: return next() % 64;
    case 2: return -(next() % 64);
    case 3: return 0;
    case 4: return 0xfffff000 - next() % 0x3000;
    case 5: return 1u << next() % 32;
    default: return (u32)buffer + next() % sizeof buffer;
    }
}

static void tick(int sig) { (void)sig; }

void start(u32 *sp)
{
    char *seed = (char *)sp[2];
    /* What blocks is interrupted, every 10 ms. */
    struct { void *handler; u32 flags; void *restorer; u64 mask; } __attribute__((packed)) action = { tick, 0, 0, 0 };
    SYS(rt_sigaction, 14, &action, 0, 8);
    SYS(setitimer, 0, ((u32[]){ 0, 10000, 0, 10000 }), 0);
    for (state = 1; seed && *seed; seed++) state = state * 10 + *seed;
    for (int i = 0; i < 5000; i++) {
        u32 nr = next() % 470, a[6], skip = 0;
        for (u32 k = 0; k < sizeof left_out / sizeof *left_out; k++) skip |= (u32)left_out[k] == nr;
        for (int k = 0; k < 6; k++) a[k] = wild();
        /* Mappings of its own only: neither code, data nor stack of this program. */
        if (nr == 90 || nr == 91 || nr == 125 || nr == 163 || nr == 192 || nr == 219 || nr == 380 || nr == 397 || nr == 45) {
            a[0] = 0x20000000 + (next() & 0x0ffff000);
            a[1] &= 0x00ffffff;
            if (nr == 192) a[3] |= 0x10;
            if (nr == 163) a[4] = 0x30000000 + (next() & 0x0ffff000);
            if (nr == 90 || nr == 45) skip = 1;
        }
        /* Handlers would be called at wild addresses, TLS is unused. */
        if (nr == 48 || nr == 67 || nr == 174 || nr == 186) skip = 1;
        if (!skip) sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    puts_("survived\n");
    exit_(0);
}
