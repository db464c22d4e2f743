//! Where a statically linked program begins, before its own start code.

use core::arch::global_asm;

// A position-independent program that is linked statically relocates itself: it writes to every page of its constants that holds a pointer, some seventy here, and
// each is a fault that copies a page of the file. Asked for together they cost half. Nothing depends on it: where the kernel
// refuses, or the linker has put something else there, pages come by faults as ever.
//
// This runs before anything has been relocated, with the registers and the stack that the kernel gives a new program, and leaves them so.
global_asm!(
    ".pushsection .text.xlat86_start, \"ax\", @progbits",
    ".globl xlat86_start",
    "xlat86_start:",
    "push rdx",
    // From the first of what is relocated to the last, the linker's table of addresses, in whole pages.
    "lea rdi, [rip + __init_array_start]",
    "and rdi, -4096",
    "lea rsi, [rip + _GLOBAL_OFFSET_TABLE_]",
    "sub rsi, rdi",
    "mov edx, {populate}",
    "mov eax, {madvise}",
    "syscall",
    "pop rdx",
    "jmp _start",
    ".popsection",
    populate = const libc::MADV_POPULATE_WRITE,
    madvise = const libc::SYS_madvise,
);
