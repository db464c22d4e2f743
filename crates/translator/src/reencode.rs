//! Plain instructions: the same instruction again, for 64-bit mode.
//!
//! Prefixes that mean nothing any more are left out, registers are renumbered (ESP is R12), the memory operand
//! takes the host's form, everything else is copied. Only AH, CH, DH and BH need thought: they can't be named beside a REX prefix, so
//! where one is needed the halves of the register are exchanged around the instruction.

use crate::buf::{CodeBuf, InsnBytes};
use crate::config::AddressForm;
use crate::emit::Emitter;
use crate::operand::{self, HostMem, R8, access_prefixes};
use crate::shape::{Class, Renamed, Shape, shape_of};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, OpKind};
use xlat86_arch::Reg;
use xlat86_decoder::{Insn, repeats};

/// A guest instruction's bytes, taken apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) lock: bool,
    /// 0x66 was among the prefixes.
    pub(crate) p66: bool,
    /// Opcode with its escape bytes.
    pub(crate) opcode: &'a [u8],
    pub(crate) modrm: Option<u8>,
    pub(crate) imm: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes `bytes`, an instruction of 32-bit code that has `shape`, apart.
    pub(crate) fn new(shape: &Shape, bytes: &'a [u8]) -> Self {
        let mut p = Parts::default();
        let (mut at, mut short_address) = (0, false);
        loop {
            match bytes[at] {
                0x66 => p.p66 = true,
                0x67 => short_address = true,
                0xf0 => p.lock = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf2 | 0xf3 => {}
                _ => break,
            }
            at += 1;
        }
        let start = at;
        at += match bytes[at..] {
            [0x0f, 0x38 | 0x3a, ..] => 3,
            [0x0f, ..] => 2,
            _ => 1,
        };
        p.opcode = &bytes[start..at];
        // x87 instructions on registers have a ModRM byte that iced counts as part of the opcode.
        if shape.modrm || matches!(p.opcode, [0xd8..=0xdf]) || has_fixed_modrm(p.opcode, bytes, at) {
            p.modrm = Some(bytes[at]);
            at += 1 + address_len(&bytes[at..], short_address);
        }
        // Of a bare offset, which is none, nobody asks.
        p.imm = &bytes[at..];
        p
    }
}

/// Bytes of SIB and displacement behind the ModRM byte at the head of `bytes` (SDM vol. 2A, tables 2-1 to 2-3).
fn address_len(bytes: &[u8], short_address: bool) -> usize {
    let (md, rm) = (bytes[0] >> 6, bytes[0] & 7);
    match (md, rm) {
        (3, _) => 0,
        (0, 6) | (2, _) if short_address => 2,
        _ if short_address => usize::from(md),
        (0, 5) => 4,
        (_, 4) => 1 + if md == 0 && bytes[1] & 7 == 5 { 4 } else { [0, 1, 4][usize::from(md)] },
        _ => [0, 1, 4][usize::from(md)],
    }
}

/// Two-byte opcodes whose ModRM byte is a constant (fences and kin).
fn has_fixed_modrm(opcode: &[u8], bytes: &[u8], at: usize) -> bool {
    matches!(opcode, [0x0f, 0xae | 0x01]) && at < bytes.len()
}

/// The encoder's input: opcode and register fields chosen, memory operand prepared.
#[derive(Clone, Copy)]
pub(crate) struct Encoding<'a> {
    pub(crate) lock: bool,
    pub(crate) p66: bool,
    /// 0xF2, 0xF3 or 0.
    pub(crate) rep: u8,
    pub(crate) opcode: &'a [u8],
    /// Host register number or opcode extension for ModRM.reg.
    pub(crate) reg: u8,
    pub(crate) rm: Rm,
    pub(crate) imm: &'a [u8],
}

/// The ModRM.rm operand.
#[derive(Clone, Copy)]
pub(crate) enum Rm {
    None,
    /// Host register number.
    Reg(u8),
    /// Guest memory.
    Mem(HostMem),
    /// Host memory.
    Host(HostMem),
}

