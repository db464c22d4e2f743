/* Virtual calls, C++'s way: an object points to its class's table of functions.
   CLASSES says how many classes take turns,
   PASSES how many passes over the objects are a unit. */
#include "bench.h"

struct shape;
struct class {
    u32 (*area)(const struct shape *);
    void (*grow)(struct shape *, u32);
};
struct shape {
    const struct class *class;
    u32 w, h;
};

#define SHAPE(name, expression, change)                                                                               \
    static NOINLINE u32 name##_area(const struct shape *s)                                                             \
    {                                                                                                                  \
        return expression;                                                                                             \
    }                                                                                                                  \
    static NOINLINE void name##_grow(struct shape *s, u32 by)                                                          \
    {                                                                                                                  \
        change;                                                                                                        \
    }                                                                                                                  \
    static const struct class name = { name##_area, name##_grow };

SHAPE(rectangle, s->w * s->h, s->w += by)
SHAPE(triangle, s->w * s->h / 2, s->h += by)
SHAPE(circle, s->w * s->w * 3, (s->w += by, s->h ^= by))
SHAPE(line, s->w + s->h, (s->w ^= by, s->h += by))

static const struct class *const classes[] = { &rectangle, &triangle, &circle, &line };
static struct shape shapes[1024];

static NOINLINE u32 pass(u32 by)
{
    u32 sum = 0;
    for (u32 i = 0; i < LEN(shapes); i++) {
        sum += shapes[i].class->area(&shapes[i]);
        shapes[i].class->grow(&shapes[i], by);
    }
    return sum;
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 21;
    for (u32 i = 0; i < LEN(shapes); i++)
        shapes[i] = (struct shape) { classes[random32(&seed) % CLASSES], i, i * 3 };
    for (u32 r = units * PASSES; r; r--)
        sum = mix(sum, pass(r & 3));
    return sum;
}
