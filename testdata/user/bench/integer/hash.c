/* A hash table with chains: insert, look up, count. */
#include "bench.h"

struct node {
    struct node *next;
    u32 key, count;
};
static struct node *heads[4096], nodes[16384];

static NOINLINE struct node *find(u32 key)
{
    struct node *n = heads[key * 2654435761u >> 20];
    while (n && n->key != key)
        n = n->next;
    return n;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 99;
    for (u32 r = units * 2; r; r--) {
        u32 used = 0;
        memset(heads, 0, sizeof heads);
        for (u32 i = 0; i < 60000; i++) {
            u32 key = random32(&seed) & 0x3fff;
            struct node *n = find(key);
            if (!n) {
                struct node **head = &heads[key * 2654435761u >> 20];
                n = &nodes[used++];
                *n = (struct node) { *head, key, 0 };
                *head = n;
            }
            sum += n->count++;
        }
        sum = mix(sum, used);
    }
    return sum;
}
