//! Lockstep: each translated block is replayed by the interpreter, and compared.
//!
//! The interpreter goes first, with a record of what it changes in memory, which is taken back; then the translated block runs from the
//! same state. All of the CPU's state and every byte that the interpreter changed must then be the same: accessed and dirty bits of
//! page tables are such bytes. Units are single basic blocks without chaining or pairing, so that each leaves by itself, and keep even
//! dead flags.
//!
//! Nothing happens twice that must not: what reaches devices or reads clocks isn't replayed. The replay ends before such an access, and
//! translated code leaves there, too; the interpreter then executes that instruction, once.
//!
//! In a user program blocks run one at a time per process, and with signals held back: another thread's writes would look like differences.

mod report;
#[cfg(test)]
mod tests;

use crate::dbt::Then;
use crate::fx::Home;
use crate::system_dbt::Outside;
use crate::{Exit, Vcpu};
use iced_x86::Instruction;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xlat86_arch::{CpuState, Fault, Gva, Mode, Reg, eflags};
use xlat86_decoder::{Block, Unit, decode_block, unit_of};
use xlat86_host::{Left, signals};
use xlat86_interp::Stop;
use xlat86_softmmu::Change;
use xlat86_translator::{CodeKey, Config};

/// Blocks that a thread runs before others, and signals, have their turn.
const TURN: u32 = 256;

/// Serialises the blocks of all threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the running block to end, and keeps others from starting.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The translator settings that lockstep needs, made from the user's.
pub(crate) fn config(from: &Config) -> Config {
    Config {
        chaining: false,
        return_pairing: false,
        flag_liveness: false,
        extended: false,
        self_checking: false,
        ..*from
    }
}

/// Iterations of a string instruction that are compared at a time: a replay is never so long that what interrupts translated code comes before it
/// is entered.
const SLICE: u32 = 1024;

/// Blocks that are remembered.
const KNOWN: usize = 1 << 14;

/// What has to be known about a block to compare it.
#[derive(Clone, Copy)]
struct Known {
    key: CodeKey,
    generation: u64,
    /// Arena offset of its host code.
    offset: u32,
    /// Guest instructions and bytes.
    insns: u32,
    len: u32,
    /// The translator itself would have the interpreter execute this: nothing to compare.
    leaves: bool,
    /// It may use x87, MMX or SSE state.
    float: bool,
    /// It is a repeated string instruction.
    repeated: Option<Repeat>,
}

/// How a repeated string instruction ends, but by its count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Repeat {
    ByCount,
    /// By ZF as given.
    WhenZf(bool),
}

/// What lockstep keeps from block to block.
pub(crate) struct Lockstep {
    known: Box<[Option<Known>]>,
    before: CpuState,
    /// What the interpreter made of it.
    expected: CpuState,
    /// The guest's exception that ended the replay.
    fault: Option<Fault>,
    /// Instructions that the interpreter has retired in the replay.
    insns: u64,
    /// What the interpreter changed.
    changes: Vec<Change>,
    /// What page walks on behalf of translated code changed.
    walks: Vec<Change>,
}

impl Lockstep {
    pub(crate) fn new() -> Lockstep {
        Lockstep {
            known: vec![None; KNOWN].into_boxed_slice(),
            before: CpuState::linux_user(),
            expected: CpuState::linux_user(),
            fault: None,
            insns: 0,
            changes: Vec::new(),
            walks: Vec::new(),
        }
    }
}

/// Where translated code claims to have come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It has executed the whole block.
    Whole,
    /// It is about to execute the instruction at EIP, maybe behind the block.
    Before,
}

