/* Where mappings go and what memory calls answer. Compared with a native run without address randomisation. */
#include "user.h"

#define ANON 0x22
static u32 map(u32 at, u32 len, u32 prot, u32 flags) { return SYS(mmap2, at, len, prot, flags, -1, 0); }

void start(u32 *sp)
{
    u32 brk = SYS(brk, 0);
    show("brk", brk);
    show("brk +1", SYS(brk, brk + 1));
    *(volatile char *)brk = 1;
    show("brk +3 pages", SYS(brk, brk + 0x3000));
    show("brk keeps contents", *(volatile char *)brk);
    show("brk below start", SYS(brk, brk - 1));
    show("brk too far", SYS(brk, 0xffffff00) == brk + 0x3000);
    show("brk back", SYS(brk, brk));
    u32 a = map(0, 0x5000, 3, ANON), b = map(0, 0x1000, 3, ANON), c = map(0, 0x2000, 3, ANON);
    /* The first goes below what the kernel itself put there, of which there is more natively. */
    show("second is below", a - b);
    show("third is below", b - c);
    result("unmap middle", SYS(munmap, b, 0x1000));
    show("gap is reused", map(0, 0x1000, 3, ANON) - b);
    result("unmap", SYS(munmap, a + 0x1000, 0x2000));
    show("two pages fit in the hole", map(0, 0x2000, 1, ANON) - a);
    show("hint is honoured", map(0x20000000, 0x1000, 3, ANON));
    show("hint is rounded", map(0x20002001, 0x1000, 3, ANON));
    show("taken hint", map(0x20000000, 0x1000, 3, ANON) == 0x20000000);
    result("fixed, unaligned", map(0x30000001, 0x1000, 3, ANON | 0x10));
    show("fixed", map(0x30000000, 0x4000, 3, ANON | 0x10));
    result("noreplace", map(0x30001000, 0x1000, 3, ANON | 0x100000));
    show("noreplace free", map(0x30004000, 0x1000, 3, ANON | 0x100000));
    result("too high", map(0xfffff000, 0x1000, 3, ANON | 0x10));
    result("length zero", map(0, 0, 3, ANON));
    result("length wraps", map(0, 0xfffff001, 3, ANON));
    result("too long", map(0, 0xf0000000, 3, ANON));
    result("no type", map(0, 0x1000, 3, 0x20));
    result("bad fd", SYS(mmap2, 0, 0x1000, 3, 2, 99, 0));
    *(volatile u32 *)0x30000000 = 0x12345678;
    result("protect", SYS(mprotect, 0x30000000, 0x1000, 1));
    result("read into read-only", SYS(getcwd, 0x30000000, 100));
    result("protect hole", SYS(mprotect, 0x30004000, 0x2000, 1));
    result("protect unaligned", SYS(mprotect, 0x30000001, 0x1000, 1));
    result("protect nothing", SYS(mprotect, 0x30000000, 0, 1));
    result("mremap grow in place", SYS(mremap, 0x30004000, 0x1000, 0x2000, 0) - 0x30004000);
    result("mremap no room", SYS(mremap, 0x30000000, 0x1000, 0x9000, 0));
    u32 m = SYS(mremap, 0x30000000, 0x1000, 0x9000, 1);
    show("mremap moved the contents", *(volatile u32 *)m);
    result("mremap old is gone", SYS(mprotect, 0x30000000, 0x1000, 1));
    result("mremap fixed", SYS(mremap, m, 0x9000, 0x9000, 3, 0x40000000) - 0x40000000);
    result("mremap overlap", SYS(mremap, 0x40000000, 0x9000, 0x9000, 3, 0x40001000));
    result("mremap shrink", SYS(mremap, 0x40000000, 0x9000, 0x1000, 0) - 0x40000000);
    result("mremap unmapped", SYS(mremap, 0x50000000, 0x1000, 0x2000, 1));
    result("mremap zero", SYS(mremap, 0x40000000, 0x1000, 0, 1));
    /* More than there is; a hint that is none. */
    result("mremap no room", SYS(mremap, 0x40000000, 0x1000, 0xf0000000, 1));
    /* EINVAL or, before Linux 6.16, ENOMEM where it may move */
    result("mremap too long", (u32)SYS(mremap, 0x40000000, 0x1000, 0xfffff000, 1) >= 0xfffff000);
    result("mremap too long, in place", (u32)SYS(mremap, 0x40000000, 0x1000, 0xfffff000, 0) >= 0xfffff000);
    result("mremap too long, fixed", SYS(mremap, 0x40000000, 0x1000, 0xfffff000, 3, 0x50000000));
    result("mremap too long, both", SYS(mremap, 0x40000000, 0x1000, 0xfffff000, 5, 0x50000000));
    map(0x40001000, 0x1000, 3, ANON | 0x10);
    m = SYS(mremap, 0x40000000, 0x1000, 0x3000, 1, 0x48000000);
    result("mremap takes no hint", m != 0x48000000 && m < 0xfffff000);
    m = SYS(mremap, m, 0x3000, 0x1000, 3, 0x40000000);
    show("mremap back", m);
    show("mremap both, with a hint", SYS(mremap, 0x40000000, 0x1000, 0x1000, 5, 0x48000000));
    result("mremap both, unaligned", SYS(mremap, 0x40000000, 0x1000, 0x1000, 5, 0x48000001));
    result("mremap both, overlap", SYS(mremap, 0x40000000, 0x1000, 0x1000, 5, 0x40000000));
    int seg = SYS(shmget, 0, 0xfffff000, 010600);
    result("shmget", seg >= 0);
    result("shmat too long", SYS(shmat, seg, 0, 0));
    result("shmat too long, fixed", SYS(shmat, seg, 0x60000000, 0));
    result("shmat too long, over all", SYS(shmat, seg, 0x60000000, 040000));
    result("remove", SYS(shmctl, seg, 0, 0));
    result("madvise dontneed", SYS(madvise, 0x30004000, 0x1000, 4));
    result("madvise hole", SYS(madvise, 0x50000000, 0x1000, 4));
    result("madvise bad", SYS(madvise, 0x30004000, 0x1000, 999));
    result("munmap unaligned", SYS(munmap, 1, 0x1000));
    result("munmap zero", SYS(munmap, 0x30004000, 0));
    result("munmap hole", SYS(munmap, 0x50000000, 0x1000));
    result("msync", SYS(msync, 0x50000000, 0x1000, 4));
    result("mincore hole", SYS(mincore, 0x50000000, 0x1000, 0x30004000));
    /* The stack grows by itself, far below where it began. */
    volatile char *deep = (char *)sp - 0x300000;
    *deep = 7;
    result("stack grew", *deep);
    /* All of the address space, then no more. */
    u32 total = 0, chunk = 0x10000000, got;
    while (chunk >= 0x100000) {
        got = SYS(mmap2, 0, chunk, 0, ANON | 0x4000, -1, 0);
        if (got > 0xfffff000) chunk >>= 1; else total += chunk >> 20;
    }
    result("more than 3.7 GB", total > 3800);
    result("then", map(0, 0x1000000, 0, ANON));
    exit_(0);
}
