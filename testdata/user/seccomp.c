/* Seccomp filters: what each action does to a call, inheritance by children and by executed programs. */
#include "user.h"

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

void start(u32 *sp)
{
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
