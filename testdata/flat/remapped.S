# Code and data that are mapped elsewhere while something still leads to what was there: direct jumps, return addresses, segment loads made
# before, TLB entries, page directories.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set TABLE2, 0x22000
.set FRAMES, 0x30000            # frame n is at FRAMES + 0x1000 * n
.set WINDOW, 0x400000           # what TABLE maps
.set CROSSING, 0xffe            # offset of an instruction that ends on the next page

# Has page \page of the window be frame \frame, with \flags.
.macro map page, frame, flags=7
    movl $FRAMES + 0x1000 * \frame + \flags, TABLE + 4 * \page
.endm

# Calls \at in a way that nothing remembers.
.macro far_call at
    pushl $9f
    ljmp $CODE0, $\at
9:
.endm

.macro load_cr3
    mov %cr3, %eax
    mov %eax, %cr3
.endm

.text
main:
    call try_setup
    # 4 MB of identity, then a table of our own. Global pages.
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x3000 / 4, %ecx
    rep stosl
    movl $0xe7, TOP
    movl $TABLE + 7, TOP + 4
    mov %cr4, %eax
    or $0x90, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0

    # nop (6 times); mov $0x..11, %eax; ret
    movl $0x90909090, FRAMES + 0xff8
    movl $0x11b89090, FRAMES + 0xffc
    movl $0xc3000022, FRAMES + 0x1000
    movl $0xc3000033, FRAMES + 0x2000
    # jmp CROSSING
    movb $0xe9, FRAMES + 0x100
    movl $CROSSING - 0x105, FRAMES + 0x101
    # test %ecx, %ecx; jz CROSSING; ud2
    movl $0x840fc985, FRAMES + 0x200
    movl $CROSSING - 0x208, FRAMES + 0x204
    movw $0x0b0f, FRAMES + 0x208
    # call CROSSING; ret
    movb $0xe8, FRAMES + 0x300
    movl $CROSSING - 0x305, FRAMES + 0x301
    movb $0xc3, FRAMES + 0x305

.macro crossing name, from
    puts "\name: "
    map 0, 0
    map 1, 1
    invlpg WINDOW
    invlpg WINDOW + 0x1000
    mov $WINDOW + \from, %ebx
    xor %ecx, %ecx
    call *%ebx
    call *%ebx
    call *%ebx
    field "first", "%eax"
    map 1, 2
    invlpg WINDOW + 0x1000
    call *%ebx
    field "second", "%eax"
    map 1, 1
    load_cr3
    call *%ebx
    show "first again", "%eax"
.endm
    puts "the second page of an instruction\n"
    crossing "reached from before", 0xff8
    crossing "by a jump", 0x100
    crossing "by a condition", 0x200
    crossing "by a call", 0x300

    puts "the page that is returned to\n"
    # call *%ecx; mov $n, %eax; ret
    .irp n, 3, 4, 5
    movl $0x00b8d1ff + (\n << 24), FRAMES + 0x1000 * \n
    movl $0xc3000000, FRAMES + 0x1000 * \n + 4
    .endr
    map 2, 3
    mov $nothing, %ecx
    far_call WINDOW + 0x2000
    field "as it is", "%eax"
    mov $remaps, %ecx
    far_call WINDOW + 0x2000
    field "by INVLPG", "%eax"
    mov $remaps_all, %ecx
    far_call WINDOW + 0x2000
    show "by CR3", "%eax"

    puts "the page of a segment load\n"
    # mov %eax, %fs; ret and mov %eax, %gs; ret
    movl $0x00c3e08e, FRAMES + 0x6000
    movl $0x00c3e88e, FRAMES + 0x7000
    map 3, 6
    .rept 3
    call segments
    .endr
    map 3, 7
    invlpg WINDOW + 0x3000
    .rept 3
    call segments
    .endr

    puts "data\n"
    .irp n, 8, 9, 10, 11
    movl $\n, FRAMES + 0x1000 * \n
    .endr
    map 4, 8, 0x107
    field "global", "WINDOW + 0x4000"
    map 4, 9
    invlpg WINDOW + 0x4000
    field "local", "WINDOW + 0x4000"
    map 4, 10
    load_cr3
    show "after CR3", "WINDOW + 0x4000"

    puts "a page table\n"
    map 4, 8
    map 5, 11
    movl $FRAMES + 0x9007, TABLE2 + 16
    movl $FRAMES + 0xb007, TABLE2 + 20
    load_cr3
    case "one page", 3
    mov WINDOW + 0x4000, %eax
    mov %eax, seen
    endcase
    movl $TABLE2 + 7, TOP + 4
    case "another", 3
    mov WINDOW + 0x5000, %eax
    mov %eax, seen + 4
    endcase
    load_cr3
    case "the first", 3
    mov WINDOW + 0x4000, %eax
    mov %eax, seen + 8
    endcase
    field "seen: one", "seen"
    field "another", "seen + 4"
    show "the first", "seen + 8"
    ret

# Loads FS or GS, both DATA0 before, by the code at WINDOW + 0x3000, and shows them.
segments:
    mov $DATA0, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $DATA3, %eax
    far_call WINDOW + 0x3000
    mov %fs, %eax
    movzx %ax, %eax
    field "fs", "%eax"
    mov %gs, %eax
    movzx %ax, %eax
    show "gs", "%eax"
    ret

    # On a page of its own.
    .balign 4096
remaps:
    map 2, 4
    invlpg WINDOW + 0x2000
nothing:
    ret
remaps_all:
    map 2, 5
    load_cr3
    ret
    .balign 4096

.data
.balign 4
seen: .fill 3, 4, 0
