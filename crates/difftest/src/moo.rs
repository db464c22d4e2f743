//! Captures of real CPUs in the MOO format of the SingleStepTests projects, on the interpreter: one instruction each in real mode, registers and
//! memory before and after it, as a 386 left them.
//!
//! A file is a sequence of chunks (four letters, a length, contents), some of which hold chunks themselves; unknown ones are skipped. Each
//! capture ends with a HALT that was put where execution went on, so EIP is one more than after the instruction. Masks, of a file or of one
//! capture, name the bits that are defined.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use xlat86_arch::{CpuModel, CpuState, Gva, Reg, Seg, Segment, cr0, eflags};
use xlat86_host::{Window, scratch_window};
use xlat86_interp::{Detached, Event, Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

/// The order of registers in 32-bit register chunks.
const REGISTERS: [&str; 20] = [
    "cr0", "cr3", "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "cs", "ds", "es", "fs", "gs", "ss", "eip",
    "eflags", "dr6", "dr7",
];
const GENERAL: [Reg; 8] = [Reg::Eax, Reg::Ebx, Reg::Ecx, Reg::Edx, Reg::Esi, Reg::Edi, Reg::Ebp, Reg::Esp];
const SEGMENTS: [Seg; 6] = [Seg::Cs, Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs, Seg::Ss];
const EIP: usize = 16;
const EFLAGS: usize = 17;
/// Flags that a 386 has.
const FLAGS: u32 = eflags::STATUS | eflags::TF | eflags::IF | eflags::DF | 3 << 12 | 1 << 14;
/// Memory of the captures: 16 MB, and what real mode reaches beyond 1 MB.
const MEMORY: u32 = 16 << 20;
/// Registers by number; those that are named.
type Registers = BTreeMap<usize, u32>;

/// Registers and memory.
#[derive(Clone, Default, Debug)]
pub struct State {
    registers: Registers,
    memory: Vec<(u32, u8)>,
}

/// One capture.
#[derive(Clone, Default, Debug)]
pub struct Capture {
    /// The instruction, in words.
    pub name: String,
    before: State,
    after: State,
    /// Defined bits; of registers not named all are.
    mask: Registers,
    /// Where the flags were pushed, if an exception or interrupt came.
    flags_at: Option<u32>,
}

/// A file's contents.
#[derive(Clone, Default, Debug)]
pub struct File {
    /// What CPU they are from, as the file says.
    pub cpu: String,
    /// The captures.
    pub captures: Vec<Capture>,
}

/// Why a file can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// It doesn't begin with a `MOO ` chunk.
    NotMoo,
    /// A chunk ends early.
    Cut,
    /// 16-bit registers: captures of an 8086, a V20 or a 286.
    Narrow,
}

impl core::fmt::Display for Bad {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Bad::NotMoo => "not a MOO file",
            Bad::Cut => "the file is cut off",
            Bad::Narrow => "captures of a 16-bit CPU; 80386 ones are read",
        })
    }
}

/// Reads little-endian fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Bad> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Bad::Cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Bad> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Bad> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes")))
    }

    /// The next chunk; `None` at the end.
    fn chunk(&mut self) -> Result<Option<([u8; 4], Reader<'a>)>, Bad> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.take(4)?.try_into().expect("4 bytes");
        let len = self.u32()? as usize;
        Ok(Some((name, Reader(self.take(len)?))))
    }

    fn registers(&mut self) -> Result<Registers, Bad> {
        let present = self.u32()?;
        (0..REGISTERS.len()).filter(|i| present >> i & 1 != 0).map(|i| Ok((i, self.u32()?))).collect()
    }

    fn memory(&mut self) -> Result<Vec<(u32, u8)>, Bad> {
        let n = self.u32()?;
        // The length is the file's word: nothing is reserved by it.
        (0..n).map(|_| Ok((self.u32()?, self.u8()?))).collect()
    }
}

