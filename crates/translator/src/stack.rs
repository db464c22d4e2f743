//! PUSH, POP and kin.
//!
//! Each stores or loads first, through an operand that has the future ESP folded in, and moves ESP last.

use crate::config::AddressForm;
use crate::emit::{Emitter, Next};
use crate::operand::{self, HostMem, R8, R11, R12};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, OpKind};
use xlat86_arch::Reg;
use xlat86_decoder::Insn;

/// Emits an instruction of `Kind::Stack`.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn, _bytes: &[u8]) -> Next {
    match insn.code() {
        Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm32 | Code::Pushd_imm8 => push(e, insn, 4),
        Code::Push_r16 | Code::Push_rm16 | Code::Push_imm16 | Code::Pushw_imm8 => push(e, insn, 2),
        Code::Pop_r32 | Code::Pop_rm32 => pop(e, insn, 4),
        Code::Pop_r16 | Code::Pop_rm16 => pop(e, insn, 2),
        Code::Pushad => {
            // ESP itself is among what is pushed.
            e.sync_esp();
            for r in 0..8u8 {
                e.store(e.stack(-4 * i32::from(r) - 4), operand::host_reg(r));
            }
            e.move_esp(-32);
        }
        Code::Popad => popad(e),
        Code::Leaved => {
            e.load(R8, HostMem::at(Reg::Ebp as u8, 0));
            dynasm!(e.buf ; .arch x64 ; lea r12d, [rbp + 4] ; mov ebp, r8d);
            e.esp_is_set();
        }
        Code::Enterd_imm16_imm8 if insn.iced.immediate8_2nd() == 0 && e.config.address_form != AddressForm::Tlb => {
            enter(e, i32::from(insn.iced.immediate16()))
        }
        _ => return e.interpret(insn),
    }
    Next::FallThrough
}

/// ENTER of nesting level 0.
fn enter(e: &mut Emitter<'_>, size: i32) {
    // It faults if the new top of stack can't be written (SDM vol. 2A, ENTER).
    e.load(R8, e.stack(-4 - size));
    e.store(e.stack(-4 - size), R8);
    e.store(e.stack(-4), Reg::Ebp as u8);
    let frame = e.stack(-4);
    operand::lea(&mut e.buf, Reg::Ebp as u8, &frame);
    e.move_esp(-4 - size);
}

fn push(e: &mut Emitter<'_>, insn: &Insn, size: i32) {
    let i = &insn.iced;
    let word = size == 2;
    let to = e.stack(-size);
    match i.op0_kind() {
        OpKind::Register => {
            let r = operand::host_reg(i.op0_register().number() as u8);
            if r == R12 && e.esp != 0 {
                let at = e.stack(0);
                operand::lea(&mut e.buf, R11, &at);
                e.access(0x89, R11, to, word);
            } else {
                e.access(0x89, r, to, word);
            }
        }
        OpKind::Memory => {
            let mem = operand::prepare(&mut e.buf, i, e.esp);
            e.access(0x8b, R11, mem, word);
            e.access(0x89, R11, to, word);
        }
        _ if word => {
            dynasm!(e.buf ; .arch x64 ; mov r11d, i.immediate(0) as i32);
            e.access(0x89, R11, to, true);
        }
        _ => e.store_imm(to, i.immediate(0) as u32),
    }
    e.move_esp(-size);
}

fn pop(e: &mut Emitter<'_>, insn: &Insn, size: i32) {
    let i = &insn.iced;
    let word = size == 2;
    if i.op0_kind() == OpKind::Memory {
        e.access(0x8b, R11, e.stack(0), word);
        // The address is computed with ESP already incremented (SDM vol. 2B, POP).
        let mem = operand::prepare(&mut e.buf, i, e.esp.wrapping_add(size));
        e.access(0x89, R11, mem, word);
        e.move_esp(size);
        return;
    }
    let r = operand::host_reg(i.op0_register().number() as u8);
    match (r == R12, word) {
        // POP ESP: the increment is lost.
        (true, false) => {
            e.load(R12, e.stack(0));
            e.esp_is_set();
        }
        (true, true) => {
            e.access(0x8b, R8, e.stack(0), true);
            e.move_esp(2);
            e.sync_esp();
            dynasm!(e.buf ; .arch x64 ; mov r12w, r8w);
        }
        _ => {
            e.access(0x8b, r, e.stack(0), word);
            e.move_esp(size);
        }
    }
}

/// All eight loads may fault: read the last one first, so that a fault strikes while nothing has changed; a stack of 32 bytes
/// spans two pages at most.
fn popad(e: &mut Emitter<'_>) {
    e.load(R8, e.stack(28));
    for r in [7u8, 6, 5, 3, 2, 1, 0] {
        e.load(r, e.stack(4 * (7 - i32::from(r))));
    }
    e.move_esp(32);
}
