//! Instructions that see privileged or virtualised state, rewritten into safe host code or left to the interpreter.
//!
//! Rewritten are those that programs and kernels execute often; the rest leave, which costs some 60 cycles and nothing else.
//!
//! A system's interrupt flag is a word of the frame, so that CLI, STI and POPF are stores; whoever waits for the flag to be set leaves
//! a word there that makes STI and POPF leave instead.

use crate::config::AddressForm;
use crate::crossing;
use crate::emit::{Emitter, Next};
use crate::operand::{self, R8, R11};
use crate::reencode::{Encoding, Rm, encode};
use crate::tlb::{Access, SPILL};
use crate::unit::{ExitKind, Quick};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, Mnemonic, OpKind, Register};
use xlat86_arch::{Mode, Seg, eflags};
use xlat86_decoder::Insn;
use xlat86_host::Frame;

/// EFLAGS bits outside the host's flags register that POPF changes at CPL 3.
const POPF_SYSTEM: u32 = eflags::TF | eflags::NT | eflags::AC | eflags::ID;

/// Plain and x87 instructions that the interpreter executes, guest memory being reached in the way of `form`.
pub(crate) fn needs_interpreter(insn: &Insn, form: AddressForm) -> bool {
    let i = &insn.iced;
    match i.mnemonic() {
        // Not in 64-bit mode. AAM comes here only with a base of 0, BOUND only in its 16-bit form.
        Mnemonic::Aam | Mnemonic::Arpl | Mnemonic::Bound => true,
        // Store the address of the last x87 instruction, which on the host is one in the arena.
        Mnemonic::Fnstenv | Mnemonic::Fstenv | Mnemonic::Fnsave | Mnemonic::Fsave => true,
        // Would touch XMM8 to XMM15.
        Mnemonic::Fxsave | Mnemonic::Fxrstor => true,
        // An operand that takes a REX prefix has AH exchanged with AL, which this one uses too.
        Mnemonic::Cmpxchg => i.op0_kind() == OpKind::Memory && i.op1_register() == Register::AH,
        // Implicit memory operands can't take a computed address.
        Mnemonic::Xlatb | Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => {
            form != AddressForm::Low
                || matches!(i.segment_prefix(), Register::FS | Register::GS)
                || i.op_kinds().any(|k| matches!(k, OpKind::MemorySegDI))
                || i.memory_base() == Register::BX
        }
        _ => false,
    }
}

