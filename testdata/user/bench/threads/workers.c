/* Two threads, each with work of its own: how far does one hold up the other? */
#include "bench.h"

struct work {
    struct thread thread;
    u32 seed, rounds, sum;
    u32 a[1024];
};
static struct work work[2];

static void worker(void *argument)
{
    struct work *w = argument;
    for (u32 r = w->rounds; r; r--)
        for (u32 i = 0; i < LEN(w->a); i++) {
            w->a[i] += random32(&w->seed);
            w->sum = mix(w->sum, w->a[w->a[i] & 1023]);
        }
}

u32 run(u32 units)
{
    for (u32 i = 0; i < LEN(work); i++) {
        work[i].seed = i + 1;
        work[i].rounds = units * 500;
        thread_start(&work[i].thread, worker, &work[i]);
    }
    for (u32 i = 0; i < LEN(work); i++)
        thread_join(&work[i].thread);
    return work[0].sum ^ work[1].sum;
}
