//! The run loop.

use crate::cache::Cache;
use crate::ctx::{Ctx, Exec};
use crate::op::Op;
use crate::system::debug::{debug_exception, with_hits};
use crate::{Event, Platform, Stop};
use iced_x86::Code;
use std::sync::atomic::AtomicBool;
use xlat86_arch::eflags::{IF, RF};
use xlat86_arch::{CpuModel, CpuState, Fault, Mode, Vector};
use xlat86_decoder::{Unit, unit_of};
use xlat86_softmmu::Mmu;

/// DR6.BS: the debug exception is a single step's (SDM vol. 3B, 18.2.3).
const DR6_BS: u32 = 1 << 14;

/// Executes guest instructions one at a time. What it holds is only a cache: the state is in [`CpuState`].
pub struct Interp {
    cache: Cache,
    model: &'static CpuModel,
    retired: u64,
    /// The latest instruction that was stepped over.
    stepped: Code,
    /// Stop when interrupts could be delivered.
    window: bool,
}

impl Interp {
    /// An interpreter of CPU `model`.
    #[must_use]
    pub fn new(model: &'static CpuModel) -> Self {
        Interp { cache: Cache::new(), model, retired: 0, stepped: Code::INVALID, window: false }
    }

    /// The latest instruction that [`Interp::step`] executed or tried to.
    #[must_use]
    pub fn stepped(&self) -> Code {
        self.stepped
    }

    /// Instructions completed so far. A repeated string instruction counts once.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.retired
    }

    /// What was executed since isn't to count (it is taken back), or something else has been executed in its place.
    pub fn set_retired(&mut self, insns: u64) {
        self.retired = insns;
    }

    /// From now on stop with [`Stop::Window`] before an instruction at which an external interrupt could be delivered, or no longer.
    pub fn watch_window(&mut self, wanted: bool) {
        self.window = wanted;
    }

    /// Runs until something stops it, for at most `max_insns` instructions. `interrupt` is looked at between blocks
    /// and between the iterations of string instructions; whoever raised it lowers it.
    pub fn run(
        &mut self,
        cpu: &mut CpuState,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        interrupt: &AtomicBool,
        max_insns: u64,
    ) -> Stop {
        self.run_by(cpu, mmu, platform, interrupt, &mut |ran, _| if ran == 0 { max_insns } else { 0 })
    }

    /// [`Interp::run`] for as long as `next` says: asked with the number of instructions executed so far and EIP, it gives how many come next; 0 ends
    /// the run with [`Stop::Budget`].
    #[inline(always)]
    pub fn run_by(
        &mut self,
        cpu: &mut CpuState,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        interrupt: &AtomicBool,
        next: &mut impl FnMut(u64, u32) -> u64,
    ) -> Stop {
        self.cache.expect_blocks();
        let mut ctx = Ctx::new(cpu, mmu, platform, self.model, interrupt);
        let (mut left, mut max_insns) = (0, 0);
        let stop = loop {
            if left == 0 {
                left = next(max_insns, ctx.cpu.eip);
                max_insns += left;
                if left == 0 {
                    break Stop::Budget;
                }
            }
            // After STI, MOV SS and POP SS one more instruction runs before anything may intervene.
            let shadow = ctx.cpu.interrupt_shadow;
            if !shadow && ctx.interrupted() {
                break Stop::Interrupted;
            }
            // Blocks end after whatever sets IF.
            if self.window && !shadow && ctx.flag(IF) {
                break Stop::Window;
            }
            if ctx.debugging
                && !shadow
                && let Err(stop) = ctx.check_instruction_breakpoints()
            {
                break stop;
            }
            let block = match self.cache.block(&mut ctx) {
                Ok(block) => block,
                Err(fault) => break Stop::Fault(fault),
            };
            let most = if shadow || ctx.flag(RF) || ctx.debugging { 1 } else { left };
            let block = &block[..block.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            ctx.begin(block, self.retired + (max_insns - left));
            let (done, result) = execute(&mut ctx, block);
            left -= done;
            if let Err(stop) = result {
                break stop;
            }
        };
        self.retired += max_insns - left;
        stop
    }

    /// Executes exactly one instruction, fetched afresh and not kept: [`Stop::Budget`] when it completed.
    ///
    /// This is also how a write into code gets past the page that it is on: once the page's blocks are dropped, `step`
    /// executes the write without marking the page as code again, which `run` would.
    pub fn step(&mut self, cpu: &mut CpuState, mmu: &mut Mmu, platform: &mut dyn Platform) -> Stop {
        self.step_after(cpu, mmu, platform, false, &AtomicBool::new(false), |_, _| ())
    }

    /// [`Interp::step`] for an embedder that steps over the same instructions often, and keeps the floating-point state elsewhere.
    ///
    /// With `watched` the instruction may be kept: its page is watched, and changes are answered by [`Interp::flush`]. Between fetching
    /// and executing, `before` learns whether the instruction may use floating-point state, and can bring it. While `interrupt` is raised a
    /// repeated string instruction stops after some iterations ([`Stop::Interrupted`]); the same instruction is next then.
    pub fn step_after(
        &mut self,
        cpu: &mut CpuState,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        watched: bool,
        interrupt: &AtomicBool,
        before: impl FnOnce(&mut CpuState, bool),
    ) -> Stop {
        let mut ctx = Ctx::new(cpu, mmu, platform, self.model, interrupt);
        match self.cache.one(&mut ctx, watched) {
            Ok(op) => {
                self.stepped = op.code;
                before(ctx.cpu, unit_of(op.code) != Unit::Integer);
                let block = [op];
                ctx.begin(&block, self.retired);
                let (done, result) = execute(&mut ctx, &block);
                self.retired += done;
                result.err().unwrap_or(Stop::Budget)
            }
            Err(fault) => Stop::Fault(fault),
        }
    }

    /// Delivers `event` through the IDT, as the CPU does between two instructions or on a fault.
    ///
    /// [`Stop::Budget`]: the handler's first instruction is next. [`Stop::Fault`]: delivery itself faulted and changed
    /// nothing. The embedder may resolve the fault and try again, or deliver what [`Fault::after`] makes of both.
    pub fn deliver(&mut self, cpu: &mut CpuState, mmu: &mut Mmu, platform: &mut dyn Platform, event: Event) -> Stop {
        let never = AtomicBool::new(false);
        let mut ctx = Ctx::new(cpu, mmu, platform, self.model, &never);
        match ctx.deliver(event) {
            Ok(()) => {
                ctx.cpu.halted = false;
                Stop::Budget
            }
            Err(stop) => stop,
        }
    }

    /// Drops what was decoded from page number `page` (linear address divided by the page size).
    pub fn invalidate_page(&mut self, page: u32) {
        self.cache.invalidate_page(page);
    }

    /// Drops everything that was decoded.
    pub fn flush(&mut self) {
        self.cache.flush();
    }
}