/// Emits an instruction of `Kind::Sensitive` for user mode.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn, bytes: &[u8]) -> Next {
    let i = &insn.iced;
    match insn.code() {
        Code::Pushfd => {
            pushf(e);
            Next::FallThrough
        }
        Code::Popfd => {
            popf(e, insn);
            Next::FallThrough
        }
        // A replay would read another time.
        Code::Rdtsc if !e.config.replayed && !e.config.paged => e.plain(insn, bytes),
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg => {
            let from = selector(i.op1_register());
            if i.op0_kind() == OpKind::Memory {
                let mem = operand::prepare(&mut e.buf, i, e.esp);
                dynasm!(e.buf ; .arch x64 ; movzx r11d, WORD [BYTE r14 + from]);
                e.access(0x89, R11, mem, true);
            } else {
                let r = operand::host_reg(i.op0_register().number() as u8);
                e.sync_esp();
                if i.op0_register().is_gpr16() {
                    dynasm!(e.buf ; .arch x64 ; mov Rw(r), WORD [BYTE r14 + from]);
                } else {
                    dynasm!(e.buf ; .arch x64 ; movzx Rd(r), WORD [BYTE r14 + from]);
                }
            }
            Next::FallThrough
        }
        Code::Pushd_ES | Code::Pushd_CS | Code::Pushd_SS | Code::Pushd_DS | Code::Pushd_FS | Code::Pushd_GS => {
            // Whether the upper half is written depends on the processor (SDM vol. 2B, PUSH): the interpreter's does.
            let from = selector(i.op0_register());
            dynasm!(e.buf ; .arch x64 ; movzx r11d, WORD [BYTE r14 + from]);
            e.store(e.stack(-4), R11);
            e.move_esp(-4);
            Next::FallThrough
        }
        Code::Into => {
            e.sync_esp();
            e.buf.bytes.extend_from_slice(&[0x71, crate::stubs::LEAVE_SIZE as u8]);
            e.interpret(insn)
        }
        Code::Cli if supervisor(e) => {
            dynasm!(e.buf ; .arch x64 ; mov DWORD [r14 + IF], 0);
            Next::FallThrough
        }
        Code::Sti if supervisor(e) => sti(e, insn),
        Code::Mov_r32_cr
            if supervisor(e)
                && matches!(i.op1_register(), Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4) =>
        {
            let from = offset_of!(Frame, control) as i32 + 4 * i.op1_register().number() as i32;
            let r = operand::host_reg(i.op0_register().number() as u8);
            e.sync_esp();
            dynasm!(e.buf ; .arch x64 ; mov Rd(r), [r14 + from]);
            Next::FallThrough
        }
        Code::Rdtsc | Code::Rdtscp if e.config.paged && !e.config.replayed && !e.mode.has(Mode::TSC_OFF) => {
            rdtsc(e, insn.code() == Code::Rdtscp);
            Next::FallThrough
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 if e.config.paged => match data_segment(i.op0_register()) {
            Some(seg) => {
                load_selector(e, insn, 1);
                segment(e, insn, seg, false)
            }
            None => e.interpret(insn),
        },
        Code::Popd_ES | Code::Popd_DS | Code::Popd_FS | Code::Popd_GS if e.config.paged => {
            let seg = data_segment(i.op0_register()).expect("a data segment");
            let at = e.stack(0);
            let rm = e.reach(at, Access { size: 4, write: false });
            movzx_r11(e, rm);
            segment(e, insn, seg, true)
        }
        Code::Verw_rm16 | Code::Verw_r32m16 if e.config.paged => {
            load_selector(e, insn, 0);
            crossing::verw(e, insn)
        }
        Code::Sysenter if e.config.paged && e.mode.has(Mode::USER) => crossing::sysenter(e, insn),
        Code::Sysexitd if supervisor(e) => crossing::sysexit(e, insn),
        Code::Iretd if supervisor(e) => crossing::iret(e, insn),
        Code::Sysenter if e.config.paged => quick(e, insn, Quick::Sysenter),
        Code::Sysexitd if e.config.paged => quick(e, insn, Quick::Sysexit),
        Code::In_AL_imm8 | Code::In_EAX_imm8 | Code::In_AL_DX | Code::In_AX_DX | Code::In_EAX_DX if supervisor(e) => {
            port(e, insn, i.op0_register().size() as u8, i.op_kind(1) == OpKind::Immediate8, false)
        }
        Code::Out_imm8_AL | Code::Out_imm8_EAX | Code::Out_DX_AL | Code::Out_DX_AX | Code::Out_DX_EAX
            if supervisor(e) =>
        {
            port(e, insn, i.op1_register().size() as u8, i.op_kind(0) == OpKind::Immediate8, true)
        }
        Code::Int_imm8 if e.config.paged => quick(e, insn, Quick::Int { vector: i.immediate8() }),
        Code::Invlpg_m if supervisor(e) => {
            let mem = operand::prepare(&mut e.buf, i, e.esp);
            operand::lea(&mut e.buf, R11, &mem);
            quick(e, insn, Quick::Invlpg)
        }
        Code::Int_imm8 if i.immediate8() == 0x80 && !e.config.paged => {
            let kind = ExitKind::SoftInt { vector: 0x80, next: insn.next_eip() };
            if e.source.calls_out(insn.eip()) { e.call_out(insn, kind) } else { e.leave(insn, kind) }
        }
        _ => e.interpret(insn),
    }
}

