//! One instruction from many states, on the host CPU, the interpreter and the translator, fast: some microseconds for each state.
//!
//! [`Trio`] keeps all three in the same memory at once. What costs is paid once for a [`Batch`]: writing the code, changing the protection
//! of its page (executable for the host CPU, never for the translator), decoding and translating. The host CPU leaves through
//! the gate (`xlat86_host::Compat`) unless the instruction faults or branches.

use crate::differences::{Differences, Registers};
use crate::engine::{LowMemory, configurations, forget_kicks, with_tls};
use crate::fpu;
use crate::generate::{Generator, Rng};
use crate::rng;
use crate::state::{AT, CODE, DATA, DATA_LEN, End};
use crate::undefined::{Undefined, undefined};
use core::fmt::Write as _;
use core::ops::Range;
use iced_x86::{Formatter as _, Register};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xlat86_arch::{CpuModel, CpuState, FxState, Gva, Mode, Vector, eflags};
use xlat86_decoder::{Insn, Unit, decode_insn, unit_of};
use xlat86_host::{Compat, CompatState, Window, protect_guest_pages, scratch_window};
use xlat86_interp::{Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};
use xlat86_vcpu::{Config, Engine, Exit, Process, TranslatorConfig, Vcpu};

/// Most states in a batch.
pub const STATES: usize = 32;
/// The memory: a page of code, a page of data.
pub const LAYOUT: [Range<u32>; 2] = [CODE..CODE + 0x1000, DATA..DATA + DATA_LEN];
const PAGE: usize = DATA_LEN as usize;
const INT3: u8 = 0xcc;
/// Flags that are compared.
const SEEN: u32 = eflags::LIVE | eflags::AC | eflags::ID;

/// Registers before.
#[derive(Clone, Debug)]
pub struct Start {
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub gpr: [u32; 8],
    /// Arithmetic flags and DF.
    pub eflags: u32,
    /// x87, MMX and SSE.
    pub fx: FxState,
}

/// An instruction, the memory and the registers that it starts from.
pub struct Batch {
    /// The instruction.
    pub insn: Insn,
    /// Its bytes.
    pub code: Vec<u8>,
    /// The data page.
    pub data: Vec<u8>,
    /// Registers.
    pub states: Vec<Start>,
}

impl Batch {
    /// The instruction `code` from `states` states, which, as the memory, follow from `number`.
    ///
    /// # Panics
    /// `code` is no instruction.
    #[must_use]
    pub fn new(number: u64, code: Vec<u8>, states: usize) -> Batch {
        let mut generator = Generator { rng: Rng(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) };
        let mut random = rng::Rng::new(!number);
        let insn = decode_insn(&code, AT, Mode::USER32, CpuModel::MAX.features).expect("an instruction");
        let mut data = vec![0; PAGE];
        let (floats, integers) = data.split_at_mut(PAGE / 2);
        fpu::fill(&mut random, floats);
        integers.chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&generator.rng.value().to_le_bytes()));
        let float = unit_of(insn.code()) != Unit::Integer;
        let states = (0..states).map(|_| {
            let regs = generator.registers(&insn);
            let fx = if float { fpu::state(&mut random) } else { regs.fx };
            let fx = FxState { mxcsr_mask: fx.mxcsr_mask, ..plain(fx) };
            Start { gpr: regs.gpr, eflags: regs.eflags, fx }
        });
        Batch { states: states.collect(), insn, code, data }
    }

    /// Does the instruction access memory through FS or GS?
    fn uses_tls(&self) -> bool {
        matches!(self.insn.iced.memory_segment(), Register::FS | Register::GS)
    }

    /// What is the same in all states.
    fn cpu(&self) -> CpuState {
        if self.uses_tls() { with_tls() } else { CpuState::linux_user() }
    }

    /// The instruction, and state number `n`.
    #[must_use]
    pub fn text(&self, n: usize) -> String {
        let (mut out, s) = (String::new(), &self.states[n]);
        iced_x86::IntelFormatter::new().format(&self.insn.iced, &mut out);
        let hex: String = self.code.iter().map(|b| format!("{b:02x}")).collect();
        let _ = write!(out, "\n  bytes {hex}, state {n}\n  registers {:08x?} flags={:03x}", s.gpr, s.eflags);
        if unit_of(self.insn.code()) != Unit::Integer {
            let _ = write!(out, "\n{:?}", s.fx);
        }
        out
    }
}

/// `fx` without what isn't compared: the x87's pointers, which AMD CPUs forget, and the mask that can't be written.
fn plain(fx: FxState) -> FxState {
    FxState { fop: 0, fip: 0, fcs: 0, fdp: 0, fds: 0, mxcsr_mask: 0, ..fx }
}

/// What a state became; the data page stands apart.
#[derive(Clone, PartialEq, Eq, Debug)]
struct After {
    end: End,
    gpr: [u32; 8],
    eip: u32,
    eflags: u32,
    fx: FxState,
}

