//! The engines side by side: a program and the state it starts from go in, how it ended and everything it may have changed come out.
//!
//! [`Stepper`] is the interpreter one instruction at a time, in memory of its own; [`Translated`] is a CPU that runs translated code, under any of
//! [`configurations`]. All CPUs that translate share the host's low memory, so one [`LowMemory`] hands it out.

use crate::case::Case;
use crate::differences::{Differences, Registers};
use crate::fpu;
use crate::state::{AT, CODE, DATA, DATA_LEN};
use crate::undefined::Undefined;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xlat86_arch::{CpuModel, CpuState, Fault, FxState, Gva, Mode, Reg, Seg, SegAttr, Segment, Vector, eflags};
use xlat86_decoder::{decode_insn, repeats};
use xlat86_host::{Compat, CompatState, Window, scratch_low, scratch_window, signals, unmap_scratch_low};
use xlat86_interp::{Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};
use xlat86_vcpu::{Config, Engine, Exit, Process, TranslatorConfig, Vcpu};

/// Filler around code: INT3, which ends a program.
const INT3: u8 = 0xcc;
/// INT 80H, at which a program is resumed.
const SYSCALL: u8 = 0x80;
/// What programs find in FS.
pub const FS_BASE: u32 = DATA + 0x40;
/// What programs find in GS: addresses in the data wrap at 4 GB.
pub const GS_BASE: u32 = 0x123u32.wrapping_neg();

/// Code, and the state to run it from.
#[derive(Clone, Debug)]
pub struct Program {
    /// Registers; EIP says where to start.
    pub cpu: CpuState,
    /// Guest addresses of memory and what it holds. The first range is code.
    pub memory: Vec<(u32, Vec<u8>)>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Why.
    pub exit: Exit,
    /// Registers.
    pub cpu: CpuState,
    /// Contents of each range of memory.
    pub memory: Vec<Vec<u8>>,
}

impl Finish {
    fn registers(&self) -> Registers<'_> {
        Registers { gpr: &self.cpu.gpr, eip: self.cpu.eip, eflags: self.cpu.eflags, fx: &self.cpu.fx }
    }
}

/// A user program's state with thread-local storage behind FS and GS.
#[must_use]
pub fn with_tls() -> CpuState {
    let mut cpu = CpuState::linux_user();
    let data = |selector, base| Segment { base, ..Segment::flat(selector, SegAttr::DATA32.with_dpl(3)) };
    cpu.seg[Seg::Fs as usize] = data(0x6b, FS_BASE);
    cpu.seg[Seg::Gs as usize] = data(0x63, GS_BASE);
    cpu
}

impl Program {
    /// `code` at [`AT`] with `data` in the data page, surrounded by INT3.
    #[must_use]
    pub fn new(cpu: CpuState, code: &[u8], code_len: usize, data: Vec<u8>) -> Program {
        let mut page = vec![INT3; code_len];
        let at = (AT - CODE) as usize;
        page[at..at + code.len()].copy_from_slice(code);
        Program { cpu: CpuState { eip: AT, ..cpu }, memory: vec![(CODE, page), (DATA, data)] }
    }

    /// The memory of the programs that [`Program::from_case`] makes.
    pub const CASE_LAYOUT: [Range<u32>; 2] = [CODE..CODE + 0x1000, DATA..DATA + DATA_LEN];
    /// The memory of the programs that [`Program::from_fpu_case`] makes.
    pub const FPU_LAYOUT: [Range<u32>; 2] = [fpu::CODE..fpu::CODE + 0x1000, fpu::DATA_PAGE..fpu::DATA_PAGE + 0x1000];

    /// An integer case, with the segments of `cpu`.
    #[must_use]
    pub fn from_case(case: &Case, cpu: CpuState) -> Program {
        let cpu = CpuState { gpr: case.regs.gpr, eflags: case.regs.eflags | eflags::IF, fx: case.regs.fx, ..cpu };
        Program::new(cpu, &case.bytes, 0x1000, case.data())
    }