/// Frame offset of a segment register's selector.
fn selector(r: Register) -> i8 {
    offset_of!(Frame, selector) as i8 + 2 * r.number() as i8
}

fn quick(e: &mut Emitter<'_>, insn: &Insn, what: Quick) -> Next {
    e.leave(insn, ExitKind::Quick { what, next: insn.next_eip() })
}

/// Loads a data segment register with the selector in R11.
fn segment(e: &mut Emitter<'_>, insn: &Insn, seg: Seg, pop: bool) -> Next {
    let what = Quick::Load { seg, pop };
    crossing::load(e, insn, what, pop)
}

/// IN or OUT, `size` bytes wide, through a port that is an immediate or in DX.
fn port(e: &mut Emitter<'_>, insn: &Insn, size: u8, immediate: bool, out: bool) -> Next {
    if immediate {
        dynasm!(e.buf ; .arch x64 ; mov r11d, i32::from(insn.iced.immediate8()));
    } else {
        dynasm!(e.buf ; .arch x64 ; movzx r11d, dx);
    }
    quick(e, insn, Quick::Port { size, out })
}

/// The data segment register `r`, but SS, whose loading holds interrupts off.
fn data_segment(r: Register) -> Option<Seg> {
    match r {
        Register::ES => Some(Seg::Es),
        Register::DS => Some(Seg::Ds),
        Register::FS => Some(Seg::Fs),
        Register::GS => Some(Seg::Gs),
        _ => None,
    }
}

/// The selector that is operand `operand` into R11.
fn load_selector(e: &mut Emitter<'_>, insn: &Insn, operand: u32) {
    let i = &insn.iced;
    if i.op_kind(operand) == OpKind::Register {
        let r = operand::host_reg(i.op_register(operand).number() as u8);
        e.sync_esp();
        dynasm!(e.buf ; .arch x64 ; movzx r11d, Rw(r));
        return;
    }
    let mem = operand::prepare(&mut e.buf, i, e.esp);
    let rm = e.reach(mem, Access { size: 2, write: false });
    movzx_r11(e, rm);
}

/// `movzx r11d, word rm`.
fn movzx_r11(e: &mut Emitter<'_>, rm: Rm) {
    let enc = Encoding { lock: false, p66: false, rep: 0, opcode: &[0x0f, 0xb7], reg: R11, rm, imm: &[] };
    encode(&mut e.buf, e.config.address_form, &enc);
}

/// The host's time stamp counter and the guest's offset. No flags.
fn rdtsc(e: &mut Emitter<'_>, aux: bool) {
    if aux {
        // It waits for earlier loads, and TSC_AUX is 0.
        dynasm!(e.buf ; .arch x64 ; rdtscp ; mov ecx, 0);
    } else {
        dynasm!(e.buf ; .arch x64 ; rdtsc);
    }
    dynasm!(e.buf ; .arch x64
        ; mov r9d, 32
        ; shlx r8, rdx, r9
        ; lea r8, [r8 + rax]
        ; mov r10, [r14 + offset_of!(Frame, tsc_offset) as i32]
        ; lea r8, [r8 + r10]
        ; mov eax, r8d
        ; shrx rdx, r8, r9
    );
}

/// Is the code for a kernel, which has the interrupt flag in its own word?
fn supervisor(e: &Emitter<'_>) -> bool {
    e.config.paged && !e.mode.has(Mode::USER)
}

const IF: i32 = offset_of!(Frame, interrupt_flag) as i32;
const AWAITED: i32 = offset_of!(Frame, interrupt_awaited) as i32;

