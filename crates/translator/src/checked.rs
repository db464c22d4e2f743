//! Translations that check themselves.
//!
//! Where code may change unnoticed (shared mappings, pages that are written again and again), a unit begins by comparing the
//! guest bytes that it was made from with those in memory, and leaves when they differ. It is one basic block, entered only at its
//! start, and ends after the first instruction that writes memory: so whatever is executed has been compared since the last
//! time this CPU could have changed it, and every backward jump meets a comparison.
//!
//! 32-bit immediates are what code generators patch most. In code that was found changed before they are left out of the comparison, and loaded from
//! guest memory when they are used.

use crate::emit::Emitter;
use crate::operand::{self, HostMem};
use crate::reencode::{Encoding, Rm, encode};
use crate::shape::shape_of;
use crate::stubs;
use crate::unit::{Exit, ExitKind};
use core::ops::Range;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use xlat86_decoder::{Insn, Kind};

/// The bytes that a unit was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    eip: u32,
    bytes: Vec<u8>,
    /// For each byte 0xFF if it is compared, 0 if it is part of an immediate that is loaded when used. Empty if all are compared.
    mask: Vec<u8>,
}

/// Bytes compared at once.
const WINDOW: usize = 16;

/// The guest bytes at `at` equal `want` wherever `mask` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    at: u32,
    want: [u8; WINDOW],
    mask: [u8; WINDOW],
}

/// A constant that the code at `patch` (a 4-byte displacement) refers to.
pub(crate) struct Constant {
    patch: usize,
    value: [u8; WINDOW],
}

/// How many of `insns` one comparison may stand for: none is executed after one that may have changed it.
pub(crate) fn span(insns: &[Insn]) -> usize {
    insns.iter().position(writes_memory).map_or(insns.len(), |i| i + 1)
}

fn writes_memory(insn: &Insn) -> bool {
    let i = &insn.iced;
    match insn.kind {
        Kind::Plain | Kind::Fpu if i.op0_kind() == OpKind::Memory => shape_of(insn.code()).writes_first,
        Kind::Plain | Kind::Fpu if !i.op_kinds().any(is_implicit_memory) => false,
        Kind::Branch if i.flow_control() != FlowControl::Call && i.flow_control() != FlowControl::IndirectCall => false,
        // Asking iced takes longer than translating them.
        Kind::Stack if i.mnemonic() == Mnemonic::Pop => i.op0_kind() == OpKind::Memory,
        Kind::Stack if matches!(i.mnemonic(), Mnemonic::Push | Mnemonic::Leave) => i.mnemonic() == Mnemonic::Push,
        _ => says_iced(i),
    }
}