    /// A floating-point case.
    #[must_use]
    pub fn from_fpu_case(case: &fpu::Case) -> Program {
        let (mut code, mut data) = (vec![INT3; 0x1000], vec![0; 0x1000]);
        code[..case.code.len()].copy_from_slice(&case.code);
        let at = (fpu::MEMORY - fpu::DATA_PAGE) as usize;
        data[at..].copy_from_slice(&case.memory);
        // The x87's pointers don't survive a task switch on some hosts: start without.
        let mut cpu = case.cpu();
        (cpu.fx.fip, cpu.fx.fcs, cpu.fx.fdp, cpu.fx.fds, cpu.fx.fop) = (0, 0, 0, 0, 0);
        Program { cpu, memory: vec![(fpu::CODE, code), (fpu::DATA_PAGE, data)] }
    }
}

fn prepare(window: Window, ranges: &[Range<u32>]) -> Arc<FlatSpace> {
    let space = Arc::new(FlatSpace::new(window));
    // As the host CPU sees it: only the first is code.
    for (i, r) in ranges.iter().enumerate() {
        let prot = Prot { mapped: true, read: true, write: true, exec: i == 0, shared: false };
        space.set_prot(Gva(r.start), r.end - r.start, prot);
    }
    space
}

fn contents(window: Window, p: &Program) -> Vec<Vec<u8>> {
    let read = |(at, bytes): &(u32, Vec<u8>)| {
        let mut now = vec![0; bytes.len()];
        window.read_bytes(*at, &mut now).expect("the memory is mapped");
        now
    };
    p.memory.iter().map(read).collect()
}

/// A digest of what is exact at an instruction boundary. In front of a repeated string instruction any number of its iterations may
/// have been done: what they change is left out.
fn boundary(cpu: &CpuState, window: Window, flags: u32) -> u64 {
    let (mut h, mut gpr, mut eflags) = (DefaultHasher::new(), cpu.gpr, cpu.eflags & flags);
    let mut bytes = [0; 15];
    let n = window.read_bytes(cpu.eip, &mut bytes).map_or_else(|(n, _)| n, |()| bytes.len());
    let insn = decode_insn(&bytes[..n], cpu.eip, Mode::USER32, CpuModel::MAX.features);
    if insn.is_some_and(|i| repeats(i.code()) && (i.iced.has_rep_prefix() || i.iced.has_repne_prefix())) {
        (gpr[Reg::Ecx as usize], gpr[Reg::Esi as usize], gpr[Reg::Edi as usize], eflags) = (0, 0, 0, 0);
    }
    (gpr, cpu.eip, eflags).hash(&mut h);
    h.finish()
}

/// The interpreter, one instruction at a time.
pub struct Stepper {
    interp: Interp,
    mmu: Mmu,
    window: Window,
}

impl Stepper {
    /// # Errors
    /// The host has no room for a guest window.
    pub fn new(ranges: &[Range<u32>]) -> io::Result<Stepper> {
        let window = scratch_window(ranges)?;
        Ok(Stepper { interp: Interp::new(CpuModel::MAX), mmu: Mmu::flat(prepare(window, ranges)), window })
    }

    /// Runs `p`, for at most `limit` instructions; `None` when it takes more.
    pub fn run(&mut self, p: &Program, limit: u64) -> Option<Finish> {
        self.trace(p, limit, |_, _| {})
    }

    /// Like [`Stepper::run`], with a digest of the state at every instruction boundary, flags as far as `flags` selects them.
    pub fn boundaries(&mut self, p: &Program, limit: u64, flags: u32) -> Option<(Finish, HashSet<u64>)> {
        let mut seen = HashSet::new();
        let finish = self.trace(p, limit, |cpu, window| _ = seen.insert(boundary(cpu, window, flags)))?;
        Some((finish, seen))
    }

    /// Like [`Stepper::run`]; `note` sees the state and the memory before every instruction.
    pub fn trace(&mut self, p: &Program, limit: u64, mut note: impl FnMut(&CpuState, Window)) -> Option<Finish> {
        for (at, bytes) in &p.memory {
            self.window.write_bytes(*at, bytes).expect("the memory is mapped");
        }
        let mut cpu = p.cpu.clone();
        for _ in 0..limit {
            note(&cpu, self.window);
            let exit = match self.interp.step(&mut cpu, &mut self.mmu, &mut fpu::Silicon) {
                Stop::Budget | Stop::SoftInt(SYSCALL) => continue,
                Stop::Fault(f) => Exit::Fault(f),
                Stop::SoftInt(v) => Exit::SoftInt(v),
                Stop::Halt => Exit::Halt,
                Stop::Interrupted | Stop::Window => Exit::Interrupted,
                Stop::Unimplemented(code) => Exit::Unimplemented(format!("{code:?}")),
            };
            return Some(Finish { exit, cpu, memory: contents(self.window, p) });
        }
        None
    }
}

