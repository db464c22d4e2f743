/* A few lines in place of a C library, so that a test program does exactly the system calls it names. */
#include <asm/unistd_32.h>

typedef unsigned int u32;
typedef unsigned long long u64;

static inline int sys6(int nr, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f)
{
    int r;
    __asm__ volatile("push %[f]; push %%ebp; movl 4(%%esp), %%ebp; int $0x80; pop %%ebp; add $4, %%esp"
                     : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "m"(f) : "memory", "cc");
    return r;
}
#define SYS(nr, ...) SYS_(nr, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_(nr, a, b, c, d, e, f, ...) sys6(__NR_##nr, (u32)(a), (u32)(b), (u32)(c), (u32)(d), (u32)(e), (u32)(f))

static inline int me(void) { return SYS(getpid); }

static char line[256];
static int used;
static void flush(void) { SYS(write, 1, line, used); used = 0; }
static void put(char c) { line[used++] = c; if (c == '\n' || used == sizeof line) flush(); }
static void puts_(const char *s) { while (*s) put(*s++); }
static void hex(u32 v) { puts_("0x"); int s = 28; while (s && !(v >> s)) s -= 4; for (; s >= 0; s -= 4) put("0123456789abcdef"[v >> s & 15]); }
static void dec(int v) { if (v < 0) { put('-'); v = -v; } char b[12]; int n = 0; do b[n++] = '0' + v % 10; while (v /= 10); while (n) put(b[--n]); }
/* show("name", value): one line, hexadecimal; result("name", value): decimal, as errno values are. */
__attribute__((unused)) static void show(const char *name, u32 v) { puts_(name); put(' '); hex(v); put('\n'); }
__attribute__((unused)) static void result(const char *name, int v) { puts_(name); put(' '); dec(v); put('\n'); }
__attribute__((unused)) static void fill(void *p, int c, u32 n) { char *q = p; while (n--) *q++ = c; }

void start(u32 *sp) __asm__("start_c");
__asm__(".globl _start; _start: mov %esp, %eax; push %eax; call start_c");
static void exit_(int status) { SYS(exit_group, status); __builtin_unreachable(); }
