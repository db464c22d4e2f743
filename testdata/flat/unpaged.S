# Kernels without paging: code that writes itself, string instructions over code, paging switched on and off, memory that isn't there.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set CODE, 0x30000              # a frame of code
.set DATA, 0x40000
.set WINDOW, 0x400000           # where paging puts the frame after CODE

# mov $value, %eax; ret
.macro put_code at, value
    movb $0xb8, \at
    movl $\value, \at + 1
    movb $0xc3, \at + 5
.endm

.text
main:
    call try_setup
    call tables

    puts "code written again and again: "
    xor %esi, %esi
    mov $100, %ecx
1:  put_code CODE, 0
    mov %ecx, CODE + 1
    mov $CODE, %eax
    call *%eax
    add %eax, %esi
    loop 1b
    show "sum", "%esi"

    puts "data beside code: "
    put_code CODE, 1
    mov $CODE, %ebx
    call *%ebx
    xor %esi, %esi
    mov $200, %ecx
1:  mov %ecx, CODE + 0x800
    add CODE + 0x800, %esi
    call *%ebx
    add %eax, %esi
    loop 1b
    show "sum", "%esi"

    puts "over code by rep stos, rep movs and downwards: "
    put_code CODE, 2
    call *%ebx
    mov $0x90, %al
    mov $CODE - 3, %edi
    mov $8, %ecx
    rep stosb
    mov %edi, %esi
    call code_sum
    put_code DATA, 3
    mov $DATA, %esi
    mov $CODE, %edi
    mov $6, %ecx
    rep movsb
    call *%ebx
    mov %eax, %edx
    put_code DATA, 4
    mov $DATA + 5, %esi
    mov $CODE + 5, %edi
    mov $6, %ecx
    std
    rep movsb
    cld
    call *%ebx
    shl $8, %edx
    or %eax, %edx
    field "results", "%edx"
    field "esi", "%esi"
    show "edi", "%edi"

    puts "long copies and searches: "
    mov $DATA, %edi
    mov $0x01020304, %eax
    mov $0x2000, %ecx
    rep stosl
    movb $0x55, DATA + 0x7001
    mov $DATA, %esi
    mov $DATA + 0x10000, %edi
    mov $0x7ffc, %ecx
    rep movsb
    field "ecx", "%ecx"
    mov $DATA + 0x10000, %edi
    mov $-1, %ecx
    mov $0x55, %al
    repne scasb
    field "found", "%edi"
    mov $DATA, %esi
    mov $DATA + 0x10000, %edi
    mov $0x2000, %ecx
    repe cmpsl
    field "differ", "%esi"
    show "left", "%ecx"

    puts "paging on and off: "
    put_code CODE + 0x1000, 5
    xor %esi, %esi
    mov $10, %ecx
1:  mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    # Linear isn't physical here.
    mov WINDOW + 1, %edx
    inc %edx
    mov %edx, WINDOW + 1
    mov $WINDOW, %eax
    call *%eax
    add %eax, %esi
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov CODE + 0x1001, %edx
    add $0x100, %edx
    mov %edx, CODE + 0x1001
    mov $CODE + 0x1000, %eax
    call *%eax
    add %eax, %esi
    loop 1b
    field "sum", "%esi"
    show "last", "CODE + 0x1001"

    puts "what isn't there: "
    # Above the RAM of any machine that runs this, and below devices.
    mov 0xe0000000, %eax
    movl $1, 0xe0000000
    # Past the end of 4 GB, which wraps around to what is at 0.
    movl $0x11223344, 0
    mov $0xffffffff, %ebx
    mov 1(%ebx), %eax
    show "wrapped", "%eax"

    puts "ring 3 without paging: "
    case "write, call, copy", 3
    put_code CODE, 6
    mov $CODE, %eax
    call *%eax
    mov %eax, total
    mov $CODE, %esi
    mov $DATA, %edi
    mov $6, %ecx
    rep movsb
    mov $DATA, %eax
    call *%eax
    add %eax, total
    endcase
    show "  total", "total"
    ret

# The sum of 16 bytes at CODE - 4, shown.
code_sum:
    xor %edx, %edx
    mov $16, %ecx
1:  movzbl CODE - 5(%ecx), %eax
    add %eax, %edx
    loop 1b
    field "sum", "%edx"
    ret

# 4 MB mapped as they are, then the second frame of code.
tables:
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x2000 / 4, %ecx
    rep stosl
    movl $0xe7, TOP
    movl $TABLE + 7, TOP + 4
    movl $CODE + 0x1007, TABLE
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    ret

.data
.balign 4
total: .long 0