impl File {
    /// Reads a whole file.
    ///
    /// # Errors
    /// It isn't one, or is damaged.
    pub fn read(bytes: &[u8]) -> Result<File, Bad> {
        let mut all = Reader(bytes);
        let mut head = match all.chunk() {
            Ok(Some((name, head))) if &name == b"MOO " => head,
            _ => return Err(Bad::NotMoo),
        };
        head.take(8)?;
        let cpu = String::from_utf8_lossy(head.take(4)?).trim().to_owned();
        let (mut file, mut mask) = (File { cpu, captures: Vec::new() }, Registers::new());
        while let Some((name, mut chunk)) = all.chunk()? {
            match &name {
                b"RM32" => mask = chunk.registers()?,
                b"TEST" => file.captures.push(capture(&mut chunk, &mask)?),
                _ => {}
            }
        }
        Ok(file)
    }
}

fn capture(test: &mut Reader<'_>, mask: &Registers) -> Result<Capture, Bad> {
    test.u32()?;
    let mut c = Capture { mask: mask.clone(), ..Capture::default() };
    while let Some((name, mut chunk)) = test.chunk()? {
        match &name {
            b"NAME" => {
                let n = chunk.u32()? as usize;
                c.name = String::from_utf8_lossy(chunk.take(n)?).into_owned();
            }
            b"INIT" => c.before = state(&mut chunk, &mut c.mask)?,
            b"FINA" => c.after = state(&mut chunk, &mut c.mask)?,
            b"EXCP" => {
                chunk.u8()?;
                c.flags_at = Some(chunk.u32()?);
            }
            _ => {}
        }
    }
    Ok(c)
}

fn state(chunk: &mut Reader<'_>, mask: &mut Registers) -> Result<State, Bad> {
    let mut s = State::default();
    while let Some((name, mut c)) = chunk.chunk()? {
        match &name {
            b"RG32" => s.registers = c.registers()?,
            b"RM32" => mask.extend(c.registers()?),
            b"RAM " => s.memory = c.memory()?,
            b"REGS" => return Err(Bad::Narrow),
            _ => {}
        }
    }
    Ok(s)
}

/// A real-mode CPU with 16 MB of RAM.
pub struct Machine {
    interp: Interp,
    mmu: Mmu,
    window: Window,
}

impl Machine {
    /// # Errors
    /// The host has no room for the memory.
    pub fn new() -> io::Result<Machine> {
        let window = scratch_window(core::slice::from_ref(&(0..MEMORY)))?;
        let space = Arc::new(FlatSpace::new(window));
        // Shared: the interpreter keeps nothing decoded from it.
        space.set_prot(Gva(0), MEMORY, Prot { mapped: true, read: true, write: true, exec: true, shared: true });
        Ok(Machine { interp: Interp::new(CpuModel::all().first().expect("a model")), mmu: Mmu::flat(space), window })
    }

    /// Runs `capture`; what came out differently, `None` for nothing.
    ///
    /// # Panics
    /// Never: memory beyond 16 MB isn't there, and a capture that names some differs.
    pub fn difference(&mut self, capture: &Capture) -> Option<String> {
        let mut cpu = self.prepare(capture)?;
        let halted = match self.interp.step(&mut cpu, &mut self.mmu, &mut Detached::system()) {
            Stop::Budget => false,
            Stop::Halt => true,
            Stop::Fault(fault) => {
                match self.interp.deliver(&mut cpu, &mut self.mmu, &mut Detached::system(), Event::Fault(fault)) {
                    Stop::Budget => false,
                    other => return Some(format!("{fault:?}, whose delivery ended by {other:?}")),
                }
            }
            other => return Some(format!("ended by {other:?}")),
        };
        if !halted {
            // The HALT that follows, wherever that is.
            cpu.eip = cpu.eip.wrapping_add(1);
        }
        self.compare(capture, &cpu)
    }