/// What the CPU notes when it detects `fault`: CR2 for a page fault, DR6 for a debug exception, which also disarms DR7.GD.
pub fn note_fault(cpu: &mut CpuState, fault: &Fault) {
    const DR7_GD: u32 = 1 << 13;
    match fault.vector {
        Vector::PF => cpu.cr2 = fault.addr.0,
        Vector::DB => {
            cpu.dr[6] |= fault.addr.0;
            cpu.dr[7] &= !DR7_GD;
        }
        _ => {}
    }
}

/// The debug exception of TF.
pub(crate) fn single_step() -> Stop {
    debug_exception(DR6_BS)
}

/// Executes `block`, whose instructions were prepared under the current mode (one instruction, while breakpoints are enabled).
/// Gives how many completed.
#[inline(always)]
fn execute(ctx: &mut Ctx<'_>, block: &[Op]) -> (u64, Exec) {
    let debugging = ctx.debugging;
    let (done, result) = execute_plain(ctx, block);
    if debugging { (done, with_hits(result, ctx.take_hits())) } else { (done, result) }
}

#[inline(always)]
fn execute_plain(ctx: &mut Ctx<'_>, block: &[Op]) -> (u64, Exec) {
    let trap = ctx.mode.has(Mode::TRAP);
    (ctx.untrapped, ctx.switched) = (false, false);
    let shadow = core::mem::take(&mut ctx.cpu.interrupt_shadow);
    // RF lasts for one instruction; one that sets it (IRET) sets it for the next.
    let resume = ctx.cpu.eflags & RF;
    ctx.cpu.eflags &= !RF;
    for (done, op) in block.iter().enumerate() {
        ctx.cpu.eip = op.next;
        if let Err(stop) = (op.run)(ctx, op) {
            let undone = matches!(stop, Stop::Fault(_) | Stop::Unimplemented(_) | Stop::Interrupted);
            if undone && !ctx.switched {
                ctx.cpu.eip = op.eip;
                ctx.cpu.interrupt_shadow = shadow;
                ctx.cpu.eflags |= resume;
                return (done as u64, Err(stop));
            }
            return (done as u64 + 1, Err(stop));
        }
    }
    // Single step: after the instruction, unless it was one that holds interrupts off or cleared TF by going through a gate.
    let result = if trap && !ctx.cpu.interrupt_shadow && !ctx.untrapped { Err(single_step()) } else { Ok(()) };
    (block.len() as u64, result)
}
