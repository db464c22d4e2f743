//! Floating-point and vector instructions, one at a time on chosen operands: encodings, states, outcomes.
//!
//! A [`Case`] is determined by its encoding and a number, so that an outcome recorded on one machine can be checked on
//! another. Operands come from the edges: zeros, ones, denormals, halfway cases, limits, infinities, NaNs of both
//! kinds, encodings that x87 rejects; under every rounding, precision and exception mask, with the register stack
//! full, empty or in between, with exceptions pending, and with operands that are misaligned or end outside memory.

use crate::rng::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use xlat86_arch::{CpuModel, CpuState, FxState, Gva, Mode, eflags};
use xlat86_decoder::{Insn, Kind, Unit, decode_insn, unit_of};
use xlat86_host::{Window, approximate, scratch_window};
use xlat86_interp::{HostMath, Interp, Platform, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

/// Where a case's code stands.
pub const CODE: u32 = 0x2000_0000;
/// The page with its memory.
pub const DATA_PAGE: u32 = 0x2001_0000;
/// Where its memory stands: 512 bytes, with nothing mapped after them.
pub const MEMORY: u32 = DATA_PAGE + 4096 - 512;
/// MXCSR bits that may be set: those of AMD CPUs, which have one more than the architecture's.
const MXCSR_MASK: u32 = 0x2_ffff;

/// Decodes `bytes` as a user program's code.
#[must_use]
pub fn decode(bytes: &[u8]) -> Insn {
    let mut padded = [0; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    decode_insn(&padded, CODE, Mode::USER32, CpuModel::MAX.features).expect("16 bytes suffice")
}

/// Encodings of every x87, MMX and SSE instruction, several of each: with registers, and with memory at EBX. Immediates
/// are to be replaced.
#[must_use]
pub fn encodings() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut count = HashMap::new();
    let mut offer = |bytes: &[u8], memory: bool| {
        let insn = decode(bytes);
        if insn.kind == Kind::Invalid || unit_of(insn.code()) == Unit::Integer {
            return;
        }
        let n = count.entry((insn.code(), memory)).or_insert(0);
        *n += 1;
        let bytes = bytes[..insn.len()].to_vec();
        if *n <= 8 && !all.contains(&bytes) {
            all.push(bytes);
        }
    };
    offer(&[0x9b], false);
    let memory = (0..8u8).map(|reg| reg << 3 | 3);
    let registers = [0xc1, 0xca, 0xd3, 0xdb, 0xe5, 0xee, 0xf7, 0xf8, 0xc8, 0xd0, 0xd9, 0xe0, 0xf0];
    for (opcode, modrm) in (0xd8..=0xdf).flat_map(|o| memory.clone().chain(0xc0..=0xff).map(move |m| (o, m))) {
        offer(&[opcode, modrm], modrm < 0xc0);
        offer(&[0x66, opcode, modrm], modrm < 0xc0);
    }
    let prefixes: [&[u8]; 4] = [&[], &[0x66], &[0xf2], &[0xf3]];
    let maps: [&[u8]; 3] = [&[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for (prefix, map) in prefixes.iter().flat_map(|p| maps.map(|m| (p, m))) {
        for opcode in (0..=255u8).filter(|o| map.len() == 2 || !matches!(o, 0x38 | 0x3a)) {
            for modrm in memory.clone().chain(registers) {
                offer(&[prefix, map, &[opcode, modrm, 0]].concat(), modrm < 0xc0);
            }
        }
    }
    all
}

/// Is the result the silicon's own choice (SDM vol. 1, 8.3.10; vol. 2, RCPPS and RSQRTPS)?
#[must_use]
pub fn is_approximate(insn: &Insn) -> bool {
    use iced_x86::Mnemonic::{
        F2xm1, Fcos, Fpatan, Fptan, Fsin, Fsincos, Fyl2x, Fyl2xp1, Rcpps, Rcpss, Rsqrtps, Rsqrtss,
    };
    let own = [F2xm1, Fcos, Fpatan, Fptan, Fsin, Fsincos, Fyl2x, Fyl2xp1, Rcpps, Rcpss, Rsqrtps, Rsqrtss];
    own.contains(&insn.iced.mnemonic())
}

/// One instruction and the state it starts from.
#[derive(Clone, Debug)]
pub struct Case {
    /// The instruction.
    pub code: Vec<u8>,
    /// EAX, ECX, EDX.
    pub gpr: [u32; 3],
    /// EBX and EDI, in or near the memory.
    pub pointer: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// Floating-point and vector state.
    pub fx: FxState,
    /// The bytes at [`MEMORY`].
    pub memory: [u8; 512],
}

impl Case {
    /// Case number `n` of `encoding`.
    #[must_use]
    pub fn new(encoding: &[u8], n: u64) -> Case {
        let mut rng = Rng::new(encoding.iter().fold(n, |h, &b| h.wrapping_mul(0x100_0000_01b3) ^ u64::from(b)));
        let (code, insn) = with_immediate(encoding, &mut rng);
        let mut memory = [0; 512];
        fill(&mut rng, &mut memory);
        if insn.iced.mnemonic() == iced_x86::Mnemonic::Fxrstor {
            // Mostly without the MXCSR bits that fault.
            let mxcsr = rng.next() as u32 & if rng.one_in(8) { !0x2_0000 } else { 0xffff };
            memory[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        }
        let lengths = [0, 3, 7, 8, 9, 16, 17, 5u32.wrapping_neg(), 0x8000_0000, u32::MAX];
        let ends = [2, 4, 8, 10, 14, 16, 28, 94, 108];
        let offset = match rng.below(8) {
            0 => rng.below(17) as u32,
            1 => 512 - rng.below(32) as u32,
            2 => 512 - rng.pick(&ends),
            _ => 0,
        };
        Case {
            code,
            gpr: [rng.pick(&lengths), rng.next() as u32, rng.pick(&lengths)],
            pointer: MEMORY + offset,
            eflags: eflags::FIXED_1 | eflags::IF | rng.next() as u32 & eflags::STATUS,
            fx: state(&mut rng),
            memory,
        }
    }

    /// The state to start from.
    #[must_use]
    pub fn cpu(&self) -> CpuState {
        let gpr = [self.gpr[0], self.gpr[1], self.gpr[2], self.pointer, 0, 0, 0, self.pointer];
        CpuState { gpr, eip: CODE, eflags: self.eflags, fx: self.fx, ..CpuState::linux_user() }
    }

    /// The FXSAVE image of the state.
    #[must_use]
    pub fn image(&self) -> [u8; 512] {
        let fx = &self.fx;
        let mut image = Vec::with_capacity(512);
        image.extend([fx.fcw.to_le_bytes(), fx.fsw.to_le_bytes(), [fx.ftw, 0], fx.fop.to_le_bytes()].concat());
        for v in [fx.fip, fx.fcs.into(), fx.fdp, fx.fds.into(), fx.mxcsr, 0] {
            image.extend(v.to_le_bytes());
        }
        image.extend(fx.st.concat());
        fx.xmm[..8].iter().for_each(|x| image.extend(x.to_le_bytes()));
        image.resize(512, 0);
        image.try_into().expect("512 bytes")
    }
}

/// `encoding` with a random immediate, if it has one.
#[must_use]
pub fn with_immediate(encoding: &[u8], rng: &mut Rng) -> (Vec<u8>, Insn) {
    let (mut code, insn) = (encoding.to_vec(), decode(encoding));
    let offsets = insn.offsets(&code);
    if offsets.has_immediate() {
        code[offsets.immediate_offset()] = rng.next() as u8;
    }
    let insn = decode(&code);
    (code, insn)
}

/// Fills `memory` with values of all formats, 16 bytes apart.
pub fn fill(rng: &mut Rng, memory: &mut [u8]) {
    for to in memory.chunks_exact_mut(16) {
        match rng.below(3) {
            0 => to[..10].copy_from_slice(&f80(rng)),
            _ => to.copy_from_slice(&vector(rng).to_le_bytes()),
        }
    }
}

/// Any state that software can bring about, most often near where something changes.
pub fn state(rng: &mut Rng) -> FxState {
    let mut fx = FxState { mxcsr_mask: MXCSR_MASK, ..FxState::INIT };
    // All masked, any, or all but one.
    let mut masks = || match rng.below(3) {
        0 => 0x3f,
        1 => rng.next() as u16 & 0x3f,
        _ => rng.pick(&[0x3f, 0x3e, 0x3d, 0x3b, 0x37, 0x2f, 0x1f, 0]),
    };
    let (x87_masks, sse_masks) = (masks(), masks());
    fx.fcw = 0x40 | x87_masks | rng.pick(&[0, 2, 3, 3, 3, 1]) << 8 | (rng.below(4) as u16) << 10;
    fx.fsw = (rng.below(8) as u16) << 11 | rng.next() as u16 & 0x4700;
    if rng.one_in(8) {
        fx.fsw |= rng.next() as u16 & 0x7f;
        fx.fsw |= if fx.fsw & !fx.fcw & 0x3f != 0 { 0x8080 } else { 0 };
    }
    fx.ftw = match rng.below(6) {
        0 => rng.next() as u8,
        1 => 0xff,
        2 => 0,
        _ => (0..2 + rng.below(4) as u8).fold(0, |tags, i| tags | 1 << ((fx.top() + i) & 7)),
    };
    (fx.fop, fx.fip, fx.fcs) = (rng.next() as u16 & 0x7ff, rng.next() as u32, rng.next() as u16);
    (fx.fdp, fx.fds) = (rng.next() as u32, rng.next() as u16);
    for st in &mut fx.st {
        st[..10].copy_from_slice(&f80(rng));
    }
    fx.xmm[..8].fill_with(|| vector(rng));
    if rng.one_in(4) {
        // Equal magnitudes cancel, compare equal and divide evenly.
        fx.st[1] = fx.st[0];
        fx.st[1][9] ^= rng.pick(&[0, 0x80]);
        fx.xmm[1] = fx.xmm[3];
    }
    fx.mxcsr = u32::from(sse_masks) << 7 | rng.next() as u32 & 0x6000;
    fx.mxcsr |= if rng.one_in(4) { rng.next() as u32 & 0x3f } else { 0 };
    fx.mxcsr |= if rng.one_in(4) { rng.next() as u32 & 0x8040 } else { 0 };
    fx
}

/// An 80-bit value, of every class and most often near a limit of some format.
fn f80(rng: &mut Rng) -> [u8; 10] {
    let random = rng.next() | 1 << 63;
    let sig = match rng.below(8) {
        0 => 1 << 63,
        1 => u64::MAX,
        2 => 3 << 62,
        3 => 1 << 63 | rng.below(4096),
        4 => random & !0xfff_ffff_ffff,
        5 => 1 << 63 | 1 << rng.below(63),
        _ => random,
    };
    let one = 0x3fff;
    let mut near = |exp: u16, spread: u64| exp + rng.below(spread) as u16;
    let exp = match near(0, 16) {
        0 => 0,
        1 => 0x7fff,
        2 => 1,
        3 => 0x7ffe,
        4 => one,
        5 => near(one - 8223, 200),
        6 => near(one - 151, 26),
        7 => near(one - 1076, 56),
        8 => near(one + 120, 10),
        9 => near(one + 1020, 6),
        10 => near(0, 0x8000),
        _ => near(one - 70, 140),
    };
    let (sig, exp) = match rng.below(16) {
        0 => (0, 0),
        1 => (sig & !(1 << 63), exp),
        2 => (1 << 63, 0x7fff),
        3 => (rng.next() >> rng.below(64), 0),
        4 => (sig, 0x7fff),
        5 => {
            // A small integer.
            let v = (rng.next() >> rng.below(63)).max(1);
            (v << v.leading_zeros(), one + 63 - v.leading_zeros() as u16)
        }
        _ => (sig, exp),
    };
    let se = exp | (rng.below(2) as u16) << 15;
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&sig.to_le_bytes());
    bytes[8..].copy_from_slice(&se.to_le_bytes());
    bytes
}

/// A float with `fraction` fraction and `exponent` exponent bits.
fn float(rng: &mut Rng, fraction: u32, exponent: u32) -> u64 {
    let (top, bias) = ((1u64 << exponent) - 1, (1u64 << (exponent - 1)) - 1);
    let e = match rng.below(8) {
        0 => 0,
        1 => top,
        2 => 1,
        3 => top - 1,
        4 => bias,
        5 => bias + rng.below(u64::from(fraction) + 12),
        6 => bias - 40 + rng.below(80),
        _ => rng.below(top + 1),
    };
    let all = (1u64 << fraction) - 1;
    let f = match rng.below(8) {
        0 => 0,
        1 => 1,
        2 => 1 << (fraction - 1),
        3 => all,
        4 => 1 << rng.below(fraction.into()),
        5 => rng.next() & all & !(all >> (fraction / 2)),
        _ => rng.next() & all,
    };
    rng.below(2) << (fraction + exponent) | e << fraction | f
}

/// Sixteen bytes: floats, text, or noise.
fn vector(rng: &mut Rng) -> u128 {
    let text = [0, 1, 0x7f, 0x80, 0xff, b'a', b'b'];
    match rng.below(4) {
        0 => (0..2).fold(0, |v, _| v << 64 | u128::from(float(rng, 52, 11))),
        1 => (0..4).fold(0, |v, _| v << 32 | u128::from(float(rng, 23, 8))),
        2 => (0..2).fold(0, |v, _| v << 64 | u128::from(rng.next())),
        _ => (0..16).fold(0, |v, _| v << 8 | u128::from(rng.pick(&text))),
    }
}

/// What an instruction left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The exception it raised.
    pub vector: Option<u8>,
    /// EAX, ECX, EDX.
    pub gpr: [u32; 3],
    /// Status flags.
    pub flags: u32,
    /// FCW, FSW, abridged tags, MXCSR.
    pub control: [u32; 4],
    /// FIP, FCS and FOP, FDP, FDS: not after an exception.
    pub pointers: Option<[u32; 4]>,
    /// ST(0) to ST(7).
    pub st: [[u8; 10]; 8],
    /// XMM0 to XMM7.
    pub xmm: [u128; 8],
    /// The bytes at [`MEMORY`].
    pub memory: [u8; 512],
}

/// An interpreter with the memory that cases need.
pub struct Subject {
    interp: Interp,
    mmu: Mmu,
    window: Window,
}

impl Default for Subject {
    fn default() -> Self {
        Self::new()
    }
}

impl Subject {
    /// Maps the memory.
    #[must_use]
    #[allow(clippy::missing_panics_doc)]
    pub fn new() -> Subject {
        let window = scratch_window(&[CODE..CODE + 4096, DATA_PAGE..DATA_PAGE + 4096]).expect("address space");
        let space = Arc::new(FlatSpace::new(window));
        let data = Prot { mapped: true, read: true, write: true, exec: false, shared: false };
        space.set_prot(Gva(CODE), 4096, Prot { exec: true, ..data });
        space.set_prot(Gva(DATA_PAGE), 4096, data);
        Subject { interp: Interp::new(CpuModel::MAX), mmu: Mmu::flat(space), window }
    }

    /// Executes `case`.
    ///
    /// # Panics
    /// The interpreter gave up.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let mut cpu = case.cpu();
        // The page may be protected because it was decoded from.
        self.interp.flush();
        self.mmu.space().unwrap().resolve_write(Gva(CODE));
        let mut code = [0x90; 16];
        code[..case.code.len()].copy_from_slice(&case.code);
        self.window.write_bytes(CODE, &code).expect("mapped");
        self.window.write_bytes(MEMORY, &case.memory).expect("mapped");
        let vector = match self.interp.step(&mut cpu, &mut self.mmu, &mut Silicon) {
            Stop::Budget => None,
            Stop::Fault(f) => Some(f.vector.0),
            other => panic!("{:?}: {other:?}", case.code),
        };
        let fx = &cpu.fx;
        let pointers = [fx.fip, u32::from(fx.fcs) | u32::from(fx.fop) << 16, fx.fdp, fx.fds.into()];
        let mut memory = [0; 512];
        self.mmu.read_bytes(Gva(MEMORY), &mut memory).expect("mapped");
        Outcome {
            vector,
            gpr: [cpu.gpr[0], cpu.gpr[1], cpu.gpr[2]],
            flags: cpu.eflags & eflags::STATUS,
            control: [fx.fcw.into(), fx.fsw.into(), fx.ftw.into(), fx.mxcsr],
            pointers: vector.is_none().then_some(pointers),
            st: fx.st.map(|s| s[..10].try_into().expect("ten bytes")),
            xmm: fx.xmm[..8].try_into().expect("eight"),
            memory,
        }
    }
}

/// A platform that asks the host's CPU.
pub(crate) struct Silicon;

impl Platform for Silicon {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn x87(&mut self, op: HostMath, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
        xlat86_vcpu::silicon_x87(op, st0, st1, fcw)
    }
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32 {
        approximate(rsqrt, x)
    }
    fn descriptor(&mut self, selector: u16) -> Option<Option<u64>> {
        // What a user program finds: flat code and data.
        Some(match selector & !3 {
            0x20 => Some(0x00cf_fb00_0000_ffff),
            0x28 => Some(0x00cf_f300_0000_ffff),
            _ => None,
        })
    }
    fn delivers_interrupts(&self) -> bool {
        false
    }
}

/// A digest of `outcomes`, for recording what a CPU did.
#[must_use]
pub fn digest<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| bytes.iter().for_each(|&b| h = (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    for o in outcomes {
        add(&[o.vector.unwrap_or(0xff)]);
        let pointers = o.pointers.unwrap_or_default();
        for v in o.gpr.iter().chain([&o.flags]).chain(&o.control).chain(&pointers) {
            add(&v.to_le_bytes());
        }
        o.st.iter().for_each(|s| add(s));
        o.xmm.iter().for_each(|x| add(&x.to_le_bytes()));
        add(&o.memory);
    }
    h
}
