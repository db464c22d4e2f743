# Instructions with more than one reason to fault, one of them a page that isn't there.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set ABSENT, 0x400000           # what TABLE maps: nothing, but
.set PRESENT, 0x410000

.text
main:
    call try_setup
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x2000 / 4, %ecx
    rep stosl
    movl $0xe7, TOP
    movl $TABLE + 7, TOP + 4
    movl $0x30007, TABLE + 0x10 * 4
    mov %cr4, %eax
    or $0x610, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000022, %eax
    and $~0xc, %eax
    mov %eax, %cr0
    mov $PRESENT, %ebx

.macro cases ring
    puts "ring \ring\n"
    case "misaligned and absent", \ring
    movaps ABSENT + 8, %xmm0
    endcase
    case "misaligned and absent, written", \ring
    movaps %xmm0, ABSENT + 8
    endcase
    case "absent", \ring
    movaps ABSENT + 16, %xmm0
    endcase

    # 1 / 0 is to be reported.
    fninit
    push $0x37b
    fldcw (%esp)
    pop %eax
    fld1
    fldz
    fdivrp
    case "a pending exception", \ring
    fldl ABSENT
    endcase
    case "a pending exception, written", \ring
    fstpl ABSENT
    endcase
    case "a pending exception, at a page's end", \ring
    fldl ABSENT - 4
    endcase
    fninit
    case "none", \ring
    fldl ABSENT
    endcase

    mov $ABSENT + 0x1000, %esi
    mov $ABSENT + 0x2000, %edi
    mov $4, %ecx
    case "cmps", \ring
    cmpsb
    endcase
    case "repe cmps", \ring
    repe cmpsl
    endcase
    case "movs", \ring
    movsb
    endcase
    case "rep movs", \ring
    rep movsl
    endcase
    mov %ebx, %esi
    case "cmps, source present", \ring
    cmpsb
    endcase
    show "  flags", "TABLE + 0x10 * 4"
    case "repe cmps, source present", \ring
    repe cmpsb
    endcase
    show "  flags", "TABLE + 0x10 * 4"
    mov %ebx, %edi
    mov $ABSENT + 0x1000, %esi
    case "cmps, destination present", \ring
    cmpsb
    endcase

    case "push, both absent", \ring
    mov $ABSENT + 0x3000, %esp
    push ABSENT + 0x4000
    endcase
    case "call, both absent", \ring
    mov $ABSENT + 0x3000, %esp
    call *ABSENT + 0x4000
    endcase
    case "a read that goes on on an absent page", \ring
    mov PRESENT + 0xffe, %eax
    endcase
    case "a write that does", \ring
    movl $-1, PRESENT + 0xffe
    endcase
    show "  written", "PRESENT + 0xffc"
    show "  flags", "TABLE + 0x10 * 4"
.endm
    cases 3
    # The CPU itself needs a stack to report a fault in ring 0.
    puts "ring 0\n"
    case "misaligned and absent"
    movaps ABSENT + 8, %xmm0
    endcase
    fninit
    push $0x37b
    fldcw (%esp)
    pop %eax
    fld1
    fldz
    fdivrp
    case "a pending exception"
    fldl ABSENT
    endcase
    fninit
    mov $ABSENT + 0x1000, %esi
    mov $ABSENT + 0x2000, %edi
    case "cmps"
    cmpsb
    endcase
    case "push from an absent page"
    push ABSENT + 0x4000
    endcase
    ret
