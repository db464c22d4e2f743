# What the privileged operations of a system cost, in ticks of the time stamp counter. Assembled with testdata/flat's prelude and run by ./run.
#
# Each operation is repeated in a loop; the quickest of several loops counts, since whatever disturbs only adds. An empty loop's
# time is taken off. One line each on the debug port: name, blank, ticks per operation.
#
# Paging is on; all memory is mapped as it is, for both rings, in pages of 4 KB.
.include "prelude.inc"
.include "try.inc"

.set ROUNDS, 200
.set DIRECTORY, 0x30000
.set TABLES, 0x31000
# Linear addresses that aren't mapped at first.
.set ABSENT, 0x00800000
.set SPARE, 0x00a00000
# Neither code nor near it.
.set SCRATCH, 0x00200000

# measure NAME, RING, COUNT: times COUNT repetitions of the code up to `endmeasure` in ring RING. It may not change EBX, EBP, ESI.
.macro measure name, ring, count
    puts "\name "
    movl $\count, per_loop
    movl $\ring, try_ring
    movl $70f, try_code
    call attempt
    call report
    jmp 72f
70: mov $ROUNDS, %esi
    movl $-1, best
71: rdtsc
    mov %eax, %ebp
    mov $\count, %ebx
73:
.endm
.macro endmeasure
    dec %ebx
    jnz 73b
    rdtsc
    sub %ebp, %eax
    cmp best, %eax
    jae 74f
    mov %eax, best
74: dec %esi
    jnz 71b
    int $0x80
72:
.endm

.text
main:
    call try_setup
    call paging
    call system_call
    set_gate 0x81, just_return, 0xee
    set_gate 0x82, just_return
    movl $0, empty
    measure "(empty-loop)", 0, 1000
    endmeasure
    mov best, %eax
    mov %eax, empty

    measure "call-return", 0, 1000
    call nothing
    endmeasure
    measure "indirect-call-return", 0, 1000
    mov $nothing, %eax
    call *%eax
    endmeasure
    measure "load-ring-0", 0, 1000
    mov SCRATCH, %eax
    endmeasure
    measure "store-ring-0", 0, 1000
    mov %eax, SCRATCH
    endmeasure
    measure "load-ring-3", 3, 1000
    mov SCRATCH, %eax
    endmeasure
    measure "store-ring-3", 3, 1000
    mov %eax, SCRATCH
    endmeasure
    measure "cli-sti", 0, 1000
    cli
    sti
    endmeasure
    cli
    measure "pushf-popf", 0, 1000
    pushf
    popf
    endmeasure
    measure "load-ds", 0, 1000
    mov $DATA0, %eax
    mov %eax, %ds
    endmeasure
    measure "mov-from-cr0", 0, 1000
    mov %cr0, %eax
    endmeasure
    measure "mov-to-cr3", 0, 100
    mov %cr3, %eax
    mov %eax, %cr3
    endmeasure
    measure "in", 0, 100
    in $0x80, %al
    endmeasure
    measure "out", 0, 100
    out %al, $0x80
    endmeasure
    measure "sysenter-sysexit", 3, 100
    mov %esp, %ecx
    mov $1f, %edx
    sysenter
1:
    endmeasure
    measure "int-iret", 3, 100
    int $0x81
    endmeasure
    measure "int-iret-same-ring", 0, 100
    int $0x82
    endmeasure
    set_gate 0, skip_division
    measure "divide-error", 3, 100
    xor %ecx, %ecx
1:  div %ecx
    endmeasure
    # The handler goes on behind the access, as after a signal.
    set_gate 14, skip_access
    measure "page-fault", 3, 100
    mov ABSENT, %al
    endmeasure
    # The handler maps the page.
    set_gate 14, map_page
    measure "page-fault-and-map", 3, 100
    mov SPARE, %al
    endmeasure
    measure "page-table-write", 0, 1000
    xorl $0x20, TABLES + (SPARE >> 10)
    endmeasure
    measure "invlpg-and-touch", 0, 100
    invlpg SPARE
    mov SPARE, %al
    endmeasure
    ret

nothing:
    ret

# report: best less the empty loop's, per operation.
report:
    pusha
    mov best, %eax
    mov empty, %edx
    # The empty loop's ticks are those of 1000 rounds.
    imul per_loop, %edx
    push %eax
    mov %edx, %eax
    xor %edx, %edx
    mov $1000, %ecx
    div %ecx
    mov %eax, %edx
    pop %eax
    sub %edx, %eax
    jae 1f
    xor %eax, %eax
1:  mov $10, %ecx
    mul %ecx
    divl per_loop
    xor %edx, %edx
    div %ecx
    push %edx
    call print_decimal
    mov $'.', %al
    out %al, $0xe9
    pop %eax
    call print_decimal
    mov $'\n', %al
    out %al, $0xe9
    popa
    ret

# print_decimal: EAX.
print_decimal:
    mov $10, %ecx
    xor %ebx, %ebx
1:  xor %edx, %edx
    div %ecx
    push %edx
    inc %ebx
    test %eax, %eax
    jnz 1b
2:  pop %eax
    add $'0', %al
    out %al, $0xe9
    dec %ebx
    jnz 2b
    ret

# 16 MB mapped as they are, but for the two pages and the page directory's other entries.
paging:
    mov $TABLES, %edi
    mov $7, %eax
    mov $4096, %ecx
1:  stosl
    add $0x1000, %eax
    dec %ecx
    jnz 1b
    movl $0, TABLES + (ABSENT >> 10)
    movl $0, TABLES + (SPARE >> 10)
    mov $DIRECTORY, %edi
    xor %eax, %eax
    mov $1024, %ecx
    rep stosl
    movl $TABLES + 7, DIRECTORY
    movl $TABLES + 0x1007, DIRECTORY + 4
    movl $TABLES + 0x2007, DIRECTORY + 8
    movl $TABLES + 0x3007, DIRECTORY + 12
    mov $DIRECTORY, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ret

system_call:
    sysenter_to just_exit, "STACK - 0x4000"
    ret

    .balign 16
just_exit:
    sysexit
    .balign 16
just_return:
    iret
    .balign 16
skip_division:
    addl $2, (%esp)
    iret
    .balign 16
skip_access:
    # The access is five bytes long.
    addl $5, 4(%esp)
    add $4, %esp
    iret
    .balign 16
# Maps the page for this once: its entry is taken away again behind the access, which the next round's fault shows.
map_page:
    push %eax
    movl $SPARE + 7, TABLES + (SPARE >> 10)
    mov SPARE, %al
    movl $0, TABLES + (SPARE >> 10)
    invlpg SPARE
    pop %eax
    addl $5, 4(%esp)
    add $4, %esp
    iret

.data
.balign 4
best: .long 0
empty: .long 0
per_loop: .long 0
