/* Eight threads go through much more code than a small translation cache holds, by indirect calls as deep as their returns outlive the
   callers' translations, while all of them change code of their own and touch the protection of what everybody runs. */
#include "user.h"
#include "thread.h"

#define THREADS 8
#define FUNCTIONS 2048
#define SIZE 64
#define ROUNDS 250
#define STEP 1103515245u

static u8 stacks[THREADS + 1][65536] __attribute__((aligned(16)));
static volatile u32 alive[THREADS], wrong, done, sums[THREADS];
static u8 *functions, *table[FUNCTIONS], *own;

static u32 constant(u32 i) { return i * 2654435761u ^ 0x5bd1e995; }

/* u32 f(u32 n): constant, or of one of the others with n - 1 three times what it gives, xor constant. */
static void generate(u8 *at, u32 i)
{
    static const u8 code[] = {
        0x53,                               /* push ebx */
        0x8b, 0x5c, 0x24, 0x08,             /* mov ebx, [esp + 8] */
        0xb8, 0, 0, 0, 0,                   /* mov eax, constant */
        0x4b,                               /* dec ebx */
        0x78, 0x22,                         /* js out */
        0x53,                               /* push ebx */
        0x69, 0xc3, 0, 0, 0, 0,             /* imul eax, ebx, STEP */
        0x05, 0, 0, 0, 0,                   /* add eax, constant */
        0xc1, 0xe8, 0x08,                   /* shr eax, 8 */
        0x25, 0, 0, 0, 0,                   /* and eax, FUNCTIONS - 1 */
        0xff, 0x14, 0x85, 0, 0, 0, 0,       /* call [table + eax * 4] */
        0x59,                               /* pop ecx */
        0x8d, 0x04, 0x40,                   /* lea eax, [eax + eax * 2] */
        0x83, 0xf0, 0,                      /* xor eax, i & 0x7f */
        0x5b, 0xc3,                         /* out: pop ebx; ret */
    };
    copy(at, code, sizeof code);
    *(volatile u32 *)(at + 6) = constant(i);
    *(volatile u32 *)(at + 16) = STEP;
    *(volatile u32 *)(at + 21) = constant(i);
    *(volatile u32 *)(at + 29) = FUNCTIONS - 1;
    *(volatile u32 *)(at + 36) = (u32)table;
    at[46] = i & 0x7f;
}

static u32 expected(u32 i, u32 n)
{
    if (!n) return constant(i);
    return expected(((n - 1) * STEP + constant(i)) >> 8 & (FUNCTIONS - 1), n - 1) * 3 ^ (i & 0x7f);
}

static u32 call_with(const void *code, u32 n)
{
    u32 r;
    __asm__ volatile("push %2; call *%1; pop %%ecx" : "=a"(r) : "r"(code), "r"(n) : "ecx", "edx", "memory", "cc");
    return r;
}

static void work(void *arg)
{
    u32 me = (u32)arg, seed = me * 2654435761u + 1, sum = 0;
    u8 *mine = own + me * PAGE;
    for (u32 round = 0; round < ROUNDS; round++) {
        seed = seed * 1664525 + 1013904223;
        u32 i = (seed >> 8) % FUNCTIONS, n = 20 + (seed >> 20) % 200;
        u32 got = call_with(table[i], n);
        if (got != expected(i, n)) __sync_fetch_and_add(&wrong, 1);
        sum = sum * 31 + got;
        /* New code each time, then code changed behind its back by a single store. */
        returns(mine + round % 32 * 64, round);
        if (call(mine + round % 32 * 64) != round) __sync_fetch_and_add(&wrong, 1);
        *(volatile u32 *)(mine + round % 32 * 64 + 1) = ~round;
        if (call(mine + round % 32 * 64) != ~round) __sync_fetch_and_add(&wrong, 1);
        if (round % 8 == me) {
            u8 *page = functions + (seed >> 12) % (FUNCTIONS * SIZE / PAGE) * PAGE;
            SYS(mprotect, page, PAGE, 5);
            SYS(mprotect, page, PAGE, RWX);
        }
    }
    sums[me] = sum;
    __sync_fetch_and_add(&done, 1);
}

void start(u32 *sp)
{
    (void)sp;
    functions = map(FUNCTIONS * SIZE, RWX);
    own = map(THREADS * PAGE, RWX);
    for (u32 i = 0; i < FUNCTIONS; i++) {
        table[i] = functions + i * SIZE;
        generate(table[i], i);
    }
    for (u32 i = 0; i < THREADS; i++)
        spawn(work, (void *)i, stacks[i + 1], &alive[i]);
    for (u32 i = 0; i < THREADS; i++)
        join(&alive[i]);
    for (u32 i = 0; i < THREADS; i++)
        show("sum", sums[i]);
    show("wrong results", wrong);
    show("threads done", done);
    exit_(0);
}
