//! Lockstep: whatever translated code does is replayed by the interpreter, and compared.
//!
//! The interpreter goes first, on the way that translated code will go ([`plan`]), with a record of what it changes in memory, which is taken
//! back; then translated code runs from the same state. All of the CPU's state and every byte that the interpreter changed must then be the same:
//! accessed and dirty bits of page tables are such bytes. Units are what users run, but for being unchained, so that each leaves by itself.
//!
//! Nothing happens twice that must not: what reaches devices or reads clocks isn't replayed. The replay ends before such an access, and
//! translated code leaves there, too; the interpreter then executes that instruction, once.
//!
//! In a user program translated code runs for one thread at a time per process, and with signals held back: another thread's writes would look
//! like differences.

mod plan;
mod report;
mod state;
#[cfg(test)]
mod tests;

use crate::crossing::Cross;
use crate::dbt::Then;
use crate::fx::Home;
use crate::process::Connect;
use crate::system_dbt::Outside;
use crate::{Exit, Vcpu};
use iced_x86::Instruction;
use plan::{Path, Plan, Return};
use state::{copy, same};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xlat86_arch::{CpuState, Fault, Gva, Mode, Reg, eflags};
use xlat86_decoder::{Block, Blocks};
use xlat86_host::signals;
use xlat86_interp::Stop;
use xlat86_softmmu::Change;
use xlat86_translator::{CodeKey, Config};

/// Entries that a thread makes before others, and signals, have their turn.
const TURN: u32 = 256;

/// Serialises the entries of all threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the running code to leave, and keeps others from entering.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The translator settings that lockstep needs, made from the user's.
pub(crate) fn config(from: &Config) -> Config {
    Config { chaining: false, replayed: true, ..*from }
}

/// Iterations of a string instruction that are compared at a time: a replay is never so long that what interrupts translated code comes before it
/// is entered.
const SLICE: u32 = 1024;

/// Units that are remembered.
const KNOWN: usize = 1 << 14;

/// Returns that are followed; calls nested deeper start anew.
const RETURNS: usize = 256;

/// A unit.
#[derive(Clone)]
struct Known {
    key: CodeKey,
    generation: u64,
    /// Arena offset of its host code.
    offset: u32,
    plan: Rc<Plan>,
}

/// How a repeated string instruction ends, but by its count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Repeat {
    ByCount,
    /// By ZF as given.
    WhenZf(bool),
}

/// What lockstep keeps from entry to entry.
pub(crate) struct Lockstep {
    known: Box<[Option<Known>]>,
    /// What the host's return stack holds, or more: see [`plan`].
    returns: Vec<Return>,
    /// Generation of the code and privilege level that `returns` are of.
    returns_of: (u64, u8),
    /// Code that may use x87, MMX or SSE state may be run.
    float: bool,
    /// It reaches memory through a window.
    windowed: bool,
    /// The latest way gone, for its memory.
    path: Option<Path>,
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
            returns: Vec::new(),
            returns_of: (0, 0),
            float: false,
            windowed: false,
            path: None,
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
    /// The instruction before EIP has been executed.
    Behind,
    /// It is about to execute the instruction at EIP.
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

    /// Runs a user program on both engines until translated code leaves. `None`: go on.
    fn lockstep_block(&mut self) -> Option<Exit> {
        self.process.world.go_inside(&self.me);
        self.see_changes();
        let known = if self.translatable() { self.known_flat() } else { None };
        let Some(Known { offset, plan, .. }) = known.filter(|k| !k.plan.leaves()) else {
            self.process.world.come_out(&self.me);
            return self.interpret_one();
        };
        // Making room for it may have changed the generation.
        self.memo.see(self.process.generation());
        let claim = |then: &Then| match then {
            Then::Connect(_) => Claim::Behind,
            Then::Interpret | Then::Faulted | Then::Exit(_) => Claim::Before,
        };
        match self.compared(&plan, |cpu| cpu.enter_at(offset), claim) {
            Ok(Then::Connect(how @ Connect::Changed { .. })) => {
                let (eip, mode) = (self.state.eip, self.state.mode());
                // Makes the unit anew.
                let _ = self.process.code_at(eip, mode, &self.me, Some(how));
                None
            }
            Ok(then) => self.follow(then, &mut None),
            Err(text) => {
                self.process.world.come_out(&self.me);
                Some(Exit::Diverged(text))
            }
        }
    }

