//! The run loop.

use crate::cache::Cache;
use crate::ctx::Ctx;
use crate::{Platform, Stop};
use std::sync::atomic::AtomicBool;
use xlat86_arch::{CpuModel, CpuState, Fault, Gva, Mode, Vector};
use xlat86_softmmu::Mmu;

/// DR6.BS: the debug exception is a single step's (SDM vol. 3B, 18.2.3).
const DR6_BS: u32 = 1 << 14;

/// Executes guest instructions one at a time. What it holds is only a cache: the state is in [`CpuState`].
pub struct Interp {
    cache: Cache,
    model: &'static CpuModel,
    retired: u64,
}

impl Interp {
    /// An interpreter of CPU `model`.
    #[must_use]
    pub fn new(model: &'static CpuModel) -> Self {
        Interp { cache: Cache::new(), model, retired: 0 }
    }

    /// Instructions completed so far. A repeated string instruction counts once.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.retired
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
        let mut ctx = Ctx::new(cpu, mmu, platform, self.model, interrupt);
        let mut left = max_insns;
        let stop = loop {
            if left == 0 {
                break Stop::Budget;
            }
            // After STI, MOV SS and POP SS one more instruction runs before anything may intervene.
            let shadow = ctx.cpu.interrupt_shadow;
            if !shadow && ctx.interrupted() {
                break Stop::Interrupted;
            }
            let block = match self.cache.block(&mut ctx) {
                Ok(block) => block,
                Err(fault) => break Stop::Fault(fault),
            };
            let most = if shadow { 1 } else { left };
            let block = &block[..block.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            let trap = ctx.mode.has(Mode::TRAP);
            ctx.cpu.interrupt_shadow = false;
            let mut done = 0;
            let mut stop = None;
            for op in block {
                ctx.cpu.eip = op.next;
                if let Err(why) = (op.run)(&mut ctx, op) {
                    match why {
                        Stop::Fault(_) | Stop::Unimplemented(_) | Stop::Interrupted => {
                            ctx.cpu.eip = op.eip;
                            ctx.cpu.interrupt_shadow = shadow;
                        }
                        _ => done += 1,
                    }
                    stop = Some(why);
                    break;
                }
                done += 1;
            }
            left -= done;
            if let Some(why) = stop {
                break why;
            }
            if trap && !ctx.cpu.interrupt_shadow {
                break Stop::Fault(Fault { vector: Vector::DB, error: None, addr: Gva(DR6_BS) });
            }
        };
        self.retired += max_insns - left;
        stop
    }

    /// Executes exactly one instruction: [`Stop::Budget`] when it completed.
    pub fn step(&mut self, cpu: &mut CpuState, mmu: &mut Mmu, platform: &mut dyn Platform) -> Stop {
        self.run(cpu, mmu, platform, &AtomicBool::new(false), 1)
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
