//! Random instructions with operands that mean something: encodings are drawn byte by byte and kept when they decode;
//! then registers and displacements are chosen so that most memory operands hit the data page.

use crate::case::Case;
use crate::engine::{FS_BASE, GS_BASE};
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
#[must_use]
pub fn is_tame(insn: &Insn, units: Units) -> bool {
    use Mnemonic as M;
    let m = insn.iced.mnemonic();
    let kind = match insn.kind {
        Kind::Plain | Kind::Stack | Kind::String | Kind::Branch | Kind::Fpu => true,
        Kind::Sensitive => matches!(m, M::Pushf | M::Pushfd | M::Push | M::Into | M::Cli | M::Sti | M::Hlt | M::In),
        _ => false,
    };
    kind && (unit_of(insn.code()) == Unit::Integer) == (units == Units::Integer)
}

/// Which instructions to draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Units {
    /// General-purpose ones.
    Integer,
    /// x87, MMX and SSE.
    Float,
}

/// Draws instructions.
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
        let (bytes, insn) = self.encoding(Units::Integer)?;
        let regs = self.registers(&insn);
        Some(Case { bytes, code: insn.code(), regs, fill: self.rng.bits() as u8 })
    }

    /// Random bytes, if they are an instruction of `units`. Displacements that stand alone point into the data page, near branches into the
    /// code page.
    pub fn encoding(&mut self, units: Units) -> Option<(Vec<u8>, Insn)> {
        let rng = &mut self.rng;
        let mut bytes = Vec::with_capacity(32);
        for prefix in [0x66, 0x67, 0xf0, 0xf2, 0xf3] {
            if rng.once_in(if prefix == 0x66 { 3 } else { 8 }) {
                bytes.push(prefix);
            }
        }
        match (units, rng.below(8)) {
            (Units::Integer, 0..4) => {}
            (Units::Float, 0..2) => bytes.push(0xd8 + rng.below(8) as u8),
            (Units::Float, 6) => bytes.extend([0x0f, 0x3a]),
            (_, 7) => bytes.extend([0x0f, 0x38]),
            _ => bytes.push(0x0f),
        }
        self.complete(bytes, units)
    }

    /// `bytes` and random ones after them, if they are an instruction of `units`.
    pub fn complete(&mut self, mut bytes: Vec<u8>, units: Units) -> Option<(Vec<u8>, Insn)> {
        let rng = &mut self.rng;
        bytes.extend((0..24).map(|_| rng.bits() as u8));
        let decode = |bytes: &[u8]| decode_insn(bytes, AT, Mode::USER32, CpuModel::MAX.features);
        let insn = decode(&bytes)?;
        if !is_tame(&insn, units) {
            return None;
        }
        bytes.truncate(insn.len());
        // F2 and F3 mean something else to the host where they don't repeat (TZCNT, LZCNT, XACQUIRE).
        let mandatory = matches!(insn.iced.mnemonic(), Mnemonic::Popcnt | Mnemonic::Crc32) || units == Units::Float;
        // (And LOOPNE with F3 loops while ZF is set on the tests' host, whatever the manual says of ignored prefixes.)
        let prefix = |b: &&u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
        let prefixed = bytes.iter().take_while(prefix).any(|b| matches!(b, 0xf2 | 0xf3));
        if prefixed && !mandatory && !repeats(insn.code()) {
            return None;
        }
        settle(rng, &insn, &mut bytes);
        let insn = decode(&bytes)?;
        Some((bytes, insn))
    }

    /// Registers for `insn`, most often such that it reaches memory it may use.
    pub fn registers(&mut self, insn: &Insn) -> Regs {
        let rng = &mut self.rng;
        let mut regs = Regs { gpr: [0; 8], eip: AT, eflags: 0, fx: FxState::INIT };
        for r in &mut regs.gpr {
            *r = rng.value();
        }
        regs.eflags = rng.bits() as u32 & eflags::LIVE | eflags::FIXED_1;
        aim(rng, insn, &mut regs);
        regs
    }
}

