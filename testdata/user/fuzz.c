/* System-call fuzzing: arguments are the number of calls and a seed. Workers make random calls, nearly all of Linux's,
   with wild arguments; when one dies or is stuck the next takes over. Only for a scratch namespace: see ./fuzz-run.
   An emulator's own failure shows as exit status 70 (a panic) or as a worker that burns CPU time inside one call. */
#include "user.h"

/* What would end the run rather than test anything: exit, forks, signals to others, reboot, vhangup, sync, umount of all. */
static const short left_out[] = { 1, 2, 36, 37, 88, 111, 120, 129, 178, 190, 238, 252, 270, 335, 424, 435 };
/* What blocks by nature, or replaces the program's context: one time in 64. */
static const short rare[] = { 7, 11, 26, 29, 72, 82, 114, 119, 142, 143, 162, 168, 173, 177, 179, 240, 256, 267, 284, 308, 309, 319, 358, 407,
                              413, 414, 421, 422, 441, 449, 3, 145, 180, 333, 378, 371, 372, 337, 417, 401, 280, 419, 118, 144, 148, 344, 152, 376, 150 };

struct shared { volatile u32 calls, nr; } *shared;
static u32 state;
static char buffer[65536];

static u32 next(void) { state ^= state << 13; state ^= state >> 17; return state ^= state << 5; }
static int in(const short *list, u32 n, u32 nr) { for (u32 i = 0; i < n; i++) if ((u32)list[i] == nr) return 1; return 0; }
#define IN(list, nr) in(list, sizeof list / sizeof *list, nr)

static u32 wild(void)
{
    switch (next() % 12) {
    case 0: return next();
    case 1: case 2: return next() % 64;
    case 3: return -(next() % 64);
    case 4: return 0;
    case 5: return 0xfffff000 - next() % 0x100;
    case 6: return 1u << next() % 32;
    case 7: return (u32)buffer + sizeof buffer - next() % 16;
    case 8: return 0x20000000 + (next() & 0x1fffffff);
    case 9: return next() % 4096;
    default: return (u32)buffer + (next() % sizeof buffer & ~3u);
    }
}

static void tick(int sig) { (void)sig; }

static void worker(u32 limit)
{
    struct { void *handler; u32 flags; void *restorer; u64 mask; } __attribute__((packed)) action = { tick, 0, 0, 0 };
    u32 every[4] = { 0, 2000, 0, 2000 };
    SYS(close_range, 0, ~0u, 0);
    for (int i = 0; i < 3; i++) SYS(open, "/scratch", 0102, 0600);
    int *pair = (int *)buffer;
    SYS(pipe, pair);
    SYS(socketpair, 1, 1, 0, pair);
    /* What a worker does to itself (limits, users, closed descriptors) soon makes most calls fail: not too long each. */
    u32 last = shared->calls + 4000;
    if (last > limit) last = limit;
    while (shared->calls < last) {
        if (shared->calls % 256 == 0) {
            SYS(rt_sigaction, 14, &action, 0, 8);
            SYS(setitimer, 0, every, 0);
            for (u32 i = 0; i < 256; i++) ((u32 *)buffer)[next() % (sizeof buffer / 4)] = wild();
        }
        u32 nr = next() % 472, a[6];
        if (IN(left_out, nr) || (IN(rare, nr) && next() % 64)) continue;
        for (int k = 0; k < 6; k++) a[k] = wild();
        switch (nr) {
        case 26: case 340: case 347: case 348: case 384: if (a[0] < 4096) continue; break; /* the parent's pid is small */
        case 90: case 45: continue; /* its arguments are in memory; the heap is not */
        case 91: case 125: case 163: case 192: case 219: case 380: case 144: case 257: case 274:
            /* Mappings: not those of this program. */
            a[0] = 0x20000000 + (next() & 0x1ffff000);
            a[1] &= 0x00ffffff;
            if (nr == 163) a[4] = 0x20000000 + (next() & 0x1ffff000);
            if (nr == 192) a[3] |= next() % 2 ? 0x10 : 0;
            break;
        case 355: a[1] &= 0xffff; break; /* fills gigabytes where it can */
        case 397: a[1] = 0x20000000 + (next() & 0x1ffff000); break;
        }
        shared->nr = nr;
        shared->calls++;
        sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    exit_(0);
}

/* Is the process in state R? */
static int runs(int pid)
{
    char path[32] = "/proc/", stat[256], *p = path + 6, digits[12];
    int n = 0;
    do digits[n++] = '0' + pid % 10; while (pid /= 10);
    while (n) *p++ = digits[--n];
    for (const char *s = "/stat"; (*p++ = *s++);) {}
    int fd = SYS(open, path, 0, 0), got = SYS(read, fd, stat, sizeof stat - 1);
    SYS(close, fd);
    for (int i = 0; i + 2 < got; i++) if (stat[i] == ')') return stat[i + 2] == 'R';
    return 0;
}

static u32 number(const char *s) { u32 v = 0; while (s && *s) v = v * 10 + *s++ - '0'; return v; }

void start(u32 *sp)
{
    u32 limit = number((char *)sp[2]), seed = number((char *)sp[3]) | 1, spinning = 0, blocked = 0, broken = 0, faults = 0, others = 0, workers = 0;
    shared = (void *)SYS(mmap2, 0, 4096, 3, 0x21, -1, 0);
    while (shared->calls < limit) {
        int pid = SYS(fork), status = 0;
        if (pid == 0) {
            state = seed * 2654435761u + workers;
            worker(limit);
        }
        workers++;
        for (u32 still = 0, before = shared->calls; !SYS(wait4, pid, &status, 1, 0);) {
            SYS(nanosleep, ((u32[]){ 0, 10000000 }), 0);
            if (shared->calls != before) { before = shared->calls; still = 0; continue; }
            if (++still < 150 || (runs(pid) && still < 1000)) continue;
            if (still >= 1000) { spinning++; puts_("spins in call "); dec(shared->nr); put('\n'); } else blocked++;
            SYS(kill, pid, 9);
            SYS(wait4, pid, &status, 0, 0);
            status = 0;
            break;
        }
        u32 signal = status & 127, code = status >> 8 & 255;
        if (signal == 11 || signal == 7 || signal == 4 || signal == 5) faults++;
        else if (code == 70) { broken++; puts_("breaks in call "); dec(shared->nr); put('\n'); }
        else if (status) others++;
    }
    result("calls", shared->calls);
    result("workers", workers);
    result("ended by faults", faults);
    result("ended otherwise", others);
    result("blocked", blocked);
    result("spinning", spinning);
    result("broken", broken);
    exit_(spinning || broken);
}
