/* Signal frames and what they say, both kinds; faults with their addresses and codes; editing the context; nesting,
   masks, the alternate stack. */
#include "user.h"

struct sigaction { void *handler; u32 flags; void *restorer; u64 mask; } __attribute__((packed));
enum { SIGINFO = 4, RESTORER = 0x04000000, ONSTACK = 0x08000000, RESTART = 0x10000000, NODEFER = 0x40000000, RESETHAND = 0x80000000 };

static void act(int sig, void *handler, u32 flags, u64 mask)
{
    struct sigaction a = { handler, flags, 0, mask };
    result("sigaction", SYS(rt_sigaction, sig, &a, 0, 8));
}

static u32 resume;
/* Named in assembly. */
static u32 base __attribute__((used)), limits[2] __attribute__((used)) = { 1, 3 }, unmasked __attribute__((used)) = 0x340;
static char altstack[8192] __attribute__((aligned(16)));

/* An rt frame as the handler finds it: arguments are on the stack and in registers. */
static void info_handler(int sig, u32 *info, u32 *uc)
{
    volatile u32 *sc = uc + 5;
    result("signal", sig);
    result(" code", info[2]);
    show(" address", info[3] >= base && info[3] < base + 0x1000 ? info[3] - base : info[3] > 0x08000000 && info[3] < 0x09000000 ? 0xc0de : info[3]);
    show(" trapno", sc[12]);
    show(" err", sc[13]);
    show(" resume and trap flag", sc[16] & 0x10100);
    show(" at the instruction", sc[14] == info[3]);
    show(" cs", sc[15]); show(" ss", sc[18]); show(" ds", sc[3]); show(" es", sc[2]);
    show(" frame aligned", ((u32)&sig) & 15);
    show(" info after arguments", (u32)info - (u32)&sig);
    show(" uc after info", (u32)uc - (u32)info);
    show(" fpstate aligned", (sc[19] + 112) & 63);
    show(" status, magic", *(u32 *)(sc[19] + 108));
    show(" fcw in frame", *(u32 *)sc[19]);
    show(" mxcsr in frame", *(u32 *)(sc[19] + 112 + 24));
    u32 mxcsr; unsigned short cw;
    __asm__("fnstcw %0; stmxcsr %1" : "=m"(cw), "=m"(mxcsr));
    show(" fcw in handler", cw);
    show(" mxcsr in handler", mxcsr);
    show(" alternate", (char *)&sig > altstack && (char *)&sig < altstack + sizeof altstack);
    if (resume) sc[14] = resume;
    if (sig == 5) sc[16] &= ~0x100;
}

static int depth;
static void plain(int sig)
{
    result("plain", sig);
    if (sig == 10 && depth++ == 0) SYS(kill, me(), 12);
    result("end", sig);
}

static void old_frame(int sig)
{
    volatile u32 *sc = (u32 *)&sig + 1;
    show("old frame aligned", (u32)&sig & 15);
    show(" trapno", sc[12]);
    show(" oldmask", sc[20]);
    /* Return address, signal, sigcontext, unused FPU state, mask, code. */
    unsigned char *code = (unsigned char *)&sig - 4 + 4 + 4 + 88 + 624 + 4;
    show(" code", code[0] | code[1] << 8 | code[6] << 16 | code[7] << 24);
    sc[11] = 0x1234; /* EAX */
    sc[8] = 0x5678;  /* EBX */
}

#define TRY(name, code)                                                                        \
    do {                                                                                       \
        puts_(name); put('\n');                                                                \
        __asm__ volatile("movl $1f, %0\n" code "\n1:" : "=m"(resume) : : "eax", "ecx", "edx", "memory"); \
        resume = 0;                                                                            \
    } while (0)