/// The host CPU, in compatibility mode. It runs programs of one instruction, without segment bases and system calls.
pub struct Silicon {
    compat: Compat,
}

impl Silicon {
    /// # Errors
    /// Something else is at the addresses of `ranges`.
    pub fn new(ranges: &[Range<u32>]) -> io::Result<Silicon> {
        Ok(Silicon { compat: Compat::new(ranges)? })
    }

    /// Runs `p`, whose memory is exactly the ranges, to its first exception.
    pub fn run(&mut self, p: &Program) -> Finish {
        /// Vectors with an error code (SDM vol. 3A, 6.3.1).
        const WITH_ERROR: u32 = 1 << 8 | 0x1f << 10 | 1 << 17;
        for (i, (_, bytes)) in p.memory.iter().enumerate() {
            self.compat.memory(i).copy_from_slice(bytes);
        }
        let mut s = CompatState::default();
        (s.gpr, s.eip, s.eflags, s.fx) = (p.cpu.gpr, p.cpu.eip, p.cpu.eflags.into(), p.cpu.fx.to_bytes());
        let fault = self.compat.run(&mut s);
        let mut cpu = CpuState { gpr: s.gpr, eip: s.eip, fx: FxState::from_bytes(&s.fx), ..p.cpu.clone() };
        let seen = eflags::LIVE | eflags::AC | eflags::ID;
        cpu.eflags = s.eflags as u32 & seen | p.cpu.eflags & !seen;
        let exit = match fault.trapno {
            3 | 4 => Exit::SoftInt(fault.trapno as u8),
            vector => Exit::Fault(Fault {
                vector: Vector(vector as u8),
                error: (WITH_ERROR >> vector & 1 != 0).then_some(fault.error),
                addr: Gva(if vector == 14 { fault.addr as u32 } else { 0 }),
            }),
        };
        let memory = (0..p.memory.len()).map(|i| self.compat.memory(i).to_vec()).collect();
        Finish { exit, cpu, memory }
    }
}

static LOW: Mutex<()> = Mutex::new(());

/// The low 4 GB, of which a process has only one.
pub struct LowMemory {
    window: Window,
    ranges: Vec<Range<u32>>,
    _only: MutexGuard<'static, ()>,
}

impl LowMemory {
    /// Maps `ranges`.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(ranges: &[Range<u32>]) -> io::Result<LowMemory> {
        let only = LOW.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(LowMemory { window: scratch_low(ranges)?, ranges: ranges.to_vec(), _only: only })
    }

    /// Where it is.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// A CPU in it.
    ///
    /// # Panics
    /// The host refuses memory for a translation cache.
    #[must_use]
    pub fn cpu(&self, engine: Engine, translator: TranslatorConfig) -> Translated<'_> {
        let space = prepare(self.window, &self.ranges);
        let config = Config { engine, translator, ..Config::default() };
        let cpu = Vcpu::new(&Process::new(space, config).expect("a translation cache")).expect("a CPU");
        Translated { low: self, cpu }
    }
}

impl Drop for LowMemory {
    fn drop(&mut self) {
        unmap_scratch_low(&self.ranges);
    }
}

/// A CPU that runs translated code.
pub struct Translated<'a> {
    low: &'a LowMemory,
    cpu: Vcpu,
}

