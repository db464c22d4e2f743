/* Code that changes: by itself, by another thread, through a second mapping, by the kernel, by mapping calls. */
#include "user.h"
#include "thread.h"

static u8 stack[16384] __attribute__((aligned(16)));
static volatile u32 alive, answer;
static u8 bytes[64];

/* The next instruction of the same block, in several ways of writing its immediate. */
static void next_instruction(u8 *p)
{
    static const struct { const char *name; u32 n; u8 code[12]; } how[] = {
        { "mov", 3, { 0xc6, 0x00, 7 } },                /* mov byte [eax], 7 */
        { "stosb", 5, { 0x89, 0xc7, 0xb0, 7, 0xaa } },  /* mov edi, eax; mov al, 7; stosb */
        { "xchg", 4, { 0xb1, 7, 0x86, 0x08 } },         /* mov cl, 7; xchg [eax], cl */
        { "add", 3, { 0x80, 0x00, 6 } },                /* add byte [eax], 6 */
        { "lock add", 4, { 0xf0, 0x80, 0x00, 6 } },     /* lock add byte [eax], 6 */
        { "sete", 5, { 0x39, 0xc0, 0x0f, 0x94, 0x00 } }, /* cmp eax, eax; sete [eax] */
        { "push", 10, { 0x89, 0xe2, 0x8d, 0x60, 4, 0x6a, 7, 0x89, 0xd4, 0x90 } }, /* ESP is made to point behind it */
    };
    /* mov eax, 5 (to be changed); pop edi; ret */
    static const u8 tail[] = { 0xb8, 5, 0, 0, 0, 0x5f, 0xc3 };
    for (u32 i = 0; i < sizeof how / sizeof *how; i++) {
        for (u32 again = 0; again < 3; again++) {
            /* push edi; mov eax, address of the immediate */
            u8 *q = p + 6 + how[i].n;
            p[0] = 0x57;
            p[1] = 0xb8;
            *(volatile u32 *)(p + 2) = (u32)(q + 1);
            copy(p + 6, how[i].code, how[i].n);
            copy(q, tail, sizeof tail);
            show(how[i].name, call(p));
        }
    }
}

/* A loop whose every iteration adds an immediate and increments it. */
static void own_immediate(u8 *p)
{
    static const u8 code[] = { 0xb9, 0xe8, 3, 0, 0, 0x31, 0xd2, 0xb8, 0, 0, 0, 0, 0x01, 0xc2, 0xff, 0x05,
                               0, 0, 0, 0, 0x49, 0x75, 0xf0, 0x89, 0xd0, 0xc3 };
    copy(p, code, sizeof code);
    *(volatile u32 *)(p + 16) = (u32)(p + 8);
    show("own immediate", call(p));
    show("left", *(volatile u32 *)(p + 8));
}

/* REP MOVSB over itself and what follows. */
static void moved_over(u8 *p)
{
    /* push esi; push edi; mov esi, new; mov edi, 1f; mov ecx, 6; rep movsb; 1: mov eax, 1 (becomes 2); pop edi; pop esi; ret */
    static const u8 code[] = { 0x56, 0x57, 0xbe, 0, 0, 0, 0, 0xbf, 0, 0, 0, 0, 0xb9, 6, 0, 0, 0, 0xf3, 0xa4,
                               0xb8, 1, 0, 0, 0, 0x5f, 0x5e, 0xc3 };
    static const u8 now[] = { 0xb8, 2, 0, 0, 0, 0x5f };
    for (int i = 0; i < 3; i++) {
        copy(p, code, sizeof code);
        copy(bytes, now, sizeof now);
        *(volatile u32 *)(p + 3) = (u32)bytes;
        *(volatile u32 *)(p + 8) = (u32)(p + 19);
        show("rep movsb", call(p));
    }
}

/* One write over the border of two pages of code. */
static void across_pages(u8 *p)
{
    u8 *at = p + PAGE - 3;
    u32 sum = 0;
    for (u32 i = 0; i < 100; i++) {
        returns(at, i * 0x01010101);
        sum += call(at);
    }
    show("across pages", sum);
}

static void spinner(void *code) { answer = call(code); }

static void wait_a_little(void)
{
    u32 ts[2] = { 0, 3000000 };
    SYS(nanosleep, ts, 0);
}

/* A thread at `jmp .` in `run`, released by changing it through `write`. */
static void release(const char *name, u8 *write, u8 *run)
{
    for (int i = 0; i < 5; i++) {
        returns(write + 2, 100 + i);
        *(volatile unsigned short *)write = 0xfeeb;
        answer = 0;
        spawn(spinner, run, stack + sizeof stack, &alive);
        wait_a_little();
        *(volatile unsigned short *)write = 0x9090;
        join(&alive);
        show(name, answer);
    }
}

static volatile u32 stop;
static void caller(void *code)
{
    u32 last = 0, r;
    while ((r = call(code)) != 0xffff) {
        if (r < last) { answer = 0xbad; return; }
        last = r;
        stop = r;
        serialise();
    }
    answer = 0x600d;
}

