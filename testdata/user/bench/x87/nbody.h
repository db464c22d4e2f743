/* Five bodies under gravity, in the floating point that REAL and the compiler's options choose. */
#include "bench.h"

struct body {
    REAL x, y, z, vx, vy, vz, mass;
};
static struct body bodies[5];

static inline REAL root(REAL x)
{
    return __builtin_sqrt(x);
}

static NOINLINE void advance(REAL dt)
{
    for (int i = 0; i < 5; i++) {
        struct body *a = &bodies[i];
        for (int j = i + 1; j < 5; j++) {
            struct body *b = &bodies[j];
            REAL dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
            REAL d2 = dx * dx + dy * dy + dz * dz, magnitude = dt / (d2 * root(d2));
            a->vx -= dx * b->mass * magnitude, a->vy -= dy * b->mass * magnitude, a->vz -= dz * b->mass * magnitude;
            b->vx += dx * a->mass * magnitude, b->vy += dy * a->mass * magnitude, b->vz += dz * a->mass * magnitude;
        }
    }
    for (int i = 0; i < 5; i++) {
        struct body *a = &bodies[i];
        a->x += dt * a->vx, a->y += dt * a->vy, a->z += dt * a->vz;
    }
}

u32 run(u32 units)
{
    u32 sum = 0, seed = 2;
    for (int i = 0; i < 5; i++) {
        REAL *f = &bodies[i].x;
        for (int k = 0; k < 6; k++)
            f[k] = (REAL)(i32)(random32(&seed) % 2000) / (k < 3 ? 100 : 5000) - (k < 3 ? 10 : 0);
        bodies[i].mass = i ? (REAL)0.01 * (REAL)i : (REAL)39;
    }
    for (u32 r = units * STEPS; r; r--)
        advance((REAL)0.001);
    for (int i = 0; i < 5; i++) {
        union { double d; u32 w[2]; } v = { (double)bodies[i].x };
        sum = mix(mix(sum, v.w[0]), v.w[1]);
    }
    return sum;
}
