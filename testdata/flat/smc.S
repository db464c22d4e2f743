# Kernels that write code: their own next instruction, code behind other mappings, code that is mapped elsewhere, and stacks beside code.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set FRAMES, 0x30000            # two frames of code
.set WINDOW, 0x400000           # where they are mapped
.set CROSSING, 0x400ffe         # an instruction that begins here ends on the next page

.text
# mov $value, %eax; ret
.macro put_code at, value
    movb $0xb8, \at
    movl $\value, \at + 1
    movb $0xc3, \at + 5
.endm

main:
    call try_setup
    puts "the next instruction: "
    movb $0x42, 1f + 1
1:  mov $0, %al
    movzx %al, %eax
    show "al", "%eax"

    puts "itself, in a loop: "
    movl $0, total
    mov $5, %ecx
1:  movb %cl, 2f + 6
2:  addl $0, total
    loop 1b
    # The immediate is a sign-extended byte.
    show "total", "total"

    puts "called again and again: "
    movl $0, total
    mov $100, %ecx
1:  put_code FRAMES, 0
    mov %ecx, FRAMES + 1
    mov $FRAMES, %eax
    call *%eax
    add %eax, total
    loop 1b
    show "total", "total"

    # Paging: 4 MB of identity, then a table of our own.
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x2000 / 4, %ecx
    rep stosl
    movl $0xe7, TOP
    movl $TABLE + 7, TOP + 4
    movl $FRAMES + 7, TABLE
    movl $FRAMES + 0x1007, TABLE + 4
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0

    puts "behind another mapping: "
    put_code FRAMES, 1
    mov $WINDOW, %ebx
    call *%ebx
    mov %eax, %esi
    put_code FRAMES, 2
    call *%ebx
    shl $8, %esi
    or %eax, %esi
    show "results", "%esi"

    puts "mapped elsewhere, by INVLPG: "
    put_code FRAMES, 3
    put_code FRAMES + 0x1000, 4
    call *%ebx
    mov %eax, %esi
    movl $FRAMES + 0x1007, TABLE
    invlpg WINDOW
    call *%ebx
    shl $8, %esi
    or %eax, %esi
    movl $FRAMES + 7, TABLE
    mov %cr3, %eax
    mov %eax, %cr3
    call *%ebx
    shl $8, %esi
    or %eax, %esi
    show "results", "%esi"

    puts "across two pages, of which the second is exchanged: "
    # 32 KB at FRAMES: page 0 ends with the instruction's head, pages 1 and 2 begin with different tails.
    movw $0x00b8, FRAMES + 0xffe
    movb $0xb8, FRAMES + 0xffe
    movb $0x11, FRAMES + 0xfff
    movl $0xc3000022, FRAMES + 0x1000
    movl $0xc3000033, FRAMES + 0x2000
    mov $CROSSING, %ebx
    call *%ebx
    mov %eax, %esi
    movl $FRAMES + 0x2007, TABLE + 4
    invlpg WINDOW + 0x1000
    call *%ebx
    field "first", "%esi"
    show "second", "%eax"
    movb $0x44, FRAMES + 0x2000
    call *%ebx
    show "  tail written", "%eax"
    movb $0x55, FRAMES + 0xfff
    call *%ebx
    show "  head written", "%eax"

    puts "the second page absent: "
    movl $0, TABLE + 4
    invlpg WINDOW + 0x1000
    case "across", 0
    mov $CROSSING, %ebx
    call *%ebx
    endcase
    movl $FRAMES + 0x1007, TABLE + 4
    invlpg WINDOW + 0x1000

    puts "a stack beside the code: "
    mov %esp, %esi
    put_code FRAMES, 6
    mov $FRAMES + 0x800, %esp
    mov $100, %ecx
    xor %edx, %edx
1:  mov $FRAMES, %eax
    call *%eax
    add %eax, %edx
    loop 1b
    mov %esi, %esp
    show "total", "%edx"

    puts "in ring 3: "
    mov $FRAMES, %eax
    put_code WINDOW, 7
    case "write and call", 3
    mov $50, %ecx
    xor %edx, %edx
1:  mov %cl, WINDOW + 1
    mov $WINDOW, %eax
    call *%eax
    add %eax, %edx
    loop 1b
    mov %edx, total
    endcase
    show "  total", "total"

    puts "by rep stos: "
    put_code FRAMES, 8
    mov $WINDOW, %ebx
    call *%ebx
    mov %eax, %esi
    mov $0x90, %al
    mov $FRAMES, %edi
    mov $5, %ecx
    rep stosb
    xor %eax, %eax
    call *%ebx
    shl $8, %esi
    or %eax, %esi
    show "results", "%esi"

    puts "the same frame, writable and read-only: "
    movl $FRAMES + 5, TABLE
    mov %cr3, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x10000, %eax
    mov %eax, %cr0
    case "through the read-only one", 0
    movb $1, WINDOW
    endcase
    put_code FRAMES, 9
    call *%ebx
    show "  through the writable one", "%eax"
    ret

.data
.balign 4
total: .long 0
