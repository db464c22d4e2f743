# Segment loads, VERW, SYSENTER, SYSEXIT and IRET, each made several times at one place, before and after what they depend on has changed:
# descriptors, the table itself, its mapping, MSRs, flags.
.include "prelude.inc"
.include "try.inc"

.set SEG, 0x40
.set DIRECTORY, 0x30000
.set TABLE, 0x31000
.set COPY, 0x32000

# Makes SEG a segment of attributes `attr` (bits 8 to 23 of the descriptor's upper half) and base `base`.
.macro seg base, attr
    movl $\base, %eax
    movl $(\attr), %edx
    call make_seg
.endm

.macro four what
    .rept 4
    call \what
    .endr
.endm

.text
main:
    call try_setup

    puts "a base\n"
    seg words, 0xcf93
    four load_and_show
    seg words + 4, 0xcf93
    four load_and_show

    puts "a limit\n"
    mov $words, %eax
    mov $0x4093, %edx
    movl $3, limit
    call make_seg_limited
    four load_and_show
    case "beyond it"
    mov $SEG, %eax
    call load_fs
    mov %fs:4, %eax
    endcase
    case "null"
    xor %eax, %eax
    call load_fs
    mov %fs:0, %eax
    endcase

    puts "presence and privilege\n"
    seg words, 0xcff3
    case "from ring 3", 3
    four load_seg3
    endcase
    seg words, 0xcf73
    case "absent", 3
    call load_seg3
    endcase
    seg words, 0xcf93
    case "ring 0's", 3
    call load_seg3
    endcase
    case "ring 0's in ring 0"
    call load_seg3
    endcase
    seg words, 0xcff3
    case "ring 3's again", 3
    four load_seg3
    endcase
    seg words, 0xcf9b
    case "code for es"
    mov $SEG, %eax
    push %eax
    pop %es
    endcase
    case "popping ds and es"
    mov $8, %ecx
1:  push %ds
    push %es
    pop %es
    pop %ds
    dec %ecx
    jnz 1b
    endcase

    puts "accessed bit\n"
    seg words, 0xcf92
    mov $SEG, %eax
    four load_fs
    show "descriptor", "gdt + SEG + 4"
    movl $0x00cf9200, gdt + SEG + 4
    mov $SEG, %eax
    call load_fs
    show "descriptor", "gdt + SEG + 4"

    puts "many bases\n"
    xor %ebx, %ebx
    xor %edi, %edi
1:  lea words(,%ebx,4), %eax
    mov $0xcf93, %edx
    call make_seg
    mov $SEG, %eax
    call load_fs
    add %fs:0, %edi
    mov %ebx, %fs:0
    inc %ebx
    cmp $300, %ebx
    jb 1b
    show "sum", "%edi"

    puts "verw\n"
    mov $DATA0, %eax
    four verw_and_show
    mov $CODE0, %eax
    four verw_and_show
    mov $SEG, %eax
    four verw_and_show
    seg words, 0xcf91
    mov $SEG, %eax
    four verw_and_show
    mov $0, %eax
    four verw_and_show

    call another_table
    call system_calls
    call returns
    call mappings
    ret

# make_seg: base EAX, attributes EDX, limit 4 GB.
make_seg:
    movl $0xfffff, limit
make_seg_limited:
    push %ecx
    mov %eax, %ecx
    shl $16, %eax
    mov limit, %ax
    mov %eax, gdt + SEG
    mov %ecx, %eax
    shr $16, %eax
    movzx %al, %eax
    shl $8, %edx
    or %eax, %edx
    mov %ecx, %eax
    and $0xff000000, %eax
    or %eax, %edx
    cmpl $0xfffff, limit
    je 1f
    and $0xfff0ffff, %edx
1:  mov %edx, gdt + SEG + 4
    # What `case` saves and restores must be there.
    mov $DATA0, %ecx
    mov %ecx, %fs
    pop %ecx
    ret

load_fs:
    mov %eax, %fs
    ret

load_seg3:
    mov $SEG + 3, %eax
    mov %eax, %fs
    mov %fs:0, %eax
    ret

load_and_show:
    mov $SEG, %eax
    call load_fs
    mov %fs:0, %eax
    show "word", "%eax"
    ret

# The flags that VERW leaves, of two that it finds.
verw_and_show:
    push %eax
    mov (%esp), %eax
    mov $0x7fffffff, %ecx
    add $1, %ecx                # OF, SF, AF, PF; no ZF, no CF
    call do_verw
    field "flags", "%edx"
    mov (%esp), %eax
    xor %ecx, %ecx
    stc                         # ZF, PF, CF
    std
    call do_verw
    cld
    show "flags", "%edx"
    pop %eax
    ret
do_verw:
    verw %ax
    pushf
    cld
    pop %edx
    and $0xcd5, %edx
    ret

another_table:
    puts "another table\n"
    seg words, 0xcf93
    four load_and_show
    mov $gdt, %esi
    mov $other, %edi
    mov $gdt_end - gdt, %ecx
    rep movsb
    mov $words + 8, %eax
    mov %ax, other + SEG + 2
    lgdt other_gdtr
    four load_and_show
    lgdt gdtr
    four load_and_show
    mov $DATA0, %eax
    mov %eax, %fs
    ret

