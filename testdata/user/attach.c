/* PTRACE_ATTACH and PTRACE_SEIZE: stopping a process that runs, in a system call and out of one, without its noticing. */
#include "user.h"

enum { PEEKDATA = 2, POKEDATA = 5, CONT = 7, GETREGS = 12, SETREGS, ATTACH = 16, DETACH, SYSCALL = 24, SETOPTIONS = 0x4200,
       GETSIGINFO = 0x4202, SEIZE = 0x4206, INTERRUPT, LISTEN, SYSCALL_INFO = 0x420e, SYSGOOD = 1, CLONE = 8, WALL = 0x40000000 };

static int child, status;
static int trace(int request, u32 addr, u32 data) { return SYS(ptrace, request, child, addr, data); }
static void wait_(const char *what)
{
    int r = SYS(wait4, child, &status, WALL, 0);
    puts_(what); puts_(r == child ? ": " : ": none: "); hex(r == child ? status : r); put('\n');
}
static void go(const char *what, int sig) { int r = trace(CONT, 0, sig); if (r) result("resume fails", r); wait_(what); }
static void milliseconds(int n) { int t[2] = { n / 1000, n % 1000 * 1000000 }; SYS(nanosleep, t, 0); }
static int now(void) { int t[2]; SYS(clock_gettime, 1, t); return t[0] * 1000 + t[1] / 1000000; }
/* In memory that both share: result and milliseconds of each call. */
static int (*calls)[2], done;
static void timed(int start, int r) { calls[done][0] = r; calls[done++][1] = now() - start; }

/* What goes on in a call must go on after the stop, for what is left of its time. */
static void sleeper(void)
{
    int t[2] = { 0, 600000000 }, start = now();
    timed(start, SYS(nanosleep, t, 0));
    start = now(); timed(start, SYS(poll, 0, 0, 600));
    int tv[2] = { 0, 600000 };
    start = now(); timed(start, SYS(_newselect, 0, 0, 0, 0, tv));
    int ts[2] = { 0, 600000000 };
    start = now(); timed(start, SYS(ppoll, 0, 0, ts, 0, 8));
    static u32 word;
    int tf[2] = { 0, 600000000 };
    start = now(); timed(start, SYS(futex, &word, 0, 0, tf));
    exit_(3);
}

static volatile u32 spins, flag, other_tid;
static void spinner(void) { while (!flag) spins++; exit_(flag); }
static void pauser(void) { for (;;) result("paused", SYS(pause)); }

static void start_(void (*f)(void)) { child = SYS(fork); if (!child) f(); milliseconds(100); }

static void stops_in_calls(void)
{
    static const char *const names[] = { "nanosleep", "poll", "select", "ppoll", "futex" };
    u32 args[6] = { 0, 4096, 3, 0x21, -1, 0 };
    calls = (void *)SYS(mmap, args);
    start_(sleeper);
    for (int i = 0; i < 5; i++) {
        result("attach", trace(ATTACH, 0, 0));
        wait_("stop");
        milliseconds(100);
        result("detach", trace(DETACH, 0, 0));
        milliseconds(500);
    }
    wait_("end");
    for (int i = 0; i < 5; i++) {
        puts_(names[i]); put(' '); dec(calls[i][0]); puts_(calls[i][1] < 580 ? " too early\n" : " not early\n");
    }
}

static void stops_in_code(void)
{
    u32 regs[17], before, info[32];
    start_(spinner);
    result("attach", trace(ATTACH, 0, 0));
    wait_("stop");
    result("signal", trace(GETSIGINFO, 0, (u32)info)); result("number", info[0]);
    trace(PEEKDATA, (u32)&spins, (u32)&before);
    result("has spun", before > 1000);
    result("registers", trace(GETREGS, 0, (u32)regs));
    show("cs", regs[13]); result("in no call", regs[11]);
    result("poke", trace(POKEDATA, (u32)&flag, 7));
    result("again", trace(ATTACH, 0, 0));
    result("detach", trace(DETACH, 0, 0));
    wait_("end");
}

static void seized(void)
{
    u32 info[32];
    start_(pauser);
    result("bad options", trace(SEIZE, 0, 1 << 30));
    result("seize", trace(SEIZE, 0, SYSGOOD));
    result("not stopped", trace(CONT, 0, 0));
    result("interrupt", trace(INTERRUPT, 0, 0));
    wait_("stop");
    trace(GETSIGINFO, 0, (u32)info); show("signal", info[0]); show("code", info[2]);
    trace(CONT, 0, 0);
    milliseconds(50);
    SYS(kill, child, 19);
    wait_("SIGSTOP");
    go("group stop", 19);
    result("listen", trace(LISTEN, 0, 0));
    milliseconds(50);
    result("nothing", SYS(wait4, child, &status, WALL | 1, 0));
    SYS(kill, child, 18);
    wait_("end of it");
    go("SIGCONT", 0);
    trace(CONT, 0, 18);
    milliseconds(50);
    SYS(kill, child, 10);
    wait_("SIGUSR1");
    trace(CONT, 0, 0);
    milliseconds(50);
    trace(INTERRUPT, 0, 0);
    wait_("stop");
    u64 i[11] = { 0 };
    SYS(kill, child, 15);
    /* pause again, and SIGTERM instead of its end */
    trace(SYSCALL, 0, 0);
    wait_("next");
    for (int n = 0; n < 4 && status >> 8 != 15; n++) {
        int size = trace(SYSCALL_INFO, sizeof i, (u32)i);
        result("info", size); show("kind", i[0]); show("architecture", i[0] >> 32);
        if ((i[0] & 255) == 1) show("number", i[3]);
        trace(SYSCALL, 0, 0);
        wait_("next");
    }
    result("detach", trace(DETACH, 0, 15));
    wait_("end");
}

void start(u32 *sp)
{
    (void)sp;
    child = me();
    result("oneself", trace(ATTACH, 0, 0));
    child = 0x3ffffff;
    result("nobody", trace(ATTACH, 0, 0));
    stops_in_calls();
    stops_in_code();
    seized();
    exit_(0);
}
