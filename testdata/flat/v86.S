# Virtual-8086 mode: what traps by IOPL, what doesn't, ports, segments, interrupts and exceptions from it, and the ways in and out; then real mode.
.include "prelude.inc"
.include "try.inc"
.set STACK86, 0xb000            # SS = 0
.set SEGMENT, BASE >> 4

# Runs the 16-bit code up to `end86` in virtual-8086 mode and says how it ended. It ends with INT 81H at the latest.
.macro case86 name, flags=0
    puts "\name: "
    movl $(88f - from_reset), v86_ip
    movl $(0x20002 + \flags), v86_flags
    call attempt86
    jmp 99f
    .code16
88:
.endm
.macro end86
    int $0x81
    .code32
99:
.endm

# In the section of the reset code, so that offsets in the image are known to the assembler.
.section .boot, "ax"
attempt86:
    pusha
    push %fs
    push %gs
    mov %esp, try_esp
    mov %esp, tss + 4
    pushl $0x4444
    pushl $0x3333
    pushl $0x2222
    pushl $SEGMENT
    pushl $0
    pushl $STACK86
    pushl v86_flags
    pushl $SEGMENT
    pushl v86_ip
    iret

# Everything caught in this test comes here: vector and error code are on the stack, then the frame.
caught86:
    mov $DATA0, %eax
    mov %eax, %ss
    cld
    mov %esp, %esi
    mov %eax, %ds
    mov %eax, %es
    mov $frame, %edi
    mov $12, %ecx
    rep movsl
    mov try_esp, %esp
    mov frame, %eax
    cmp $0x81, %eax
    jne 1f
    puts "ok\n"
    jmp 2f
1:  puts "vector "
    push %eax
    call print_byte
    cmpl $-1, frame + 4
    je 3f
    puts " error "
    push frame + 4
    call print_hex
3:  puts " at "
    mov frame + 8, %eax
    sub v86_ip, %eax
    push %eax
    call print_byte
    puts " cs "
    push frame + 12
    call print_hex
    puts " flags "
    mov frame + 16, %eax
    and $0x37300, %eax
    push %eax
    call print_hex
    testl $0x20000, frame + 16
    jz 4f
    puts " ss:esp "
    push frame + 24
    call print_hex
    puts ":"
    push frame + 20
    call print_hex
    puts " es ds fs gs "
    push frame + 28
    call print_hex
    puts " "
    push frame + 32
    call print_hex
    puts " "
    push frame + 36
    call print_hex
    puts " "
    push frame + 40
    call print_hex
4:  puts "\n"
2:  pop %gs
    pop %fs
    popa
    ret

    .balign 16
gates:
.set n, 0
.rept 32
    .if (n == 8) || (n >= 10 && n <= 14) || (n == 17)
    nop
    nop
    .else
    pushl $-1
    .endif
    pushl $n
    jmp caught86
    .balign 16
    .set n, n + 1
.endr
gate_81:
    pushl $-1
    pushl $0x81
    jmp caught86
gate_82:
    pushl $-1
    pushl $0x82
    jmp caught86

.macro by_iopl iopl
    case86 "nothing", \iopl
    end86
    case86 "cli", \iopl
    cli
    end86
    case86 "sti", \iopl
    sti
    cli
    end86
    case86 "pushf", \iopl
    pushf
    end86
    case86 "popf", \iopl
    pushw $0x7202
    popfw
    pushw $2
    popfw
    end86
    case86 "popfl", \iopl
    pushl $0x47202
    popfl
    end86
    case86 "iret", \iopl
    pushw $2
    pushw %cs
    pushw $(1f - from_reset)
    iretw
1:  end86
    case86 "int 82h", \iopl
    int $0x82
    end86
    case86 "int3", \iopl
    int3
    end86
    case86 "into", \iopl
    mov $0x7f, %al
    inc %al
    into
    end86
    case86 "hlt", \iopl
    hlt
    end86
    case86 "in from an open port", \iopl
    in $0xe9, %al
    end86
    case86 "in from a closed port", \iopl
    in $0xeb, %al
    end86
    case86 "lock on a pushf", \iopl
    .byte 0xf0, 0x9c
    end86
.endm

main:
    mov $31, %ecx