impl Vcpu {
    pub(crate) fn run_lockstep(&mut self) -> Exit {
        loop {
            let turn = turn();
            let mask = signals::mask();
            signals::set_mask(u64::MAX);
            let exit =
                (0..TURN).find_map(|_| if Self::pending() { Some(Exit::Interrupted) } else { self.lockstep_block() });
            signals::set_mask(mask);
            drop(turn);
            self.process.world.come_out(&self.me);
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Runs one block of a user program on both engines. `None`: go on.
    fn lockstep_block(&mut self) -> Option<Exit> {
        self.process.world.go_inside(&self.me);
        self.see_changes();
        let known = if self.translatable() { self.known_flat() } else { None };
        let Some(block) = known.filter(|b| !b.leaves) else {
            self.process.world.come_out(&self.me);
            return self.interpret_one();
        };
        // Making room for it may have changed the generation.
        self.memo.see(self.process.generation());
        let claim = |then: &Then| match then {
            Then::Connect(_) => Claim::Whole,
            Then::Interpret | Then::Faulted | Then::Exit(_) => Claim::Before,
        };
        match self.compared(block, |cpu| cpu.enter_at(block.offset), claim) {
            Ok(then) => self.follow(then, &mut None),
            Err(text) => {
                self.process.world.come_out(&self.me);
                Some(Exit::Diverged(text))
            }
        }
    }

    /// Runs one block of a system, whose translation under `mode` is at `offset`, on both engines. The text says what differs.
    pub(crate) fn lockstep_system(&mut self, mode: Mode, offset: u32) -> Result<Outside, String> {
        let page = self.mmu.code_page(Gva(self.state.eip)).unwrap_or_default();
        let key = CodeKey::new(self.state.eip, page, mode);
        let generation = self.process.generation();
        let block = match self.remembered(key, generation) {
            Some(block) => Some(block),
            None => self.learn(key, offset, generation),
        };
        let Some(block) = block.filter(|b| !b.leaves) else { return Ok(Outside::Interpret) };
        if Self::pending() {
            return Ok(Outside::Stopped);
        }
        // Gone while code is translated: see `fill_system_frame`.
        self.state.eflags &= !eflags::RF;
        let claim = |outside: &Outside| match outside {
            Outside::Connect(_) => Claim::Whole,
            Outside::Go | Outside::Cross(_) | Outside::Careful(_) | Outside::Interpret | Outside::Stopped => {
                Claim::Before
            }
        };
        self.compared(block, |cpu| cpu.timed(mode, |cpu| cpu.enter_system(offset, None)), claim)
    }

    fn slot(key: CodeKey) -> usize {
        (key.eip() ^ key.eip() >> 14) as usize % KNOWN
    }

    fn remembered(&mut self, key: CodeKey, generation: u64) -> Option<Known> {
        let known = self.lockstep.as_ref().expect("in lockstep").known[Self::slot(key)];
        known.filter(|k| k.key == key && k.generation == generation)
    }

    /// The block at EIP of a user program, translated if need be.
    fn known_flat(&mut self) -> Option<Known> {
        let (eip, mode) = (self.state.eip, self.state.mode());
        let key = CodeKey::flat(eip, mode);
        if let Some(known) = self.remembered(key, self.process.generation()) {
            return Some(known);
        }
        let offset = self.process.code_at(eip, mode, &self.me, None)?;
        self.learn(key, offset, self.process.generation())
    }

    fn learn(&mut self, key: CodeKey, offset: u32, generation: u64) -> Option<Known> {
        let info = self.process.cache().block_at(key)?;
        let mut known = Known {
            key,
            generation,
            offset,
            insns: info.insns,
            len: info.len,
            leaves: info.leaves,
            float: false,
            repeated: None,
        };
        let block = self.decoded(known);
        known.repeated = block.insns.first().and_then(|i| repeat(&i.iced));
        known.float = block.insns.iter().any(|i| unit_of(i.code()) != Unit::Integer);
        self.lockstep.as_mut().expect("in lockstep").known[Self::slot(key)] = Some(known);
        Some(known)
    }

    /// The guest code of `block`, at EIP.
    fn decoded(&mut self, block: Known) -> Block {
        let bytes = self.guest_bytes(block.key.eip(), block.len);
        let features = self.process.config().model.features;
        decode_block(&bytes, block.key.eip(), bytes.len(), self.state.mode(), features, block.insns as usize)
    }

    fn guest_bytes(&mut self, eip: u32, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        // Of the pages that it is on, that can be executed: an observer may read them.
        let _ = self.mmu.peek_bytes(Gva(eip), &mut bytes);
        bytes
    }

    /// Runs `block` by `run` from the current state, after the interpreter has. The text says what differs.
    fn compared<T>(
        &mut self,
        block: Known,
        run: impl FnOnce(&mut Self) -> T,
        claim: impl FnOnce(&T) -> Claim,
    ) -> Result<T, String> {
        let mut l = self.lockstep.take().expect("in lockstep");
        let count = self.state.reg(Reg::Ecx);
        let rest = block.repeated.map_or(0, |_| count.saturating_sub(SLICE));
        self.state.set_reg(Reg::Ecx, count - rest);
        let result = self.compare(&mut l, block, run, claim);
        if let (Some(repeat), true) = (block.repeated, rest != 0) {
            // Every iteration is a boundary: the instruction goes on where this slice of it has ended.
            let left = self.state.reg(Reg::Ecx);
            self.state.set_reg(Reg::Ecx, left + rest);
            let zf = self.state.eflags & eflags::ZF != 0;
            if left == 0 && repeat != Repeat::WhenZf(zf) {
                self.state.eip = block.key.eip();
            }
        }
        self.lockstep = Some(l);
        result
    }

    fn compare<T>(
        &mut self,
        l: &mut Lockstep,
        block: Known,
        run: impl FnOnce(&mut Self) -> T,
        claim: impl FnOnce(&T) -> Claim,
    ) -> Result<T, String> {
        if block.float {
            self.fx_mut();
        }
        copy(&mut l.before, &self.state, block.float);
        self.replay(l, block, u64::from(block.insns), None, &mut []);
        let xmm = self.xmm();
        if self.system.is_some() {
            self.mmu.start_watch();
        }
        let retired = self.interp.retired();
        let ended = run(self);
        if self.system.is_some() {
            self.mmu.sync(&self.state);
            self.mmu.stop_recording(&mut l.walks);
        }
        if block.float {
            self.fx();
        }
        self.stats.lockstep_blocks += 1;
        self.stats.lockstep_insns += u64::from(block.insns);
        if self.left() == Left::NotEntered {
            return Ok(ended);
        }
        let claim = claim(&ended);
        let strayed = l.walks.iter().any(|w| w.old() != w.new_bytes() && !l.changes.iter().any(|c| c.at == w.at));
        if !strayed && self.bears_out(l, block, claim) {
            if !block.float && self.xmm() != xmm {
                return Err(format!("block at {:08x} changes vector registers\n", block.key.eip()));
            }
            self.interp.set_retired(retired + l.insns);
            return Ok(ended);
        }
        // It may have left before the block's end: the instruction at EIP isn't translated for what it has turned out to do, or is where
        // something asynchronous has stopped it. What counts is the state there.
        if claim == Claim::Before {
            self.replay_part(l, block);
        }
        self.interp.set_retired(retired + l.insns);
        if self.bears_out(l, block, claim) {
            return Ok(ended);
        }
        match self.report(l, block, claim) {
            Some(text) => Err(text),
            None => Ok(ended),
        }
    }

    /// What the interpreter makes of `l.before` in `insns` instructions, and of a string instruction behind them repeated `times`: into
    /// `l.expected` and `l.changes`. `places` learn what is there then. Afterwards state and memory are as before, and nothing counts as retired.
    fn replay(&mut self, l: &mut Lockstep, block: Known, insns: u64, times: Option<u32>, places: &mut [Change]) {
        copy(&mut self.state, &l.before, block.float);
        let windowed = self.state.cpl == 3 && block.key.mode().has(Mode::WINDOW);
        self.interp.watch_window(false);
        self.mmu.sync(&self.state);
        self.mmu.start_replay(windowed);
        let (never, retired) = (AtomicBool::new(false), self.interp.retired());
        let mut stop = self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, &never, insns);
        if let (Some(times), Stop::Budget) = (times, stop) {
            let (eip, count) = (self.state.eip, self.state.reg(Reg::Ecx));
            self.state.set_reg(Reg::Ecx, times);
            stop = self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, &never, 1);
            let left = count.wrapping_sub(times).wrapping_add(self.state.reg(Reg::Ecx));
            self.state.set_reg(Reg::Ecx, left);
            self.state.eip = eip;
        }
        l.insns = self.interp.retired() - retired;
        self.interp.set_retired(retired);
        self.mmu.note(places);
        let guests = !self.mmu.was_barred() && self.mmu.take_code_write().is_none();
        l.fault = if let Stop::Fault(fault) = stop { Some(fault).filter(|_| guests) } else { None };
        copy(&mut l.expected, &self.state, block.float);
        // See `fill_system_frame` again.
        l.expected.eflags &= !eflags::RF;
        copy(&mut self.state, &l.before, block.float);
        self.mmu.sync(&self.state);
        self.mmu.stop_recording(&mut l.changes);
        self.mmu.take_back(&l.changes);
        let awaited = self.system.as_ref().is_some_and(|s| s.window_wanted);
        self.interp.watch_window(awaited);
    }

