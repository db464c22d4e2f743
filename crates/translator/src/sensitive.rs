//! Instructions that see privileged or virtualised state, rewritten into safe host code or left to the interpreter.
//!
//! Rewritten are those that programs execute often; the rest leave, which costs some 60 cycles and nothing else.

use crate::emit::{Emitter, Next};
use crate::operand::{self, R8};
use crate::unit::ExitKind;
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, Mnemonic, OpKind, Register};
use xlat86_arch::eflags;
use xlat86_decoder::Insn;
use xlat86_host::Frame;

/// EFLAGS bits outside the host's flags register that POPF changes at CPL 3.
const POPF_SYSTEM: u32 = eflags::TF | eflags::NT | eflags::AC | eflags::ID;

/// Plain and x87 instructions that the interpreter executes.
pub(crate) fn needs_interpreter(insn: &Insn) -> bool {
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
            matches!(i.segment_prefix(), Register::FS | Register::GS)
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
        Code::Rdtsc if e.config.extended => e.plain(insn, bytes),
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg => {
            let from = selector(i.op1_register());
            if i.op0_kind() == OpKind::Memory {
                let mem = operand::prepare(&mut e.buf, i, e.esp);
                // The operand may use R8 and R9.
                dynasm!(e.buf ; .arch x64 ; movzx r10d, WORD [BYTE r14 + from]);
                e.access(0x89, operand::R10, mem, true);
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
            dynasm!(e.buf ; .arch x64 ; movzx r8d, WORD [BYTE r14 + from]);
            e.store(e.stack(-4), R8);
            e.move_esp(-4);
            Next::FallThrough
        }
        Code::Into => {
            e.sync_esp();
            e.buf.bytes.extend_from_slice(&[0x71, crate::stubs::LEAVE_SIZE as u8]);
            e.interpret(insn)
        }
        Code::Int_imm8 if i.immediate8() == 0x80 => {
            e.leave(insn, ExitKind::SoftInt { vector: 0x80, next: insn.next_eip() })
        }
        _ => e.interpret(insn),
    }
}

/// Frame offset of a segment register's selector.
fn selector(r: Register) -> i8 {
    offset_of!(Frame, selector) as i8 + 2 * r.number() as i8
}

/// The live flags come from the host's flags register, the others from the frame; put together without disturbing the former.
fn pushf(e: &mut Emitter<'_>) {
    dynasm!(e.buf ; .arch x64
        ; pushfq
        ; pop r8
        ; mov r9d, eflags::LIVE as i32
        ; pext r8d, r8d, r9d
        ; pdep r8d, r8d, r9d
        ; mov r9d, [BYTE r14 + offset_of!(Frame, system_flags) as i8]
        ; lea r8d, [r8 + r9]
    );
    e.store(e.stack(-4), R8);
    e.move_esp(-4);
}

/// Sets the live flags; if any other would change, the interpreter does it.
fn popf(e: &mut Emitter<'_>, insn: &Insn) {
    e.load(R8, e.stack(0));
    e.sync_esp();
    // The flags are free: POPF replaces them all.
    dynasm!(e.buf ; .arch x64
        ; mov r9d, r8d
        ; xor r9d, [BYTE r14 + offset_of!(Frame, system_flags) as i8]
        ; test r9d, POPF_SYSTEM as i32
    );
    e.buf.bytes.extend_from_slice(&[0x74, 0]);
    let from = e.buf.pos();
    e.interpret(insn);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    e.move_esp(4);
    dynasm!(e.buf ; .arch x64 ; and r8d, eflags::LIVE as i32 ; push r8 ; popfq);
}
