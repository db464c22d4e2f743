# External interrupts (8259, 8254) and when they are taken: IF, the shadows of STI and MOV SS, POPF and IRET that set IF, HLT, priorities.
#
# Needs a PC's interrupt controller and timer, so it runs under `xlat86 boot --bios` rather than on a bare CPU.
.include "prelude.inc"
.include "try.inc"

# Programs the timer (channel 0, mode 0) for one interrupt after \count of its ticks. Changes AL.
.macro one_shot count
    mov $0x30, %al
    out %al, $0x43
    mov $(\count) & 0xff, %al
    out %al, $0x40
    mov $(\count) >> 8, %al
    out %al, $0x40
.endm

# Runs code with an interrupt pending and IF clear; `taken` becomes the interrupted EIP relative to label 50.
.macro window name
    puts "\name: "
    call arm_timer
    movl $-1, taken
    movl $50f, origin
50:
.endm
.macro endwindow
    cli
    nop
    call disarm
    mov taken, %eax
    cmp $-1, %eax
    jne 51f
    puts "not taken\n"
    jmp 52f
51: sub origin, %eax
    show "taken at", "%eax"
52:
.endm

.text
# Programs the timer for one interrupt in some 100 us, and waits until the controller has it while IF is 0.
arm_timer:
    push %eax
    one_shot 120
1:  mov $0x0a, %al
    out %al, $0x20
    in $0x20, %al
    test $1, %al
    jz 1b
    pop %eax
    ret

# Lets an interrupt that wasn't taken through, unseen.
disarm:
    cmpl $-1, taken
    jne 1f
    sti
    nop
    nop
    nop
    cli
    movl $-1, taken
1:  ret

timer:
    push %eax
    mov 4(%esp), %eax
    mov %eax, taken
    incl count
    mov $0x20, %al
    out %al, $0x20
    pop %eax
    iret

main:
    call try_setup
    # Vectors 0x20 to 0x2f; only the timer.
    mov $0x11, %al
    out %al, $0x20
    out %al, $0xa0
    mov $0x20, %al
    out %al, $0x21
    mov $0x28, %al
    out %al, $0xa1
    mov $4, %al
    out %al, $0x21
    mov $2, %al
    out %al, $0xa1
    mov $1, %al
    out %al, $0x21
    out %al, $0xa1
    mov $0xfe, %al
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
    set_gate 0x20, timer

    window "if clear"
    nop
    nop
    endwindow
    window "sti and two instructions"
    sti
    nop
    nop
    endwindow
    window "sti and cli"
    sti
    cli
    endwindow
    window "sti and hlt"
    sti
    hlt
    endwindow
    window "sti twice"
    sti
    sti
    nop
    endwindow
    window "mov ss while enabled"
    mov $DATA0, %eax
    sti
    mov %eax, %ss
    nop
    nop
    endwindow
    window "popf"
    pushf
    orl $0x200, (%esp)
    popf
    nop
    nop
    endwindow
    window "iret"
    pushf
    orl $0x200, (%esp)
    push %cs
    push $1f
    iret
1:  nop
    nop
    endwindow
    window "popf and cli"
    pushf
    orl $0x200, (%esp)
    popf
    cli
    endwindow

    puts "halted until the timer: "
    movl $0, count
    one_shot 0x1000
    sti
    hlt
    cli
    show "count", "count"
    # A busy loop is interrupted too.
    puts "a loop until the timer: "
    movl $0, count
    one_shot 0x1000
    sti
1:  cmpl $0, count
    je 1b
    cli
    show "count", "count"
    # And ring 3, with the interrupt's frame on ring 0's stack.
    puts "ring 3 until the timer: "
    movl $0, count
    one_shot 0x1000
    movl $0x200, try_flags
    case "loop", 3
1:  cmpl $0, count
    je 1b
    endcase
    show "  count", "count"
    ret

.data
.balign 4
taken: .long 0
origin: .long 0
count: .long 0
