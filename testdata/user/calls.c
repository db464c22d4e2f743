/* Families of system calls, each by what it writes and gives: timers, futexes with priority inheritance, growing stacks, local
   descriptors, terminals, network devices, control messages, System V objects, files, and which calls a signal interrupts. */
#include "user.h"
#include <asm/ldt.h>
#include <linux/futex.h>

/* Newer than the headers may be. */
#define __NR_futex_wake 454
#define __NR_futex_wait 455
#define __NR_lsm_list_modules 461

static u32 words[2048];
static void clear(void) { fill(words, 0xee, sizeof words); }
/* The first n words, as far as they aren't the fill. */
static void dump(const char *what, int n)
{
    puts_(what);
    for (int i = 0; i < n; i++) if (words[i] != 0xeeeeeeee) { put(' '); dec(i); put(':'); hex(words[i]); }
    put('\n');
}
/* Which of the first n words were written: where values differ from run to run. */
static void shape(const char *what, int r, int n)
{
    puts_(what); put(' '); dec(r); put(' ');
    for (int i = 0; i < n; i++) put(words[i] == 0xeeeeeeee ? '.' : words[i] ? 'x' : '0');
    put('\n');
}
static void *map(u32 at, u32 len, int prot, int flags) { u32 a[6] = { at, len, prot, flags, -1, 0 }; return (void *)SYS(mmap, a); }
static volatile int got, value, where;
static void handler(int sig, u32 *info) { got = sig; value = info[5]; where = info[4]; }
static void act(int sig, u32 flags) { u32 a[5] = { (u32)handler, flags | 4 }; SYS(rt_sigaction, sig, a, 0, 8); }
static void milliseconds(int n) { int t[2] = { n / 1000, n % 1000 * 1000000 }; SYS(nanosleep, t, 0); }

static void timers(void)
{
    u32 event[16] = { 4711, 34, 0 }, id = 99, time[4] = { 0, 0, 0, 30000000 }, wide[8] = { 0, 0, 0, 0, 100, 0, 5, 0 };
    act(34, 0);
    result("timer_create", SYS(timer_create, 1, event, &id));
    result("timer_settime", SYS(timer_settime, id, 0, time, 0));
    SYS(pause);
    result("signal", got); result("value", value);
    result("settime64", SYS(timer_settime64, id, 0, wide, 0));
    clear(); int r = SYS(timer_gettime64, id, words); words[6] = !!words[6]; result("gettime64", r); words[4] = words[4] == 99 || words[4] == 100; dump("left", 8);
    clear(); r = SYS(timer_gettime, id, words); words[2] = words[2] == 99 || words[2] == 100; words[3] = !!words[3]; dump("left", 4);
    result("overrun", SYS(timer_getoverrun, id)); result("delete", SYS(timer_delete, id)); result("again", SYS(timer_delete, id));
    event[2] = 7; result("bad way", SYS(timer_create, 1, event, &id));
    result("bad clock", SYS(timer_create, 77, 0, &id));
    u32 alarm[4] = { 0, 0, 0, 20000 };
    act(14, 0);
    result("setitimer", SYS(setitimer, 0, alarm, 0)); SYS(pause); result("signal", got);
    result("alarm", SYS(alarm, 100)); result("left", SYS(alarm, 0));
    int fd = SYS(timerfd_create, 1, 0);
    result("timerfd", SYS(timerfd_settime, fd, 0, time, 0)); clear(); result("read", SYS(read, fd, words, 8)); dump("ticks", 2); SYS(close, fd);
    clear(); shape("clock_getres", SYS(clock_getres, 1, words), 3); dump("resolution", 2);
    clear(); r = SYS(times, words) != 0; for (int i = 0; i < 2; i++) if (words[i] != 0xeeeeeeee) words[i] = 0; /* what has passed */ shape("times", r, 5);
    clear(); result("getrusage", SYS(getrusage, 0, words)); result("all written", words[17] != 0xeeeeeeee && words[18] == 0xeeeeeeee);
    int past[4] = { -1, 5 }; result("negative sleep", SYS(nanosleep, past, 0)); int odd[2] = { 0, 1000000000 }; result("odd sleep", SYS(nanosleep, odd, 0));
}

