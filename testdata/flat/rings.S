# Ways between rings: call, interrupt and trap gates of every privilege to every kind of code segment; IRET and far returns; what
# LAR, LSL, VERR, VERW and ARPL say; SYSENTER and SYSEXIT; the I/O permission bitmap.
.include "prelude.inc"
.include "try.inc"

.set GATE, 0x40
.set CONFORMING0, 0x48
.set CONFORMING3, 0x50
.set ABSENT, 0x58
.set CODE1, 0x60
.set DATA1, 0x68
.set GATE_COUNT, 0x70
.set LDT, 0x78
.set ABSENT_DATA, 0x80
.set GATE16, 0x88
.set BEYOND, 0x800

.text
main:
    call try_setup
    movl $DATA0, tss + 8
    movl $0x0000ffff, gdt + CONFORMING0
    movl $0x00cf9f00, gdt + CONFORMING0 + 4
    movl $0x0000ffff, gdt + CONFORMING3
    movl $0x00cfff00, gdt + CONFORMING3 + 4
    movl $0x0000ffff, gdt + ABSENT
    movl $0x00cf1b00, gdt + ABSENT + 4
    movl $0x0000ffff, gdt + CODE1
    movl $0x00cfbb00, gdt + CODE1 + 4
    movl $0x0000ffff, gdt + DATA1
    movl $0x00cfb300, gdt + DATA1 + 4
    movl $0x00000017, gdt + LDT
    movl $0x00008200, gdt + LDT + 4
    movl $0x0000ffff, gdt + ABSENT_DATA
    movl $0x00cf7300, gdt + ABSENT_DATA + 4
    movl $STACK1, tss + 12
    movl $DATA1 + 1, tss + 16

    puts "gates\n"
    xor %ebp, %ebp              # kind of gate
1:  xor %esi, %esi              # target
2:  xor %edx, %edx              # ring
3:  xor %ecx, %ecx              # privilege of the gate
4:  call one_gate
    add $3, %ecx
    cmp $6, %ecx
    jb 4b
    add $3, %edx
    cmp $6, %edx
    jb 3b
    inc %esi
    cmp $targets_count, %esi
    jb 2b
    inc %ebp
    cmp $5, %ebp
    jb 1b

    puts "parameters\n"
    mov $0xec03, %eax
    mov $CODE0, %ebx
    mov $gdt + GATE_COUNT, %edi
    call make_gate
    case "three doublewords to ring 0", 3
    push $0x11
    push $0x22
    push $0x33
    lcall $GATE_COUNT, $0
    endcase
    mov $0xec03, %eax
    mov $CODE1, %ebx
    mov $gdt + GATE_COUNT, %edi
    call make_gate
    case "three doublewords to ring 1", 3
    push $0x11
    push $0x22
    push $0x33
    lcall $GATE_COUNT, $0
    endcase
    call show_frame
    call returns
    call looks
    call system_calls
    call ports
    ret

# Fills the gate at EDI: selector EBX, attributes and count EAX, to `entered`.
make_gate:
    movl $entered, (%edi)
    movw %bx, 2(%edi)
    movl $entered, 4(%edi)
    movb %ah, 5(%edi)
    movb %al, 4(%edi)
    ret

one_gate:
    pusha
    puts "kind "
    push %ebp
    call print_byte
    puts " to "
    mov targets(,%esi,4), %ebx
    push %ebx
    call print_byte
    puts " ring "
    push %edx
    call print_byte
    puts " dpl "
    push %ecx
    call print_byte
    mov %edx, try_ring
    mov codes(,%ebp,4), %eax
    mov %eax, try_code
    mov %ecx, %eax
    shl $13, %eax
    add types(,%ebp,4), %eax
    mov $gdt + GATE, %edi
    cmp $2, %ebp
    jb 1f
    mov $idt + 0x83 * 8, %edi
1:  call make_gate
    movl $0, entered_cs
    call attempt
    cmpl $0x80, caught
    je show_frame_popa
    puts ": vector "
    push caught
    call print_byte
    puts " error "
    push caught + 4
    call print_hex
    puts "\n"
    popa
    ret
show_frame_popa:
    popa
show_frame:
    pusha
    puts ": cs "
    push entered_cs
    call print_byte
    puts " ss "
    push entered_ss
    call print_byte
    mov entered_frame, %eax
    sub try_code, %eax
    mov %eax, entered_frame
    xor %ecx, %ecx
1:  puts " "
    mov entered_frame(,%ecx,4), %eax
    # ESP relative to where it was.
    mov %eax, %ebx
    sub try_esp, %ebx
    cmp $-64, %ebx
    jl 2f
    mov %ebx, %eax
