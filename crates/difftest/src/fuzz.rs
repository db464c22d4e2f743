//! What the fuzz targets check, each a function of arbitrary bytes: the targets themselves (`fuzz/fuzz_targets`) only call these, and tests
//! replay the corpora.

use crate::bulk::{self, Batch, Trio};
use crate::campaign::silicon_judges;
use crate::engine::{Kicker, LowMemory, Program, Stepper, configurations, difference, with_tls};
use crate::generate::{Units, is_tame};
use crate::program::LAYOUT;
use crate::state::{AT, CODE, DATA};
use crate::undefined::Undefined;
use iced_x86::OpKind;
use std::sync::Arc;
use std::time::Duration;
use xlat86_arch::{CpuModel, Gva, Mode, PfError, Reg, cr0, cr4, efer, eflags};
use xlat86_decoder::decode_insn;
pub use xlat86_softmmu::PhysMemory;
use xlat86_softmmu::{Access, Paging};
use xlat86_vcpu::{Engine, Exit};

/// Instructions that a program from a fuzzer may take.
const LIMIT: u64 = 2000;

/// Bytes taken from the front of an input.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        core::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }
}

/// A machine for [`exec_diff`]: the interpreter, and memory for translated code.
pub struct ExecDiff {
    stepper: Stepper,
    low: LowMemory,
    _watchdog: Kicker,
}

impl ExecDiff {
    /// # Panics
    /// The host has no room.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        ExecDiff {
            stepper: Stepper::new(&LAYOUT).expect("a window"),
            low: LowMemory::new(&LAYOUT).expect("low memory"),
            _watchdog: Kicker::every(Duration::from_millis(200)),
        }
    }

    /// A configuration (one byte), registers, and code: the translator must do what the interpreter does.
    ///
    /// # Panics
    /// It does not.
    pub fn check(&mut self, input: &[u8]) {
        let mut input = Input(input);
        let configurations = configurations();
        let (name, config) = configurations[usize::from(input.u8()) % configurations.len()];
        let mut cpu = with_tls();
        cpu.eflags |= input.u32() & eflags::LIVE;
        for r in &mut cpu.gpr {
            *r = match input.u8() {
                b @ 0..=99 => u32::from(b),
                b @ 100..=199 => DATA + u32::from(b) * 16,
                _ => input.u32(),
            };
        }
        cpu.gpr[Reg::Esp as usize] = DATA + 0x1800;
        let mut page = vec![0xcc; (LAYOUT[0].end - LAYOUT[0].start) as usize];
        let at = (AT - CODE) as usize;
        let n = input.0.len().min(page.len() - at);
        page[at..at + n].copy_from_slice(&input.0[..n]);
        let data = (0..LAYOUT[1].end - LAYOUT[1].start).map(|i| (i as u8).wrapping_mul(167)).collect();
        cpu.eip = AT;
        let program = Program { cpu, memory: vec![(CODE, page), (DATA, data)] };
        // What doesn't end soon, or asks for the time, can't be compared.
        let mut asks = false;
        let want = self.stepper.trace(&program, LIMIT, |cpu, window| {
            let mut bytes = [0; 15];
            let n = window.read_bytes(cpu.eip, &mut bytes).map_or_else(|(n, _)| n, |()| bytes.len());
            let insn = decode_insn(&bytes[..n], cpu.eip, Mode::USER32, CpuModel::MAX.features);
            asks |= insn.is_some_and(|i| {
                !is_tame(&i, Units::Integer) && !is_tame(&i, Units::Float) || !silicon_judges(i.code())
            });
        });
        let Some(want) = want.filter(|w| !asks && !matches!(w.exit, Exit::Unimplemented(_))) else { return };
        let mut engine = self.low.cpu(Engine::Dbt, config);
        let before = engine.revivals();
        let got = engine.run(&program);
        // Dead flags may be stale at a fault, and after they came alive (docs/bugs.md).
        let stale = engine.revivals() != before || matches!(want.exit, Exit::Fault(_));
        let flags = if stale && config.flag_liveness { eflags::STATUS } else { 0 };
        if flags != 0 && engine.revivals() != before {
            // Revived flags may be stored or branched on.
            return;
        }
        if let Some(what) = difference(&want, &got, &Undefined { flags, ..Undefined::default() }) {
            panic!("{name}:\n{what}");
        }
    }
}

/// A number for states and memory (8 bytes), then an instruction: the host CPU, the interpreter and the translator must agree.
///
/// # Panics
/// They don't.
pub fn silicon_diff(trio: &mut Trio<'_>, input: &[u8]) {
    let mut input = Input(input);
    let number = u64::from_le_bytes(input.array());
    let Some(insn) = decode_insn(input.0, AT, Mode::USER32, CpuModel::MAX.features) else { return };
    let here = matches!(insn.iced.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32);
    let prefixes = &input.0[..insn.len()];
    // F2 and F3 that mean something to the host only (see `generate`), and branches, which may not end, are for the generators.
    let repeats = prefixes.iter().take_while(|b| crate::length::is_prefix(**b)).any(|b| matches!(b, 0xf2 | 0xf3));
    let float = is_tame(&insn, Units::Float);
    if here || !(float || is_tame(&insn, Units::Integer)) || repeats && !float && !xlat86_decoder::repeats(insn.code())
    {
        return;
    }
    let batch = Batch::new(number, input.0[..insn.len()].to_vec(), 4);
    let findings = trio.run(&batch, silicon_judges(insn.code())).0;
    if let Some(f) = findings.first() {
        panic!("{}\n{}", batch.text(f.state), f.what);
    }
}