/// The live flags come from the host's flags register, the others from the frame; put together without disturbing the former.
fn pushf(e: &mut Emitter<'_>) {
    dynasm!(e.buf ; .arch x64
        ; pushfq
        ; pop r11
        ; mov r9d, eflags::LIVE as i32
        ; pext r11d, r11d, r9d
        ; pdep r11d, r11d, r9d
        ; mov r9d, [BYTE r14 + offset_of!(Frame, system_flags) as i8]
        ; lea r11d, [r11 + r9]
    );
    if e.config.paged {
        dynasm!(e.buf ; .arch x64 ; mov r9d, [r14 + IF] ; lea r11d, [r11 + r9]);
    }
    e.store(e.stack(-4), R11);
    e.move_esp(-4);
}

/// Sets the live flags and, at CPL 0, the interrupt flag; if any other would change, the interpreter does it.
fn popf(e: &mut Emitter<'_>, insn: &Insn) {
    let supervisor = supervisor(e);
    let others = if supervisor { POPF_SYSTEM | eflags::IOPL } else { POPF_SYSTEM };
    e.load(R8, e.stack(0));
    e.sync_esp();
    // The flags are free: POPF replaces them all. But the interpreter, if it comes to that, shows them on the way.
    dynasm!(e.buf ; .arch x64
        ; mov r9d, r8d
        ; xor r9d, [BYTE r14 + offset_of!(Frame, system_flags) as i8]
        ; and r9d, others as i32
    );
    if supervisor {
        // Setting IF while somebody waits for it is left to the interpreter too.
        dynasm!(e.buf ; .arch x64 ; mov r10d, [r14 + AWAITED] ; and r10d, r8d ; or r9d, r10d);
    } else if e.config.paged {
        // Whether a program may change IF is the interpreter's to decide.
        dynasm!(e.buf ; .arch x64
            ; mov r10d, r8d
            ; xor r10d, [r14 + IF]
            ; and r10d, eflags::IF as i32
            ; or r9d, r10d
        );
    }
    e.buf.bytes.extend_from_slice(&[0x74, 0]);
    let from = e.buf.pos();
    e.interpret(insn);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    e.move_esp(4);
    if supervisor {
        dynasm!(e.buf ; .arch x64 ; mov r9d, r8d ; and r9d, eflags::IF as i32 ; mov [r14 + IF], r9d);
    }
    dynasm!(e.buf ; .arch x64 ; and r8d, eflags::LIVE as i32 ; push r8 ; popfq);
}

/// Loads MXCSR unless the upper half isn't zero: the guest's MXCSR_MASK is FFFFh, the host's may have more (AMD's misaligned exception mask).
pub(crate) fn ldmxcsr(e: &mut Emitter<'_>, insn: &Insn) {
    let mem = operand::prepare(&mut e.buf, &insn.iced, e.esp);
    e.load(R11, mem);
    e.sync_esp();
    dynasm!(e.buf ; .arch x64 ; mov r8d, ecx ; mov ecx, 16 ; shrx ecx, r11d, ecx);
    // jrcxz over what leaves
    e.buf.bytes.extend_from_slice(&[0xe3, 0]);
    let from = e.buf.pos();
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d);
    e.interpret(insn);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d ; mov [r14 + SPILL], r11d ; ldmxcsr [r14 + SPILL]);
}

/// Sets the interrupt flag, or leaves if somebody waits for that. No interrupt comes before the next instruction has completed, so the
/// boundary after this one isn't a place to stop at; where the unit ends here, the interpreter sees to it.
fn sti(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    if e.is_last() {
        return e.interpret(insn);
    }
    e.sync_esp();
    dynasm!(e.buf ; .arch x64 ; mov r8d, ecx ; mov ecx, [r14 + AWAITED]);
    // jrcxz over what leaves
    e.buf.bytes.extend_from_slice(&[0xe3, 0]);
    let from = e.buf.pos();
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d);
    e.interpret(insn);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d ; mov DWORD [r14 + IF], eflags::IF as i32);
    if e.groups.targets.contains(insn.next_eip()) {
        // It can be entered, too, as behind a conditional STI, and says nothing of who came there how.
        e.no_stop_next();
    } else {
        e.hold_off_interrupts();
    }
    Next::FallThrough
}