2:  mov %eax, %ebx
    sub $STACK3, %ebx
    cmp $-64, %ebx
    jl 3f
    cmp $1, %ebx
    jg 3f
    mov %ebx, %eax
3:  push %eax
    call print_hex
    # A jump pushes nothing.
    cmp $1, %ebp
    je 4f
    inc %ecx
    cmp $3, %ecx
    jb 1b
4:  puts "\n"
    popa
    ret

# Where gates lead to: notes where it is and the frame, ends the attempt. Only with the stack segment, so that it works in every ring.
    .balign 0x100
entered:
    mov %cs, %ss:entered_cs
    mov %ss, %ss:entered_ss
    mov %eax, %ss:entered_eax
    mov %ss:(%esp), %eax
    mov %eax, %ss:entered_frame
    mov %ss:4(%esp), %eax
    and $0xffff, %eax
    mov %eax, %ss:entered_frame + 4
    mov %ss:8(%esp), %eax
    and $0x3ff02, %eax
    mov %eax, %ss:entered_frame + 8
    int $0x80

.macro iret_to name, ring, cs, flags=2, ss=DATA3, esp=STACK3
    case "\name", \ring
    pushl $\ss
    pushl $\esp
    pushl $\flags
    pushl $\cs
    pushl $entered
    iret
    endcase
.endm
.macro retf_to name, ring, cs, ss=DATA3, esp=STACK3
    case "\name", \ring
    pushl $\ss
    pushl $\esp
    pushl $\cs
    pushl $entered
    lret
    endcase
.endm
.macro returns_from ring
    iret_to "iret to ring 0", \ring, CODE0
    iret_to "iret to ring 3", \ring, CODE3
    iret_to "iret to ring 1", \ring, CODE1 + 1, 2, DATA1 + 1
    iret_to "iret to a ring 0 segment with RPL 3", \ring, CODE0 + 3
    iret_to "iret to a ring 3 segment with RPL 0", \ring, CODE3-3
    iret_to "iret to a conforming segment with RPL 0", \ring, CONFORMING0
    iret_to "iret to a conforming segment with RPL 3", \ring, CONFORMING0 + 3
    iret_to "iret to a conforming ring 3 segment with RPL 0", \ring, CONFORMING3
    iret_to "iret to a conforming ring 3 segment with RPL 3", \ring, CONFORMING3 + 3
    iret_to "iret to null", \ring, 0
    iret_to "iret to null with RPL", \ring, 3
    iret_to "iret to data", \ring, DATA0
    iret_to "iret to an absent segment", \ring, ABSENT
    iret_to "iret beyond the table", \ring, BEYOND
    iret_to "iret to ring 3 with a null stack", \ring, CODE3, 2, 0
    iret_to "iret to ring 3 with ring 0's stack", \ring, CODE3, 2, DATA0
    iret_to "iret to ring 3 with an absent stack", \ring, CODE3, 2, ABSENT_DATA + 3
    iret_to "iret to ring 3 with code for a stack", \ring, CODE3, 2, CODE3
    iret_to "iret to ring 3 with a stack beyond the table", \ring, CODE3, 2, BEYOND + 3
    iret_to "iret with NT and no task to return to", \ring, CODE3, 0x4002
    retf_to "retf to ring 0", \ring, CODE0
    retf_to "retf to ring 3", \ring, CODE3
    retf_to "retf to a conforming segment with RPL 3", \ring, CONFORMING0 + 3
    retf_to "retf to null", \ring, 0
    retf_to "retf to ring 3 with ring 0's stack", \ring, CODE3, DATA0
    case "flags that iret may change", \ring
    pushf
    pushl $DATA3
    pushl $STACK3 - 64
    pushl $0x257fd7
    pushl $CODE3
    pushl $1f
    .if \ring == 0
    iret
    .else
    add $12, %esp
    push %cs
    pushl $1f
    movl $0x257fd7, 8(%esp)
    iret
    .endif
1:  pushf
    cli
    pop %ss:popped
    endcase
    show "popped", "popped"
    case "flags that popf may change", \ring
    pushl $0x257ed7
    popf
    pushf
    pop %ss:popped
    pushl $2
    popf
    endcase
    show "popped", "popped"
.endm

returns:
    puts "returns from ring 0\n"
    returns_from 0
    puts "returns from ring 3\n"
    returns_from 3
    # Segments that the outer ring may not use are gone.
    case "segments after a return to ring 3"
    mov $DATA0, %eax
    mov %eax, %ds
    mov $CONFORMING0, %eax
    mov %eax, %es
    mov $DATA3, %eax
    mov %eax, %fs
    mov $DATA1, %eax
    mov %eax, %gs
    pushl $DATA3
    pushl $STACK3
    pushl $CODE3
    pushl $1f
    lret
