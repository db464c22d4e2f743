/* The clocks of the vDSO, read by four threads while a timer interrupts them: they never run backwards, agree with the system calls, and refuse
   what those refuse. */
#include "user.h"
#include "thread.h"

#define THREADS 4
#define CALLS 100000
/* Signals that interrupt them at least. */
#define TICKS 20

struct header { u32 ident[4]; unsigned short type, machine; u32 version, entry, phoff, shoff, flags; unsigned short rest[6]; };
struct section { u32 name, type, flags, addr, offset, size, link, info, align, entsize; };
struct symbol { u32 name, value, size; u8 info, other; unsigned short shndx; };
struct time { int sec, frac; };
struct time64 { u64 sec, frac; };

static const u8 *vdso;
static int (*get_clock)(int, struct time *), (*get_clock64)(int, struct time64 *), (*get_day)(struct time *, u32 *), (*get_time)(int *);
static int (*get_cpu)(u32 *, u32 *, void *);
static u8 stacks[THREADS + 1][16384] __attribute__((aligned(16)));
static volatile u32 alive[THREADS], backwards, failed, ticks;

static int equal(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }

static void *find(const char *name)
{
    const struct header *h = (const void *)vdso;
    const struct section *s = (const void *)(vdso + h->shoff);
    for (u32 i = 0; i < h->rest[4]; i++) {
        if (s[i].type != 11 /* SHT_DYNSYM */) continue;
        const struct symbol *y = (const void *)(vdso + s[i].offset), *end = (const void *)(vdso + s[i].offset + s[i].size);
        for (; y < end; y++)
            if (equal((const char *)vdso + s[s[i].link].offset + y->name, name)) return (void *)(vdso + y->value);
    }
    puts_("missing: ");
    puts_(name);
    put('\n');
    exit_(1);
    return 0;
}

static void tick(int sig)
{
    struct time t;
    (void)sig;
    __sync_fetch_and_add(&ticks, 1);
    if (get_clock(1, &t)) __sync_fetch_and_add(&failed, 1);
}

static int before(const struct time *a, const struct time *b)
{
    return a->sec < b->sec || (a->sec == b->sec && a->frac < b->frac);
}

static void work(void *arg)
{
    struct time now, last = { 0, 0 };
    (void)arg;
    for (u32 i = 0; i < CALLS || ticks < TICKS; i++) {
        if (get_clock(1 /* CLOCK_MONOTONIC */, &now)) __sync_fetch_and_add(&failed, 1);
        if (before(&now, &last)) __sync_fetch_and_add(&backwards, 1);
        last = now;
    }
}

void start(u32 *sp)
{
    u32 *p = sp + sp[0] + 2;
    while (*p++) {}
    for (; *p; p += 2)
        if (*p == 33 /* AT_SYSINFO_EHDR */) vdso = (const u8 *)p[1];
    if (!vdso) exit_(1);
    get_clock = find("__vdso_clock_gettime");
    get_clock64 = find("__vdso_clock_gettime64");
    get_day = find("__vdso_gettimeofday");
    get_time = find("__vdso_time");
    get_cpu = find("__vdso_getcpu");

    struct { void (*handler)(int); u32 flags; void *restorer; u32 mask[2]; } action = { tick, 0x10000000 /* RESTART */, 0, { 0, 0 } };
    SYS(rt_sigaction, 14 /* SIGALRM */, &action, 0, 8);
    u32 interval[4] = { 0, 300, 0, 300 };
    SYS(setitimer, 0, interval, 0);
    for (u32 i = 0; i < THREADS; i++)
        spawn(work, (void *)i, stacks[i + 1], &alive[i]);
    for (u32 i = 0; i < THREADS; i++)
        join(&alive[i]);
    u32 none[4] = { 0, 0, 0, 0 };
    SYS(setitimer, 0, none, 0);
    show("backwards", backwards);
    show("failed", failed);

    for (int clock = 0; clock < 13; clock++) {
        struct time a = { 0, 0 }, b = { 0, 0 }, c = { 0, 0 };
        struct time64 w = { 0, 0 };
        SYS(clock_gettime, clock, &a);
        int r = get_clock(clock, &b), r64 = get_clock64(clock, &w);
        SYS(clock_gettime, clock, &c);
        struct time n = { (int)w.sec, (int)w.frac };
        result("clock", clock);
        result(" result", r);
        result(" result64", r64);
        result(" in order", !before(&b, &a) && (r64 || !before(&n, &b)) && (r64 || !before(&c, &n)));
    }
    struct time a, b, c;
    SYS(gettimeofday, &a, 0);
    int r = get_day(&b, 0);
    SYS(gettimeofday, &c, 0);
    result("gettimeofday", r);
    result(" in order", !before(&b, &a) && !before(&c, &b));
    result(" of nothing", get_day(0, 0));
    u32 zone[2] = { 1, 1 };
    result(" with zone", get_day(&b, zone));
    int now = 0, then = get_time(&now);
    result("time", now == then && (u32)(then - a.sec) <= 5);
    result(" of nothing", (u32)(get_time(0) - then) <= 5);
    u32 cpu = 9999, node = 9999;
    result("getcpu", get_cpu(&cpu, 0, 0));
    result(" plausible", cpu < 9999);
    result(" with node", get_cpu(&cpu, &node, 0));
    result(" plausible", cpu < 9999 && node < 9999);
    exit_(0);
}