/// Does iced say that `i` writes memory?
fn says_iced(i: &Instruction) -> bool {
    InstructionInfoFactory::new().info(i).used_memory().iter().any(|m| {
        matches!(m.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
    })
}

fn is_implicit_memory(k: OpKind) -> bool {
    use OpKind as K;
    !matches!(
        k,
        K::Memory
            | K::Register
            | K::Immediate8
            | K::Immediate8_2nd
            | K::Immediate16
            | K::Immediate32
            | K::Immediate8to16
            | K::Immediate8to32
    )
}

/// The opcode that takes from memory what `insn` has as a 32-bit immediate, and the register that it works on.
fn loading(insn: &Insn) -> Option<(u8, u8)> {
    let opcode = match insn.code() {
        Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 => 0x8b,
        Code::Add_EAX_imm32 | Code::Add_rm32_imm32 => 0x03,
        Code::Or_EAX_imm32 | Code::Or_rm32_imm32 => 0x0b,
        Code::Adc_EAX_imm32 | Code::Adc_rm32_imm32 => 0x13,
        Code::Sbb_EAX_imm32 | Code::Sbb_rm32_imm32 => 0x1b,
        Code::And_EAX_imm32 | Code::And_rm32_imm32 => 0x23,
        Code::Sub_EAX_imm32 | Code::Sub_rm32_imm32 => 0x2b,
        Code::Xor_EAX_imm32 | Code::Xor_rm32_imm32 => 0x33,
        Code::Cmp_EAX_imm32 | Code::Cmp_rm32_imm32 => 0x3b,
        _ => return None,
    };
    let r = insn.iced.op0_register();
    // ESP is moved by constants at translation time.
    let register = insn.iced.op0_kind() == OpKind::Register && r != Register::ESP;
    (insn.kind == Kind::Plain && register).then(|| (opcode, operand::host_reg(r.number() as u8)))
}

impl Snapshot {
    /// Makes it that of `insns`, which lie one after the other in `bytes`, without the immediates that are loaded if `loads`.
    pub(crate) fn renew(&mut self, eip: u32, insns: &[Insn], bytes: &[u8], loads: bool) {
        let end = insns.last().map_or(0, |i| i.next_eip().wrapping_sub(eip) as usize);
        self.eip = eip;
        self.bytes.clear();
        self.bytes.extend_from_slice(&bytes[..end]);
        self.mask.clear();
        for i in insns.iter().filter(|i| loads && loading(i).is_some()) {
            self.mask.resize(end, 0xff);
            let at = i.next_eip().wrapping_sub(eip) as usize - 4;
            self.mask[at..at + 4].fill(0);
        }
    }

    /// Was it made from other code than `newer`, where both cover the same addresses?
    pub(crate) fn contradicts(&self, newer: &Snapshot) -> bool {
        // Where the later of the two begins in each.
        let (mine, its) = (newer.eip.wrapping_sub(self.eip) as i32, self.eip.wrapping_sub(newer.eip) as i32);
        let (mine, its) = (mine.max(0) as usize, its.max(0) as usize);
        let (Some(bytes), Some(newer)) = (self.bytes.get(mine..), newer.bytes.get(its..)) else { return false };
        if self.mask.is_empty() {
            let both = bytes.len().min(newer.len());
            return bytes[..both] != newer[..both];
        }
        bytes.iter().zip(&self.mask[mine..]).zip(newer).any(|((a, mask), b)| (a ^ b) & mask != 0)
    }

    /// What to compare, no window crossing into another page: that one may not be there.
    fn windows(&self) -> impl Iterator<Item = Window> + '_ {
        let len = self.bytes.len();
        let last = self.eip.wrapping_add(len as u32).wrapping_sub(1);
        // Windows of nothing but these bytes, the last of which reaches back.
        let whole = self.mask.is_empty() && len >= WINDOW && (self.eip ^ last) >> 12 == 0;
        let mut pos = 0;
        core::iter::from_fn(move || {
            while pos < len {
                let start = if whole { pos.min(len - WINDOW) } else { pos };
                let at = self.eip.wrapping_add(start as u32);
                if let Some(want) = self.bytes.get(start..).and_then(|b| b.first_chunk()).filter(|_| whole) {
                    pos = start + WINDOW;
                    return Some(Window { at, want: *want, mask: [0xff; WINDOW] });
                }
                let before = (at & 0xfff).saturating_sub(0x1000 - WINDOW as u32) as usize;
                let mut w = Window { at: at.wrapping_sub(before as u32), want: [0; WINDOW], mask: [0; WINDOW] };
                let n = (WINDOW - before).min(len - pos);
                let (here, there) = (pos..pos + n, before..before + n);
                w.want[there.clone()].copy_from_slice(&self.bytes[here.clone()]);
                match self.mask.get(here) {
                    Some(mask) => w.mask[there].copy_from_slice(mask),
                    None => w.mask[there].fill(0xff),
                }
                w.want = (u128::from_ne_bytes(w.want) & u128::from_ne_bytes(w.mask)).to_ne_bytes();
                pos += n;
                if w.mask != [0; WINDOW] {
                    return Some(w);
                }
            }
            None
        })
    }

    /// The guest addresses of these bytes, those behind 4 GB left out.
    pub(crate) fn range(&self) -> Range<u32> {
        self.eip..self.eip.saturating_add(self.bytes.len() as u32)
    }

    /// Are immediates loaded?
    pub(crate) fn loads(&self) -> bool {
        !self.mask.is_empty()
    }
}

/// Emits the comparison with `snapshot`: leaves where memory differs. No flags; XMM8 and XMM9 are never the guest's.
pub(crate) fn compare(e: &mut Emitter<'_>, snapshot: &Snapshot) {
    let mut constants = core::mem::take(&mut e.constants);
    for (i, w) in snapshot.windows().enumerate() {
        // XMM8 gathers the results.
        let r = if i == 0 { 8 } else { 9 };
        let mem = HostMem { base: None, index: None, disp: w.at as i32 };
        let load =
            Encoding { lock: false, p66: false, rep: 0xf3, opcode: &[0x0f, 0x6f], reg: r, rm: Rm::Mem(mem), imm: &[] };
        encode(&mut e.buf, e.config.address_form, &load);
        let mut with = |e: &mut Emitter<'_>, opcode: u8, value| {
            e.buf.bytes.extend_from_slice(&[0x66, 0x44, 0x0f, opcode, (r & 7) << 3 | 5, 0, 0, 0, 0]);
            constants.push(Constant { patch: e.buf.pos() - 4, value });
        };
        if w.mask != [0xff; WINDOW] {
            // PAND
            with(e, 0xdb, w.mask);
        }
        // PCMPEQB
        with(e, 0x74, w.want);
        if i > 0 {
            dynasm!(e.buf ; .arch x64 ; pand xmm8, xmm9);
        }
    }
    let compared = !constants.is_empty();
    e.constants = constants;
    if !compared {
        return;
    }
    dynasm!(e.buf ; .arch x64
        ; pmovmskb r8d, xmm8
        ; mov r9d, ecx
        ; lea ecx, [r8 - 0xffff]
    );
    // JRCXZ over the leave.
    e.buf.bytes.extend_from_slice(&[0xe3, 3 + stubs::LEAVE_SIZE as u8]);
    dynasm!(e.buf ; .arch x64 ; mov ecx, r9d);
    stubs::leave(&mut e.buf);
    e.exits.push(Exit { site: e.buf.pos() as u32, eip: snapshot.eip, kind: ExitKind::Changed });
    dynasm!(e.buf ; .arch x64 ; mov ecx, r9d);
}

