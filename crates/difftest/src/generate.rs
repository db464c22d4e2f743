//! Random instructions with operands that mean something: encodings are drawn byte by byte and kept when they decode;
//! then registers and displacements are chosen so that most memory operands hit the data page.

use crate::case::Case;
use crate::state::{AT, DATA, DATA_LEN, Regs};
use iced_x86::{Mnemonic, OpKind, Register};
use xlat86_arch::{CpuModel, FxState, Mode, eflags};
use xlat86_decoder::{Insn, Kind, Unit, decode_insn, repeats, unit_of};

/// A small, fast, repeatable generator (splitmix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.bits() >> 32) as u32 % n
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// A 32-bit value, often one at which arithmetic turns.
    pub fn value(&mut self) -> u32 {
        const EDGES: &[u32] =
            &[0, 1, 2, 7, 8, 0xf, 0x10, 0x1f, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff];
        let e = EDGES[self.below(EDGES.len() as u32) as usize];
        match self.below(6) {
            0 => e,
            1 => e.wrapping_neg(),
            2 => 1 << self.below(32),
            3 => self.below(256),
            _ => self.bits() as u32,
        }
    }
}

/// May `insn` run unprivileged, away from the kernel, with no effect beyond registers and memory?
fn tame(insn: &Insn) -> bool {
    use Mnemonic as M;
    let m = insn.iced.mnemonic();
    let kind = match insn.kind {
        Kind::Plain | Kind::Stack | Kind::String | Kind::Branch => true,
        Kind::Sensitive => matches!(m, M::Pushf | M::Pushfd | M::Push | M::Into | M::Cli | M::Sti | M::Hlt | M::In),
        _ => false,
    };
    kind && unit_of(insn.code()) == Unit::Integer
}

/// Draws integer instructions.
pub struct Generator {
    /// Source of randomness.
    pub rng: Rng,
}

impl Generator {
    /// The next case.
    pub fn next_case(&mut self) -> Case {
        loop {
            if let Some(case) = self.attempt() {
                return case;
            }
        }
    }

    fn attempt(&mut self) -> Option<Case> {
        let rng = &mut self.rng;
        let mut bytes = Vec::with_capacity(32);
        for prefix in [0x66, 0x67, 0xf0, 0xf2, 0xf3] {
            if rng.once_in(if prefix == 0x66 { 3 } else { 8 }) {
                bytes.push(prefix);
            }
        }
        match rng.below(8) {
            0..4 => {}
            7 => bytes.extend([0x0f, 0x38]),
            _ => bytes.push(0x0f),
        }
        bytes.extend((0..24).map(|_| rng.bits() as u8));
        let insn = decode_insn(&bytes, AT, Mode::USER32, CpuModel::MAX.features)?;
        if !tame(&insn) {
            return None;
        }
        bytes.truncate(insn.len());
        // F2 and F3 mean something else to the host where they don't repeat (TZCNT, LZCNT, XACQUIRE).
        let mandatory = matches!(insn.iced.mnemonic(), Mnemonic::Popcnt | Mnemonic::Crc32);
        // (And LOOPNE with F3 loops while ZF is set on the tests' host, whatever the manual says of ignored prefixes.)
        let prefix = |b: &&u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
        let prefixed = bytes.iter().take_while(prefix).any(|b| matches!(b, 0xf2 | 0xf3));
        if prefixed && !mandatory && !repeats(insn.code()) {
            return None;
        }
        let mut regs = Regs { gpr: [0; 8], eip: AT, eflags: 0, fx: FxState::INIT };
        for r in &mut regs.gpr {
            *r = rng.value();
        }
        regs.eflags = rng.bits() as u32 & eflags::LIVE | eflags::FIXED_1;
        aim(rng, &insn, &mut bytes, &mut regs)?;
        Some(Case { bytes, code: insn.code(), regs, fill: rng.bits() as u8 })
    }
}

/// An address in the data page, now and then across its end.
fn address(rng: &mut Rng) -> u32 {
    match rng.below(16) {
        0 => DATA + DATA_LEN - rng.below(8),
        1 => DATA.wrapping_sub(rng.below(8)),
        _ => DATA + 0x100 + rng.below(0x800),
    }
}

/// Points memory operands, string registers and the stack at the data page, and branches into the code page.
fn aim(rng: &mut Rng, insn: &Insn, bytes: &mut [u8], regs: &mut Regs) -> Option<()> {
    let i = &insn.iced;
    let set = |regs: &mut Regs, r: Register, v: u32| regs.gpr[r.number()] = v;
    regs.gpr[4] = address(rng);
    if insn.kind == Kind::Stack && rng.once_in(2) {
        regs.gpr[5] = address(rng);
    }
    if insn.kind == Kind::String {
        regs.gpr[6] = address(rng);
        regs.gpr[7] = address(rng);
        regs.gpr[1] = rng.below(20) | if rng.once_in(2) { rng.bits() as u32 & 0xffff_0000 } else { 0 };
        if !bytes.contains(&0x67) {
            regs.gpr[1] &= 0xff;
        }
    }
    if i.mnemonic() == Mnemonic::Xlatb {
        regs.gpr[3] = address(rng);
    }
    for n in 0..i.op_count() {
        if i.op_kind(n) != OpKind::Memory || i.mnemonic() == Mnemonic::Xlatb {
            continue;
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let at = address(rng);
        if index != Register::None && rng.once_in(2) && index.is_gpr32() {
            set(regs, index, rng.below(64));
        }
        let scaled = |regs: &Regs| {
            if index.is_gpr32() { regs.gpr[index.number()].wrapping_mul(i.memory_index_scale()) } else { 0 }
        };
        if base.is_gpr32() && base != index {
            let v = at.wrapping_sub(i.memory_displacement32()).wrapping_sub(scaled(regs));
            set(regs, base, v);
        } else if i.memory_displ_size() == 4 {
            let v = at.wrapping_sub(scaled(regs));
            let place = insn.offsets.displacement_offset();
            bytes[place..place + 4].copy_from_slice(&v.to_le_bytes());
        }
    }
    if matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32) {
        // A little ahead: never onto the instruction itself, which would run for ever.
        let place = insn.offsets.immediate_offset();
        let size = insn.offsets.immediate_size();
        bytes[place..place + size].fill(0);
        bytes[place] = 0x10 + rng.below(0x40) as u8;
    }
    Some(())
}
