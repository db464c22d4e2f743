//! Plain instructions whose encodings 64-bit mode has given other meanings.

use crate::buf::CodeBuf;
use crate::config::AddressForm;
use crate::emit::Emitter;
use crate::operand::{self, HostMem, R10, R11};
use crate::reencode::{Encoding, Parts, Rm, encode};
use crate::shape::shape_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, OpKind};
use xlat86_decoder::Insn;

/// Emits `insn` if it is one of these; true when it was.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn, bytes: &[u8]) -> bool {
    let i = &insn.iced;
    match insn.code() {
        // 40 to 4F are REX prefixes now.
        Code::Inc_r32 | Code::Inc_r16 | Code::Dec_r32 | Code::Dec_r16 => {
            let dec = matches!(insn.code(), Code::Dec_r32 | Code::Dec_r16);
            let word = matches!(insn.code(), Code::Inc_r16 | Code::Dec_r16);
            let r = operand::host_reg(i.op0_register().number() as u8);
            let enc = Encoding {
                lock: false,
                p66: word,
                rep: 0,
                opcode: &[0xff],
                reg: u8::from(dec),
                rm: Rm::Reg(r),
                imm: &[],
            };
            encode(&mut e.buf, e.config.address_form, &enc);
        }
        // 82 is 80.
        code if is_alias_82(code) => {
            let parts = Parts::new(shape_of(insn.code()), bytes);
            let modrm = parts.modrm.expect("group 1 has ModRM");
            let rm = if i.op0_kind() == OpKind::Register {
                Rm::Reg(modrm & 7)
            } else {
                let mem = operand::prepare(&mut e.buf, i, e.esp);
                e.reach(mem, shape_of(insn.code()).access(i))
            };
            let reg = modrm >> 3 & 7;
            let enc = Encoding { lock: parts.lock, p66: false, rep: 0, opcode: &[0x80], reg, rm, imm: parts.imm };
            encode(&mut e.buf, e.config.address_form, &enc);
        }
        // The lookup of a checked access would need the registers that the comparison does.
        Code::Bound_r32_m3232 if e.config.address_form != AddressForm::Tlb => bound(e, insn),
        _ if crate::decimal::emit(&mut e.buf, insn) => {}
        // D6: AL becomes 0 or -1 by CF, and no flag changes.
        Code::Salc => salc(&mut e.buf),
        _ => return false,
    }
    true
}

/// Opcode 82, the same as 80.
pub(crate) fn is_alias_82(code: Code) -> bool {
    matches!(
        code,
        Code::Add_rm8_imm8_82
            | Code::Or_rm8_imm8_82
            | Code::Adc_rm8_imm8_82
            | Code::Sbb_rm8_imm8_82
            | Code::And_rm8_imm8_82
            | Code::Sub_rm8_imm8_82
            | Code::Xor_rm8_imm8_82
            | Code::Cmp_rm8_imm8_82
    )
}

/// Within bounds nothing happens; otherwise the interpreter raises the exception. No flag changes.
fn bound(e: &mut Emitter<'_>, insn: &Insn) {
    e.sync_esp();
    let r = operand::host_reg(insn.iced.op0_register().number() as u8);
    let mem = operand::prepare(&mut e.buf, &insn.iced, e.esp);
    let at = |disp: i32| HostMem { disp: mem.disp.wrapping_add(disp), ..mem };
    // The upper bound first: the operand may use R8, and R9 is one of its parts.
    e.load(R10, at(4));
    e.load(R11, at(0));
    dynasm!(e.buf ; .arch x64 ; pushfq ; cmp Rd(r), r11d);
    e.buf.bytes.extend_from_slice(&[0x7c, 0]);
    let below = e.buf.pos();
    dynasm!(e.buf ; .arch x64 ; cmp Rd(r), r10d);
    e.buf.bytes.extend_from_slice(&[0x7f, 0]);
    let above = e.buf.pos();
    dynasm!(e.buf ; .arch x64 ; popfq);
    e.buf.bytes.extend_from_slice(&[0xeb, 0]);
    let within = e.buf.pos();
    for from in [below, above] {
        e.buf.bytes[from - 1] = (within - from) as u8;
    }
    dynasm!(e.buf ; .arch x64 ; popfq);
    e.interpret(insn);
    e.buf.bytes[within - 1] = (e.buf.pos() - within) as u8;
}

/// Without flags: SETNC gives 1 or 0, and LEA takes one away.
fn salc(buf: &mut CodeBuf) {
    dynasm!(buf ; .arch x64 ; setae r8b ; movzx r8d, r8b ; lea r8d, [r8 - 1] ; mov al, r8b);
}