/// The machine for [`silicon_diff`], in low memory that is never given back.
///
/// # Panics
/// The host has no room.
#[must_use]
pub fn trio() -> Trio<'static> {
    let low = Box::leak(Box::new(LowMemory::new(&bulk::LAYOUT).expect("low memory")));
    Trio::new(low).expect("room for guests")
}

/// Memory for [`page_walk`].
const RAM: u64 = 0xa_0000;

/// Physical memory for [`page_walk`].
///
/// # Panics
/// The host has no room.
#[must_use]
pub fn physical() -> Arc<PhysMemory> {
    PhysMemory::new(RAM).expect("memory")
}

/// Control registers, an access, and pairs of address and value to be put into memory: the walk must agree with one written after the
/// manual's tables alone, whatever the paging structures hold, and set accessed and dirty bits exactly where it succeeds.
///
/// # Panics
/// It does not.
pub fn page_walk(memory: &PhysMemory, input: &[u8]) {
    let mut input = Input(input);
    let bits = input.u8();
    let bit = |n: u8, v: u32| if bits >> n & 1 != 0 { v } else { 0 };
    let cr3 = input.u32() & 0x000f_ffff;
    let base = Paging {
        cr0: cr0::PG | cr0::PE | bit(0, cr0::WP),
        cr3,
        cr4: bit(1, cr4::PSE) | bit(2, cr4::PAE) | bit(3, cr4::PGE),
        efer: bit(4, efer::NXE),
        pdpte: [0; 4],
        address_bits: 36,
    };
    let access = Access { write: bit(5, 1) != 0, user: bit(6, 1) != 0, fetch: bit(7, 1) != 0 };
    let gva = Gva(input.u32());
    for page in (0..RAM).step_by(4096) {
        memory.write(page, &[0; 4096]).expect("RAM");
    }
    while !input.0.is_empty() {
        let at = (u64::from(input.u32()) % (RAM - 8)) & !7;
        memory.write(at, &input.array::<8>()).expect("RAM");
    }
    let (pdpte, reserved) = base.load_pdptes(memory);
    let paging = Paging { pdpte: if base.pae() { pdpte } else { [0; 4] }, ..base };
    if base.pae() && reserved {
        return;
    }
    let before = snapshot(memory);
    let expected = manual::walk(&paging, gva.0, access, |at, wide| entry(&before, at, wide));
    let got = paging.walk(memory, gva, access);
    match (&expected, &got) {
        (Err(a), Err(b)) => assert_eq!(a, b, "error code of {gva} {access:?} {paging:?}"),
        (Ok(e), Ok(leaf)) => {
            assert_eq!(e.gpa & !0xfff, leaf.gpa, "{gva} {access:?} {paging:?}");
            let mut after = before.clone();
            for (at, set) in &e.marks {
                if let Some(b) = after.get_mut(*at as usize) {
                    *b |= set;
                }
            }
            assert!(after == snapshot(memory), "accessed and dirty bits of {gva} {access:?} {paging:?}");
        }
        _ => panic!("{gva} {access:?} {paging:?}: {expected:x?}, but {got:x?}"),
    }
    if expected.is_err() {
        assert!(before == snapshot(memory), "a walk that faults sets no bit");
    }
}

fn snapshot(memory: &PhysMemory) -> Vec<u8> {
    let mut all = vec![0; RAM as usize];
    memory.read(0, &mut all).expect("RAM");
    all
}

fn entry(memory: &[u8], at: u64, wide: bool) -> u64 {
    let n = if wide { 8 } else { 4 };
    // Where there is no memory the bus gives ones.
    let bytes = (0..8).map(|i| if i >= n { 0 } else { memory.get((at + i) as usize).copied().unwrap_or(0xff) });
    bytes.rev().fold(0, |v, b| v << 8 | u64::from(b))
}

/// Paging after SDM vol. 3A, 4.3 and 4.4, as plainly as it can be said.
mod manual {
    use super::{Access, Paging, PfError, cr0, cr4, efer};

    #[derive(Debug)]
    pub(super) struct Found {
        pub(super) gpa: u64,
        /// Bytes of physical memory and the bits that are set in them.
        pub(super) marks: Vec<(u64, u8)>,
    }

