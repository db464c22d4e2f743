# Task switches: by far CALL and JMP to a TSS and through task gates, by interrupts and exceptions, back by IRET; nesting, busy bits, NT, TS; what
# makes them fail; 16-bit TSSs.
.include "prelude.inc"
.include "try.inc"
.set TSS_A, 0x40                # 32-bit task, ring 0
.set TSS_B, 0x48                # 32-bit task, ring 3
.set TSS_C, 0x50                # 16-bit task
.set GATE_A, 0x58               # task gate to A
.set TSS_SHORT, 0x60
.set TSS_ABSENT, 0x68
.set TSS_BAD, 0x70              # a task with a bad code segment
.set tss_a, 0x8100
.set tss_b, 0x8200
.set tss_c, 0x8300
.set tss_bad, 0x8400
.set STACK_A, 0x9c000
.set STACK_B, 0x9b000
.set STACK_C, 0xb000

.macro descriptor at, base, limit, attr
    movw $\limit, gdt + \at
    movw $\base, gdt + \at + 2
    movw $\attr << 8, gdt + \at + 4
    movw $0, gdt + \at + 6
.endm

# What a task looks like from outside.
.macro state
    puts "  "
    call show_state
.endm

.text
show_state:
    pusha
    str %ax
    movzx %ax, %eax
    field "tr", "%eax"
    mov %cr0, %eax
    shr $3, %eax
    and $1, %eax
    field "ts", "%eax"
    pushf
    pop %eax
    and $0x4000, %eax
    field "nt", "%eax"
    movzbl gdt + TSS + 5, %eax
    field "main", "%eax"
    movzbl gdt + TSS_A + 5, %eax
    field "a", "%eax"
    movzbl gdt + TSS_B + 5, %eax
    field "b", "%eax"
    movzbl gdt + TSS_C + 5, %eax
    show "c", "%eax"
    popa
    ret

# Fresh task state segments.
setup:
    pusha
    mov $tss_a, %edi
    xor %eax, %eax
    mov $0x400 / 4, %ecx
    rep stosl
    descriptor TSS, tss, 0x67, 0x8b
    descriptor TSS_A, tss_a, 0x67, 0x89
    descriptor TSS_B, tss_b, 0x67, 0xe9
    descriptor TSS_C, tss_c, 0x2b, 0x81
    descriptor TSS_SHORT, tss_a, 0x66, 0x89
    descriptor TSS_ABSENT, tss_a, 0x67, 0x09
    descriptor TSS_BAD, tss_bad, 0x67, 0x89
    movl $TSS_A << 16, gdt + GATE_A
    movl $0xe500, gdt + GATE_A + 4
    movl $task_a, tss_a + 32
    movl $2, tss_a + 36
    movl $0xaaaa0001, tss_a + 40
    movl $STACK_A, tss_a + 56
    mov $DATA0, %eax
    mov %eax, tss_a + 72
    mov %eax, tss_a + 80
    mov %eax, tss_a + 84
    mov %eax, tss_a + 88
    mov %eax, tss_a + 92
    movl $CODE0, tss_a + 76
    movw $0x68, tss_a + 102
    mov $tss_a, %esi
    mov $tss_b, %edi
    mov $26, %ecx
    rep movsl
    mov $tss_a, %esi
    mov $tss_bad, %edi
    mov $26, %ecx
    rep movsl
    movl $DATA0, tss_bad + 76
    movl $task_b, tss_b + 32
    movl $0x3002, tss_b + 36
    movl $STACK_B, tss_b + 56
    movl $STACK_A, tss_b + 4
    movl $DATA0, tss_b + 8
    mov $DATA3, %eax
    mov %eax, tss_b + 72
    mov %eax, tss_b + 80
    mov %eax, tss_b + 84
    mov %eax, tss_b + 88
    mov %eax, tss_b + 92
    movl $CODE3, tss_b + 76
    # 16-bit: link, SP0, SS0, ..., IP at 14, FLAGS, AX, CX, DX, BX, SP, BP, SI, DI, ES, CS, SS, DS, LDT.
    movl $task_c - BASE, tss_c + 14
    movw $2, tss_c + 16
    movw $0xcccc, tss_c + 18
    movw $STACK_C, tss_c + 26
    movw $DATA0, tss_c + 34
    movw $CODE16_HERE, tss_c + 36
    movw $DATA0, tss_c + 38
    movw $DATA0, tss_c + 40
    movl $0x0000ffff, gdt + CODE16_HERE
    movl $0x00409b01, gdt + CODE16_HERE + 4
    movl $TSS << 16 , gdt + 0x80
    popa
    ret