impl After {
    /// `exit` is the exception at which it ended, if it did not come to the end of the instruction at `eip`. Running into INT3 or into memory
    /// that isn't there, elsewhere than at the instruction, is an end too.
    fn new(exit: Option<(u8, u32, u32)>, gpr: [u32; 8], eip: u32, flags: u32, fx: FxState) -> After {
        let (end, eip) = match exit {
            None => (End::Done, eip),
            Some((3, ..)) => (End::Done, eip.wrapping_sub(1)),
            Some((14, _, addr)) if addr == eip && eip != AT => (End::Done, eip),
            Some((vector, error, addr)) => {
                (End::Fault { vector: Vector(vector), error, addr: if vector == 14 { addr } else { 0 } }, eip)
            }
        };
        After { end, gpr, eip, eflags: flags & SEEN, fx: plain(fx) }
    }

    fn registers(&self) -> Registers<'_> {
        Registers { gpr: &self.gpr, eip: self.eip, eflags: self.eflags, fx: &self.fx }
    }
}

/// How an outcome, with its page, differs; but for what `except` lists.
fn difference(want: (&After, &[u8]), got: (&After, &[u8]), except: &Undefined) -> Option<String> {
    let ((a, pa), (b, pb)) = (want, got);
    if a == b && pa == pb {
        return None;
    }
    let mut out = Differences::default();
    let faulted = a.end != End::Done && b.end != End::Done;
    if !(faulted && except.which_fault) {
        out.note("end", &a.end, &b.end);
    }
    out.registers(a.registers(), b.registers(), except, faulted);
    if let Some(i) = pa.iter().zip(pb).position(|(a, b)| a != b) {
        let end = PAGE.min(i + 8);
        out.note(&format!("memory from {:x}", DATA as usize + i), &&pa[i..end], &&pb[i..end]);
    }
    out.text()
}

/// A state on which two of the three disagree.
#[derive(Debug)]
pub struct Finding {
    /// Which state of the batch.
    pub state: usize,
    /// Who, and on what.
    pub what: String,
}

/// How often the three were compared.
#[derive(Clone, Copy, Default, Debug)]
pub struct Compared {
    /// The interpreter with the host CPU.
    pub silicon: u64,
    /// The translator with the interpreter.
    pub translator: u64,
}

/// The host CPU, the interpreter and the translator in all its configurations.
pub struct Trio<'a> {
    compat: Compat,
    interp: Interp,
    mmu: Mmu,
    window: Window,
    engines: Vec<(&'static str, Vcpu)>,
    /// The interpreter's outcomes.
    after: Vec<After>,
    pages: Vec<u8>,
    batches: usize,
    /// Whose memory the host CPU and the translator use.
    _low: &'a LowMemory,
}

fn space(window: Window) -> Arc<FlatSpace> {
    let space = Arc::new(FlatSpace::new(window));
    // Nobody may write to the code, so the translator has nothing to protect.
    let code = Prot { mapped: true, read: true, write: false, exec: true, shared: false };
    space.set_prot(Gva(CODE), 0x1000, code);
    space.set_prot(Gva(DATA), DATA_LEN, Prot { write: true, exec: false, ..code });
    space
}