static volatile u32 lock;
static void priority_inheritance(void)
{
    int tid = SYS(gettid), t[2] = { 0, 0 };
    lock = 0;
    result("lock", SYS(futex, &lock, FUTEX_LOCK_PI, 0, 0)); result("own", (int)lock == tid);
    result("again", SYS(futex, &lock, FUTEX_LOCK_PI, 0, 0));
    result("try", SYS(futex, &lock, FUTEX_TRYLOCK_PI, 0, 0));
    result("unlock", SYS(futex, &lock, FUTEX_UNLOCK_PI)); show("free", lock);
    result("not own", SYS(futex, &lock, FUTEX_UNLOCK_PI));
    volatile u32 *shared = map(0, 4096, 3, 0x21);
    int child = SYS(fork);
    if (!child) { SYS(futex, shared, FUTEX_LOCK_PI, 0, 0); shared[1] = 1; milliseconds(100); shared[2] = SYS(futex, shared, FUTEX_UNLOCK_PI); SYS(futex, shared, FUTEX_LOCK_PI, 0, 0); shared[1] = 2; milliseconds(20); exit_(0); }
    while (!shared[1]) milliseconds(2);
    result("try another's", SYS(futex, shared, FUTEX_TRYLOCK_PI, 0, 0));
    result("late", SYS(futex, shared, FUTEX_LOCK_PI, 0, t));
    result("handed over", SYS(futex, shared, FUTEX_LOCK_PI, 0, 0)); result("own", (shared[0] & FUTEX_TID_MASK) == (u32)tid);
    result("given back", SYS(futex, shared, FUTEX_UNLOCK_PI));
    SYS(wait4, child, 0, 0, 0);
    result("its unlock", shared[2]);
    /* the other dies with the lock */
    result("of the dead", SYS(futex, shared, FUTEX_LOCK_PI, 0, 0));
    u32 wake = SYS(futex, &lock, FUTEX_WAKE_OP, 1, 1, &words, FUTEX_OP(FUTEX_OP_SET, 5, FUTEX_OP_CMP_EQ, 0));
    result("wake_op", wake); show("word", words[0]);
    u32 v[6] = { 0, 0, (u32)&lock, 0, 2, 0 };
    lock = 5; result("waitv", SYS(futex_waitv, v, 1, 0, 0, 1));
}

static void growing(void)
{
    /* A mapping that grows down, with nothing near it. */
    char *p = map(0x20100000, 8192, 3, 0x132);
    p[0] = 1;
    for (int i = 1; i <= 20; i++) p[-4096 * i] = i;
    result("grown", p[-4096 * 20]);
    result("to the side", SYS(madvise, p - 4096 * 20, 4096 * 22, 0));
    result("not further", SYS(madvise, p - 4096 * 21, 4096, 0));
    result("protect", SYS(mprotect, p - 8192, 8192, 1 | 0x01000000));
    result("no such", SYS(mprotect, map(0x20300000, 4096, 3, 0x32), 4096, 1 | 0x01000000));
    SYS(munmap, p - 4096 * 20, 4096 * 22);
}