    /// Runs a system, whose translation under `mode` is at `offset`, on both engines until translated code leaves. The text says what differs.
    pub(crate) fn lockstep_system(&mut self, mode: Mode, offset: u32, cross: Option<Cross>) -> Result<Outside, String> {
        let page = self.mmu.code_page(Gva(self.state.eip)).unwrap_or_default();
        let key = CodeKey::new(self.state.eip, page, mode);
        let generation = self.process.generation();
        let known = match self.remembered(key, generation) {
            Some(known) => Some(known),
            None => self.learn(key, offset, generation),
        };
        let Some(Known { offset, plan, .. }) = known.filter(|k| !k.plan.leaves()) else {
            return Ok(Outside::Interpret);
        };
        if Self::pending() {
            return Ok(Outside::Stopped);
        }
        // Gone while code is translated: see `fill_system_frame`.
        self.state.eflags &= !eflags::RF;
        let claim = |outside: &Outside| match outside {
            Outside::Connect(_) => Claim::Behind,
            Outside::Go | Outside::Cross(_) | Outside::Careful(_) | Outside::Interpret | Outside::Stopped => {
                Claim::Before
            }
        };
        self.compared(&plan, |cpu| cpu.timed(mode, |cpu| cpu.enter_system(offset, cross)), claim)
    }

    fn slot(key: CodeKey) -> usize {
        (key.eip() ^ key.eip() >> 14) as usize % KNOWN
    }

    fn remembered(&mut self, key: CodeKey, generation: u64) -> Option<Known> {
        let known = &self.lockstep.as_ref().expect("in lockstep").known[Self::slot(key)];
        known.as_ref().filter(|k| k.key == key && k.generation == generation).cloned()
    }

