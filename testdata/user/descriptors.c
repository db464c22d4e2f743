/* Descriptors: every way to open a file of /proc, those that are cut off a message, programs executed from descriptors that close
   on exec, and closing everything there is. */
#include "user.h"

enum { RDONLY, WRONLY, RDWR, CLOEXEC = 02000000, NOFOLLOW = 0400000, DIRECTORY = 0200000, EMPTY_PATH = 0x1000, CWD = -100 };
static char buffer[65536], *self;
static int fd, status;

static int openat2(int dir, const char *path, u32 flags)
{
    u64 how[3] = { flags, 0, 0 };
    return SYS(openat2, dir, path, how, sizeof how);
}

/* Of a map of this process: does it begin below 4 GB and hold nothing of a host's? */
static int own_map(int fd)
{
    int n = 0, r, width = 0;
    if (fd < 0) return fd;
    while ((r = SYS(read, fd, buffer + n, sizeof buffer - n)) > 0) n += r;
    SYS(close, fd);
    for (int i = 0, at = 0; i < n; i++) {
        if (buffer[i] == '\n') at = i + 1;
        if (buffer[i] == '-' && i - at < 17 && i - at > width) width = i - at;
    }
    return width;
}

/* Is what was opened for writing this process's memory, and does writing change what is executed? */
static unsigned char *code;
static int writes_memory(int fd)
{
    static int value = 10;
    value++;
    if (fd < 0) return fd;
    u64 at = (u32)code + 1;
    int n = SYS(pwrite64, fd, &value, 1, (u32)at, 0);
    SYS(close, fd);
    return n == 1 && ((int (*)(void))code)() == value;
}

static void opening(void)
{
    char *const maps = "/proc/self/maps", *const mem = "/proc/self/mem";
    int proc = SYS(open, "/proc/self", DIRECTORY, 0);
    result("open", own_map(SYS(open, maps, 0, 0)));
    result("openat", own_map(SYS(openat, proc, "maps", 0, 0)));
    result("openat2", own_map(openat2(CWD, maps, RDONLY)));
    result("openat2 in a directory", own_map(openat2(proc, "maps", NOFOLLOW)));
    SYS(chdir, "/proc/self");
    result("relative", own_map(SYS(open, "maps", CLOEXEC, 0)));
    SYS(chdir, "/proc/self/task");
    result("by way of", own_map(SYS(open, "../../self/maps", 0, 0)));
    fd = SYS(open, maps, CLOEXEC, 0);
    result("closes on exec", SYS(fcntl64, fd, 1, 0));
    result("the lowest", fd == proc + 1);
    SYS(close, fd);

    u32 args[6] = { 0, 4096, 7, 0x22, -1, 0 };
    code = (void *)SYS(mmap, args);
    __builtin_memcpy(code, "\xb8\x01\0\0\0\xc3", 6);
    result("code", ((int (*)(void))code)());
    result("open", writes_memory(SYS(open, mem, RDWR, 0)));
    result("no links", writes_memory(SYS(open, mem, RDWR | NOFOLLOW, 0)));
    result("creat", writes_memory(SYS(creat, mem, 0600)));
    result("openat", writes_memory(SYS(openat, proc, "mem", WRONLY, 0)));
    result("openat2", writes_memory(openat2(CWD, mem, RDWR)));
    result("openat2 in a directory", writes_memory(openat2(proc, "mem", WRONLY)));
    fd = openat2(CWD, mem, RDWR | CLOEXEC);
    result("closes on exec", SYS(fcntl64, fd, 1, 0));
    result("the lowest", fd == proc + 1);
    SYS(close, fd);
    result("short structure", SYS(openat2, CWD, mem, buffer, 16));
    fill(buffer, 0, 64);
    result("longer structure", SYS(openat2, CWD, "/", buffer, 32) >= 0);
    buffer[28] = 1;
    result("of a later kernel", SYS(openat2, CWD, "/", buffer, 32));
    buffer[28] = 0;
    buffer[0] = 3; buffer[3] = 0x40;
    result("unknown flags", SYS(openat2, CWD, "/", buffer, 24));
    result("no path", openat2(CWD, (char *)16, 0));
}

