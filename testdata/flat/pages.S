# Page permissions: every combination of P, R/W and U/S at both levels, CR0.WP, ring, and kind of access, with the accessed and dirty
# bits that a permitted access leaves, in 32-bit and PAE paging, 4 KB and large pages; execute-disable and reserved bits.
#
# A result is three digits: the page fault's error code (ff: none), and A of the upper entry, A and D of the lower one (1, 2, 4).
# After a fault the bits aren't shown: CPUs differ in whether the walk that faults sets A on the way.
.include "prelude.inc"
.include "try.inc"

.set TOP, 0x20000               # page directory, or PDPT
.set DIRECTORY, 0x21000         # page directory with PAE
.set TABLE, 0x22000
.set FRAME, 0x30000
.set LARGE_FRAME, 0x800000
.set TESTED, 0x400000

.text
main:
    call try_setup
    movb $0xc3, FRAME
    movb $0xc3, LARGE_FRAME
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4

    puts "32-bit paging, 4 KB pages\n"
    call setup_32
    call all_small
    puts "32-bit paging, 4 MB pages\n"
    call all_large
    call reserved_32

    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    movb $1, pae
    puts "PAE paging, 4 KB pages\n"
    call setup_pae
    call all_small
    puts "PAE paging, 2 MB pages\n"
    call all_large
    puts "PAE paging, XD reserved\n"
    call execute_disable
    mov $0xc0000080, %ecx
    rdmsr
    or $0x800, %eax
    wrmsr
    puts "PAE paging, XD enabled\n"
    call execute_disable
    call reserved_pae
    ret

setup_32:
    call clear
    movl $0xe7, TOP
    movl $TOP + 4, upper
    movl $TABLE, lower
    mov $TOP, %eax
    mov %eax, %cr3
    jmp paging_on
setup_pae:
    call clear
    movl $DIRECTORY + 1, TOP
    movl $0xe7, DIRECTORY
    movl $DIRECTORY + 16, upper
    movl $TABLE, lower
    mov $TOP, %eax
    mov %eax, %cr3
paging_on:
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ret
clear:
    mov $TOP, %edi
    xor %eax, %eax
    mov $0x3000 / 4, %ecx
    rep stosl
    ret

# For each WP, ring and access: \each is called, with the header of a line printed.
.macro for_each_access each
    xor %ebp, %ebp
10: mov %cr0, %eax
    btr $16, %eax
    test $1, %ebp
    jz 11f
    bts $16, %eax
11: mov %eax, %cr0
    xor %edx, %edx
12: xor %ecx, %ecx
13: mov %edx, try_ring
    mov accesses(,%ecx,4), %eax
    mov %eax, try_code
    call \each
    inc %ecx
    cmp $3, %ecx
    jb 13b
    add $3, %edx
    cmp $6, %edx
    jb 12b
    inc %ebp
    cmp $2, %ebp
    jb 10b
.endm

header:
    push %eax
    puts "wp "
    push %ebp
    call print_byte
    puts " ring "
    push %edx
    call print_byte
    puts " access "
    push %ecx
    call print_byte
    pop %eax
    ret

all_small:
    for_each_access small_lines
    ret

small_lines:
    xor %esi, %esi
1:  call header
    puts " pde "
    push %esi
    call print_byte
    puts ":"
    xor %edi, %edi
2:  mov upper, %eax
    mov %esi, (%eax)
    orl $TABLE, (%eax)
    mov lower, %eax
    mov %edi, (%eax)
    orl $FRAME, (%eax)
    call result
    inc %edi
    cmp $8, %edi
    jb 2b
    puts "\n"
    inc %esi
    cmp $8, %esi
    jb 1b
    ret

all_large:
    for_each_access large_line
    ret

large_line:
    call header
    puts ":"
    movl $0, TABLE
    xor %esi, %esi
1:  mov upper, %eax
    mov %esi, (%eax)
    orl $LARGE_FRAME + 0x80, (%eax)
    call result
    inc %esi
    cmp $8, %esi
    jb 1b
    puts "\n"
    ret

# Tries the access and prints the result.
result:
    pusha
    mov %cr3, %eax
    mov %eax, %cr3
    call attempt
    puts " "
    mov caught + 4, %eax
    push %eax
    call print_byte
    xor %ebx, %ebx
    cmpl $0x80, caught
    jne 1f
    mov upper, %eax
    mov (%eax), %eax
    mov %eax, %edx
    shr $5, %eax
    and $1, %eax
    or %eax, %ebx
    # A large page has its D in the upper entry.
    mov %edx, %eax
    test $0x80, %edx
    jnz 2f
    mov lower, %eax
    mov (%eax), %eax