/// Appends one instruction.
pub(crate) fn encode(buf: &mut CodeBuf, form: AddressForm, e: &Encoding<'_>) {
    let mut out = InsnBytes::default();
    if e.lock {
        out.put(&[0xf0]);
    }
    let mut rex = (e.reg >> 3) << 2;
    match &e.rm {
        Rm::None => {}
        Rm::Reg(r) => rex |= r >> 3,
        Rm::Mem(m) => {
            // Bits that a register selects are as far away as it says.
            let far = matches!(e.opcode, [0x0f, 0xa3 | 0xab | 0xb3 | 0xbb]);
            out.put_few(access_prefixes(form, m, far));
            rex |= m.rex();
        }
        Rm::Host(m) => rex |= m.rex(),
    }
    if e.p66 {
        out.put(&[0x66]);
    }
    if e.rep != 0 {
        out.put(&[e.rep]);
    }
    if rex != 0 {
        out.put(&[0x40 | rex]);
    }
    out.put_few(e.opcode);
    match &e.rm {
        Rm::None => {}
        Rm::Reg(r) => out.put(&[0xc0 | (e.reg & 7) << 3 | r & 7]),
        Rm::Mem(m) | Rm::Host(m) => m.modrm(&mut out, e.reg),
    }
    out.put_few(e.imm);
    buf.append(&out);
}

const fn is_high_byte(class: Class, n: u8) -> bool {
    matches!(class, Class::Gpr8) && n >= 4
}

const fn rename(class: Class, n: u8) -> u8 {
    if matches!(class, Class::Gpr) { operand::host_reg(n) } else { n }
}

