/* Children forked while other threads rewrite and run code: each child rewrites and runs some too. And one that runs in its parent's memory
   until another thread has changed the protection of code. */
#include "user.h"
#include "thread.h"

#define THREADS 4
#define CHILDREN 60

static u8 stacks[THREADS][16384] __attribute__((aligned(16)));
static volatile u32 alive[THREADS], wrong, stop;

static u32 rewrite(u8 *code, u32 from, u32 count)
{
    u32 bad = 0;
    for (u32 i = from; i < from + count; i++) {
        u8 *at = code + i * 61 % (2 * PAGE - 16);
        returns(at, i);
        bad += call(at) != i;
    }
    return bad;
}

static void work(void *code)
{
    for (u32 i = 0; !stop; i++) {
        wrong += rewrite(code, i, 3);
        SYS(mprotect, code, PAGE, RWX);
    }
}

static volatile u32 spinning, changed;
static void change(void *code)
{
    while (!spinning) SYS(sched_yield);
    SYS(mprotect, code, PAGE, RWX);
    changed = 1;
}

void start(u32 *sp)
{
    (void)sp;
    u8 *code = map(2 * PAGE, RWX);
    u32 sum = 0;
    for (u32 i = 0; i < THREADS; i++)
        spawn(work, map(2 * PAGE, RWX), stacks[i + 1], &alive[i]);
    for (u32 i = 0; i < CHILDREN; i++) {
        int pid = SYS(fork), status = 0;
        if (pid == 0)
            exit_(rewrite(code, i * 100, 20) ? 255 : i);
        if (SYS(waitpid, pid, &status, 0) != pid || status & 0xff) wrong++;
        sum += status >> 8;
    }
    stop = 1;
    for (u32 i = 0; i < THREADS; i++)
        join(&alive[i]);
    show("wrong results", wrong);
    show("children's answers", sum);
    spawn(change, code, stacks[1], &alive[0]);
    int status = 0, pid = SYS(vfork);
    if (pid == 0) {
        spinning = 1;
        while (!changed) ;
        exit_(7);
    }
    show("of vfork", SYS(waitpid, pid, &status, 0) == pid ? status : 1);
    join(&alive[0]);
    exit_(0);
}
