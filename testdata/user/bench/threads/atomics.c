/* Four threads add to shared counters with LOCK XADD and LOCK CMPXCHG, and take turns at a futex lock. */
#include "bench.h"

static struct thread threads[4];
static volatile u32 added, exchanged, guarded, lock;
static u32 rounds;

static void acquire(void)
{
    if (!__sync_bool_compare_and_swap(&lock, 0, 1))
        while (__sync_lock_test_and_set(&lock, 2))
            sys(SYS_FUTEX, (u32)&lock, 0 /* FUTEX_WAIT */, 2, 0, 0);
}

static void release(void)
{
    if (__sync_lock_test_and_set(&lock, 0) == 2)
        sys(SYS_FUTEX, (u32)&lock, 1 /* FUTEX_WAKE */, 1, 0, 0);
}

static void worker(void *argument)
{
    u32 add = (u32)argument;
    for (u32 r = rounds; r; r--) {
        __sync_fetch_and_add(&added, add);
        for (u32 old; old = exchanged, !__sync_bool_compare_and_swap(&exchanged, old, old * 3);)
            ;
        if (r % 64 == 0) {
            acquire();
            guarded = guarded + add;
            release();
        }
    }
}

u32 run(u32 units)
{
    rounds = units * 70000;
    exchanged = 1;
    for (u32 i = 0; i < LEN(threads); i++)
        thread_start(&threads[i], worker, (void *)(i + 1));
    for (u32 i = 0; i < LEN(threads); i++)
        thread_join(&threads[i]);
    return mix(mix(added, exchanged), guarded);
}