impl Translated<'_> {
    /// Runs `p` to its end, or until a [`Kicker`] has stopped it too often for a program that ends.
    pub fn run(&mut self, p: &Program) -> Finish {
        const PATIENCE: u32 = 8;
        let mut kicks = 0;
        self.run_interrupted(p, |_, _| {
            kicks += 1;
            kicks < PATIENCE
        })
    }

    /// Like [`Translated::run`]; `interrupted` sees the state whenever another thread's kick has stopped it, and says whether to go on.
    pub fn run_interrupted(&mut self, p: &Program, mut interrupted: impl FnMut(&CpuState, Window) -> bool) -> Finish {
        self.release();
        for (at, bytes) in &p.memory {
            self.low.window.write_bytes(*at, bytes).expect("the memory is mapped");
        }
        *self.cpu.fx_mut() = p.cpu.fx;
        *self.cpu.state_mut() = p.cpu.clone();
        let exit = loop {
            match self.cpu.run() {
                Exit::SoftInt(SYSCALL) => {}
                Exit::Interrupted => {
                    forget_kicks();
                    if !interrupted(self.cpu.state(), self.low.window) {
                        break Exit::Interrupted;
                    }
                }
                exit => break exit,
            }
        };
        self.cpu.fx();
        let finish = Finish { exit, cpu: self.cpu.state().clone(), memory: contents(self.low.window, p) };
        self.release();
        finish
    }

    /// Drops all translations, so that their pages are writable for everybody.
    fn release(&mut self) {
        for r in &self.low.ranges {
            self.cpu.process().prepare_write(Gva(r.start), r.end - r.start);
        }
    }

    /// Events so far after which flags that were provably dead may be alive: a return that didn't come back to its call, or a
    /// change of the code that the proof was about.
    pub fn revivals(&mut self) -> u64 {
        self.cpu.publish_stats();
        let stats = self.cpu.process().stats();
        stats.return_mismatches + stats.code_writes
    }
}

/// Lets a CPU that was kicked out of guest code in again.
pub(crate) fn forget_kicks() {
    while signals::take_pending().is_some() {}
    signals::set_mask(0);
}

/// Is `cpu` at a boundary that `seen` holds?
#[must_use]
pub fn is_boundary(seen: &HashSet<u64>, cpu: &CpuState, window: Window, flags: u32) -> bool {
    seen.contains(&boundary(cpu, window, flags))
}

/// The translator's settings, each switched off by itself, with their names.
#[must_use]
pub fn configurations() -> Vec<(&'static str, TranslatorConfig)> {
    let d = TranslatorConfig { cache_size: 2 << 20, ..TranslatorConfig::default() };
    vec![
        ("default", d),
        ("replayed=on", TranslatorConfig { replayed: true, ..d }),
        ("lazy-esp=off", TranslatorConfig { lazy_esp: false, ..d }),
        ("return-pairing=off", TranslatorConfig { return_pairing: false, ..d }),
        ("flag-liveness=off", TranslatorConfig { flag_liveness: false, ..d }),
        ("chaining=off", TranslatorConfig { chaining: false, ..d }),
        ("max-insns=1", TranslatorConfig { max_insns: 1, ..d }),
        ("cache=tiny", TranslatorConfig { cache_size: 1, ..d }),
    ]
}

/// How `got` differs from `want`, leaving out what `except` lists. The x87 pointers aren't compared: the host
/// forgets them at task switches.
#[must_use]
pub fn difference(want: &Finish, got: &Finish, except: &Undefined) -> Option<String> {
    let faults = |f: &Finish| matches!(f.exit, Exit::Fault(_));
    let mut out = Differences::default();
    if !(except.which_fault && faults(want) && faults(got)) {
        out.note("exit", &want.exit, &got.exit);
    }
    out.registers(want.registers(), got.registers(), except, faults(want));
    for (r, (a, b)) in want.memory.iter().zip(&got.memory).enumerate() {
        if let Some(i) = a.iter().zip(b).position(|(a, b)| a != b) {
            let end = a.len().min(i + 8);
            out.note(&format!("range {r} from byte {i:x}"), &&a[i..end], &&b[i..end]);
        }
    }
    out.text()
}

/// Kicks the thread that made it, again and again, out of whatever guest code it runs, until it is dropped.
pub struct Kicker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kicker {
    /// One kick every `interval`.
    #[must_use]
    pub fn every(interval: Duration) -> Kicker {
        let (stop, pid, tid) = (Arc::new(AtomicBool::new(false)), signals::process_id(), signals::thread_id());
        let stopped = stop.clone();
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(interval);
                signals::kick(pid, tid);
            }
        };
        Kicker { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
