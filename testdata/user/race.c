/* Eight threads rewrite, run, unmap, map and protect the same pages of generated code, and call each other's functions. */
#include "user.h"
#include "thread.h"

#define THREADS 8
#define BUFFERS 6
#define ROUNDS 150

static u8 stacks[THREADS][16384] __attribute__((aligned(16)));
static volatile u32 alive[THREADS], wrong, done;
static struct { volatile u32 lock; u8 *code; } buffer[BUFFERS];
static u8 *shared;

static void lock(volatile u32 *l)
{
    while (__sync_lock_test_and_set(l, 1))
        SYS(sched_yield);
    serialise();
}

static void unlock(volatile u32 *l) { __sync_lock_release(l); }

/* A loop with calls of a shared function: push ebx; mov ebx, count; xor eax, eax; 1: add eax, value; call shared; dec ebx;
   jnz 1b; add eax, last; pop ebx; ret. Starts anywhere on its page, so it may cross into the next. */
static u32 generate(u8 *at, u32 count, u32 value, u32 last)
{
    static const u8 code[] = { 0x53, 0xbb, 0, 0, 0, 0, 0x31, 0xc0, 0x05, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x4b, 0x75, 0xf3,
                               0x05, 0, 0, 0, 0, 0x5b, 0xc3 };
    copy(at, code, sizeof code);
    *(volatile u32 *)(at + 2) = count;
    *(volatile u32 *)(at + 9) = value;
    *(volatile u32 *)(at + 14) = (u32)shared - (u32)(at + 18);
    *(volatile u32 *)(at + 22) = last;
    u32 r = 0;
    while (count--) r = (r + value) * 3 ^ 0x55;
    return r + last;
}

/* lea eax, [eax+eax*2]; xor eax, 0x55; ret */
static const u8 function[] = { 0x8d, 0x04, 0x40, 0x83, 0xf0, 0x55, 0xc3 };

static void work(void *arg)
{
    u32 me = (u32)arg, seed = me * 2654435761u + 1;
    for (u32 i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525 + 1013904223;
        u32 n = (seed >> 16) % BUFFERS;
        lock(&buffer[n].lock);
        u8 *page = buffer[n].code, *at = page + (seed >> 8) % (2 * PAGE - 64);
        switch (seed >> 28) {
        case 0:
            SYS(munmap, page, 2 * PAGE);
            if ((u8 *)SYS(mmap2, page, 2 * PAGE, RWX, 0x32, -1, 0) != page) wrong = 1;
            break;
        case 1:
            SYS(mprotect, page, PAGE, 5);
            SYS(mprotect, page, PAGE, RWX);
            break;
        case 2:
            SYS(madvise, page, 2 * PAGE, 4);
            break;
        }
        u32 expected = generate(at, seed % 50 + 1, seed, i);
        for (int again = 0; again < 3; again++)
            if (call(at) != expected) wrong++;
        /* One immediate more, as an inline cache would. */
        *(volatile u32 *)(at + 22) += 5;
        if (call(at) != expected + 5) wrong++;
        unlock(&buffer[n].lock);
    }
    __sync_fetch_and_add(&done, 1);
}

void start(u32 *sp)
{
    (void)sp;
    for (u32 i = 0; i < BUFFERS; i++)
        buffer[i].code = map(2 * PAGE, RWX);
    shared = map(PAGE, RWX);
    copy(shared, function, sizeof function);
    for (u32 i = 0; i < THREADS; i++)
        spawn(work, (void *)i, stacks[i + 1], &alive[i]);
    /* The function that everybody calls is protected, and overwritten with itself, all the while. */
    do {
        SYS(mprotect, shared, PAGE, 5);
        SYS(mprotect, shared, PAGE, RWX);
        *(volatile u32 *)shared = *(const u32 *)function;
        u32 ts[2] = { 0, 500000 };
        SYS(nanosleep, ts, 0);
    } while (done < THREADS);
    for (u32 i = 0; i < THREADS; i++)
        join(&alive[i]);
    show("wrong results", wrong);
    show("threads done", done);
    exit_(0);
}