static int sock(int nr, u32 a, u32 b, u32 c, u32 d) { u32 args[6] = { a, b, c, d }; return SYS(socketcall, nr, args); }
static int open_descriptors(void) { int n = 0; for (int i = 0; i < 200; i++) n += SYS(fcntl64, i, 1, 0) >= 0; return n; }
static void messages(void)
{
    int p[2], sent[3];
    sock(8, 1, 5, 0, (u32)p);
    for (int i = 0; i < 3; i++) sent[i] = SYS(dup, 1);
    struct { u32 len, level, type; int fd[3]; } rights = { 24, 1, 1, { sent[0], sent[1], sent[2] } };
    u32 iov[2] = { (u32)"x", 1 }, message[7] = { 0, 0, (u32)iov, 1, (u32)&rights, 24, 0 };
    /* With so much room, how many arrive, and how many descriptors more are there? */
    for (u32 room = 0; room <= 28; room += room == 8 || room == 11 || room == 12 ? 1 : room == 13 ? 3 : 4) {
        static u32 control[16];
        fill(control, 0xee, sizeof control);
        int before = open_descriptors();
        sock(16, p[0], (u32)message, 0, 0);
        char text[4];
        u32 in[2] = { (u32)text, 4 }, into[7] = { 0, 0, (u32)in, 1, (u32)control, room, 0 };
        result("room", room);
        result("received", sock(17, p[1], (u32)into, 0, 0));
        result(" control", into[5]);
        show(" flags", into[6]);
        if (into[5] >= 12) result(" length", control[0]);
        result(" more", open_descriptors() - before);
        for (u32 at = 12; into[5] >= 12 && at + 4 <= control[0]; at += 4) result(" closed", SYS(close, control[at / 4]));
        result(" left", open_descriptors() - before);
    }
}

static int copy_of_self(u32 flags)
{
    int from = SYS(open, self, 0, 0), to = SYS(memfd_create, "copy", flags), n;
    while ((n = SYS(read, from, buffer, sizeof buffer)) > 0) SYS(write, to, buffer, n);
    SYS(close, from);
    return to;
}
static int child(int dir, const char *path, u32 flags, const char *how)
{
    char *argv[] = { self, "x", (char *)how, 0 };
    int pid = SYS(fork);
    if (!pid) {
        result("failed", SYS(execveat, dir, path, argv, 0, flags));
        exit_(99);
    }
    SYS(wait4, pid, &status, 0, 0);
    return status;
}
static void executing(void)
{
    char path[] = "/proc/self/fd/00", other[] = "/dev/fd/00/descriptors";
    for (u32 cloexec = 0; cloexec < 2; cloexec++) {
        fd = copy_of_self(cloexec);
        path[14] = '0' + fd / 10; path[15] = '0' + fd % 10;
        show("from memory", child(fd, "", EMPTY_PATH, "memory"));
        show("by its path", child(CWD, fd < 10 ? "/proc/self/fd/0" : path, 0, "memory"));
        SYS(close, fd);
        fd = SYS(open, self, cloexec ? CLOEXEC : 0, 0);
        show("from a file", child(fd, "", EMPTY_PATH, "file"));
        SYS(close, fd);
        fd = SYS(open, ".", DIRECTORY | (cloexec ? CLOEXEC : 0), 0);
        show("in a directory", child(fd, "descriptors", 0, "file"));
        other[8] = '0' + fd / 10; other[9] = '0' + fd % 10;
        show("by its path", child(CWD, other, 0, "file"));
        SYS(close, fd);
        fd = SYS(memfd_create, "script", cloexec);
        SYS(write, fd, "#!./descriptors x\n", 18);
        show("a script", child(fd, "", EMPTY_PATH, "script"));
        SYS(close, fd);
    }
    show("not one", child(98, "", EMPTY_PATH, "none"));
}

static void executed(char **argv)
{
    puts_("executed: "); puts_(argv[2][0] == '/' ? "a script" : argv[2]); put('\n');
    int n = SYS(readlink, "/proc/self/exe", buffer, 100);
    buffer[n > 0 ? n : 0] = 0;
    int slash = 0;
    for (int i = 0; i < n; i++) if (buffer[i] == '/') slash = i;
    puts_(buffer + slash); put('\n');
    int fd = SYS(open, "/proc/self/exe", 0, 0);
    fill(buffer, 0, 4);
    SYS(read, fd, buffer, 4);
    puts_(buffer + 1); put('\n');
    SYS(close, fd);
    if (argv[2][0] == 'm' && argv[2][6] == 0) result("once more", child(CWD, "/proc/self/exe", 0, "memory again") >> 8);
    result("open", open_descriptors());
    exit_(5);
}

static void everything(void)
{
    int out = SYS(dup, 1);
    for (int i = 3; i < 1100; i++)
        if (i != out) SYS(close, i);
    for (int i = 895; i < 910; i++) {
        if (SYS(dup2, 1, i) != i) result("not to be had", i);
        SYS(close, i);
    }
    SYS(close_range, out + 1, -1, 0);
    result("getppid", SYS(getppid) > 1);
}

void start(u32 *sp)
{
    self = (char *)sp[1];
    if (sp[0] > 1 && *(char *)sp[2] == 'x') executed((char **)sp + 1);
    char here[200];
    int n = SYS(getcwd, here, sizeof here);
    if (n > 0) opening();
    SYS(chdir, here);
    messages();
    executing();
    everything();
    exit_(0);
}
