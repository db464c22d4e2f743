/* A tracer and its tracees: what wait reports, what registers and memory hold, what happens to changes made there. */
#include "user.h"

enum { TRACEME, PEEKTEXT, PEEKDATA, PEEKUSER, POKETEXT, POKEDATA, POKEUSER, CONT, KILL, SINGLESTEP, GETREGS = 12, SETREGS, ATTACH = 16, DETACH, GETFPXREGS, SYSCALL = 24,
       SETOPTIONS = 0x4200, GETEVENTMSG, GETSIGINFO, SYSGOOD = 1, FORK = 2, VFORK = 4, CLONE = 8, EXEC = 16 };
enum { EBX, ECX, EDX, ESI, EDI, EBP, EAX, DS, ES, FS, GS, ORIG_EAX, EIP, CS, EFLAGS, ESP, SS };

static volatile u32 data = 5, code_result;
static int child, status;
static u32 regs[17];

static int trace(int request, u32 addr, void *value) { return SYS(ptrace, request, child, addr, value); }
static int go(int request, int sig)
{
    int r = trace(request, 0, (void *)sig);
    if (r) result("resume fails", r);
    int got = SYS(wait4, child, &status, 0x40000000, 0);
    return got == child ? status : got;
}
static void get(void) { trace(GETREGS, 0, regs); }

static void plain(void)
{
    SYS(ptrace, TRACEME);
    SYS(kill, me(), 19);
    data++;
    SYS(kill, me(), 10);
    SYS(getppid);
    __asm__ volatile("movl $11, %%eax; .globl stepped; stepped: incl %%eax; nop; .globl after; after: movl %%eax, %0" : "=m"(code_result) : : "eax");
    result("in the child", code_result);
    *(volatile int *)16 = 1;
}
extern char stepped[], after[];

static void forks(void)
{
    SYS(ptrace, TRACEME);
    SYS(kill, me(), 19);
    int pid = SYS(fork);
    if (!pid) exit_(9);
    SYS(wait4, pid, 0, 0, 0);
    exit_(8);
}

static char *self;
static void executes(void)
{
    SYS(ptrace, TRACEME);
    char *argv[] = { self, "x", 0 };
    SYS(execve, self, argv, 0);
    exit_(1);
}

static void begin(void (*f)(void))
{
    child = SYS(fork);
    if (!child) { f(); exit_(0); }
    SYS(wait4, child, &status, 0, 0);
    show("first stop", status);
}

void start(u32 *sp)
{
    self = (char *)sp[1];
    if (sp[0] > 1 && *(char *)sp[2] == 'x') exit_(7);

    begin(plain);
    u32 word = 0;
    result("peek", trace(PEEKDATA, (u32)&data, &word));
    result("data", word);
    result("bad peek", trace(PEEKDATA, 16, &word));
    result("poke", trace(POKEDATA, (u32)&data, (void *)41));
    result("options", trace(SETOPTIONS, 0, (void *)SYSGOOD));
    result("bad request", trace(0x3fff, 0, 0));
    show("signal", go(CONT, 0));
    u32 info[32];
    result("siginfo", trace(GETSIGINFO, 0, info));
    result("its number", info[0]);
    trace(PEEKDATA, (u32)&data, &word);
    result("changed data", word);
    show("entry", go(SYSCALL, 0));
    get();
    result("number", regs[ORIG_EAX]);
    result("result so far", regs[EAX]);
    show("exit", go(SYSCALL, 0));
    get();
    result("result is the parent", regs[EAX] == (u32)me());
    /* A breakpoint, over which it then steps. */
    trace(PEEKTEXT, (u32)stepped, &word);
    u32 old = word;
    trace(POKETEXT, (u32)stepped, (void *)((word & ~0xffu) | 0xcc));
    show("breakpoint", go(CONT, 0));
    get();
    result("just after it", regs[EIP] == (u32)stepped + 1);
    trace(POKETEXT, (u32)stepped, (void *)old);
    regs[EIP]--;
    result("eax there", regs[EAX]);
    regs[EAX] = 30;
    result("set", trace(SETREGS, 0, regs));
    show("step", go(SINGLESTEP, 0));
    get();
    result("stepped", regs[EIP] - (u32)stepped);
    result("eax then", regs[EAX]);
    result("debug register", trace(POKEUSER, 252, after));
    trace(POKEUSER, 252 + 28, (void *)1);
    show("hardware breakpoint", go(CONT, 0));
    get();
    result("at it", regs[EIP] == (u32)after);
    trace(POKEUSER, 252 + 28, 0);
    show("write", go(SYSCALL, 0));
    show("written", go(SYSCALL, 0));
    show("fault", go(CONT, 0));
    trace(GETSIGINFO, 0, info);
    result("address", info[3]);
    show("died", go(CONT, 11));

    begin(forks);
    trace(SETOPTIONS, 0, (void *)(FORK | EXEC));
    show("event", go(CONT, 0));
    u32 grandchild = 0, parent = child;
    trace(GETEVENTMSG, 0, &grandchild);
    child = grandchild;
    SYS(wait4, child, &status, 0x40000000, 0);
    show("its first stop", status);
    get();
    result("its result", regs[EAX]);
    show("its end", go(CONT, 0));
    child = parent;
    show("the signal of it", go(CONT, 0));
    show("end", go(CONT, 0));

    /* Another way to wait. */
    begin(plain);
    int word_of[32], ways[] = { 4 | 2, 4 | 2 | 0x1000000, 4 };
    for (int i = 0; i < 8; i++) {
        if (i == 2) trace(SETOPTIONS, 0, (void *)SYSGOOD);
        trace(i < 2 ? CONT : SYSCALL, 0, i == 7 ? (void *)9 : 0);
        for (int way = 0; way < 3; way++) {
            if (ways[way] & 0x1000000) continue;
            word_of[0] = word_of[2] = word_of[5] = 0;
            int options = i < 7 ? (way == 2 ? 2 | 1 : ways[way] | 0x1000000) : ways[way] | (way ? 1 : 0);
            result("waitid", SYS(waitid, 1, child, word_of, options, 0));
            result(" signal", word_of[0]); result(" code", word_of[2]); result(" child", word_of[3] == child); show(" status", word_of[5]);
        }
    }
    SYS(kill, child, 9);
    SYS(wait4, child, &status, 0x40000000, 0);

    begin(executes);
    result("options", trace(SETOPTIONS, 0, (void *)SYSGOOD));
    show("executed", go(CONT, 0));
    result("no such process", SYS(ptrace, GETREGS, child, 0, regs));
    begin(executes);
    result("detach", trace(DETACH, 0, 0));
    SYS(wait4, child, &status, 0, 0);
    show("end", status);
    exit_(0);
}
