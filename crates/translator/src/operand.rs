//! Memory operands: from the guest's addressing forms to the host's.
//!
//! This is the only file that knows how guest memory is reached. An operand keeps its shape; the
//! address-size prefix makes it wrap at 4 GB and keeps it there, whatever the registers hold; where it can't get far beyond it anyway, it goes
//! without. In the GS form the
//! segment prefix adds the window's base after the wrap. A guest segment with a base of its own (FS or GS, thread-local
//! storage) costs one load and, when the operand has both base and index, one LEA.

use crate::buf::{CodeBuf, InsnBytes};
use crate::config::AddressForm;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Register};
use xlat86_arch::{Reg, Seg};

/// Host register numbers.
pub(crate) const R8: u8 = 8;
pub(crate) const R9: u8 = 9;
pub(crate) const R10: u8 = 10;
pub(crate) const R11: u8 = 11;
/// Holds guest ESP: it needs a SIB byte as RSP does, so operands keep their length.
pub(crate) const R12: u8 = 12;

/// The host register that holds guest general register `r` (0 to 7).
pub(crate) const fn host_reg(r: u8) -> u8 {
    if r == Reg::Esp as u8 { R12 } else { r }
}

/// A host memory operand inside the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostMem {
    /// Base register.
    pub(crate) base: Option<u8>,
    /// Index register and log2 of its scale.
    pub(crate) index: Option<(u8, u8)>,
    /// Displacement.
    pub(crate) disp: i32,
}

impl HostMem {
    /// `[reg + disp]`.
    pub(crate) const fn at(reg: u8, disp: i32) -> Self {
        HostMem { base: Some(reg), index: None, disp }
    }

    fn uses_extended(&self) -> bool {
        self.base.is_some_and(|r| r >= 8) || self.index.is_some_and(|(r, _)| r >= 8)
    }

    /// Does encoding this operand take a REX prefix (which takes AH to BH away)?
    pub(crate) fn needs_rex(&self) -> bool {
        self.uses_extended()
    }

    /// Without the address-size prefix, is it at most 128 bytes outside of the low 4 GB? Nothing is ever mapped there (docs/decisions/004), so it faults
    /// where it should have wrapped around, and the interpreter sees to it.
    fn stays_near(&self) -> bool {
        match self {
            HostMem { index: Some(_), .. } => false,
            // Upper halves of scratch registers may hold anything.
            HostMem { base: Some(b), disp, .. } => (*b < 8 || *b == R12) && i8::try_from(*disp).is_ok(),
            HostMem { base: None, disp, .. } => *disp >= 0,
        }
    }

    /// REX.X and REX.B for this operand.
    pub(crate) fn rex(&self) -> u8 {
        self.index.map_or(0, |(r, _)| (r >> 3) << 1) | self.base.map_or(0, |r| r >> 3)
    }

    /// Appends ModRM, SIB and displacement with `reg` (its low 3 bits) in the reg field.
    pub(crate) fn modrm(&self, out: &mut InsnBytes, reg: u8) {
        let reg = (reg & 7) << 3;
        let Some(base) = self.base else {
            // Without a base there is always a 32-bit displacement. RIP-relative addressing took the short form.
            let sib = self.index.map_or(0x25, |(r, s)| s << 6 | (r & 7) << 3 | 5);
            out.put(&[reg | 4, sib]);
            out.put(&self.disp.to_le_bytes());
            return;
        };
        let (md, len) = match self.disp {
            0 if base & 7 != 5 => (0, 0),
            -128..=127 => (0x40, 1),
            _ => (0x80, 4),
        };
        match self.index {
            Some((r, s)) => out.put(&[md | reg | 4, s << 6 | (r & 7) << 3 | base & 7]),
            None if base & 7 == 4 => out.put(&[md | reg | 4, 0x24]),
            None => out.put(&[md | reg | base & 7]),
        }
        match len {
            0 => {}
            1 => out.put(&[self.disp as u8]),
            _ => out.put(&self.disp.to_le_bytes()),
        }
    }
}

