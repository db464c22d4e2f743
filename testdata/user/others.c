/* /proc of another process shows the program that it runs; /proc/PID/mem can be written, one's own and a tracee's. */
#include "user.h"

static char buffer[65536];
static volatile char fixed[4096] __attribute__((aligned(4096))) = "fixed";
static const char constant[4096] __attribute__((aligned(4096))) = "constant";
static int child;

/* /proc/CHILD/name, or of one's own */
static const char *path(int pid, const char *name)
{
    static char p[64];
    char *q = p, digits[12];
    int n = 0;
    for (const char *s = "/proc/"; *s;) *q++ = *s++;
    if (!pid) for (const char *s = "self"; *s;) *q++ = *s++;
    for (; pid; pid /= 10) digits[n++] = '0' + pid % 10;
    while (n) *q++ = digits[--n];
    *q++ = '/';
    while (*name) *q++ = *name++;
    *q = 0;
    return p;
}
static int load(const char *name) { int n = SYS(readlink, name, buffer, 4095); if (n >= 0) buffer[n] = 0; return n; }
static int read_(int pid, const char *name)
{
    int fd = SYS(open, path(pid, name), 0, 0), n = 0, r;
    if (fd < 0) return fd;
    while ((r = SYS(read, fd, buffer + n, sizeof buffer - 1 - n)) > 0) n += r;
    SYS(close, fd);
    buffer[n] = 0;
    return n;
}
static void base(void) { char *s = buffer; for (char *p = buffer; *p; p++) if (*p == '/') s = p + 1; puts_(s); put('\n'); }
static int count(const char *what)
{
    int n = 0;
    for (char *p = buffer; *p; p++) { int i = 0; while (what[i] && p[i] == what[i]) i++; n += !what[i]; }
    return n;
}
static int put_at(int fd, const void *from, u32 n, u32 low, u32 high) { return SYS(pwrite64, fd, from, n, low, high); }

void start(u32 *sp)
{
    (void)sp;
    child = SYS(fork);
    if (!child) for (;;) SYS(pause);
    for (int own = 0; own < 2; own++) {
        int pid = own ? 0 : child;
        result("exe", load(path(pid, "exe")) > 0); base();
        int fd = SYS(open, path(pid, "exe"), 0, 0);
        result("header", SYS(read, fd, buffer, 5)); result("class", buffer[4]);
        SYS(close, fd);
        result("cmdline", read_(pid, "cmdline")); puts_(buffer); put('\n');
        read_(pid, "comm"); puts_(buffer);
        result("environment", read_(pid, "environ")); puts_(buffer); put('\n');
        result("maps", read_(pid, "maps") > 0);
        result("programs and libraries", count("r-xp") - count("[vdso]")); result("stacks", count("[stack]"));
        result("above 4 GB", count("-7f") + count("-5") - count("-5655") > 0);
        read_(pid, "statm");
        int pages = 0;
        for (char *p = buffer; *p >= '0' && *p <= '9'; p++) pages = pages * 10 + *p - '0';
        result("pages", pages > 10 && pages < 500);
    }
    int fd = SYS(open, path(0, "mem"), 2, 0);
    result("memory", fd >= 0);
    result("write", put_at(fd, "hello", 5, (u32)fixed, 0)); puts_((char *)fixed); put('\n');
    result("protected", put_at(fd, "forced  ", 8, (u32)constant, 0)); puts_(constant); put('\n');
    SYS(lseek, fd, fixed + 10, 0);
    result("at its place", SYS(write, fd, "abc", 3)); result("moved", SYS(lseek, fd, 0, 1) - (int)fixed); puts_((char *)fixed + 10); put('\n');
    u32 args[6] = { 0x30000000, 8192, 7, 0x32, -1, 0 };
    unsigned char *code = (void *)SYS(mmap, args);
    SYS(munmap, code + 4096, 4096);
    result("to the end", put_at(fd, buffer, 200, (u32)code + 4000, 0));
    result("nothing there", put_at(fd, buffer, 200, (u32)code + 4096, 0));
    result("page 0", put_at(fd, buffer, 10, 16, 0));
    result("too high", put_at(fd, buffer, 10, 0, 1));
    __builtin_memcpy(code, "\xb8\x01\0\0\0\xc3", 6);
    result("code", ((int (*)(void))code)());
    put_at(fd, "\2", 1, (u32)code + 1, 0); result("changed", ((int (*)(void))code)());
    SYS(mprotect, code, 4096, 5);
    put_at(fd, "\3", 1, (u32)code + 1, 0); result("behind protection", ((int (*)(void))code)());
    int copy = SYS(dup, fd);
    result("duplicate", put_at(copy, "dup", 3, (u32)fixed, 0)); puts_((char *)fixed); put('\n');
    SYS(close, fd);
    fd = SYS(open, path(0, "mem"), 0, 0);
    result("read only", put_at(fd, "x", 1, (u32)fixed, 0));
    result("read", SYS(pread64, fd, buffer, 5, fixed, 0));
    SYS(close, fd);
    int status;
    SYS(ptrace, 16, child, 0, 0);
    SYS(wait4, child, &status, 0, 0);
    fd = SYS(open, path(child, "mem"), 2, 0);
    result("a tracee's", put_at(fd, "other", 5, (u32)fixed, 0));
    buffer[5] = 0;
    result("read", SYS(pread64, fd, buffer, 5, fixed, 0)); puts_(buffer); put('\n');
    puts_((char *)fixed); put('\n');
    SYS(kill, child, 9);
    SYS(wait4, child, &status, 0, 0);
    show("end", status);
    exit_(0);
}