    fn prepare(&mut self, c: &Capture) -> Option<CpuState> {
        let mut cpu = CpuState::reset();
        let value = |i: usize| c.before.registers.get(&i).copied().unwrap_or(0);
        cpu.cr0 = cr0::ET | value(0) & 0xe;
        for (i, r) in GENERAL.iter().enumerate() {
            cpu.set_reg(*r, value(2 + i));
        }
        for (i, s) in SEGMENTS.iter().enumerate() {
            cpu.seg[*s as usize] = Segment::real(value(10 + i) as u16);
        }
        cpu.idtr.limit = 0x3ff;
        cpu.eip = value(EIP);
        cpu.eflags = value(EFLAGS) & FLAGS | eflags::FIXED_1;
        cpu.dr[6] = value(18);
        cpu.dr[7] = value(19);
        self.window.write_bytes(0, &[0; 0x400]).ok()?;
        for (at, byte) in &c.before.memory {
            let _ = self.window.write_bytes(*at, &[*byte]);
        }
        Some(cpu)
    }

    fn compare(&mut self, c: &Capture, cpu: &CpuState) -> Option<String> {
        let mut out = String::new();
        for (i, name) in REGISTERS.iter().enumerate() {
            let Some(want) = c.after.registers.get(&i).or_else(|| c.before.registers.get(&i)) else { continue };
            let (got, bits) = match i {
                0 => (cpu.cr0, 0xe),
                2..10 => (cpu.reg(GENERAL[i - 2]), u32::MAX),
                10..16 => (cpu.segment(SEGMENTS[i - 10]).selector.into(), 0xffff),
                EIP => (cpu.eip, u32::MAX),
                EFLAGS => (cpu.eflags, FLAGS),
                _ => continue,
            };
            let bits = bits & c.mask.get(&i).copied().unwrap_or(u32::MAX);
            if (want ^ got) & bits != 0 {
                let _ = writeln!(out, "  {name}: {:x}, ours {:x}", want & bits, got & bits);
            }
        }
        let flags = c.mask.get(&EFLAGS).copied().unwrap_or(u32::MAX).to_le_bytes();
        for (at, want) in &c.after.memory {
            let mut got = [0];
            let _ = self.window.read_bytes(*at, &mut got);
            let pushed = c.flags_at.map(|f| at.wrapping_sub(f) as usize).and_then(|i| flags.get(i).copied());
            let bits = pushed.unwrap_or(0xff);
            if (want ^ got[0]) & bits != 0 {
                let _ = writeln!(out, "  [{at:x}]: {want:02x}, ours {:02x}", got[0]);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/sample.moo")).expect("the sample")
    }

    #[test]
    fn the_sample_holds() {
        let file = File::read(&sample()).unwrap();
        assert_eq!((file.cpu.as_str(), file.captures.len()), ("386E", 7));
        let mut machine = Machine::new().unwrap();
        for c in &file.captures {
            assert_eq!(machine.difference(c), None, "{}", c.name);
        }
    }

    #[test]
    fn every_wrong_outcome_is_noticed() {
        let (file, mut machine) = (File::read(&sample()).unwrap(), Machine::new().unwrap());
        let mut noticed = 0;
        for c in &file.captures {
            for i in 0..c.after.memory.len() {
                let mut wrong = c.clone();
                wrong.after.memory[i].1 ^= 0x10;
                noticed += u32::from(machine.difference(&wrong).is_some());
            }
            for (i, bit) in [(2, 1), (EIP, 1), (EFLAGS, eflags::IF), (15, 1)] {
                let mut wrong = c.clone();
                let value = c.after.registers.get(&i).or(c.before.registers.get(&i)).unwrap() ^ bit;
                wrong.after.registers.insert(i, value);
                assert!(machine.difference(&wrong).is_some(), "{} {}", c.name, REGISTERS[i]);
            }
        }
        assert!(noticed > 10);
    }

    #[test]
    fn damaged_files_are_told() {
        let bytes = sample();
        assert!(matches!(File::read(b"MOO"), Err(Bad::NotMoo)));
        for n in 20..bytes.len().min(400) {
            let _ = File::read(&bytes[..n]);
        }
        for i in 0..bytes.len().min(400) {
            let mut b = bytes.clone();
            b[i] ^= 0xff;
            let _ = File::read(&b);
        }
        assert!(matches!(File::read(&bytes[..bytes.len() - 1]), Err(Bad::Cut)));
    }
}
