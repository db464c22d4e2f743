/* A bytecode machine with 16 operations, included by two workloads that differ in how they get from one to the next:
   FETCH begins each, OP(name) its code, NEXT its end. The program finds primes, hashes them, and sorts what comes out. */
#include "bench.h"

enum { PUSH, ADD, SUB, MUL, XOR, SHR, AND, LOAD, STORE, GET, SET, LESS, JUMP, JUMPZ, DUP, HALT };

/* Local variables. */
enum { I, J, N, H, T };

static const i32 program[] = {
    /* 0: i = 2 */
    PUSH, 2, SET, I,
    /* 4: while i < n */
    GET, I, GET, N, LESS, JUMPZ, 59,
    /* 11: if !mem[i] */
    GET, I, LOAD, JUMPZ, 18, JUMP, 50,
    /* 18: h = (h * 31) ^ i; j = i + i */
    GET, H, PUSH, 31, MUL, GET, I, XOR, SET, H, GET, I, DUP, ADD, SET, J,
    /* 34: while j < n: mem[j] = 1, j += i */
    GET, J, GET, N, LESS, JUMPZ, 50,
    PUSH, 1, GET, J, STORE, JUMP, 59 + 1,
    /* 48 and 49 never run */
    HALT, HALT,
    /* 50: i += 1 */
    GET, I, PUSH, 1, ADD, SET, I, JUMP, 4,
    /* 59: the end */
    HALT,
    /* 60: j += i; back to 34 */
    GET, J, GET, I, ADD, SET, J, JUMP, 34,
};

static i32 mem[4096];

static NOINLINE i32 execute(i32 n, i32 h)
{
    i32 stack[16], *sp = stack, var[5] = { 0, 0, n, h, 0 };
    const i32 *pc = program;
    START
    OP(PUSH) *sp++ = *pc++; NEXT
    OP(ADD) sp--; sp[-1] += sp[0]; NEXT
    OP(SUB) sp--; sp[-1] -= sp[0]; NEXT
    OP(MUL) sp--; sp[-1] = (i32)((u32)sp[-1] * (u32)sp[0]); NEXT
    OP(XOR) sp--; sp[-1] ^= sp[0]; NEXT
    OP(SHR) sp--; sp[-1] = (i32)((u32)sp[-1] >> (sp[0] & 31)); NEXT
    OP(AND) sp--; sp[-1] &= sp[0]; NEXT
    OP(LOAD) sp[-1] = mem[sp[-1] & 4095]; NEXT
    OP(STORE) sp -= 2; mem[sp[1] & 4095] = sp[0]; NEXT
    OP(GET) *sp++ = var[*pc++]; NEXT
    OP(SET) var[*pc++] = *--sp; NEXT
    OP(LESS) sp--; sp[-1] = sp[-1] < sp[0]; NEXT
    OP(JUMP) pc = program + *pc; NEXT
    OP(JUMPZ) pc = *--sp ? pc + 1 : program + *pc; NEXT
    OP(DUP) *sp = sp[-1]; sp++; NEXT
    OP(HALT) return var[H];
    FINISH
}

u32 run(u32 units)
{
    i32 h = 1;
    for (u32 r = units * 22; r; r--) {
        for (u32 i = 0; i < LEN(mem); i++)
            mem[i] = 0;
        h = execute(2000 + (i32)(r & 15), h);
    }
    return (u32)h;
}
