/* Walks linked lists with a payload, unlinks and relinks nodes. */
#include "bench.h"

struct node {
    struct node *next, *prev;
    u32 value, pad;
};
static struct node nodes[2048], head;

static NOINLINE u32 walk(u32 add)
{
    u32 sum = 0;
    for (struct node *n = head.next; n != &head; n = n->next) {
        sum += n->value;
        n->value += add;
    }
    return sum;
}

static void link_after(struct node *at, struct node *n)
{
    n->next = at->next;
    n->prev = at;
    at->next->prev = n;
    at->next = n;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 8;
    head.next = head.prev = &head;
    for (u32 i = 0; i < LEN(nodes); i++) {
        nodes[i].value = i;
        link_after(i ? &nodes[random32(&seed) % i] : &head, &nodes[i]);
    }
    for (u32 r = units * 600; r; r--) {
        sum = mix(sum, walk(r & 3));
        for (int k = 0; k < 32; k++) {
            struct node *n = &nodes[random32(&seed) % LEN(nodes)];
            n->prev->next = n->next;
            n->next->prev = n->prev;
            link_after(&head, n);
        }
    }
    return sum;
}
