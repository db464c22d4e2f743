//! Decimal arithmetic, which 64-bit mode lacks: AAA, AAS, DAA, DAS, AAM, AAD.
//!
//! Each corrects by a value that depends on AL, AF and CF, adds or subtracts it as the CPU does, which gives most flags (the undefined ones
//! too), and puts AF and CF right. Nobody runs these in loops: the flags go through the stack.

use crate::buf::CodeBuf;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::Code;
use xlat86_arch::eflags::{AF, CF};
use xlat86_decoder::Insn;

/// Emits `insn` if it is one of these; true when it was.
pub(crate) fn emit(buf: &mut CodeBuf, insn: &Insn) -> bool {
    match insn.code() {
        Code::Aaa => unpacked(buf, false),
        Code::Aas => unpacked(buf, true),
        Code::Daa => packed(buf, false),
        Code::Das => packed(buf, true),
        // A base of 0 is a division error: the interpreter raises it.
        Code::Aam_imm8 if insn.iced.immediate8() != 0 => dynasm!(buf ; .arch x64
            ; mov ah, 0
            ; mov r9b, insn.iced.immediate8() as i8
            ; div r9b
            // AH is the quotient and AL the remainder: the other way round than DIV has it.
            ; xchg al, ah
            ; test al, al
        ),
        Code::Aad_imm8 => dynasm!(buf ; .arch x64
            ; mov r8d, eax
            ; shr r8d, 8
            ; imul r8d, r8d, i32::from(insn.iced.immediate8())
            ; add al, r8b
            ; mov ah, 0
        ),
        _ => return false,
    }
    true
}

/// R9 = the flags; R8 = 16 (AF's bit) if the low digit of AL is above 9 or AF is set, else 0.
fn low_digit(buf: &mut CodeBuf) {
    dynasm!(buf ; .arch x64
        ; pushfq
        ; pop r9
        ; mov r8d, eax
        ; and r8d, 15
        ; add r8d, 6
        ; or r8d, r9d
        ; and r8d, AF as i32
    );
}

/// The flags as the last instruction left them, but AF and CF as in R8 (which it destroys); what AX has still to become is done by `finish`.
fn set_af_cf(buf: &mut CodeBuf, finish: impl FnOnce(&mut CodeBuf)) {
    dynasm!(buf ; .arch x64
        ; pushfq
        ; pop r9
        ; and r9d, !(AF | CF) as i32
        ; or r9d, r8d
    );
    finish(buf);
    dynasm!(buf ; .arch x64 ; push r9 ; popfq);
}

/// AAA and AAS: AX by 106H if the digit needs it; then AF and CF say so, and the high half of AL goes.
fn unpacked(buf: &mut CodeBuf, subtract: bool) {
    low_digit(buf);
    dynasm!(buf ; .arch x64 ; shr r8d, 4 ; imul r10d, r8d, 0x106 ; imul r8d, r8d, (AF | CF) as i32);
    if subtract {
        dynasm!(buf ; .arch x64 ; sub ax, r10w);
    } else {
        dynasm!(buf ; .arch x64 ; add ax, r10w);
    }
    set_af_cf(buf, |buf| dynasm!(buf ; .arch x64 ; and eax, 0xffff_ff0fu32 as i32));
}

/// DAA and DAS: AL by 6 for the low digit (AF) and by 60H for the high one (CF).
fn packed(buf: &mut CodeBuf, subtract: bool) {
    low_digit(buf);
    // R10: 1 if AL is above 99H or CF is set. R11: the correction.
    dynasm!(buf ; .arch x64
        ; movzx r10d, al
        ; add r10d, 0x66
        ; shr r10d, 8
        ; or r10d, r9d
        ; and r10d, CF as i32
        ; mov r11d, r10d
        ; shl r11d, 8
        ; or r11d, r8d
        ; shr r11d, 4
        ; imul r11d, r11d, 6
    );
    if subtract {
        // A borrow of the first step shows in CF too.
        dynasm!(buf ; .arch x64
            ; mov r9d, r8d
            ; shr r9d, 4
            ; cmp al, 6
            ; adc r9d, 0
            ; shr r9d, 1
            ; or r10d, r9d
            ; or r8d, r10d
            ; sub al, r11b
        );
    } else {
        dynasm!(buf ; .arch x64 ; or r8d, r10d ; add al, r11b);
    }
    set_af_cf(buf, |_| ());
}
