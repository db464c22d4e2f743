/* The guest's vDSO: what a 32-bit Linux kernel maps into every process, with the names that C libraries and
   unwinders look for. Everything enters the kernel by INT 80h, which the emulator answers. Rebuild with ./build. */

        .text

/* %eax: number; arguments as for INT 80h. */
        .globl  __kernel_vsyscall
        .type   __kernel_vsyscall, @function
__kernel_vsyscall:
        .cfi_startproc
        int     $0x80
        ret
        .cfi_endproc
        .size   __kernel_vsyscall, . - __kernel_vsyscall

/* Registers saved in the sigcontext that begins at \sc(%esp), as DWARF expressions (register, offset in the sigcontext). */
        .macro  saved reg, at
        .if     (\at) < 64
        .cfi_escape 0x10, \reg, 2, 0x74, (\at)
        .else
        .cfi_escape 0x10, \reg, 3, 0x74, ((\at) & 0x7f) | 0x80, (\at) >> 7
        .endif
        .endm
        .macro  context sc
        .if     (\sc + 28) < 64
        .cfi_escape 0x0f, 3, 0x74, (\sc + 28), 0x06
        .else
        .cfi_escape 0x0f, 4, 0x74, ((\sc + 28) & 0x7f) | 0x80, (\sc + 28) >> 7, 0x06
        .endif
        saved   0, \sc + 44
        saved   1, \sc + 40
        saved   2, \sc + 36
        saved   3, \sc + 32
        saved   5, \sc + 24
        saved   6, \sc + 20
        saved   7, \sc + 16
        saved   8, \sc + 56
        .endm

/* Unwinders look up the return address minus one, so the frame description begins one byte early. */
        .balign 32
        .cfi_startproc simple
        .cfi_signal_frame
        context 4
        nop
        .globl  __kernel_sigreturn
        .type   __kernel_sigreturn, @function
__kernel_sigreturn:
        popl    %eax
        context 0
        movl    $119, %eax
        int     $0x80
        .cfi_endproc
        .size   __kernel_sigreturn, . - __kernel_sigreturn

        .balign 32
        .cfi_startproc simple
        .cfi_signal_frame
        context 160
        nop
        .globl  __kernel_rt_sigreturn
        .type   __kernel_rt_sigreturn, @function
__kernel_rt_sigreturn:
        movl    $173, %eax
        int     $0x80
        .cfi_endproc
        .size   __kernel_rt_sigreturn, . - __kernel_rt_sigreturn

/* int f(a, b, c): the system call of the same meaning. */
        .macro  wrapper name, number, args
        .balign 16
        .globl  \name
        .type   \name, @function
\name:
        .cfi_startproc
        pushl   %ebx
        .cfi_adjust_cfa_offset 4
        .cfi_rel_offset ebx, 0
        movl    8(%esp), %ebx
        .if     \args > 1
        movl    12(%esp), %ecx
        .endif
        .if     \args > 2
        movl    16(%esp), %edx
        .endif
        movl    $\number, %eax
        int     $0x80
        popl    %ebx
        .cfi_adjust_cfa_offset -4
        .cfi_restore ebx
        ret
        .cfi_endproc
        .size   \name, . - \name
        .endm

        wrapper __vdso_clock_gettime, 265, 2
        wrapper __vdso_clock_getres, 266, 2
        wrapper __vdso_clock_gettime64, 403, 2
        wrapper __vdso_gettimeofday, 78, 2
        wrapper __vdso_time, 13, 1
        wrapper __vdso_getcpu, 318, 3

        .section .note.GNU-stack, "", @progbits