    /// Replays `block` up to the instruction that translated code has left at, which may be a string instruction under way.
    fn replay_part(&mut self, l: &mut Lockstep, block: Known) {
        let insns = self.decoded(block).insns;
        let Some(n) = insns.iter().position(|i| i.eip() == self.state.eip) else { return };
        let mut got = self.state.clone();
        // The replay has to find memory as it was; then translated code's writes are put back.
        let whole = l.changes.clone();
        let mut made = whole.clone();
        self.mmu.note(&mut made);
        let walks = l.walks.clone();
        self.mmu.take_back(&walks);
        self.mmu.take_back(&made);
        let mut all = made.clone();
        self.replay(l, block, n as u64, None, &mut all);
        let times = l.expected.reg(Reg::Ecx).wrapping_sub(got.reg(Reg::Ecx));
        if block.repeated.is_some() && times != 0 && l.expected.eip == got.eip {
            self.replay(l, block, n as u64, Some(times), &mut all);
        }
        // Where the rest of the block would have written, nothing may have been; but an access that is about to be tried again has had
        // its walk.
        for (part, whole) in all.iter_mut().zip(&whole) {
            if walks.iter().any(|w| w.at == part.at) {
                *part = *whole;
            }
        }
        l.changes = all;
        self.mmu.put_back(&made);
        self.mmu.put_back(&walks);
        core::mem::swap(&mut self.state, &mut got);
        self.mmu.sync(&self.state);
    }