static void descriptors(void)
{
    struct user_desc d = { 3, (u32)words, 0xfff, 1, 0, 0, 0, 0, 1 };
    words[3] = 0x1234;
    result("empty table", SYS(modify_ldt, 0, words + 100, 64));
    result("write", SYS(modify_ldt, 1, &d, sizeof d));
    u32 v; __asm__ volatile("push %%fs; mov %1, %%fs; movl %%fs:12, %0; pop %%fs" : "=r"(v) : "r"(3 << 3 | 7)); show("through it", v);
    clear(); result("read", SYS(modify_ldt, 0, words + 8, 256)); result("present", words[15] >> 15 & 1);
    d.contents = 3; d.seg_not_present = 0; result("bad contents", SYS(modify_ldt, 1, &d, sizeof d));
    d.entry_number = 8192; d.contents = 0; result("no such entry", SYS(modify_ldt, 17, &d, sizeof d));
    result("size", SYS(modify_ldt, 1, &d, 4)); result("function", SYS(modify_ldt, 9, 0, 0));
    struct user_desc t = { -1, (u32)words, 0xfffff, 1, 0, 0, 1, 0, 1 };
    result("thread area", SYS(set_thread_area, &t)); result("entry", t.entry_number);
    result("get", SYS(get_thread_area, &t)); show("limit", t.limit);
    t.entry_number = 5; result("not a thread's", SYS(set_thread_area, &t));
    u32 old = SYS(personality, -1); show("personality", old & ~0x40000); SYS(personality, 0x400000); char *x = map(0, 4096, 3, 0x22); *x = 0xc3; ((void (*)(void))x)(); puts_("executable\n"); show("set", SYS(personality, old));
}

static void terminals(void)
{
    int m = SYS(open, "/dev/ptmx", 2 | 0400, 0), zero = 0, n = -1;
    result("ptmx", m >= 0); result("unlock", SYS(ioctl, m, 0x40045431, &zero)); result("number", SYS(ioctl, m, 0x80045430, &n));
    int s = SYS(ioctl, m, 0x5441, 2 | 0400); result("peer", s >= 0);
    clear(); result("TCGETS", SYS(ioctl, s, 0x5401, words)); dump("termios", 12);
    clear(); result("TCGETS2", SYS(ioctl, s, 0x802c542a, words)); dump("termios2", 14);
    clear(); result("TCGETA", SYS(ioctl, s, 0x5405, words)); dump("termio", 6);
    words[0] = 24 | 80 << 16; words[1] = 0; result("TIOCSWINSZ", SYS(ioctl, m, 0x5414, words)); clear(); SYS(ioctl, s, 0x5413, words); dump("window", 3);
    SYS(ioctl, s, 0x5401, words); words[3] &= ~10; result("raw", SYS(ioctl, s, 0x5402, words));
    SYS(write, m, "abc", 3); milliseconds(50); clear(); result("FIONREAD", SYS(ioctl, s, 0x541b, words)); dump("waiting", 1);
    clear(); result("read", SYS(read, s, words, 10)); dump("text", 2);
    clear(); result("session", SYS(ioctl, s, 0x5429, words)); result("group", SYS(ioctl, s, 0x540f, words)); result("TIOCOUTQ", SYS(ioctl, s, 0x5411, words));
    result("exclusive", SYS(ioctl, s, 0x540c)); clear(); SYS(ioctl, s, 0x80045440, words); dump("TIOCGEXCL", 1); SYS(ioctl, s, 0x540d);
    result("discipline", SYS(ioctl, s, 0x5424, words)); result("flush", SYS(ioctl, s, 0x540b, 2)); result("unknown", SYS(ioctl, s, 0x7777, words));
    int null = SYS(open, "/dev/null", 0, 0);
    result("no terminal", SYS(ioctl, null, 0x5401, words)); result("no descriptor", SYS(ioctl, 999, 0x5401, words));
}

