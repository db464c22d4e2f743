/* The initial stack: argument and environment strings, alignment, the auxiliary vector. Values that differ between two
   native runs (random bytes, pids, where the vDSO is) are shown by what must hold for them. */
#include "user.h"

void start(u32 *sp)
{
    u32 argc = sp[0], *argv = sp + 1, *envp = argv + argc + 1, *p = envp;
    show("argc", argc);
    for (u32 i = 0; i < argc; i++) { show("argv", argv[i]); puts_((char *)argv[i]); put('\n'); }
    for (; *p; p++) { show("env", *p); puts_((char *)*p); put('\n'); }
    u32 *auxv = p + 1, seen = 0, random = 0;
    for (u32 *a = auxv; a[0]; a += 2) {
        switch (a[0]) {
        case 3: case 4: case 5: case 6: case 7: case 8: case 9: case 11: case 12: case 13: case 14: case 17: case 23:
            result("at", a[0]); show("is", a[1]); break;
        case 15: result("platform", a[0]); show("at", a[1]); puts_((char *)a[1]); put('\n'); break;
        case 31: result("execfn", a[0]); show("at", a[1]); puts_((char *)a[1]); put('\n'); break;
        case 25: random = a[1]; show("random", a[1]); break;
        case 32: seen |= 1; break;
        case 33: seen |= 2; show("vdso is elf", *(u32 *)a[1]); break;
        case 16: seen |= 4; show("hwcap: fpu tsc cx8 cmov mmx fxsr sse sse2", a[1] & 0x07808111); break;
        }
    }
    show("sysinfo, ehdr, hwcap seen", seen);
    show("random bytes are random", (*(u32 *)random | *(u32 *)(random + 4)) != 0);
    show("aligned", (u32)sp & 15);
    u32 flags, es, cs, ss, ds, fs, gs;
    __asm__("pushf; pop %0" : "=r"(flags));
    __asm__("mov %%es, %0; mov %%cs, %1; mov %%ss, %2" : "=r"(es), "=r"(cs), "=r"(ss));
    __asm__("mov %%ds, %0; mov %%fs, %1; mov %%gs, %2" : "=r"(ds), "=r"(fs), "=r"(gs));
    show("es", es & 0xffff); show("cs", cs & 0xffff); show("ss", ss & 0xffff); show("ds", ds & 0xffff);
    show("fs", fs & 0xffff); show("gs", gs & 0xffff); show("flags", flags & 0x3200);
    unsigned short cw; u32 mxcsr;
    __asm__("fnstcw %0; stmxcsr %1" : "=m"(cw), "=m"(mxcsr));
    show("fcw", cw); show("mxcsr", mxcsr);
    show("brk aligned", SYS(brk, 0) & 0xfff);
    exit_(argc);
}
