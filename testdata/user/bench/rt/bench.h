/* What every workload shares: types, raw system calls, a random generator. A workload defines run(units), which does
   `units` units of work, each about 3 ms of native time, and gives a checksum. */
#ifndef BENCH_H
#define BENCH_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define NOINLINE __attribute__((noinline, noclone))
#define LEN(a) (sizeof(a) / sizeof *(a))

u32 run(u32 units);

enum { SYS_EXIT = 1, SYS_WRITE = 4, SYS_OPEN = 5, SYS_GETPID = 20, SYS_KILL = 37, SYS_GETPPID = 64, SYS_MMAP = 90,
       SYS_MUNMAP = 91, SYS_MPROTECT = 125, SYS_SIGACTION = 174, SYS_FUTEX = 240, SYS_EXIT_GROUP = 252 };
enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4 };
enum { SIGUSR1 = 10, SIGSEGV = 11 };

static inline i32 sys(u32 number, u32 a, u32 b, u32 c, u32 d, u32 e)
{
    i32 result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return result;
}

static inline u32 random32(u32 *state)
{
    u32 x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

static inline u32 mix(u32 sum, u32 value)
{
    return (sum << 5 | sum >> 27) ^ value;
}

/* Fresh zeroed memory; ends the program when there is none. */
void *map(u32 bytes, u32 prot);
void die(const char *why);

/* Calls handler(signal, siginfo, ucontext) from now on. */
struct ucontext {
    u32 flags, link, stack[3];
    u32 gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, trapno, err, eip, cs, eflags;
};
struct siginfo {
    i32 signo, err, code;
    u32 addr;
};
void handle(u32 signal, void (*handler)(int, struct siginfo *, struct ucontext *));

/* Threads. */
struct thread {
    volatile int tid;
};
void thread_start(struct thread *, void (*)(void *), void *);
void thread_join(struct thread *);

/* start.S */
u32 load(volatile u32 *);
extern const char loaded[];

void *memcpy(void *, const void *, u32);
void *memset(void *, int, u32);

#endif
