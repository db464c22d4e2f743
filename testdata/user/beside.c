/* Processes that share their memory without being threads: clone with CLONE_VM alone. And what every end of a process does
   with the robust futexes it holds, and with its core. */
#include "user.h"

enum { VM = 0x100, FILES = 0x400, SIGHAND = 0x800, PARENT_SETTID = 0x100000, CLEARTID = 0x200000, CHLD = 17, WALL = 0x40000000 };
static char stacks[8][16384] __attribute__((aligned(16)));
static volatile u32 shared, stop, pid_seen, ppid_seen, tid_seen = 5;
static int status;

/* clone whose child calls `f` on a stack of its own */
static int beside(int flags, void (*f)(void), int stack, volatile u32 *ptid, volatile u32 *ctid)
{
    u32 *sp = (u32 *)(stacks[stack] + sizeof *stacks) - 2;
    *sp = (u32)f;
    int r;
    __asm__ volatile("int $0x80; test %%eax, %%eax; jnz 1f; ret; 1:" : "=a"(r) : "a"(__NR_clone), "b"(flags), "c"(sp), "d"(ptid), "S"(0), "D"(ctid) : "memory", "cc");
    return r;
}
static void yield(void) { SYS(sched_yield); }
static void end(int pid, const char *what)
{
    int r = SYS(wait4, pid, &status, WALL, 0);
    puts_(what); put(' '); hex(r == pid ? status : -r); put('\n');
}

static void body(void) { shared = 77; pid_seen = me(); ppid_seen = SYS(getppid); while (!stop) yield(); SYS(exit, 9); }
static void files(void) { shared = SYS(open, "/dev/null", 0, 0); exit_(0); }
static void act(void) { u32 ignore[5] = { 1 }; SYS(rt_sigaction, 12, ignore, 0, 8); exit_(0); }
static void map(void)
{
    u32 args[6] = { 0x20000000, 4096, 7, 0x32, -1, 0 };
    SYS(mmap, args);
    __builtin_memcpy((void *)0x20000000, "\xb8\x2a\0\0\0\xc3", 6);
    exit_(((int (*)(void))0x20000000)());
}
static void loop(void) { for (;;) shared++; }
static void die(void) { *(volatile int *)0 = 0; }
static void executes(void) { char *argv[] = { "./stack", 0 }; SYS(close, 1); SYS(execve, "./stack", argv, 0); exit_(99); }
static void handler(int sig) { shared = sig; }
static int call(void) { return ((int (*)(void))0x20000000)(); }

static void processes(void)
{
    int pid = beside(VM | CHLD, body, 0, 0, 0);
    while (shared != 77 || !ppid_seen) yield();
    result("its own pid", (int)pid_seen == pid); result("this parent", (int)ppid_seen == me());
    result("runs", SYS(wait4, pid, &status, 1, 0));
    stop = 1;
    end(pid, "exit");
    end(beside(VM | CHLD, files, 0, 0, 0), "files"); result("of its own", SYS(fcntl64, shared, 1, 0));
    end(beside(VM | FILES | CHLD, files, 0, 0, 0), "files"); result("shared", SYS(fcntl64, shared, 1, 0));
    u32 action[5] = { (u32)handler };
    SYS(rt_sigaction, 12, action, 0, 8);
    end(beside(VM | CHLD, act, 0, 0, 0), "actions"); shared = 0; SYS(kill, me(), 12); result("of its own", shared);
    end(beside(VM | SIGHAND | CHLD, act, 0, 0, 0), "actions"); shared = 0; SYS(kill, me(), 12); result("shared", shared);
    end(beside(VM | CHLD, map, 0, 0, 0), "maps"); result("here too", call());
    for (int i = 0; i < 4; i++) {
        shared = 0;
        pid = beside(VM | CHLD, loop, 1, 0, 0);
        while (shared < 1000) yield();
        /* code that changes while the other runs */
        ((char *)0x20000000)[1] = 50 + i;
        result("called", call());
        SYS(kill, pid, 15);
        end(pid, "killed");
        ((char *)0x20000000)[1] = 60 + i;
        result("called", call());
    }
    end(beside(VM | CHLD, die, 0, 0, 0), "faults");
    end(beside(VM | CHLD, executes, 0, 0, 0), "executes");
    int pids[8];
    stop = 0;
    for (int i = 0; i < 8; i++) pids[i] = beside(VM | CHLD, body, i, 0, 0);
    stop = 1;
    for (int i = 0; i < 8; i++) end(pids[i], "one of eight");
    volatile u32 parent_tid = 0;
    pid = beside(VM | PARENT_SETTID | CLEARTID | CHLD, body, 0, &parent_tid, &tid_seen);
    result("parent's", (int)parent_tid == pid);
    end(pid, "tids"); result("cleared", tid_seen);
    SYS(rt_sigaction, 10, action, 0, 8);
    pid = beside(VM | 10, body, 0, 0, 0);
    result("not of that kind", SYS(wait4, pid, &status, 0, 0));
    end(pid, "other signal");
}

