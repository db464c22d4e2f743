# Debug registers and the trap flag: breakpoints on instructions, data and ports, single steps, general detect, RF.
#
# Each case sets DR0-3 and DR7 and runs; what was caught is shown with DR6. Addresses in DR0-3 are of `spot` (data), or of labels.
.include "prelude.inc"
.include "try.inc"

.macro dbg name, ring, dr7, address=spot, flags=0
    movl $\flags, try_flags
    movl $\address, %eax
    mov %eax, %dr0
    lea 4(%eax), %eax
    mov %eax, %dr1
    mov $0xffff0ff0, %eax
    mov %eax, %dr6
    mov $\dr7, %eax
    mov %eax, %dr7
    case "\name", \ring
.endm
.macro enddbg
    endcase
    xor %eax, %eax
    mov %eax, %dr7
    mov %dr6, %eax
    show "  dr6", "%eax"
.endm

.macro in_ring ring
    dbg "execute", \ring, 0x2, 1f
    nop
1:  nop
    nop
    enddbg
    dbg "execute, not on the first byte", \ring, 0x2, "1f + 1"
1:  mov $0x90909090, %eax
    enddbg
    dbg "write, by a write", \ring, 0xd0002
    movl $1, spot
    nop
    enddbg
    dbg "write, by a read", \ring, 0xd0002
    mov spot, %eax
    enddbg
    dbg "access, by a read", \ring, 0xf0002
    mov spot, %eax
    nop
    enddbg
    dbg "access, by a fetch of code", \ring, 0xf0002, 1f
    nop
1:  nop
    enddbg
    dbg "a byte, beside it", \ring, 0x30002
    mov spot + 1, %al
    enddbg
    dbg "a byte, over it", \ring, 0x30002, "spot + 2"
    mov spot, %eax
    nop
    enddbg
    dbg "a word, from before it", \ring, 0x70002, "spot + 4"
    mov spot + 1, %eax
    nop
    enddbg
    dbg "both", \ring, 0xff000a
    mov spot + 2, %eax
    nop
    enddbg
    dbg "a read-modify-write", \ring, 0xf0002
    incl spot
    nop
    enddbg
    dbg "push onto it", \ring, 0xd0002, "STACK_SPOT - 4"
    mov $STACK_SPOT, %esp
    push %eax
    nop
    enddbg
    dbg "movs, at the third element", \ring, 0xd0002, "spot + 8"
    cld
    mov $text, %esi
    mov $spot, %edi
    mov $4, %ecx
    rep movsl
    nop
    enddbg
    dbg "not enabled", \ring, 0xd0000
    movl $1, spot
    enddbg
    dbg "locally enabled", \ring, 0xd0001
    movl $1, spot
    nop
    enddbg
.endm

main:
    call try_setup
    puts "ring 0\n"
    in_ring 0
    puts "ring 3\n"
    in_ring 3

    puts "single steps\n"
    dbg "popf sets TF: the next instruction is stepped", 0, 0
    pushf
    orl $0x100, (%esp)
    popf
    nop
    nop
    enddbg
    dbg "a step into a read that is watched", 0, 0xf0002
    pushf
    orl $0x100, (%esp)
    popf
    mov spot, %eax
    enddbg
    dbg "TF in ring 3", 3, 0, spot, 0x100
    nop
    nop
    enddbg
    dbg "int clears TF first", 3, 0, spot, 0x100
    enddbg
    dbg "a step over mov ss", 0, 0
    pushf
    orl $0x100, (%esp)
    mov $DATA0, %ecx
    popf
    mov %ecx, %ss
    nop
    nop
    enddbg
    dbg "a step of rep movs is an iteration", 0, 0
    cld
    mov $text, %esi
    mov $spot, %edi
    mov $4, %ecx
    pushf
    orl $0x100, (%esp)
    popf
    rep movsl
    nop
    enddbg
    dbg "popf that clears TF is stepped itself", 0, 0
    pushf
    pushf
    orl $0x100, (%esp)
    popf
    popf
    nop
    enddbg

    puts "RF\n"
    dbg "iret with RF passes a breakpoint once", 0, 2, 1f
    pushfl
    orl $0x10000, (%esp)
    push %cs
    push $1f
    iret
1:  nop
    jmp 1b
    enddbg

    puts "ports\n"
    mov %cr4, %eax
    or $8, %eax
    mov %eax, %cr4
    dbg "in from a watched port", 0, 0x20002, 0x84
    in $0x84, %al
    nop
    enddbg
    dbg "in beside it", 0, 0x20002, 0x84
    in $0x85, %al
    nop
    enddbg
    dbg "a word over it", 0, 0x20002, 0x85
    in $0x84, %ax
    nop
    enddbg
    case "dr4 with DE", 0
    mov %dr4, %eax
    endcase
    mov %cr4, %eax
    and $~8, %eax
    mov %eax, %cr4
    case "dr4 without DE", 0
    mov %dr4, %eax
    endcase
    puts "general detect\n"
    dbg "mov to a debug register with GD", 0, 0x2000
    mov %eax, %dr3
    enddbg
    case "from ring 3", 3
    mov %dr0, %eax
    endcase
    mov $0xffffffff, %eax
    mov %eax, %dr6
    mov %dr6, %eax
    show "dr6", "%eax"
    mov $0xffffdfff, %eax
    mov %eax, %dr7
    mov %dr7, %eax
    xor %ecx, %ecx
    mov %ecx, %dr7
    show "dr7", "%eax"
    ret

.set STACK_SPOT, spot + 64
.data
.balign 16
text: .ascii "sixteen bytes ..."
.balign 16
spot: .fill 32, 4, 0
