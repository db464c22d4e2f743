# What a translator may take for granted until it isn't so any more: thunks on other pages that tell callers their address, and divisions.
.include "prelude.inc"
.include "try.inc"
.set TOP, 0x20000
.set TABLE, 0x21000
.set OTHER, 0x22000             # another page directory, its table behind it
.set FRAMES, 0x30000            # three frames, with thunks
.set CALLERS, 0x34000           # a frame of code that calls one
.set AREA, 0x400000             # FRAMES, then CALLERS from AREA + 0x4000 on

.text
# mov (%esp), %ebx; ret
.macro put_thunk at
    movl $0xc3241c8b, \at
.endm

main:
    call try_setup
    call paging
    # CALLERS: xor %ecx, %ecx; 1: call AREA; add %ebx, %edx; inc %ecx; cmp $50, %ecx; jne 1b; ret
    mov $caller, %esi
    mov $CALLERS, %edi
    mov $caller_end - caller, %ecx
    rep movsb
    put_thunk FRAMES
    put_thunk FRAMES + 0x1000
    # mov $7, %ebx; ret
    movb $0xbb, FRAMES + 0x2000
    movl $7, FRAMES + 0x2001
    movb $0xc3, FRAMES + 0x2005

    movl $0, ring
    puts "ring 0\n"
    call all
    movl $3, ring
    puts "ring 3\n"
    call all
    call divisions
    ret

all:
    call sums
    puts "mapped elsewhere, the same thunk: "
    movl $FRAMES + 0x1007, TABLE
    invlpg AREA
    call sums
    puts "mapped elsewhere, no thunk: "
    movl $FRAMES + 0x2007, TABLE
    invlpg AREA
    call sums
    puts "back, by loading CR3: "
    movl $FRAMES + 7, TABLE
    mov %cr3, %eax
    mov %eax, %cr3
    call sums
    puts "in another address space: "
    mov $OTHER, %eax
    mov %eax, %cr3
    call sums
    puts "and back: "
    mov $TOP, %eax
    mov %eax, %cr3
    call sums
    puts "written: "
    # mov (%esp), %ebx; ret becomes xor %ebx, %ebx; nop; ret
    movl $0xc390db31, FRAMES
    call sums
    put_thunk FRAMES
    puts "written back: "
    call sums
    puts "absent: "
    movl $0, TABLE
    invlpg AREA
    movl $1f, try_code
    mov ring, %eax
    mov %eax, try_ring
    call try
    jmp 2f
1:  mov $AREA + 0x4000, %eax
    xor %edx, %edx
    call *%eax
    int $0x80
2:  movl $FRAMES + 7, TABLE
    invlpg AREA
    puts "present again: "
    call sums
    ret

# The sum of what 50 calls say their address is, three times over.
sums:
    movl $3, rounds
1:  movl $2f, try_code
    mov ring, %eax
    mov %eax, try_ring
    call attempt
    jmp 3f
2:  mov $AREA + 0x4000, %eax
    xor %edx, %edx
    call *%eax
    mov %edx, total
    int $0x80
3:  field "sum", "total"
    decl rounds
    jnz 1b
    puts "\n"
    ret

caller:
    xor %ecx, %ecx
1:  .byte 0xe8
    .long AREA - (AREA + 0x4000 + (2f - caller))
2:  add %ebx, %edx
    inc %ecx
    cmp $50, %ecx
    jne 1b
    ret
caller_end:

# A division that faults for a long time, then doesn't, then does for another reason.
divisions:
    set_gate 0, skip_division
    movl $0, skipped
    xor %edi, %edi
    mov $300, %esi
1:  mov %esi, %ecx
    sub $100, %ecx
    sar $31, %ecx
    # ECX is 0 until 100 are left, then -1.
    mov $0, %edx
    mov $1000, %eax
    add %esi, %eax
    call divide
    add %eax, %edi
    dec %esi
    jnz 1b
    field "skipped", "skipped"
    show "sum", "%edi"
    mov $200, %esi
1:  mov $5, %edx
    mov $5, %ecx
    call divide
    dec %esi
    jnz 1b
    show "skipped", "skipped"
    ret
divide:
    neg %ecx
    div %ecx
    ret
skip_division:
    incl skipped
    addl $2, (%esp)
    iret

# 4 MB mapped as they are, then the area; in the other address space the area begins with the second frame.
paging:
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x4000 / 4, %ecx
    rep stosl
    movl $0xe7, TOP
    movl $TABLE + 7, TOP + 4
    movl $0xe7, OTHER
    movl $OTHER + 0x1007, OTHER + 4
    movl $FRAMES + 7, TABLE
    movl $CALLERS + 7, TABLE + 16
    movl $FRAMES + 0x2007, OTHER + 0x1000
    movl $CALLERS + 7, OTHER + 0x1000 + 16
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $TOP, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ret

.data
.balign 4
ring: .long 0
rounds: .long 0
total: .long 0
skipped: .long 0