.set CODE16_HERE, 0x78

task_a:
    field "  in A: eax", "%eax"
    movzwl tss_a, %eax
    show "link", "%eax"
    state
    iret
    # When called again it goes on here.
    puts "  A again\n"
    iret
    jmp task_a
task_b:
    mov %cs, %eax
    and $3, %eax
    show "  in B: ring", "%eax"
    iret
task_c:
    # The upper halves of the registers aren't the same everywhere.
    movzwl %sp, %esp
    movzwl %ax, %eax
    field "  in C: eax", "%eax"
    movzwl tss_c, %eax
    show "link", "%eax"
    state
    iret
task_fault:
    field "  fault task: error", "(%esp)"
    movzwl tss_a, %eax
    show "link", "%eax"
    state
    add $4, %esp
    addl $2, tss + 32
    iret
task_jumped:
    puts "  jumped to A\n"
    state
    ljmp $TSS, $0

main:
    call try_setup
    call setup
    puts "call a TSS\n"
    lcall $TSS_A, $0
    state
    puts "call it again\n"
    lcall $TSS_A, $0
    state
    puts "call through a gate\n"
    call setup
    lcall $GATE_A, $0
    state
    puts "jump to a TSS and back\n"
    call setup
    movl $task_jumped, tss_a + 32
    ljmp $TSS_A, $0
    state
    puts "call a task of ring 3\n"
    call setup
    lcall $TSS_B, $0
    state
    puts "call a 16-bit task\n"
    call setup
    lcall $TSS_C, $0
    state
    puts "an interrupt through a task gate\n"
    call setup
    set_gate 0x83, 0, 0xe5, TSS_A
    int $0x83
    state
    puts "a fault with an error code through a task gate\n"
    call setup
    movl $task_fault, tss_a + 32
    set_gate 13, 0, 0x85, TSS_A
    mov $0x1000, %eax
    mov %eax, %fs
    nop
    state
    set_gate 13, "try_table + 13 * 16"
    puts "registers of the task that was left\n"
    call setup
    mov $0x11111111, %ecx
    mov $0x22222222, %edx
    mov $0x33333333, %ebx
    mov $0x44444444, %esi
    mov $0x55555555, %edi
    lcall $TSS_A, $0
    field "ecx", "tss + 44"
    field "edx", "tss + 48"
    field "ebx", "tss + 52"
    field "esi", "tss + 64"
    field "edi", "tss + 68"
    field "cs", "tss + 76"
    show "ss", "tss + 80"
    field "back: ecx", "%ecx"
    field "esi", "%esi"
    show "edi", "%edi"
    puts "what fails\n"
    call setup
    case "call a busy TSS", 0
    lcall $TSS, $0
    endcase
    case "call an absent TSS", 0
    lcall $TSS_ABSENT, $0
    endcase
    case "call a short TSS", 0
    lcall $TSS_SHORT, $0
    endcase
    case "call a TSS of ring 0 from ring 3", 3
    lcall $TSS_A, $0
    endcase
    case "iret with NT to a TSS that isn't busy", 0
    movw $TSS_A, tss
    pushf
    orl $0x4000, (%esp)
    popf
    iret
    endcase
    pushf
    andl $~0x4000, (%esp)
    popf
    case "iret with NT to null", 0
    movw $0, tss
    pushf
    orl $0x4000, (%esp)
    popf
    iret
    endcase
    pushf
    andl $~0x4000, (%esp)
    popf
    puts "the debug trap of a TSS\n"
    call setup
    movw $1, tss_a + 100
    set_gate 1, debug_trap
    lcall $TSS_A, $0
    state
    ret
debug_trap:
    mov %dr6, %eax
    show "  debug: dr6", "%eax"
    mov 8(%esp), %eax
    and $0x10000, %eax
    show "  rf", "%eax"
    iret
