/* Entry, and the three places where C can't say what the kernel needs: a thread's first instructions, the return from a
   signal handler, and a load that faults at a known address. */
        .section .note.GNU-stack,"",@progbits
        .text
        .globl _start
_start: xorl %ebp, %ebp
        movl %esp, %eax
        andl $-16, %esp
        subl $12, %esp
        pushl %eax
        call start
        hlt

        /* int spawn(u32 flags, u32 *stack, int *ptid, int *ctid): the new thread takes a function and its argument off its
           stack, calls the one with the other, and exits. */
        .globl spawn
spawn:  pushl %ebx
        pushl %esi
        pushl %edi
        movl 16(%esp), %ebx
        movl 20(%esp), %ecx
        movl 24(%esp), %edx
        xorl %esi, %esi
        movl 28(%esp), %edi
        movl $120, %eax                 /* clone */
        int $0x80
        testl %eax, %eax
        jnz 1f
        popl %eax
        call *%eax
        xorl %ebx, %ebx
        movl $1, %eax                   /* exit */
        int $0x80
1:      popl %edi
        popl %esi
        popl %ebx
        ret

        .globl sigreturn
sigreturn:
        movl $173, %eax                 /* rt_sigreturn */
        int $0x80

        /* u32 load(u32 *): a handler may resume at loaded. */
        .globl load, loaded
load:   movl 4(%esp), %eax
        movl (%eax), %eax
loaded: ret