impl<'a> Trio<'a> {
    /// In `low`, which is laid out as [`LAYOUT`].
    ///
    /// # Errors
    /// The host has no room.
    pub fn new(low: &'a LowMemory) -> io::Result<Trio<'a>> {
        let window = scratch_window(&LAYOUT)?;
        let engines = configurations().into_iter().map(|(name, translator)| (name, cpu(low.window(), translator)));
        Ok(Trio {
            compat: Compat::over(&LAYOUT)?,
            interp: Interp::new(CpuModel::MAX),
            mmu: Mmu::flat(space(window)),
            window,
            engines: engines.collect(),
            after: Vec::new(),
            pages: vec![0; STATES * PAGE],
            batches: 0,
            _low: low,
        })
    }

    /// Runs `batch`: its first findings for each engine, and how much was compared. Each state runs in the translator's default
    /// configuration and in one other, which changes from batch to batch; on the host CPU if `silicon`.
    pub fn run(&mut self, batch: &Batch, silicon: bool) -> (Vec<Finding>, Compared) {
        let (mut findings, mut compared) = (Vec::new(), Compared::default());
        let except = undefined(batch.insn.iced.mnemonic());
        // FS and GS are the host's own on its CPU, where 32-bit code finds null selectors.
        let silicon = silicon && !batch.uses_tls();
        self.interpret(batch);
        if silicon {
            compared.silicon += batch.states.len() as u64;
            let found = self.on_silicon(batch, &except);
            findings.extend(found.map(|(state, w)| (state, format!("the CPU and the interpreter:\n{w}"))));
        }
        let mut code = [INT3; 32];
        code[..batch.code.len()].copy_from_slice(&batch.code);
        self.write_code(&code);
        self.compat.protect_code(false, false);
        self.batches += 1;
        for i in [0, 1 + self.batches % (self.engines.len() - 1)] {
            compared.translator += batch.states.len() as u64;
            let found = self.on_translator(i, batch);
            let name = self.engines[i].0;
            findings
                .extend(found.map(|(state, w)| (state, format!("the interpreter and the translator ({name}):\n{w}"))));
        }
        (findings.into_iter().map(|(state, what)| Finding { state, what }).collect(), compared)
    }

    fn write_code(&mut self, code: &[u8; 32]) {
        self.compat.protect_code(true, false);
        let page = self.compat.memory(0);
        page.fill(INT3);
        let at = (AT - CODE) as usize;
        page[at..at + code.len()].copy_from_slice(code);
    }

    fn interpret(&mut self, batch: &Batch) {
        let mut code = [INT3; 32];
        code[..batch.code.len()].copy_from_slice(&batch.code);
        assert!(protect_guest_pages(self.window, CODE, 0x1000, true, true));
        self.window.write_bytes(CODE, &[INT3; 0x1000]).expect("the code page is mapped");
        self.window.write_bytes(AT, &code).expect("the code page is mapped");
        assert!(protect_guest_pages(self.window, CODE, 0x1000, true, false));
        self.interp.invalidate_page(CODE >> 12);
        self.after.clear();
        let never = AtomicBool::new(false);
        let mut cpu = batch.cpu();
        for (s, page) in batch.states.iter().zip(self.pages.chunks_exact_mut(PAGE)) {
            self.window.write_bytes(DATA, &batch.data).expect("the data page is mapped");
            (cpu.gpr, cpu.eip, cpu.eflags, cpu.fx) = (s.gpr, AT, s.eflags | eflags::IF, s.fx);
            let exit = loop {
                match self.interp.run(&mut cpu, &mut self.mmu, &mut fpu::Silicon, &never, 1) {
                    // A return to the return itself: the others don't stop there either.
                    Stop::Budget if cpu.eip == AT => {}
                    Stop::Budget => break None,
                    Stop::Fault(f) => break Some((f.vector.0, f.error.unwrap_or(0), f.addr.0)),
                    Stop::SoftInt(v) => break Some((v, 0, 0)),
                    other => panic!("{other:?} for {:02x?}", batch.code),
                }
            };
            self.after.push(After::new(exit, cpu.gpr, cpu.eip, cpu.eflags, cpu.fx));
            self.window.read_bytes(DATA, page).expect("the data page is mapped");
        }
    }

    fn on_silicon(&mut self, batch: &Batch, except: &Undefined) -> Option<(usize, String)> {
        let (mut code, len) = ([INT3; 32], batch.code.len());
        code[..len].copy_from_slice(&batch.code);
        code[len..len + 7].copy_from_slice(&Compat::gate());
        self.write_code(&code);
        self.compat.protect_code(false, true);
        for (n, s) in batch.states.iter().enumerate() {
            self.compat.memory(1).copy_from_slice(&batch.data);
            let state = self.compat.state();
            (state.gpr, state.eip, state.eflags, state.fx) = (s.gpr, AT, s.eflags.into(), s.fx.to_bytes());
            let exit = self.compat.go().map(|f| (f.trapno as u8, f.error, f.addr as u32));
            let s: &CompatState = self.compat.state();
            let eip = if exit.is_some() { s.eip } else { AT + len as u32 };
            let got = After::new(exit, s.gpr, eip, s.eflags as u32, FxState::from_bytes(&s.fx));
            let page: &[u8] = self.compat.memory(1);
            let want = (&self.after[n], &self.pages[n * PAGE..][..PAGE]);
            if let Some(what) = difference((&got, page), want, except) {
                return Some((n, what));
            }
        }
        None
    }

    fn on_translator(&mut self, engine: usize, batch: &Batch) -> Option<(usize, String)> {
        let cpu = &mut self.engines[engine].1;
        cpu.process().change(&[(Gva(CODE), 0x1000)], || ());
        cpu.state_mut().seg = batch.cpu().seg;
        for (n, s) in batch.states.iter().enumerate() {
            let cpu = &mut self.engines[engine].1;
            self.compat.memory(1).copy_from_slice(&batch.data);
            *cpu.fx_mut() = s.fx;
            let state = cpu.state_mut();
            (state.gpr, state.eip, state.eflags) = (s.gpr, AT, s.eflags | eflags::IF);
            let exit = loop {
                match cpu.run() {
                    Exit::Fault(f) => break (f.vector.0, f.error.unwrap_or(0), f.addr.0),
                    Exit::SoftInt(v) => break (v, 0, 0),
                    // A watchdog's last kick, come late.
                    Exit::Interrupted => forget_kicks(),
                    other => panic!("{other:?} for {:02x?}", batch.code),
                }
            };
            let fx = *cpu.fx();
            let state = cpu.state();
            let got = After::new(Some(exit), state.gpr, state.eip, state.eflags, fx);
            let page: &[u8] = self.compat.memory(1);
            let want = (&self.after[n], &self.pages[n * PAGE..][..PAGE]);
            if let Some(what) = difference(want, (&got, page), &Undefined::default()) {
                return Some((n, what));
            }
        }
        None
    }
}

fn cpu(window: Window, translator: TranslatorConfig) -> Vcpu {
    let config = Config { engine: Engine::Dbt, translator, ..Config::default() };
    Vcpu::new(&Process::new(space(window), config).expect("a translation cache")).expect("a CPU")
}
