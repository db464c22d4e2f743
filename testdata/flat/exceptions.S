# Every exception that an instruction can raise in ring 0 and ring 3: vector, error code, saved EIP (fault or trap) and RF.
.include "prelude.inc"
.include "try.inc"
.text
main:
    call segments
    call try_setup
    finit
    call both
    ret

.macro both_rings ring
    case "divide error", \ring
    xor %ecx, %ecx
    nop
    div %ecx
    endcase
    case "divide overflow", \ring
    mov $1, %edx
    mov $1, %ecx
    div %ecx
    endcase
    case "aam 0", \ring
    aam $0
    endcase
    case "int3", \ring
    int3
    endcase
    case "int 3", \ring
    .byte 0xcd, 3
    endcase
    case "into without OF", \ring
    xor %eax, %eax
    into
    endcase
    case "into", \ring
    mov $0x7fffffff, %eax
    inc %eax
    into
    endcase
    case "bound inside", \ring
    mov $5, %eax
    bound %eax, bounds
    endcase
    case "bound outside", \ring
    mov $11, %eax
    bound %eax, bounds
    endcase
    case "ud2", \ring
    ud2
    endcase
    case "lock on a register", \ring
    .byte 0xf0, 0x01, 0xc0
    endcase
    case "undefined opcode", \ring
    .byte 0x0f, 0x04
    endcase
    case "mov cs", \ring
    .byte 0x8e, 0xc8
    endcase
    case "over-long", \ring
    .rept 15
    .byte 0x66
    .endr
    nop
    endcase
    case "null segment", \ring
    xor %eax, %eax
    mov %eax, %fs
    mov %fs:0, %al
    endcase
    case "selector beyond the GDT", \ring
    mov $0x1000, %eax
    mov %eax, %fs
    endcase
    case "selector in no LDT", \ring
    mov $0x0c, %eax
    mov %eax, %fs
    endcase
    case "code segment for data", \ring
    mov $CODE0, %eax
    mov %eax, %fs
    endcase
    case "null into ss", \ring
    xor %eax, %eax
    mov %eax, %ss
    endcase
    case "wrong privilege into ss", \ring
    mov $(DATA3 ^ 3), %eax
    mov %eax, %ss
    endcase
    case "absent data segment", \ring
    mov $(ABSENT + \ring), %eax
    mov %eax, %fs
    endcase
    case "absent stack segment", \ring
    mov $(ABSENT + \ring), %eax
    mov %eax, %ss
    endcase
    case "beyond a segment limit", \ring
    mov $(SMALL + \ring), %eax
    mov %eax, %fs
    mov %fs:0xffd, %eax
    endcase
    case "up to a segment limit", \ring
    mov $(SMALL + \ring), %eax
    mov %eax, %fs
    mov %fs:0xffc, %eax
    endcase
    case "write to read-only", \ring
    mov $(READ_ONLY + \ring), %eax
    mov %eax, %fs
    mov %fs:0, %eax
    mov %eax, %fs:0
    endcase
    case "below an expand-down limit", \ring
    mov $(DOWN + \ring), %eax
    mov %eax, %fs
    mov %fs:0xfff, %al
    endcase
    case "above an expand-down limit", \ring
    mov $(DOWN + \ring), %eax
    mov %eax, %fs
    mov %fs:0x1000, %al
    endcase
    case "int without a gate", \ring
    int $0x81
    endcase
    case "int beyond the idt", \ring
    int $0x90
    endcase
    case "int through an absent gate", \ring
    int $0x82
    endcase
    case "far jump to data", \ring
    ljmp $DATA0, $0
    endcase
    case "far jump to null", \ring
    ljmp $0, $0
    endcase
    case "far call to an absent segment", \ring
    lcall $ABSENT_CODE + \ring, $0
    endcase
    case "far jump beyond the limit", \ring
    ljmp $SMALL_CODE + \ring, $0x1000
    endcase
    case "hlt or its fault", \ring
    .if \ring
    hlt
    .endif
    endcase
    case "cli", \ring
    cli
    endcase
    case "in", \ring
    in $0xe9, %al
    endcase
    case "mov from cr0", \ring
    mov %cr0, %eax
    endcase
    case "mov to cr8", \ring
    .byte 0x0f, 0x20, 0xc8
    endcase
    case "clts", \ring
    clts
    endcase
    case "rdmsr of none", \ring
    mov $0x12345678, %ecx
    rdmsr
    endcase
    case "lgdt", \ring
    lgdt gdtr
    endcase
    case "lldt of data", \ring
    mov $DATA0, %eax
    lldt %ax
    endcase
    case "ltr of a busy tss", \ring
    mov $TSS, %eax
    ltr %ax
    endcase
    case "invlpg", \ring
    invlpg 0
    endcase
    case "cr0 with PG and without PE", \ring
    mov %cr0, %eax
    mov %eax, %ecx
    or $0x80000000, %eax
    and $~1, %eax
    mov %eax, %cr0
    endcase
    case "cr0 with NW and without CD", \ring
    mov %cr0, %eax
    or $0x20000000, %eax
    and $~0x40000000, %eax
    mov %eax, %cr0
    endcase
    case "reserved bit of cr4", \ring
    mov %cr4, %eax
    or $0x80000000, %eax
    mov %eax, %cr4
    endcase
    case "misaligned with AC", \ring
    pushf
    orl $0x40000, (%esp)
    popf
    mov bounds + 1, %eax
    endcase
    pushf
    andl $~0x40000, (%esp)
    popf
    case "aligned with AC", \ring
    pushf
    orl $0x40000, (%esp)
    popf
    mov bounds, %eax
    mov bounds + 1, %al
    endcase
    case "x87 exception", \ring
    fninit
    movw $0x037b, scratch
    fldcw scratch
    fldz
    fld1
    fdivp
    fwait
    endcase
    fninit
