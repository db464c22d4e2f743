/* Splits program text into words, numbers, strings, comments and signs: many short branches on characters. */
#include "bench.h"

static const char phrase[] = "static int total = 0x1f; /* the sum */ while (i <= 42) { name[i++] = \"a b\\\"c\"; }\n"
                             "if (x != y && z) return foo(bar, 17, 'q'); // done\nfor (;;) { _tmp -= 3.14; }\n";
static char text[8192];

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static NOINLINE u32 lex(const char *p)
{
    u32 sum = 0;
    while (*p) {
        const char *start = p;
        u32 kind;
        if (*p == ' ' || *p == '\n' || *p == '\t') {
            p++;
            continue;
        }
        if (is_letter(*p)) {
            kind = 1;
            while (is_letter(*p) || (*p >= '0' && *p <= '9'))
                p++;
        } else if (*p >= '0' && *p <= '9') {
            kind = 2;
            while (is_letter(*p) || (*p >= '0' && *p <= '9') || *p == '.')
                p++;
        } else if (*p == '"' || *p == '\'') {
            char quote = *p++;
            kind = 3;
            while (*p && *p != quote)
                p += *p == '\\' && p[1] ? 2 : 1;
            p += *p != 0;
        } else if (*p == '/' && p[1] == '*') {
            kind = 4;
            for (p += 2; *p && (*p != '*' || p[1] != '/'); p++)
                ;
            p += *p ? 2 : 0;
        } else if (*p == '/' && p[1] == '/') {
            kind = 5;
            while (*p && *p != '\n')
                p++;
        } else {
            kind = 6;
            p += (p[1] == '=' || (p[1] == *p && *p != ';')) ? 2 : 1;
        }
        sum = mix(sum, kind + (u32)(p - start) * 8);
    }
    return sum;
}

u32 run(u32 units)
{
    u32 sum = 0;
    for (u32 i = 0; i < sizeof text - 1; i++)
        text[i] = phrase[i % (sizeof phrase - 1)];
    for (u32 r = units * 200; r; r--) {
        sum = mix(sum, lex(text));
        text[r * 31 % (sizeof text - 1)] ^= (r & 15) == 0;
        if (!text[r * 31 % (sizeof text - 1)])
            text[r * 31 % (sizeof text - 1)] = ' ';
    }
    return sum;
}