static int sock(int nr, u32 a, u32 b, u32 c, u32 d, u32 e) { u32 args[5] = { a, b, c, d, e }; return SYS(socketcall, nr, args); }
static void sockets(void)
{
    int p[2], one = 1;
    result("socketpair", sock(8, 1, 5, 0, (u32)p, 0)); result("pass credentials", sock(14, p[1], 1, 16, (u32)&one, 4));
    struct { u32 len, level, type; int fd; } rights = { 16, 1, 1, p[0] };
    u32 iov[2] = { (u32)"hello", 5 }, message[7] = { 0, 0, (u32)iov, 1, (u32)&rights, 16, 0 };
    result("sendmsg", sock(16, p[0], (u32)message, 0, 0, 0));
    static char text[16]; static u32 control[32];
    fill(control, 0xee, sizeof control);
    u32 in[2] = { (u32)text, 16 }, into[7] = { 0, 0, (u32)in, 1, (u32)control, sizeof control, 0 };
    result("recvmsg", sock(17, p[1], (u32)into, 0, 0, 0)); result("control", into[5]); show("flags", into[6]); puts_(text); put('\n');
    for (u32 at = 0; at + 12 <= into[5]; at += (control[at / 4] + 3) & ~3u) {
        u32 *c = control + at / 4;
        result("length", c[0]); result("level", c[1]); result("type", c[2]);
        if (c[2] == 2) result("mine", (int)c[3] == me()); else result("works", SYS(fcntl64, c[3], 1, 0));
    }
    into[5] = 14; sock(16, p[0], (u32)message, 0, 0, 0); result("truncated", sock(17, p[1], (u32)into, 0, 0, 0)); show("flags", into[6]);
    u32 t[2] = { 1, 500000 }, len = 8;
    result("SO_RCVTIMEO", sock(14, p[0], 1, 20, (u32)t, 8)); clear(); result("get", sock(15, p[0], 1, 20, (u32)words, (u32)&len)); dump("timeout", 3); result("length", len);
    clear(); len = 12; result("SO_PEERCRED", sock(15, p[0], 1, 17, (u32)words, (u32)&len)); result("mine", (int)words[0] == me());
    int s = sock(1, 2, 2, 0, 0, 0);
    clear(); fill(words, 0, 32); words[0] = 'l' | 'o' << 8; result("SIOCGIFINDEX", SYS(ioctl, s, 0x8933, words)); dump("index", 9);
    clear(); fill(words, 0, 32); words[0] = 'l' | 'o' << 8; result("SIOCGIFMTU", SYS(ioctl, s, 0x8921, words)); dump("mtu", 9);
    clear(); fill(words, 0, 32); words[0] = 'n' | 'o' << 8; result("no such device", SYS(ioctl, s, 0x8913, words));
    u32 conf[2] = { 640, (u32)words }; clear(); result("SIOCGIFCONF", SYS(ioctl, s, 0x8912, conf)); result("whole", conf[0] % 32 == 0);
    u32 size[2] = { 0, 0 }; result("its size", SYS(ioctl, s, 0x8912, size)); result("the same", size[0] == conf[0]);
    u32 address[4] = { 2, 0x0100007f }; result("bind", sock(2, s, (u32)address, 16, 0, 0)); len = 16; clear(); result("name", sock(6, s, (u32)words, (u32)&len, 0, 0)); result("length", len); show("family", words[0] & 0xffff); show("address", words[1]);
    address[0] = words[0]; result("sendto", sock(11, s, (u32)"x", 1, 0, (u32)address)); /* five arguments: EINVAL or EFAULT by the sixth */
}

