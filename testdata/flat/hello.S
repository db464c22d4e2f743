# The least that a flat image does, and a page fault: proof that the prelude and the reporting work.
.include "prelude.inc"
.text
main:
    puts "protected mode\n"
    # Identity-map 4 MB with large pages, leave the rest absent.
    mov $0x20000, %edi
    mov %edi, %cr3
    xor %eax, %eax
    mov $1024, %ecx
    rep stosl
    movl $0x83, 0x20000
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    puts "paging\n"
    set_gate 14, page_fault
    movl $1, 0x400010
    puts "back\n"
    ret
page_fault:
    field "error", "(%esp)"
    mov %cr2, %eax
    show "cr2", "%eax"
    add $4, %esp
    addl $10, (%esp)
    iret