# A program makes system calls in a row; two services.
system_calls:
    puts "system calls\n"
    mov $0x174, %ecx
    mov $CODE0, %eax
    xor %edx, %edx
    wrmsr
    mov $0x175, %ecx
    mov $STACK - 0x4000, %eax
    wrmsr
    mov $service, %eax
    call set_service
    case "service", 3
    call program
    endcase
    call show_served
    mov $other_service, %eax
    call set_service
    case "another", 3
    call program
    endcase
    call show_served
    mov $0x175, %ecx
    mov $STACK - 0x5000, %eax
    wrmsr
    case "another stack", 3
    call program
    endcase
    call show_served
    mov $0x174, %ecx
    xor %eax, %eax
    wrmsr
    case "no target", 3
    call program
    endcase
    ret

set_service:
    mov $0x176, %ecx
    xor %edx, %edx
    wrmsr
    ret

# At ring 3: five calls, each with other flags and a return through several levels.
program:
    xor %ebx, %ebx
1:  call level1
    inc %ebx
    cmp $5, %ebx
    jb 1b
    ret
level1:
    call level2
    ret
level2:
    mov %esp, %ecx
    mov $2f, %edx
    cmp $2, %ebx
    sysenter
2:  setb %al
    movzx %al, %eax
    mov %eax, below(,%ebx,4)
    mov %cs, %eax
    shl $16, %eax
    mov %ss, %ax
    mov %eax, came_back_to(,%ebx,4)
    ret
service:
    incl served
    jmp 1f
other_service:
    addl $0x100, served
1:  mov %esp, served_esp
    pushf
    popl served_flags
    mov %cs, %eax
    shl $16, %eax
    mov %ss, %ax
    mov %eax, served_in
    call in_service
    cmp $2, %ebx
    sysexit
in_service:
    ret

show_served:
    field "served", "served"
    field "in", "served_in"
    field "esp", "served_esp"
    andl $0x200, served_flags
    show "if", "served_flags"
    xor %ebx, %ebx
1:  mov below(,%ebx,4), %eax
    field "below", "%eax"
    mov came_back_to(,%ebx,4), %eax
    show "back", "%eax"
    inc %ebx
    cmp $5, %ebx
    jb 1b
    ret

returns:
    puts "returns to the same ring\n"
    mov $flags_tried, %esi
1:  lodsl
    test %eax, %eax
    jz 2f
    push %esi
    four return_with
    pop %esi
    jmp 1b
2:  puts "returns to ring 3\n"
    mov $flags_tried, %esi
1:  lodsl
    test %eax, %eax
    jz 2f
    push %esi
    mov %eax, try_flags
    .rept 3
    case "flags", 3
    pushf
    popl in_ring3
    endcase
    andl $0x3e7ed5, in_ring3
    show "  there", "in_ring3"
    .endr
    pop %esi
    jmp 1b
2:  movl $0, try_flags
    andb $0x7f, gdt + CODE3 - 3 + 5
    call ring3
    orb $0x80, gdt + CODE3 - 3 + 5
    call ring3
    andb $0xfd, gdt + DATA3 - 3 + 5
    call ring3
    orb $0x02, gdt + DATA3 - 3 + 5
    call ring3
    ret

ring3:
    case "ring 3", 3
    mov %ds, %eax
    endcase
    ret

# IRET with flags EAX; shows what they are then.
return_with:
    push %eax
    push %eax
    push %cs
    push $1f
    iret
1:  pushf
    pop %edx
    push $2
    popf
    and $0x3e7ed5, %edx
    show "flags", "%edx"
    pop %eax
    ret

# The page of the table is exchanged.
mappings:
    puts "another page\n"
    mov $TABLE, %edi
    mov $3, %eax
    mov $1024, %ecx
1:  stosl
    add $0x1000, %eax
    dec %ecx
    jnz 1b
    movl $TABLE + 3, DIRECTORY
    mov $DIRECTORY, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    seg words, 0xcf93
    four load_and_show
    mov $gdt, %esi
    and $0xfffff000, %esi
    mov $COPY, %edi
    mov $2048, %ecx
    rep movsl
    mov $gdt, %eax
    and $0xfff, %eax
    mov $words + 8, %edx
    mov %dx, COPY + SEG + 2(%eax)
    mov $gdt, %eax
    shr $12, %eax
    movl $COPY + 3, TABLE(,%eax,4)
    movl $COPY + 0x1003, TABLE + 4(,%eax,4)
    invlpg gdt
    invlpg gdt + 0x1000
    four load_and_show
    mov $gdt, %eax
    and $0xfffff000, %eax
    mov %eax, %edx
    shr $12, %edx
    or $3, %eax
    mov %eax, TABLE(,%edx,4)
    add $0x1000, %eax
    mov %eax, TABLE + 4(,%edx,4)
    mov %cr3, %eax
    mov %eax, %cr3
    four load_and_show
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    ret

.data
.balign 4
limit: .long 0
served: .long 0
served_in: .long 0
served_esp: .long 0
served_flags: .long 0
in_ring3: .long 0
below: .fill 5, 4, 0
came_back_to: .fill 5, 4, 0
# IOPL, AC, ID, DF and the status flags.
flags_tried: .long 0x2, 0xcd7, 0x3002, 0x3046, 0x40002, 0x200003, 0x202, 0x6, 0
other_gdtr:
    .word gdt_end - gdt - 1
    .long other
.balign 8
other: .fill gdt_end - gdt
# Distinct from one to the next.
words:
.set n, 0x1000
.rept 300
    .long n
    .set n, n + 0x10001
.endr