    pub(super) fn walk(p: &Paging, gva: u32, access: Access, load: impl Fn(u64, bool) -> u64) -> Result<Found, u32> {
        let pae = p.cr4 & cr4::PAE != 0;
        let nx = pae && p.efer & efer::NXE != 0;
        let code = |bits: u32| {
            let bit = |c: bool, b: u32| if c { b } else { 0 };
            bits | bit(access.write, PfError::W) | bit(access.user, PfError::U) | bit(access.fetch && nx, PfError::I)
        };
        let gva = u64::from(gva);
        let (mut write, mut user, mut exec) = (true, true, true);
        let mut marks = Vec::new();
        let (mut table, shifts): (u64, &[u32]) = if pae {
            let e = p.pdpte[(gva >> 30) as usize];
            if e & 1 == 0 {
                return Err(code(0));
            }
            (e & 0x000f_ffff_ffff_f000, &[21, 12])
        } else {
            (u64::from(p.cr3) & !0xfff, &[22, 12])
        };
        for &shift in shifts {
            let (size, index) = if pae { (8, gva >> shift & 0x1ff) } else { (4, gva >> shift & 0x3ff) };
            let at = table + size * index;
            let e = load(at, pae);
            if e & 1 == 0 {
                return Err(code(0));
            }
            let large = shift > 12 && e & 0x80 != 0 && (pae || p.cr4 & cr4::PSE != 0);
            let leaf = large || shift == 12;
            let mut reserved = 0;
            if pae {
                reserved |= 0x7ff0_0000_0000_0000 | (0x000f_ffff_ffff_f000 & (u64::MAX << p.address_bits));
                reserved |= if nx { 0 } else { 1 << 63 };
                reserved |= if large { 0x001f_e000 } else { 0 };
            } else if large {
                // Without PSE-36 bits 21 to 13.
                reserved |= 0x003f_e000;
            }
            if e & reserved != 0 {
                return Err(code(PfError::P | PfError::RSVD));
            }
            write &= e & 2 != 0;
            user &= e & 4 != 0;
            exec &= !(nx && e >> 63 != 0);
            marks.push((at, if leaf && access.write { 0x60 } else { 0x20 }));
            if leaf {
                let may_write = write || !access.user && p.cr0 & cr0::WP == 0;
                if access.user && !user || access.write && !may_write || access.fetch && !exec {
                    return Err(code(PfError::P));
                }
                let mask = (1u64 << shift) - 1;
                let address = if pae { 0x000f_ffff_ffff_f000 } else { 0xffff_f000 };
                return Ok(Found { gpa: e & address & !mask | gva & mask, marks });
            }
            table = e & if pae { 0x000f_ffff_ffff_f000 } else { 0xffff_f000 };
        }
        unreachable!("the last level is a leaf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn corpora_hold() {
        if crate::undefined::silicon_is_followed("corpora exec_diff and silicon_diff") {
            let mut machine = ExecDiff::new();
            crate::replay("exec_diff", |input| machine.check(input));
            drop(machine);
            let mut trio = trio();
            crate::replay("silicon_diff", |input| silicon_diff(&mut trio, input));
        }
        let memory = physical();
        crate::replay("page_walk", |input| page_walk(&memory, input));
    }

    /// Tables inside 1 MB with any bits, walked in any mode.
    #[test]
    fn random_walks_follow_the_manual() {
        let (memory, mut rng) = (physical(), Rng::new(1));
        let mut reached = 0;
        for _ in 0..2000 {
            let (mode, cr3, gva) = (rng.next() as u8, (rng.next() as u32 & 0xf) << 12, rng.next() as u32);
            let mut input = vec![mode];
            input.extend(cr3.to_le_bytes());
            input.extend(gva.to_le_bytes());
            let pae = mode & 4 != 0;
            let mut put = |at: u32, v: u64| {
                input.extend(at.to_le_bytes());
                input.extend(v.to_le_bytes());
            };
            let mut entry = |to: u32| {
                let noise = rng.next() & 0x8000_0000_0000_0fff & if rng.one_in(3) { u64::MAX } else { 0xfff };
                let far = if rng.one_in(8) { 1 << rng.below(52) } else { 0 };
                u64::from(to) | noise | far | u64::from(!rng.one_in(6)) | if rng.one_in(2) { 6 } else { 0 }
            };
            if pae {
                put(cr3 + (gva >> 30) * 8, 0x2_0001);
                put(0x2_0000 + (gva >> 21 & 0x1ff) * 8, entry(0x3_0000));
                put(0x3_0000 + (gva >> 12 & 0x1ff) * 8, entry(0x4_0000));
            } else {
                let (a, b) = (entry(0x3_0000), entry(0x4_0000));
                let twice = |e: u64| (e & 0xffff_ffff) << 32 | e & 0xffff_ffff;
                put(cr3 + (gva >> 22) * 4 / 8 * 8, twice(a));
                put(0x3_0000 + (gva >> 12 & 0x3ff) * 4 / 8 * 8, twice(b));
            }
            reached += u32::from(input.len() > 9);
            page_walk(&memory, &input);
        }
        assert_eq!(reached, 2000);
    }
}