/* A thread that calls a function over and over sees its versions in order, and each soon. */
static void versions(const char *name, u8 *write, u8 *run)
{
    returns(write + 3, 0); /* the immediate is aligned */
    stop = ~0u;
    spawn(caller, run + 3, stack + sizeof stack, &alive);
    for (u32 i = 1; i <= 50; i++) {
        *(volatile u32 *)(write + 4) = i;
        while (stop != i) SYS(sched_yield);
    }
    *(volatile u32 *)(write + 4) = 0xffff;
    join(&alive);
    show(name, answer);
}

static void second_mapping(void)
{
    int fd = SYS(memfd_create, "code", 0);
    SYS(ftruncate, fd, 2 * PAGE);
    u8 *w = (u8 *)SYS(mmap2, 0, 2 * PAGE, 3, 1, fd, 0), *x = (u8 *)SYS(mmap2, 0, 2 * PAGE, 5, 1, fd, 0);
    u32 sum = 0;
    for (u32 i = 0; i < 300; i++) {
        returns(w + 16, i);
        sum += call(x + 16);
    }
    show("second mapping", sum);
    for (u32 i = 0; i < 100; i++) {
        returns(w + PAGE - 3, i << 20);
        sum += call(x + PAGE - 3);
    }
    show("second mapping, across pages", sum);
    for (u32 i = 0; i < 100; i++) {
        u8 b[4] = { i };
        SYS(pwrite64, fd, b, 1, 17, 0);
        sum += call(x + 16);
    }
    show("pwrite", sum);
    /* The code itself writes its next instruction through the other mapping: mov byte [w+8], 9; mov al, 1; movzx; ret */
    static const u8 code[] = { 0xc6, 0x05, 0, 0, 0, 0, 9, 0xb0, 1, 0x0f, 0xb6, 0xc0, 0xc3 };
    copy(w, code, sizeof code);
    *(volatile u32 *)(w + 2) = (u32)(w + 8);
    show("itself through the second mapping", call(x));
    release("spinning in the second mapping", w, x);
    versions("versions in the second mapping", w, x);
    /* A private mapping of the same file, unmapped, mapped again with other contents. */
    for (u32 i = 0; i < 20; i++) {
        returns(w, 1000 + i);
        u8 *y = (u8 *)SYS(mmap2, x, PAGE, 5, 0x12 /* private, fixed */, fd, 0);
        sum += call(y);
    }
    show("private mappings", sum);
}

static void by_the_kernel(u8 *p)
{
    int fds[2];
    SYS(pipe, fds);
    u32 sum = 0;
    for (u32 i = 0; i < 200; i++) {
        returns(bytes, i * 3);
        SYS(write, fds[1], bytes, 6);
        if (SYS(read, fds[0], p, 6) != 6) result("read", -1);
        sum += call(p);
    }
    show("read", sum);
    for (u32 i = 0; i < 50; i++) {
        u32 iov[4] = { (u32)p + 100, 3, (u32)p + 103, 3 };
        returns(bytes, i);
        SYS(write, fds[1], bytes, 6);
        if (SYS(readv, fds[0], iov, 2) != 6) result("readv", -1);
        sum += call(p + 100);
    }
    show("readv", sum);
}

static void by_mapping_calls(void)
{
    u8 *p = map(2 * PAGE, RWX);
    u32 sum = 0;
    for (u32 i = 0; i < 50; i++) {
        SYS(mprotect, p, PAGE, 3);
        returns(p, i);
        SYS(mprotect, p, PAGE, 5);
        sum += call(p);
    }
    show("mprotect", sum);
    for (u32 i = 0; i < 50; i++) {
        SYS(munmap, p, PAGE);
        if ((u8 *)SYS(mmap2, p, PAGE, RWX, 0x32, -1, 0) != p) result("mmap", -1);
        returns(p, i * 5);
        sum += call(p);
    }
    show("munmap and mmap", sum);
    u8 *q = map(2 * PAGE, RWX);
    for (u32 i = 0; i < 50; i++) {
        returns(p, i + 7);
        returns(q, i + 9);
        sum = sum * 3 + call(p) + call(q);
        SYS(mremap, p, PAGE, PAGE, 3, q);
        sum = sum * 3 + call(q);
        SYS(mmap2, p, PAGE, RWX, 0x32, -1, 0);
    }
    show("mremap", sum);
    int fd = SYS(memfd_create, "contents", 0);
    returns(bytes, 77);
    SYS(ftruncate, fd, PAGE);
    SYS(pwrite64, fd, bytes, 6, 0, 0);
    SYS(mmap2, p, PAGE, RWX, 0x12, fd, 0);
    for (u32 i = 0; i < 10; i++) {
        sum = sum * 3 + call(p);
        returns(p, i);
        sum = sum * 3 + call(p);
        SYS(madvise, p, PAGE, 4 /* MADV_DONTNEED */);
    }
    show("madvise", sum);
}

void start(u32 *sp)
{
    u8 *p = map(2 * PAGE, RWX);
    (void)sp;
    next_instruction(p);
    own_immediate(p);
    moved_over(p);
    across_pages(p);
    release("spinning", p, p);
    versions("versions", p, p);
    second_mapping();
    by_the_kernel(p);
    by_mapping_calls();
    exit_(0);
}