2:  shr $4, %eax
    and $6, %eax
    or %eax, %ebx
1:  push %ebx
    call print_digit
    popa
    ret

print_digit:
    push %eax
    mov 8(%esp), %al
    add $'0', %al
    out %al, $0xe9
    pop %eax
    ret $4

# XD in neither, either and both entries.
execute_disable:
    mov upper, %eax
    movl $TABLE + 7, (%eax)
    movl $FRAME + 7, TABLE
    for_each_access xd_line
    mov upper, %eax
    movl $0, 4(%eax)
    movl $0, TABLE + 4
    ret

xd_line:
    call header
    puts ":"
    xor %esi, %esi
1:  mov upper, %eax
    movl $TABLE + 7, (%eax)
    movl $FRAME + 7, TABLE
    mov %esi, %edi
    shl $31, %edi
    mov %edi, 4(%eax)
    mov %esi, %edi
    shr $1, %edi
    shl $31, %edi
    mov %edi, TABLE + 4
    call result
    inc %esi
    cmp $4, %esi
    jb 1b
    puts "\n"
    ret

# Each bit of a large page's and a small page's entries alone.
reserved_32:
    puts "32-bit paging, bits of the upper entry of a large page\n"
    mov $8, %ecx
1:  mov $1, %eax
    shl %cl, %eax
    and $0x00201000, %eax
    jz 2f
    mov upper, %ebx
    or $LARGE_FRAME + 0x87, %eax
    mov %eax, (%ebx)
    call one_read
2:  inc %ecx
    cmp $32, %ecx
    jb 1b
    puts "\n"
    ret
reserved_pae:
    puts "PAE paging, low bits of the upper entry of a large page\n"
    mov $13, %ecx
1:  mov $1, %eax
    shl %cl, %eax
    mov upper, %ebx
    or $LARGE_FRAME + 0x87, %eax
    mov %eax, (%ebx)
    call one_read
    inc %ecx
    cmp $21, %ecx
    jb 1b
    puts "\nhigh bits of the upper entry of a large page\n"
    mov $20, %ecx
1:  mov $1, %eax
    shl %cl, %eax
    mov upper, %ebx
    movl $LARGE_FRAME + 0x87, (%ebx)
    mov %eax, 4(%ebx)
    call one_read
    inc %ecx
    cmp $32, %ecx
    jb 1b
    puts "\nhigh bits of an upper entry\n"
    mov $20, %ecx
1:  mov $1, %eax
    shl %cl, %eax
    mov upper, %ebx
    movl $TABLE + 7, (%ebx)
    mov %eax, 4(%ebx)
    movl $FRAME + 7, TABLE
    movl $0, TABLE + 4
    call one_read
    inc %ecx
    cmp $32, %ecx
    jb 1b
    puts "\nhigh bits of a lower entry\n"
    mov $20, %ecx
1:  mov $1, %eax
    shl %cl, %eax
    mov upper, %ebx
    movl $TABLE + 7, (%ebx)
    movl $0, 4(%ebx)
    movl $FRAME + 7, TABLE
    mov %eax, TABLE + 4
    call one_read
    inc %ecx
    cmp $32, %ecx
    jb 1b
    puts "\n"
    movl $0, TABLE + 4
    # A PDPTE with a reserved bit: the load of CR3 faults.
    case "reserved bit of a PDPTE"
    orl $2, TOP
    mov %cr3, %eax
    mov %eax, %cr3
    endcase
    andl $~2, TOP
    case "absent PDPTE with bits"
    movl $0x1fe, TOP + 8
    mov %cr3, %eax
    mov %eax, %cr3
    endcase
    case "access through it"
    mov 0x40000000, %al
    endcase
    ret
one_read:
    movl $0, try_ring
    movl $access_read, try_code
    jmp result

access_read:
    mov TESTED, %al
    int $0x80
access_write:
    movb $0xc3, TESTED
    int $0x80
access_fetch:
    mov $TESTED, %eax
    call *%eax
    int $0x80

.data
.balign 4
accesses: .long access_read, access_write, access_fetch
upper: .long 0
lower: .long 0
pae: .byte 0
