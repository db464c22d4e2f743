/* Threads and generated code, for programs without a C library. */
typedef unsigned char u8;

#define RWX 7
#define PAGE 4096

/* spawn(function, argument, end of its stack, word that is nonzero until it has ended) */
int spawn(void (*f)(void *), void *arg, void *stack_end, volatile u32 *alive);
__asm__("spawn: push %ebx; push %esi; push %edi; mov 24(%esp), %ecx; sub $16, %ecx\n"
        "mov 16(%esp), %eax; mov %eax, (%ecx); mov 20(%esp), %eax; mov %eax, 4(%ecx)\n"
        "mov 28(%esp), %edx; mov %edx, %edi; xor %esi, %esi\n"
        /* VM FS FILES SIGHAND THREAD SYSVSEM PARENT_SETTID CHILD_CLEARTID */
        "mov $0x00350f00, %ebx; mov $120, %eax; int $0x80; test %eax, %eax; jz 1f\n"
        "pop %edi; pop %esi; pop %ebx; ret\n"
        "1: pop %eax; call *%eax; xor %ebx, %ebx; mov $1, %eax; int $0x80");

static void join(volatile u32 *alive)
{
    u32 v;
    while ((v = *alive))
        SYS(futex, alive, 0 /* FUTEX_WAIT */, v, 0);
}

__attribute__((unused)) static void *map(u32 len, int prot) { return (void *)SYS(mmap2, 0, len, prot, 0x22 /* private, anonymous */, -1, 0); }

/* After code was changed by another thread, a serialising instruction is due (SDM vol. 3A, 10.1.3). */
static inline void serialise(void)
{
    u32 a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static inline u32 call(const void *code)
{
    u32 r;
    __asm__ volatile("call *%1" : "=a"(r) : "r"(code) : "ecx", "edx", "memory", "cc");
    return r;
}

static inline void copy(volatile u8 *to, const u8 *from, u32 n) { while (n--) *to++ = *from++; }

/* mov eax, value; ret */
static inline void returns(volatile u8 *at, u32 value)
{
    *at = 0xb8;
    *(volatile u32 *)(at + 1) = value;
    at[5] = 0xc3;
}
