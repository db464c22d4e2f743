/* Seccomp filters: what each action does to a call, inheritance by children and by executed programs. */
#include "user.h"
#include "thread.h"

struct insn { unsigned short code; unsigned char jt, jf; u32 k; };
struct program { unsigned short len; struct insn *filter; };

#define DATA(offset) { 0x20, 0, 0, offset }
#define IF_EQ(value, action) { 0x15, 0, 1, value }, { 0x06, 0, 0, action }
#define RETURN(action) { 0x06, 0, 0, action }
#define INSTALL(...) install((struct insn[]){ __VA_ARGS__ }, sizeof((struct insn[]){ __VA_ARGS__ }) / sizeof(struct insn))

enum { TRAP = 0x30000, ERRNO = 0x50000, TRACE = 0x7ff00000, LOG = 0x7ffc0000, ALLOW = 0x7fff0000, KILL = 0, KILL_PROCESS = 0x80000000 };

static int install(struct insn *insns, int count)
{
    struct program p = { count, insns };
    return SYS(seccomp, 1, 0, &p);
}

static void trapped(int sig, u32 *info, u32 *context)
{
    result("signal", sig);
    result("code", info[2]);
    result("errno", info[1]);
    result("call", info[4]);
    show("architecture", info[5]);
    result("address is the return address", info[3] == context[5 + 14]);
    result("eax is the number", context[5 + 11] == info[4]);
}

static int in_child(void (*f)(void))
{
    int status = -1, pid = SYS(fork);
    if (!pid) { f(); exit_(0); }
    SYS(wait4, pid, &status, 0, 0);
    return status & 0x7f;
}

static void killed_by_uname(void) { INSTALL(DATA(0), IF_EQ(__NR_uname, KILL_PROCESS), RETURN(ALLOW)); static char b[400]; SYS(uname, b); }
static void killed_by_thread_action(void) { INSTALL(DATA(0), IF_EQ(__NR_uname, KILL), RETURN(ALLOW)); static char b[400]; SYS(uname, b); }
static void strict(void) { result("strict", SYS(prctl, 22, 1, 0)); puts_("still writes\n"); SYS(getpid); }

/* As many instructions as there may be. */
static void many(void)
{
    static struct insn program[4096];
    int n = 0, r;
    for (int i = 0; i < 4095; i++) program[i] = (struct insn)DATA(0);
    program[4095] = (struct insn)RETURN(ALLOW);
    while (n < 20 && !(r = install(program, 4096))) n++;
    result("filters", n); result("then", r);
}

/* Threads follow the one that asks for it, unless they have filters that it hasn't. */
static u8 stack[16384] __attribute__((aligned(16)));
static volatile u32 alive, tid, turn;
static void wait_for(u32 n) { while (turn != n) SYS(sched_yield); }
static void other(void *diverges)
{
    tid = SYS(gettid);
    if (diverges) INSTALL(DATA(0), IF_EQ(__NR_getuid, ERRNO | 5), RETURN(ALLOW));
    turn = 1;
    wait_for(2);
    result("the other's getppid", SYS(getppid) == -33); result("getuid", SYS(getuid) == -5);
}
static void together(u32 diverges)
{
    struct insn insns[] = { DATA(0), IF_EQ(__NR_getppid, ERRNO | 33), RETURN(ALLOW) };
    struct program p = { 4, insns };
    turn = 0;
    spawn(other, (void *)diverges, stack + sizeof stack, &alive);
    wait_for(1);
    if (diverges) result("as an error", SYS(seccomp, 1, 1 | 16, &p));
    int r = SYS(seccomp, 1, 1, &p);
    result("together", r == (int)tid ? 1 : r);
    turn = 2;
    join(&alive);
    result("getppid", SYS(getppid) == -33);
}
static void follow(void) { SYS(prctl, 38, 1, 0, 0, 0); together(0); }
static void diverge(void) { SYS(prctl, 38, 1, 0, 0, 0); together(1); }

/* A child between vfork and execve has filters of its own. */
static int in_vfork(void)
{
    int pid;
    __asm__ volatile("int $0x80" : "=a"(pid) : "a"(__NR_vfork) : "memory");
    if (!pid) { INSTALL(DATA(0), IF_EQ(__NR_getppid, ERRNO | 77), RETURN(ALLOW)); int r = SYS(getppid); exit_(r == -77); }
    return pid;
}

void start(u32 *sp)
{
    if (sp[0] > 1 && *(char *)sp[2] == 'h') {
        /* A program of the host's, which no filter of an emulator's would see. */
        char *argv[] = { "/bin/true", 0 };
        SYS(prctl, 38, 1, 0, 0, 0);
        INSTALL(RETURN(ALLOW));
        result("execve", SYS(execve, argv[0], argv, 0));
        exit_(0);
    }
    if (sp[0] > 1 && *(char *)sp[2] == 'x') {
        puts_("executed\n");
        result("mode", SYS(prctl, 21));
        result("getppid", SYS(getppid));
        exit_(0);
    }
    struct insn jump_out[] = { { 0x05, 0, 0, 5 }, RETURN(ALLOW) };
    result("mode at the start", SYS(prctl, 21));
    result("no new privileges", SYS(prctl, 38, 1, 0, 0, 0));
    result("bad jump", install(jump_out, 2));
    result("too short", install(jump_out, 0));
    result("bad pointer", SYS(seccomp, 1, 0, 8));
    result("bad flags", SYS(seccomp, 1, 0x1000, 0));
    result("action available", SYS(seccomp, 2, 0, (u32[]){ ERRNO }));
    result("action unknown", SYS(seccomp, 2, 0, (u32[]){ 0x12340000 }));
    result("killed", in_child(killed_by_uname));
    result("killed thread", in_child(killed_by_thread_action));
    result("strict kills", in_child(strict));

    result("many", in_child(many));
    result("follow", in_child(follow));
    result("diverge", in_child(diverge));
    int child_status = 0, vchild = in_vfork();
    SYS(wait4, vchild, &child_status, 0, 0);
    result("the child's own", child_status >> 8); result("getppid", SYS(getppid) > 0);

    result("install", INSTALL(DATA(4), IF_EQ(0xc000003e, KILL_PROCESS), DATA(0), IF_EQ(__NR_getppid, ERRNO | 42), IF_EQ(__NR_uname, TRAP | 7), IF_EQ(__NR_sync, TRACE), RETURN(ALLOW)));
    result("mode", SYS(prctl, 21));
    result("getppid", SYS(getppid));
    result("traced call", SYS(sync));
    struct { void *handler; u32 flags; void *restorer; u64 mask; } __attribute__((packed)) action = { trapped, 4, 0, 0 };
    SYS(rt_sigaction, 31, &action, 0, 8);
    result("trapped call", SYS(uname, 0));
    /* By argument: lseek of descriptor 77 with this whence. */
    result("install", INSTALL(DATA(0), { 0x15, 0, 5, __NR_lseek }, DATA(16), { 0x15, 0, 3, 77 }, DATA(32), IF_EQ(1, ERRNO | 99), RETURN(LOG)));
    result("other descriptor", SYS(lseek, 76, 0, 1));
    result("other whence", SYS(lseek, 77, 0, 2));
    result("this one", SYS(lseek, 77, 0, 1));
    int status = 0, pid = SYS(fork);
    if (!pid) {
        result("child", SYS(getppid));
        char *argv[] = { (char *)sp[1], "x", 0 };
        SYS(execve, "/proc/self/exe", argv, 0);
        puts_("exec failed\n");
        exit_(1);
    }
    SYS(wait4, pid, &status, 0, 0);
    show("status", status);
    exit_(0);
}
