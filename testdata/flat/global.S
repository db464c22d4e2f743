# A kernel's global pages, large and small: written through while code lies in them, remapped with and without telling the CPU, and read-only.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set CODE, 0x30000              # a frame of code
.set FRAMES, 0x32000            # two frames of data
.set DIRECT, 0xc0000000         # where the first 4 MB are mapped again
.set SMALL, 0x400000            # what TABLE maps
.set ROUNDS, 200

# mov $value, %eax; ret
.macro put_code at, value
    movb $0xb8, \at
    movl $\value, \at + 1
    movb $0xc3, \at + 5
.endm

.text
main:
    call try_setup
    call paging

    puts "data in a large page: "
    mov $DIRECT + FRAMES, %esi
    xor %edx, %edx
    mov $ROUNDS, %ecx
1:  mov %ecx, (%esi,%ecx,4)
    add FRAMES(,%ecx,4), %edx
    lock addl $3, DIRECT + FRAMES(,%ecx,4)
    push DIRECT + FRAMES(,%ecx,4)
    pop %eax
    add %eax, %edx
    loop 1b
    show "sum", "%edx"

    puts "code in it, written: "
    xor %edx, %edx
    mov $ROUNDS, %ecx
1:  put_code CODE, 0
    mov %ecx, DIRECT + CODE + 1
    mov $DIRECT + CODE, %eax
    call *%eax
    add %eax, %edx
    mov $CODE, %eax
    call *%eax
    add %eax, %edx
    loop 1b
    show "sum", "%edx"

    puts "a small page, mapped elsewhere by INVLPG: "
    movl $0x11111111, FRAMES
    movl $0x22222222, FRAMES + 0x1000
    xor %edx, %edx
    mov $ROUNDS, %ecx
1:  xorl $0x1000, TABLE
    invlpg SMALL
    mov SMALL, %eax
    rol $1, %edx
    add %eax, %edx
    incl SMALL
    loop 1b
    field "sum", "%edx"
    field "one", "FRAMES"
    show "two", "FRAMES + 0x1000"

    puts "by switching global pages off and on: "
    xor %edx, %edx
    mov $ROUNDS, %ecx
1:  xorl $0x1000, TABLE
    mov %cr4, %eax
    xor $0x80, %eax
    mov %eax, %cr4
    xor $0x80, %eax
    mov %eax, %cr4
    add SMALL, %edx
    rol $1, %edx
    loop 1b
    show "sum", "%edx"

    puts "a large one, by INVLPG: "
    mov $ROUNDS, %ecx
    xor %edx, %edx
    movl $0x33333333, 0x800000 + FRAMES
1:  xorl $0x800000, TOP + 0xc00
    invlpg DIRECT + 0x5000
    add DIRECT + FRAMES, %edx
    rol $1, %edx
    loop 1b
    show "sum", "%edx"

    puts "dirty: "
    # The bit is clear until something is written, however often it is read.
    andl $~0x40, TABLE
    invlpg SMALL
    mov $ROUNDS, %ecx
1:  mov SMALL, %eax
    loop 1b
    mov TABLE, %eax
    and $0x60, %eax
    field "read", "%eax"
    movl $1, SMALL
    mov TABLE, %eax
    and $0x60, %eax
    show "written", "%eax"

    puts "read-only: "
    andl $~2, TABLE
    invlpg SMALL
    mov $ROUNDS, %ecx
1:  incl SMALL
    loop 1b
    puts "written without WP; "
    mov %cr0, %eax
    or $0x10000, %eax
    mov %eax, %cr0
    set_gate 14, skip
    mov $ROUNDS, %ecx
    movl $0, skipped
1:  movl $0, SMALL
    loop 1b
    field "faults", "skipped"
    show "value", "SMALL"
    ret

# movl $0, SMALL is 10 bytes.
skip:
    incl skipped
    addl $10, 4(%esp)
    add $4, %esp
    iret

# The first and third 4 MB as they are and at DIRECT the first, in large global pages; then a table of small ones.
paging:
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x2000 / 4, %ecx
    rep stosl
    movl $0x1e3, TOP
    movl $0x8001e3, TOP + 8
    movl $0x1e3, TOP + 0xc00
    movl $TABLE + 7, TOP + 4
    movl $FRAMES + 0x163, TABLE
    mov %cr4, %eax
    or $0x90, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ret

.data
.balign 4
skipped: .long 0