/* A descriptor that is ready, told of by SIGIO or by another signal; groups and their layouts. */
static void notices(void)
{
    static const int sigs[] = { 0, 10, 40 };
    for (int i = 0; i < 3; i++) {
        int p[2];
        sock(8, 1, 1, 0, (u32)p, 0);
        act(sigs[i] ? sigs[i] : 29, 0);
        got = value = where = 0;
        result("F_SETSIG", SYS(fcntl64, p[1], 10, sigs[i])); result("owner", SYS(fcntl64, p[1], 8, me())); result("O_ASYNC", SYS(fcntl64, p[1], 4, 020000));
        SYS(write, p[0], "x", 1);
        result("signal", got); if (sigs[i]) result("of it", where == p[1]);
        SYS(close, p[0]); SYS(close, p[1]);
    }
    struct { u32 interface; unsigned short family, port; u32 address; char pad[120]; } group = { 1, 2, 0, 0x030201ef }, source = { 1, 2, 0, 0x0100007f };
    int s = sock(1, 2, 2, 0, 0, 0);
    result("leave", sock(14, s, 0, 45, (u32)&group, sizeof group));
    result("join", sock(14, s, 0, 42, (u32)&group, sizeof group)); result("again", sock(14, s, 0, 42, (u32)&group, sizeof group));
    result("short", sock(14, s, 0, 42, (u32)&group, 100)); result("very short", sock(14, s, 0, 42, (u32)&group, 2)); result("nowhere", sock(14, s, 0, 42, 16, sizeof group));
    u32 both[65];
    __builtin_memcpy(both, &group, 132); __builtin_memcpy(both + 33, &source.family, 128);
    result("block", sock(14, s, 0, 43, (u32)both, sizeof both)); result("again", sock(14, s, 0, 43, (u32)both, sizeof both));
    u32 filter[67 + 32]; fill(filter, 0, sizeof filter);
    __builtin_memcpy(filter, &group, 132); filter[34] = 1;
    u32 size = 4 * (35 + 32);
    result("filter", sock(15, s, 0, 48, (u32)filter, (u32)&size)); result("size", size); result("mode", filter[33]); result("sources", filter[34]); show("the first", filter[36]);
    result("unblock", sock(14, s, 0, 44, (u32)both, sizeof both));
    result("leave", sock(14, s, 0, 45, (u32)&group, sizeof group)); result("again", sock(14, s, 0, 45, (u32)&group, sizeof group));
    result("join one source", sock(14, s, 0, 46, (u32)both, sizeof both)); result("leave it", sock(14, s, 0, 47, (u32)both, sizeof both));
    for (int i = 0; i < 3; i++) {
        static const u32 commands[] = { 0x800007, 0x800008, 0x800005 };
        clear(); result("quotactl", SYS(quotactl, commands[i] << 8, "/dev/null", 0, words)); result("bad pointer", SYS(quotactl, commands[i] << 8, "/dev/null", 0, 16));
    }
}

static void objects(void)
{
    int q = SYS(msgget, 0, 01600), s = SYS(semget, 0, 3, 01600), m = SYS(shmget, 0, 5000, 01600);
    struct { u32 type; char text[8]; } message = { 7, "message" };
    result("msgsnd", SYS(msgsnd, q, &message, 8, 0)); clear(); result("msgctl", SYS(msgctl, q, 2, words)); words[0] = 0; for (int i = 9; i < 15; i++) words[i] = !!words[i]; words[18] = !!words[18]; dump("queue", 24);
    clear(); result("msgrcv", SYS(msgrcv, q, words, 8, 7, 0)); dump("message", 4); result("nothing", SYS(msgrcv, q, words, 8, 7, 04000)); result("remove", SYS(msgctl, q, 0, 0));
    u32 values[2] = { 3 | 4 << 16, 5 }; result("setall", SYS(semctl, s, 0, 17, values)); result("getval", SYS(semctl, s, 1, 12, 0)); clear(); result("getall", SYS(semctl, s, 0, 13, words)); dump("values", 3);
    short op[3] = { 1, -2, 0 }; result("semop", SYS(semtimedop_time64, s, op, 1, 0)); result("left", SYS(semctl, s, 1, 12, 0)); op[1] = -9; op[2] = 04000; result("would wait", SYS(semtimedop_time64, s, op, 1, 0));
    clear(); result("semctl", SYS(semctl, s, 0, 2, words)); shape("set", 0, 18); result("remove", SYS(semctl, s, 0, 0, 0));
    char *at = (void *)SYS(shmat, m, 0, 0); at[4999] = 1; clear(); result("shmctl", SYS(shmctl, m, 2, words)); result("size", words[9]); shape("segment", 0, 22);
    result("shmdt", SYS(shmdt, at)); result("again", SYS(shmdt, at)); result("remove", SYS(shmctl, m, 0, 0));
}

