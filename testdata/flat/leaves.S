# What a kernel does all the time, many times: system calls both ways, segment loads, returns from interrupts. Translated, none of it leaves
# once it has been done: `vcpu/tests/flat.rs` counts.
.include "prelude.inc"
.include "try.inc"

# Away from code, which writes to its page would drop.
.set served, 0x40000
.set data_selector, 0x40004

.text
main:
    call try_setup
    movl $0, served
    sysenter_to service, "STACK - 0x4000"
    case "system calls", 3
    mov $20000, %ebx
1:  mov %esp, %ecx
    mov $2f, %edx
    sysenter
2:  dec %ebx
    jnz 1b
    endcase
    show "served", "served"
    ret

# As a kernel does on entry and exit.
service:
    push %fs
    push %ds
    mov $DATA3, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $DATA0, %eax
    mov %eax, %fs
    incl %fs:served
    pushf
    push %cs
    push $1f
    iret
1:  pop %ds
    pop %fs
    movw $DATA0, data_selector
    verw data_selector
    sysexit