/// Emits `insn` with its immediate loaded from guest memory, if it is one of those; true when it was.
pub(crate) fn load_immediate(e: &mut Emitter<'_>, insn: &Insn) -> bool {
    let Some((opcode, reg)) = loading(insn) else { return false };
    let at = insn.next_eip().wrapping_sub(4);
    e.access(opcode, reg, HostMem { base: None, index: None, disp: at as i32 }, false);
    true
}

/// Appends the constants that the comparison refers to.
pub(crate) fn place_constants(e: &mut Emitter<'_>) {
    if e.constants.is_empty() {
        return;
    }
    e.buf.align(WINDOW, 0);
    for c in e.constants.drain(..) {
        let displacement = (e.buf.pos() - (c.patch + 4)) as u32;
        e.buf.set32(c.patch, displacement);
        e.buf.bytes.extend_from_slice(&c.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(eip: u32, bytes: &[u8], loaded: Range<usize>) -> Snapshot {
        let mut mask = vec![0xff; bytes.len()];
        mask[loaded].fill(0);
        Snapshot { eip, bytes: bytes.to_vec(), mask }
    }

    #[test]
    fn what_writes_memory_is_what_iced_says() {
        let features = xlat86_arch::CpuModel::MAX.features;
        let mode = xlat86_arch::Mode::USER32;
        let (mut seen, mut bytes) = (0, [0u8; 15]);
        for n in (0..0x30_0000u32).step_by(7) {
            // Opcode, ModRM or second opcode byte, a third; then once more with an operand-size prefix.
            let [a, b, c, _] = n.to_le_bytes();
            let at = usize::from(c >= 0x18);
            bytes[0] = 0x66;
            bytes[at..at + 3].copy_from_slice(&[a, b, c.wrapping_mul(0x2b)]);
            let Some(insn) = xlat86_decoder::decode_insn(&bytes, 0x1000, mode, features) else { continue };
            if insn.kind != Kind::Invalid {
                assert_eq!(writes_memory(&insn), says_iced(&insn.iced), "{}", insn.iced);
                seen += 1;
            }
        }
        assert!(seen > 100_000, "{seen}");
    }

    #[test]
    fn whole_windows_reach_back() {
        for len in [16usize, 17, 31, 32, 40] {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let s = Snapshot { eip: 0x1fff - len as u32, bytes, mask: Vec::new() };
            let windows: Vec<_> = s.windows().collect();
            assert_eq!(windows.len(), len.div_ceil(WINDOW));
            for w in &windows {
                let n = (w.at - s.eip) as usize;
                assert_eq!((w.mask, &w.want[..]), ([0xff; WINDOW], &s.bytes[n..n + WINDOW]));
            }
            assert_eq!(windows[windows.len() - 1].at, 0x1fff - 16);
        }
        let crossing = Snapshot { eip: 0x1ff8, bytes: vec![7; 40], mask: Vec::new() };
        assert!(crossing.windows().all(|w| w.at >> 12 == (w.at + 15) >> 12));
    }

    #[test]
    fn windows_cover_every_byte_once_and_stay_on_their_page() {
        for (eip, len) in
            [(0x1000, 1), (0x1000, 16), (0x1004, 40), (0x1ff0, 16), (0x1ffc, 4), (0x1ffd, 11), (0x1fff, 2)]
        {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let mut seen = vec![0; len];
            for w in snapshot(eip, &bytes, 0..0).windows() {
                assert_eq!(w.at >> 12, (w.at + 15) >> 12, "{eip:x} {len}");
                for i in (0..WINDOW).filter(|&i| w.mask[i] != 0) {
                    let n = (w.at + i as u32 - eip) as usize;
                    assert_eq!(w.want[i], bytes[n]);
                    seen[n] += 1;
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{eip:x} {len}: {seen:?}");
        }
    }

    #[test]
    fn what_is_loaded_is_not_compared() {
        let old = snapshot(0x1000, &[0xb8, 1, 0, 0, 0, 0xc3], 1..5);
        assert_eq!(old.windows().next().unwrap().mask[..7], [0xff, 0, 0, 0, 0, 0xff, 0]);
        assert!(!old.contradicts(&snapshot(0x1000, &[0xb8, 2, 0, 0, 0, 0xc3], 1..5)));
        assert!(old.contradicts(&snapshot(0x1005, &[0xc2], 0..0)));
        assert!(!old.contradicts(&snapshot(0x1006, &[0xc2], 0..0)));
        assert!(!old.contradicts(&snapshot(0x0ffe, &[0, 0, 0xb8], 0..0)));
    }
}
