# What the machine's clocks say, each from the guest's own point of view: TSC and PM timer over loops of a known length, PIT and TSC across a
# halt, and the year of the RTC. Printed in hexadecimal to the debug console; crates/cli/tests/boot.rs knows what they are where
# instructions are the clock.
.code32
.globl _start
# A multiboot header, then the entry.
_start:
    .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000), _start, _start, 0, 0, entry
entry:
    mov $0x300000, %esp
    rdtsc
    mov %eax, %esi
    mov $1000, %ecx
1:  dec %ecx
    jnz 1b
    rdtsc
    sub %esi, %eax
    call hex
    # the PM timer over 2,000,000 instructions
    mov $0x608, %edx
    in %dx, %eax
    mov %eax, %esi
    mov $1000000, %ecx
1:  dec %ecx
    jnz 1b
    in %dx, %eax
    sub %esi, %eax
    call hex
    # PIT channel 0, mode 2, 11932 counts: 10 ms. PIC: vector 32; only IRQ 0
    lidt idtr
    mov $handler, %eax
    mov %ax, idt + 32 * 8
    shr $16, %eax
    mov %ax, idt + 32 * 8 + 6
    mov %cs, idt + 32 * 8 + 2
    mov $0x11, %al
    out %al, $0x20
    mov $32, %al
    out %al, $0x21
    mov $4, %al
    out %al, $0x21
    mov $1, %al
    out %al, $0x21
    mov $0xfe, %al
    out %al, $0x21
    mov $0x34, %al
    out %al, $0x43
    mov $(11932 & 255), %al
    out %al, $0x40
    mov $(11932 >> 8), %al
    out %al, $0x40
    # The first tick comes while the CPU is busy, the second while it is halted.
    xor %ebx, %ebx
    sti
1:  test %ebx, %ebx
    jz 1b
    rdtsc
    mov %eax, %esi
1:  hlt
    cmp $2, %ebx
    jb 1b
    rdtsc
    sub %esi, %eax
    call hex
    # the RTC's year
    mov $9, %al
    out %al, $0x70
    in $0x71, %al
    movzx %al, %eax
    call hex
    mov $0x10, %al
    out %al, $0xf4
1:  jmp 1b
handler:
    push %eax
    inc %ebx
    mov $0x20, %al
    out %al, $0x20
    pop %eax
    iret
# Prints EAX.
hex:
    mov $8, %ecx
1:  rol $4, %eax
    push %eax
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 2f
    add $39, %al
2:  out %al, $0xe9
    pop %eax
    loop 1b
    mov $10, %al
    out %al, $0xe9
    ret
idtr: .word 33 * 8 - 1
    .long idt
    .balign 8
idt: .fill 32 * 8, 1, 0
    .word 0, 0, 0x8e00, 0