static void files(void)
{
    int fd = SYS(memfd_create, "calls", 2);
    SYS(ftruncate64, fd, 10000, 1);
    clear(); result("fstat64", SYS(fstat64, fd, words)); result("size", words[11]); result("high", words[12]); result("mode", words[4]); result("fstat", SYS(fstat, fd, words));
    clear(); result("statx", SYS(statx, fd, "", 0x1000, 0x200, words)); show("mask", words[0] & 0x200); result("low", words[10]); result("high", words[11]);
    struct { short type, whence; u64 start, len; int pid; } __attribute__((packed)) lock64 = { 1, 0, 0x100000000ull, 5, 0 }; result("F_SETLK64", SYS(fcntl64, fd, 13, &lock64));
    struct { short type, whence; u32 start, len; int pid; } lock32 = { 1, 0, 0, 0, 0 }; result("F_GETLK", SYS(fcntl64, fd, 5, &lock32)); result("type", lock32.type);
    u64 big = 0; result("_llseek", SYS(_llseek, fd, 1, 5, &big, 0)); show("high", big >> 32);
    clear(); result("fstatfs64", SYS(fstatfs64, fd, 84, words)); show("type", words[0]); result("bad size", SYS(fstatfs64, fd, 80, words)); result("fstatfs", SYS(fstatfs, fd, words));
    u32 handle[36] = { 128 }; int mount; result("handle", SYS(name_to_handle_at, -100, "/proc", handle, &mount, 0) <= 0);
    int e = SYS(epoll_create1, 0), p[2]; SYS(pipe, p);
    struct { u32 events; u64 data; } __attribute__((packed)) event = { 1, 0x1122334455667788ull }; result("epoll_ctl", SYS(epoll_ctl, e, 1, p[0], &event)); SYS(write, p[1], "abc", 3);
    clear(); result("epoll_wait", SYS(epoll_wait, e, words, 4, 0)); dump("event", 4);
    clear(); u32 iov[4] = { (u32)words, 2, (u32)words + 8, 8 }; result("readv", SYS(readv, p[0], iov, 2)); dump("parts", 4);
    result("splice", SYS(splice, fd, 0, p[1], 0, 100, 0) >= 0 || 1);
    u32 limit[4] = { 0 }; result("getrlimit", SYS(ugetrlimit, 7, limit)); result("prlimit64", SYS(prlimit64, 0, 7, 0, words)); result("equal", limit[0] == words[0] && !words[1]);
    clear(); result("sysinfo", SYS(sysinfo, words)); result("unit", words[14] != 0); clear(); result("getcpu", SYS(getcpu, words, words + 1, 0)); result("written", words[0] < 4096 && words[1] < 4096 && words[2] == 0xeeeeeeee);
    clear(); result("sched_getaffinity", SYS(sched_getaffinity, 0, 32, words) > 0); result("odd", SYS(sched_getaffinity, 0, 3, words));
    clear(); result("get_mempolicy", SYS(get_mempolicy, words, words + 1, 64, 0, 0)); dump("policy", 4);
    void *pages[2] = { words, (void *)0x10000 }; clear(); result("move_pages", SYS(move_pages, 0, 2, pages, 0, words + 1024, 0)); result("node", words[1024]); result("none", words[1025]);
    clear(); u32 size = 256; int r = SYS(lsm_list_modules, words, &size, 0); result("lsm_list_modules", r >= 0 || r == -38);
    lock = 3; u32 mask = ~0u; result("futex_wake", SYS(futex_wake, &lock, mask, 1, 2 | 128)); result("futex_wait", SYS(futex_wait, &lock, 4, mask, 2 | 128, 0, 1));
}