/* A robust list of one lock, at `word`. */
static struct { u32 next, offset, pending; } head;
static struct { u32 next; volatile u32 word; } *lock;
static void holds(int how)
{
    lock->next = (u32)&head;
    head.next = (u32)lock; head.offset = 4;
    SYS(set_robust_list, &head, 12);
    lock->word = SYS(gettid) | 0x80000000;
    switch (how) {
    case 0: SYS(exit, 0);
    case 1: exit_(0);
    case 2: SYS(kill, me(), 6);
    case 3: SYS(kill, me(), 15);
    case 4: *(volatile int *)0 = 0;
    case 5: executes();
    }
}
static void robust(void)
{
    u32 args[6] = { 0, 4096, 3, 0x21, -1, 0 }, at, size;
    lock = (void *)SYS(mmap, args);
    for (int how = 0; how < 6; how++) {
        int pid = SYS(fork);
        if (!pid) holds(how);
        end(pid, "holder"); show("lock", lock->word);
    }
    SYS(set_robust_list, &head, 12);
    result("own list", SYS(get_robust_list, 0, &at, &size)); result("same", at == (u32)&head); result("size", size);
    result("nobody's", SYS(get_robust_list, 0x3ffffff, &at, &size));
    result("bad size", SYS(set_robust_list, &head, 24));
}

static int sigs[] = { 3, 4, 5, 6, 7, 8, 11, 24, 25, 31, 1, 2, 9, 10, 13, 14, 15, 16, 64 };
static void cores(void)
{
    char pattern = 0;
    int of = SYS(open, "/proc/sys/kernel/core_pattern", 0, 0);
    SYS(read, of, &pattern, 1);
    SYS(close, of);
    if (pattern == '|' || pattern == '/' || pattern == '@') {
        puts_("cores go elsewhere here\n");
        return;
    }
    char dir[] = "/tmp/xlat86-core-00000000";
    u32 n = me();
    for (int i = 24; n; n /= 10) dir[i--] = '0' + n % 10;
    if (SYS(mkdir, dir, 0700)) puts_("no directory\n");
    SYS(chdir, dir);
    u32 limits[][2] = { { 0, ~0u }, { 4095, ~0u }, { ~0u, ~0u } };
    for (u32 l = 0; l < 3; l++)
        for (u32 i = 0; i < sizeof sigs / sizeof *sigs; i++)
            for (int how = 0; how < 3; how++) {
                lock->word = 1;
                int pid = SYS(fork);
                if (!pid) {
                    SYS(setrlimit, 4, limits[l]);
                    u32 plain[5] = { 0 };
                    SYS(rt_sigaction, sigs[i], plain, 0, 8);
                    /* to oneself, in a call, in a loop */
                    if (how == 0) SYS(kill, me(), sigs[i]);
                    lock->word = 0;
                    if (how == 1) for (;;) SYS(pause);
                    for (;;) ;
                }
                if (how) { int t[2] = { 0, 2000000 }; while (lock->word) SYS(nanosleep, t, 0); SYS(kill, pid, sigs[i]); }
                SYS(wait4, pid, &status, 0, 0);
                unsigned char header[20] = { 0 };
                int fd = SYS(open, "core", 0, 0), size = 0;
                if (fd >= 0) { SYS(read, fd, header, 20); size = SYS(lseek, fd, 0, 2); SYS(close, fd); SYS(unlink, "core"); }
                puts_("signal "); dec(sigs[i]); put(' '); hex(status); put(' '); dec(size > 8192);
                put(' '); dec(header[4]); put(' '); dec(header[16]); put(' '); dec(header[18]); put('\n');
            }
    SYS(chdir, "/");
    result("nothing else is left", SYS(rmdir, dir));
}

void start(u32 *sp)
{
    (void)sp;
    processes();
    robust();
    cores();
    exit_(0);
}