.endm

both:
    # CR0.AM and NE on; EM, TS off.
    mov %cr0, %eax
    or $0x40020, %eax
    and $~0xc, %eax
    mov %eax, %cr0
    # A shorter IDT, one gate without P, one empty.
    set_gate 0x82, try_end, 0x6e
    movl $0, idt + 0x81 * 8
    movl $0, idt + 0x81 * 8 + 4
    movw $(0x90 * 8 - 1), idtr
    lidt idtr
    puts "ring 0\n"
    both_rings 0
    puts "ring 3\n"
    both_rings 3
    puts "no fpu\n"
    mov %cr0, %eax
    or $8, %eax
    mov %eax, %cr0
    case "x87 with TS", 0
    fld1
    endcase
    case "wait with TS and without MP", 0
    fwait
    endcase
    mov %cr0, %eax
    or $2, %eax
    mov %eax, %cr0
    case "wait with TS and MP", 0
    fwait
    endcase
    ret

.data
.balign 8
bounds: .long 0, 10
scratch: .long 0
.set ABSENT, 0x40
.set SMALL, 0x48
.set READ_ONLY, 0x50
.set DOWN, 0x58
.set ABSENT_CODE, 0x60
.set SMALL_CODE, 0x68
.set TABLE, gdt_more
.text
.pushsection .boot
.popsection
# Descriptors at DPL 3, so that both rings may load them; SS needs DPL = CPL and gets its own below.
segments:
    movl $0x0000ffff, gdt + ABSENT
    movl $0x00cf7300, gdt + ABSENT + 4
    movl $0x00000fff, gdt + SMALL
    movl $0x0040f300, gdt + SMALL + 4
    movl $0x0000ffff, gdt + READ_ONLY
    movl $0x00cff100, gdt + READ_ONLY + 4
    movl $0x00000fff, gdt + DOWN
    movl $0x0040f700, gdt + DOWN + 4
    movl $0x0000ffff, gdt + ABSENT_CODE
    movl $0x00cf7f00, gdt + ABSENT_CODE + 4
    movl $0x00000fff, gdt + SMALL_CODE
    movl $0x0040ff00, gdt + SMALL_CODE + 4
    ret