/// The prefixes of an access to guest memory, which may be `far` from where `mem` is.
pub(crate) fn access_prefixes(form: AddressForm, mem: &HostMem, far: bool) -> &'static [u8] {
    match form {
        AddressForm::Low if mem.stays_near() && !far => &[],
        AddressForm::Low => &[0x67],
        AddressForm::Gs => &[0x65, 0x67],
        AddressForm::Tlb => unreachable!("a page looked up is reached by its host address"),
    }
}

/// Guest general register number of an iced 16- or 32-bit register.
fn gpr(r: Register) -> Option<u8> {
    (r != Register::None).then(|| r.number() as u8)
}

/// What LEA computes: the offset, whatever segment it is in.
pub(crate) fn prepare_offset(buf: &mut CodeBuf, insn: &Instruction, esp_bias: i32) -> HostMem {
    let mut no_segment = *insn;
    no_segment.set_segment_prefix(Register::None);
    prepare(buf, &no_segment, esp_bias)
}

/// The segment an operand goes through, if it is one with a base of its own.
fn based_segment(insn: &Instruction) -> Option<Seg> {
    match insn.memory_segment() {
        Register::FS => Some(Seg::Fs),
        Register::GS => Some(Seg::Gs),
        _ => None,
    }
}

/// Emits what has to precede the use of `insn`'s memory operand, and gives the operand. Uses R8 and R9.
/// `esp_bias` is added where the operand's base is ESP (POP addresses memory with ESP already incremented).
pub(crate) fn prepare(buf: &mut CodeBuf, insn: &Instruction, esp_bias: i32) -> HostMem {
    let base = gpr(insn.memory_base()).map(host_reg);
    let index = gpr(insn.memory_index()).map(|r| (host_reg(r), insn.memory_index_scale().trailing_zeros() as u8));
    let disp = insn.memory_displacement32() as i32;
    let bias = if base == Some(R12) { esp_bias } else { 0 };
    let mut mem = HostMem { base, index, disp: disp.wrapping_add(bias) };
    if is_16_bit(insn) {
        // The host has no 16-bit addressing: compute and truncate.
        lea(buf, R8, &mem);
        dynasm!(buf ; .arch x64 ; movzx r8d, r8w);
        mem = HostMem::at(R8, 0);
    }
    if let Some(seg) = based_segment(insn) {
        if mem.base.is_some() && mem.index.is_some() || mem.base == Some(R8) {
            lea(buf, R9, &mem);
            mem = HostMem::at(R9, 0);
        }
        dynasm!(buf ; .arch x64 ; mov r8d, [BYTE r14 + seg_base(seg)]);
        mem = match mem {
            HostMem { base: Some(b), index: None, disp } => HostMem { base: Some(R8), index: Some((b, 0)), disp },
            other => HostMem { base: Some(R8), ..other },
        };
    }
    mem
}

/// Does `insn` address memory with 16-bit registers or a 16-bit displacement?
pub(crate) fn is_16_bit(insn: &Instruction) -> bool {
    let r = if insn.memory_base() != Register::None { insn.memory_base() } else { insn.memory_index() };
    if r == Register::None { insn.memory_displ_size() == 2 } else { r.is_gpr16() }
}

/// Frame offset of a segment's base.
fn seg_base(seg: Seg) -> i8 {
    let i = if seg == Seg::Fs { 0 } else { 4 };
    core::mem::offset_of!(xlat86_host::Frame, seg_base) as i8 + i
}

/// `lea reg, [mem]`: address arithmetic that touches neither memory nor flags, truncated to 32 bits.
pub(crate) fn lea(buf: &mut CodeBuf, reg: u8, mem: &HostMem) {
    let mut out = InsnBytes::default();
    let rex = 0x40 | (reg >> 3) << 2 | mem.rex();
    if rex != 0x40 {
        out.put(&[rex]);
    }
    out.put(&[0x8d]);
    mem.modrm(&mut out, reg);
    buf.append(&out);
}