1:  pushl $0x8e00
    pushl $CODE0
    mov %ecx, %eax
    shl $4, %eax
    add $gates, %eax
    push %eax
    push %ecx
    call set_gate
    dec %ecx
    jns 1b
    set_gate 0x81, gate_81, 0xee
    set_gate 0x82, gate_82, 0xee
    # INT3 and INTO need gates that ring 3 may use.
    set_gate 3, "gates + 3 * 16", 0xee
    set_gate 4, "gates + 4 * 16", 0xee
    movl $DATA0, tss + 8
    mov $tss + 0x68, %edi
    mov $0xff, %eax
    mov $33, %ecx
    rep stosb
    movb $0xf9, tss + 0x68 + 0x1d
    movw $0x68, tss + 0x66
    movw $0x68 + 32, tss_descriptor
    movb $0x89, tss_descriptor + 5
    mov $TSS, %eax
    ltr %ax

    puts "IOPL 3\n"
    by_iopl 0x3000
    puts "IOPL 0\n"
    # INT 81H needs IOPL 3 as well: #GP ends these.
    by_iopl 0

    puts "other traps\n"
    case86 "lgdt", 0x3000
    lgdt 0
    end86
    case86 "mov from cr0", 0x3000
    mov %cr0, %eax
    end86
    case86 "clts", 0x3000
    clts
    end86
    case86 "lar", 0x3000
    lar %ax, %ax
    end86
    case86 "smsw", 0x3000
    smsw %ax
    end86
    case86 "sgdt", 0x3000
    sgdt 0
    end86
    case86 "divide error", 0x3000
    xor %cx, %cx
    div %cx
    end86
    case86 "beyond 64 KB", 0x3000
    mov $0xffff, %bx
    mov (%bx), %ax
    end86
    case86 "stack beyond 64 KB", 0x3000
    mov $0x10001, %ebp
    mov (%ebp), %ax
    end86
    case86 "push across the wrap of sp", 0x3000
    mov $1, %sp
    push %ax
    end86
    case86 "undefined opcode", 0x3000
    ud2
    end86
    case86 "bound", 0x3000
    mov $5, %ax
    mov $(bounds16 - from_reset), %bx
    mov %cs, %dx
    mov %dx, %ds
    bound %ax, (%bx)
    end86

    puts "segments\n"
    case86 "a segment is 16 times its selector", 0x3000
    mov $0x900, %ax
    mov %ax, %es
    mov $0x0900, %ax
    mov %ax, %fs
    movw $0x1234, %es:0x2000
    mov $0xb00, %ax
    mov %ax, %gs
    mov %gs:0, %ax
    cmp $0x1234, %ax
    je 1f
    hlt
1:  end86
    case86 "far call and return", 0x3000
    lcall $(SEGMENT - 0x100), $(far86 - from_reset + 0x1000)
    cmp $0x5678, %ax
    je 1f
    hlt
1:  jmp 2f
far86:
    mov $0x5678, %ax
    lret
2:  end86
    case86 "the trap flag", 0x3100
    nop
    end86

    puts "gates that virtual-8086 mode can't use\n"
    set_gate 0x82, gate_82, 0xee, CODE3
    case86 "to ring 3", 0x3000
    int $0x82
    end86
    set_gate 0x82, gate_82, 0x8e
    case86 "of DPL 0", 0x3000
    int $0x82
    end86

    puts "real mode\n"
    jmp real_mode

real_mode:
    # 16-bit segments first, so that limits are those of real mode.
    movl $0x0000ffff, gdt + 0x40
    movl $0x00009b01, gdt + 0x44
    ljmpl $0x40, $(1f - from_reset)
.code16
1:  mov $DATA16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov %cr0, %eax
    and $~1, %al
    mov %eax, %cr0
    ljmpw $SEGMENT, $(2f - from_reset)
2:  xor %ax, %ax
    mov %ax, %ss
    mov $STACK86, %sp
    mov %ax, %es
    mov %cs, %ax
    mov %ax, %ds
    lidtl real_idtr - from_reset
    # Vectors 0, 6 and 13 and 0x20 of the table at 0.
    movw $(real_fault - from_reset), %es:0
    movw $SEGMENT, %es:2
    movw $(real_fault - from_reset), %es:6 * 4
    movw $SEGMENT, %es:6 * 4 + 2
    movw $(real_fault - from_reset), %es:13 * 4
    movw $SEGMENT, %es:13 * 4 + 2
    movw $(real_fault - from_reset), %es:0x20 * 4
    movw $SEGMENT, %es:0x20 * 4 + 2
    mov $'a', %bl
    int $0x20
    mov $'b', %bl
    xor %cx, %cx
    mov $(3f - from_reset), %si
    div %cx
3:  mov $'c', %bl
    mov $(3f - from_reset), %si
    ud2
3:  mov $'d', %bl
    mov $(3f - from_reset), %si
    mov %es:0xffff, %ax
3:  mov $'e', %bl
    mov $(3f - from_reset), %si
    str %ax
3:  mov $'f', %bl
    mov $(3f - from_reset), %si
    mov $0x12345, %ebx
    mov %es:(%ebx), %al
3:  mov $'\n', %al
    out %al, $0xe9
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $CODE0, $4f
real_fault:
    # Which one, and the flags' IF and TF; resume at SI unless it was INT.
    mov %bl, %al
    out %al, $0xe9
    cmp $'a', %bl
    je 5f
    mov %sp, %bp
    mov %si, (%bp)
5:  mov $' ', %al
    out %al, $0xe9
    iretw
.code32
4:  mov $DATA0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    lidt idtr
    puts "back in protected mode\n"
    jmp done

bounds16: .word 0, 3
real_idtr: .word 0x3ff
    .long 0

.data
.balign 4
v86_ip: .long 0
v86_flags: .long 0
frame: .fill 12, 4, 0