/* Signals of the synchronous kind, and the one that was for a coprocessor's stack, sent by a process: they can be blocked like any other. */
static void sent(int sig) { puts_("sent "); result("signal", sig); }
static void code_of(int sig, u32 *info) { result("sent", sig); result(" code", info[2]); result(" by me", (int)info[3] == me()); }
static void pending(const char *what) { u64 set = 0; SYS(rt_sigpending, &set, 8); puts_(what); put(' '); hex(set >> 32); put(' '); hex(set); put('\n'); }
static void blocked(void)
{
    static const int sigs[] = { 4, 5, 7, 8, 11, 16, 10, 40 };
    u64 all = 0, none = 0;
    for (u32 i = 0; i < sizeof sigs / sizeof *sigs; i++) { act(sigs[i], i & 1 ? (void *)code_of : (void *)sent, i & 1 ? SIGINFO : 0, 0); all |= 1ull << (sigs[i] - 1); }
    for (u32 i = 0; i < sizeof sigs / sizeof *sigs; i++) SYS(tgkill, me(), me(), sigs[i]);
    SYS(rt_sigprocmask, 0, &all, 0, 8);
    for (int twice = 0; twice < 2; twice++)
        for (u32 i = 0; i < 7; i++) { SYS(kill, me(), sigs[i]); pending("pending"); }
    puts_("open\n");
    SYS(rt_sigprocmask, 1, &all, 0, 8);
    pending("pending");
    /* taken by waiting */
    SYS(rt_sigprocmask, 0, &all, 0, 8);
    u32 info[32];
    for (u32 i = 0; i < 7; i++) {
        u64 one = 1ull << (sigs[i] - 1);
        int second[2] = { 1, 0 }, instant[2] = { 0, 0 };
        SYS(tgkill, me(), me(), sigs[i]);
        result("waited for", SYS(rt_sigtimedwait, &one, info, second, 8)); result(" code", info[2]); result(" by me", (int)info[3] == me());
        result("nothing more", SYS(rt_sigtimedwait, &one, info, instant, 8));
    }
    /* sent by another while this waits */
    for (u32 i = 0; i < 7; i++) {
        u64 one = 1ull << (sigs[i] - 1);
        int parent = me(), pid = SYS(fork), status, wait[2] = { 5, 0 }, little[2] = { 0, 30000000 };
        if (!pid) { SYS(nanosleep, little, 0); SYS(kill, parent, sigs[i]); exit_(0); }
        result("waited for", SYS(rt_sigtimedwait, &one, info, wait, 8));
        SYS(wait4, pid, &status, 0, 0);
    }
    /* they don't end a call that they are blocked in, and end one that opens them */
    for (u32 i = 0; i < 7; i++) {
        int parent = me(), pid = SYS(fork), status, fds[2], little[2] = { 0, 30000000 };
        char c = 'x';
        SYS(pipe, fds);
        if (!pid) { SYS(nanosleep, little, 0); SYS(kill, parent, sigs[i]); SYS(nanosleep, little, 0); SYS(write, fds[1], &c, 1); exit_(0); }
        SYS(wait4, pid, &status, 0, 0);
        pending("blocked in wait4");
        result("sigsuspend", SYS(rt_sigsuspend, &none, 8));
        SYS(kill, me(), sigs[i]);
        u32 poll[2] = { fds[0], 1 };
        int second[2] = { 1, 0 };
        result("ppoll", SYS(ppoll, poll, 1, second, &none, 8));
        SYS(close, fds[0]); SYS(close, fds[1]);
    }
    /* A handler's mask, and what one blocks of its own kind */
    act(10, plain, 0, all); depth = 5;
    act(5, plain, 0, 0);
    SYS(rt_sigprocmask, 1, &all, 0, 8);
    SYS(kill, me(), 10);
    /* Neither a child nor a program begins with them, but with the mask. */
    SYS(rt_sigprocmask, 0, &all, 0, 8);
    for (u32 i = 0; i < 6; i++) SYS(kill, me(), sigs[i]);
    int pid = SYS(fork), status;
    if (!pid) { pending("a child's"); exit_(0); }
    SYS(wait4, pid, &status, 0, 0);
    pid = SYS(fork);
    if (!pid) {
        char *argv[] = { "./signals", "x", 0 };
        SYS(kill, me(), 5); SYS(kill, me(), 16);
        SYS(execve, "./none", argv, 0);
        pending("still here");
        SYS(execve, "./signals", argv, 0);
        exit_(1);
    }
    SYS(wait4, pid, &status, 0, 0);
    show("status", status);
    SYS(rt_sigprocmask, 1, &all, 0, 8);
    /* What they do to whom doesn't catch them. */
    for (u32 i = 0; i < 6; i++) {
        pid = SYS(fork);
        if (!pid) { act(sigs[i], 0, 0, 0); SYS(tgkill, me(), me(), sigs[i]); exit_(1); }
        SYS(wait4, pid, &status, 0, 0); show("dies", status & 0x7f);
        pid = SYS(fork);
        if (!pid) { act(sigs[i], (void *)1, 0, 0); SYS(tgkill, me(), me(), sigs[i]); exit_(1); }
        SYS(wait4, pid, &status, 0, 0); show("lives", status);
    }
}