/// The beginnings of every general-purpose instruction: with each prefix that it can have, with a register and with memory
/// in each form. [`Generator::complete`] adds displacements and immediates. Each instruction's first comes before any other's second.
#[must_use]
pub fn integer_forms() -> Vec<Vec<u8>> {
    let prefixes: [&[u8]; 10] =
        [&[], &[0x66], &[0xf3], &[0xf2], &[0xf0], &[0x67], &[0x66, 0xf3], &[0x66, 0xf2], &[0x66, 0xf0], &[0x66, 0x67]];
    let maps: [&[u8]; 3] = [&[], &[0x0f], &[0x0f, 0x38]];
    // [EBX], [EBX+disp8] with SIB, [ESI+disp32], [disp32], EDX.
    let operands = [0x03, 0x44, 0x86, 0x05, 0xc2];
    let mut generator = Generator { rng: Rng(0) };
    let mut count = std::collections::HashMap::new();
    let mut forms = Vec::new();
    for (prefix, map) in prefixes.iter().flat_map(|p| maps.map(|m| (p, m))) {
        for (opcode, form) in (0..=255u8).flat_map(|o| operands.map(|f| (o, f))) {
            for modrm in (0..8u8).map(|reg| form | reg << 3) {
                let head = [prefix, map, &[opcode, modrm]].concat();
                let Some((bytes, insn)) = generator.complete(head.clone(), Units::Integer) else { continue };
                let n = count.entry((insn.code() as u32, form, prefix.len())).or_insert(0);
                *n += 1;
                if *n <= 2 && bytes.len() >= head.len() {
                    forms.push((*n, insn.code() as u32, head));
                } else if *n <= 2 {
                    forms.push((*n, insn.code() as u32, head[..bytes.len()].to_vec()));
                }
            }
        }
    }
    forms.sort();
    forms.dedup();
    let mut seen = std::collections::HashMap::new();
    forms.sort_by_cached_key(|(_, code, _)| {
        let n = seen.entry(*code).or_insert(0u32);
        *n += 1;
        *n
    });
    forms.into_iter().map(|(.., head)| head).collect()
}

/// An address in the data page, now and then across its end.
fn address(rng: &mut Rng) -> u32 {
    match rng.below(16) {
        0 => DATA + DATA_LEN - rng.below(8),
        1 => DATA.wrapping_sub(rng.below(8)),
        _ => DATA + 0x100 + rng.below(0x800),
    }
}

/// Base of the segment of `insn`'s memory operand, where FS and GS hold thread-local storage.
fn segment_base(insn: &Insn) -> u32 {
    match insn.iced.memory_segment() {
        Register::FS => FS_BASE,
        Register::GS => GS_BASE,
        _ => 0,
    }
}

/// The 32-bit displacement of a memory operand that has no base register to aim with, and branches' displacements.
fn settle(rng: &mut Rng, insn: &Insn, bytes: &mut [u8]) {
    let i = &insn.iced;
    let based = i.memory_base().is_gpr32() && i.memory_base() != i.memory_index();
    if i.op_kinds().any(|k| k == OpKind::Memory) && !based && i.memory_displ_size() == 4 {
        let place = insn.offsets(bytes).displacement_offset();
        bytes[place..place + 4].copy_from_slice(&address(rng).wrapping_sub(segment_base(insn)).to_le_bytes());
    }
    if matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32) {
        // A little ahead: never onto the instruction itself, which would run for ever.
        let offsets = insn.offsets(bytes);
        let (place, size) = (offsets.immediate_offset(), offsets.immediate_size());
        bytes[place..place + size].fill(0);
        bytes[place] = 0x10 + rng.below(0x40) as u8;
    }
}

/// Points memory operands, string registers and the stack at the data page.
fn aim(rng: &mut Rng, insn: &Insn, regs: &mut Regs) {
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
        if i.op_kinds().any(|k| matches!(k, OpKind::MemorySegESI | OpKind::MemoryESEDI)) {
            regs.gpr[1] &= 0xff;
        }
    }
    match i.mnemonic() {
        Mnemonic::Xlatb => regs.gpr[3] = address(rng),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => regs.gpr[7] = address(rng),
        _ => {}
    }
    for n in 0..i.op_count() {
        if i.op_kind(n) != OpKind::Memory || i.mnemonic() == Mnemonic::Xlatb {
            continue;
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        // SSE's operands have to be aligned, but for some: mostly they are.
        let align = if unit_of(insn.code()) == Unit::Integer || rng.once_in(4) { 1 } else { 16 };
        let at = (address(rng) / align * align).wrapping_sub(segment_base(insn));
        let based = base.is_gpr32() && base != index;
        if index.is_gpr32() && (!based || rng.once_in(2)) {
            set(regs, index, rng.below(64));
        }
        let scaled = |regs: &Regs| {
            if index.is_gpr32() { regs.gpr[index.number()].wrapping_mul(i.memory_index_scale()) } else { 0 }
        };
        if based {
            let v = at.wrapping_sub(i.memory_displacement32()).wrapping_sub(scaled(regs));
            set(regs, base, v);
        }
    }
}