    /// Is everything as expected?
    fn bears_out(&mut self, l: &Lockstep, block: Known, claim: Claim) -> bool {
        // If the instruction at EIP raises a fault the interpreter will find out.
        let fault = claim == Claim::Whole && l.fault.is_some();
        !fault && same(&l.expected, &self.state, block.float) && l.changes.iter().all(|c| self.mmu.holds(c))
    }

    /// XMM0 to XMM7, wherever they are.
    fn xmm(&mut self) -> [u128; 8] {
        match self.fx_home {
            Home::Host => self.frame.as_mut().expect("translating").regs().xmm,
            Home::State | Home::Both => core::array::from_fn(|i| self.state.fx.xmm[i]),
        }
    }
}

/// How `i` ends, if it is a repeated string instruction.
fn repeat(i: &Instruction) -> Option<Repeat> {
    if !i.is_string_instruction() || !i.has_rep_prefix() && !i.has_repne_prefix() {
        return None;
    }
    let compares = matches!(i.op_code().op_code() & !1, 0xa6 | 0xae);
    Some(if compares { Repeat::WhenZf(i.has_repne_prefix()) } else { Repeat::ByCount })
}

/// Copies a CPU's state, with the floating-point part if that matters.
fn copy(to: &mut CpuState, from: &CpuState, float: bool) {
    if float {
        to.clone_from(from);
        return;
    }
    let CpuState { gpr, eip, eflags, seg, ldtr, tr, gdtr, idtr, cr0, cr2, cr3, cr4, dr, msr, fx: _, .. } = from;
    (to.gpr, to.eip, to.eflags, to.seg) = (*gpr, *eip, *eflags, *seg);
    (to.ldtr, to.tr, to.gdtr, to.idtr) = (*ldtr, *tr, *gdtr, *idtr);
    (to.cr0, to.cr2, to.cr3, to.cr4, to.dr, to.msr) = (*cr0, *cr2, *cr3, *cr4, *dr, *msr);
    (to.cpl, to.interrupt_shadow, to.halted, to.nmi_masked) =
        (from.cpl, from.interrupt_shadow, from.halted, from.nmi_masked);
}

/// Are two CPUs in the same state, with the floating-point part if that matters?
fn same(a: &CpuState, b: &CpuState, float: bool) -> bool {
    let (x, y) = (&a.fx, &b.fx);
    let registers = (a.gpr, a.eip, a.eflags, a.seg) == (b.gpr, b.eip, b.eflags, b.seg)
        && (a.ldtr, a.tr, a.gdtr, a.idtr) == (b.ldtr, b.tr, b.gdtr, b.idtr)
        && (a.cr0, a.cr2, a.cr3, a.cr4, a.dr, a.msr) == (b.cr0, b.cr2, b.cr3, b.cr4, b.dr, b.msr)
        && (a.cpl, a.interrupt_shadow, a.halted, a.nmi_masked) == (b.cpl, b.interrupt_shadow, b.halted, b.nmi_masked);
    let float_same =
        || (x.fcw, x.fsw, x.ftw, x.mxcsr) == (y.fcw, y.fsw, y.ftw, y.mxcsr) && x.st == y.st && x.xmm == y.xmm;
    registers && (!float || float_same())
}