/// Re-encodes a plain instruction. Gives the offset of a host instruction at which a register's two low bytes are exchanged when
/// it faults, and the register.
pub(crate) fn reencode(em: &mut Emitter<'_>, insn: &Insn, bytes: &[u8]) -> Option<(usize, u8)> {
    let form = em.config.address_form;
    let shape = shape_of(insn.code());
    let parts = Parts::new(shape, bytes);
    if shape.moffs {
        moffs(em, insn, &parts);
        return None;
    }
    let (buf, esp) = (&mut em.buf, em.esp);
    let rep = match shape.mandatory {
        0xf2 | 0xf3 => shape.mandatory,
        _ if repeats(insn.code()) && insn.iced.has_rep_prefix() => 0xf3,
        _ if repeats(insn.code()) && insn.iced.has_repne_prefix() => 0xf2,
        _ => 0,
    };
    let p66 = parts.p66 || shape.mandatory == 0x66;
    let Some(modrm) = parts.modrm else {
        return plain_opcode(buf, insn, shape, &parts, p66, rep);
    };
    let (md, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let mut e = Encoding {
        lock: parts.lock,
        p66,
        rep,
        opcode: parts.opcode,
        reg: rename(shape.reg, reg),
        rm: Rm::None,
        imm: parts.imm,
    };
    if md == 3 {
        if insn.iced.op_kinds().any(is_implicit_memory) {
            // MASKMOVQ and MASKMOVDQU store at EDI.
            buf.push(0x67);
        }
        e.rm = Rm::Reg(rename(shape.rm, rm));
        // Both high: no REX. One high and the other in R12: not one of the 8-bit registers can be, but MOVZX ESP, AH can.
        if is_high_byte(shape.rm, rm) && e.reg >= 8 {
            low_half(buf, rm & 3, |buf| encode(buf, form, &Encoding { rm: Rm::Reg(rm & 3), ..e }));
            return None;
        }
        if is_high_byte(shape.reg, reg) && matches!(e.rm, Rm::Reg(8..)) {
            low_half(buf, reg & 3, |buf| encode(buf, form, &Encoding { reg: reg & 3, ..e }));
            return None;
        }
        encode(buf, form, &e);
        return None;
    }
    if insn.code() == Code::Lea_r32_m || insn.code() == Code::Lea_r16_m {
        lea(buf, insn, e.reg, p66, esp);
        return None;
    }
    if form == AddressForm::Tlb && shape.bit_string && insn.iced.op1_kind() == OpKind::Register {
        (e.rm, e.reg) = em.bit_operand(insn, shape.access(&insn.iced));
        encode(&mut em.buf, form, &e);
        return None;
    }
    let mem = operand::prepare(buf, &insn.iced, esp);
    e.rm = em.reach(mem, shape.access(&insn.iced));
    let buf = &mut em.buf;
    let extended = matches!(e.rm, Rm::Host(_)) || mem.needs_rex();
    if is_high_byte(shape.reg, reg) && extended {
        if let Rm::Mem(mem) = e.rm {
            // The address is computed first, since it may use the register whose halves change places.
            operand::lea(buf, R8, &mem);
            e.rm = Rm::Mem(HostMem::at(R8, 0));
        }
        e.reg = reg & 3;
        let at = low_half(buf, reg & 3, |buf| {
            let at = buf.pos();
            encode(buf, form, &e);
            at
        });
        return Some((at, reg & 3));
    }
    encode(buf, form, &e);
    None
}

/// Are `bytes`, the plain instruction `insn`, the same instruction in 64-bit mode as they are, in the low window? Asked of every instruction, and true of
/// most, so it looks at bytes only.
pub(crate) fn is_same(insn: &Insn, bytes: &[u8]) -> bool {
    let shape = shape_of(insn.code());
    if !shape.direct || shape.moffs {
        return false;
    }
    match *bytes {
        [0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3, ..] | [0x0f, 0x38 | 0x3a, ..] => false,
        [opcode, ..] if !shape.modrm => shape.opcode_reg != Class::Gpr || opcode & 7 != Reg::Esp as u8,
        [0x0f, _, modrm, ..] | [_, modrm, ..] => MODRM[usize::from(modrm)] & shape.renamed == 0,
        _ => false,
    }
}

/// What a ModRM byte names, as bits of [`Shape::renamed`].
static MODRM: [u8; 256] = {
    const ESP: u8 = Reg::Esp as u8;
    let mut table = [0; 256];
    let mut modrm = 0u8;
    loop {
        let (md, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        let address = match md {
            // A base and at most a byte's displacement: in reach without the address-size prefix.
            0 if rm != 4 && rm != 5 => Renamed::NEAR,
            1 if rm != 4 => Renamed::NEAR,
            3 if rm == ESP => Renamed::RM_ESP,
            3 => 0,
            _ => Renamed::FAR,
        };
        table[modrm as usize] = address | if reg == ESP { Renamed::REG_ESP } else { 0 };
        if modrm == 0xff {
            break table;
        }
        modrm += 1;
    }
};

/// Runs `body` with the two low bytes of register `r` (0 to 3) exchanged.
fn low_half<T>(buf: &mut CodeBuf, r: u8, body: impl FnOnce(&mut CodeBuf) -> T) -> T {
    // xchg rL, rH: ModRM with rL as rm and rH as reg.
    let xchg = [0x86, 0xc0 | (r + 4) << 3 | r];
    buf.extend(&xchg);
    let t = body(buf);
    buf.extend(&xchg);
    t
}

/// No ModRM: the opcode may hold a register, memory is addressed implicitly by ESI, EDI or EBX.
fn plain_opcode(
    buf: &mut CodeBuf,
    insn: &Insn,
    shape: &Shape,
    parts: &Parts<'_>,
    p66: bool,
    rep: u8,
) -> Option<(usize, u8)> {
    let mut out = InsnBytes::default();
    if parts.lock {
        out.put(&[0xf0]);
    }
    if insn.iced.op_kinds().any(is_implicit_memory) || insn.code() == Code::Xlat_m8 {
        out.put(&[0x67]);
    }
    if p66 {
        out.put(&[0x66]);
    }
    if rep != 0 {
        out.put(&[rep]);
    }
    let (last, escape) = parts.opcode.split_last().expect("an opcode has a byte");
    let mut last = *last;
    if shape.opcode_reg == Class::Gpr && last & 7 == 4 {
        out.put(&[0x41]);
    }
    if insn.code() == Code::Nopd || insn.code() == Code::Nopw {
        last = 0x90;
    }
    out.put_few(escape);
    out.put(&[last]);
    out.put_few(parts.imm);
    buf.append(&out);
    None
}

fn is_implicit_memory(k: iced_x86::OpKind) -> bool {
    use iced_x86::OpKind as K;
    matches!(k, K::MemorySegSI | K::MemorySegESI | K::MemorySegDI | K::MemorySegEDI | K::MemoryESDI | K::MemoryESEDI)
}

/// LEA touches no memory, so it needs no address-size prefix: its result is truncated anyway.
fn lea(buf: &mut CodeBuf, insn: &Insn, reg: u8, p66: bool, esp: i32) {
    let i = &insn.iced;
    if operand::is_16_bit(i) {
        let mem = operand::prepare_offset(buf, i, 0);
        debug_assert_eq!(mem, HostMem::at(R8, 0));
        if p66 {
            dynasm!(buf ; .arch x64 ; mov Rw(reg), r8w);
        } else {
            dynasm!(buf ; .arch x64 ; mov Rd(reg), r8d);
        }
        return;
    }
    let mem = operand::prepare_offset(buf, i, esp);
    if p66 {
        buf.push(0x66);
    }
    operand::lea(buf, reg, &mem);
}

/// MOV between the accumulator and a bare offset: the host's form has the same length under the address-size
/// prefix, unless a segment base comes in.
fn moffs(em: &mut Emitter<'_>, insn: &Insn, parts: &Parts<'_>) {
    let mem = operand::prepare(&mut em.buf, &insn.iced, 0);
    let rm = em.reach(mem, shape_of(insn.code()).access(&insn.iced));
    // A0 MOV AL,m; A1 MOV eAX,m; A2 MOV m,AL; A3 MOV m,eAX are 8A, 8B, 88, 89 with a ModRM byte.
    let opcode = [0x88 | (parts.opcode[0] & 1) | (!parts.opcode[0] & 2)];
    let e = Encoding { lock: false, p66: parts.p66, rep: 0, opcode: &opcode, reg: 0, rm, imm: &[] };
    encode(&mut em.buf, em.config.address_form, &e);
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};
    use xlat86_arch::{CpuModel, Mode};
    use xlat86_decoder::{Kind, decode_insn};

    /// All opcodes of one and two bytes with all ModRM bytes: what is copied is to 64-bit mode what it was to 32-bit mode, names no register that is
    /// another's there, and reaches no further than it may.
    #[test]
    fn what_is_the_same_is_the_same() {
        let (mut same, mut bytes) = (0, [0x11; 15]);
        for n in 0..0x2_0000u32 {
            let [modrm, opcode, escape, _] = n.to_le_bytes();
            let at = usize::from(escape);
            bytes[0] = 0x0f;
            bytes[at..at + 2].copy_from_slice(&[opcode, modrm]);
            let Some(insn) = decode_insn(&bytes, 0x1000, Mode::USER32, CpuModel::MAX.features) else { continue };
            let bytes = &bytes[..insn.len()];
            if insn.kind != Kind::Plain || !is_same(&insn, bytes) {
                continue;
            }
            same += 1;
            let (guest, host) = (&insn.iced, Decoder::new(64, bytes, DecoderOptions::NONE).decode());
            assert_eq!((host.code(), host.len()), (guest.code(), guest.len()), "{guest}");
            assert!(!crate::esp::names_esp(&insn), "{guest}");
            for i in 0..guest.op_count() {
                assert_eq!((host.op_kind(i), host.op_register(i)), (guest.op_kind(i), guest.op_register(i)), "{guest}");
                if guest.op_kind(i) != OpKind::Memory {
                    continue;
                }
                assert_eq!(host.memory_base().number(), guest.memory_base().number(), "{guest}");
                assert_eq!(guest.memory_index(), iced_x86::Register::None, "{guest}");
                assert_eq!(host.memory_displacement64() as u32, guest.memory_displacement32(), "{guest}");
                assert!(i8::try_from(guest.memory_displacement32() as i32).is_ok(), "{guest}");
                assert!(!shape_of(guest.code()).bit_string || guest.op1_kind() != OpKind::Register, "{guest}");
            }
        }
        assert!(same > 5000, "{same}");
    }
}
