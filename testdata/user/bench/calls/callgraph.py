#!/usr/bin/env python3
"""Writes callgraph.c: 624 functions, some 120 KB of text, whose calls depend on data.

Small call benchmarks flatter every way of predicting returns: they have a handful of return sites. A real program has
thousands, and shared helpers that are called from everywhere. 600 functions call each other at random where the data say
so, and 24 helpers from over a thousand sites. The depth bounds recursion, the budget bounds the calls of one tree.
The random generator is our own, so that every Python writes the same file.
"""

import sys

FUNCTIONS, HELPERS, BLOCKS = 600, 24, 4
OPS = ["x += y * {o}u;", "x ^= y >> {s};", "y = (y << {s} | y >> {r}) + x;", "y -= x ^ {c}u;", "x = x * 5 + {c}u;",
       "y ^= data[x & 255];", "data[y & 255] += x;"]
state = 20250101


def pick(n):
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return (state >> 33) % n


def op():
    s = 1 + pick(30)
    return OPS[pick(len(OPS))].format(o=1 + 2 * pick(50), s=s, r=32 - s, c=pick(2**31))


def main(out):
    out.write("/* Written by callgraph.py. */\n#include \"bench.h\"\n\nstatic u32 data[256], budget;\n\n")
    for i in range(FUNCTIONS):
        out.write(f"NOINLINE u32 f{i}(u32 x, u32 depth);\n")
    for i in range(HELPERS):
        out.write(f"\nNOINLINE u32 h{i}(u32 x, u32 y)\n{{\n    {op()}\n    {op()}\n    return x ^ y;\n}}\n")
    for i in range(FUNCTIONS):
        out.write(f"\nNOINLINE u32 f{i}(u32 x, u32 depth)\n{{\n    u32 y = x ^ {pick(2**31)}u;\n")
        out.write("    if (!depth || !budget)\n        return y;\n    budget--;\n")
        for block in range(BLOCKS):
            out.write(f"    {op()}\n")
            bit = (1 if block % 2 == 0 else 3) << pick(16)
            if block % 2:
                out.write(f"    if (x & {bit}u)\n        y += f{pick(FUNCTIONS)}(y, depth - 1);\n")
            else:
                out.write(f"    if (y & {bit}u)\n        x ^= h{pick(HELPERS)}(x, y);\n")
        out.write("    return x + y;\n}\n")
    out.write("\nstatic u32 (*const roots[])(u32, u32) = {\n")
    out.write("".join(f"    f{i},\n" for i in range(0, FUNCTIONS, 10)))
    out.write("};\n\nu32 run(u32 units)\n{\n    u32 sum = 0, seed = 1;\n    for (u32 r = units * 180; r; r--) {\n")
    out.write("        budget = 400;\n        sum = mix(sum, roots[r % LEN(roots)](random32(&seed), 24));\n    }\n")
    out.write("    return sum;\n}\n")


main(sys.stdout)