void start(u32 *sp)
{
    if (sp[0] > 1 && *(char *)sp[2] == 'x') {
        u64 mask;
        SYS(rt_sigprocmask, 0, 0, &mask, 8);
        show("executed with the mask", mask); show(" and", mask >> 32);
        pending("pending");
        mask = 1 << 4;
        SYS(rt_sigprocmask, 1, &mask, 0, 8);
        exit_(1);
    }
    base = SYS(mmap2, 0, 0x1000, 1, 0x22, -1, 0);
    act(11, info_handler, SIGINFO, 0); act(8, info_handler, SIGINFO, 0); act(4, info_handler, SIGINFO, 0);
    act(5, info_handler, SIGINFO, 0); act(7, info_handler, SIGINFO, 0);
    u32 cw = 0x27f, mx = 0x3f80;
    __asm__ volatile("fldcw %0; ldmxcsr %1" : : "m"(cw), "m"(mx));
    TRY("null read", "movl 0, %%eax");
    TRY("null write", "movl %%eax, 4");
    TRY("write to read-only", "movl %0, %%eax; movl base, %%edx; movl %%eax, 8(%%edx)");
    TRY("jump to nowhere", "movl $0x20, %%eax; jmp *%%eax");
    TRY("jump to data", "movl base, %%eax; jmp *%%eax");
    TRY("kernel address", "movl 0xffffe000, %%eax");
    TRY("divide", "xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx");
    TRY("ud2", "ud2");
    TRY("hlt", "hlt");
    TRY("cli", "cli");
    TRY("in", "inb $0x70, %%al");
    TRY("int3", "int3");
    TRY("int 3", ".byte 0xcd, 3");
    TRY("into", "movb $0x7f, %%al; addb $1, %%al; into");
    TRY("int 0x81", "int $0x81");
    TRY("bound", "movl $9, %%eax; boundl %%eax, limits");
    TRY("segment", "movw $0x1234, %%ax; movw %%ax, %%es");
    TRY("x87", "fninit; fldcw unmasked; fld1; fldz; fdivrp; fwait");
    __asm__ volatile("fnclex; fninit");
    TRY("trap flag", "pushf; orl $0x100, (%%esp); popf; nop");
    result("fcw survives", ({ unsigned short w; __asm__ volatile("fnstcw %0" : "=m"(w)); w; }));
    /* Alternate stack. */
    u32 st[3] = { (u32)altstack, 0, sizeof altstack };
    result("sigaltstack", SYS(sigaltstack, st, 0));
    act(11, info_handler, SIGINFO | ONSTACK, 0);
    TRY("on the alternate stack", "movl 0, %%eax");
    u32 old[3];
    SYS(sigaltstack, 0, old);
    show("altstack flags", old[1]);
    /* Nesting and masks. */
    act(10, plain, 0, 0); act(12, plain, 0, 0);
    SYS(kill, me(), 10);
    act(10, plain, 0, 1 << 11); depth = 0;
    SYS(kill, me(), 10);
    act(10, plain, RESETHAND, 0); depth = 1;
    SYS(kill, me(), 10);
    struct sigaction now;
    SYS(rt_sigaction, 10, 0, &now, 8);
    show("reset", (u32)now.handler);
    /* Blocked, pending, delivered when opened. */
    u64 set = 1 << 11, pending = 0;
    SYS(rt_sigprocmask, 0, &set, 0, 8);
    SYS(kill, me(), 12);
    SYS(rt_sigpending, &pending, 8);
    show("pending", pending);
    SYS(rt_sigprocmask, 1, &set, 0, 8);
    /* A context edited by an old-style handler. */
    act(12, old_frame, 0, 0);
    u32 eax, ebx;
    __asm__ volatile("int $0x80" : "=a"(eax), "=b"(ebx) : "a"(__NR_kill), "b"(me()), "c"(12) : "memory");
    show("eax", eax); show("ebx", ebx);
    /* Interrupted sleep, with and without restart. */
    act(14, plain, 0, 0);
    u32 timer[4] = { 0, 0, 0, 20000 };
    SYS(setitimer, 0, timer, 0);
    result("nanosleep", SYS(nanosleep, ((u32[]){ 5, 0 }), 0));
    int fds[2]; char c;
    SYS(pipe, fds);
    SYS(setitimer, 0, timer, 0);
    result("read", SYS(read, fds[0], &c, 1));
    /* Default action of a synchronous signal kills. */
    int pid = SYS(fork), status;
    if (!pid) { act(11, 0, 0, 0); *(volatile int *)0 = 1; exit_(1); }
    SYS(wait4, pid, &status, 0, 0);
    show("died of", status & 0x7f);
    pid = SYS(fork);
    if (!pid) { SYS(exit, 42); }
    SYS(wait4, pid, &status, 0, 0);
    show("status", status);
    blocked();
    act(11, info_handler, SIGINFO, 0);
    set = 1 << 10;
    SYS(rt_sigprocmask, 0, &set, 0, 8);
    *(volatile int *)0 = 1; /* a fault that is blocked kills all the same */
    exit_(0);
}