    /// The unit at EIP of a user program, translated if need be.
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
        let info = self.process.cache().block_at(key, offset)?;
        let bytes = self.guest_bytes(key.eip(), info.len);
        let (model, eip) = (self.process.config().model, key.eip());
        let mut blocks = Blocks::new(&bytes, eip, bytes.len(), self.state.mode(), model.features);
        let mut block = Block::default();
        while (block.insns.len() as u32) < info.insns {
            let before = block.insns.len();
            blocks.next_into(&mut block, info.insns as usize - before);
            if block.insns.len() == before {
                break;
            }
        }
        let plan = Rc::new(Plan::new(key, info, block));
        let known = Known { key, generation, offset, plan };
        self.lockstep.as_mut().expect("in lockstep").known[Self::slot(key)] = Some(known.clone());
        Some(known)
    }

    fn guest_bytes(&mut self, eip: u32, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        // Of the pages that it is on, that can be executed: an observer may read them.
        let _ = self.mmu.peek_bytes(Gva(eip), &mut bytes);
        bytes
    }

    /// Runs the code of `plan` by `run` from the current state, after the interpreter has. The text says what differs.
    fn compared<T>(
        &mut self,
        plan: &Rc<Plan>,
        run: impl FnOnce(&mut Self) -> T,
        claim: impl FnOnce(&T) -> Claim,
    ) -> Result<T, String> {
        let mut l = self.lockstep.take().expect("in lockstep");
        let count = self.state.reg(Reg::Ecx);
        let rest = plan.repeated.map_or(0, |_| count.saturating_sub(SLICE));
        self.state.set_reg(Reg::Ecx, count - rest);
        let result = self.compare(&mut l, plan, run, claim);
        if let (Some(repeat), true) = (plan.repeated, rest != 0) {
            // Every iteration is a boundary: the instruction goes on where this slice of it has ended.
            let left = self.state.reg(Reg::Ecx);
            self.state.set_reg(Reg::Ecx, left + rest);
            let zf = self.state.eflags & eflags::ZF != 0;
            if left == 0 && repeat != Repeat::WhenZf(zf) {
                self.state.eip = plan.key.eip();
            }
        }
        self.lockstep = Some(l);
        result
    }

    fn compare<T>(
        &mut self,
        l: &mut Lockstep,
        plan: &Rc<Plan>,
        run: impl FnOnce(&mut Self) -> T,
        claim: impl FnOnce(&T) -> Claim,
    ) -> Result<T, String> {
        let now = (self.process.generation(), self.state.cpl);
        if l.returns_of != now || l.returns.len() > RETURNS {
            l.returns_of = now;
            self.forget_returns(l);
        }
        l.float = plan.float || l.returns.last().is_some_and(|r| r.float);
        l.windowed = plan.key.mode().has(Mode::WINDOW);
        if l.float {
            self.fx_mut();
        }
        copy(&mut l.before, &self.state, l.float);
        let mut path = Path::new(plan.clone(), l.path.take());
        let returns = core::mem::take(&mut l.returns);
        self.replay(l, None, &mut [], &mut |done, eip| path.next(&returns, done, eip));
        l.returns = returns;
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
        if l.float {
            self.fx();
        }
        let claim = claim(&ended);
        let whole = !self.strays(l) && (self.bears_out(l, claim) || self.differences(l, &path, claim).is_empty());
        // It may have left on the way: the instruction at EIP isn't translated for what it has turned out to do, or is where something asynchronous
        // has stopped it. What counts is the state there.
        let result = if whole || self.bears_out_earlier(l, &path, plan, claim) {
            if l.float || self.xmm() == xmm {
                Ok(ended)
            } else {
                Err(format!("code at {:08x} changes vector registers\n", plan.key.eip()))
            }
        } else {
            self.report(l, &path, plan, claim).map_or(Ok(ended), Err)
        };
        if !whole || !path.settle(&mut l.returns) {
            self.forget_returns(l);
        }
        l.path = Some(path);
        self.interp.set_retired(retired + l.insns);
        self.stats.lockstep_blocks += 1;
        self.stats.lockstep_insns += l.insns;
        result
    }

    /// From now on code returns to nowhere.
    fn forget_returns(&mut self, l: &mut Lockstep) {
        l.returns.clear();
        self.frame.as_mut().expect("translating").reset_all_returns();
    }

    /// What the interpreter makes of `l.before` in as many instructions as `next` says ([`xlat86_interp::Interp::run_by`]), and of a string
    /// instruction behind them repeated `times`: into `l.expected` and `l.changes`. `places` learn what is there then. Afterwards state and memory are
    /// as before, and nothing counts as retired.
    fn replay(
        &mut self,
        l: &mut Lockstep,
        times: Option<u32>,
        places: &mut [Change],
        next: &mut impl FnMut(u64, u32) -> u64,
    ) {
        copy(&mut self.state, &l.before, l.float);
        self.interp.watch_window(false);
        self.mmu.sync(&self.state);
        self.mmu.start_replay(l.windowed);
        let (never, retired) = (AtomicBool::new(false), self.interp.retired());
        let mut stop = self.interp.run_by(&mut self.state, &mut self.mmu, &mut self.platform, &never, next);
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
        copy(&mut l.expected, &self.state, l.float);
        // See `fill_system_frame` again.
        l.expected.eflags &= !eflags::RF;
        copy(&mut self.state, &l.before, l.float);
        self.mmu.sync(&self.state);
        self.mmu.stop_recording(&mut l.changes);
        self.mmu.take_back(&l.changes);
        let awaited = self.system.as_ref().is_some_and(|s| s.window_wanted);
        self.interp.watch_window(awaited);
    }

    /// Replays `path` up to each place at which translated code may have left, until one bears out what it claims.
    fn bears_out_earlier(&mut self, l: &mut Lockstep, path: &Path, plan: &Plan, claim: Claim) -> bool {
        let got = self.state.clone();
        // The replay has to find memory as it was; then translated code's writes are put back.
        let whole = l.changes.clone();
        let mut made = whole.clone();
        self.mmu.note(&mut made);
        let walks = l.walks.clone();
        for position in path.positions(got.eip) {
            self.mmu.take_back(&walks);
            self.mmu.take_back(&made);
            let mut all = made.clone();
            let n = position.done;
            let mut up_to = |done, _| n - done;
            self.replay(l, None, &mut all, &mut up_to);
            let times = l.expected.reg(Reg::Ecx).wrapping_sub(got.reg(Reg::Ecx));
            if plan.repeated.is_some() && times != 0 && l.expected.eip == got.eip {
                self.replay(l, Some(times), &mut all, &mut up_to);
            }
            // Where the rest of the path would have written, nothing may have been; but an access that is about to be tried again has had
            // its walk.
            for (part, whole) in all.iter_mut().zip(&whole) {
                if walks.iter().any(|w| w.at == part.at) {
                    *part = *whole;
                }
            }
            l.changes = all;
            self.mmu.put_back(&made);
            self.mmu.put_back(&walks);
            self.state.clone_from(&got);
            self.mmu.sync(&self.state);
            if self.bears_out(l, claim) || self.differences(l, path, claim).is_empty() {
                return true;
            }
        }
        false
    }

    /// Have page walks on behalf of translated code changed what the interpreter hasn't?
    fn strays(&self, l: &Lockstep) -> bool {
        l.walks.iter().any(|w| w.old() != w.new_bytes() && !l.changes.iter().any(|c| c.at == w.at))
    }

    /// Is everything as expected?
    fn bears_out(&mut self, l: &Lockstep, claim: Claim) -> bool {
        // If the instruction at EIP raises a fault the interpreter will find out.
        let fault = claim == Claim::Behind && l.fault.is_some();
        !fault && same(&l.expected, &self.state, l.float) && l.changes.iter().all(|c| self.mmu.holds(c))
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