1:  mov %ds, %ss:after
    mov %es, %ss:after + 4
    mov %fs, %ss:after + 8
    mov %gs, %ss:after + 12
    endcase
    field "ds", after
    field "es", "after + 4"
    field "fs", "after + 8"
    show "gs", "after + 12"
    ret

# LAR, LSL, VERR and VERW of every descriptor, from both rings.
looks:
    puts "what can be seen\n"
    movl $3, try_ring
    call look_all
    movl $0, try_ring
    call look_all
    case "arpl raises", 3
    mov $0x10, %eax
    mov $0x23, %ecx
    arpl %cx, %ax
    mov %eax, after
    endcase
    show "ax", after
    ret

look_all:
    mov $look, %eax
    mov %eax, try_code
    xor %ebx, %ebx
1:  mov %ebx, selector
    call attempt
    cmpl $0x80, caught
    jne 2f
    puts "selector "
    push %ebx
    call print_byte
    field " lar", "seen"
    field "lsl", "seen + 4"
    show "verr verw", "seen + 8"
    jmp 3f
2:  puts "failed\n"
3:  add $8, %ebx
    cmp $0x90, %ebx
    jb 1b
    ret
look:
    movl $-1, seen
    movl $-1, seen + 4
    movl $0, seen + 8
    mov selector, %ecx
    lar %ecx, %eax
    jnz 1f
    mov %eax, seen
1:  lsl %ecx, %eax
    jnz 1f
    mov %eax, seen + 4
1:  verr %cx
    setz seen + 8
    verw %cx
    setz seen + 9
    int $0x80

system_calls:
    puts "sysenter\n"
    case "sysenter without a target", 3
    sysenter
    endcase
    sysenter_to entered, "STACK1 + 0x100"
    case "sysenter", 3
    sysenter
    endcase
    field "cs", entered_cs
    show "ss", entered_ss
    # The segments that it goes to are CODE0 + 16 and + 24.
    case "sysexit", 0
    mov $1f, %edx
    mov $STACK3, %ecx
    sysexit
1:  mov %cs, %ss:entered_cs
    mov %ss, %ss:entered_ss
    endcase
    field "cs", entered_cs
    show "ss", entered_ss
    case "sysexit from ring 3", 3
    sysexit
    endcase
    ret

# The I/O permission bitmap: at 0x68 in a longer TSS, ports 0 to 0xff; only 0xe9 and 0xea are open.
ports:
    puts "ports\n"
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
    case "open byte", 3
    in $0xe9, %al
    endcase
    case "open word", 3
    in $0xe9, %ax
    endcase
    case "half-open word", 3
    in $0xea, %ax
    endcase
    case "half-open doubleword", 3
    in $0xe9, %eax
    endcase
    case "closed byte", 3
    in $0xeb, %al
    endcase
    case "beyond the bitmap", 3
    mov $0x108, %edx
    in %dx, %al
    endcase
    case "at the bitmap's end", 3
    mov $0xff, %edx
    in %dx, %al
    endcase
    case "across the bitmap's end", 3
    mov $0xff, %edx
    in %dx, %ax
    endcase
    movl $0x3000, try_flags
    case "closed byte with IOPL 3", 3
    in $0xeb, %al
    endcase
    case "cli with IOPL 3", 3
    cli
    endcase
    case "sti with IOPL 3", 3
    sti
    cli
    endcase
    movl $0x1000, try_flags
    case "cli with IOPL 1", 3
    cli
    endcase
    movl $0, try_flags
    ret

call_gate: lcall $GATE, $0
    int $0x80
jump_gate: ljmp $GATE, $0
    int $0x80
interrupt: int $0x83
    int $0x80

.data
.balign 4
# Call gate by CALL, by JMP; interrupt and trap gate; something that is no gate.
codes: .long call_gate, jump_gate, interrupt, interrupt, interrupt
types: .long 0x8c00, 0x8c00, 0x8e00, 0x8f00, 0x8d00
targets: .long CODE0, CODE3, CONFORMING0, CONFORMING3, CODE1, ABSENT, DATA0, 0, BEYOND
.set targets_count, 9
entered_cs: .long 0
entered_ss: .long 0
entered_eax: .long 0
entered_frame: .fill 8, 4, 0
after: .fill 4, 4, 0
popped: .long 0
seen: .fill 3, 4, 0
selector: .long 0
.set STACK1, 0x9d000