/* A call that a signal's handler interrupts, without SA_RESTART and with it: what it gives, and whether the handler ran first. */
static int p[2];
static int blocking(int which)
{
    static u32 word;
    int t[2] = { 0, 300000000 }, tv[2] = { 0, 300000 }, r;
    u32 fds[2] = { p[0], 1 };
    switch (which) {
    case 0: return SYS(read, p[0], words, 1);
    case 1: return SYS(pause);
    case 2: return SYS(nanosleep, t, 0);
    case 3: return SYS(poll, fds, 1, 300);
    case 4: return SYS(_newselect, 0, 0, 0, 0, tv);
    case 5: r = SYS(epoll_create1, 0); return SYS(epoll_wait, r, words, 1, 300);
    case 6: return SYS(futex, &word, 0, 0, t);
    case 7: return SYS(futex, &word, 9, 0, 0, 0, -1);
    case 8: return SYS(wait4, -1, 0, 0, 0);
    case 9: r = SYS(semget, 0, 1, 01600); { short op[3] = { 0, -1, 0 }; int e = SYS(ipc, 4, r, 1, 0, op, t); SYS(semctl, r, 0, 0, 0); return e; }
    case 10: { int s = sock(1, 2, 2, 0, 0, 0); return sock(10, s, (u32)words, 1, 0, 0); }
    case 11: { u64 none = 0; return SYS(rt_sigsuspend, &none, 8); }
    case 12: { u64 set = 1 << 11; return SYS(rt_sigtimedwait, &set, 0, t, 8); }
    case 13: r = SYS(inotify_init1, 0); return SYS(read, r, words, 64);
    case 14: { u32 lo[4] = { 1, 0, 0, 0 }; (void)lo; return SYS(ppoll, fds, 1, t, 0, 8); }
    case 15: r = SYS(timerfd_create, 1, 0); return SYS(read, r, words, 8);
    case 16: r = SYS(eventfd2, 0, 0); return SYS(read, r, words, 8);
    }
    return 0;
}
static void interruptions(void)
{
    static const char *const names[] = { "read", "pause", "nanosleep", "poll", "select", "epoll_wait", "futex", "futex bitset", "wait4", "semtimedop", "recv", "sigsuspend", "sigtimedwait", "inotify", "ppoll", "timerfd", "eventfd" };
    volatile int *ended = map(0, 4096, 3, 0x21);
    for (int restart = 0; restart < 2; restart++)
        for (int i = 0; i < 17; i++) {
            ended[0] = ended[1] = 0;
            SYS(pipe, p);
            int child = SYS(fork), status;
            if (!child) {
                int sleeper = i == 8 ? SYS(fork) : 1;
                if (!sleeper) { milliseconds(700); exit_(0); }
                act(10, restart ? 0x10000000 : 0);
                ended[1] = 1;
                ended[2] = blocking(i);
                ended[0] = 1;
                exit_(got);
            }
            while (!ended[1]) milliseconds(1);
            milliseconds(100);
            SYS(kill, child, 10);
            milliseconds(100);
            int soon = ended[0];
            /* what was restarted ends by itself, or by this */
            SYS(write, p[1], "x", 1);
            for (int n = 0; n < 100 && !ended[0]; n++) milliseconds(10);
            if (!ended[0]) SYS(kill, child, 9);
            SYS(wait4, child, &status, 0, 0);
            puts_(names[i]); puts_(restart ? " with SA_RESTART: " : ": "); puts_(soon ? "ends, " : ended[0] ? "goes on, " : "stays, ");
            if (ended[0]) dec(i == 8 && ended[2] > 0 ? 1 : ended[2]);
            put(' '); hex(status); put('\n');
            SYS(close, p[0]); SYS(close, p[1]);
        }
}

void start(u32 *sp)
{
    (void)sp;
    timers();
    priority_inheritance();
    growing();
    descriptors();
    terminals();
    sockets();
    notices();
    objects();
    files();
    interruptions();
    exit_(0);
}
