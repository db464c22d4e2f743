/* Children forked while other threads take every lock they share with the forking one: they create and join threads, close descriptors
   and put others in their place, map, change actions, descriptors of segments, filters and robust lists. Each child does the same. */
#include "user.h"
#include "thread.h"
#include <asm/ldt.h>

#define THREADS 5
#define CHILDREN 150

static u8 stacks[THREADS + 1][16384] __attribute__((aligned(16)));
static volatile u32 alive[THREADS], stop, turns;

static void nothing(void *arg) { *(volatile u32 *)arg = 1; }

/* One of each; `stack` is the end of one for a thread of its own. */
static u32 everything(void *stack, int threads)
{
    static const u32 handler[5] = { 1 };
    u32 wrong = 0, head[3] = { (u32)head, 0, 0 }, at, size;
    for (int i = 0; i < threads; i++) {
        volatile u32 child = 1, ran = 0;
        wrong += spawn(nothing, (void *)&ran, stack, &child) < 0;
        join(&child);
        wrong += ran != 1;
    }
    int fd = SYS(dup, 1), other = SYS(dup, 1);
    wrong += SYS(dup2, fd, other) != other;
    wrong += SYS(dup3, fd, other, 0) != other;
    wrong += SYS(close, fd) != 0;
    wrong += SYS(close, other) != 0;
    wrong += SYS(set_robust_list, head, 12) != 0;
    wrong += SYS(get_robust_list, 0, &at, &size) != 0 || at != (u32)head;
    wrong += SYS(set_robust_list, 0, 12) != 0;
    wrong += SYS(rt_sigaction, 10, handler, 0, 8) != 0;
    void *page = map(PAGE, 3);
    wrong += SYS(mprotect, page, PAGE, RWX) != 0;
    wrong += SYS(munmap, page, PAGE) != 0;
    struct user_desc d = { 5, 0x1000, 0xffff, 1, 0, 0, 1, 0, 1 };
    wrong += SYS(modify_ldt, 17, &d, sizeof d) != 0;
    /* Not there, but looked for among what is traced. */
    wrong += SYS(ptrace, 7, 0x3ffffff, 0, 0) != -3;
    return wrong;
}

static void work(void *stack)
{
    while (!stop) {
        if (everything(stack, 1)) stop = 2;
        turns++;
    }
}

void start(u32 *sp)
{
    (void)sp;
    u32 wrong = 0;
    for (u32 i = 0; i < THREADS; i++)
        spawn(work, (u8 *)map(4 * PAGE, 3) + 4 * PAGE, stacks[i + 1], &alive[i]);
    for (u32 i = 0; i < CHILDREN; i++) {
        int status = 0, pid = SYS(fork);
        if (pid == 0) {
            SYS(alarm, 60);
            exit_(everything(stacks[THREADS + 1], 1) + everything(stacks[THREADS + 1], 0));
        }
        if (SYS(waitpid, pid, &status, 0) != pid || status) wrong++;
    }
    result("worked meanwhile", turns > 10 && stop == 0);
    stop = 1;
    for (u32 i = 0; i < THREADS; i++)
        join(&alive[i]);
    result("wrong", wrong);
    exit_(0);
}
